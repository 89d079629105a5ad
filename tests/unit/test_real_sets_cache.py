"""The cache (resume, crash, Ctrl-C, progress) and files that are hostile rather than merely bad."""

import io
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from media_fixtures import CountingRecipe, tone, write_image, write_video, write_wav

from taaf.models.errors import DataError
from taaf.training.datasets import media
from taaf.training.datasets.bad_samples import BadSamples
from taaf.training.datasets.cache import Item, load, prepare


def make_items(folder: Path, texts: list[str]) -> list[Item]:
    """One text file per item."""
    folder.mkdir(exist_ok=True)
    for index, text in enumerate(texts):
        (folder / f"{index}.txt").write_text(text)
    return [Item(str(index), (folder / f"{index}.txt",)) for index in range(len(texts))]


def test_a_resumed_run_does_what_is_missing(tmp_path: Path) -> None:
    """Files keep their time; a removed one, a changed source and other settings are done again."""
    items = make_items(tmp_path / "in", ["4", "5", "6"])
    cache = tmp_path / "cache"
    kept, files = prepare(items, CountingRecipe(), cache, BadSamples("stop"))
    assert kept == [0, 1, 2] and [int(load(f)["number"]) for f in files] == [4, 5, 6]
    old = [f.stat().st_mtime_ns for f in files]
    files[1].unlink()
    (tmp_path / "in/2.txt").write_text("77")
    _, again = prepare(items, CountingRecipe(), cache, BadSamples("stop"))
    assert again[:2] == files[:2] and again[0].stat().st_mtime_ns == old[0] and again[1].stat().st_mtime_ns > old[1]
    assert again[2] != files[2] and int(load(again[2])["number"]) == 77
    _, other = prepare(items, CountingRecipe(seconds=1e-6), cache, BadSamples("stop"))
    assert not set(other) & set(again)


def test_stop_keeps_what_was_done_and_skip_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Stop raises at the first bad sample; the ones before it are cached."""
    items = make_items(tmp_path / "in", ["1", "bad", "3", "bad"])
    cache = tmp_path / "cache"
    with pytest.raises(DataError, match=r"1\.txt: bad"):
        prepare(items, CountingRecipe(), cache, BadSamples("stop"))
    assert len(list(cache.rglob("*.npz"))) == 1
    bad = BadSamples("skip")
    kept, _ = prepare(items, CountingRecipe(), cache, bad)
    assert kept == [0, 2] and bad.n_skipped == 2
    assert [m.split("/")[-1] for m in caplog.messages] == ["1.txt: bad", "3.txt: bad"]


def test_a_decoder_that_crashes_its_process_is_one_bad_sample(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A segmentation fault in a worker: the file is found and named, the others are done."""
    items = make_items(tmp_path / "in", ["0", "1", "crash", "3", "4"])
    kept, files = prepare(items, CountingRecipe(), tmp_path / "cache", BadSamples("skip"), workers=2)
    assert kept == [0, 1, 3, 4] and [int(load(f)["number"]) for f in files] == [0, 1, 3, 4]
    assert len(caplog.messages) == 1 and "2.txt: decoding it ends the process" in caplog.messages[0]


def running_in_group(group: int) -> list[str]:
    """Command lines of the processes of a process group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
            if int(pgrp) == group and state != "Z":
                found.append((stat.parent / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_control_c_leaves_whole_files_and_no_process(tmp_path: Path) -> None:
    """SIGINT to the process group, as from a terminal, while two workers decode."""
    make_items(tmp_path / "in", [str(n) for n in range(200)])
    script = (
        "import signal, sys; from pathlib import Path\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell ignores it for what it starts in the background
        "from media_fixtures import CountingRecipe\n"
        "from taaf.training.datasets.bad_samples import BadSamples\n"
        "from taaf.training.datasets.cache import Item, prepare\n"
        "root = Path(sys.argv[1])\n"
        "items = [Item(str(n), (root / 'in' / f'{n}.txt',)) for n in range(200)]\n"
        "prepare(items, CountingRecipe(0.05), root / 'cache', BadSamples('stop'), workers=2)\n"
    )
    support = Path(__file__).parents[1] / "support"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(support)},
    ) as child:
        deadline = time.monotonic() + 30
        while len(list((tmp_path / "cache").rglob("*.npz"))) < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(child.pid, signal.SIGINT)
        _, errors = child.communicate(timeout=20)
    assert child.returncode in (-signal.SIGINT, 130, 1) and errors.rstrip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1  # the parent's; the workers are silent
    deadline = time.monotonic() + 10
    while left := running_in_group(child.pid):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    done = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert 5 <= len(done) < 200 and all(p.suffix == ".npz" for p in done)
    assert all(0 <= int(load(p)["number"]) < 200 for p in done)


def test_progress_only_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar on a terminal, nothing with quiet or in a pipe."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    items = make_items(tmp_path / "in", ["1", "2"])
    for number, (stream, quiet, shown) in enumerate(
        ((Terminal(), False, True), (Terminal(), True, False), (io.StringIO(), False, False))
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        prepare(items, CountingRecipe(), tmp_path / str(number), BadSamples("stop"), quiet=quiet, title="Set train")
        assert bool(re.search(r"Set train: 100%.*2/2", stream.getvalue())) == shown and (shown or not stream.getvalue())


def test_picks() -> None:
    """Middles of equal parts; the last again when there are too few."""
    assert [media.pick_evenly(n, 3) for n in (1, 2, 3, 6, 30)] == [[0, 0, 0], [0, 1, 1], [0, 1, 2], [1, 3, 5], [5, 15, 25]]


def test_images(tmp_path: Path) -> None:
    """Folders without frames, cut and foreign images, and a 30-byte PNG that claims 60000x60000 pixels."""
    with pytest.raises(DataError, match=r"nowhere: missing, expected a folder of extracted frames"):
        media.list_images(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match="0 frames, expected .jpg, .jpeg, .png"):
        media.list_images(tmp_path)
    good = write_image(tmp_path / "a.jpg", (9, 99, 200)).read_bytes()
    assert media.read_images([tmp_path / "a.jpg"], 224).shape == (1, 224, 224, 3)
    header = struct.pack(">II5B", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    for content in (b"", good[: len(good) // 2], b"GIF89a", bomb):
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.jpg: ") as caught:
            media.read_images([tmp_path / "a.jpg"], 224)
        assert "\n" not in str(caught.value)


def test_size_limits_of_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frame size and number of frames are checked before decoding."""
    video = write_video(tmp_path / "a.mp4", [(1, 2, 3)] * 12)
    assert media.read_video(video, 2, 8).shape == (2, 8, 8, 3)
    monkeypatch.setattr(media, "MAX_FRAMES", 10)
    with pytest.raises(DataError, match=r"a\.mp4: more than 10 frames"):
        media.read_video(video, 2, 8)
    monkeypatch.setattr(media, "MAX_PIXELS", 64 * 47)
    with pytest.raises(DataError, match=r"a\.mp4: 64x48, at most 3008 pixels"):
        media.read_video(video, 2, 8)


def test_no_other_file_and_no_network(tmp_path: Path) -> None:
    """A play list or a concat script named like a video or a track is not followed."""
    victim = write_video(tmp_path / "victim.mp4", [(1, 2, 3)] * 3, sound=tone(44_100, 0.3, 500))
    play_list = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{victim}\nhttp://127.0.0.1:9/b.ts\n#EXT-X-ENDLIST\n"
    for text in (play_list, f"ffconcat version 1.0\nfile {victim}\n"):
        for name in ("a.mp4", "a.flv"):
            (tmp_path / name).write_text(text)
            with pytest.raises(DataError, match=f"{name}: "):
                media.read_video(tmp_path / name, 1, 8)
            with pytest.raises(DataError, match=f"{name}: "):
                media.read_audio(tmp_path / name, 16_000, 1.0)
    (tmp_path / "a.wma").write_text("x")
    with pytest.raises(DataError, match=r"a\.wma: unknown kind '\.wma'; allowed \.flv, \.mp4"):
        media.read_audio(tmp_path / "a.wma", 16_000, 1.0)


def test_audio_is_mean_of_channels_at_the_new_rate(tmp_path: Path) -> None:
    """Two channels of a .wav and one of an .mp4: the tone's amplitude and frequency survive, the length is cut."""
    wave = tone(44_100, 2.0, 440)
    write_wav(tmp_path / "a.wav", np.stack([wave, wave * 0.5], 1), 44_100)
    found = media.read_audio(tmp_path / "a.wav", 16_000, 1.5)
    assert found.shape == (24_000,) and found.dtype == np.float32
    np.testing.assert_allclose(found[500:23_000], tone(16_000, 1.5, 440, 0.375)[500:23_000], atol=2e-3)
    write_video(tmp_path / "a.mp4", [(1, 2, 3)] * 20, sound=wave)
    found = media.read_audio(tmp_path / "a.mp4", 16_000, 1.5)
    assert found.shape == (24_000,)
    spectrum = np.abs(np.fft.rfft(found[2000:18_000]))
    assert spectrum.argmax() == 440 and abs(spectrum[440] / 8000 - 0.5) < 0.02
