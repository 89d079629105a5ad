"""Checkpoints: plain tensors and numbers, written atomically, read without trusting the file (`taaf.models.files.torch_archive`)."""

import io
from pathlib import Path
from typing import Any

import torch

from taaf.models import version2
from taaf.models.config import NetworkConfig
from taaf.models.errors import CheckpointError, TaafError
from taaf.models.files.placeholders import naming_placeholders
from taaf.models.files.recognise import recognised
from taaf.models.files.torch_archive import read_tensor_archive
from taaf.models.files.writing import write_at_once
from taaf.models.heads import as_stored
from taaf.models.network import MultimodalSnn

FORMAT = "taaf-checkpoint"
VERSION = 3
READABLE = (2, VERSION)


def save_checkpoint(path: Path, model: MultimodalSnn, config: dict[str, Any], **extra: Any) -> None:
    """Write ``path`` in one step: a crash leaves the old file or the new one; raises `OutputError` if it cannot be written."""
    content = {"format": FORMAT, "version": VERSION, "config": config, "state": model.state_dict(), **extra}
    buffer = io.BytesIO()  # on a full disk torch.save would raise what names no cause
    torch.save(content, buffer)
    write_at_once(path, buffer.getvalue())


def read_archive(path: Path, kind: str) -> Any:
    """The content of a file of tensors; raises `CheckpointError` that says what was found instead of this ``kind`` of file."""
    try:
        return read_tensor_archive(path)
    except ValueError as error:
        what = recognised(path)
        raise CheckpointError(f"{path}: not a readable {kind}: {error}{f' ({what})' if what else ''}") from error


@naming_placeholders
def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read and check a checkpoint, of version 2 in today's terms; raises `CheckpointError` that says what is wrong with the file."""
    if path.is_dir():
        raise CheckpointError(f"{path}: not a taaf checkpoint ({recognised(path)}); `taaf-train` writes one")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; `taaf-train` writes model.pt into its --out folder")
    content = read_archive(path, "checkpoint")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        what = recognised(path) or "no format mark " + repr(FORMAT)
        raise CheckpointError(f"{path}: not a taaf checkpoint ({what}); `taaf-train` writes one")
    if content.get("version") not in READABLE:
        raise CheckpointError(f"{path}: checkpoint version {content.get('version')!r}; this taaf reads {READABLE}")
    found = content if content["version"] == VERSION else _of_version_2(path, content)
    config = found.get("config")
    if isinstance(config, dict) and "head" in config:
        found = found | {"config": config | {"head": as_stored(config["head"])}}
    return found


def _of_version_2(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    try:
        return content | {"config": version2.config_of(content["config"]), "state": version2.state_of(content["state"])}
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # of values that nobody checked
        raise CheckpointError(f"{path}: not a checkpoint of version 2 ({type(error).__name__}: {error})") from error


def own_code(config: Any) -> dict[str, str]:
    """Networks and data set of a stored configuration that are not taaf's: where it names them -> ``module:function``."""
    tables = config if isinstance(config, dict) else {}
    branches, data = tables.get("branches"), tables.get("data")
    named = (
        {f"branches.{m}.network": b.get("network") for m, b in branches.items() if isinstance(b, dict)}
        if isinstance(branches, dict)
        else {}
    )
    named["data.set"] = data.get("set") if isinstance(data, dict) else None
    return {where: name for where, name in named.items() if isinstance(name, str) and ":" in name}


def require_known_code(path: Path, config: Any, allowed: bool = False) -> None:
    """Raise `CheckpointError` if a file's configuration names code of its own, which reading it would run; ``allowed``: never."""
    if not allowed and (found := own_code(config)):
        named = ", ".join(f"{where} (={name[:60]!r})" for where, name in found.items())
        raise CheckpointError(
            f"{path}: names code of its own, {named}; if you trust it, taaf-export takes --own-code, and taaf-train a --config that "
            "names the same"
        )


def load_model(
    path: Path, own_code: bool = False, content: dict[str, Any] | None = None
) -> tuple[MultimodalSnn, dict[str, Any]]:
    """Rebuild the network of a checkpoint in eval mode; returns it and the checkpoint's content.

    Parameters
    ----------
    path : Path
        The checkpoint.
    own_code : bool
        Whether networks and data sets that it names as ``module:function`` may be imported, that is, run.
    content : dict, optional
        What `read_checkpoint` found there, if it was read before.

    Raises
    ------
    CheckpointError
        If the file is missing, truncated, foreign, of other shapes than its own configuration says, or not finite, or names
        code of its own that is not allowed.
    """
    content = content or read_checkpoint(path)
    require_known_code(path, content.get("config"), own_code)
    try:
        config = NetworkConfig.from_dict(content["config"]).check()
        _check_sizes(config, content["state"])
        model = MultimodalSnn(config)
        model.load_state_dict(content["state"])
    except TaafError as error:
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


def _check_sizes(config: NetworkConfig, state: dict[str, torch.Tensor]) -> None:
    """Compare shapes on the meta device, before the network that the configuration describes takes any memory."""
    with torch.device("meta"):
        expected = MultimodalSnn(config).state_dict()
    if missing := sorted(expected.keys() ^ state.keys()):
        raise KeyError(f"{missing[0]} is in one of them only")
    for name, value in expected.items():
        if state[name].shape != value.shape:
            raise ValueError(f"{name} has shape {tuple(state[name].shape)}, the configuration says {tuple(value.shape)}")
