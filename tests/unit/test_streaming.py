"""Framing, sliding windows, the mailbox and the percentiles of streams."""

import doctest
import io
import json
import threading
from typing import Any

import numpy as np
import pytest

from taaf.deploy import session
from taaf.deploy.streaming import sliding, statistics
from taaf.deploy.streaming.frames import FrameReader, FrameWriter, Layout, read_layout
from taaf.deploy.streaming.mailbox import Mailbox
from taaf.deploy.streaming.sliding import RESTART_AFTER, Sliding
from taaf.deploy.streaming.sources import parse_address
from taaf.deploy.streaming.statistics import Latencies, Statistics, render
from taaf.models.config import InputSpec
from taaf.models.errors import ConfigError, DataError

SPECS = {"event": InputSpec((2, 3), 4, 0), "audio": InputSpec((5,), 6, 0), "picture": InputSpec((1, 2, 2), 3, 64)}
LAYOUT = Layout(3, {m: tuple(s.shape) for m, s in SPECS.items()}, {"event": "bits", "audio": "uint8", "picture": "float32"})
RNG = np.random.default_rng(0)


def _piece() -> dict[str, np.ndarray]:
    spikes = {m: (RNG.random((*SPECS[m].shape, 3)) < 0.5).astype(np.uint8) for m in ("event", "audio")}
    return {**spikes, "picture": RNG.normal(size=(1, 2, 2, 3)).astype(np.float32)}


def _stream(firsts: list[int]) -> tuple[bytes, list[dict[str, np.ndarray]]]:
    file, pieces = io.BytesIO(), [_piece() for _ in firsts]
    writer = FrameWriter(file, LAYOUT)
    for first, piece in zip(firsts, pieces, strict=True):
        writer.write(first, piece)
    return file.getvalue(), pieces


@pytest.mark.parametrize("cut", [1, 7, 64, 10_000])
def test_frames_are_read_as_written_however_they_are_cut(cut: int) -> None:
    data, pieces = _stream([0, 3, 9])
    reader = FrameReader(SPECS)
    found = [frame for k in range(0, len(data), cut) for frame in reader.feed(data[k : k + cut])]
    reader.end()
    assert [first for first, _ in found] == [0, 3, 9] and reader.refused == 0
    for (_, arrays), piece in zip(found, pieces, strict=True):
        for m, x in piece.items():
            np.testing.assert_array_equal(arrays[m], x)


def test_malformed_frames_are_counted_and_the_next_good_one_is_read() -> None:
    """Garbage between frames, a wrong size, a false mark inside garbage, a truncated end: one count each, the others are read."""
    data, _ = _stream([0, 3, 6, 9])
    line, size = LAYOUT.line(), 16 + LAYOUT.payload
    one, two, three, four = (data[len(line) + k * size :][:size] for k in range(4))
    broken = b"TAAF" + (LAYOUT.payload + 1).to_bytes(4, "little") + two[8:]
    mixed = line + b"garbage TAAF" + bytes(40) + one + broken + three + bytes(1000) + four + one[:20]
    for cut in (1, 50, len(mixed)):
        reader = FrameReader(SPECS)
        found = [first for k in range(0, len(mixed), cut) for first, _ in reader.feed(mixed[k : k + cut])]
        reader.end()
        assert found == [0, 6, 9] and reader.refused == 4


def test_damaged_streams_give_frames_or_one_error() -> None:
    """Bytes that were changed, left out or put in anywhere behind the header: never anything but frames of the right shape."""
    data, _ = _stream(list(range(0, 60, 3)))
    start = len(LAYOUT.line())
    for seed in range(200):
        rng, damaged = np.random.default_rng(seed), bytearray(data)
        for at in rng.integers(start, len(data) - 100, 6):
            damaged[at : at + int(rng.integers(0, 90))] = rng.bytes(int(rng.integers(0, 90)))
        reader, n, most = FrameReader(SPECS), 0, 0
        for k in range(0, len(damaged), 50):
            for _, piece in reader.feed(bytes(damaged[k : k + 50])):
                n += 1
                assert {m: x.shape for m, x in piece.items()} == {m: (*s.shape, 3) for m, s in SPECS.items()}
            most = max(most, len(reader._rest) if reader.layout else 0)
        reader.end()
        assert 1 <= n <= 20 and most <= 16 + LAYOUT.payload + 50 and (reader.refused or n == 20)


def test_examples() -> None:
    """Of the public docstrings."""
    for module in (session, sliding, statistics):
        found = doctest.testmod(module)
        assert found.attempted and not found.failed, module


def _header(**changed: Any) -> bytes:
    return json.dumps({**json.loads(LAYOUT.line()), **changed}).encode()


MODALITIES = json.loads(LAYOUT.line())["modalities"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"\x00\xff", "its first line is not JSON"),
        (b"[" * 60_000, "its first line is not JSON"),
        (b"[]", 'no header {"format": "taaf-stream"'),
        (_header(version=2), 'no header {"format": "taaf-stream"'),
        (_header(steps=0), "steps 0; allowed a whole number from 1"),
        (_header(modalities={"event": {}}), "modalities are event; the bundle takes event, audio, picture"),
        (_header(modalities=3), "modalities are int; the bundle takes"),
        (_header(modalities={**MODALITIES, "audio": 3}), "audio is of type 'None'; allowed: bits, uint8"),
        (_header(modalities={**MODALITIES, "audio": {"shape": [5], "type": "float32"}}), "audio is of type 'float32'; allowed: bits"),
        (_header(modalities={**MODALITIES, "audio": {"shape": [6], "type": "bits"}}), r"audio has shape \[6\]; the bundle takes \[5\]"),
        (_header(modalities={**MODALITIES, "picture": {"shape": [1, 2, 2], "type": "uint8"}}), "picture is of type 'uint8'; did you mean"),
    ],
    ids=range(11),
)  # fmt: skip
def test_headers_that_are_none(line: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_layout(line, SPECS)


def test_streams_without_a_header() -> None:
    with pytest.raises(DataError, match="no end of line in its first 65536 bytes"):
        list(FrameReader(SPECS).feed(bytes(70_000)))
    with pytest.raises(DataError, match="ended before its header"):
        FrameReader(SPECS).end()
    large = {"a": InputSpec((100,), 4, 0)}
    header = Layout(1 << 20, {"a": (100,)}, {"a": "uint8"}).line()
    with pytest.raises(DataError, match="frames of 104857600 bytes, unpacked; allowed 67108864: send fewer steps in each"):
        read_layout(header, large)


@pytest.mark.parametrize("size", [1, 2, 5, 40])
@pytest.mark.parametrize("hop", [1, 3, 4, 9])
def test_sliding_windows_are_slices_of_the_whole(size: int, hop: int) -> None:
    """Modalities of other lengths start together; what is kept is bounded by a window and a piece."""
    whole = {"a": RNG.integers(0, 9, (2, 40)), "b": RNG.integers(0, 9, (40,))}
    slides, found = Sliding({"a": 4, "b": 2}, hop), []
    for k in range(0, 40, size):
        found += list(slides.push(k, {m: x[..., k : k + size] for m, x in whole.items()}))
        assert all(x.shape[-1] < 4 + hop for x in slides._kept.values())
    assert [start for start, _ in found] == list(range(0, 37, hop))
    for start, window in found:
        for m, n in (("a", 4), ("b", 2)):
            np.testing.assert_array_equal(window[m], whole[m][..., start : start + n])
    assert (slides.gap_steps, slides.late) == (0, 0)


def test_gaps_and_late_pieces() -> None:
    """No window spans steps that are missing; the clock goes on; what comes again is refused; a stream may begin anywhere."""
    slides = Sliding({"a": 4}, 2)

    def push(first: int, n: int) -> list[tuple[int, list[int]]]:
        return [(start, w["a"].tolist()) for start, w in slides.push(first, {"a": np.arange(first, first + n)})]

    assert push(101, 6) == [(102, [102, 103, 104, 105])]
    assert push(105, 4) == [] and slides.late == 1
    assert push(107, 1) == [(104, [104, 105, 106, 107])]
    assert push(111, 2) == [] and slides.gap_steps == 3
    assert push(113, 3) == [(112, [112, 113, 114, 115])]


def test_mailbox_drops_the_older_window_or_lets_the_source_wait() -> None:
    dropping = Mailbox(wait=False)
    for k in range(5):
        assert dropping.put(k, {})
    held = dropping.take(block=False)
    assert held is not None and held.start == 4 and dropping.dropped == 4 and dropping.take(block=False) is None
    waiting, found = Mailbox(wait=True), []
    source = threading.Thread(target=lambda: ([waiting.put(k, {}) for k in range(5)], waiting.close()))
    source.start()
    while (arrived := waiting.take(block=True)) is not None:
        found.append(arrived.start)
    source.join()
    assert found == [0, 1, 2, 3, 4] and waiting.dropped == 0 and not waiting.put(5, {})
    waiting.close(DataError("what went wrong"))
    with pytest.raises(DataError, match="what went wrong"):
        waiting.take(block=True)


def test_percentiles_against_all_values() -> None:
    values, found = RNG.lognormal(-4, 1, 5000), Latencies()
    for v in values:
        found.add(float(v))
    for p in (50, 95, 99):
        assert found.percentile(p) == pytest.approx(np.quantile(values, p / 100, method="inverted_cdf"), rel=0.024)
    assert found.percentile(100) == found.largest == values.max()
    assert Latencies().percentile(50) is None


def test_report_of_a_stream() -> None:
    counted = Statistics(hop_steps=4, step_s=0.05, windows=10, dropped=2, gap_steps=3, waited_s=0.0)
    counted.begun -= 1.0
    counted.latencies.add(0.02)
    report = counted.report()
    assert report["stream_seconds"] == pytest.approx(2.0) and report["real_time_factor"] == pytest.approx(0.5, abs=0.05)
    text = render(report)
    assert "10 windows decided" in text and "2 dropped" in text and "p50 20.0 ms" in text and "3 steps missing" in text
    assert "real-time factor" not in render(Statistics(4).report())


@pytest.mark.parametrize(
    ("text", "found"),
    [("tcp://127.0.0.1:70", ("127.0.0.1", 70)), ("tcp://:0", ("127.0.0.1", 0)), ("tcp://9", ("127.0.0.1", 9)), ("x.npz", None)],
)
def test_addresses(text: str, found: tuple[str, int] | None) -> None:
    assert parse_address(text) == found


@pytest.mark.parametrize("text", ["tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:99999", "tcp://:-1", "tcp://:²"])
def test_wrong_addresses(text: str) -> None:
    with pytest.raises(ConfigError, match="no port; allowed tcp://127.0.0.1:PORT"):
        parse_address(text)


def test_a_clock_that_begins_anew() -> None:
    """One number far too large, or a sensor that starts again: after some late pieces the windows go on from there."""
    found = Sliding({"a": 4}, hop=4)
    list(found.push(1 << 63, {"a": np.zeros((1, 2))}))
    starts = [start for k in range(40) for start, _ in found.push(2 * k, {"a": np.zeros((1, 2))})]
    assert found.late == RESTART_AFTER and starts == list(range(32, 80, 4))


def test_names_of_a_client_are_printed_as_text() -> None:
    line = json.dumps({"format": "taaf-stream", "version": 1, "steps": 1, "modalities": {"\x1b[2J": {}}}).encode()
    with pytest.raises(DataError, match=r"modalities are \\x1b\[2J; the bundle takes"):
        read_layout(line, SPECS)


def test_time_after_the_last_decision_is_not_busy() -> None:
    counted = Statistics(4, 0.01, windows=10)
    counted.begun, counted.ended, counted.waited_s = 100.0, 104.0, 3.9
    report = counted.report()
    assert report["seconds"] == 4.0 and report["busy_seconds"] == pytest.approx(0.1)
    assert report["real_time_factor"] == pytest.approx(0.25)
