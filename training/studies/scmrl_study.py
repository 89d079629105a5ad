"""S-CMRL beside TAAF and plain concatenation, its ablation, and all of them under noise (`taaf-train --ablation scmrl`)."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from taaf.models.config import NetworkConfig
from taaf.models.errors import ConfigError
from taaf.models.files.writing import write_at_once
from taaf.training.config import DataConfig, LossConfig, TrainConfig
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


def ablation_cells() -> list[SystemCell]:
    """What the cross-modal residual and the semantic alignment add, one after the other (item of the paper's ablation)."""

    def cell(row: str, folder: str, mode: str, sao: float) -> SystemCell:
        return SystemCell(row, folder, {"head": {"cross_modal": mode}, "loss": {"sao": sao}})

    return [
        cell("no cross-modal residual", "none", "none", 0.0),
        cell("attention without residual", "attention", "attention", 0.0),
        cell("with residual", "residual", "residual", 0.0),
        SystemCell("with residual + SAO", "scmrl"),
    ]


def option_cells(base: TrainConfig) -> list[SystemCell]:
    """One option of S-CMRL at a time."""
    pooled = {m: {**b, "downsampling": "max_pool"} for m, b in base.network.to_dict()["branches"].items()}
    return [
        SystemCell("strided convolutions (default)", "scmrl"),
        SystemCell("max pooling, as the original", "max_pool", {"branches": pooled}),
        SystemCell("a modality silenced in 30 % of the samples (ours)", "modality_drop", {"optimiser": {"modality_drop": 0.3}}),
    ]


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
            measured = evaluate(model, _test_set(DataConfig(**values["data"] | noise)))
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
    """Train and measure what is missing, write ``scmrl.md``, ``scmrl.csv`` and ``scmrl_noise.png``; returns their paths."""
    from taaf.training.studies.scmrl_tables import write_study

    head = base.network.head.type
    if head != "scmrl":
        raise ConfigError(f'--ablation scmrl: head.type (={head!r}) of the configuration must be "scmrl"')
    base = replace(base, network=base.network.completed(NetworkConfig.from_dict({}).inputs))  # as stored with every cell
    cells = [*system_cells(base), *ablation_cells(), *option_cells(base)]
    results = []
    for cell, seed, metrics in run_cells(
        cells, base, request.seeds, request.out, request.workers, request.quiet, train_and_measure
    ):
        results.append((cell, seed, metrics))
        request.tell(f"{cell.row} seed {seed}: {metrics['test_fused']:.1f} %")
    return write_study(results, base, request.tables)
