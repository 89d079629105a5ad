"""What systems and editors put beside samples is never one, and costs no clip."""

from pathlib import Path

import numpy as np
import pytest
from media_fixtures import tone, write_aedat, write_image, write_nmnist, write_ntidigits, write_wav

from taaf.training.datasets.audio_visual import AudioVisualRecipe
from taaf.training.datasets.cache import Item, _key
from taaf.training.datasets.ead import open_ead_mnistdvs, open_ead_nmnist
from taaf.training.datasets.lists import own_entries
from taaf.training.datasets.media import list_images
from taaf.training.datasets.urbansound8k_av import CLASSES, SOUND, VISION, open_urbansound8k_av

FILES = ("._{}", ".{}", "{}~", "#{}#", ".#{}", "~${}", "{}.bak", "{}.part", "{}.crdownload", ".{}.swp", "Thumbs.db", ".DS_Store",
         "desktop.ini", ".nfs0001", "Icon\r")  # fmt: skip
FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found", ".Trashes", "#recycle")


def _litter(folder: Path, name: str) -> None:
    """Every companion, of a sample and of the folder itself; with bytes that no reader takes."""
    for pattern in FILES:
        (folder / pattern.format(name)).write_bytes(b"\0\5\x16\7" + bytes(80))
    for sub in FOLDERS:
        (folder / sub).mkdir()
        (folder / sub / name).write_bytes(b"x")


def test_event_recordings(tmp_path: Path) -> None:
    """N-MNIST and MNIST-DVS. Seen failing: "._00001.bin: 84 bytes, expected a positive multiple of 5"."""
    words = ("z", *map(str, range(1, 10)))
    write_ntidigits(tmp_path / "n-tidigits.hdf5", {"test": {f"man-a-a-{w}": ([1, 2], [0.1, 0.2]) for w in words}})
    for digit in range(10):
        write_nmnist(tmp_path / f"Test/{digit}/00001.bin", [(1, 1, 1, 5)])
        names = [f"mnist_{digit}_scale04_{k:04d}.aedat" for k in (1, 2)]
        for name in names:
            write_aedat(tmp_path / f"grabbed_data{digit}/scale4/{name}", [(64 << 8 | 128, 5)])
        _litter(tmp_path / f"Test/{digit}", "00001.bin")
        _litter(tmp_path / f"grabbed_data{digit}/scale4", names[0])
    _litter(tmp_path / "Test", "0")
    _litter(tmp_path, "grabbed_data0")
    for opened in (open_ead_nmnist(tmp_path, "test"), open_ead_mnistdvs(tmp_path, "test")):
        assert len(opened) == 10 and opened.n_skipped == 0


def test_frames(tmp_path: Path) -> None:
    """A clip's frames, and its place in the cache, which stays when a system adds its files."""
    frames = [write_image(tmp_path / f"clip/{k:05d}.jpg", (k, k, k)) for k in range(3)]
    item = Item("clip", (tmp_path / "clip", write_wav(tmp_path / "a.wav", tone(16_000, 1, 440), 16_000)))
    recipe = AudioVisualRecipe(3, 16_000, 1, power=False)
    before, made = _key(item, recipe), recipe(item)
    _litter(tmp_path / "clip", "00000.jpg")
    (tmp_path / "clip/@eaDir/00000.jpg").write_bytes(b"x")
    assert list_images(tmp_path / "clip") == frames and _key(item, recipe) == before
    np.testing.assert_array_equal(recipe(item)["frames"], made["frames"])


def test_class_folders(tmp_path: Path) -> None:
    """UrbanSound8K-AV."""
    for label, name in enumerate(CLASSES):
        for k in range(2):
            write_image(tmp_path / VISION / name / f"{k}-{label}-0-0.jpg", (9, 9, 9))
            write_wav(tmp_path / SOUND / name / f"{k}-{label}-0-0.wav", tone(22_050, 0.2, 440), 22_050)
        _litter(tmp_path / VISION / name, f"0-{label}-0-0.jpg")
        _litter(tmp_path / SOUND / name, f"0-{label}-0-0.wav")
    _litter(tmp_path / VISION, "siren")
    assert len(open_urbansound8k_av(tmp_path, "test")) == 10


@pytest.mark.parametrize("name", ["00002.bin", "a.b-c.jpg", "Thumbs.jpg", "tmp.wav", "part.bin", "_x.jpg"])
def test_other_names_are_samples(name: str, tmp_path: Path) -> None:
    """Nothing else is left out."""
    (tmp_path / name).touch()
    assert own_entries(tmp_path) == [tmp_path / name]
