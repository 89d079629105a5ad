"""A recurrent layer and a fully connected one: arXiv 2505.14535 uses a recurrent SNN for the audio of EAD; widths are ours."""

from taaf.models.wiring import Spikes


def wire(x: Spikes, *, hidden: int = 128, features: int = 128) -> Spikes:
    """(F,) or a map, which is flattened, -> (features,)."""
    inner = x.flatten().recurrent("hidden", hidden).lif("hidden_lif")
    return inner.dense("readout", features).lif("readout_lif")
