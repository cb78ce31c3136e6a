"""`ImageData`: what every dataset is, and the registry of datasets.

Images are uint8, n c h w or clips n c f h w, in a mapped file, training part first. Where the data
says nothing else, one quarter is the test part, by a hash of each example's group (or key) alone:
it needs no seed, and adding files moves none.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hierdiff.batch import Batch, Cond
from hierdiff.data.classes import class_index
from hierdiff.data.encoded import EncodedImages
from hierdiff.data.law import Law
from hierdiff.files.reading import with_escapes
from hierdiff.images import to_float
from hierdiff.registry import Node, Registry
from hierdiff.resolution import Resolution, resolution_of, text_of
from hierdiff.text import POOLED, Encoded, TextEncoder, encoded, encoders, vocabulary_of

HASHED = "a quarter of the names is test, by their hash"
NAMED = 5  # classes and skipped files that a summary names


@dataclass(frozen=True, eq=False, repr=False)
class ImageData:
    """Images with what is known of them; every tuple and array has one entry for each image.

    images: uint8 (n c h w), or clips (n c f h w), in memory, in a mapped file, or decoded when they
    are read (`EncodedImages`); labels: int64 (n,), -1 for none, or None without
    classes; captions: "" for none; keys: stable names; groups: examples of one group stay on one
    side of the split. flip: may a random horizontal flip be used; scalars, vectors: named numbers
    (n,) and named vectors (n, width) handed to `Cond`; attributes: codes (n,) of known parts, named
    by `attribute_names`; law: that they are drawn from, where it is known; skipped: "PATH: reason";
    in_test: bool (n,), which images are the test part, None: a quarter by hash; split: how the
    parts were made, in words; shards: numbers (n,) of the shards that images stream out of, in
    order, None where any image can be read at any time; whole: the data that this is a part of;
    buckets: the same examples as training shows them (`hierdiff.data.buckets`), a part for each
    shape; none: as they are here.
    """

    name: str
    images: np.ndarray | EncodedImages[Any]
    keys: tuple[str, ...]
    licence: str
    labels: np.ndarray | None = None
    captions: tuple[str, ...] | None = None
    class_names: tuple[str, ...] = ()
    groups: tuple[str, ...] | None = None
    flip: bool = False
    scalars: Mapping[str, np.ndarray] = field(default_factory=dict)
    vectors: Mapping[str, np.ndarray] = field(default_factory=dict)
    attributes: Mapping[str, np.ndarray] = field(default_factory=dict)
    attribute_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    law: Law | None = None
    skipped: tuple[str, ...] = ()
    text: TextEncoder | None = None
    encodings: Encoded | None = None
    digests: np.ndarray | None = None
    in_test: np.ndarray | None = None
    split: str = HASHED
    shards: np.ndarray | None = None
    whole: ImageData | None = None
    buckets: tuple[ImageData, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def resolution(self) -> Resolution:
        """An int for squares, else the sides (h, w) or (f, h, w)."""
        return resolution_of(self.images.shape[2:])

    @property
    def facts(self) -> dict[str, Any]:
        """What a constructor may be offered: channels, classes, and what conditions there are.

        Where they are set: text_width and text_length, names of scalars, widths of vectors by name.
        """
        facts: dict[str, Any] = {"channels": self.images.shape[1], "classes": len(self.class_names)}
        if self.text is not None:
            facts |= {"text_width": self.text.width, "text_length": self.text.length}
        if self.scalars:
            facts["scalars"] = tuple(sorted(self.scalars))
        widths = {name: part.shape[1] for name, part in sorted(self.vectors.items())}
        if self.text is not None and self.text.pooled_width:
            widths[POOLED] = self.text.pooled_width
        if widths:
            facts["vectors"] = widths
        return facts

    @property
    def condition_codes(self) -> dict[str, Int[np.ndarray, " n"]]:
        """What the conditions of each image say of the parts in its law: codes by attribute.

        int64 (n,), -1 where they say nothing of an image. Empty without a law, classes and text.
        """
        codes_of: dict[str, np.ndarray] = {}
        if self.law is None:
            return codes_of
        if self.law.classes is not None and self.class_names and self.labels is not None:
            codes_of[self.law.classes] = np.where(
                self.labels < 0, -1, self.attributes[self.law.classes]
            )
        if self.text is not None and self.captions is not None:
            captioned = np.array([caption != "" for caption in self.captions])
            for name in self.law.captioned:
                codes = np.where(captioned, self.attributes[name], -1)
                codes_of[name] = np.maximum(codes, codes_of[name]) if name in codes_of else codes
        return codes_of

    @property
    def text_node(self) -> dict[str, Any] | None:
        """The config that builds the text encoder again, without the data."""
        return None if self.text is None else self.text.node

    @cached_property
    def tested(self) -> Bool[np.ndarray, " n"]:
        """Which images are the test part."""
        if self.in_test is not None:
            return self.in_test
        return np.array([is_test(group) for group in self.groups or self.keys], dtype=bool)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of all that training and measuring read of the images, in order.

        Pixels (by the digests of single images, which are stored in the cache), labels and their
        names, captions, scalars, vectors, attributes, and the split.
        """
        total = hashlib.sha256()
        if self.digests is None:
            for row in range(len(self)):
                total.update(hashlib.sha256(self.images[row].tobytes()).digest())
        else:
            total.update(self.digests.tobytes())
        labels = None if self.labels is None else self.labels.tolist()
        numbers = [
            [(name, np.asarray(values).tolist()) for name, values in sorted(named.items())]
            for named in (self.scalars, self.attributes)
        ]
        for name, values in sorted(self.vectors.items()):
            total.update(name.encode() + np.ascontiguousarray(values, np.float32).tobytes())
        total.update(repr((self.images.shape, labels, self.captions)).encode())
        total.update(repr((self.class_names, numbers, self.tested.tolist())).encode())
        for bucket in self.buckets:
            total.update(bucket.sha256.encode())
        return total.hexdigest()

    @property
    def reference_sha256(self) -> str:
        """`sha256` of what samples are compared with: scalars, vectors and buckets, which are
        conditions and what training shows, are left out."""
        return replace(self, scalars={}, vectors={}, buckets=()).sha256

    def summary(self) -> str:
        """One line of images, classes, split, captions and what was skipped; of a part, the
        whole's."""
        if self.whole is not None:
            return self.whole.summary()
        parts = [f"{len(self)} images of {text_of(self.resolution)} px"]
        test = int(self.tested.sum())
        if self.class_names and self.labels is not None:
            names = self.class_names
            more = (f"... {names[-1]}",) if len(names) > NAMED else ()
            parts.append(f"{len(names)} classes ({', '.join(names[:NAMED] + more)})")
            if without := int((self.labels < 0).sum()):
                parts.append(f"{without} images without a class")
        else:
            parts.append("no classes")
        parts.append(f"train {len(self) - test}, test {test} ({self.split})")
        parts += self._absent()
        if self.captions is not None:
            parts.append(f"captions for {sum(map(bool, self.captions))}")
        else:
            parts.append("no captions")
        if self.scalars:
            parts.append(f"scalars {', '.join(sorted(self.scalars))}")
        if self.vectors:
            parts.append(f"vectors {', '.join(sorted(self.vectors))}")
        if self.buckets:
            named = ", ".join(f"{text_of(one.resolution)}: {len(one)}" for one in self.buckets)
            parts.append(f"trained on in buckets ({named})")
        if self.skipped:
            why = [*self.skipped[:NAMED], *(["..."] if len(self.skipped) > NAMED else [])]
            parts.append(f"{len(self.skipped)} skipped: {' | '.join(why)}")
        else:
            parts.append("none skipped")
        return with_escapes(f"data {self.name}: {'; '.join(parts)}")

    def _absent(self) -> Iterator[str]:
        """Classes that one part of the split lacks."""
        if self.labels is None or not 0 < self.tested.sum() < len(self):
            return
        for part, rows in (("training", ~self.tested), ("test", self.tested)):
            have = set(self.labels[rows].tolist())
            absent = [n for number, n in enumerate(self.class_names) if number not in have]
            if absent:
                named = ", ".join([*absent[:NAMED], *(["..."] if len(absent) > NAMED else [])])
                yield f"no {part} image of {len(absent)} classes ({named})"

    def part(self, split: str) -> ImageData:
        """The training part ("train"), the test part ("test"), or "all".

        Raises:
            ValueError: for another name, or an empty part.
        """
        if split not in ("train", "test", "all"):
            raise ValueError(f"unknown part {split!r}: choose train, test or all")
        if split == "all":
            return self
        rows = np.flatnonzero(self.tested == (split == "test"))
        if not len(rows):
            why = "too few for a split by hash" if self.in_test is None else "all on the other side"
            raise ValueError(
                f"the {split} part of {self.name!r} is empty: {len(self)} images are {why}, add "
                f"some or use part=all"
            )
        shapes = [one for one in self.buckets if not one.tested.all()] if split == "train" else ()
        buckets = tuple(one.part("train") for one in shapes)
        return replace(self.select(rows), whole=self.whole or self, buckets=buckets)

    def select(self, rows: Int[np.ndarray, " m"]) -> ImageData:
        """Some of the examples, without buckets; neighbouring ones stay in the mapped file, others
        are copied."""
        run = (
            len(rows) > 0
            and rows[-1] - rows[0] + 1 == len(rows)
            and bool((np.diff(rows) == 1).all())
        )
        at: Any = slice(int(rows[0]), int(rows[-1]) + 1) if run else rows

        def strings(values: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(values[row] for row in rows)

        images = self.images
        return replace(
            self,
            images=images.select(at) if isinstance(images, EncodedImages) else images[at],
            keys=strings(self.keys),
            labels=None if self.labels is None else self.labels[at],
            captions=None if self.captions is None else strings(self.captions),
            groups=None if self.groups is None else strings(self.groups),
            scalars={name: values[at] for name, values in self.scalars.items()},
            vectors={name: values[at] for name, values in self.vectors.items()},
            attributes={name: values[at] for name, values in self.attributes.items()},
            encodings=None if self.encodings is None else self.encodings.taken(at),
            digests=None if self.digests is None else self.digests[at],
            in_test=None if self.in_test is None else self.in_test[at],
            shards=None if self.shards is None else self.shards[at],
            buckets=(),
        )

    def with_text(self, text: Node | TextEncoder | None, cache: Path) -> ImageData:
        """The same data with its captions encoded (once, into `cache`).

        Raises:
            ValueError: where it has no captions.
        """
        if text is None:
            return self
        if self.captions is None:
            raise ValueError(
                f"{self.name!r} has no captions to encode: leave text out, or give it captions"
            )
        encoder = encoders.build(text, offered={"words": vocabulary_of(self.captions)})
        return replace(self, text=encoder, encodings=encoded(encoder, self.captions, cache))

    @property
    def crops(self) -> bool:
        """Whether a batch may show another part of an image each time."""
        return isinstance(self.images, EncodedImages) and self.images.random

    def batch(
        self,
        index: Int[Tensor, " b"],
        flip: Bool[Tensor, " b"] | None = None,
        crop: Float[Tensor, "b 3"] | None = None,
    ) -> Batch:
        """Images in [-1, 1] with all that is known of them.

        flip: which are mirrored; crop: what random crops draw, in [0, 1), None for the middle.
        """
        rows = index.numpy()
        if crop is not None and isinstance(self.images, EncodedImages):
            images = to_float(torch.from_numpy(self.images.read(rows, crop.numpy())))
        else:
            images = to_float(torch.from_numpy(self.images[rows]))
        if flip is not None:
            mirrored = flip.reshape(-1, *[1] * (images.ndim - 1))
            images = torch.where(mirrored, images.flip(-1), images)
        return Batch(images, self.cond_of(index))

    def stills(self, chances: Float[Tensor, "b 2"]) -> Batch:
        """Single frames of clips, each with what is known of its clip.

        chances: in [0, 1), of the clip and of the frame in it.
        """
        sizes = torch.tensor([len(self), self.images.shape[2]])
        clips, places = (chances * sizes).long().unbind(1)
        frames = self.images[clips.numpy()][np.arange(len(clips)), :, places.numpy()]
        return Batch(to_float(torch.from_numpy(frames)), self.cond_of(clips))

    def cond_of(self, index: Int[Tensor, " b"]) -> Cond:
        """What is known of the examples `index`, without their images."""
        rows = index.numpy()
        tokens, mask = (None, None) if self.encodings is None else self.encodings.at(rows)
        pooled = {} if self.encodings is None else self.encodings.vectors_at(rows)
        return Cond(
            labels=None if self.labels is None else torch.from_numpy(self.labels[rows]),
            tokens=tokens,
            mask=mask,
            scalars={
                name: torch.from_numpy(values[rows]).float()
                for name, values in self.scalars.items()
            },
            vectors={
                name: torch.from_numpy(values[rows]).float()
                for name, values in self.vectors.items()
            }
            | pooled,
        )

    def cond(
        self, labels: Sequence[object] | None = None, captions: Sequence[object] | None = None
    ) -> Cond:
        """`conditions` with this data's classes and text encoder."""
        return conditions(labels, captions, class_names=self.class_names, text=self.text)


datasets: Registry[ImageData] = Registry("dataset", ImageData)


def conditions(
    labels: Sequence[object] | None = None,
    captions: Sequence[object] | None = None,
    *,
    class_names: Sequence[str] = (),
    text: TextEncoder | None = None,
) -> Cond:
    """Conditions to sample under: classes by number or name (-1 for none), captions ("" for none).

    Where only one of the two is set, the other is "none" for every image, if the data has it.

    Raises:
        ValueError: where the two have other lengths, or the data has no classes or text.
    """
    if labels is not None and captions is not None and len(labels) != len(captions):
        raise ValueError(
            f"{len(labels)} labels and {len(captions)} captions: give one of each for an image"
        )
    if captions is not None and text is None:
        raise ValueError(
            "captions were given and there is no text encoder: set text, or leave them"
        )
    if labels is not None and not class_names:
        raise ValueError("labels were given and the data has no classes: leave them out")
    count = len(labels if labels is not None else captions if captions is not None else ())
    if not count:
        return Cond()
    numbers = None
    if class_names:
        classes = (
            [-1] * count if labels is None else [class_index(one, class_names) for one in labels]
        )
        numbers = torch.tensor(classes, dtype=torch.int64)
    if text is None:
        return Cond(labels=numbers)
    texts = [""] * count if captions is None else [_text(caption) for caption in captions]
    return replace(text.condition(texts), labels=numbers)


def _text(caption: object) -> str:
    if not isinstance(caption, str):
        raise ValueError(f"caption {caption!r} is no text: write it in quotes")
    return unicodedata.normalize("NFC", caption)


def is_test(group: str) -> bool:
    """One quarter of all groups, by the first byte of the SHA-256 of the name."""
    return hashlib.sha256(group.encode()).digest()[0] < 64


def in_split_order(
    keys: Sequence[str],
    groups: Sequence[str] | None = None,
    in_test: Sequence[bool] | None = None,
) -> list[int]:
    """Rows sorted by part (training first), then by key: a part is then one run of the file."""
    tested = [is_test(group) for group in groups or keys] if in_test is None else in_test
    return sorted(range(len(keys)), key=lambda row: (tested[row], keys[row]))
