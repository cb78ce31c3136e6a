"""Optimizers by name and the learning rate of each step.

`adamw` is torch's; every other name goes to timm. Weight decay acts on matrices and kernels only,
not on biases and norms; LAMB (arXiv 1904.00962) adapts the learning rate of those alone as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hierdiff.options import literal, suggest
from hierdiff.registry import check_node
from hierdiff.training.sharding import put

OPTIONS = "trainer.optimizer_options"
States = dict[Tensor, dict[str, Any]]  # states of an optimizer, by parameter


def optimizer_of(
    parameters: Sequence[nn.Parameter],
    *,
    name: str = "adamw",
    lr: float = 1e-3,
    betas: Sequence[float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    options: dict[str, Any] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer of one turn.

    lr: top learning rate; betas: two, for optimizers that take two; options: further ones of its
    own constructor.

    Raises:
        ValueError: for an unknown optimizer, or options that it does not take.
    """
    try:
        return _optimizer(parameters, name, lr, betas, weight_decay, options or {})
    except TypeError as error:
        raise ValueError(f"optimizer {name!r} with the options {options}: {error}") from error


def _optimizer(
    parameters: Sequence[nn.Parameter],
    name: str,
    lr: float,
    betas: Sequence[float],
    weight_decay: float,
    options: dict[str, Any],
) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if name == "adamw":
        check_node(torch.optim.AdamW, options, "optimizer 'adamw'", OPTIONS)
        fused = not any(p.is_meta for p in parameters)  # which is refused on shapes alone
        return torch.optim.AdamW(
            groups, lr=lr, betas=(betas[0], betas[1]), **{"fused": fused, **options}
        )
    from timm.optim import create_optimizer_v2, list_optimizers

    known = [str(one) for one in list_optimizers()]
    if name not in known:
        raise ValueError(
            f"unknown optimizer {name!r}{suggest(name, known)} known: adamw and the {len(known)} "
            f"that timm.optim.list_optimizers() names, such as lion, lamb and sgd"
        )
    if takes_betas(name):
        options = {"betas": (betas[0], betas[1]), **options}
    return create_optimizer_v2(groups, opt=name, lr=lr, weight_decay=weight_decay, **options)


def takes_betas(name: str) -> bool:
    """Whether a known optimizer takes two betas."""
    if name == "adamw":
        return True
    from timm.optim import get_optimizer_info

    info = get_optimizer_info(name)
    return info.has_betas and info.num_betas == 2


def check_optimizer(
    name: str, betas: Sequence[float], options: Mapping[str, Any], default: Sequence[float]
) -> None:
    """Checks name and options of an optimizer on a parameter of four numbers.

    default: the betas of a recipe that sets none; an optimizer without betas is not given them.

    Raises:
        ValueError: for an unknown optimizer, or options that it does not take.
        TypeError: as ValueError.
        AssertionError: as ValueError.
    """
    for option in ("lr", "weight_decay"):
        if option in options:
            raise ValueError(f"{OPTIONS}.{option} has an option of its own: set trainer.{option}")
    parameter = nn.Parameter(torch.zeros(2, 2, device="cpu"))
    try:
        optimizer_of([parameter], name=name, betas=betas, options=dict(options))
        if not takes_betas(name) and list(betas) != list(default):
            raise ValueError(
                f"{OPTIONS}: trainer.betas={list(betas)} are two, which {name} does not take: "
                f"leave them out, and set {OPTIONS}.betas if it takes more"
            )
        if takes_betas(name) and "betas" in options:
            raise ValueError(f"{OPTIONS}.betas has an option of its own: set trainer.betas")
    except (TypeError, ValueError, AssertionError) as error:
        if str(error).startswith(("unknown optimizer", OPTIONS)):
            raise
        raise ValueError(
            f"{OPTIONS}={literal(options)} are none that {name} takes: "
            f"{str(error).splitlines()[0] if str(error) else 'leave them out'}"
        ) from error


def lr_factor(
    step: int,
    steps: int,
    *,
    warmup: int,
    decay: str = "linear",
    span: float = 1.0,
    after_warmup: bool = False,
) -> float:
    """Part of the top learning rate, 0 to 1, at step 0 .. steps - 1: linear warm-up times a decay.

    span: the part of the decay's curve that the steps go through; at 1 it ends at 0. after_warmup:
    the decay begins where the warm-up ends, at the full rate, and not with the first step.
    pix2seq's `cosine@0.7` is decay="cosine", span=0.7, after_warmup=True.

    Raises:
        ValueError: for an unknown decay.
    """
    first = min(warmup, steps - 1) if after_warmup else 0
    done = span * max(0, step - first) / (steps - first)
    falling = {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
    }
    if decay not in falling:
        raise ValueError(f"unknown lr_schedule {decay!r}: choose {', '.join(falling)}")
    return min(1.0, (step + 1) / warmup if warmup else 1.0) * falling[decay]


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every group, times the `lr_scale` of groups that have one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def state_of(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State as tensors by "parameter/key", and the rest as JSON (numbers, option groups)."""
    whole = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, entries in whole["state"].items():
        for key, value in entries.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"{index}/{key}"] = value
    rest = {"numbers": numbers, "groups": whole["param_groups"], "state": signature(tensors)}
    return tensors, rest


def signature(tensors: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Dtype and sides of each tensor, as JSON has them."""
    return {name: [str(t.dtype), list(t.shape)] for name, t in sorted(tensors.items())}


def load_state(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: dict[str, Any]
) -> None:
    """The inverse of `state_of`, on an optimizer of the same parameters; layouts are kept."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for place in (*rest["numbers"], *tensors):
        index, _, key = place.partition("/")
        value = tensors[place] if place in tensors else rest["numbers"][place]
        if isinstance(value, Tensor):
            value = laid_out(value, parameters[int(index)])
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": rest["groups"]})


def laid_out(value: Tensor, like: Tensor) -> Tensor:
    """A copy of a state; one of the shape of its parameter has the parameter's layout too, and is
    cut over processes as it is."""
    if value.shape != like.shape:
        return value.clone()
    found = torch.empty_like(like, dtype=value.dtype, requires_grad=False)
    put(value, found)
    return found


def moments_of(optimizers: Sequence[torch.optim.Optimizer]) -> States:
    """The state of every parameter of the optimizers."""
    return {p: state for optimizer in optimizers for p, state in optimizer.state.items()}


def hand_on(moments: States, optimizer: torch.optim.Optimizer) -> None:
    """Gives an optimizer the moments of those of its parameters that have some."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter in moments:
                optimizer.state[parameter] = moments[parameter]
