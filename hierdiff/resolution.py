"""How the levels of a hierarchy are named: by resolution, or by a word.

A level's name keys its images, logs and columns: its resolution, or a word (`Named`) where several
levels have the same resolution. Nothing here imports torch, so that tables and `--help` start fast.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from hierdiff.options import Count, Length

Resolution = int | tuple[int, ...]  # the side of a square, or all sides, as in (8, 32, 32)
Name = int | tuple[int, ...] | str  # of a level: its resolution, or a word
Sides = Annotated[Sequence[Count], Length(1, more=True)]
Resolutions = Annotated[Sequence[Count | Sides], Length(1, more=True)]  # an option: finest first
RESOLUTION_TEXT = re.compile(r"\d+(x\d+)*x?")  # how a resolution is written
NAME_WORD = re.compile(r"[A-Za-z_][\w.-]*")


class Named(str):
    """A level's name as a word, with its resolution: `Named("refined", 64)` equals "refined".

    Raises:
        ValueError: where the word has other characters than letters, digits, `_`, `.` and `-`, or
            does not start with a letter or `_`.
    """

    resolution: Resolution

    def __new__(cls, word: str, resolution: int | Sequence[int]) -> Named:
        """The name `word` with its resolution.

        Raises:
            ValueError: for a word that is no name, as the class says.
        """
        if not NAME_WORD.fullmatch(word):
            raise ValueError(
                f"a level named {word!r}: start with a letter and use letters, digits, _ . and -"
            )
        named = super().__new__(cls, word)
        named.resolution = resolution_of(resolution)
        return named

    def __getnewargs__(self) -> tuple[str, Resolution]:  # type: ignore[override]
        return str(self), self.resolution


def resolution_of(name: int | str | Sequence[int]) -> Resolution:
    """The resolution of a level's name or of sides, in normal form: 32 for (32, 32).

    Raises:
        ValueError: for a word that is not `Named`, and for sides below 1.
    """
    if type(name) is int and name > 0:
        return name
    if isinstance(name, Named):
        return name.resolution
    if isinstance(name, str):
        raise ValueError(f"the level named {name!r} has no resolution: give Named({name!r}, sides)")
    sides = (int(name),) * 2 if isinstance(name, int) else tuple(int(side) for side in name)
    if any(side < 1 for side in sides):
        raise ValueError(f"resolution {name} has sides below 1: give positive ones")
    return sides[0] if len(sides) == 2 and sides[0] == sides[1] else sides


def sides_of(name: int | str | Sequence[int]) -> tuple[int, ...]:
    """All sides of a resolution or a name: (32, 32) for 32."""
    resolution = resolution_of(name)
    return (resolution, resolution) if isinstance(resolution, int) else resolution


def size_of(name: int | str | Sequence[int]) -> int:
    """Number of pixels of a resolution, over all frames."""
    return math.prod(sides_of(name))


def side_of(name: int | str | Sequence[int]) -> float:
    """Side, in pixels, of the square with as many pixels over all frames."""
    resolution = resolution_of(name)
    return resolution if isinstance(resolution, int) else math.sqrt(math.prod(resolution))


def text_of(name: int | str | Sequence[int]) -> str:
    """A name as text, for logs, files, records and columns: "64", "8x32x32", "refined".

    A single side ends in x ("32x"), and a vector, which has no side, is "vector".
    """
    if isinstance(name, str):
        return str(name)
    resolution = resolution_of(name)
    if isinstance(resolution, int):
        return str(resolution)
    text = "x".join(map(str, resolution)) or "vector"
    return f"{text}x" if len(resolution) == 1 else text


def name_of(text: str) -> Name:
    """The inverse of `text_of`; a word comes back without its resolution."""
    if text == "vector":
        return ()
    if not RESOLUTION_TEXT.fullmatch(text):
        return text
    sides = tuple(int(side) for side in text.split("x") if side)
    return resolution_of(sides if "x" in text else sides[0])


def plain_of(name: int | str | Sequence[int]) -> int | str | list[int]:
    """A name as plain data, for JSON and YAML: 64, [8, 32, 32], "refined"."""
    if isinstance(name, str):
        return str(name)
    resolution = resolution_of(name)
    return resolution if isinstance(resolution, int) else list(resolution)


def place_of(level: Name) -> dict[str, Any]:
    """Where a row of a record stands: the resolution of a level, and its name where that is a
    word."""
    word = {"level": str(level)} if isinstance(level, str) else {}
    return {"resolution": plain_of(resolution_of(level)), **word}


def level_of(row: Mapping[str, Any]) -> Name:
    """The level of a row of a record, the inverse of `place_of`."""
    word = row.get("level")
    return resolution_of(row["resolution"]) if word is None else Named(word, row["resolution"])


def joint_text(names: Sequence[int | str | Sequence[int]]) -> str:
    """The names of joint levels as one text: "64x32" of squares, else "8x32x32+4x32x32"."""
    squares = all(isinstance(name, int) for name in names)
    return ("x" if squares else "+").join(map(text_of, names))


def px(name: int | str | Sequence[int]) -> str:
    """A level's name for a sentence: "64 px", "8x32x32 px", "base, 64 px"."""
    if isinstance(name, Named):
        return f"{name}, {text_of(name.resolution)} px"
    return text_of(name) if isinstance(name, str) else f"{text_of(name)} px"


def order_of(name: int | str | Sequence[int]) -> tuple[int, tuple[int, ...], str]:
    """Sort key for names, finest first by their pixels; words without a resolution come last."""
    if isinstance(name, str) and not isinstance(name, Named):
        return 0, (), name
    word = str(name) if isinstance(name, str) else ""
    return -size_of(name), tuple(-side for side in sides_of(name)), word


def finest_first(names: Iterable[int | str | Sequence[int]]) -> list[Any]:
    """Each name once, from most to fewest pixels."""
    distinct = {name if isinstance(name, str) else resolution_of(name) for name in names}
    return sorted(distinct, key=order_of)


def divides(coarse: int | str | Sequence[int], fine: int | str | Sequence[int]) -> bool:
    """Whether images at `fine` can be pooled to `coarse`."""
    low, high = sides_of(coarse), sides_of(fine)
    return len(low) == len(high) and not any(a % b for a, b in zip(high, low, strict=True))


def check_resolutions(resolutions: Sequence[int | Sequence[int]]) -> tuple[Resolution, ...]:
    """The resolutions of a pyramid in normal form, finest first.

    Raises:
        ValueError: where they are not in order, or a side is not a multiple of the next one's.
    """
    plain = [one if isinstance(one, int) else list(one) for one in resolutions]
    if not plain or any(
        min(one if isinstance(one, list) else [one], default=1) < 1 for one in plain
    ):
        raise ValueError(f"resolutions {plain} must be one or more positive sides")
    normal = tuple(resolution_of(one) for one in plain)
    for fine, coarse in zip(normal, normal[1:], strict=False):
        high, low = sides_of(fine), sides_of(coarse)
        if fine == coarse:
            raise ValueError(f"resolutions {plain} name {plain_of(fine)} twice: name each once")
        if len(high) != len(low):
            raise ValueError(
                f"resolutions {plain} have {len(high)} and {len(low)} sides: give each as many"
            )
        if size_of(fine) < size_of(coarse):
            raise ValueError(
                f"resolutions {plain} are not in order: write the finest first, "
                f"{[plain_of(one) for one in finest_first(normal)]}"
            )
        if not divides(coarse, fine):
            half = resolution_of([*high[:-2], *(max(1, side // 2) for side in high[-2:])])
            raise ValueError(
                f"resolution {plain_of(coarse)} does not divide {plain_of(fine)}: levels are block "
                f"means, choose sides such as {[plain_of(fine), plain_of(half)]}"
            )
    return normal


def level_names(names: Sequence[Name]) -> tuple[str, ...]:
    """The text of each level's name in logs: `("32", "16-1", "16-2")`.

    Where several have the same text, the place is added, finest first from 0.
    """
    texts = [text_of(name) for name in names]
    return tuple(
        text if texts.count(text) == 1 else f"{text}-{place}" for place, text in enumerate(texts)
    )
