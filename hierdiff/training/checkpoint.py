"""Checkpoints and final weights: safetensors with the resolved config in the metadata.

No pickle is read or written. A checkpoint says what step comes next; randomness is a function of
seed and step, so no generator is in it. Tensors: `model/NAME`, `ema/WHICH/NAME`,
`optimizer/TURN/PARAMETER/KEY`; final weights have the bare names. A tensor that several stages
share is stored once, under its first name. The metadata has their SHA-256 too: values that a
disk damaged are found out, which safetensors does not do.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hierdiff.config import check_depth, one_line
from hierdiff.data.classes import natural
from hierdiff.files import write
from hierdiff.inputs import changed
from hierdiff.methods import Method, Stage
from hierdiff.training.bounds import built, check_shapes, tensors_of
from hierdiff.trust import check_trust, imported_names

log = logging.getLogger(__name__)
T = TypeVar("T")
SCHEMA = 1
KEY = "hierdiff"  # of the metadata
DIGEST = "sha256"  # of the tensors, among the facts
DECISIVE = ("data", "method", "trainer", "seed", "data_sha256")  # parts that decide the weights
FREE = frozenset(  # options that do not; the digest of the data stands for where it lies
    {
        *("data.root", "data.test_root", "data.cache"),
        *("method.sampling", "method.codec.cache"),
        *(
            f"trainer.{name}"
            for name in (
                *("accelerator", "devices", "strategy", "compile", "channels_last", "progress"),
                *("tensorboard", "keep", "checkpoint_every", "sheet_every", "sheet_images"),
                "snapshots",
            )
        ),
    }
)


@dataclass(frozen=True)
class Checkpoint:
    """What a run goes on from.

    stage, step: what comes next, step counted inside the stage. started: were steps of the stage
    done, so that `ema` and `optimizers` hold its state. images: seen in all stages before `step`.
    seconds: spent in the steps of each stage. log: length and open sums of the log. optimizers:
    what is no tensor, by turn.
    """

    config: dict[str, Any]
    stage: int
    step: int
    images: int
    total_step: int
    started: bool
    log: dict[str, Any]
    tensors: Mapping[str, Tensor]
    optimizers: dict[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors below `prefix/`, by the rest of their names."""
        start = f"{prefix}/"
        return {k.removeprefix(start): t for k, t in self.tensors.items() if k.startswith(start)}


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Written into `folder` at once; then all but the newest `keep` up to it are removed."""
    facts = {k: v for k, v in vars(checkpoint).items() if k != "tensors"}
    path = folder / f"step_{checkpoint.total_step:07d}.safetensors"
    write(path, packed(checkpoint.tensors, {"kind": "checkpoint", **facts}))
    older = [p for p in all_in(folder) if natural(p.name) <= natural(path.name)]
    for old in older[: max(0, len(older) - keep)]:
        old.unlink(missing_ok=True)
    return path


def all_in(folder: Path) -> list[Path]:
    """Checkpoints, oldest first, also after step 9,999,999."""
    return sorted(folder.glob("step_*.safetensors"), key=lambda path: natural(path.name))


class Broken(ValueError):
    """A checkpoint is not what a run writes."""


def newest(
    folder: Path, check: Callable[[Path, Checkpoint], None] | None = None
) -> tuple[Path, Checkpoint] | None:
    """The newest checkpoint that is whole; a broken one is skipped with a warning. None where
    there is none at all.

    check: raises `Broken` for one that is not as the run writes it; other errors are let through.
    ValueError where there are some and all are broken: to begin anew would lose them.
    """
    paths = all_in(folder)
    reasons = []
    for path in reversed(paths):
        try:
            checkpoint = _read(path)
            if check is not None:
                check(path, checkpoint)
        except Broken as error:
            reasons.append(one_line(str(error))[:1000])
            log.warning("skipping the broken checkpoint %s (%s)", path, reasons[-1])
        else:
            if reasons:
                log.warning("%d of %d checkpoints are broken", len(reasons), len(paths))
            return path, checkpoint
    if paths:
        raise ValueError(
            f"all {len(paths)} checkpoints in {folder} are broken, the newest because of this: "
            f"{reasons[0]}; copy a whole one there, or remove the folder to begin anew"
        )
    return None


def _read(path: Path) -> Checkpoint:
    try:
        tensors, facts = unpacked(path)
        if facts.pop("kind") != "checkpoint":
            raise ValueError(f"{path} holds final weights, not the state of a run")
        return Checkpoint(tensors=tensors, **facts)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise Broken(str(error)) from error


def packed(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    own = {"schema": SCHEMA, "version": hierdiff_version(), DIGEST: sha256_of(flat)}
    return save(flat, {KEY: json.dumps({**own, **facts})})


def sha256_of(tensors: Mapping[str, Tensor]) -> str:
    """Of the values, with names, shapes and dtypes."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def unpacked(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a file of ours; anything else is a ValueError that says what it is."""
    with opened(path) as (file, facts):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    digest = facts.pop(DIGEST, None)  # older files have none
    if digest is not None and digest != sha256_of(tensors):
        raise ValueError(
            f"{path} is damaged (its tensors do not match their sha256): copy it again, or use "
            f"another checkpoint of the run"
        )
    return tensors, facts


def header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """Shapes and facts of a file of ours, without reading a tensor; errors as in `unpacked`."""
    with opened(path) as (file, facts):
        facts.pop(DIGEST, None)
        names = file.keys()
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}, facts


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The file, of whose tensors none is read yet, and its facts; errors as of `unpacked`."""
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {path}: give a weights.safetensors of a run folder"
        )
    try:
        with safe_open(path, "pt") as file:
            yield file, _facts(path, file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(
            f"{path} is cut short or no safetensors file ({error}): copy it again, or use another "
            f"checkpoint of the run; pickles (.pt, .ckpt) are not read"
        ) from error


def _facts(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        facts = json.loads(metadata[KEY])
        schema = facts.pop("schema")
        facts.pop("version")
        check_depth(facts, path)
    except (KeyError, AttributeError, TypeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} was not written by hierdiff (its metadata has no readable {KEY!r} entry): "
            f"weights of other projects come in through hierdiff.interop"
        ) from error
    if schema != SCHEMA:
        raise ValueError(
            f"{path} has checkpoint schema {schema}, this hierdiff reads {SCHEMA}: "
            f"use the version that wrote it"
        )
    return facts


@torch.no_grad()
def load_tensors(method: Method, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copied in place, so that stages that share a tensor keep sharing it. ValueError, before any
    is copied, where they are those of another method or not finite."""
    own = tensors_of(method)
    check_shapes(method, {name: tensor.shape for name, tensor in tensors.items()}, source)
    for name, tensor in own.items():
        check_values(name, tensors[name], tensor, source)
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def check_values(name: str, given: Tensor, like: Tensor, source: Path) -> None:
    """ValueError where a tensor is of another kind of number than `like`, or not finite."""
    if given.is_floating_point() != like.is_floating_point() or given.is_complex():
        raise ValueError(
            f"{source}: {name!r} is {given.dtype}, the method has {like.dtype}: it belongs to "
            f"another method"
        )
    if given.is_floating_point() and not bool(_single(given).isfinite().all()):
        raise ValueError(
            f"{source}: {name!r} is not finite (NaN or infinity): its training diverged or the "
            f"file is damaged, use another checkpoint of the run"
        )


def _single(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def save_weights(
    path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], **more: Any
) -> None:
    """`more`: what else is known of the weights, as JSON."""
    write(path, packed(tensors, {"kind": "weights", "config": config, **more}))


def load_method(path: str | Path, trust: Collection[str] = ()) -> tuple[Method, dict[str, Any]]:
    """The method of final weights or of a checkpoint (its first average), and the config.

    trust: packages whose classes the config may name by path (`check_trust`). The method is on the
    CPU, in eval.
    Errors: PermissionError before anything untrusted is imported, ValueError, FileNotFoundError.
    """
    path = Path(path)
    shapes, facts = header(path)
    config = config_in(facts, path)
    check_trust(config, trust, path)
    method = built(config, path, _of_method(shapes, facts))
    tensors, _ = unpacked(path)
    load_tensors(method, _of_method(tensors, facts), path)
    return method.eval(), config


def _of_method(values: Mapping[str, T], facts: Mapping[str, Any]) -> dict[str, T]:
    """Entries of the method's tensors by name; of a checkpoint the first average where it has
    one."""
    if facts.get("kind") != "checkpoint":
        return dict(values)
    found: dict[str, T] = {}
    for prefix in ("model/", "ema/0/"):
        found |= {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
    return found


def stage_tensors(path: str | Path, stage: Stage, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights of the stage of the same name in another run; errors as in `check_stage`."""
    check_stage(path, stage, config)
    other, _ = load_method(path, _packages(config))
    return next(dict(one.state_dict()) for one in other.stages if one.name == stage.name)


def check_stage(path: str | Path, stage: Stage, config: Mapping[str, Any]) -> None:
    """Refuses weights of another run for a stage of the same name, of which one tensor at a time is
    read; `config` is that of this run.

    Error: ValueError where that stage was never trained, means something else (another chain of
    resolutions, process or bridge), saw other data, or is not finite; FileNotFoundError.
    """
    path = Path(path)
    shapes, facts = header(path)
    their = config_in(facts, path)
    check_trust(their, _packages(config), path)
    other = built(their, path, _of_method(shapes, facts), real=False)
    found = {one.name: one for one in other.stages}
    twin = found.get(stage.name)
    if twin is None or not twin.ready:
        trained = ", ".join(name for name, one in found.items() if one.ready)
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


def _packages(config: Mapping[str, Any]) -> set[str]:
    """Those whose classes a config names by path."""
    return {name.partition(":")[0].partition(".")[0] for name in imported_names(config)}


def config_in(facts: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The config that a method is rebuilt from. Error: ValueError."""
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


def shapes_of(stage: Stage) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in stage.state_dict().items()}


def check_config(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuses to go on from a checkpoint of another method, data set, recipe or seed, or made from
    files or code that have changed since."""
    for part in DECISIVE:
        if part in old and part in new:
            difference = _difference(part, as_json(old[part]), as_json(new[part]))
            if difference:
                key, was, now = difference
                if key == "data_sha256":
                    raise ValueError(
                        f"{path} was written with other images, labels or captions than there are "
                        f"now: put the old ones back, or start another run in a folder of its own "
                        f"(name=...)"
                    )
                raise ValueError(
                    f"{path} was written with {key}={was!r}, now it is {now!r}: go on with the old "
                    f"value, or start another run in a folder of its own (name=...)"
                )
    other = changed(old.get("inputs", {}), new.get("inputs", {}))
    if other is not None:
        raise ValueError(
            f"{path} was written with another content of {other} than there is now: put the old "
            f"one back, or start another run in a folder of its own (name=...)"
        )


def _difference(key: str, old: Any, new: Any) -> tuple[str, Any, Any] | None:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return None if old == new else (key, old, new)
    for name in sorted(old.keys() | new.keys()):
        place = f"{key}.{name}"
        found = None if place in FREE else _difference(place, old.get(name), new.get(name))
        if found:
            return found
    return None


def as_json(value: Any) -> Any:
    """What JSON makes of it: tuples become lists."""
    return json.loads(json.dumps(value))


def hierdiff_version() -> str:
    try:
        return version("hierdiff")
    except PackageNotFoundError:
        return "unknown"
