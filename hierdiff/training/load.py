"""Weights out of a file: the method that they are of is rebuilt from the config beside them.

A config may name code; it is imported only where the caller trusts its package.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hierdiff.files.weights import weights_of
from hierdiff.methods import Diffusion, Method, Stage
from hierdiff.training.bounds import built, check_shapes, tensors_of
from hierdiff.training.format import header, opened, sha256_of_tensors, unpacked
from hierdiff.trust import check_trust, imported_names

T = TypeVar("T")


def load_method(path: str | Path, trust: Collection[str] = ()) -> tuple[Method, dict[str, Any]]:
    """The method of final weights or of a checkpoint (its first average), and the config.

    path: the file, or the folder of a run. trust: packages whose classes the config may name by
    path (`check_trust`). The method is on the CPU, in eval.

    Raises:
        PermissionError: before anything untrusted is imported.
        ValueError: where the file is damaged or holds no method.
        FileNotFoundError: where there is no file.
    """
    path = Path(weights_of(path))
    shapes, facts = header(path)
    config = config_in(facts, path)
    check_trust(config, trust, path)
    method = built(config, path, _of_method(shapes, facts))
    tensors, _ = unpacked(path)
    load_tensors(method, _of_method(tensors, facts), path)
    return method.eval(), config


def _of_method(values: Mapping[str, T], facts: Mapping[str, Any]) -> dict[str, T]:
    """Entries of the method's tensors by name; of a checkpoint the first average, if it has one."""
    if facts.get("kind") != "checkpoint":
        return dict(values)
    entries: dict[str, T] = {}
    for prefix in ("model/", "ema/0/"):
        entries |= {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
    return entries


def stage_tensors(path: str | Path, stage: Stage, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights of the stage of the same name in another run; errors as in `check_stage`."""
    return dict(stage_in(path, stage, config).state_dict())


def stage_in(path: str | Path, stage: Stage, config: Mapping[str, Any]) -> Stage:
    """The stage of the same name in another run, on the CPU, in eval; errors as in
    `check_stage`."""
    check_stage(path, stage, config)
    other, _ = load_method(path, packages_of(config))
    return next(one for one in other.stages if one.name == stage.name)


def check_stage(path: str | Path, stage: Stage, config: Mapping[str, Any]) -> None:
    """Checks that another run's weights fit a stage of the same name, reading one tensor at a time.

    config: of this run.

    Raises:
        ValueError: where that stage was never trained, means something else (another chain of
            resolutions, process or bridge), saw other data, is not finite, or as `check_company`.
        FileNotFoundError: where there is no file.
    """
    path = Path(path)
    shapes, facts = header(path)
    their = config_in(facts, path)
    check_trust(their, packages_of(config), path)
    other = built(their, path, _of_method(shapes, facts), real=False)
    stages = {one.name: one for one in other.stages}
    twin = stages.get(stage.name)
    if twin is None or not twin.ready:
        trained = ", ".join(name for name, one in stages.items() if one.ready)
        raise ValueError(
            f"{path} holds no trained stage {stage.name!r}, but {trained}: "
            f"give weights of a run of the same chain"
        )
    pairs = {
        "meaning": (twin.identity, stage.identity),
        "network": (shapes_of(twin), shapes_of(stage)),
        "data": (their.get("data_sha256"), config.get("data_sha256")) if stage.tied else (),
    }
    for what, pair in pairs.items():
        if pair and pair[0] != pair[1]:
            raise ValueError(
                f"stage {stage.name!r} of {path} differs in its {what} ({pair[0]}, here "
                f"{pair[1]}): stages of different chains do not mix, give weights of a run with "
                f"these options"
            )
    keys = _of_method({name: name for name in shapes}, facts)
    with opened(path) as (file, _):
        for name, tensor in tensors_of(other).items():
            check_values(name, file.get_tensor(keys[name]), tensor, path)
    check_company(path, stage, config, their)


def check_company(
    path: Path, stage: Stage, config: Mapping[str, Any], their: Mapping[str, Any]
) -> None:
    """Checks what weights of a stage in the file `path` were trained beside.

    That is the text encoder, which older files do not name, and the codec, which is in the file.

    config: of this run; their: of the file.

    Raises:
        ValueError: where the stage stands beside others in this run.
    """
    if not isinstance(stage, Diffusion):
        return
    pair = [one.get("text_identity") for one in (their, config)]
    if stage.facts.get("text_width") and all(pair) and pair[0] != pair[1]:
        raise ValueError(
            f"stage {stage.name!r} of {path} reads text encoded by {pair[0]}, here by {pair[1]}: "
            f"give data.text the options of that run"
        )
    maker = stage.codec.stage
    if maker is None:
        return
    there = sha256_of_weights(stage_tensors(path, maker, config))
    here = maker.weights and sha256_of_weights(stage_tensors(maker.weights, maker, config))
    if here != there:
        other = f"that of {maker.weights} ({here[:12]})" if here else "one that is trained first"
        raise ValueError(
            f"stage {stage.name!r} of {path} belongs to the {maker.name} in that file "
            f"({there[:12]}), and here it would get {other}: set method.codec.checkpoint={path}"
        )


def packages_of(config: Mapping[str, Any]) -> set[str]:
    """Those whose classes a config names by path."""
    return {name.partition(":")[0].partition(".")[0] for name in imported_names(config)}


def config_in(facts: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The config that a method is rebuilt from, in the facts of the file `path`.

    Raises:
        ValueError: where there is none, or its class names do not fit.
    """
    config = facts.get("config")
    if not isinstance(config, dict) or "method" not in config or "facts" not in config:
        raise ValueError(f"{path} holds no config of a method: it cannot be rebuilt from it alone")
    names, about = config.get("class_names") or [], config["facts"]
    classes = about.get("classes", 0) if isinstance(about, dict) else 0
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not known or (names and len(names) != classes):
        raise ValueError(
            f"{path} does not name its {classes} classes by a text each: use a file that hierdiff "
            f"wrote"
        )
    return config


def sha256_of_weights(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors by name, in single precision."""
    return sha256_of_tensors({name: tensor.float() for name, tensor in tensors.items()})


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of its tensors by name."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@torch.no_grad()
def load_tensors(method: Method, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copies tensors into a method in place, so that stages that share a tensor keep sharing it.

    Raises:
        ValueError: before any is copied, where they are of another method or not finite.
    """
    own = tensors_of(method)
    check_shapes(method, {name: tensor.shape for name, tensor in tensors.items()}, source)
    for name, tensor in own.items():
        check_values(name, tensors[name], tensor, source)
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def check_values(name: str, tensor: Tensor, like: Tensor, source: Path) -> None:
    """Checks the values of a tensor of the file `source` against `like`.

    Raises:
        ValueError: where they are of another kind of number than `like`, or not finite.
    """
    if tensor.is_floating_point() != like.is_floating_point() or tensor.is_complex():
        raise ValueError(
            f"{source}: {name!r} is {tensor.dtype}, the method has {like.dtype}: it belongs to "
            f"another method"
        )
    single = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    if tensor.is_floating_point() and not bool(single.isfinite().all()):
        raise ValueError(
            f"{source}: {name!r} is not finite (NaN or infinity): its training diverged or the "
            f"file is damaged, use another checkpoint of the run"
        )
