"""``taaf-export backbone.nir --to netx``: one or two NIR backbones -> quantised networks with a report.

It writes a folder, because a NIR backbone has no TAAF head and is therefore no bundle:

    <branch>.net            integer network, loadable by stock lava-dl
    <branch>.readout.nir    layers after the last spiking population, if there are any: the host's
    report.json             where it comes from, how every parameter was mapped, and the measured deviation

The folder appears complete or not at all. Before that, every ``.net`` is read back, and the engine on it is compared with
the integer reference of the graph it came from: these two must agree on every spike.
"""

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from taaf.export.limits import check_limits
from taaf.export.passes import CompileReport, compile_graph
from taaf.export.ptq.calibrate import calibrate, measure
from taaf.export.ptq.inputs import calibration_inputs
from taaf.export.targets.netx.read import read_netx
from taaf.export.targets.netx.write import write_netx
from taaf.export.targets.nir.file import save_nir
from taaf.export.targets.nir.graph import FloatNet
from taaf.export.targets.nir.read import read_nir
from taaf.hw_sim.engine import Engine
from taaf.hw_sim.reference import run_reference
from taaf.models.errors import BundleError, ConfigError, ParityError, UnsupportedLayerError
from taaf.models.files.writing import sha256, staged_folder
from taaf.models.ir import Graph, RecurrentDense

FORMAT, VERSION = "taaf-nir-netx", 1
NOTES = (
    "reset: the chip resets to zero in the step of the spike; mapping says how each layer's network resets, and the float reference "
    "of the deviation resets like that network",
    "deviation: float64 reference of the NIR equations against the integer network on the calibration windows; measured, not exact",
    "exact: engine on the written file = integer reference, every spike of every layer",
)
_EXACT_WINDOWS = 4


def nir_to_netx(
    paths: list[Path], out: Path, dt: float | None, calibration: Path | None, reset: str | None = None
) -> dict[str, Any]:
    """Quantise, write and verify the branches of one or two NIR files; returns the report.

    ``reset`` says how their networks reset (`taaf.export.targets.nir.neurons.RESETS`); files that do not hold it need it.

    Raises
    ------
    TaafError
        Naming the file, node or value; nothing is written then.
    """
    read = [(path, read_nir(path, dt, reset)) for path in paths]
    for path, found in read if reset is None else []:
        if soft := [n.reset for net in found.nets.values() for n in net.neurons.values() if n.reset not in (None, "hard")]:
            raise UnsupportedLayerError(
                f"{path}: its neurons reset by {soft[0]!r}, and the chip resets to zero, which is another network; train with hard reset, "
                f"or give --reset {soft[0]} to convert it and have the deviation measured"
            )
    nets: dict[str, FloatNet] = {}
    for path, found in read:
        if twice := [b for b in found.nets if b in nets]:
            raise ConfigError(f"{path}: branch {twice[0]!r} comes twice; rename the file or its branch")
        nets |= found.nets
    if len(nets) > 2:
        raise ConfigError(f"{', '.join(map(str, paths))}: {len(nets)} branches ({', '.join(nets)}); allowed one or two")
    sources = [{"file": str(p), "sha256": sha256(p), "dt_seconds": f.dt, "dt_source": f.dt_source} for p, f in read]
    return export_nets(nets, out, *calibration_inputs(calibration, nets), sources)


def export_nets(
    nets: dict[str, FloatNet], out: Path, inputs: dict[str, np.ndarray], labels: np.ndarray | None = None,
    origin: dict[str, Any] | None = None, sources: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The same for networks in memory, e.g. ``from_norse(module, sample).nets``.

    Parameters
    ----------
    nets : dict
        Branch name -> network.
    out : Path
        Folder to write.
    inputs : dict
        Branch name -> windows (N, *input shape, T) of zeros and ones, for calibration and measurement.
    labels : numpy.ndarray, optional
        (N,) classes.
    origin, sources : optional
        What the report says of the inputs and of the networks' files.
    """
    report: dict[str, Any] = {
        "format": FORMAT, "version": VERSION, "taaf": version("taaf"), "sources": sources or [],
        "calibration": origin or {"source": "arrays in memory"}, "branches": {}, "notes": list(NOTES),
    }  # fmt: skip
    for branch, net in nets.items():
        _require_reset(branch, net)
    if out.exists() and not _is_ours(out):
        raise BundleError(f"{out}: exists and is not a network folder of taaf-export; choose another --out")
    with staged_folder(out) as stage:
        for branch, net in nets.items():
            report["branches"][branch] = _branch(net, inputs[branch], labels, stage)
        (stage / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _require_reset(branch: str, net: FloatNet) -> None:
    """A network whose reset nobody knows is not quantised: 5 % of wrong spikes would be reported as none."""
    if unknown := [name for name, neurons in net.neurons.items() if neurons.reset is None]:
        raise UnsupportedLayerError(
            f"{branch}.{unknown[0]}: the file does not hold how its neurons reset after a spike, and the chip resets to zero; say it "
            "with --reset: hard (Norse, lava-dl, snnTorch's reset_mechanism='zero'), subtract-next (snnTorch's default), subtract-many "
            "(default of sinabs and Rockpool) or subtract. All but hard are converted to hard reset, and what that changes is measured"
        )


def _branch(net: FloatNet, spikes: np.ndarray, labels: np.ndarray | None, stage: Path) -> dict[str, Any]:
    name = net.graph.name
    calibrated, choices, trace = calibrate(net, spikes)
    lines = CompileReport()
    integer, chain = compile_graph(calibrated.graph, saturate=True, report=lines)
    recurrent = any(isinstance(n, RecurrentDense) for n in chain.nodes.values())
    check_limits(chain, pipelined=not recurrent, state=False)
    write_netx(chain, stage / f"{name}.net")
    readout = None if net.readout is None else net.readout.as_nir(chain.shapes[chain.output])
    if readout is not None:
        save_nir(stage / f"{name}.readout.nir", readout)
    checked = _require_exact(integer, read_netx(stage / f"{name}.net", name), spikes[:_EXACT_WINDOWS])
    deviation = measure(integer, trace, spikes, labels, net.readout)
    output = deviation["layers"][-1]
    soft = [n for n, neurons in net.neurons.items() if neurons.reset not in (None, "hard")]
    warnings = [] if output["float_spikes"] else [
        f"{output['layer']} never fires in the float run: is the time step right, and are the inputs those of the task?"
    ]  # fmt: skip
    if soft:
        warnings.append(
            f"{', '.join(soft)}: reset {net.neurons[soft[0]].reset} became a hard reset; the deviation says what it changes"
        )
    return {
        "file": f"{name}.net", "sha256": sha256(stage / f"{name}.net"), "input_shape": list(chain.input.shape),
        "run": {
            "windows": "one per run (recurrent spikes would leak into the next)" if recurrent else "back to back",
            "reset_interval": "steps of a window", "reset_offset": 1, "output_delay": len(chain.lifs()),
        },
        "mapping": [net.neurons[lif.name].mapping(f"{name}.{lif.name}") for lif in net.graph.lifs()],
        "quantisation": [asdict(choice) for choice in choices],
        "deviation": deviation, "exact_windows": checked,
        "compiler": [line for line in lines.lines if not line.startswith("quantise")],  # clipping: see quantisation
        "warnings": warnings,
        "host_readout": None if net.readout is None else {
            "file": f"{name}.readout.nir", "layers": [f"{n} ({type(node).__name__})" for n, node in net.readout.layers],
            "decision": "largest mean value over the window",
        },
    }  # fmt: skip


def _require_exact(integer: Graph, chain: Graph, spikes: np.ndarray) -> int:
    """Reference of the integer graph = engine of the file, every spike (relay channels of the file left out)."""
    fast = Engine(chain).run(spikes, keep_all=True).spikes
    slow = [run_reference(integer, window).spikes for window in spikes]
    wrong = {
        lif.name: int((fast[lif.name][i, : len(window[lif.name])] != window[lif.name]).sum())
        for i, window in enumerate(slow) for lif in integer.lifs()
    }  # fmt: skip
    if bad := [f"{integer.name}.{n}: {w} spikes" for n, w in wrong.items() if w]:
        raise ParityError(f"the written network differs from its integer graph: {', '.join(bad)}")
    return len(slow)


def _is_ours(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "report.json").read_text(encoding="utf-8"))["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False
