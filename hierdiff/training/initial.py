"""Networks that start from a file: `denoiser.inner.weights=FILE`, the growth of a hierarchy over
several runs (Matryoshka diffusion: 64 px, then 256 around it, then 1024).

The file is that of a run, of which the network with as many levels is taken, or one of the tensors
of the network alone, under our names, such as `hierdiff.interop` makes of published weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from hierdiff.denoisers import Denoiser
from hierdiff.denoisers.protocol import Wrapper
from hierdiff.interop import check_groups
from hierdiff.methods import Diffusion, Method, Stage
from hierdiff.training.format import KEY
from hierdiff.training.load import check_company, check_values, load_method, packages_of, shapes_of


def starting(method: Method) -> Iterator[tuple[Denoiser, Path, Stage]]:
    """The networks of a method that start from a file, each once, with the file and its stage."""
    seen: set[int] = set()
    for stage in method.stages:
        for network in stage.networks_from_files:
            if id(network) not in seen:
                seen.add(id(network))
                yield network, Path(str(network.weights)), stage


def check_networks(method: Method, config: Mapping[str, Any]) -> None:
    """Checks the files that networks of a method start from; the method may be on the meta device.

    Raises:
        ValueError: as `start_networks`.
        FileNotFoundError: as `start_networks`.
        PermissionError: as `start_networks`.
    """
    for network, path, stage in starting(method):
        _tensors(network, path, stage, config)


@torch.no_grad()
def start_networks(method: Method, config: Mapping[str, Any]) -> None:
    """Gives the networks that start from a file its weights (of a run, its first average).

    config: of this run; a file may name the classes of the packages that it names.

    Raises:
        ValueError: where the file holds no such network, or one with other names or shapes, another
            prediction or other options that no shape shows, or is not finite.
        FileNotFoundError: where there is no file.
        PermissionError: where it names code of a package that this run does not.
    """
    for network, path, stage in starting(method):
        tensors = _tensors(network, path, stage, config)
        for name, tensor in network.state_dict().items():
            if name in tensors:
                tensor.copy_(tensors[name])


def _tensors(
    network: Denoiser, path: Path, stage: Stage, config: Mapping[str, Any]
) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {path} for a network to start from: give a weights.safetensors of "
            f"a run folder, or leave `weights` out"
        )
    tensors = _alone(path, network) if _is_bare(path) else _of_run(network, path, stage, config)
    for name, tensor in network.state_dict().items():
        if name in tensors:
            check_values(name, tensors[name], tensor, path)
    return tensors


def _is_bare(path: Path) -> bool:
    try:
        with safe_open(path, "pt") as file:
            return KEY not in (file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(
            f"{path} is cut short or no safetensors file ({error}): copy it again; pickles (.pt, "
            f".pth) are not read, save what hierdiff.interop makes of them as safetensors"
        ) from error


def _alone(path: Path, network: Denoiser) -> Mapping[str, Tensor]:
    """Tensors of a published network; all of these have 32 groups, which no shape shows."""
    tensors = load_file(path)
    check_fit(network, tensors, path)
    check_groups(network)
    return tensors


def _of_run(
    network: Denoiser, path: Path, stage: Stage, config: Mapping[str, Any]
) -> Mapping[str, Tensor]:
    """Tensors of the network with as many levels in the last stage of a run that has one.

    A network whose tensors are in part `fresh` may start from one without these.

    Raises:
        ValueError: where the run has no such network.
    """
    other, their = load_method(path, packages_of(config))
    there = [
        (one, one.denoiser.tail(network.levels))
        for one in reversed(list(other.stages))
        if isinstance(one, Diffusion) and one.ready and one.denoiser.levels >= network.levels
    ]
    if not there:
        raise ValueError(
            f"{path} has no trained network of {network.levels} level(s) for "
            f"{type(network).__name__} to start from: give weights of a run whose network is the "
            f"inner one here"
        )
    there = [(one, own.denoiser if isinstance(own, Wrapper) else own) for one, own in there]
    ours = shapes_of(network)
    other_stage, twin = next((pair for pair in there if shapes_of(pair[1]) == ours), there[0])
    tensors = twin.state_dict()
    check_fit(network, tensors, path)
    _check_meaning(network, stage, twin, other_stage, path)
    check_company(path, stage, config, their)
    return tensors


def _is_fresh(network: nn.Module, name: str) -> bool:
    """Whether a file that the network starts from may lack what has this name."""
    return any(part in name for part in getattr(network, "fresh", ()))


def check_fit(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Checks that tensors of the file `path` have the names and shapes of a network's.

    Raises:
        ValueError: naming the first that has not.
    """
    own = network.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        if name not in tensors and _is_fresh(network, name):
            continue
        theirs, ours = (list(part[name].shape) if name in part else None for part in (tensors, own))
        if theirs != ours:
            raise ValueError(
                f"{path} does not fit the network that starts from it: it has "
                f"{theirs or 'nothing'} as {name!r}, the network {ours or 'nothing'}; give that "
                f"network the options of the file's (width, multiples, blocks, attention, classes, "
                f"text)"
            )


def _check_meaning(
    network: Denoiser, stage: Stage, twin: Denoiser, other: Diffusion, path: Path
) -> None:
    """Checks what no shape shows: groups, heads, clocks and the prediction.

    Raises:
        ValueError: naming the first that differs.
    """
    mine, their = _options(network), _options(twin)
    if isinstance(stage, Diffusion):
        mine["prediction"] = stage.objective.parameterization.prediction
        their["prediction"] = other.objective.parameterization.prediction
    for name in sorted(mine.keys() | their.keys()):
        if name not in their and _is_fresh(network, name):
            continue
        if mine.get(name) != their.get(name):
            raise ValueError(
                f"{path} has other options than the network that starts from it, which its shapes "
                f"do not show: {name} is {their.get(name)} there and {mine.get(name)} here; give "
                f"both the same"
            )


def _options(network: Denoiser) -> dict[str, Any]:
    options: dict[str, Any] = {
        f"the kind of clock {i}": type(clock).__name__ for i, clock in enumerate(network.clocks)
    }
    for name, part in network.named_modules():
        if isinstance(part, nn.GroupNorm):
            options[f"groups of {name}"] = part.num_groups
        if isinstance(heads := getattr(part, "heads", None), int):
            options[f"heads of {name}"] = heads
    return options
