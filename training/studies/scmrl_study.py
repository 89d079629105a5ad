"""S-CMRL beside TAAF and plain concatenation, clean and under noise, its ablation and options (`taaf-train --ablation scmrl`), and
its attentions, comparisons and sweeps, and noise in training (`taaf-train --ablation scmrl_sweeps`).

What the paper's experiments are (arXiv 2502.12488) is what its public scripts run: without semantic alignment the attention itself is
added; alpha from 0 to 2; temperatures from 0.03 to 0.5; and noise on the visual input *in training only*, tested clean. Theirs is
drawn anew for every batch and time step, ours once per image. They report the best epoch on the test set; we the last.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from taaf.models.config import NetworkConfig
from taaf.models.errors import ConfigError
from taaf.models.files.writing import write_at_once
from taaf.training.config import DataConfig, LossConfig, TrainConfig
from taaf.training.datasets.ead_mini import NO_NOISE_DB
from taaf.training.studies.cells import Request, run_cells, train_cell

SNR_DB = (30.0, 20.0, 10.0, 0.0)
NOISY = {"audio": ("audio_snr_db",), "event": ("event_snr_db",), "both": ("audio_snr_db", "event_snr_db")}
S_CMRL, TAAF, CONCAT = "S-CMRL", "TAAF", "concatenation"
NOISE_FILE = "noise.json"


@dataclass(frozen=True)
class SystemCell:
    """One system: the changes it makes, table by table, in the base configuration."""

    row: str
    folder: str
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def config(self, base: TrainConfig, seed: int) -> dict[str, dict[str, Any]]:
        """The base configuration with this system's changes, as a nested dictionary."""
        values = base.to_dict()
        for table, entries in self.changes.items():
            whole = table == "branches" or "type" in entries
            values[table] = dict(entries) if whole else values[table] | dict(entries)
        values["optimiser"] |= {"seed": seed}
        return values


def _embedded(row: str, folder: str, base: TrainConfig, head: dict[str, Any], loss: dict[str, Any]) -> SystemCell:
    """A system with the reference model's branches, losses and optimiser, on the study's data, epochs and batches."""
    losses, reference = LossConfig(modulation_end=base.loss.modulation_end), NetworkConfig.from_dict({}).to_dict()
    return SystemCell(
        row,
        folder,
        {
            "branches": reference["branches"],
            "head": reference["head"] | head,
            "loss": asdict(losses) | loss,
            "optimiser": {"schedule": "one_cycle", "weight_decay": 1e-2},
        },
    )


def _changed(row: str, folder: str, head: Mapping[str, Any], sao: float = 1.0, **loss: float) -> SystemCell:
    return SystemCell(row, folder, {"head": head, "loss": {"sao": sao, **loss}})


@dataclass(frozen=True)
class Section:
    """Rows that are compared with the first one, or, ``stepwise``, each with the row above."""

    title: str
    cells: Sequence[SystemCell]
    stepwise: bool = False
    note: str = ""


_RAW = {"residual_layer": "none"}  # what the public code does without semantic alignment
RESIDUAL = "with residual, without SAO: CCSSA is added"


def ablation_section() -> Section:
    """What the cross-modal residual and the semantic alignment add, one after the other (item of the paper's ablation)."""
    cells = [
        _changed("no cross-modal residual", "none", {"cross_modal": "none"}, 0.0),
        _changed("CCSSA without residual", "attention_raw", {"cross_modal": "attention", **_RAW}, 0.0),
        _changed(RESIDUAL, "residual_raw", _RAW, 0.0),
        _changed("the same through a spiking layer (ours)", "residual", {}, 0.0),
        SystemCell("with residual + SAO", "scmrl"),
    ]
    return Section("Ablation", cells, stepwise=True)


def option_section(base: TrainConfig) -> Section:
    """One option of S-CMRL at a time."""
    pooled = {m: {**b, "downsampling": "max_pool"} for m, b in base.network.to_dict()["branches"].items()}
    cells = [
        SystemCell("default: strided convolutions, attention threshold 1.0", "scmrl"),
        SystemCell("max pooling, as the original", "max_pool", {"branches": pooled}),
        _changed("attention threshold 0.5, as the original is written", "threshold_half", {"attention_threshold": 0.5}),
        SystemCell("a modality silenced in 30 % of the samples (ours)", "modality_drop", {"optimiser": {"modality_drop": 0.3}}),
    ]
    return Section("Options", cells)


def sweep_sections() -> list[Section]:
    """Single attentions, the paper's comparisons, alpha and temperature."""
    alphas = [_changed(f"alpha {a:g}", f"alpha_{a:g}", {"residual_alpha": a}) for a in (0.0, 0.5, 1.0, 2.0)]
    hot = [_changed(f"temperature {t:g}", f"temperature_{t:g}", {}, sao_temperature=t) for t in (0.03, 0.05, 0.1, 0.5)]
    kinds = [
        _changed(f"{kind} alone", f"{kind}_raw", {"attention_kind": kind, **_RAW}, 0.0) for kind in ("spatial", "temporal")
    ]
    sca = {"cross_modal": "attention", "attention_kind": "spatial", **_RAW}
    compared = [
        _changed("WeightAttention", "weight_attention", {"cross_modal": "weight_attention"}, 0.0),
        _changed("SCA", "sca", sca, 0.0),
        _changed("CMCI, three losses", "cmci", {"cross_modal": "cmci"}, 0.0),
    ]
    return [
        Section("Attentions, without SAO", [_changed("spatial and temporal", "residual_raw", _RAW, 0.0), *kinds]),
        Section(
            "The paper's comparisons, on the same stems",
            [SystemCell(S_CMRL, "scmrl"), *compared],
            note="Ours in them: `models/token_comparisons.py`. CMCI's modalities alone are its own readouts.",
        ),
        Section("Weight of the residual", [SystemCell("alpha 1.5", "scmrl"), *alphas]),
        Section("Temperature of SAO", [SystemCell("temperature 0.07", "scmrl"), *hot]),
    ]


def training_noise(base: TrainConfig) -> dict[str, list[SystemCell]]:
    """System -> its cells trained without and with noise on the events, in the order of `training_levels`."""
    found = {}
    for cell in system_cells(base):
        noisy = [
            replace(
                cell,
                row=f"{cell.row}, {name}",
                folder=f"{cell.folder}_train_{db:g}",
                changes={**cell.changes, "data": {"event_snr_db": db, "noise_in": "train"}},
            )
            for name, db in training_levels().items()
        ]
        found[cell.row] = [cell, *noisy]
    return found


def training_levels() -> dict[str, float]:
    """Name of a level of the noise in training -> dB."""
    return {f"trained at {db:g} dB": db for db in SNR_DB}


def system_cells(base: TrainConfig) -> list[SystemCell]:
    """The three systems that are compared."""
    return [
        SystemCell(S_CMRL, "scmrl"),
        _embedded(TAAF, "taaf", base, {}, {}),
        _embedded(CONCAT, "concat", base, {"attention": "uniform"}, {"balance": "none", "beta": 0.0}),
    ]


def conditions() -> dict[str, dict[str, float]]:
    """Name -> the noise settings of [data]; "clean" first, then e.g. "audio 10 dB"."""
    noisy = {f"{which} {db:g} dB": dict.fromkeys(keys, db) for which, keys in NOISY.items() for db in SNR_DB}
    return {"clean": {}, **noisy}


def tested_on(data: Mapping[str, Any], noise: Mapping[str, float]) -> DataConfig:
    """The test set of a condition: noise that was for training alone is not in it."""
    clean = dict.fromkeys(NOISY["both"], NO_NOISE_DB) if data["noise_in"] == "train" else {}
    return DataConfig(**{**data, **clean, "noise_in": "all", **noise})


@lru_cache(maxsize=len(NOISY) * len(SNR_DB) + 1)
def _test_set(data: DataConfig) -> Any:
    from taaf.training.sources import open_split

    return open_split(data, NetworkConfig.from_dict({}).inputs, "test")


def train_and_measure(values: dict[str, Any], folder: str) -> dict[str, Any]:
    """`train_cell`, then the accuracy of every output under every condition, kept in ``noise.json``; a worker's task.

    Networks are trained on the data as configured; the noise of `conditions` is in the test set only.
    """
    from taaf.models.checkpoint import load_model
    from taaf.training.trainer import evaluate

    metrics = train_cell(values, folder)
    checkpoint, kept = Path(folder) / "model.pt", Path(folder) / NOISE_FILE
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    found = _read(kept)
    if found.get("checkpoint_sha256") != digest or set(found.get("accuracy_percent", {})) != set(conditions()):
        model, _ = load_model(checkpoint, own_code=True)  # just trained here, by the given configuration
        size = sum(p.numel() for p in model.parameters() if p.requires_grad)
        accuracy = {}
        for name, noise in conditions().items():
            measured = evaluate(model, _test_set(tested_on(values["data"], noise)))
            accuracy[name] = {u: measured[u] for u in ("fused", *model.config.modalities)}
        found = {"checkpoint_sha256": digest, "parameters": size, "accuracy_percent": accuracy}
        write_at_once(kept, json.dumps(found, indent=1) + "\n")
    return metrics | {"parameters": found["parameters"], "noise": found["accuracy_percent"]}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def scmrl_study(request: Request, base: TrainConfig) -> list[Path]:
    """Train and measure what is missing; write tables (and, of the study itself, a picture); returns their paths."""
    from taaf.training.studies.scmrl_tables import write_study, write_sweeps

    head = base.network.head.type
    if head != "scmrl":
        raise ConfigError(f'--ablation {request.which}: head.type (={head!r}) of the configuration must be "scmrl"')
    base = replace(base, network=base.network.completed(NetworkConfig.from_dict({}).inputs))  # as stored with every cell
    if sweeps := request.which == "scmrl_sweeps":
        sections, others = sweep_sections(), [cell for cells in training_noise(base).values() for cell in cells]
    else:
        sections, others = [ablation_section(), option_section(base)], system_cells(base)
    cells = {cell.row: cell for cell in [*others, *(cell for section in sections for cell in section.cells)]}
    results = []
    for cell, seed, metrics in run_cells(
        list(cells.values()), base, request.seeds, request.out, request.workers, request.quiet, train_and_measure
    ):
        results.append((cell, seed, metrics))
        request.tell(f"{cell.row} seed {seed}: {metrics['test_fused']:.1f} %")
    return (write_sweeps if sweeps else write_study)(results, sections, base, request.tables)
