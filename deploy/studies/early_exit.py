"""The early-exit study of a deployment: accuracy against mean steps and counted cost, as plain data and as a picture."""

from pathlib import Path
from typing import Any

import numpy as np

from taaf.deploy.backends.base import pad_window
from taaf.export.bundle.reader import Bundle
from taaf.hw_sim.early_exit import ExitPoint, exit_curve
from taaf.hw_sim.energy import energies
from taaf.hw_sim.engine import Engine
from taaf.models.files.writing import written_at_once
from taaf.models.shell.pictures import new_figure

CONFIDENCES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)
NEVER = 2.0  # no probability reaches it


def early_exit_report(
    bundle: Bundle, inputs: dict[str, np.ndarray], labels: np.ndarray | None, confidence: float
) -> dict[str, Any]:
    """Run the exact engine on ``inputs`` and evaluate stopping at ``confidence``, and at others for the curve.

    Returns
    -------
    dict
        ``chosen``, ``full`` (never early) and ``curve`` (by rising confidence); each point has accuracy in percent (None
        where ``labels``, those of the windows in ``inputs``, are not known), mean steps, and per window effective SynOps,
        neuron updates and energies in nJ by convention.
    """
    spikes: dict[str, dict[str, np.ndarray]] = {}
    for name, graph in bundle.graphs.items():
        window = pad_window(inputs[name], bundle.window_steps)
        spikes[name] = {**Engine(graph).run(window, keep_all=True).spikes, graph.input.name: window}
    features = {b: bundle.features_of(b, spikes[b][g.output]) for b, g in bundle.graphs.items()}
    wanted = sorted({*CONFIDENCES, confidence, NEVER})
    points = exit_curve(bundle.head.fused, bundle.graphs, spikes, features, wanted)
    n = len(next(iter(inputs.values())))
    rows = [_row(point, n, labels, points[-1]) for point in points]
    return {
        "confidence": confidence, "window_steps": bundle.window_steps, "depth": bundle.depth, "rule": "softmax of the fused readout",
        "chosen": rows[wanted.index(confidence)], "full": rows[-1], "curve": rows[:-1],
    }  # fmt: skip


def _row(point: ExitPoint, n: int, labels: np.ndarray | None, full: ExitPoint) -> dict[str, Any]:
    return {
        "confidence": None if point.confidence == NEVER else point.confidence,
        "accuracy_percent": None if labels is None else float(100 * (point.decisions == labels).mean()),
        "same_as_full_percent": float(100 * (point.decisions == full.decisions).mean()),
        "mean_steps": float(point.steps.mean()),
        "effective_synops": sum(c.effective_synops for c in point.counts) / n,
        "neuron_updates": sum(c.neuron_updates for c in point.counts) / n,
        "energy_nj": {e.convention: e.snn_nj for e in energies(point.counts, n, 0)},
    }


def plot_early_exit(report: dict[str, Any], target: Path) -> None:
    """Accuracy, or without labels decisions kept, against mean steps and SynOps per window; the chosen confidence is marked."""
    figure = new_figure(10, 4.2)
    axes = figure.subplots(1, 2, sharey=True)
    rows = [*report["curve"], report["full"]]
    judged = "same_as_full_percent" if report["full"]["accuracy_percent"] is None else "accuracy_percent"
    for axis, key, scale, title in (
        (axes[0], "mean_steps", 1, f"mean steps used of {report['window_steps']}"),
        (axes[1], "effective_synops", 1e3, "effective SynOps per window (thousand)"),
    ):
        axis.plot([r[key] / scale for r in rows], [r[judged] for r in rows], marker="o", markersize=4)
        chosen = report["chosen"]
        axis.plot([chosen[key] / scale], [chosen[judged]], "D", color="tab:red", label=f"stop at {chosen['confidence']:g}")
        axis.set_xlabel(title)
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_ylabel("accuracy (%)" if judged == "accuracy_percent" else "decided as after the whole window (%)")
    with written_at_once(target, ".png") as temporary:
        figure.savefig(temporary, dpi=120)
