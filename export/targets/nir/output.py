"""``taaf-export model.pt --to nir``: integer graphs -> one NIR file, proven by reading it back."""

import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from taaf.export.bundle.reader import read_bundle
from taaf.export.limits import check_limits
from taaf.export.passes import CompileReport, compile_graph, quantise
from taaf.export.recorded import open_trained
from taaf.export.targets.nir.file import save_nir
from taaf.export.targets.nir.read import NirNets, read_nir
from taaf.export.targets.nir.write import to_nir
from taaf.models.errors import BundleError, ConfigError, ParityError
from taaf.models.files.writing import sha256
from taaf.models.ir import Concat, Graph


def model_to_nir(model: Path, out: Path, own_code: bool = False) -> dict[str, Any]:
    """Write the integer graphs of a checkpoint (before relay lowering) or of a bundle (as deployed) as one NIR file.

    The file is read back, and its integer graphs must be those that were written.
    """
    if out.suffix != ".nir":
        raise ConfigError(f"--out {out}: a NIR file ends in .nir")
    if out.exists() and not (out.is_file() and h5py.is_hdf5(out)):
        raise BundleError(f"{out}: exists and is not a NIR file; choose another --out")
    if model.is_dir():
        bundle = read_bundle(model)
        graphs, encoded = bundle.graphs, list(bundle.encoders)
    else:
        trained = open_trained(model, own_code)
        encoded = list(trained.encoders)
        compiled = {b: compile_graph(g, saturate=True, report=CompileReport()) for b, g in trained.graphs.items()}
        for _, chain in compiled.values():
            check_limits(chain)
        graphs = {b: chain if _lies_beside(integer) else integer for b, (integer, chain) in compiled.items()}
    with tempfile.TemporaryDirectory(prefix=".taaf-nir.") as folder:
        draft = Path(folder) / "draft.nir"
        save_nir(draft, to_nir(graphs))
        require_same(graphs, integer_graphs(read_nir(draft)))
    save_nir(out, to_nir(graphs))
    return {
        "nir": str(out), "sha256": sha256(out), "without_encoder": encoded,
        "branches": {b: {"nodes": len(g.nodes), "layers": [lif.name for lif in g.lifs()]} for b, g in graphs.items()},
    }  # fmt: skip


def _lies_beside(graph: Graph) -> bool:
    """Whether spikes lie beside each other, for which NIR has no node: relays say the same."""
    return any(isinstance(node, Concat) for node in graph.nodes.values())


def integer_graphs(found: NirNets) -> dict[str, Graph]:
    """Integer graphs of a file that states every threshold mantissa (written by `taaf.export.targets.nir.write`)."""
    for branch, net in found.nets.items():
        if unknown := [n for n, neurons in net.neurons.items() if neurons.v_th_mant is None]:
            raise BundleError(f"{branch}: {', '.join(unknown)} state no v_th_mant; quantise with `taaf-export --to netx`")
    return {b: quantise(net.graph, saturate=False, report=CompileReport()) for b, net in found.nets.items()}


def require_same(wanted: dict[str, Graph], found: dict[str, Graph]) -> None:
    """Raise `ParityError` unless names, order, values and connections are equal."""
    if list(wanted) != list(found):
        raise ParityError(f"branches {', '.join(found)} were read, {', '.join(wanted)} were written")
    for branch, graph in wanted.items():
        other = found[branch]
        wrong = [n for n in graph.nodes if n not in other.nodes or not _equal_nodes(graph, other, n)]
        if wrong or list(graph.nodes) != list(other.nodes):
            raise ParityError(f"{branch}: {', '.join(wrong) or 'order of nodes'} differ after reading the NIR file back")


def _equal_nodes(graph: Graph, other: Graph, name: str) -> bool:
    ours, theirs = graph.nodes[name], other.nodes[name]
    if type(ours) is not type(theirs) or graph.sources(name) != other.sources(name):
        return False
    pairs = [(vars(ours)[k], vars(theirs)[k]) for k in vars(ours)]
    return all(type(a) is type(b) and bool(np.array_equal(a, b)) if a is not None else b is None for a, b in pairs)
