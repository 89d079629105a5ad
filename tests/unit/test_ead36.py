"""EAD-36 is what its card says: counts, disjoint fonts, digits and voices, encoders, human splits, refusals."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import soundfile

from taaf.models import zoo_path
from taaf.models.errors import DataError
from taaf.training.config import DataConfig, load_config
from taaf.training.datasets import build_ead36, ead36, ead36_human, speech
from taaf.training.datasets.ead36_fonts import FAMILIES, Font, fonts_of, require_characters
from taaf.training.datasets.ead36_glyphs import distort, draw, enlarge, glyphs
from taaf.training.datasets.events import simulate_events
from taaf.training.sources import open_split, open_splits

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
CARD = zoo_path("EAD36.md")
PARTS = ("train", "validation", "test")
SPECS = load_config(Path(ead36.__file__).parents[1] / "configs" / "ead36.toml", {}).network.inputs


@pytest.fixture(scope="module")
def raw() -> dict[str, np.ndarray]:
    """The shipped arrays."""
    return dict(np.load(zoo_path("ead36.npz")))


@pytest.mark.parametrize(("split", "per_class"), [("train", 120), ("validation", 20), ("test", 50)])
def test_classes_are_balanced(raw: dict[str, np.ndarray], split: str, per_class: int) -> None:
    """Equally many of every class; half of the digits, and nothing else, are handwritten, 0 to 2 steps late in equal parts."""
    labels, written = raw[f"{split}_labels"], raw[f"{split}_digits"] >= 0
    assert np.bincount(labels).tolist() == [per_class] * 36
    assert np.bincount(labels[written], minlength=36).tolist() == [per_class // 2] * 10 + [0] * 26
    np.testing.assert_array_equal(raw[f"{split}_fonts"] < 0, written)
    assert (abs(np.bincount(raw[f"{split}_starts"]) / len(labels) - 1 / 3) < 0.05).all()


def test_nothing_is_in_two_splits(raw: dict[str, np.ndarray]) -> None:
    """Font families, handwritten digits, voices and pictures of train, validation and test are disjoint; 6 of the 62 voices."""
    for key in ("fonts", "digits"):
        used = [set(raw[f"{p}_{key}"][raw[f"{p}_{key}"] >= 0].tolist()) for p in PARTS]
        assert sum(map(len, used)) == len(set.union(*used))
    numbers, first = {}, 0
    for split in PARTS:
        numbers[split] = set(range(first, first := first + len(FAMILIES[split])))
        found = raw[f"{split}_fonts"]
        assert set(found[found >= 0].tolist()) == numbers[split]
    names = [name for split in PARTS for name in FAMILIES[split]]
    assert len(set(names)) == len(names) == 63
    voices = {p: set(raw[f"{p}_speakers"].tolist()) for p in build_ead36.SPEAKERS}
    assert voices == {p: set(r) for p, r in build_ead36.SPEAKERS.items()}
    assert [len(voices[p]) for p in ("balanced", "imbalanced", "validation", "test")] == [62, 6, 10, 22]
    assert voices["imbalanced"] < voices["balanced"]
    assert not voices["validation"] & voices["test"] and not voices["balanced"] & (voices["validation"] | voices["test"])
    pictures = [image.tobytes() for p in PARTS for image in raw[f"{p}_images"]]
    assert len(set(pictures)) == len(pictures)


def test_the_card_lists_every_font_and_both_hashes() -> None:
    """Family, version and licence of all packages; what is shipped is under 6 MB."""
    text = CARD.read_text()
    listed = dict(line.strip("| ").split(" | ")[:2] for line in text.splitlines() if line.startswith("| `@fontsource/"))
    expected = {f"`{font.package}`": f"{font.licence}" for split in PARTS for font in fonts_of(split)}
    assert listed == expected
    assert ead36.SHA256[:12] in text and ead36.HUMAN_SHA256[:12] in text
    assert sum(zoo_path(name).stat().st_size for name in ("ead36.npz", "ead36_human.npz")) < 6e6


@pytest.mark.parametrize("condition", ead36.CONDITIONS)
def test_audio_code_follows_its_formula(raw: dict[str, np.ndarray], condition: str) -> None:
    """Channel 96 f + 4 b + k fires at step t if edge k <= level of band b in frame 2 t + f < edge k + 1; edges are quantiles."""
    levels, edges = raw["test_audio"][:3], raw[f"{condition}_edges"].astype(float)
    found = ead36.load_split(condition, "test", 3).audio
    assert found.shape == (3, 192, 5) and found.dtype == np.uint8
    expected = np.zeros(found.shape)
    for n, f, b, k, t in np.ndindex(3, 2, 24, 4, 5):
        upper = edges[b, k + 1] if k < 3 else np.inf
        expected[n, 96 * f + 4 * b + k, t] = edges[b, k] <= float(levels[n, b, 2 * t + f]) < upper
    np.testing.assert_array_equal(found, expected)
    bands = np.sort(raw[f"{condition}_audio"].transpose(1, 0, 2).reshape(24, -1), axis=1)
    rank = np.array([0.2, 0.4, 0.6, 0.8]) * (bands.shape[1] - 1)
    np.testing.assert_array_equal(edges, bands[:, np.rint(rank).astype(int)])


def test_levels_follow_their_formula() -> None:
    """8-bit log-mel levels of a tone without noise and jitter against a float64 DFT, written out; seen failing without the window."""
    form = speech.Window(bands=24, frames=3, frame_s=0.072, onset_s=0.0)
    t = np.arange(round(3 * 0.072 * 22_050)) / 22_050
    wave = np.cos(2 * np.pi * 900 * t) * np.linspace(1, 0.3, len(t))
    found = speech.log_mel_levels(wave, np.inf, np.random.default_rng(0), form)
    rate, size, hop, n = 22_050, 512, 221, len(t)
    points = 700 * (10 ** (np.linspace(2595 * np.log10(1 + 80 / 700), 2595 * np.log10(1 + 8000 / 700), 26) / 2595) - 1)
    padded, energy = np.concatenate([wave, np.zeros(size)]), np.zeros((24, 3))
    counts = np.zeros(3)
    dft = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(size)) / size)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))
    hertz = np.arange(257) * rate / size
    for start in range(0, n, hop):
        power = np.abs(dft @ (padded[start : start + size] * hann)) ** 2
        step = min(int(start / (0.072 * rate)), 2)
        counts[step] += 1
        for b, (low, mid, high) in enumerate(zip(points, points[1:], points[2:], strict=False)):
            weight = np.minimum((hertz - low) / (mid - low), (high - hertz) / (high - mid)).clip(0)
            energy[b, step] += weight @ power
    energy /= counts
    expected = np.clip(255 * (10 * np.log10(energy / energy.max() + 1e-10) + 50) / 50, 0, 255)
    assert (abs(found - expected) <= 0.5 + 1e-6).all() and len(np.unique(found)) > 10


def test_pictures_appear_late(raw: dict[str, np.ndarray]) -> None:
    """Sample n's events are the camera's, shifted by its start step; step by step."""
    found, starts = ead36.load_split("balanced", "train", 40).event, raw["train_starts"][:40]
    camera = simulate_events(raw["train_images"][:40], 5)
    assert found.shape == (40, 2, 34, 34, 5) and set(starts) == {0, 1, 2}
    for n, start in enumerate(starts):
        for t in range(5):
            np.testing.assert_array_equal(found[n, ..., t], camera[n, ..., t - start] if t >= start else 0)


def test_inputs_are_the_same_on_every_machine() -> None:
    """Integer arithmetic: events and audio spikes of the first 50 test pairs have these SHA-256 everywhere; so twice here."""
    for _ in range(2):
        part = ead36.load_split("imbalanced", "test", 50)
        digests = [hashlib.sha256(np.ascontiguousarray(x)).hexdigest()[:16] for x in (part.event, part.audio)]
        assert digests == ["a5bf921572b658e5", "942330e9cc56d70f"]


def test_conditions_differ_in_training_audio_alone() -> None:
    """Same images and labels; other clips in training; the same clips elsewhere, coded with other edges."""
    one, other = (ead36.load_split(c, "train", 60) for c in ead36.CONDITIONS)
    np.testing.assert_array_equal(one.event, other.event)
    np.testing.assert_array_equal(one.labels, other.labels)
    assert (one.audio != other.audio).any()
    with pytest.raises(DataError, match="condition 'equal' unknown; EAD-36 has balanced, imbalanced"):
        ead36.load_split("equal", "train")
    with pytest.raises(DataError, match="split 'vaildation' unknown.*validation"):
        ead36.load_split("balanced", "vaildation")


def test_noise_reaches_what_it_names() -> None:
    """`audio_snr_db` and `event_snr_db` change audio and events, each alone and reproducibly."""
    clean, audio, event, again = (
        ead36.load_split("balanced", "test", 20, *db) for db in ((99.0, 99.0), (0.0, 99.0), (99.0, 5.0), (0.0, 99.0))
    )
    assert (audio.audio != clean.audio).any() and (audio.event == clean.event).all()
    assert (event.event != clean.event).any() and (event.audio == clean.audio).all()
    np.testing.assert_array_equal(audio.audio, again.audio)


def test_recorded_clips_take_turns() -> None:
    """The k-th sample of a class gets the class's clip k modulo their number; -1 where there is none."""
    found = ead36.clips_for(np.array([1, 0, 1, 1, 2, 1]), np.array([1, 0, 1, 1]))
    assert found.tolist() == [0, 1, 2, 3, -1, 0]


def test_human_split(raw: dict[str, np.ndarray]) -> None:
    """The test's events with recorded clips of their class: 36 classes of one speaker, digits of a second one."""
    test, human = (ead36.load_split("balanced", name, 40) for name in ("test", "human"))
    np.testing.assert_array_equal(test.event, human.event)
    np.testing.assert_array_equal(test.labels, human.labels)
    data = np.load(zoo_path("ead36_human.npz"))
    assert np.bincount(data["labels"]).tolist() == [10] * 10 + [5] * 26
    assert np.bincount(data["speakers"]).tolist() == [180, 50]
    code = ead36.encode(data["audio"], raw["balanced_edges"])
    for audio, label in zip(human.audio, human.labels, strict=True):
        assert any(np.array_equal(audio, c) for c in code[data["labels"] == label])


@pytest.fixture(scope="module")
def klettres(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of klettres-data: a tone per letter and language."""
    folder, t = tmp_path_factory.mktemp("klettres"), np.arange(8000) / 16_000
    for language, name in (("en", str.upper), ("en_GB", str.lower)):
        (folder / language / "alpha").mkdir(parents=True)
        for i, letter in enumerate(ead36.LABELS[10:]):
            tone = np.sin(2 * np.pi * (200 + 100 * i) * t) * np.sin(np.pi * t * 2) ** 2
            soundfile.write(folder / language / "alpha" / f"{name(letter)}.ogg", 0.5 * tone, 16_000)
    return folder


def test_klettres_is_read_where_it_is_installed(klettres: Path, tmp_path: Path) -> None:
    """Letters only, images of the test; missing or truncated recordings are named in one line."""
    data = DataConfig(set="ead36-balanced", root=str(klettres))
    part = open_split(data, SPECS, "human-klettres")
    assert len(part) == 1300
    labels = ead36.load_split("balanced", "test", 90).labels
    _, found = part.batch(range(40))
    np.testing.assert_array_equal(found, labels[labels >= 10][:40])
    with pytest.raises(DataError, match=r"A\.ogg: no such file; install Debian's klettres-data, or give --root FOLDER"):
        ead36.load_split("balanced", "human-klettres", klettres=tmp_path)
    (tmp_path / "en" / "alpha").mkdir(parents=True)
    whole = (klettres / "en" / "alpha" / "A.ogg").read_bytes()
    (tmp_path / "a.ogg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.ogg: truncated: its last page"):
        ead36_human.levels_of([(tmp_path / "a.ogg", 10, 2)], 1)


def test_missing_asterisk_is_named(tmp_path: Path) -> None:
    """The builder says which Debian package it wants."""
    with pytest.raises(
        DataError, match=r"0\.wav: no such file; install Debian's asterisk-core-sounds-en-wav, or give --asterisk"
    ):
        ead36_human.shipped_clips(tmp_path)


@pytest.mark.parametrize(("split", "name"), [("test", "ead36.npz"), ("human", "ead36_human.npz")])
@pytest.mark.parametrize(
    ("kind", "mention"),
    [
        ("truncated", "SHA-256 is"),
        ("pointer", "Git LFS pointer"),
        ("missing", "cannot read this data set"),
        ("flipped", "restore"),
    ],
)
def test_changed_files_are_refused(
    split: str, name: str, kind: str, mention: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is not the shipped file is named in one line, and why."""
    content = bytearray(zoo_path(name).read_bytes())
    content[1000] ^= 1
    found = {"truncated": content[:5000], "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"}
    if kind != "missing":
        (tmp_path / name).write_bytes(found.get(kind, content))
    monkeypatch.setattr(ead36, "zoo_path", lambda n: tmp_path / n if n == name else zoo_path(n))
    with pytest.raises(DataError, match=mention) as caught:
        ead36.load_split("balanced", split)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("condition", ead36.CONDITIONS)
def test_sets_by_name(condition: str) -> None:
    """Both sets open through `open_split`; validation is their own, whatever ``data.validation``; pairs are limited in memory."""
    data = DataConfig(set=f"ead36-{condition}", train_pairs=12, test_pairs=9, validation=0.5)
    parts = open_splits(data, SPECS)
    assert parts.validation is not None
    assert [len(p) for p in (parts.train, parts.validation, parts.test)] == [12, 720, 9]
    inputs, labels = parts.train.batch([0, 3])
    assert inputs["event"].shape == (2, 2, 34, 34, 5) and inputs["audio"].shape == (2, 192, 5) and labels.shape == (2,)
    assert parts.train.label_names == tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    one = open_split(data, {"audio": SPECS["audio"]}, "test")
    assert one.modalities == ("audio",)


def test_speakers_and_words() -> None:
    """94 speakers, each an espeak-ng variant with an accent and a pitch of its own; letters are read by name."""
    pytest.importorskip("espeakng_loader")
    found = build_ead36.speakers()
    assert len(found) == len({s.voice.split("+")[1] for s in found}) == 94 and found == build_ead36.speakers()
    assert {s.voice.split("+")[0] for s in found} == set(speech.ACCENTS) and {25 <= s.pitch <= 75 for s in found} == {True}
    assert ead36.WORDS[3] == "three" and ead36.WORDS[10] == "A." and len(ead36.WORDS) == 36


def test_glyphs_are_centred_distorted_and_reproducible() -> None:
    """Ink's mean in the middle of the fine canvas; 32 grey levels; same seed, same picture; handwriting in a font's place."""
    font = FONTS / "DejaVuSans.ttf"
    fine = draw(font, "L", 50, 1)
    rows, columns = np.nonzero(fine > 40)
    assert abs(rows.mean() - 42) <= 1 and abs(columns.mean() - 42) <= 1
    digit = np.zeros((28, 28), np.uint8)
    digit[6:22, 10:18] = 255
    assert enlarge(digit).shape == (84, 84) and abs(enlarge(digit).mean() - digit.mean()) < 2
    pictures, used = glyphs(["L", "7", "7"], [[font]], [None, digit, None], 1, lambda: None)
    again, _ = glyphs(["L", "7", "7"], [[font]], [None, digit, None], 1, lambda: None)
    np.testing.assert_array_equal(pictures, again)
    assert used.tolist() == [0, -1, 0] and not (pictures % 8).any() and (pictures.max((1, 2)) > 100).all()


def test_distortion_follows_its_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without elastic noise: the picture read at A (x - c) + c + shift, bilinear in float64, times contrast, 3 x 3 averaged."""
    from taaf.training.datasets import ead36_glyphs

    monkeypatch.setattr(ead36_glyphs, "ELASTIC_PX", 0.0)
    fine = draw(FONTS / "DejaVuSans.ttf", "R", 55, 0)
    found = distort(fine, np.random.default_rng(4))
    rng = np.random.default_rng(4)
    angle, shear, scale = rng.uniform(-0.3, 0.3), rng.uniform(-0.25, 0.25), rng.uniform(0.85, 1.25)
    shift = rng.uniform(-4, 4, 2)
    rng.uniform(-1, 1, (2, 84, 84))
    contrast = rng.uniform(0.6, 1)
    expected = np.zeros((28, 28))
    padded = np.pad(fine, 60)
    for y, x in np.ndindex(84, 84):
        v, u = float(y - 42), float(x - 42)
        v = v + shear * u
        row = scale * (np.cos(angle) * v - np.sin(angle) * u) + 42 + shift[0]
        column = scale * (np.sin(angle) * v + np.cos(angle) * u) + 42 + shift[1]
        i, j = int(np.floor(row)), int(np.floor(column))
        p, q, (i, j) = row - i, column - j, (i + 60, j + 60)
        top = (1 - q) * padded[i, j] + q * padded[i, j + 1]
        bottom = (1 - q) * padded[i + 1, j] + q * padded[i + 1, j + 1]
        expected[y // 3, x // 3] += ((1 - p) * top + p * bottom) / 9
    assert (abs(found - contrast * expected) <= 4 + 1e-6).all() and found.max() > 100


def _package(folder: Path, licence: str, text: str) -> Font:
    font = Font("some-font", "1.0.0", "OFL-1.1")
    with tarfile.open(folder / "fontsource-some-font-1.0.0.tgz", "w:gz") as tar:
        members = {"package.json": json.dumps({"license": licence}).encode(), "LICENSE": text.encode()}
        members["files/some-font-latin-400-normal.woff"] = (FONTS / "DejaVuSans.ttf").read_bytes()
        for name, content in members.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return font


def test_licences_are_read(tmp_path: Path) -> None:
    """Both what the package names and its licence file have to be what is listed."""
    text = "This Font Software is licensed under the SIL Open Font License, Version 1.1."
    assert [p.name for p in _package(tmp_path, "OFL-1.1", text).files(tmp_path)] == ["some-font-latin-400-normal.woff"]
    for licence, content in (("MIT", text), ("OFL-1.1", "All rights reserved")):
        with pytest.raises(DataError, match=f"licence is '{licence}', listed is OFL-1.1; read "):
            _package(tmp_path, licence, content).files(tmp_path)


def test_fonts_without_a_letter_are_left_out() -> None:
    """A font of mathematical symbols has no letters."""
    require_characters(FONTS / "DejaVuSerif.ttf")
    with pytest.raises(DataError, match=r"the font has no 0, .*Z; leave the family out"):
        require_characters(FONTS / "STIXSizOneSymReg.ttf")
