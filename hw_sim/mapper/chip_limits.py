"""What a core and a chip hold: named limits and memory formats, as data with sources (``chips/limits/*.toml``)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli

from taaf.hw_sim.chips import chip_names
from taaf.hw_sim.measurements.records import load_measurements
from taaf.models.errors import ConfigError

_FOLDER = Path(__file__).parents[1] / "chips" / "limits"
CHIPS = tuple(chip_names())
LIMITS = ("neurons", "synapse memory", "input axons", "output axons")  # order of every per-limit tuple


@dataclass(frozen=True)
class ChipLimits:
    """One chip.

    Attributes
    ----------
    neurons, synapse_bits, in_axons, out_axons : int or None
        Per core; None is not limited by anything public. ``synapse_bits`` also holds the neurons' state where
        ``neuron_bits`` is not 0.
    weight_bits, index_bits, unit_bits, block_synapses, block_header_bits : int
        Format of a list of synapses, see `list_bits`.
    shared_kernel : bool
        A convolution's kernel lies once in a core; otherwise once per set of taps (see the TOML).
    pixel_axon_slots : int
        Entries of the output axon table that one pixel (with all its channels) takes per destination core.
    constants, anchors : tuple of dict
        Provenance: name, value, kind, source; and published measurements of other networks whose cores are known.
    """

    name: str
    title: str
    source: str
    neurons: int
    synapse_bits: int
    in_axons: int | None
    out_axons: int | None
    neuron_bits: int
    weight_bits: int
    index_bits: int
    unit_bits: int
    block_synapses: int
    block_header_bits: int
    shared_kernel: bool
    pixel_axon_slots: int
    cores_per_chip: int
    width: int
    height: int
    cores_per_tile: int
    constants: tuple[dict[str, str], ...]
    anchors: tuple[dict[str, str], ...]

    def allowed(self) -> tuple[int | None, ...]:
        """In the order of `LIMITS`."""
        return (self.neurons, self.synapse_bits, self.in_axons, self.out_axons)

    def list_bits(self, n: Any, index: bool) -> Any:
        """Memory of a list of ``n`` synapses (an int or an array of them), in bits.

        Blocks of ``block_synapses``; each takes ``block_header_bits`` plus its synapses and is rounded up to ``unit_bits``.
        """
        each = self.weight_bits + (self.index_bits if index else 0)
        full, rest = np.divmod(n, self.block_synapses)
        return full * self._unit(self.block_synapses * each + self.block_header_bits) + np.where(
            rest > 0, self._unit(rest * each + self.block_header_bits), 0
        )

    def _unit(self, bits: Any) -> Any:
        return -(-bits // self.unit_bits) * self.unit_bits


def load_limits(chip: str) -> ChipLimits:
    """Read ``chips/limits/<chip>.toml``; raises `ConfigError` for an unknown chip."""
    file = _FOLDER / f"{chip}.toml"
    if "/" in chip or not file.is_file():
        raise ConfigError(f"chip {chip!r}: unknown; allowed: {', '.join(CHIPS)}")
    data = tomli.loads(file.read_text(encoding="utf-8"))
    core, synapses = data["core"], dict(data["synapses"])
    return ChipLimits(
        name=chip, title=data["title"], source=data["source"],
        neurons=core["neurons"], synapse_bits=core["synapse_bits"],
        in_axons=core.get("in_axons"), out_axons=core.get("out_axons"),
        shared_kernel=synapses.pop("conv_lists") == "once", **synapses, **data["mesh"],
        constants=tuple(data["constant"]), anchors=tuple(_anchors(chip)),
    )  # fmt: skip


def _anchors(chip: str) -> Iterator[dict[str, str]]:
    for m in load_measurements(chip):
        cores, run = sum(x.cores or 0 for x in m.layers), m.runs[-1]
        if m.role == "step" or m.unusable or run.step_us is None or not all(x.cores for x in m.layers):
            continue
        energies = [f"{uj / 1000:.4g} mJ {kind}" for kind, uj in (("dynamic", run.dynamic_uj), ("total", run.total_uj)) if uj]
        yield {
            "text": f"{m.title} on {cores} cores: {', '.join(energies)} per inference, {run.step_us:.4g} us per step",
            "kind": "measured on a chip, for another network", "source": m.source + (f"; {m.secondary}" if m.secondary else ""),
        }  # fmt: skip
