"""``taaf-train --probe MODEL.pt``: linear probes of a trained network's branches, on the data set it was trained with."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, replace

from taaf.models.checkpoint import load_model, own_code, read_checkpoint
from taaf.models.errors import ConfigError
from taaf.training.config import from_dict, load_config, with_root
from taaf.training.probes import FIXED, Kind, Probe, probe_model
from taaf.training.sources import open_splits

_OF_TRAININGS = (
    "ablation", "calibrate_only", "compare", "epochs", "head", "init", "only", "out", "overwrite", "resume", "seed", "tensorboard"
)  # fmt: skip


def probe_command(args: argparse.Namespace) -> int:
    """Fit the probes and print them; returns the exit code.

    Code of its own that the checkpoint names runs only if ``--config`` names it, too.
    """
    given = [
        f"--{name.replace('_', '-')}" for name in _OF_TRAININGS if (v := getattr(args, name)) is not None and v is not False
    ]
    if given := given + ["--device"] * (args.device != "cpu"):
        raise ConfigError(f"--probe {args.probe}: trains nothing and has no use for {', '.join(given)}; leave out")
    content = read_checkpoint(args.probe)
    known = own_code(load_config(args.config, {}).to_dict()) if args.config else {}
    model, _ = load_model(args.probe, set(own_code(content.get("config")).values()) <= set(known.values()), content)
    data = with_root(from_dict(content["config"], f"{args.probe}: config").data, args.root, args.cache)
    data = replace(data, train_pairs=args.limit or data.train_pairs)
    parts = open_splits(data, model.config.inputs, args.quiet or args.json)
    kind: Kind = args.probe_on or "steps"
    probes = probe_model(model, parts, kind)
    if args.json:
        told = {name: asdict(p) for name, p in probes.items()}
        print(json.dumps({"schema_version": 1, "model": str(args.probe), "probe_on": kind, "probes": told}))
        return 0
    how = f"C = {FIXED:g}, no validation part" if parts.validation is None else "C chosen on the validation part"
    read = {"steps": "all feature spikes", "rates": "time-averaged feature spikes"}[kind]
    print(f"{args.probe}: linear probes of {read} ({how}), accuracy on the test part\n{_table(probes)}")
    return 0


def _table(probes: Mapping[str, Probe]) -> str:
    lines = [f"{'':12s}{'probe':>9s}{'own output':>12s}{'training':>10s}{'validation':>12s}{'features':>10s}{'C':>9s}"]
    for name, p in probes.items():
        own, checked = (f"{x:.1f} %" if x is not None else "-" for x in (p.head, p.validation))
        lines.append(f"{name:12s}{p.test:>7.1f} %{own:>12s}{p.train:>8.1f} %{checked:>12s}{p.features:>10,d}{p.strength:>9g}")
    return "\n".join(lines)
