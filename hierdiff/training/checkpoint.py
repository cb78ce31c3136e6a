"""Checkpoints and final weights: safetensors with the resolved config in the metadata.

No pickle is read or written. A checkpoint says what step comes next; randomness is a function of
seed and step, so no generator is in it. Tensors: `model/NAME`, `ema/WHICH/NAME`,
`optimizer/TURN/PARAMETER/KEY`; final weights have the bare names. A tensor that several stages
share is stored once, under its first name.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hierdiff import matryoshka  # noqa: F401  (registers)
from hierdiff.data.classes import natural
from hierdiff.files import write
from hierdiff.inputs import changed
from hierdiff.method import Method, Stage, methods, on_shapes
from hierdiff.registry import check_trust, imported_names

log = logging.getLogger(__name__)
T = TypeVar("T")
SCHEMA = 1
KEY = "hierdiff"  # of the metadata
DECISIVE = ("data", "method", "trainer", "seed", "data_sha256")  # parts that decide the weights
FREE = frozenset(  # options that do not; the digest of the data stands for where it lies
    {
        *("data.root", "data.cache", "method.sampling", "method.codec.cache"),
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


def newest(folder: Path) -> tuple[Path, Checkpoint] | None:
    """The newest checkpoint that can be read; a broken one is skipped with a warning."""
    for path in reversed(all_in(folder)):
        try:
            tensors, facts = unpacked(path)
            if facts.pop("kind") != "checkpoint":
                raise ValueError(f"{path} holds final weights, not the state of a run")
            return path, Checkpoint(tensors=tensors, **facts)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("skipping the broken checkpoint %s (%s)", path, error)
    return None


def packed(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    about = {"schema": SCHEMA, "version": hierdiff_version(), **facts}
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(flat, {KEY: json.dumps(about)})


def unpacked(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a file of ours; anything else is a ValueError that says what it is."""
    return _read(path, lambda file, name: file.get_tensor(name))


def header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """Shapes and facts of a file of ours, without reading a tensor; errors as in `unpacked`."""
    return _read(path, lambda file, name: tuple(file.get_slice(name).get_shape()))


def _read(path: Path, entry: Callable[[Any, str], T]) -> tuple[dict[str, T], dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {path}: give a weights.safetensors of a run folder"
        )
    try:
        with safe_open(path, "pt") as file:
            facts = _facts(path, file.metadata() or {})
            return {name: entry(file, name) for name in file.keys()}, facts  # noqa: SIM118
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
    except (KeyError, AttributeError, TypeError, json.JSONDecodeError) as error:
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


def tensors_of(method: Method) -> dict[str, Tensor]:
    """Parameters and persistent buffers, each once."""
    seen: set[int] = set()
    found = {}
    for name, tensor in method.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor
    return found


@torch.no_grad()
def load_tensors(method: Method, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copied in place, so that stages that share a tensor keep sharing it."""
    check_shapes(method, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, source)
    for name, tensor in tensors_of(method).items():
        tensor.copy_(tensors[name])


def check_shapes(method: Method, shapes: Mapping[str, tuple[int, ...]], source: Path) -> None:
    """ValueError where tensors of these names and shapes are not those of the method."""
    own = tensors_of(method)
    for name in own.keys() ^ shapes.keys():
        side = "lacks" if name in own else "has an unknown"
        raise ValueError(f"{source} {side} tensor {name!r}: it belongs to another method")
    for name, tensor in own.items():
        if shapes[name] != tuple(tensor.shape):
            raise ValueError(
                f"{source}: {name!r} has shape {shapes[name]}, the method "
                f"{tuple(tensor.shape)}: it belongs to another method"
            )


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
    tensors, facts = unpacked(path)
    config = config_in(facts, path)
    check_trust(config, trust, path)
    method = methods.build(config["method"], offered=config["facts"])
    if facts["kind"] == "checkpoint":
        whole = Checkpoint(tensors=tensors, **{k: v for k, v in facts.items() if k != "kind"})
        tensors = {**whole.part("model"), **whole.part("ema/0")}
    load_tensors(method, tensors, path)
    return method.eval(), config


def stage_tensors(path: str | Path, stage: Stage, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights of the stage of the same name in another run; errors as in `check_stage`."""
    check_stage(path, stage, config)
    other, _ = load_method(path, _packages(config))
    return next(dict(one.state_dict()) for one in other.stages if one.name == stage.name)


def check_stage(path: str | Path, stage: Stage, config: Mapping[str, Any]) -> None:
    """Refuses weights of another run for a stage of the same name, from the header of their file;
    `config` is that of this run.

    Error: ValueError where that stage was never trained, means something else (another chain of
    resolutions, process or bridge), or saw other data; FileNotFoundError.
    """
    path = Path(path)
    shapes, facts = header(path)
    their = config_in(facts, path)
    check_trust(their, _packages(config), path)
    other = on_shapes(their["method"], offered=their["facts"])
    if facts["kind"] == "weights":
        check_shapes(other, shapes, path)
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


def _packages(config: Mapping[str, Any]) -> set[str]:
    """Those whose classes a config names by path."""
    return {name.partition(":")[0].partition(".")[0] for name in imported_names(config)}


def config_in(facts: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The config that a method is rebuilt from. Error: ValueError."""
    config = facts.get("config")
    if not isinstance(config, dict) or "method" not in config or "facts" not in config:
        raise ValueError(f"{path} holds no config of a method: it cannot be rebuilt from it alone")
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
