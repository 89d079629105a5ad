"""Energy from counted operations under named conventions; every constant is data with a source (``chips/*.toml``).

There is no Loihi 2 convention: no official energy per operation exists for it. What exists is a range derived from published
measurements of other networks, `taaf.hw_sim.measurements.loihi2_range`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli

from taaf.hw_sim.counters import LayerCounts

CONVENTIONS = ("loihi1_davies2018", "loihi1_sanafe", "cmos45_fp32", "cmos45_int8")
_FOLDER = Path(__file__).parent / "chips"


@dataclass(frozen=True)
class Energy:
    """Energy of one inference (one window) under one convention.

    Attributes
    ----------
    snn_nj : float
        Nanojoule per window for the counted SNN operations.
    ann_nj : float or None
        Nanojoule for the ANN twin, where the convention has a multiply-accumulate.
    terms : tuple of (str, float)
        What each part is, and its share in nJ.
    """

    convention: str
    title: str
    kind: str
    source: str
    includes: str
    excludes: str
    snn_nj: float
    ann_nj: float | None
    terms: tuple[tuple[str, float], ...]


def load_chip(name: str) -> dict[str, Any]:
    """Constants of ``chips/<name>.toml``."""
    return tomli.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def quantities(counts: Sequence[LayerCounts], n_windows: int) -> dict[str, float]:
    """Operations per window that the conventions refer to."""

    def total(attribute: str, kind: str | None = None) -> float:
        return sum(getattr(c, attribute) for c in counts if kind in (None, c.kind)) / n_windows

    return {
        "effective_synops": total("effective_synops"),
        "effective_synops_conv": total("effective_synops", "conv"),
        "effective_synops_dense": total("effective_synops", "dense"),
        "neuron_updates": total("neuron_updates"),
        "spikes": total("spikes_out"),
    }


def energies(counts: Sequence[LayerCounts], n_windows: int, ann_macs: int) -> list[Energy]:
    """Every convention applied to the same counts.

    Parameters
    ----------
    counts : sequence of LayerCounts
        Totals over ``n_windows`` windows.
    ann_macs : int
        Multiply-accumulates of the ANN twin per window.
    """
    return energies_of(quantities(counts, n_windows), ann_macs)


def energies_of(per_window: Mapping[str, float], ann_macs: int = 0) -> list[Energy]:
    """Every convention applied to operations per window, named as `quantities` names them."""
    found = []
    for name in CONVENTIONS:
        chip = load_chip(name)
        terms = tuple((t["what"], per_window[t["quantity"]] * t["pj"] / 1000) for t in chip["term"])
        mac = chip.get("ann_mac_pj")
        found.append(
            Energy(
                convention=name,
                **{k: chip[k] for k in ("title", "kind", "source", "includes", "excludes")},
                snn_nj=math.fsum(nj for _, nj in terms),  # the same on every Python; sum() changed in 3.12
                ann_nj=None if mac is None else ann_macs * mac / 1000,
                terms=terms,
            )
        )
    return found
