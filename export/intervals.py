"""What interval analysis proves of an exported network, per layer, in words and as data for the manifest.

SLAYER has no 24-bit wrap and clip, so a layer is only sure to run as it was trained if u and v provably stay inside:
``-2^23 < u <= 2^23`` and ``|v| < 2^23``. The ranges themselves come from `taaf.hw_sim.intervals`. Two further limits
follow from these and need no check of their own: with ``64 |a| < 2^23`` (or, under saturation, ``3 x 2^23``) synaptic
sums stay below 2^19, so float32 (2^24) holds them exactly in training, and Lava's int32 holds them shifted by 6 bits.
"""

from dataclasses import asdict, dataclass
from typing import Any

from taaf.hw_sim.intervals import UNBOUNDED, UV_LIMIT, lif_ranges
from taaf.models.ir import Graph

PORT_MAX = (1 << 15) - 1  # Lava annotates a_in as int16; measured: sums beyond it are not cut (tests/conformance)


@dataclass(frozen=True)
class LayerIntervals:
    """Proven ranges of one LIF layer, over all its neurons and any input.

    Attributes
    ----------
    layer : str
        ``branch.lif``.
    steps : int or None
        Window length the ranges hold for; None: any.
    sum, u, v : (int, int)
        Lowest and highest synaptic sum, current and voltage (before wrap, clip and reset).
    n_neurons, n_may_wrap, n_may_clip : int
        Neurons, and those whose u or v is not proven to stay within 24 bits.
    one_wrap_is_enough : bool
        Whether u, where it wraps, comes back into 24 bits at once, as on the chip.
    """

    layer: str
    steps: int | None
    sum: tuple[int, int]
    u: tuple[int, int]
    v: tuple[int, int]
    n_neurons: int
    n_may_wrap: int
    n_may_clip: int
    one_wrap_is_enough: bool

    @property
    def proven(self) -> bool:
        """No wrap and no clip can happen."""
        return not (self.n_may_wrap or self.n_may_clip)

    @property
    def margin(self) -> float:
        """How many times larger the largest u or v could be: 2^23 / max(|u|, |v|)."""
        return UV_LIMIT / max(1, *(abs(end) for end in (*self.u, *self.v)))

    def to_dict(self) -> dict[str, Any]:
        """The row of the manifest."""
        return {**asdict(self), "proven": self.proven, "margin": self.margin}

    def saturation(self) -> list[str]:
        """One line for each of u and v that is not proven to stay within 24 bits."""
        found = []
        for name, ends, n, limit in (
            ("u", self.u, self.n_may_wrap, f"-2^23 < u <= 2^23 = {UV_LIMIT}, where the chip wraps and training does not"),
            ("v", self.v, self.n_may_clip, f"+-(2^23 - 1) = {UV_LIMIT - 1}, where the chip clips and training does not"),
        ):
            if n:
                reach = " and ".join(_number(end) for end in ends if abs(end) >= UV_LIMIT)
                where = f"{self.layer}: {name} could reach {reach}{_during(self.steps)} in {n} of {self.n_neurons} neurons"
                found.append(f"{where} (allowed {limit})")
        return found

    def __str__(self) -> str:
        ranges = ", ".join(f"{k} {_number(low)}..{_number(high)}" for k, (low, high) in self._ranges())
        line = f"intervals: {self.layer}: {ranges}{_during(self.steps)}: "
        line += f"{100 / self.margin:.3g} % of 24 bits, proven" if self.proven else "MAY SATURATE"
        wide = max(-self.sum[0], self.sum[1]) > PORT_MAX
        return line + ("; sums beyond the 16 bits of Lava's port annotation (measured: not cut)" if wide else "")

    def _ranges(self) -> list[tuple[str, tuple[int, int]]]:
        return [("sum", self.sum), ("u", self.u), ("v", self.v)]


def analyse(graph: Graph, steps: int | None = None) -> list[LayerIntervals]:
    """Ranges of every LIF layer of an integer graph, for windows of ``steps`` steps (by default of any length)."""
    rows = []
    for lif in graph.lifs():
        r = lif_ranges(graph, lif, steps)
        wrap, clip = r.may_wrap, r.may_clip
        rows.append(
            LayerIntervals(
                f"{graph.name}.{lif.name}", steps, r.a.ends, r.u.ends, r.v.ends,
                wrap.size, int(wrap.sum()), int(clip.sum()), r.one_wrap_is_enough,
            )
        )  # fmt: skip
    return rows


def saturation_problems(graph: Graph, steps: int | None, allow_saturation: bool) -> list[str]:
    """What keeps a graph from being exported: unproven layers, and in any case sums that one wrap does not bring back."""
    found = []
    for row in analyse(graph, steps):
        if not allow_saturation and (lines := row.saturation()):
            lines[-1] += (
                ": use smaller weights, more leak or a shorter window, or let verification decide with --allow-saturation"
            )
            found += lines
        elif not row.one_wrap_is_enough:
            found.append(f"{row.layer}: sums {row.sum[0]}..{row.sum[1]} can pass 24 bits more than once (never allowed)")
    return found


def _number(end: int) -> str:
    return f"{end:,d}" if abs(end) < UNBOUNDED else f"{'-' if end < 0 else ''}infinity"


def _during(steps: int | None) -> str:
    return "" if steps is None else f" within {steps} steps"
