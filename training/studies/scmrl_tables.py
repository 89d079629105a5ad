"""The S-CMRL study as CSV (every run), Markdown (mean and deviation over seeds) and a picture (accuracy under noise)."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from taaf.models.files.writing import write_at_once, written_at_once
from taaf.models.shell.pictures import new_figure
from taaf.training.config import TrainConfig
from taaf.training.studies.paired import difference_text, spread
from taaf.training.studies.scmrl_study import (
    CONCAT,
    NOISY,
    S_CMRL,
    SNR_DB,
    TAAF,
    Section,
    SystemCell,
    conditions,
    training_levels,
    training_noise,
)

Result = tuple[SystemCell, int, dict[str, Any]]
_OUTPUTS = ("fused", "event", "audio")
_NOISY = f"both {SNR_DB[-2]:g} dB"  # the condition that ablation and options show beside clean data


class _Runs:
    """Results by row."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.results = sorted(results, key=lambda r: (r[0].row, r[1]))
        self.seeds = sorted({seed for _, seed, _ in results})

    def by_seed(self, row: str, condition: str = "clean", output: str = "fused") -> dict[int, float]:
        return {seed: m["noise"][condition][output] for cell, seed, m in self.results if cell.row == row}

    def cell(self, row: str, condition: str = "clean", output: str = "fused") -> str:
        return spread(list(self.by_seed(row, condition, output).values()))

    def parameters(self, row: str) -> int:
        return next(int(m["parameters"]) for cell, _, m in self.results if cell.row == row)


def write_study(results: Sequence[Result], sections: Sequence[Section], base: TrainConfig, folder: Path) -> list[Path]:
    """Write ``scmrl.csv``, ``scmrl.md`` and ``scmrl_noise.png``; returns their paths."""
    runs = _Runs(results)
    parts = [_header("S-CMRL beside TAAF on EAD-mini", base, runs), _systems(runs), _noise(runs)]
    paths = _written(folder, "scmrl", runs, [*parts, *(_section(runs, x) for x in sections)])
    plot_noise(runs, folder / "scmrl_noise.png")
    return [*paths, folder / "scmrl_noise.png"]


def write_sweeps(results: Sequence[Result], sections: Sequence[Section], base: TrainConfig, folder: Path) -> list[Path]:
    """Write ``scmrl_sweeps.csv`` and ``scmrl_sweeps.md``; returns their paths."""
    runs = _Runs(results)
    header = _header("S-CMRL's attentions, comparisons and sweeps on EAD-mini", base, runs)
    return _written(folder, "scmrl_sweeps", runs, [header, *(_section(runs, x) for x in sections), _training_noise(base, runs)])


def _written(folder: Path, name: str, runs: _Runs, parts: Sequence[str]) -> list[Path]:
    write_at_once(folder / f"{name}.csv", _csv(runs))
    write_at_once(folder / f"{name}.md", "\n\n".join(parts) + "\n")
    return [folder / f"{name}.csv", folder / f"{name}.md"]


def _csv(runs: _Runs) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", "parameters", "seed", "condition", *(f"test_{u}_percent" for u in _OUTPUTS)])
    for cell, seed, m in runs.results:
        for condition in conditions():
            values = [f"{m['noise'][condition][u]:.2f}" for u in _OUTPUTS]
            writer.writerow([cell.row, m["parameters"], seed, condition, *values])
    return out.getvalue()


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def _header(title: str, base: TrainConfig, runs: _Runs) -> str:
    d, o = base.data, base.optimiser
    channels = next(iter(base.network.branches.values())).options["channels"]
    return (
        f"# {title} (simulated events of real handwriting, synthetic speech)\n\n"
        "Regenerate with the command in the README. Test accuracy in percent: mean ± sample standard deviation over "
        f"{len(runs.seeds)} seeds, last epoch, deployed (integer) form. Reduced on purpose: {d.train_pairs or 'all'} training and "
        f"{d.test_pairs or 'all'} test pairs, {o.epochs} epochs, S-CMRL with C = {channels}. {TAAF} and {CONCAT} are the "
        "reference model with its own optimiser settings. S-CMRL's learning rate was chosen among 2e-3, 5e-3, 1e-2 and 2e-2 in short "
        "pilots of seed 1 by clean test accuracy, which favours it a little; nothing was tuned for noise. Differences are paired "
        f"by seed, mean ± half width of the 95 % confidence interval; `*` marks those whose interval excludes zero. With "
        f"{len(runs.seeds)} seeds that is weak evidence: the seeds vary initialisation and batch order, not the data."
    )


def _systems(runs: _Runs) -> str:
    rows = [
        [row, f"{runs.parameters(row):,}", *(runs.cell(row, output=u) for u in _OUTPUTS),
         "" if row == CONCAT else difference_text(runs.by_seed(row), runs.by_seed(CONCAT))]
        for row in (S_CMRL, TAAF, CONCAT)
    ]  # fmt: skip
    return (
        "## Systems, clean\n\n"
        + _table(["system", "parameters", "fused", "event alone", "audio alone", f"fused, against {CONCAT}"], rows)
        + f"\n\n{CONCAT}: joint training with the fused loss only. A modality alone is, in S-CMRL, the network with the other one "
        "silent: its attention then reads an input that training never showed it."
    )


def _noise(runs: _Runs) -> str:
    rows = []
    for condition in conditions():
        values = {row: runs.by_seed(row, condition) for row in (S_CMRL, TAAF, CONCAT)}
        rows.append([condition, *(spread(list(v.values())) for v in values.values()),
                     difference_text(values[S_CMRL], values[TAAF])])  # fmt: skip
    return (
        "## Noise in the test set (ours; the paper's is in training: `scmrl_sweeps`)\n\n"
        + _table(["noise, SNR", S_CMRL, TAAF, CONCAT, f"{S_CMRL} - {TAAF}"], rows)
        + "\n\nFused accuracy of networks trained on clean data. Event noise is white noise on the grey image before the simulated "
        "camera sees it; audio noise is white noise in the mel-energy domain. Drawn in `scmrl_noise.png`."
    )


def _section(runs: _Runs, section: Section) -> str:
    names = [cell.row for cell in section.cells]
    rows = []
    for i, row in enumerate(names):
        other = names[max(0, i - 1) if section.stepwise else 0]
        against = "" if i == 0 else difference_text(runs.by_seed(row), runs.by_seed(other))
        rows.append([row, *(runs.cell(row, output=u) for u in _OUTPUTS), runs.cell(row, _NOISY), against])
    against = f"fused, against {'the row above' if section.stepwise else 'the first row'}"
    head = ["S-CMRL", "fused", "event alone", "audio alone", f"fused, noise on {_NOISY}", against]
    return f"## {section.title}\n\n{_table(head, rows)}" + (f"\n\n{section.note}" if section.note else "")


def _training_noise(base: TrainConfig, runs: _Runs) -> str:
    systems, rows = training_noise(base), []
    for i, name in enumerate(["trained clean", *training_levels()]):
        values = {system: runs.by_seed(cells[i].row) for system, cells in systems.items()}
        rows.append([name, *(spread(list(v.values())) for v in values.values()), difference_text(values[S_CMRL], values[TAAF])])
    return (
        "## Noise on the events in training, tested clean (the protocol of the paper's public code)\n\n"
        + _table(["events, SNR", *systems, f"{S_CMRL} - {TAAF}"], rows)
        + "\n\nWhite noise on the grey image before the simulated camera sees it, drawn once per training image; the original draws it "
        "for every batch and time step, on frames. Audio is clean."
    )


def plot_noise(runs: _Runs, target: Path) -> None:
    """Fused accuracy over the SNR of the noise, one panel per noisy input, one line per system, deviation as bars."""
    figure = new_figure(13, 4.2)
    axes = figure.subplots(1, len(NOISY), sharey=True)
    places = list(range(len(SNR_DB) + 1))
    for axis, which in zip(axes, NOISY, strict=True):
        for row, marker in ((S_CMRL, "o"), (TAAF, "s"), (CONCAT, "^")):
            values = [list(runs.by_seed(row, c).values()) for c in ("clean", *(f"{which} {db:g} dB" for db in SNR_DB))]
            errors = [stdev(v) if len(v) > 1 else 0.0 for v in values]
            axis.errorbar(places, [mean(v) for v in values], errors, marker=marker, capsize=3, label=row)
        axis.set_xticks(places, ["clean", *(f"{db:g}" for db in SNR_DB)])
        axis.set_xlabel("SNR in dB")
        axis.set_title("noise on both" if which == "both" else f"noise on {which} only")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("fused accuracy in %")
    axes[0].legend()
    figure.suptitle(
        f"EAD-mini, trained clean, noise in the test set; mean and deviation over {len(runs.seeds)} seeds", fontsize=10
    )
    with written_at_once(target) as part:
        figure.savefig(part, format="png", dpi=110)
