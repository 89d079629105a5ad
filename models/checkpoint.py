"""Checkpoints: plain tensors and numbers, written atomically, read without trusting the file (`taaf.models.files.torch_archive`)."""

import io
from pathlib import Path
from typing import Any

import torch

from taaf.models.config import ModelConfig
from taaf.models.errors import CheckpointError
from taaf.models.files.placeholders import naming_placeholders
from taaf.models.files.torch_archive import read_tensor_archive
from taaf.models.files.writing import write_at_once
from taaf.models.taaf import TaafSnn

FORMAT = "taaf-checkpoint"
VERSION = 2


def save_checkpoint(path: Path, model: TaafSnn, config: dict[str, Any], **extra: Any) -> None:
    """Write ``path`` in one step: a crash leaves the old file or the new one; raises `OutputError` if it cannot be written."""
    content = {"format": FORMAT, "version": VERSION, "config": config, "state": model.state_dict(), **extra}
    buffer = io.BytesIO()  # on a full disk torch.save would raise what names no cause
    torch.save(content, buffer)
    write_at_once(path, buffer.getvalue())


@naming_placeholders
def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read and check a checkpoint; raises `CheckpointError` that says what is wrong with the file."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; `taaf-train` writes model.pt into its --out folder")
    try:
        content = read_tensor_archive(path)
    except ValueError as error:
        raise CheckpointError(f"{path}: not a readable checkpoint: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a taaf checkpoint (no format mark {FORMAT!r}); train one with `taaf-train`")
    if content.get("version") != VERSION:
        raise CheckpointError(f"{path}: checkpoint version {content.get('version')!r}; this taaf reads {VERSION}")
    return content


def load_model(path: Path) -> tuple[TaafSnn, dict[str, Any]]:
    """Rebuild the network of a checkpoint in eval mode; returns it and the checkpoint's content.

    Raises
    ------
    CheckpointError
        If the file is missing, truncated, foreign, of other shapes than its own configuration says, or not finite.
    """
    content = read_checkpoint(path)
    try:
        config = ModelConfig.from_dict(content["config"]["model"])
        _check_sizes(config, content["state"])
        model = TaafSnn(config)
        model.load_state_dict(content["state"])
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # what torch raises on foreign values is not listed anywhere
        first = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        raise CheckpointError(f"{path}: weights do not fit the stored configuration: {first}") from error
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).sum())
            raise CheckpointError(
                f"{path}: {name} holds {bad} values that are NaN or infinite; train again from an earlier one"
            )
    return model.eval(), content


def _check_sizes(config: ModelConfig, state: dict[str, torch.Tensor]) -> None:
    """Compare shapes on the meta device, before the network that the configuration describes takes any memory."""
    with torch.device("meta"):
        expected = TaafSnn(config).state_dict()
    if missing := sorted(expected.keys() ^ state.keys()):
        raise KeyError(f"{missing[0]} is in one of them only")
    for name, value in expected.items():
        if state[name].shape != value.shape:
            raise ValueError(f"{name} has shape {tuple(state[name].shape)}, the configuration says {tuple(value.shape)}")
