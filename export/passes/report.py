"""What the compiler did and what it cost, and where on the chip the spikes of every population are."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from taaf.models.ir import Graph, Shape


@dataclass(frozen=True, eq=False)
class Part:
    """Consecutive channels of a layer of the chain that hold spikes of one population of the graph before.

    Attributes
    ----------
    population : str
        Name of the LIF, or of the input, in the integer graph before it became a chain.
    shape : tuple of int
        Of the population.
    members : numpy.ndarray
        Its channels, one per channel of the part; of a flat layer its neurons, counted in C order over its shape.
    first : int
        Channel of the layer at which the part starts.
    relays : bool
        These neurons repeat spikes of an earlier layer. False: they are the population itself.
    factor, phase : (int, int)
        Of a map: the neuron at (Y, X) stands for pixel ``(Y, X) * factor + phase`` of the population.
    extent : (int, int)
        Rows and columns of the layer's map that hold such spikes; neurons beyond are silent, nobody reads them.
    flat : bool
        The part belongs to a flat layer.
    """

    population: str
    shape: Shape
    members: np.ndarray
    first: int
    relays: bool
    factor: tuple[int, int] = (1, 1)
    phase: tuple[int, int] = (0, 0)
    extent: tuple[int, int] = (0, 0)
    flat: bool = False

    def of(self, spikes: np.ndarray, layer: Shape) -> np.ndarray:
        """What this part of the layer, of shape ``layer``, must be for spikes (..., *population's shape, T) of the population."""
        lead = spikes.shape[: spikes.ndim - 1 - len(self.shape)]
        if self.flat:
            flat: np.ndarray = spikes.reshape(*lead, -1, spikes.shape[-1])[..., self.members, :]
            return flat
        found = np.zeros((*lead, len(self.members), *layer[1:], spikes.shape[-1]), spikes.dtype)
        (f_h, f_w), (p_h, p_w), (h, w) = self.factor, self.phase, self.extent
        found[..., :h, :w, :] = spikes[..., self.members, p_h::f_h, p_w::f_w, :][..., :h, :w, :]
        return found


@dataclass
class CompileReport:
    """What the compiler did and what it cost, per pass.

    Attributes
    ----------
    lines : list of str
        In words, one line per change.
    relays : dict
        ``branch.LIF`` -> number of relay channels of that layer (of the chain), in front of whose spikes there is nothing to compute.
    layers : dict
        ``branch.LIF`` -> what the channels of that layer of the chain are, in order.
    """

    lines: list[str] = field(default_factory=list)
    relays: dict[str, int] = field(default_factory=dict)
    layers: dict[str, tuple[Part, ...]] = field(default_factory=dict)

    def relays_of(self, graph: Graph) -> dict[str, int]:
        """LIF -> number of relay channels, of one branch."""
        return {n: k for n in graph.nodes if (k := self.relays.get(f"{graph.name}.{n}"))}

    def expected(self, chain: Graph, spikes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Spikes of every layer of a chain, worked out from those of the populations before lowering.

        Parameters
        ----------
        chain : Graph
            As compiled with this report.
        spikes : mapping
            Input and LIFs of the integer graph before it became a chain -> spikes (..., *shape, T), e.g. of `run_reference`.

        Returns
        -------
        dict
            LIF of the chain -> spikes (..., *shape, T), relay channels included.
        """
        found = {}
        for lif in chain.lifs():
            shape, parts = chain.shapes[lif.name], self.layers[f"{chain.name}.{lif.name}"]
            axis = -1 - len(shape)
            found[lif.name] = np.concatenate([part.of(spikes[part.population], shape) for part in parts], axis=axis)
        return found

    def say(self, line: str) -> None:
        self.lines.append(line)
