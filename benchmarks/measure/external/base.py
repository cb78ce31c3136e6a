"""What all images from elsewhere are: of one size, in one order, with what is known of each."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from benchmarks.measure.samples import BATCH
from hierdiff.data.captions import Label
from hierdiff.data.pixels import warn_if_dark
from hierdiff.resolution import Resolution, resolution_of

log = logging.getLogger(__name__)


class External(ABC):
    """Images of one size, any of which can be read; a subclass writes `read`.

    shape: height, width, channels (3 or 1). labels: class of each image by name or number, None for
    an image without one, () where none has one. captions: of each image, "" for none, () where none
    has one. skipped: names of files that are neither images nor say anything of one. copies: images
    that are there before, known once `sha256` has read all.
    """

    shape: tuple[int, int, int]
    labels: Sequence[Label | None] = ()
    captions: Sequence[str] = ()
    skipped: tuple[str, ...] = ()
    copies: int = 0

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def read(self, start: int, stop: int) -> UInt8[np.ndarray, "n h w c"]:
        """Images number `start` to `stop` - 1."""

    @property
    def origin(self) -> Mapping[str, Any]:
        """What made the images, as far as it is known beside their pixels: for a record."""
        return {}

    @property
    def classes(self) -> int | None:
        """Number of classes, None without any."""
        return len({one for one in self.labels if one is not None}) or None

    @property
    def resolution(self) -> Resolution:
        """Of each image."""
        return resolution_of(self.shape[:2])

    def images(self, start: int, stop: int) -> UInt8[Tensor, "_n c h w"]:
        """Images number `start` to `stop` - 1, as networks read them."""
        return torch.from_numpy(rearrange(self.read(start, stop), "n h w c -> n c h w").copy())

    def sha256(self) -> str:
        """SHA-256 of all pixels, image by image, row by row; reads and checks every image.

        The log warns where all are as good as black, or some are copies of others, which `copies`
        counts then.
        """
        total, brightest, seen = hashlib.sha256(), 0, set[bytes]()
        for first in range(0, len(self), BATCH):
            images = self.read(first, min(first + BATCH, len(self)))
            total.update(np.ascontiguousarray(images).data)
            brightest = max(brightest, int(images.max()))
            seen |= {hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images}
        warn_if_dark("images", brightest)
        self.copies = len(self) - len(seen)
        if self.copies:
            log.warning(
                "%d of %d images are copies of others, as where processes draw with one seed: "
                "metrics count them as images of their own", self.copies, len(self),
            )  # fmt: skip
        return total.hexdigest()


def text_of_shape(shape: Sequence[int]) -> str:
    """`8 x 8 px in colour`; shape: height, width, channels."""
    height, width, channels = shape
    return f"{height} x {width} px in {'colour' if channels == 3 else 'grey'}"
