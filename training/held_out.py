"""A validation part for sets that bring none: a share of the training part, drawn once with a fixed seed, by class.

Samples that belong together (`MultimodalDataset.groups`: clips of a speaker, slices of a recording) stay on one side wherever the
set keeps them apart in its test part, too.
"""

from collections.abc import Sequence

import numpy as np

from taaf.models.errors import ConfigError

_SEED = 20_250_514


def held_out(labels: np.ndarray, share: float, groups: Sequence[str] | np.ndarray | None = None) -> np.ndarray:
    """Which samples are held out.

    Without groups: of every class of n samples ``round(share n)``, drawn. With groups: whole groups in a drawn order, each taken
    if that brings the number of samples nearer to ``share`` of all, so that classes have about the share; the first is always
    taken and the last never.

    Parameters
    ----------
    labels : numpy.ndarray
        (N,) class indices.
    share : float
        0 to 1.
    groups : sequence, optional
        (N,) what each sample belongs to.

    Returns
    -------
    numpy.ndarray
        (N,) bool.

    Raises
    ------
    ConfigError
        If this leaves a part without samples.

    Examples
    --------
    >>> held_out(np.array([0, 0, 0, 0, 1, 1]), 0.5).sum()
    3
    """
    rng = np.random.default_rng(_SEED)
    found = np.zeros(len(labels), bool)
    if groups is None:
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            found[rng.permutation(members)[: round(share * len(members))]] = True
    else:
        names, member_of = np.unique(np.asarray(groups), return_inverse=True)
        for position, group in enumerate(rng.permutation(len(names))[:-1]):
            members = member_of == group
            if not position or found.sum() + members.sum() / 2 <= share * len(labels):
                found |= members
    if not found.any() or found.all():
        kind = "samples" if groups is None else f"groups ({len(np.unique(np.asarray(groups)))} in all)"
        raise ConfigError(
            f"data.validation (={share:g}): holds out {found.sum()} of {len(labels)} training samples, in whole {kind}; give another share"
        )
    return found
