"""One value of a metric: what it is, where in a method it stands, what it may be compared with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, NamedTuple

from torch import Tensor

from hierdiff.levels import (
    Name,
    Named,
    Resolution,
    name_of,
    plain_of,
    px,
    resolution_of,
    size_of,
    text_of,
)

NATIVE, POOLED = "native", "pooled"
LOW, HIGH = "low", "high"


@dataclass(frozen=True)
class Quality:
    """One value: where it was measured, what it is, and what it may be compared with.

    floor: what a perfect model would get from as many images (see `noise_floor`); better: "low" or
    "high", None where real images give the value to reach; n_reference: None where it plays no part
    or is endless; level: name of the level where that is not its resolution.
    """

    resolution: Resolution
    view: str
    metric: str
    value: float
    floor: float | None
    n: int
    n_reference: int | None
    identity: str
    route: str | None
    better: str | None = LOW
    level: str | None = None

    def __post_init__(self) -> None:
        name = self.resolution if self.level is None else Named(self.level, self.resolution)
        where = f"{self.metric} at {px(name)} ({self.view}, {self.n} images)"
        finite(self.value, where)
        if self.floor is not None:
            finite(self.floor, f"the noise floor of {where}")

    def plain(self) -> dict[str, Any]:
        """As a row of a record."""
        level = {} if self.level is None else {"level": self.level}
        told = {name: value for name, value in asdict(self).items() if name != "level"}
        return {**told, "resolution": plain_of(self.resolution), **level}


def finite(value: float, what: str) -> float:
    """The value. FloatingPointError, with its name, where it is NaN or infinite."""
    if not isfinite(value):
        raise FloatingPointError(
            f"{what} is {value}, which is no result: look at the images and at the features of "
            f"the extractor"
        )
    return value


class Place(NamedTuple):
    """Where a stream of images is measured: resolution and name of a level (None where that is its
    resolution), and view."""

    resolution: Resolution
    level: str | None
    view: str

    @classmethod
    def of(cls, name: Name, images: Tensor) -> Place:
        """A method's own level of that name."""
        level = str(name) if isinstance(name, str) else None
        return cls(resolution_of(images.shape[2:]), level, NATIVE)

    def text(self) -> str:
        return f"{text_of(self.resolution)}/{self.level or ''}/{self.view}"

    @classmethod
    def read(cls, text: str) -> Place:
        """The inverse of `text`; ValueError for another."""
        resolution, level, view = text.split("/")
        return cls(resolution_of(name_of(resolution)), level or None, view)

    def order(self) -> tuple[int, str, str]:
        """Finest first."""
        return (-size_of(self.resolution), self.level or "", self.view)


def row_order(row: Quality) -> tuple[int, str, str]:
    """Finest level first, then by view."""
    return (-size_of(row.resolution), row.level or "", row.view)
