"""What makes two values of a metric comparable: parts as data, which have one form as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any


@dataclass(frozen=True)
class Identity:
    """Two values may be compared where all of this is equal.

    maker: what makes numbers of images, a network with the hash of its weights (`name@hash`),
    "pixels", or a library. resize, quantisation: how images come into it. n: images that the value
    is made from. frames: of each clip. rows: the rule of the held-out rows under whose conditions
    they were made. reference: hash of what they are compared with, or its name. estimator: how the
    value is made of the numbers. None where a part plays no role.
    """

    maker: str
    resize: str | None = None
    quantisation: str | None = None
    n: str | None = None
    frames: str | None = None
    rows: str | None = None
    reference: str | None = None
    estimator: str | None = None

    def __str__(self) -> str:
        """`SOURCE : ESTIMATOR`, as in `inception@5793 : N=512 : ref=a1b2 : frechet`."""
        return " : ".join(filter(None, (self.source, self.estimator)))

    @property
    def source(self) -> str:
        """All but the estimator, as text."""
        named = {"N": self.n, "frames": self.frames, "": self.rows, "ref": self.reference}
        told = [f"{k}={v}" if k else v for k, v in named.items() if v is not None]
        return " : ".join(filter(None, (self.maker, self.resize, self.quantisation, *told)))

    def apart_from_count(self) -> Identity:
        """Without number of images and estimator: what values of fewer images share with those of
        more."""
        return replace(self, n=None, estimator=None)

    def plain(self) -> dict[str, str]:
        """As a record has it: the parts that play a role."""
        return {name: part for name, part in asdict(self).items() if part is not None}


def identity_of(value: str | Mapping[str, Any]) -> Identity:
    """The identity of a row: its parts, or the text that records before schema 5 have."""
    return _from_text(value) if isinstance(value, str) else Identity(**value)


@lru_cache(maxsize=4096)
def _from_text(text: str) -> Identity:
    """ValueError is not raised: what has no known form is the maker."""
    parts = [part.strip() for part in text.split(":")]
    counted = next((i for i, part in enumerate(parts) if part.startswith("N=")), None)
    if counted is None or not 1 <= counted <= 3:
        return Identity(text)
    found: dict[str, str] = {"maker": parts[0], "n": parts[counted].removeprefix("N=")}
    if counted > 1:
        found["quantisation"] = parts[counted - 1]
    if counted > 2:
        found["resize"] = parts[1]
    for part in parts[counted + 1 :]:
        name = (
            "frames" if part.startswith("frames=")
            else "reference" if part.startswith("ref=")
            else "rows" if part.startswith("rows=")
            else "estimator"
        )  # fmt: skip
        if name in found:
            return Identity(text)
        found[name] = part if name in ("rows", "estimator") else part.partition("=")[2]
    return Identity(**found)
