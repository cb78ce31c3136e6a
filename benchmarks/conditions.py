"""The conditions of image number i: those of a test image, see `evaluation_rows`, or its own."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from typing_extensions import override

from hierdiff.batch import Cond
from hierdiff.data import ImageData
from hierdiff.data.classes import class_index
from hierdiff.data.law import Law
from hierdiff.data.order import evaluation_rows, evaluation_rule
from hierdiff.noise import generator_of

Labels = Literal["test", "balanced", "random"]


class Conditions(ABC):
    """Under what a stream of images is made: captions, and the parts that conditions state.

    law: that the parts belong to, None without one. rule: that chose the conditions, for an
    identity, "" for none. prompts: name of the captions, for an identity.
    """

    law: Law | None
    rule: str = ""
    prompts: str = "captions"

    @abstractmethod
    def captions(self, places: Sequence[int]) -> list[str] | None:
        """The captions of images number `places`; None where there are none."""

    @abstractmethod
    def parts(self, places: Sequence[int]) -> dict[str, Int[Tensor, " n"]]:
        """Codes of the parts that the conditions of images number `places` state, -1 for none."""


class EvaluationConditions(Conditions):
    """Those of held-out data: image i has them from `evaluation_rows`.

    labels: "test" for the classes of those rows as well, "balanced" for class i modulo the number
    of classes, "random" for one drawn uniformly by a generator of the image's own, from `seed`.

    Raises:
        ValueError: for classes of their own where the data has none, or encodes captions, which
            would not be those of the classes.
    """

    def __init__(self, data: ImageData, labels: Labels = "test", seed: int = 0):
        self.data, self.labels, self.seed, self.law = data, labels, seed, data.law
        self.rule = evaluation_rule(len(data))
        if labels == "test":
            return
        self.rule = f"labels={labels}({len(data.class_names)})"
        if not data.class_names:
            raise ValueError(
                f"measure.labels={labels}: {data.name} has no classes, take measure.labels=test"
            )
        if data.text is not None:
            raise ValueError(
                f"measure.labels={labels}: the captions of {data.name} belong to its test images, "
                f"take measure.labels=test, or data.text=null"
            )

    def cond(self, places: Sequence[int]) -> Cond:
        """The conditions of images number `places`, as a network reads them."""
        cond = self.data.batch(evaluation_rows(len(self.data), places)).cond
        return cond if self.labels == "test" else replace(cond, labels=self.classes(places))

    def classes(self, places: Sequence[int]) -> Int[Tensor, " n"] | None:
        """The classes of images number `places`, -1 for none; None where the data has none."""
        count = len(self.data.class_names)
        if self.labels == "balanced":
            return torch.tensor([place % count for place in places])
        if self.labels == "random":
            generators = [generator_of(self.seed, "label", place) for place in places]
            return torch.cat([torch.randint(count, (1,), generator=one) for one in generators])
        labels = self.data.labels
        return None if labels is None else torch.from_numpy(labels[self._rows(places)])

    @override
    def captions(self, places: Sequence[int]) -> list[str] | None:
        captions = self.data.captions if self.labels == "test" else None
        return None if captions is None else [captions[row] for row in self._rows(places)]

    @override
    def parts(self, places: Sequence[int]) -> dict[str, Int[Tensor, " n"]]:
        rows, codes = self._rows(places), self.data.condition_codes
        found = {name: torch.from_numpy(values[rows]) for name, values in codes.items()}
        classes = self.classes(places)
        if self.labels != "test" and self.law is not None and self.law.classes in found:
            assert classes is not None
            found[self.law.classes] = classes
        return found

    def _rows(self, places: Sequence[int]) -> list[int]:
        return evaluation_rows(len(self.data), places).tolist()


class OwnConditions(Conditions):
    """Captions and labels that came with images from elsewhere.

    labels: class of each image by name or number, None for none; () for none at all. captions: ""
    for none; () for none at all. data: whose classes and law they are of, None for no data.

    Raises:
        ValueError: for a label that is no class of the data.
    """

    def __init__(
        self,
        labels: Sequence[str | int | None] = (),
        captions: Sequence[str] = (),
        data: ImageData | None = None,
    ):
        self._captions = tuple(captions)
        self.law = None if data is None else data.law
        self._codes = {} if data is None else _stated_codes(labels, captions, data)
        digest = hashlib.sha256(repr((tuple(labels), self._captions)).encode()).hexdigest()
        self.sha256, self.prompts = digest, f"captions@{digest[:8]}"

    @property
    def without_caption(self) -> int:
        """Number of images that have none."""
        return sum(not caption for caption in self._captions)

    @property
    def says_nothing(self) -> bool:
        """Whether no label and no caption states a part of the data's law."""
        return all((codes < 0).all() for codes in self._codes.values())

    @override
    def captions(self, places: Sequence[int]) -> list[str] | None:
        return [self._captions[place] for place in places] if self._captions else None

    @override
    def parts(self, places: Sequence[int]) -> dict[str, Int[Tensor, " n"]]:
        return {name: torch.from_numpy(codes[list(places)]) for name, codes in self._codes.items()}


class Following(Conditions):
    """Those of the images from number `first` on, of which each is counted from 0 again."""

    def __init__(self, whole: Conditions, first: int):
        self.whole, self.first = whole, first
        self.law, self.rule, self.prompts = whole.law, whole.rule, whole.prompts

    @override
    def captions(self, places: Sequence[int]) -> list[str] | None:
        return self.whole.captions([self.first + place for place in places])

    @override
    def parts(self, places: Sequence[int]) -> dict[str, Int[Tensor, " n"]]:
        return self.whole.parts([self.first + place for place in places])


def _stated_codes(
    labels: Sequence[str | int | None], captions: Sequence[str], data: ImageData
) -> dict[str, Int[np.ndarray, " n"]]:
    """What labels and captions say of the parts in the law of the data, as its own images have
    them: codes by attribute, -1 where they say nothing."""
    law, codes = data.law, dict[str, np.ndarray]()
    if law is None:
        return codes
    if labels and law.classes is not None and data.labels is not None:
        of_class = dict(
            zip(data.labels.tolist(), data.attributes[law.classes].tolist(), strict=True)
        )
        names = data.class_names
        classes = [-1 if one is None else class_index(one, names) for one in labels]
        codes[law.classes] = np.array([of_class.get(one, -1) for one in classes])
    if captions and data.captions is not None:
        rows = {caption: row for row, caption in enumerate(data.captions) if caption}
        at = np.array([rows.get(caption, -1) for caption in captions])
        for name in law.captioned:
            said = np.where(at < 0, -1, data.attributes[name][at])
            codes[name] = np.maximum(said, codes[name]) if name in codes else said
    return codes


def example_caption(data: ImageData) -> str:
    """The caption of image number 0, to time its encoding; "" where the data has none."""
    first = EvaluationConditions(data).captions(range(1))
    return "" if first is None else first[0]
