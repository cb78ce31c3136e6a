"""From a published file to weights of ours, and back."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from hierdiff.files.atomic import write
from hierdiff.inputs import digest
from hierdiff.interop import mdm  # noqa: F401  (registers)
from hierdiff.interop.content import AVERAGED, Content
from hierdiff.interop.published import Published, Reader, Shapes, readers, shapes_of
from hierdiff.interop.reading import read_content
from hierdiff.metrics.weights import first_line
from hierdiff.registry import Node
from hierdiff.training.bounds import built, tensors_of
from hierdiff.training.format import header, save_weights, unpacked
from hierdiff.training.load import check_values, config_in

log = logging.getLogger(__name__)
SHOWN = 5  # names in an error


@dataclass(frozen=True)
class Converted:
    """Weights by their names in the method, and the config that it is rebuilt from."""

    weights: Mapping[str, Tensor]
    config: dict[str, Any]

    def save(self, out: Path) -> None:
        """Writes what `hierdiff.sample checkpoint=` takes, like the weights of a run."""
        save_weights(out, self.weights, self.config)


def convert(
    path: str | Path,
    reader: Node | None = None,
    *,
    table: str | None = None,
    ignore: Sequence[str] = (),
    class_names: Sequence[str] | None = None,
) -> Converted:
    """The method in a published file, checked: every tensor has its place, and is finite.

    reader: name and options; without a name, the one that recognises the file. table: path of the
    table of tensors in the file, None for the averaged weights where it has them. ignore: see
    `read_content`. class_names: in the order of the labels; None for those of the reader.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: where it is of another kind or damaged, where no reader knows it, and where
            tensors are missing, left over or of another shape.
    """
    path = Path(path)
    content = read_content(path, ignore)
    one, name, tensors, place = chosen(content, dict(reader or {}), table, path)
    try:
        published = one.read(tensors, content.about)
    except (LookupError, TypeError, RuntimeError, ArithmeticError, AssertionError) as error:
        raise ValueError(
            f"{path} has tensors of {name} that do not fit together ({first_line(error)}): it is "
            f"damaged, or of another layout"
        ) from error
    except ValueError as error:
        said = str(error)
        raise ValueError(said if str(path) in said else f"{path}: {said}") from error
    config = config_of(published, class_names)
    check(published, config, path)
    config["published"] = {
        "reader": name,
        "project": one.project,
        "licence": one.licence,
        "file": path.name,
        **({"table": place} if place else {}),
        "sha256": digest(path),
        "notes": list(published.notes),
    }
    return Converted(published.weights, config)


def chosen(
    content: Content, node: dict[str, Any], table: str | None, path: Path
) -> tuple[Reader, str, Mapping[str, Tensor], str]:
    """The reader of a content, its name, and the table of tensors that it reads, with its path. The
    log warns where a table that is preferred, such as averaged weights, is none that it knows.

    Raises:
        ValueError: where no reader, or several, recognise a table.
    """
    tables = dict(content.by_preference())
    if table is not None and table not in tables:
        raise ValueError(f"{path} has no table {table!r}: choose one of {_listed(tables)}")
    wanted, options = node.pop("name", None), node
    for place, tensors in tables.items():
        shapes = shapes_of(tensors)
        if table not in (None, place):
            continue
        known = readers if wanted is None else [wanted]
        named = wanted is not None and table is not None
        names = [one for one in known if named or _knows(one, shapes, content.about)]
        if len(names) > 1:
            raise ValueError(f"{path} may be of {' or '.join(names)}: choose one, --as {names[0]}")
        if names:
            return readers.build({"name": names[0], **options}), names[0], tensors, place
        if place in AVERAGED:
            log.warning("%s: its averaged weights, %r, are of no layout that is known", path, place)
    what = f"reader {wanted!r} does not recognise" if wanted else "no reader recognises"
    shown = _listed(name for tensors in tables.values() for name in tensors)
    raise ValueError(
        f"{what} {path}, whose tensors are {shown}: known layouts are {', '.join(readers)}"
    )


def _knows(name: str, shapes: Shapes, about: Mapping[str, Any]) -> bool:
    """Whether a reader of default options recognises a table."""
    try:
        return readers.build({"name": name}).recognises(shapes, about)
    except (IndexError, KeyError, TypeError, ValueError):  # of layers of another shape
        return False


def config_of(published: Published, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """What a run keeps beside its weights to rebuild the method, for a published network.

    Raises:
        ValueError: for another number of class names than classes.
    """
    facts = dict(published.facts)
    classes = facts.get("classes", 0)
    names = list(class_names if class_names is not None else published.class_names)
    names = names or [str(i) for i in range(classes)]
    if len(names) != classes:
        raise ValueError(f"{len(names)} names of classes for {classes}: give one for each")
    return {
        "method": dict(published.method),
        "facts": facts,
        "class_names": names,
        "text": None if published.text is None else dict(published.text),
    }


def check(published: Published, config: Mapping[str, Any], path: Path) -> None:
    """Checks that the weights are those of the method, each with its name, shape and kind.

    Raises:
        ValueError: with the names of those that are missing, left over, of another shape or not
            finite.
    """
    own = tensors_of(built(config, path, real=False))
    given = published.weights
    faults = {
        "lacks": sorted(own.keys() - given.keys()),
        "has, and the network has not,": sorted(given.keys() - own.keys()),
    }
    for what, names in faults.items():
        if names:
            raise ValueError(
                f"{path} {what} {_listed(names)} (names of ours): it is not whole, or of another "
                f"layout than its shapes say"
            )
    for name, tensor in own.items():
        if tensor.shape != given[name].shape:
            raise ValueError(
                f"{path} has shape {tuple(given[name].shape)} for {name} (a name of ours), the "
                f"network {tuple(tensor.shape)}: give the reader the options of its training"
            )
        if given[name].device.type != "meta":
            check_values(name, given[name], tensor, path)


def official(path: str | Path, name: str) -> dict[str, Tensor]:
    """Weights of ours in the layout of reader `name`; errors as in `Reader.write` and `unpacked`.

    Raises:
        ValueError: for a reader that does not write.
    """
    reader = readers.build({"name": name})
    tensors, facts = unpacked(Path(path))
    config = config_in(facts, Path(path))
    if facts.get("kind") != "weights":
        raise ValueError(f"{path} is a checkpoint of training: give the weights.safetensors beside")
    return reader.write(tensors, config["method"])


def official_config(path: str | Path, name: str) -> dict[str, Any]:
    """The config.json of a folder in the layout of reader `name`; {} where that is one file."""
    shapes, facts = header(Path(path))
    config = config_in(facts, Path(path))
    return readers.build({"name": name}).beside(shapes, config["method"])


def save_official(
    tensors: Mapping[str, Tensor], out: Path, config: Mapping[str, Any] | None = None
) -> None:
    """Writes a table of tensors as safetensors, or as torch.save does, by the end of the name.

    With a config `out` is a folder of both, as diffusers has it.

    Raises:
        ValueError: for another end.
    """
    flat = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if config:
        if out.suffix or out.is_file():
            raise ValueError(f"{out}: this layout is a folder, give the name of one")
        write(out / "config.json", f"{json.dumps(config, indent=2)}\n".encode())
        write(out / "diffusion_pytorch_model.safetensors", save(flat, {"format": "pt"}))
    elif out.suffix == ".safetensors":
        write(out, save(flat))
    elif out.suffix in (".pt", ".pth", ".ckpt", ".bin"):
        content = io.BytesIO()
        torch.save({"state_dict": flat}, content)
        write(out, content.getvalue())
    else:
        raise ValueError(f"{out}: end its name in .safetensors, .pt or .pth")


def _listed(names: Any) -> str:
    listed = [repr(str(name)) for name in names]
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more if listed else "none"
