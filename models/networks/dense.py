"""Two fully connected layers, the reference model's audio branch."""

from taaf.models.wiring import Spikes


def wire(x: Spikes, *, hidden: int = 128, features: int = 128) -> Spikes:
    """(F,) or a map, which is flattened, -> (features,)."""
    return x.flatten().dense("hidden", hidden).lif("hidden_lif").dense("readout", features).lif("readout_lif")
