"""Training configuration: TOML file < command line flags; unknown keys are errors with a suggestion."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli

from taaf.models.config import NetworkConfig
from taaf.models.errors import ConfigError, did_you_mean
from taaf.models.files.placeholders import placeholder
from taaf.models.settings import Count, Fraction, NotNegative, Range, read_dataclass
from taaf.training.strategies.options import LossOptions

MAX_FILE_BYTES = 1 << 20
_Decibel = Annotated[float, Range(-200.0, 1000.0)]


@dataclass(frozen=True)
class OptimiserConfig:
    """How weights are moved: ``method`` "adamw", or "sgd" with ``momentum``; ``weight_decay`` is that of either.

    OGM-GE, PMR and AGM scale gradients and were published with SGD, momentum 0.9. AdamW divides a gradient by its own running
    size and all but undoes such a scale. SGD wants larger learning rates, of the order of 0.1 here.

    ``schedule``: "one_cycle" (rise over the first tenth, then fall, both cosines; no other warm-up) or "cosine" (linear rise
    over ``warmup_epochs``, then one cosine to 0: `taaf.training.schedule`).
    ``freeze_epoch``: from this epoch on (0-based) batch norm uses its running statistics, so training sees exactly
    the integer network that is exported.

    `taaf.training.augmentation`: ``shift_pixels``, maps are moved by up to this many pixels, events per batch and frames per sample;
    of frames only, per sample: ``crop_area``, the smallest share of a frame's area that a random crop keeps (1: no crops), and
    ``flip``, whether half of them are mirrored. ``audio_drop``: fraction of the input values of other modalities dropped at
    random. ``modality_drop``: fraction of samples of which one modality, any of them, is silenced (ours).
    """

    epochs: int = 50
    batch_size: Annotated[int, Range(1, 1 << 20)] = 50
    learning_rate: float = 2e-3
    method: Literal["adamw", "sgd"] = "adamw"
    momentum: Annotated[float, Range(0.0, 0.999)] = 0.9
    weight_decay: NotNegative = 1e-2
    freeze_epoch: Count = 35
    shift_pixels: Annotated[int, Range(0, 64)] = 2
    crop_area: Annotated[float, Range(0.01, 1.0)] = 1.0
    flip: bool = False
    audio_drop: Fraction = 0.1
    modality_drop: Fraction = 0.0
    seed: Annotated[int, Range(0, 1 << 40)] = 1
    schedule: Literal["one_cycle", "cosine"] = "one_cycle"
    warmup_epochs: Count = 5


@dataclass(frozen=True)
class LossConfig(LossOptions):
    """Eqs 8-10 and their readings (`taaf.training.strategies.options.LossOptions`).

    ``balance``: a name of `taaf.training.strategies.step.STRATEGIES`; it acts up to epoch ``modulation_end`` (exclusive).
    """

    balance: str = "taaf"
    modulation_end: Count = 35


@dataclass(frozen=True)
class DataConfig:
    """Where the samples come from.

    ``set``: "ead-mini", "ead36-balanced" or "ead36-imbalanced" (shipped), "generated" (`taaf.training.datasets.generated`), "arrays"
    (`taaf.training.datasets.arrays`: an .npz, HDF5 file or folder of .npy of one's own), "module:function"
    (`taaf.training.datasets.own`: a data set of one's own) or a name of `taaf.training.datasets.registry`. ``root``: where
    the data lie on disk. ``cache``: folder of preprocessed samples (default: .taaf-cache in ``root``). ``split``:
    "official", or of some sets "speaker-disjoint", "recording-disjoint" or "half". ``on_bad``: "stop" at a bad media file or
    "skip" it. ``train_pairs``, ``test_pairs``: only the first so many (0: all).
    ``validation``: share of the training part that is held out of training, before ``train_pairs``, where a set has no
    validation part of its own (`taaf.training.held_out`); 0 holds nothing out. ``audio_snr_db``, ``event_snr_db``: noise
    added to the audio of EAD-mini or EAD-36, and to its images before events are simulated (99 or more: none). ``noise_in``: "all"
    parts, or "train" alone: the noise protocol of S-CMRL's public code, which trains on noisy frames and tests on clean ones.
    """

    set: str = "ead-mini"
    root: str = ""
    cache: str = ""
    split: Literal["official", "speaker-disjoint", "recording-disjoint", "half"] = "official"
    on_bad: Literal["stop", "skip"] = "stop"
    workers: Count = 0
    train_pairs: Annotated[int, Range(0, 1 << 53)] = 0
    test_pairs: Annotated[int, Range(0, 1 << 53)] = 0
    validation: Annotated[float, Range(0.0, 0.9)] = 0.0
    audio_snr_db: _Decibel = 99.0
    event_snr_db: _Decibel = 99.0
    noise_in: Literal["all", "train"] = "all"


def _reference() -> NetworkConfig:
    return NetworkConfig.from_dict({})


@dataclass(frozen=True)
class TrainConfig:
    """The resolved configuration; it is stored with every checkpoint.

    In a file the network is written as tables ``[branches.NAME]``, ``[head]`` and ``[neuron]`` (`taaf.models.config`).
    """

    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=_reference)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    def to_dict(self) -> dict[str, Any]:
        parts = {name: asdict(getattr(self, name)) for name in ("data", "optimiser", "loss")}
        return {**parts, **self.network.to_dict()}


_NETWORK = ("branches", "head", "neuron")
_SECTIONS: dict[str, type[Any]] = {"data": DataConfig, "optimiser": OptimiserConfig, "loss": LossConfig}


def from_dict(values: Mapping[str, Any], where: str = "config") -> TrainConfig:
    """Resolve a nested dictionary over the defaults; raises `ConfigError` naming the key."""
    if "model" in values:
        raise ConfigError(
            f"{where}: [model]: networks are described in [branches.NAME] and [head]; see training/configs/ead_mini.toml"
        )
    for name in values:
        if name not in _SECTIONS and name not in _NETWORK:
            raise ConfigError(f"{where}: unknown table [{name}]; {did_you_mean(name, [*_SECTIONS, *_NETWORK])}")
    network = NetworkConfig.from_dict({k: v for k, v in values.items() if k in _NETWORK}, where)
    parts = {name: read_dataclass(kind, values.get(name, {}), f"{where}: {name}") for name, kind in _SECTIONS.items()}
    loss = parts["loss"]
    if loss.balance != LossConfig.balance:
        from taaf.training.strategies.step import STRATEGIES  # imports torch, which deployment does without

        if loss.balance not in STRATEGIES:
            raise ConfigError(
                f"{where}: loss.balance (={loss.balance[:40]!r}): unknown; {did_you_mean(loss.balance, STRATEGIES)}"
            )
    return TrainConfig(network=network, **parts)


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
            values[table] = {**values[table], **given}
    config = from_dict(values, where)
    return replace(config, data=with_root(config.data, config.data.root, config.data.cache))
