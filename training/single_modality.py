"""Each modality trained alone: the baseline that shows what joint training gains, or costs, a modality."""

from dataclasses import replace

from taaf.models.errors import ConfigError, did_you_mean
from taaf.models.heads import find_head
from taaf.training.config import TrainConfig


def alone(config: TrainConfig, modality: str) -> TrainConfig:
    """The configuration whose network is the branch of one modality, with the head's classifier for it.

    It is another network, not a strategy: no weight of the other branches exists, and the data set gives its one modality. The loss
    is that of the one output (``balance = "none"``, ``beta = 0``: with beta = 1 the same loss would count twice), the fusion "concat",
    ``O = W h + b``; all other settings stay, so that a seed sees the same batches. Heads that count spikes keep their loss.

    Parameters
    ----------
    config : TrainConfig
        Of a network with several branches, or with this one.
    modality : str
        The branch that stays.

    Raises
    ------
    ConfigError
        If there is no such branch. A head that is defined for pairs is refused when the training begins.

    Examples
    --------
    >>> found = alone(TrainConfig(), "audio")
    >>> found.network.modalities, found.loss.balance, found.loss.beta
    (('audio',), 'none', 0.0)
    """
    branches = config.network.branches
    if modality not in branches:
        raise ConfigError(f"--only {modality[:40]}: no such branch; {did_you_mean(modality, branches)}")
    head, loss = config.network.head, config.loss
    options = head.options
    if hasattr(options, "fusion"):
        options = replace(options, fusion="concat")
    if counted := getattr(options, "counted_steps", ()):
        options = replace(options, counted_steps=(counted[list(branches).index(modality)],))
    if not find_head(head.type).strategies:
        loss = replace(loss, balance="none", beta=0.0, k_per="output", k_from="batch")
    network = replace(config.network, branches={modality: branches[modality]}, head=replace(head, options=options))
    return replace(config, network=network, loss=loss)
