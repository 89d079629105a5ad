"""Training configuration: TOML file < command line flags; unknown keys are errors with a suggestion."""

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import tomli

from taaf.models.config import CHOICES as MODEL_CHOICES
from taaf.models.config import ModelConfig, size_problem
from taaf.models.errors import ConfigError, did_you_mean
from taaf.models.files.placeholders import placeholder
from taaf.models.fusion import FUSIONS
from taaf.training.strategies.balance import LossOptions
from taaf.training.strategies.step import STRATEGIES


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW.

    ``schedule``: "one_cycle" (rise over the first tenth, then fall, both cosines; no other warm-up) or "cosine" (linear rise
    over ``warmup_epochs``, then one cosine to 0: `taaf.training.schedule`).
    ``freeze_epoch``: from this epoch on (0-based) batch norm uses its running statistics, so training sees exactly
    the integer network that is exported. ``shift_pixels``: events are shifted by up to this many pixels per batch.
    ``audio_drop``: fraction of audio input spikes dropped at random. ``modality_drop``: fraction of samples of which one
    modality, either of both, is silenced (ours).
    """

    epochs: int = 50
    batch_size: int = 50
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    freeze_epoch: int = 35
    shift_pixels: int = 2
    audio_drop: float = 0.1
    modality_drop: float = 0.0
    seed: int = 1
    schedule: str = "one_cycle"
    warmup_epochs: int = 5


@dataclass(frozen=True)
class LossConfig(LossOptions):
    """Eqs 8-10 and their readings (`taaf.training.strategies.balance.LossOptions`).

    ``balance``: a name of `taaf.training.strategies.step.STRATEGIES`; it acts up to epoch ``modulation_end`` (exclusive).
    """

    balance: str = "taaf"
    modulation_end: int = 35


@dataclass(frozen=True)
class DataConfig:
    """Where the samples come from.

    ``set``: "ead-mini" (shipped), "generated" (`taaf.training.datasets.generated`) or a name of `taaf.training.datasets.registry`,
    which needs ``root``, the folder of the data on disk. ``cache``: folder of preprocessed samples (default: .taaf-cache in
    ``root``). ``split``: "official", or of some sets "speaker-disjoint" or "recording-disjoint". ``on_bad``: "stop" at a bad
    media file or "skip" it. ``train_pairs``, ``test_pairs``: only the first so many (0: all). ``audio_snr_db``,
    ``event_snr_db``: noise added to EAD-mini's audio, and to its images before events are simulated (99 or more: none).
    """

    set: str = "ead-mini"
    root: str = ""
    cache: str = ""
    split: str = "official"
    on_bad: str = "stop"
    workers: int = 0
    train_pairs: int = 0
    test_pairs: int = 0
    audio_snr_db: float = 99.0
    event_snr_db: float = 99.0


@dataclass(frozen=True)
class TrainConfig:
    """The resolved configuration; it is stored with every checkpoint."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


_CHOICES = MODEL_CHOICES | {
    "fusion": tuple(FUSIONS),
    "balance": tuple(STRATEGIES),
    "schedule": ("one_cycle", "cosine"),
    "split": ("official", "speaker-disjoint", "recording-disjoint"),
    "on_bad": ("stop", "skip"),
}
_MAY_BE_ZERO = {
    "weight_decay", "shift_pixels", "audio_drop", "modality_drop", "seed", "lam", "phi", "beta", "suppression", "modulation_end",
    "freeze_epoch", "entropy_floor", "entropy_weight", "smoothing", "sao", "warmup_epochs", "workers", "train_pairs", "test_pairs",
}  # fmt: skip
_ANY_NUMBER = {"audio_snr_db", "event_snr_db"}
_AT_MOST = {
    "lam": 1,
    "entropy_floor": 1,
    "smoothing": 0.99,
    "audio_drop": 1,
    "modality_drop": 1,
    "seed": 1 << 40,
    "shift_pixels": 64,
    "batch_size": 1 << 20,
}
MAX_NUMBER = 1 << 53  # of any setting; sizes of the network have their own limits
MAX_FILE_BYTES = 1 << 20


def _section(current: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: found {type(values).__name__}, expected a table")
    known_values = {f.name: getattr(current, f.name) for f in fields(current)}
    known = {name: type(value) for name, value in known_values.items()}
    for key, given in values.items():
        value = given
        if key not in known:
            raise ConfigError(f"{where}.{key}: unknown key; {did_you_mean(key, sorted(known))}")
        kind = known[key]
        if isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:  # also not a number
            raise ConfigError(f"{where}.{key} (={str(value)[:40]}): must be a number of up to {MAX_NUMBER}")
        if kind is float and type(value) is int:
            value = values[key] = float(value)
        if type(value) is not kind:
            raise ConfigError(f"{where}.{key} (={value!r}): expected {kind.__name__}, found {type(value).__name__}")
        if key in _CHOICES and value not in _CHOICES[key]:
            raise ConfigError(f"{where}.{key} (={value!r}): allowed {', '.join(_CHOICES[key])}")
        if kind in (int, float) and key not in _ANY_NUMBER and not (value >= 0 if key in _MAY_BE_ZERO else value > 0):
            raise ConfigError(f"{where}.{key} (={value!r}): must be {'>= 0' if key in _MAY_BE_ZERO else '> 0'}")
        if kind in (int, float) and not abs(value) <= _AT_MOST.get(key, 1 << 53):
            raise ConfigError(f"{where}.{key} (={str(value)[:40]}): must be a number up to {_AT_MOST.get(key, 1 << 53)}")
        problem = size_problem(key, value, known_values[key]) if isinstance(current, ModelConfig) else None
        if problem is not None:
            raise ConfigError(f"{where}.{problem}")
    return replace(current, **values)


def from_dict(values: dict[str, Any], where: str = "config") -> TrainConfig:
    """Resolve a nested dictionary over the defaults; raises `ConfigError` naming the key."""
    config = TrainConfig()
    for name, section in values.items():
        known = [f.name for f in fields(config)]
        if name not in known:
            raise ConfigError(f"{where}: unknown table [{name}]; {did_you_mean(name, known)}")
        config = replace(config, **{name: _section(getattr(config, name), section, f"{where}: {name}")})
    return config


def with_root(data: DataConfig, root: str | None, cache: str | None = None) -> DataConfig:
    """The same data set, lying at ``root`` and preprocessed into ``cache`` (None: where it lay, and was)."""
    return replace(
        data,
        root=data.root if root is None else _place(root),
        cache=data.cache if cache is None else _place(cache),
    )


def _place(folder: str) -> str:
    """An absolute path: a configuration is read again in other working folders."""
    return str(Path(folder).expanduser().absolute()) if folder else ""


def load_config(path: Path | None, overrides: dict[str, dict[str, Any]]) -> TrainConfig:
    """Read a TOML file (or the defaults) and apply ``overrides`` ({table: {key: value}}) that are not None."""
    values: dict[str, Any] = {}
    where = "config"
    if path is not None:
        where = str(path)
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
            if len(raw) > MAX_FILE_BYTES:
                raise ConfigError(f"{path}: more than {MAX_FILE_BYTES} bytes; is it a configuration?")
            values = tomli.loads(raw.decode("utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot read the configuration ({error})") from error
        except (ValueError, RecursionError) as error:  # of tomli, and of numbers with too many digits
            raise ConfigError(f"{path}: {placeholder(path) or f'not valid TOML ({error})'}") from error
    for table, entries in overrides.items():
        if given := {k: v for k, v in entries.items() if v is not None}:
            if not isinstance(values.setdefault(table, {}), dict):
                raise ConfigError(f"{where}: {table}: found {type(values[table]).__name__}, expected a table")
            values[table].update(given)
    config = from_dict(values, where)
    return replace(config, data=with_root(config.data, config.data.root, config.data.cache))
