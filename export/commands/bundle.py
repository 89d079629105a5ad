"""``taaf-export model.pt --to netx``, and what every export of a bundle prints at its end."""

import argparse
import json
import resource
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from taaf.export.netx_bundle import ExportResult, export_netx, windows_to_verify
from taaf.export.recorded import RecordedNetwork, open_trained
from taaf.training.config import from_dict, with_root
from taaf.training.sources import open_windows

SCHEMA_VERSION = 1


def bundle_command(args: argparse.Namespace) -> int:
    """Export a checkpoint, of taaf-train or recorded, as a verified bundle."""

    def say(line: str) -> None:
        if not args.json:
            print(line, flush=True)

    # complain about the checkpoint before loading data
    trained = open_trained(args.model, args.own_code)
    if isinstance(trained, RecordedNetwork):
        windows, labels, names, data = trained.windows(), trained.labels, trained.label_names, None
        limit = args.windows or len(next(iter(windows.values())))
    else:
        config = from_dict(trained.provenance["config"], f"{args.model}: configuration")
        limit = args.windows or windows_to_verify(trained)
        found = open_windows(with_root(config.data, args.root, args.cache), config.network.inputs, "test", args.quiet, limit)
        windows, labels, names = found.inputs, found.labels, list(found.label_names)
        stored = config.data.set != "arrays" and ":" not in config.data.set  # others' windows go with the bundle
        data = {k: v for k, v in asdict(config.data).items() if k not in ("root", "cache", "workers")} if stored else None
    inputs = {m: x[:limit] for m, x in windows.items()}
    result = export_netx(
        trained, args.out or Path("bundle"), inputs, None if labels is None else labels[:limit], names, data=data,
        verify_lava=args.verify_lava, quiet=args.quiet or args.json, allow_saturation=args.allow_saturation, say=say,
    )  # fmt: skip
    return print_result(result, args.json, say)


def print_result(result: ExportResult, as_json: bool, say: Callable[[str], None]) -> int:
    """What an export prints at its end."""
    if as_json:
        layers = [{"layer": c.layer, "spikes": c.spikes, "exact": c.ok} for c in result.checks]
        content = {"schema_version": SCHEMA_VERSION, "bundle": str(result.out), "layers": layers, "compiler": result.report}
        print(
            json.dumps(
                {
                    **content,
                    "test_accuracy": result.accuracy,
                    "lava": result.lava,
                    "peak_memory_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                }
            )
        )
        return 0
    for line in result.report:
        say(f"  {line}")
    if result.lava:
        say(f"✓ Lava runtime: {result.lava['windows']} windows, {result.lava['spike_mismatches']} spikes differ")
    if not result.accuracy:
        say(f"{result.out}: written; no labels or no head, so no accuracy")
        return 0
    alone = ", ".join(f"{u} {percent:.1f} %" for u, percent in result.accuracy.items() if u != "fused")
    say(f"{result.out}: written; test accuracy {result.accuracy['fused']:.1f} % ({alone})")
    return 0
