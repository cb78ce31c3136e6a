"""Published weights, read into our networks: a module for each project, which names what it reads.

`load(network, rename(state))` is the whole of it, and refuses what does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

GROUPS = 32  # of every group norm in every network that is read here


def load(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Loads weights under our names into a network with the options of the published one.

    Raises:
        ValueError: where names or shapes differ, or the groups of a group norm, which no shape
            shows.
    """
    check_groups(network)
    own = network.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        theirs, ours = (
            tuple(part[name].shape) if name in part else None for part in (weights, own)
        )
        if theirs != ours:
            raise ValueError(
                f"the published weights have {theirs or 'nothing'} as {name}, the network "
                f"{ours or 'nothing'}: build it with the options that they were trained with"
            )
    network.load_state_dict(dict(weights))


def check_groups(network: nn.Module) -> None:
    """Refuses a network whose group norms have other than 32 groups, as all published ones have.

    Raises:
        ValueError: with the name of the first such norm.
    """
    for name, part in network.named_modules():
        if isinstance(part, nn.GroupNorm) and part.num_groups != GROUPS:
            raise ValueError(
                f"{name} is a norm of {part.num_groups} groups, the published networks have "
                f"{GROUPS}: the weights would fit and compute something else, set groups={GROUPS}"
            )
