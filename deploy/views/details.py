"""What the HTML report draws beside the numbers of the JSON report, as plain data: networks, one window's spikes, alpha(t)."""

import platform
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from taaf.deploy.backends.base import BackendResult, pad_window
from taaf.deploy.views.core_maps import core_maps
from taaf.export.bundle.reader import Bundle, relay_channels
from taaf.hw_sim.counters import spiking_source
from taaf.hw_sim.early_exit import cut
from taaf.hw_sim.engine import Engine, EngineResult
from taaf.models.host_head import HostHead
from taaf.models.ir import Conv2d, Dense, Graph, RecurrentDense
from taaf.models.shell.packages import installed_versions

MAX_ROWS, MIN_ROWS, ALL_ROWS = 48, 8, 512
MAX_RASTER_STEPS = 512
MAX_ENTRIES, MAX_TEXT = 200, 300  # of a manifest's tables
QUANTILES = (0.1, 0.9)
_TOOLS = ("taaf", "torch", "numpy", "h5py", "lava-nc", "lava-dl")


def network(graph: Graph, relays: Mapping[str, int] | None = None) -> list[dict[str, Any]]:
    """Input and neuron populations in order, with the synapses between them.

    Returns
    -------
    list of dict
        ``name``, ``shape``, ``n_neurons``, ``relays`` (channels that only pass spikes on) and ``synapses``: each with its
        ``source`` population and a ``label`` such as "conv 3x3 /2".
    """
    first = {"name": graph.input.name, "shape": list(graph.input.shape), "n_neurons": 0, "relays": 0, "synapses": []}
    found: list[dict[str, Any]] = [first]
    for lif in graph.lifs():
        shape = graph.shapes[lif.name]
        synapses = [
            {"source": spiking_source(graph, graph.sources(node.name)[0]), "label": _synapse(node)}
            for node in graph.synapses_of(lif.name)
        ]
        found.append(
            {
                "name": lif.name, "shape": list(shape), "n_neurons": int(np.prod(shape)),
                "relays": int((relays or {}).get(lif.name, 0)), "synapses": synapses,
            }
        )  # fmt: skip
    return found


def _synapse(node: Conv2d | Dense) -> str:
    if isinstance(node, Conv2d):
        kernel, stride = "x".join(map(str, node.weight.shape[2:])), node.stride
        step = "" if stride == (1, 1) else f" /{stride[0]}" if stride[0] == stride[1] else f" /{stride[0]}x{stride[1]}"
        return f"conv {kernel}{step}" + (f", {node.groups} groups" if node.groups > 1 else "")
    return "dense, recurrent" if isinstance(node, RecurrentDense) else "dense" + (", delays" if node.delay is not None else "")


def raster(spikes: Mapping[str, Mapping[str, np.ndarray]], origin: str) -> dict[str, Any]:
    """Spikes of one window of every population.

    Parameters
    ----------
    spikes : mapping
        Branch -> population -> (*shape, T) 0/1. Populations too large to draw are shown by evenly spaced neurons.
    """
    n = sum(len(layers) for layers in spikes.values())
    rows = max(MIN_ROWS, min(MAX_ROWS, ALL_ROWS // max(n, 1)))
    layers = []
    for branch, populations in spikes.items():
        for name, value in populations.items():
            flat = value.reshape(-1, value.shape[-1])[:, :MAX_RASTER_STEPS]
            chosen = np.unique(np.linspace(0, len(flat) - 1, min(rows, len(flat))).astype(np.int64))
            row, step = np.nonzero(flat[chosen])
            layers.append(
                {
                    "layer": f"{branch}.{name}" if branch else name, "n_neurons": len(flat), "rows": chosen.tolist(),
                    "spikes": np.stack([row, step], 1).tolist(), "per_step": flat.sum(0, dtype=np.int64).tolist(),
                    "all_steps": value.shape[-1],
                }
            )  # fmt: skip
    return {"window": 0, "origin": origin, "layers": layers}


def attends(head: HostHead) -> bool:
    """Whether the head weighs the steps by their content, so that there is something to draw."""
    return getattr(head.head.options, "attention", "") == "taaf"


def attention(head: HostHead, features: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, Any]:
    """alpha(t) of the fused and the unimodal outputs over all windows: mean, quantiles, and mean per class (None: no window)."""
    alphas = head(dict(features)).alpha
    outputs = {}
    for u in head.outputs:
        alpha = alphas[u]  # (N, T)
        low, high = np.quantile(alpha, QUANTILES, axis=0)
        per_class = [alpha[labels == k].mean(0).tolist() if (labels == k).any() else None for k in range(head.head.classes)]
        outputs[u] = {"mean": alpha.mean(0).tolist(), "low": low.tolist(), "high": high.tolist(), "per_class": per_class}
    return {"windows": len(labels), "quantiles": list(QUANTILES), "outputs": outputs}


def provenance(manifest: Mapping[str, Any] | None) -> dict[str, Any]:
    """Command and tool versions of this run, and those the bundle was exported with."""
    told = manifest or {}
    lines = told.get("compiler")
    return {
        "command": shlex.join(["taaf-deploy", *sys.argv[1:]]),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "tools": installed_versions(_TOOLS),
        "exported_with": _texts(told.get("tools")),
        "compiler": [str(x)[:MAX_TEXT] for x in lines[:MAX_ENTRIES]] if isinstance(lines, list) else [],
        "files": _texts(told.get("files")),
    }


def _texts(value: object) -> dict[str, str]:
    """What a manifest says in a table that nothing else checks: short texts, not too many."""
    items = list(value.items())[:MAX_ENTRIES] if isinstance(value, dict) else []
    return {str(k)[:MAX_TEXT]: str(v)[:MAX_TEXT] for k, v in items}


def bundle_details(bundle: Bundle, result: BackendResult, inputs: dict[str, np.ndarray], labels: np.ndarray) -> dict[str, Any]:
    """Everything the HTML report of a bundle draws; one window is run again on the engine unless Lava's was recorded."""
    window = {b: pad_window(x[:1], bundle.window_steps) for b, x in inputs.items()}
    if result.exit_steps is not None:
        window = {b: cut(x, result.exit_steps[:1] + bundle.depth) for b, x in window.items()}
    shown: dict[str, dict[str, np.ndarray]] = {}
    for b, graph in bundle.graphs.items():
        layers = result.layers.get(b) or Engine(graph).run(window[b], keep_all=True).spikes
        shown[b] = {graph.input.name: window[b][0], **{lif.name: layers[lif.name][0] for lif in graph.lifs()}}
    origin = "as recorded on the Lava runtime" if result.layers else "exact engine"
    features = result.features
    if features and result.exit_steps is not None:
        features = {b: cut(f, result.exit_steps) for b, f in features.items()}
    branches = bundle.manifest["branches"]
    return {
        "branches": {
            b: {
                "populations": network(g, relay_channels(branches[b])),
                "input_steps": bundle.input_steps(b),
                "encoder": _encoder(bundle, b),
            }
            for b, g in bundle.graphs.items()
        },
        "head": {
            "type": bundle.head.head.kind, "classes": bundle.head.head.classes, "stages": bundle.head.head.stages(),
        },
        "window_steps": bundle.window_steps,
        "generated": bundle.data_set == "generated",
        "labels": list(bundle.manifest["labels"]),
        "raster": {
            **raster(shown, origin), "label": int(labels[0]),
            "decision": int(result.logits["fused"][0].argmax()) if result.logits else -1,
        },
        "alpha": attention(bundle.head, features, labels) if features and attends(bundle.head) else None,
        "core_maps": core_maps(bundle.graphs, result.activity),
        "provenance": provenance(bundle.manifest),
    }  # fmt: skip


def _encoder(bundle: Bundle, branch: str) -> dict[str, Any] | None:
    """The convolution on the host that turns a real-valued input into spikes, if this branch has one."""
    e = bundle.encoders.get(branch)
    if e is None:
        return None
    kernel = "x".join(map(str, e.weight.shape[2:]))
    return {"input_shape": list(e.input_shape), "label": f"conv {kernel} /{e.stride}, LIF", "macs_per_step": e.n_macs}


def graph_details(graph: Graph, result: EngineResult, window: np.ndarray) -> dict[str, Any]:
    """The same for one graph without a head: a run that kept all spikes, and ``window`` (*shape, T), its first input."""
    spikes = result.spikes
    shown = {graph.name: {graph.input.name: window, **{lif.name: spikes[lif.name][0] for lif in graph.lifs()}}}
    steps = window.shape[-1]
    return {
        "branches": {graph.name: {"populations": network(graph), "input_steps": steps, "encoder": None}},
        "head": None, "window_steps": steps, "labels": [], "raster": raster(shown, "exact engine"), "alpha": None,
        "core_maps": core_maps({graph.name: graph}, {graph.name: result.activity}),
        "provenance": provenance(None),
    }  # fmt: skip
