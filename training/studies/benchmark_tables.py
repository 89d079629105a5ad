"""The EAD-36 study as Markdown (mean and deviation over seeds, paired differences) and a picture."""

import statistics
from pathlib import Path

from taaf.models.files.writing import write_at_once, written_at_once
from taaf.models.shell.pictures import new_figure
from taaf.training.studies.benchmark import LEARNING_RATES, MODALITIES, Study, Training
from taaf.training.studies.methods import BASELINE
from taaf.training.studies.paired import Difference, difference, spread
from taaf.training.studies.records import COMMIT

TITLES = {
    "test": "Methods of balance and fusion on EAD-36",
    "val": "Readings of TAAF on EAD-36, compared on the validation part",
}
Row = dict[str, str]
_ENGLISH = {"event": "events", "audio": "audio"}


class _Cell:
    """Rows of one method under one condition and optimiser, by seed."""

    def __init__(self, rows: dict[int, Row]) -> None:
        self.rows = {seed: row for seed, row in rows.items() if not row["failed"]}
        self.n_failed = len(rows) - len(self.rows)

    def by_seed(self, column: str) -> dict[int, float]:
        return {seed: float(row[column]) for seed, row in self.rows.items() if row[column]}

    def spread(self, column: str) -> str:
        values = list(self.by_seed(column).values())
        return spread(values) if values else "–"

    def mean(self, column: str, digits: str) -> str:
        values = list(self.by_seed(column).values())
        return format(statistics.mean(values), digits) if values else "–"


class Results:
    """The finished final trainings of a study."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.found: dict[tuple[str, str, str], dict[int, Row]] = {}
        for training, row in study.finished(study.final()):
            cell = (training.condition, training.optimiser, training.method.name)
            self.found.setdefault(cell, {})[training.seed] = row

    def cell(self, condition: str, optimiser: str, method: str) -> _Cell:
        return _Cell(self.found.get((condition, optimiser, method), {}))

    def against(self, condition: str, optimiser: str, method: str, other: str = BASELINE) -> Difference | None:
        """Paired difference of fused accuracies."""
        one, two = (self.cell(condition, optimiser, m).by_seed(f"{self.study.judged}_fused") for m in (method, other))
        return difference(one, two)


def write_benchmark(study: Study, name: str, folder: Path) -> list[Path]:
    """Write ``name.md`` and ``name.png`` beside the study's CSV; returns the paths of all three."""
    results, title = Results(study), TITLES[study.judged]
    parts = [_header(study, title)]
    for condition in study.conditions:
        parts += [_table(results, condition, optimiser) for optimiser in study.optimisers]
    paths = [study.records.path, folder / f"{name}.md", folder / f"{name}.png"]
    write_at_once(paths[1], "\n\n".join(parts) + "\n")
    _plot(results, title, paths[2])
    return paths


def _header(study: Study, title: str) -> str:
    trainings: list[tuple[Training, Row]] = [*study.finished(study.tuning()), *study.finished(study.final())]
    planned = len(study.conditions) * len(study.methods) * len(study.optimisers)
    commits = sorted({row[COMMIT] for _, row in trainings})
    seconds = sum(float(row["seconds"] or 0) * study.base.optimiser.epochs for _, row in trainings)
    part = {"test": "test", "val": "validation"}[study.judged]
    rates = "; ".join(f"{o}: {', '.join(f'{r:g}' for r in LEARNING_RATES[o])}" for o in study.optimisers)
    return (
        f"# {title}\n\n"
        f"Glyphs of fonts, handwritten digits and synthetic speech (EAD36.md). Accuracy in percent on the {part} part: mean ± sample "
        f"standard deviation over seeds, last of {study.base.optimiser.epochs} epochs, deployed (integer) form. Learning rates were "
        f"chosen per method, condition and optimiser on the validation part, one training each ({rates}); all other settings are "
        f"shared, strengths are their authors'. {len(study.finished(study.final()))} of {planned * len(study.seeds)} final and "
        f"{len(study.finished(study.tuning()))} tuning trainings are in, about {seconds / 3600:.1f} hours of one core; made by "
        f"commit {', '.join(commits) or '–'}.\n\n"
        f"Differences are to '{BASELINE}', paired by seed: mean ± half width of the 95 % confidence interval, `*` where it "
        "excludes zero; among twenty comparisons one is marked by chance. *Could see*: the smallest true difference that this many "
        "seeds would have marked in four of five studies. *Probe*: logistic regression on the frozen branch's features. *Entropy*: "
        "of α(t) of the fused output, 1 is uniform. SynOps are counted by the exact engine."
    )


def _table(results: Results, condition: str, optimiser: str) -> str:
    alone = " | ".join(f"{_ENGLISH[m]} alone | {_ENGLISH[m]} probe" for m in MODALITIES)
    lines = [
        f"## {condition.capitalize()}, {optimiser}",
        "",
        f"| method | n | fused | difference | could see | {alone} | entropy | kSynOps | learning rate |",
        "|---|" + "---|" * 10,
    ]
    rates, judged = results.study.best_rates(), results.study.judged
    for method in results.study.methods:
        cell, against = results.cell(condition, optimiser, method.name), results.against(condition, optimiser, method.name)
        if not cell.rows and not cell.n_failed:
            continue
        told = ("–", "–") if against is None or method.name == BASELINE else (against.text(), f"{against.detectable:.1f}")
        failed = f" ({cell.n_failed} failed)" if cell.n_failed else ""
        each = " | ".join(f"{cell.spread(f'{judged}_{m}')} | {cell.mean(f'probe_{m}', '.1f')}" for m in MODALITIES)
        synops = [v / 1000 for v in cell.by_seed("synops_per_window").values()]
        lines.append(
            f"| {method.name} | {len(cell.rows)}{failed} | {cell.spread(f'{judged}_fused')} | {told[0]} | {told[1]} | {each} | "
            f"{cell.mean('alpha_entropy', '.2f')} | {f'{statistics.mean(synops):.1f}' if synops else '–'} | "
            f"{rates[condition, method.name, optimiser]:g} |"
        )
    return "\n".join(lines)


def _plot(results: Results, title: str, path: Path) -> None:
    """Fused accuracy of every seed, and the mean, per method; one panel per condition and optimiser."""
    study, names = results.study, [m.name for m in results.study.methods]
    width, height = 2 + 4 * len(study.optimisers), 0.8 + (0.6 + 0.28 * len(names)) * len(study.conditions)
    figure = new_figure(width, height)
    axes = figure.subplots(len(study.conditions), len(study.optimisers), squeeze=False, sharex=True, sharey=True)
    for line, condition in zip(axes, study.conditions, strict=True):
        for axis, optimiser in zip(line, study.optimisers, strict=True):
            for y, name in enumerate(names):
                if values := list(results.cell(condition, optimiser, name).by_seed(f"{study.judged}_fused").values()):
                    axis.plot(values, [y] * len(values), "o", color="tab:blue", alpha=0.4, markersize=4)
                    axis.plot([statistics.mean(values)], [y], "|", color="black", markersize=12)
                    if name == BASELINE:
                        axis.axvline(statistics.mean(values), color="tab:gray", linewidth=1, linestyle="--")
            axis.set_yticks(range(len(names)), names, fontsize=8)
            axis.set_ylim(len(names) - 0.5, -0.5)
            axis.set_title(f"{condition}, {optimiser}", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel(f"fused accuracy, {study.judged}, %")
    figure.suptitle(f"{title}: seeds (dots), mean (bar), mean of '{BASELINE}' (dashed)", fontsize=9)
    with written_at_once(path) as part:
        figure.savefig(part, format="png", dpi=120)
