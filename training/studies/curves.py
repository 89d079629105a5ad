"""Training curves (the paper's Fig. 2 and more): pictures with matplotlib, logs for TensorBoard."""

import json
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from taaf.models.errors import DataError
from taaf.models.files.writing import written_at_once
from taaf.models.shell.pictures import new_figure

_COLOURS = {"fused": "tab:green", "audio": "tab:orange"}
_OTHERS = ("tab:blue", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:olive", "tab:cyan", "tab:gray")


class TensorBoardLog:
    """Writes an epoch's metrics as TensorBoard scalars (k, rho and losses per output, alpha per step); None: nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self.writer = SummaryWriter(str(folder))

    def write(self, metrics: dict[str, Any]) -> None:
        """One epoch."""
        if self.writer is None:
            return
        for name, value in metrics.items():
            kind, _, which = name.partition("_")
            if name == "epoch":
                continue
            for step, x in enumerate(value if isinstance(value, list) else [value]):
                tag = f"{kind}/{which or kind}" + (f"/t{step}" if isinstance(value, list) else "")
                self.writer.add_scalar(tag, x, metrics["epoch"])
        self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def read_history(run: Path) -> list[dict[str, Any]]:
    """The epochs of a run's ``metrics.jsonl``; raises `DataError` naming what is missing."""
    path = run / "metrics.jsonl"
    try:
        history = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give the --out folder of a training") from error
    except ValueError as error:
        raise DataError(f"{path}: not a metrics file of taaf-train ({error})") from error
    if not history or not all(isinstance(m, dict) and _drawable(m) for m in history):
        raise DataError(f"{path}: holds no epochs of taaf-train; train the run again")
    return history


def _drawable(m: dict[str, Any]) -> bool:
    outputs = _outputs(m)
    wanted = [f"{kind}_{u}" for u in outputs for kind in ("test", "train", "test_loss")]
    wanted += [name for u in outputs for kind in ("k", "rho") if (name := f"{kind}_{u}") in m]  # not of every strategy
    numbers = all(isinstance(m.get(k), int | float) for k in ["epoch", *wanted])
    return "fused" in outputs and numbers and all(isinstance(m[f"alpha_{u}"], list) for u in outputs)


def _outputs(m: dict[str, Any]) -> list[str]:
    """What was trained: "fused", and the modalities alone where they have losses or accuracies of their own."""
    return [k.removeprefix("alpha_") for k in m if k.startswith("alpha_")]


def plot_runs(runs: Sequence[Path], target: Path, titles: Sequence[str] | None = None) -> None:
    """One column per run: accuracy, loss, k_u and rho_u per epoch for every output, and alpha_u(t) of the last epoch.

    Solid lines are the test set, dotted ones the training set.
    """
    names = titles or ["/".join(run.resolve().parts[-2:]) for run in runs]
    histories = [(name, read_history(run)) for name, run in zip(names, runs, strict=True)]
    figure = new_figure(5.2 * len(histories), 12)
    axes = figure.subplots(4, len(histories), squeeze=False, sharey="row")
    for column, (name, history) in enumerate(histories):
        _draw([row[column] for row in axes], history)
        axes[0][column].set_title(name, fontsize=9, wrap=True)
    with written_at_once(target, ".png") as temporary:
        figure.savefig(temporary, dpi=110)


def _draw(axes: list[Any], history: list[dict[str, Any]]) -> None:
    outputs = _outputs(history[-1])
    colours = _COLOURS | dict(zip((u for u in outputs if u not in _COLOURS), cycle(_OTHERS), strict=False))
    epochs = [m["epoch"] + 1 for m in history]
    accuracy, loss, balance, attention = axes
    for u in outputs:
        colour = colours[u]
        accuracy.plot(epochs, [m[f"test_{u}"] for m in history], color=colour, label=u)
        accuracy.plot(epochs, [m[f"train_{u}"] for m in history], color=colour, linestyle=":")
        loss.plot(epochs, [m[f"test_loss_{u}"] for m in history], color=colour, label=u)
        alpha = history[-1][f"alpha_{u}"]
        attention.plot(range(1, len(alpha) + 1), alpha, color=colour, marker="o", label=u)
        for kind, style in (("k", "-"), ("rho", "--")):
            if f"{kind}_{u}" in history[-1]:
                watched = [m.get(f"{kind}_{u}", float("nan")) for m in history]
                balance.plot(epochs, watched, color=colour, linestyle=style, label=f"{kind} {u}")
    for axis, title in zip(
        axes, ("accuracy (%)", "test loss (cross entropy)", "k_u, rho_u", "alpha_u(t), last epoch"), strict=True
    ):
        axis.set_ylabel(title)
        axis.set_xlabel("time step" if axis is attention else "epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:  # heads that are read out once have no k and rho
            axis.legend(fontsize=8)
    attention.set_ylim(0, 1.05)
