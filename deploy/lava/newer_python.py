"""Opt-in: run the Lava runtime of lava-nc 0.10.0 on Python 3.11-3.13 and numpy 2, which it does not support itself.

``TAAF_LAVA_ON_NEWER_PYTHON`` names a folder that holds lava-nc, lava-dl and asteval, installed without their pins:

    uv pip install --target FOLDER --python-version 3.10 --no-deps lava-nc==0.10.0 lava-dl==0.6.0 asteval==0.9.33

Five things keep Lava from running there. Each is met where it arises; no arithmetic of Lava's is touched:

- dataclasses refuse unhashable defaults since 3.11, and the compiler's variable models use some: they get a hash, by identity;
- lava-dl imports its object detection (OpenCV, torchvision) with SLAYER's neurons, which NetX asks for: left out;
- Lava builds expressions from numbers' representations: NumPy prints scalars as it did before numpy 2 (``3``, not
  ``np.int64(3)``), in the whole process;
- ``np.reshape`` lost its argument ``newshape``: two methods of reshaping ports get one with ``shape``;
- a number of 8 bits and a Python integer give 8 bits since numpy 2, or an error: the fields of convolutions (kernel,
  stride, padding, dilation, groups), from which Lava computes sizes, are held in 32.

Whether the result is exact is for the suite to say, every layer type and the shipped bundle against the integer reference:

    TAAF_LAVA_ON_NEWER_PYTHON=FOLDER uv run --python 3.13 pytest -m needs_lava
"""

import dataclasses
import importlib
import os
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from taaf.models.lava_python import LAST

VARIABLE = "TAAF_LAVA_ON_NEWER_PYTHON"
_OBJECT_DETECTION = "lava.lib.dl.slayer.object_detection"


def prepare() -> None:
    """Make Lava importable from the named folder; nothing happens on Python 3.10 or where the variable is not set.

    Raises
    ------
    ImportError
        If the folder holds no Lava, or something Lava needs is missing.
    """
    folder = os.environ.get(VARIABLE)
    if not folder or sys.version_info[:2] <= LAST or _OBJECT_DETECTION in sys.modules:
        return
    if not (Path(folder) / "lava/magma").is_dir() or not (Path(folder) / "lava/lib/dl").is_dir():
        raise ImportError(f"{VARIABLE}={folder}: holds no lava-nc and lava-dl; see deploy/lava/newer_python.py")
    sys.path.append(folder)  # at the end: the wheels bring a package named "tests"
    original = dataclasses.dataclass
    dataclasses.dataclass = _hashable  # type: ignore[assignment]
    try:
        importlib.import_module("lava.magma.compiler.var_model")
    finally:
        dataclasses.dataclass = original
    sys.modules[_OBJECT_DETECTION] = ModuleType(_OBJECT_DETECTION)
    np.set_printoptions(legacy="1.25")  # type: ignore[arg-type,unused-ignore]  # a value of numpy 2
    port = importlib.import_module("lava.magma.core.process.ports.ports").ReshapePort
    port.get_transform_func_fwd = lambda self: partial(np.reshape, shape=self.shape)
    port.get_transform_func_bwd = lambda self: partial(np.reshape, shape=self.old_shape)
    convolution = importlib.import_module("lava.proc.conv.models").AbstractPyConvModel
    for name in ("kernel_size", "stride", "padding", "dilation", "groups"):
        getattr(convolution, name).d_type = np.int32


_dataclass = dataclasses.dataclass


def _hashable(cls: Any = None, /, **options: Any) -> Any:
    """``dataclass`` whose classes are hashed by identity where they would not be hashable."""
    if cls is None:
        return lambda c: _hashable(c, **options)
    made = _dataclass(cls, **options)
    if made.__hash__ is None:
        made.__hash__ = object.__hash__
    return made
