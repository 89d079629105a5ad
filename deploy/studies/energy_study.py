"""The comparison with the paper's 18.5 and 49.91: from the spikes of a run to plain data, text and a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from taaf.hw_sim.energy import load_chip
from taaf.hw_sim.engine import Activity
from taaf.hw_sim.mapper.workload import Part, Workload, measured_parts
from taaf.hw_sim.study import study
from taaf.models.files.writing import written_at_once
from taaf.models.ir import Graph
from taaf.models.shell.pictures import new_figure


def energy_study(
    name: str, graphs: Mapping[str, Graph], activity: Mapping[str, Activity], steps: Mapping[str, int],
    relays: Mapping[str, Mapping[str, int]], encoder_macs: Mapping[str, int],
) -> dict[str, Any]:  # fmt: skip
    """The study of a network that ran.

    Parameters
    ----------
    name : str
        Of the network.
    graphs, activity : mapping
        Branch -> graph, and what was counted on it; all branches with the same windows.
    steps : mapping
        Branch -> steps with input: passes of its ANN twin.
    relays : mapping
        Branch -> LIF -> relay channels at its end.
    encoder_macs : mapping
        Branch -> multiply-accumulates of one step of the encoder on the host, of branches with real-valued input.
    """
    parts = {}
    for b, g in graphs.items():
        encoder = (Part("encoder", "first", encoder_macs[b], 0.0),) if b in encoder_macs else ()
        parts[b] = (*encoder, *measured_parts(g, activity[b], relays.get(b), "binary" if encoder_macs else "first"))
    neurons = {b: sum(int(np.prod(g.shapes[n.name])) for n in g.lifs()) for b, g in graphs.items()}
    some = next(iter(activity.values()))
    fired = sum(int(activity[b].spikes[n.name].sum()) for b, g in graphs.items() for n in g.lifs())
    work = Workload(name, steps, parts, bool(encoder_macs), neurons, some.n_steps, fired / some.n_windows)
    return study(work, load_chip("taaf_paper"))


def render_study(s: dict[str, Any]) -> str:
    """What `taaf-deploy --energy-study` prints."""
    return "\n\n".join([_twin(s), _split(s), _readings(s), _sweeps(s)])


def _twin(s: dict[str, Any]) -> str:
    a, c = s["ann_twin"], s["cited"]
    per_pass = " + ".join(f"{b} {n / 1e9:.4f} G" for b, n in a["macs_per_pass"].items())
    whole = a["macs"] + a["elementwise"]
    return "\n".join(
        [
            f"Energy study: the {c['snn']} and {c['ann']} of the {c['title']}, printed in \"{c['printed_unit']}\"",
            f"  computed   ANN twin, from the architecture of ResNet18: {per_pass} per pass, {a['passes']} passes = "
            f"{a['macs'] / 1e9:.3f} G MACs",
            f"             x {a['mac_pj']} pJ = {a['energy_nj'] / 1e6:.2f} mJ; with elementwise layers as profilers count them "
            f"{whole / 1e9:.3f} G = {a['energy_with_elementwise_nj'] / 1e6:.2f} mJ",
            f"  cited      {c['ann']} = {a['cited_macs'] / 1e9:.3f} G MACs: {100 * (a['cited_nj'] / a['energy_nj'] - 1):+.2f} % and "
            f"{100 * (a['cited_nj'] / a['energy_with_elementwise_nj'] - 1):+.2f} % from the two",
            f"  unit       it must be {c['unit']}: {c['ann']} {c['printed_unit']} would be {a['inferences_if_mj'] / 1e9:.2f}e9 inferences, "
            f"and {c['snn']} stands beside it in the same unit",
            f"  on chip    a strided convolution stands where ResNet18 max-pools: {a['conv_pool_macs'] / 1e9:.3f} G MACs instead",
        ]
    )


def _split(s: dict[str, Any]) -> str:
    x = s["split"]
    told = "real-valued (MACs)" if x["real_input"] else "spikes (ACs)"
    lines = [
        f"Measured on {s['network']} (counted spikes, per window), its input is {told}",
        f"  {'reads':10s} {'MACs of the twin':>17s} {'effective SynOps':>17s} {'rate':>8s}",
    ]
    names = {"first": "the input", "join": "block sums", "binary": "spikes", "extra": "relays etc."}
    for role, name in names.items():
        macs, synops = x["macs"].get(role, 0), x["synops"][role]
        rate = f"{100 * synops / macs:6.2f} %" if macs and synops else "-"
        lines.append(f"  {name:11s} {macs:16,d} {synops:17,.0f} {rate:>8s}")
    lines.append(
        f"  mean rate {100 * s['rate']:.2f} %: SynOps per MAC of all that reads spikes; {x['updates']:,} neuron updates"
    )
    return "\n".join(lines)


def _readings(s: dict[str, Any]) -> str:
    scale = "it is of the paper's size" if s["is_paper_scale"] else "NOT the paper's network"
    lines = [
        f"Estimated (counts x published constants); {s['network']}: {scale}; paper's network: its MACs x the rate measured here",
        f"  {'reading':48s} {'this network':>13s} {'paper network':>16s} {'rates 0 to 1':>20s}   {s['cited']['snn']} mJ at rate",
    ]
    for r in s["readings"]:
        p, mark = r["paper_network"], "*" if r["key"] == s["closest"] else " "
        span = f"{p['floor_nj'] / 1e6:.3g} to {p['ceiling_nj'] / 1e6:.3g} mJ"
        lines.append(
            f" {mark}{r['title']:48s} {r['measured']['energy_nj'] / 1e6:10.4g} mJ {p['energy_nj'] / 1e6:13.4g} mJ {span:>20s}   "
            f"{met(p)}"
        )
    lines.append("  * closest to the cited figure at the measured rate")
    return "\n".join(lines)


def met(paper_network: dict[str, Any]) -> str:
    """At which firing rate the cited figure would be met."""
    rate = paper_network["rate_for_cited"]
    if rate is None:
        return "never: more even at rate 0"
    return f"{rate:.4f}" if rate <= 1 else f"never: less even at rate 1 (would take {rate:.3g})"


def _sweeps(s: dict[str, Any]) -> str:
    keys = [r["key"] for r in s["readings"]]
    blocks = [
        f"Sweep of the paper's network in mJ (others fixed: rate {100 * s['sweep_rate']:.2f} %, T = 3, 224 x 224 and 257 x 188)"
    ]
    heads = {"rate": "rate", "steps": "T", "resolution": "side x"}
    for axis, head in heads.items():
        rows = [f"  {head:>8s} {'ANN':>8s} " + " ".join(f"{k[:15]:>15s}" for k in keys)]
        for p in s["sweep"][axis]:
            cells = " ".join(f"{p['energy_nj'][k] / 1e6:15.4g}" for k in keys)
            rows.append(f"  {p['value']:8g} {p['ann_nj'] / 1e6:8.4g} {cells}")
        blocks.append("\n".join(rows))
    return "\n".join(blocks)


def plot_study(s: dict[str, Any], target: Path) -> None:
    """Energy of the paper's network over rate, T and resolution, one line per reading, with the cited figures."""
    figure = new_figure(13, 5.2)
    axes = figure.subplots(1, 3, sharey=True)
    titles = {"rate": "firing rate", "steps": "time steps T", "resolution": "side of the input (1 = 224 x 224, 257 x 188)"}
    styles = ["-", "--", "-.", "-", "--", ":", "-"]
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        points = s["sweep"][key]
        values = [p["value"] for p in points]
        for r, style in zip(s["readings"], styles, strict=True):
            axis.plot(
                values, [p["energy_nj"][r["key"]] / 1e6 for p in points], style, marker="o", markersize=3, label=r["title"]
            )
        axis.plot(values, [p["ann_nj"] / 1e6 for p in points], ":", color="black", label="ANN twin, 45 nm FP32")
        for name in ("snn", "ann"):
            axis.axhline(s["cited"][name], color="gray", linewidth=1, linestyle=(0, (1, 2)))
            if key == "rate":
                axis.annotate(
                    f"{s['cited'][name]} (cited)",
                    (values[0], s["cited"][name]),
                    fontsize=8,
                    color="dimgray",
                    va="center",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
                )
        axis.set(yscale="log", xscale="log" if key == "rate" else "linear", xlabel=title)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("energy per inference (mJ), estimated")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8)
    with written_at_once(target, target.suffix) as temporary:
        figure.savefig(temporary, dpi=120)
