"""What is known of the parts of images that are drawn from a stated law: how often each occurs.

A part is an attribute with a code, as `ImageData.attributes` has it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

Part = tuple[str, int]
ROUNDING = 1e-9  # by which probabilities may miss a sum of 1


@dataclass(frozen=True)
class Law:
    """Of independent images, each of which has one code of every attribute.

    name: of the data; frequencies: probability of each code of an attribute; impossible: pairs of
    parts that no image has both of; classes: the attribute that is the class label; captioned: the
    attributes that captions name.

    Raises:
        ValueError: where probabilities are none, or a part is unknown.
    """

    name: str
    frequencies: Mapping[str, tuple[float, ...]]
    impossible: tuple[tuple[Part, Part], ...] = ()
    classes: str | None = None
    captioned: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for attribute, p in self.frequencies.items():
            if not p or min(p) < 0 or abs(sum(p) - 1) > ROUNDING:
                raise ValueError(
                    f"frequencies of {attribute!r} sum to {sum(p):g}, the least is "
                    f"{min(p, default=0):g}: give a probability for each code, together 1"
                )
        parts = [part for pair in self.impossible for part in pair]
        attributes = [self.classes] if self.classes is not None else []
        for attribute, code in [*parts, *((name, 0) for name in (*attributes, *self.captioned))]:
            if not 0 <= code < len(self.frequencies.get(attribute, ())):
                raise ValueError(
                    f"the law of {self.name!r} names code {code} of {attribute!r}, which has no "
                    f"frequency: give one, attributes: {', '.join(self.frequencies)}"
                )

    @cached_property
    def hash(self) -> str:
        """Of frequencies and impossible pairs, in order."""
        content = [list(self.frequencies.items()), self.impossible]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    @property
    def sizes(self) -> dict[str, int]:
        """How many codes each attribute has."""
        return {attribute: len(p) for attribute, p in self.frequencies.items()}


def uniform(codes: int) -> tuple[float, ...]:
    """The same probability for each of `codes`."""
    return (1 / codes,) * codes


def optional(absent: float, codes: int) -> tuple[float, ...]:
    """Code 0, "none", with probability `absent`; else one of `codes` alike."""
    return (absent, *((1 - absent) / codes,) * codes)
