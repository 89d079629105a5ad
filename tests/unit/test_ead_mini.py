"""The embedded data set is what its card says."""

import hashlib
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from taaf.models import zoo_path
from taaf.models.errors import DataError
from taaf.training import config
from taaf.training.datasets import ead_mini
from taaf.training.datasets.events import simulate_events


@pytest.fixture(scope="module")
def raw() -> dict[str, np.ndarray]:
    """The shipped arrays."""
    return dict(np.load(zoo_path("ead_mini.npz")))


def test_classes_and_speakers(raw: dict[str, np.ndarray]) -> None:
    """400 / 100 per class, voices disjoint, no test image in the training set."""
    assert np.bincount(raw["train_labels"]).tolist() == [400] * 10
    assert np.bincount(raw["test_labels"]).tolist() == [100] * 10
    assert not set(raw["train_speakers"]) & set(raw["test_speakers"])
    assert len(set(raw["train_speakers"])) == 62 and len(set(raw["test_speakers"])) == 32
    seen = {image.tobytes() for image in raw["train_images"]}
    assert not any(image.tobytes() in seen for image in raw["test_images"])


def test_events_are_the_same_on_every_machine(raw: dict[str, np.ndarray]) -> None:
    """Integer arithmetic: the events of the first 50 test images have this SHA-256 everywhere."""
    events = simulate_events(raw["test_images"][:50])
    assert events.shape == (50, 2, 34, 34, 8) and 500 < events.sum() / 50 < 3000
    digest = hashlib.sha256(np.ascontiguousarray(events).tobytes()).hexdigest()
    assert digest == "c36edcb99093f7c72ee76c557f8e87c65225303097793a0371b831ca4d647fb7"


def test_audio_place_code(raw: dict[str, np.ndarray]) -> None:
    """At most one of a band's four channels fires, the one whose interval holds the level."""
    levels, edges = raw["test_audio"][:20], raw["audio_edges"]
    code = ead_mini.encode_audio(levels, edges).reshape(20, 40, 4, 12)
    assert code.sum(2).max() == 1
    for n, band, step in ((0, 3, 5), (7, 20, 0), (19, 39, 11)):
        level, e = levels[n, band, step], edges[band]
        expected = [int(e[k] <= level < (e[k + 1] if k < 3 else 256)) for k in range(4)]
        assert code[n, band, :, step].tolist() == expected


def test_other_numbers_of_steps(raw: dict[str, np.ndarray]) -> None:
    """Events of other bins are those of the camera's 24 micro steps, joined; levels are means over the parts of the clip, in fractions.

    Seen failing with bins of equal width, with levels rounded down.
    """
    images, levels = raw["test_images"][:4], raw["test_audio"][:4]
    fine = simulate_events(images, 24)
    for n in (1, 5, 8, 12):
        expected = [fine[..., [i for i in range(24) if i * n // 24 == b]].any(-1) for b in range(n)]
        np.testing.assert_array_equal(simulate_events(images, n), np.stack(expected, -1))
    assert ead_mini.over_steps(levels, 12).tobytes() == levels.tobytes()
    for n in (1, 5, 7, 24):
        found = ead_mini.over_steps(levels, n)
        parts = [
            {i: min(Fraction(i + 1, 12), Fraction(k + 1, n)) - max(Fraction(i, 12), Fraction(k, n)) for i in range(12)}
            for k in range(n)
        ]
        for band, k in ((0, 0), (17, n // 2), (39, n - 1)):
            mean = sum(int(levels[2, band, i]) * w for i, w in parts[k].items() if w > 0) * n
            assert found[2, band, k] == math.floor(mean + Fraction(1, 2))
    split = ead_mini.load_split("test", slice(4), event_steps=5, audio_steps=5)
    np.testing.assert_array_equal(split.event, simulate_events(images, 5))
    assert split.audio.shape == (4, 160, 5)
    with pytest.raises(DataError, match=r"branches\.audio\.steps \(=25\): EAD-mini is cut into 1 to 24 steps"):
        ead_mini.load_split("test", slice(1), audio_steps=25)
    with pytest.raises(ValueError, match="n_bins"):
        simulate_events(images, 25)


def test_human_split_shares_images_not_voices(raw: dict[str, np.ndarray]) -> None:
    """The human split has the test's events and one recorded clip per class."""
    test, human = ead_mini.load_split("test", slice(0, 30)), ead_mini.load_split("human", slice(0, 30))
    np.testing.assert_array_equal(test.event, human.event)
    same = test.labels[0] == human.labels
    assert all(np.array_equal(human.audio[0], a) for a in human.audio[same])
    assert (test.audio != human.audio).any()


def test_changed_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """A file with another SHA-256 is named and not used; so is an unknown split."""
    path = tmp_path / "ead_mini.npz"  # type: ignore[operator]
    content = bytearray(zoo_path("ead_mini.npz").read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(ead_mini, "zoo_path", lambda name: path)
    with pytest.raises(DataError, match="SHA-256 is"):
        ead_mini.load_split("test")
    with pytest.raises(DataError, match="unknown"):
        ead_mini.load_split("validation")


def test_noise_has_the_wanted_energy_and_is_reproducible() -> None:
    """Mean added mel energy over mean clip energy is 10^(-SNR/10); 99 dB leaves the levels alone; same seed, same noise."""
    rng = np.random.default_rng(0)
    levels = rng.integers(60, 90, (200, 40, 12)).astype(np.uint8)
    levels[:, 0, 0] = 255  # a peak far above the noise: it stays the peak, so the levels keep their scale
    assert ead_mini.add_noise(levels, 99.0, 1) is levels
    noisy = ead_mini.add_noise(levels, 3.0, 1)
    np.testing.assert_array_equal(noisy, ead_mini.add_noise(levels, 3.0, 1))
    assert (noisy != ead_mini.add_noise(levels, 3.0, 2)).any()
    clean, with_noise = (10 ** ((x * (50 / 255) - 50) / 10) for x in (levels, noisy))
    assert (with_noise - clean).mean() / clean.mean() == pytest.approx(10**-0.3, rel=0.02)


def test_the_shipped_configuration_is_the_default() -> None:
    """training/configs/ead_mini.toml says what it says: these are the defaults."""
    path = Path(config.__file__).parent / "configs" / "ead_mini.toml"
    assert config.load_config(path, {}) == config.TrainConfig()


def test_image_noise_has_its_power() -> None:
    """Noise power is the image's over the SNR where nothing clips; reproducible; the camera sees it; seen failing with 20 for 10."""
    images = np.full((40, 28, 28), 128, np.uint8)
    images[20:] = 100
    assert ead_mini.add_image_noise(images, 99.0, 1) is images
    noisy = ead_mini.add_image_noise(images, 17.0, 1)
    np.testing.assert_array_equal(noisy, ead_mini.add_image_noise(images, 17.0, 1))
    for part in (slice(20), slice(20, 40)):
        clean = images[part].astype(float)
        ratio = (clean**2).mean() / ((noisy[part] - clean) ** 2).mean()
        assert 10 * np.log10(ratio) == pytest.approx(17.0, abs=0.15)
    assert ead_mini.add_image_noise(images, 0.0, 1).min() == 0
    events = [ead_mini.load_split("test", slice(20), event_snr_db=db).event for db in (99.0, 10.0)]
    audio = [ead_mini.load_split("test", slice(20), event_snr_db=db).audio for db in (99.0, 10.0)]
    assert events[1].mean() > 1.5 * events[0].mean() and (audio[0] == audio[1]).all()
