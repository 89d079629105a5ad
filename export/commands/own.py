"""``taaf-export`` of a user's own network: FILE.py:FUNCTION, or --branch NAME=FILE."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from taaf.export.commands.bundle import print_result
from taaf.export.netx_bundle import export_netx
from taaf.export.own import file_network, record_network
from taaf.export.own_code import import_module, load_weights
from taaf.export.passes import CompileReport, quantise
from taaf.export.ptq.calibrate import calibrate, measure
from taaf.export.recorded import RecordedNetwork
from taaf.export.targets.netx.read import read_netx_file
from taaf.export.targets.nir.read import read_nir
from taaf.models.config import MODALITY
from taaf.models.errors import ConfigError
from taaf.models.ir import Graph
from taaf.training.datasets.arrays import read_windows


def own_command(args: argparse.Namespace) -> int:
    """Record or read the network, keep it if asked, and export it."""

    def say(line: str) -> None:
        if not args.json:
            print(line, flush=True)

    if args.inputs is None:
        raise ConfigError("--inputs FILE: needed, the windows on which every spike is compared")
    network = _of_files(args, say) if args.branch else _of_code(args)
    for m, lag in _hidden_steps(network).items():
        say(
            f"note: {m}: SLAYER's delay_shift hides the end of a window ({lag} step(s)), in which spikes still leave the chip; "
            f"decisions by count leave it out here as there, and windows longer by as much would show it"
        )
    if args.record is not None:
        network.save(args.record)
        say(f"{args.record}: written; export or fit it without your code")
    if args.to is None:
        if args.json:
            print(json.dumps({"schema_version": 1, "recorded": str(args.record)}))
        return 0
    limit = args.windows or len(next(iter(network.inputs.values())).bits)
    inputs = {m: x[:limit] for m, x in network.windows().items()}
    labels = None if network.labels is None else network.labels[:limit]
    result = export_netx(
        network, args.out or Path("bundle"), inputs, labels, network.label_names, verify_lava=args.verify_lava,
        quiet=args.quiet or args.json, allow_saturation=args.allow_saturation, say=say,
    )  # fmt: skip
    return print_result(result, args.json, say)


def _hidden_steps(network: RecordedNetwork) -> dict[str, int]:
    counted = getattr(network.head.head, "counted", tuple(network.steps.values()))  # of head "rate"
    return {m: steps - n for (m, steps), n in zip(network.steps.items(), counted, strict=True) if n < steps}


def _of_code(args: argparse.Namespace) -> RecordedNetwork:
    model = import_module(str(args.model))
    names = () if hasattr(model, "forward") else tuple(m for m in model if m != "head")  # type: ignore[union-attr]
    windows, labels, label_names = read_windows(args.inputs, names)
    if args.weights is not None:
        load_weights(model, args.weights, windows)
    return record_network(model, windows, labels, head=args.head, label_names=label_names or None)


def _quantised(name: str, path: Path, spikes: np.ndarray, args: argparse.Namespace, say: Callable[[str], None]) -> Graph:
    """The one branch of a NIR file, calibrated on these windows; says how far it is from the float network."""
    nets = read_nir(path, args.dt, args.reset).nets
    if len(nets) != 1:
        raise ConfigError(f"--branch {name}={path}: the file has {len(nets)} branches ({', '.join(nets)}); allowed one")
    net, _, trace = calibrate(next(iter(nets.values())), spikes)
    if net.readout is not None:
        raise ConfigError(
            f"--branch {name}={path}: layers after its last spikes are the host's; `taaf-export {path} --to netx` writes them beside the "
            "quantised network"
        )
    integer = quantise(net.graph, saturate=True, report=CompileReport())
    for layer in measure(integer, trace, spikes)["layers"]:
        say(
            f"  {layer['layer']}: quantised; {100 * layer['differing_fraction']:.3g} % of neuron-steps differ from the float network"
        )
    return Graph(name, integer.nodes.values(), integer.edges)


def _of_files(args: argparse.Namespace, say: Callable[[str], None]) -> RecordedNetwork:
    if args.weights is not None or args.record is not None:
        raise ConfigError("--branch: files bring their weights and need no record; leave out --weights and --record")
    branches: dict[str, Path] = {}
    for entry in args.branch:
        name, _, file = entry.partition("=")
        if not file or not MODALITY.fullmatch(name) or name in branches:
            raise ConfigError(
                f"--branch {entry}: expected NAME=FILE.net or NAME=FILE.nir, every NAME once, of lower-case letters, digits and _"
            )
        branches[name] = Path(file)
    windows, labels, label_names = read_windows(args.inputs, tuple(branches))
    graphs = {}
    for m, path in branches.items():
        if path.suffix == ".nir":
            graphs[m] = _quantised(m, path, windows[m], args, say)
            continue
        shape = windows[m].shape[1:-1]
        graphs[m] = read_netx_file(path, m, input_shape=shape if len(shape) == 3 else None).graph
    return file_network(branches, graphs, windows, labels, args.head, label_names)
