"""What ``taaf-export --fit`` prints: does the network fit on the chip, what limits it, what would make it fit."""

import argparse
import json
from pathlib import Path

from taaf.hw_sim.mapper.fit import Fit, chips_text, fit
from taaf.hw_sim.mapper.mapping import LayerMap
from taaf.models.errors import ConfigError
from taaf.models.files.writing import write_at_once
from taaf.models.ir import Graph

SCHEMA_VERSION = 1
DOES_NOT_FIT = 1  # exit code
_SHORT = {"neurons": "neurons", "synapse memory": "memory", "input axons": "in axons", "output axons": "out axons"}


def fit_model(args: argparse.Namespace) -> int:
    """Text or one JSON object; exit code 0 if it fits, 1 if not."""
    graphs, origin, others = integer_graphs(args.model, args.own_code)
    answer = fit(graphs, args.fit, args.chips, others)
    content = {"schema_version": SCHEMA_VERSION, "kind": "fit", "model": str(args.model), "origin": origin}
    if args.out is not None:
        write_at_once(args.out, json.dumps({**content, **answer.to_dict(cores=True)}, indent=1) + "\n")
    if args.json:
        print(json.dumps({**content, **answer.to_dict()}))
    else:
        print(render(answer, f"{args.model} ({origin})"))
    return 0 if answer.fits else DOES_NOT_FIT


def integer_graphs(path: Path, own_code: bool = False) -> tuple[dict[str, Graph], str, dict[str, dict[str, Graph]]]:
    """Graphs as they would run on the chip, what they were read from, and other forms of them.

    Raises
    ------
    TaafError
        If the file cannot be read or has no exact form on the chip.
    """
    if path.is_dir():
        from taaf.export.bundle.reader import read_bundle

        return read_bundle(path).graphs, "bundle", {}
    if path.suffix == ".net":
        from taaf.export.targets.netx.read import read_netx_file

        return {path.stem: read_netx_file(path, path.stem).graph}, "NetX file", {}
    if path.suffix == ".nir":
        raise ConfigError(f"{path}: is float; quantise it first (--to netx), then --fit one of the .net files written")
    from taaf.export.passes import CompileReport, compile_graph
    from taaf.export.recorded import open_trained
    from taaf.models.ir import Concat

    trained, report = open_trained(path, own_code), CompileReport()
    compiled = {name: compile_graph(graph, saturate=True, report=report) for name, graph in trained.graphs.items()}
    n = sum(report.relays.values())
    without = "without relays (both synapse groups of a join on one neuron: exact here, but not stock NetX)"
    joins = {name: joined for name, (joined, _) in compiled.items()}
    beside = any(isinstance(node, Concat) for joined in joins.values() for node in joined.nodes.values())  # not cut into cores
    others = {without: joins} if n and not beside else {}
    return {name: chain for name, (_, chain) in compiled.items()}, f"checkpoint, compiled; {n} relay channels", others


def render(answer: Fit, what: str) -> str:
    """The table ``taaf-export --fit`` prints."""
    mapping = answer.mapping
    limits = mapping.limits
    verdict = "fits" if answer.fits else "DOES NOT FIT"
    chips = chips_text(mapping.n_chips)
    lines = [
        f"{what} on {limits.title}: {verdict}: {mapping.n_cores:,} cores on {chips}, allowed {answer.chips_allowed}",
        *(f"  ✗ {finding}" for finding in answer.findings),
        "",
        f"  {'layer':24s} {'neurons':>9s} {'cores':>6s} {'tile (C, H, W)':>15s}  {'bound by':15s} {'alone':>6s}  "
        + " ".join(f"{_SHORT[k]:>9s}" for k in mapping.layers[0].peak_utilisation),
        *(_row(row) for row in mapping.layers),
        f"  {'total':24s} {sum(r.n_neurons for r in mapping.layers):9,d} {mapping.n_cores:6,d} {'':15s}  {'mean over cores':22s}  "
        + " ".join(f"{mapping.utilisation[k]:9.1%}" for k in mapping.layers[0].peak_utilisation),
        "  bound by: the limit without which the layer needs the fewest cores, as many as 'alone' says (-: one core is",
        "  enough); percentages are of the fullest core",
    ]
    by_limit = answer.by_limit()
    if by_limit:
        lines.append("  cores by limit: " + ", ".join(f"{name} {n:,}" for name, n in by_limit.items()))
    lines.append(f"  {mapping.utilisation['cores']:.1%} of the cores of {chips} in use")
    if not answer.fits:
        lines += ["", "What would make it fit (each alone; mapped again)", *(f"  {p}" for p in answer.proposals)]
    lines += ["", f"Limits: {limits.source}"]
    lines += [f"  {c['kind']:10s}  {c['name']}: {c['value']} [{c['source']}]" for c in limits.constants]
    for anchor in limits.anchors:
        lines.append(f"  cited, {anchor['kind']}: {anchor['text']} [{anchor['source']}]")
    if limits.name == "loihi2":
        lines.append(
            "  energy: no official energy per operation exists for Loihi 2; taaf-deploy gives a range derived from measurements"
        )
    return "\n".join(lines)


def _row(row: LayerMap) -> str:
    return (
        f"  {row.layer:24s} {row.n_neurons:9,d} {row.n_cores:6,d} {'x'.join(map(str, row.tile)):>15s}  "
        f"{row.binding if row.is_bound else '-':15s} {f'{row.without_binding:,d}' if row.is_bound else '-':>6s}  "
        + " ".join(f"{share:9.1%}" for share in row.peak_utilisation.values())
    )
