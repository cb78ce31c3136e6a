"""One value of a metric as a row, of one type from what measures it to the table that prints it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from math import isfinite
from typing import Any, NamedTuple, TypeVar

from typing_extensions import override

from hierdiff.metrics.identity import Identity
from hierdiff.resolution import (
    Name,
    Named,
    Resolution,
    level_of,
    name_of,
    place_of,
    px,
    resolution_of,
    size_of,
    text_of,
)

NATIVE, POOLED = "native", "pooled"
VIEWS = (NATIVE, POOLED)
LOW, HIGH = "low", "high"
BETTER = (LOW, HIGH, None)
FINEST = "finest/"  # begins the key that says which place is a method's finest, among outputs
WHOLE = ("frechet", "kernel", "sliced")  # how estimators that compare whole distributions begin
R = TypeVar("R", bound="Quality")


@lru_cache(maxsize=4096)
def _identity(parts: tuple[tuple[str, Any], ...]) -> Identity:
    """The identity of these parts, which many rows share."""
    return Identity(**dict(parts))


@dataclass(frozen=True)
class Quality:
    """One value: where it stands, what it is, and what it may be compared with.

    level: name of the level. view: "native" (the method's own level) or "pooled" (its finest image
    reduced to it). value: None where there is none; of several sampling seeds their mean. n,
    n_reference: numbers of images, None where they do not count or are infinite. floor: what a
    perfect model would get with as many images (see `noise_floor`). route: algorithm of a distance.
    better: "low" or "high", None where the value of real images is the aim. values: one for each
    seed; spread: their standard deviation, None for one. between, within, draws: sources of the
    spread where training seeds are merged (`hierdiff.results.over_seeds`).

    Raises:
        FloatingPointError: where value or floor is NaN or infinite.
        ValueError: for an unknown view or an unknown `better`.
    """

    level: Name
    view: str
    metric: str
    value: float | None
    identity: Identity
    n: int | None = None
    n_reference: int | None = None
    floor: float | None = None
    route: str | None = None
    better: str | None = LOW
    values: tuple[float, ...] = ()
    spread: float | None = None
    between: float | None = None
    within: float | None = None
    draws: int | None = None

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise ValueError(f"{self._where} has view {self.view!r}: it is one of {list(VIEWS)}")
        if self.better not in BETTER:
            raise ValueError(f"{self._where} has better {self.better!r}: it is one of {BETTER}")
        for number, what in ((self.value, ""), (self.floor, "the noise floor of ")):
            if number is not None and not isfinite(number):
                finite(number, f"{what}{self._where}")

    @property
    def _where(self) -> str:
        return f"{self.metric} at {px(self.level)} ({self.view}, {self.n} images)"

    @property
    def resolution(self) -> Resolution:
        """Of its level."""
        return resolution_of(self.level)

    @property
    def whole(self) -> bool:
        """Whether it compares whole distributions (FD, KD, MIND), and not one aspect of them."""
        return (self.identity.estimator or "").startswith(WHOLE)

    def plain(self) -> dict[str, Any]:
        """As a record stores it; the inverse of `read`."""
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "level"}
        own = {"identity": self.identity.plain(), "values": list(self.values)}
        return {**place_of(self.level), **parts, **own}

    @classmethod
    def read(cls: type[R], row: Mapping[str, Any]) -> R:
        """Reads a row in the form of `hierdiff.results.form`; unknown keys are ignored."""
        known = dict(row)
        for key in known.keys() - cls.__dataclass_fields__.keys():
            del known[key]
        known["level"] = level_of(row)
        known["identity"] = _identity(tuple(row["identity"].items()))
        known["values"] = tuple(row.get("values") or ())
        made = object.__new__(
            cls
        )  # a record has a hundred rows; the constructor is four times slower
        vars(made).update(known)
        made.__post_init__()
        return made


@dataclass(frozen=True)
class Spent:
    """The training behind a snapshot.

    stage: name of the one in training. step, images, flops, seconds: of training, in all.
    half_life: of the average of its weights, in images.
    """

    stage: str | None = None
    step: int | None = None
    images: float | None = None
    flops: float | None = None
    seconds: float | None = None
    half_life: float | None = None


@dataclass(frozen=True)
class CurvePoint(Spent, Quality):
    """One value of a snapshot."""


@dataclass(frozen=True)
class Candidate(Quality):
    """One value of a selection, with the options behind it; None: as the run has it.

    guidance: a scale, or one for each level. steps: of the sampler. half_life: of the average of
    the weights, in images. chosen: whether the reported row has these options.
    """

    guidance: float | tuple[float, ...] | None = None
    steps: int | None = None
    half_life: float | None = None
    chosen: bool = False

    @classmethod
    @override
    def read(cls: type[R], row: Mapping[str, Any]) -> R:
        guidance = row.get("guidance")
        scales = tuple(guidance) if isinstance(guidance, (list, tuple)) else guidance
        return super().read({**row, "guidance": scales})

    def options(self, without: str = "") -> str:
        """Its options in words; without: the field of one to leave out."""
        words = (
            f"{name.replace('half_life', 'half-life')} {_words(value)}"
            for name in ("guidance", "steps", "half_life")
            if name != without and (value := getattr(self, name)) is not None
        )
        return ", ".join(words)


def _words(value: float | tuple[float, ...]) -> str:
    scales = value if isinstance(value, tuple) else (value,)
    return ":".join(f"{scale:g}" for scale in scales)


def finite(value: float, what: str) -> float:
    """Returns the value; what: its name in the error.

    Raises:
        FloatingPointError: where it is NaN or infinite.
    """
    if not isfinite(value):
        raise FloatingPointError(
            f"{what} is {value}, which is no result: look at the images and at the features of "
            f"the extractor"
        )
    return value


class Place(NamedTuple):
    """Where a stream of images stands: resolution, level name (None: its resolution), and view."""

    resolution: Resolution
    level: str | None
    view: str

    @classmethod
    def of(cls, name: Name, sides: Sequence[int]) -> Place:
        """The level of this name in a method, whose images have these sides."""
        level = str(name) if isinstance(name, str) else None
        return cls(resolution_of(sides), level, NATIVE)

    @property
    def name(self) -> Name:
        """Of the level."""
        return self.resolution if self.level is None else Named(self.level, self.resolution)

    def text(self) -> str:
        """As a key of arrays, RESOLUTION/LEVEL/VIEW; `read` is the inverse."""
        return f"{text_of(self.resolution)}/{self.level or ''}/{self.view}"

    @classmethod
    def read(cls, text: str) -> Place:
        """The inverse of `text`.

        Raises:
            ValueError: for a text of another form.
        """
        resolution, level, view = text.split("/")
        return cls(resolution_of(name_of(resolution)), level or None, view)

    def order(self) -> tuple[int, str, str]:
        """Sort key: finest first."""
        return (-size_of(self.resolution), self.level or "", self.view)


def row_order(row: Quality) -> tuple[int, str, str]:
    """Sort key: finest level first, then by view."""
    word = row.level if isinstance(row.level, str) else ""
    return (-size_of(row.resolution), word, row.view)
