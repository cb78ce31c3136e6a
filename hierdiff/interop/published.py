"""Published networks as methods of ours: what a reader makes of a file.

A reader knows the layout of one project: the names of its tensors, and which options of the network
follow from their shapes. What no shape shows (heads, groups, a schedule) is an option of the
reader's constructor, with the value of the release as its default. A plugin registers its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from hierdiff.options import check_fields
from hierdiff.registry import Node, Registry

Shapes = Mapping[str, tuple[int, ...]]
T = TypeVar("T")


class Table(dict[str, T]):
    """Tensors or shapes by the names of a file, of which one that is missing is named."""

    def __missing__(self, name: str) -> T:
        raise ValueError(f"there is no tensor {name!r}: the file is not whole, or another layout")


def shapes_of(tensors: Mapping[str, Tensor]) -> Table[tuple[int, ...]]:
    """The shape of each tensor."""
    return Table({name: tuple(tensor.shape) for name, tensor in tensors.items()})


@dataclass(frozen=True)
class Published:
    """A published network as a method.

    method: its node, with the sampler and guidance of the release as `sampling`. facts: of its
    data: channels, classes, text_width, text_length, scalars, vectors. weights: by their names in
    the method, every one, such as `stages.0.denoiser.first.weight` (`within`); their precision is
    kept. text: node of the text encoder that it was trained with. class_names: in the order of its
    labels; () for numbers. notes: what a reader of its numbers must know.
    """

    method: Node
    facts: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    text: Node | None = None
    class_names: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=tuple)


class Reader(ABC):
    """One project's files. project: where its code is. licence: of the code and weights, as far as
    it is known; "" where it is not."""

    project: ClassVar[str]
    licence: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_fields(self, "reader")

    @abstractmethod
    def recognises(self, shapes: Shapes, about: Mapping[str, Any]) -> bool:
        """Whether a table of tensors is of this project.

        shapes: by the names in the file; about: the plain values beside it. Two readers recognise
        the same table only where nothing in it tells their projects apart, as DiT and SiT.
        """

    @abstractmethod
    def read(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Published:
        """The method that a table of tensors is of; they may be on the meta device.

        Raises:
            ValueError: for a layout that our networks do not have.
        """

    def write(self, weights: Mapping[str, Tensor], method: Node) -> dict[str, Tensor]:
        """The table of the project's own layout; `read` backwards, bit for bit.

        weights: of a method of ours, by name. method: its node.

        Raises:
            ValueError: where the method has no such layout.
        """
        writers = (n for n in readers if getattr(readers.get(n), "write", None) != Reader.write)
        raise ValueError(
            f"weights are not written in the layout of {self.project}: {', '.join(writers)} are"
        )

    def beside(self, weights: Shapes, method: Node) -> dict[str, Any]:
        """The config.json of a folder in the project's layout; {} where that is one file.

        weights: their shapes. method: as in `write`.
        """
        return {}


readers: Registry[Reader] = Registry("reader", Reader)


def within(place: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a part by their names in the whole, such as "stages.0.denoiser"."""
    return {f"{place}.{name}": tensor for name, tensor in weights.items()}


def part_of(place: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`within` backwards: the weights of a part, by its own names."""
    start = f"{place}."
    return {n.removeprefix(start): t for n, t in weights.items() if n.startswith(start)}
