"""The user's own code and weights: a function that builds the network, and a state dict for it."""

import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from taaf.models.checkpoint import read_archive
from taaf.models.errors import CheckpointError, ConfigError
from taaf.models.slayer_lif import require_lava_dl

Module = nn.Module | Mapping[str, nn.Module]


def import_module(spec: str) -> Module:
    """Call ``file.py:function`` (or ``module:function``), which is the user's own code, and return its module or modules.

    Raises
    ------
    ConfigError
        If it cannot be imported, or returns something else.
    """
    require_lava_dl()  # quietly, before the user's file imports it
    path, _, function = spec.rpartition(":")
    if not path or not function.isidentifier():
        raise ConfigError(f"{spec}: expected FILE.py:FUNCTION, a function without arguments that builds the network")
    try:
        found = getattr(_import(path), function)
    except (Exception, SystemExit) as error:  # whatever the user's file does
        raise ConfigError(f"{spec}: cannot be imported ({type(error).__name__}: {error})") from error
    try:
        required = [
            p for p in inspect.signature(found).parameters.values() if p.default is p.empty and p.kind < p.VAR_POSITIONAL
        ]
        if required:
            raise TypeError(f"needs arguments: {', '.join(p.name for p in required)}")
        model = found()
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{spec}: {function}() failed ({type(error).__name__}: {error})") from error
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, Mapping) and model and all(isinstance(m, nn.Module) for m in model.values()):
        return dict(model)
    raise ConfigError(f"{spec}: {function}() returned {type(model).__name__}; allowed a torch module or {{modality: module}}")


def _import(path: str) -> Any:
    file = Path(path)
    if file.suffix != ".py":
        return importlib.import_module(path)
    if not file.is_file():
        raise FileNotFoundError(f"no such file {file}")
    sys.path.insert(0, str(file.resolve().parent))  # what it imports lies beside it
    module_spec = importlib.util.spec_from_file_location(file.stem, file)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[file.stem] = module
    module_spec.loader.exec_module(module)
    return module


def load_weights(model: Module, path: Path, inputs: Mapping[str, np.ndarray]) -> None:
    """Load a state dict, which is not trusted, into the user's module or modules.

    The module runs once first: SLAYER makes the decays and delays of its neurons at the first forward.

    Raises
    ------
    CheckpointError
        If the file is none, or does not fit; names the first key that does not.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; give --weights the file of torch.save(model.state_dict(), FILE)")
    content = read_archive(path, "state dict")
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path}: holds {type(content).__name__}; allowed a state dict, torch.save(model.state_dict(), path)"
        )
    for key in ("state_dict", "model_state_dict", "model", "state"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    modules = {"": model} if isinstance(model, nn.Module) else dict(model)
    for name, module in modules.items():
        given = [x for m, x in inputs.items() if name in ("", m)]
        state = content.get(name) if name and isinstance(content.get(name), Mapping) else content
        if name and state is content:
            state = {k.removeprefix(f"{name}."): v for k, v in content.items() if k.startswith(f"{name}.")}
        where = f"{path} ({name})" if name else str(path)
        _load(module, dict(state or {}), [torch.from_numpy(x[:1].astype(np.float32)) for x in given], where)


def _load(module: nn.Module, state: dict[str, torch.Tensor], inputs: list[torch.Tensor], where: str) -> None:
    if inputs:
        was_training = module.training
        with torch.no_grad():
            module.eval()(*inputs)
        module.train(was_training)
    if bad := [k for k, x in state.items() if isinstance(x, torch.Tensor) and not torch.isfinite(x).all()]:
        raise CheckpointError(f"{where}: {bad[0]} holds values that are NaN or infinite; train again from an earlier one")
    try:
        wrong = module.load_state_dict(state, strict=False)
    except Exception as error:  # shapes
        raise CheckpointError(f"{where}: does not fit the network ({str(error).splitlines()[-1].strip()})") from error
    if problem := [*wrong.missing_keys, *wrong.unexpected_keys][:1]:
        kind = "missing in the file" if wrong.missing_keys else "not in the network"
        raise CheckpointError(f"{where}: {problem[0]} is {kind}; give the weights of this very network")
