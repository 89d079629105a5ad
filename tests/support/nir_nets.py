"""NIR files for tests: a small net by hand, and what it means written out as loops."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np

DT = 1e-3


def full(n: int | tuple[int, ...], value: float) -> np.ndarray:
    """A NIR parameter, the same for every neuron."""
    return np.full(n, value, np.float64)


def lif(n: int | tuple[int, ...], **changed: Any) -> nir.LIF:
    """tau 4 steps, R 1, threshold 0.4."""
    values = {"tau": 4 * DT, "r": 1.0, "v_leak": 0.0, "v_threshold": 0.4, "v_reset": 0.0} | changed
    return nir.LIF(**{k: v if isinstance(v, np.ndarray) else full(n, v) for k, v in values.items()})


def cuba(n: int, **changed: Any) -> nir.CubaLIF:
    """tau_syn 2 steps, tau_mem 4 steps, w_in 2, R 1, threshold 0.4."""
    values = {"tau_syn": 2 * DT, "tau_mem": 4 * DT, "w_in": 2.0, "r": 1.0, "v_leak": 0.0, "v_threshold": 0.4, "v_reset": 0.0}
    return nir.CubaLIF(**{k: v if isinstance(v, np.ndarray) else full(n, v) for k, v in (values | changed).items()})


def chain(shape: tuple[int, ...], *layers: nir.NIRNode, metadata: dict[str, Any] | None = None) -> nir.NIRGraph:
    """Input, the layers called a, b, c..., Output."""
    names = [chr(ord("a") + i) for i in range(len(layers))]
    nodes = {"input": nir.Input(np.array(shape)), **dict(zip(names, layers, strict=True)), "output": nir.Output(np.array([1]))}
    line = list(nodes)
    return nir.NIRGraph(nodes, list(pairwise(line)), metadata or {}, type_check=False)


def weights(seed: int, *shape: int, scale: float = 0.5) -> np.ndarray:
    """Normal with a positive mean, so that layers fire."""
    return np.random.default_rng(seed).normal(0.3 * scale, scale, shape)


def small(seed: int = 0) -> nir.NIRGraph:
    """12 -> 10 LIF -> 5 LIF, a bias in the first layer."""
    first = nir.Affine(weights(seed, 10, 12), 0.1 * weights(seed + 1, 10))
    return chain((12,), first, lif(10), nir.Linear(weights(seed + 2, 5, 10)), lif(5))


def write(path: Path, graph: nir.NIRGraph) -> Path:
    """Like a user would."""
    nir.write(path, graph)
    return path


def spikes(shape: tuple[int, ...], n: int = 6, steps: int = 25, seed: int = 0, rate: float = 0.3) -> np.ndarray:
    """(N, *shape, T) uint8."""
    return (np.random.default_rng(seed).random((n, *shape, steps)) < rate).astype(np.uint8)
