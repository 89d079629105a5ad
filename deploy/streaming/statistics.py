"""What a stream's end says: counts, latencies and whether it kept up."""

import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_LEAST_S, _PER_DECADE, _DECADES = 1e-6, 100, 10  # latencies are kept in bins 2.3 % wide


class Latencies:
    """Percentiles of any number of durations in bounded memory, right to within 2.3 %.

    >>> found = Latencies()
    >>> for _ in range(100): found.add(0.02)
    >>> round(found.percentile(50), 3), found.largest
    (0.02, 0.02)
    """

    def __init__(self) -> None:
        self._bins = np.zeros(_PER_DECADE * _DECADES + 1, np.int64)
        self.largest = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        at = math.log10(max(seconds, _LEAST_S) / _LEAST_S) * _PER_DECADE
        self._bins[min(round(at), len(self._bins) - 1)] += 1
        self.largest = max(self.largest, seconds)

    def percentile(self, p: float) -> float | None:
        """Seconds that ``p`` percent do not exceed; None of nothing."""
        total = int(self._bins.sum())
        if not total:
            return None
        at = int(np.searchsorted(self._bins.cumsum(), max(1, math.ceil(total * p / 100))))
        return float(min(_LEAST_S * 10 ** (at / _PER_DECADE), self.largest))


@dataclass
class Statistics:
    """Counted while a stream runs."""

    hop_steps: int
    step_s: float | None = None
    windows: int = 0
    dropped: int = 0
    refused_windows: int = 0
    refused_frames: int = 0
    late_frames: int = 0
    gap_steps: int = 0
    waited_s: float = 0.0  # for the source
    latencies: Latencies = field(default_factory=Latencies)
    begun: float = field(default_factory=time.perf_counter)
    ended: float | None = None  # set when the last window is decided

    def report(self) -> dict[str, Any]:
        """Plain data; ``real_time_factor`` is busy time over stream time of the decided windows (below 1: it keeps up)."""
        total = max(0.0, (time.perf_counter() if self.ended is None else self.ended) - self.begun)
        busy, stream = (
            max(total - self.waited_s, 0.0),
            None if self.step_s is None else self.windows * self.hop_steps * self.step_s,
        )
        percentiles = {f"p{p}": self.latencies.percentile(p) for p in (50, 95, 99)}
        return {
            "windows": self.windows, "dropped": self.dropped, "refused_windows": self.refused_windows,
            "refused_frames": self.refused_frames, "late_frames": self.late_frames, "gap_steps": self.gap_steps,
            "latency_s": {**percentiles, "max": self.latencies.largest if self.windows else None},
            "seconds": total, "busy_seconds": busy, "windows_per_s": self.windows / total if total > 0 else 0.0,
            "stream_seconds": stream, "real_time_factor": busy / stream if stream else None,
        }  # fmt: skip


def render(report: dict[str, Any]) -> str:
    """What a person reads at the end."""
    r, latency = report, report["latency_s"]
    lines = [
        f"stream: {r['windows']} windows decided in {r['seconds']:.1f} s ({r['windows_per_s']:.1f} per s), {r['dropped']} dropped, "
        f"{r['refused_windows']} refused"
    ]
    if r["windows"]:
        shown = "  ".join(f"{k} {1e3 * v:.1f} ms" for k, v in latency.items())
        lines.append(f"latency: {shown} (from the last step of a window to its decision)")
    if r["real_time_factor"] is not None:
        busy = f"busy {r['busy_seconds']:.1f} s for {r['stream_seconds']:.1f} s of stream"
        lines.append(f"real-time factor: {r['real_time_factor']:.3f} ({busy}; below 1 it keeps up)")
    if r["refused_frames"] or r["late_frames"] or r["gap_steps"]:
        lines.append(
            f"input: {r['refused_frames']} malformed and {r['late_frames']} late frames refused, {r['gap_steps']} steps missing"
        )
    return "\n".join(lines)
