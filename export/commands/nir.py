"""What ``taaf-export`` prints where NIR is involved."""

import argparse
import json
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1


def from_nir_file(args: argparse.Namespace) -> int:
    """NIR -> folder of NetX files and report.json."""
    from taaf.export.targets.nir.export import nir_to_netx

    out = args.out or Path("backbone")
    report = nir_to_netx([args.model, *([args.second] if args.second else [])], out, args.dt, args.calibrate, args.reset)
    if args.json:
        print(json.dumps({"schema_version": SCHEMA_VERSION, "out": str(out), "report": report}))
        return 0
    for source in report["sources"]:
        print(f"{source['file']}: time step {source['dt_seconds']:g} s ({source['dt_source']})")
    print(f"calibrated on {report['calibration']['source']}")
    for branch in report["branches"].values():
        print("\n".join(_lines(branch)))
    print(
        f"{out}: written; {', '.join(b['file'] for b in report['branches'].values())} load in stock lava-dl, report.json has it all"
    )
    return 0


def _lines(branch: dict[str, Any]) -> list[str]:
    layers = zip(branch["mapping"], branch["quantisation"], branch["deviation"]["layers"], strict=True)
    lines = [
        f"  {m['layer']}: {m['nir']} (reset {m['reset']}) -> i_decay {m['i_decay']}, v_decay {m['v_decay']}, v_th_mant {q['v_th_mant']}; "
        f"{q['n_clipped']} of {q['n_weights']} weights clipped; spikes {d['float_spikes']:,d} float, "
        f"{d['integer_spikes']:,d} integer, {100 * d['differing_fraction']:.3g} % of neuron-steps differ"
        for m, q, d in layers
    ]
    output = branch["deviation"]["output"]
    lines.append(
        f"  output counts per neuron and window: {output['mean_count_float']:.3g} float, {output['mean_count_integer']:.3g} integer, "
        f"mean difference {output['mean_count_difference']:.3g}; same decision in {output['same_decision_percent']:.4g} % of windows"
    )
    if accuracy := branch["deviation"].get("accuracy"):
        lines.append(f"  accuracy: {accuracy['float']:.4g} % float, {accuracy['integer']:.4g} % integer")
    if readout := branch["host_readout"]:
        lines.append(
            f"  the backbone ends at its last spiking neurons; {', '.join(readout['layers'])} come after and are the host's: "
            f"{readout['file']}; decisions by the {readout['decision']}"
        )
    lines += [f"  {line}" for line in branch["compiler"]]
    lines += [f"  warning: {line}" for line in branch["warnings"]]
    lines.append(f"  ✓ {branch['file']}: engine = integer reference on {branch['exact_windows']} windows, every spike")
    return lines


def to_nir_file(args: argparse.Namespace) -> int:
    """Checkpoint or bundle -> NIR."""
    from taaf.export.targets.nir.output import model_to_nir

    result = model_to_nir(args.model, args.out or Path("backbone.nir"), args.own_code)
    if args.json:
        print(json.dumps({"schema_version": SCHEMA_VERSION, **result}))
        return 0
    for name, branch in result["branches"].items():
        print(f"✓ {name}: {branch['nodes']} nodes, reading back gives the identical integer graph")
    for name in result["without_encoder"]:
        print(f"  {name}: starts with the spikes of the host's encoder, which is in a bundle (--to netx), not in this file")
    print(f"{result['nir']}: written")
    return 0
