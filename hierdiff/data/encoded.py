"""Images that stay in the files of a data set and are decoded when they are read.

`EncodedImages` stands where an array of pixels would: it has a shape, a length and rows, so that
training and measuring know one contract. Any row can be read at any time; what a row holds does not
depend on the process, the worker or the batch that reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Int, UInt8

from hierdiff.data.preparation import Chance, Preparation
from hierdiff.data.workers import Workers

T = TypeVar("T")


@dataclass(frozen=True)
class Decoder(Generic[T]):
    """From a source to pixels. content: what gives the bytes of its file; picklable."""

    content: Callable[[T], Any]
    prepare: Preparation

    def __call__(self, source: T) -> tuple[UInt8[np.ndarray, "c *frames s s"], tuple[int, int]]:
        """The square as it is measured, and height and width of the original in pixels."""
        return self.prepare(self.content(source))


class _Job(NamedTuple):
    """One image to be decoded: its source, and what a random crop of it draws."""

    source: Any
    chance: Chance | None


@dataclass(frozen=True)
class _Draw(Generic[T]):
    """A decoder of jobs."""

    decoder: Decoder[T]

    def __call__(self, job: _Job) -> UInt8[np.ndarray, "c *frames s s"]:
        content = self.decoder.content(job.source)
        return self.decoder.prepare(content, job.chance)[0]


class EncodedImages(Generic[T]):
    """uint8 images (n c s s) or clips (n c f s s), each decoded anew at each reading.

    sources: of all files, made on the fly where they are many; rows: which of them these images
    are, in order; workers: processes that decode.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        sources: Sequence[T],
        decoder: Decoder[T],
        rows: Int[np.ndarray, " n"],
        workers: int = 0,
    ):
        self.sources, self.decoder, self.rows = sources, decoder, rows
        self._workers: Workers[_Job, Any] = Workers(_Draw(decoder), workers)
        self.shape = (len(rows), *decoder.prepare.shape)
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def random(self) -> bool:
        """Whether a reading may show another part of an image than the last one."""
        return self.decoder.prepare.random

    @property
    def workers(self) -> int:
        """Processes that decode, 0: the one that reads."""
        return self._workers.count

    def __getitem__(self, at: Any) -> UInt8[np.ndarray, "*shape"]:
        """The pixels of rows, as of an array, in the middle of each image; errors as in `read`."""
        places = np.arange(len(self))[at]
        pixels = self.read(np.atleast_1d(places))
        return pixels if np.ndim(places) else pixels[0]

    def read(
        self, places: Int[np.ndarray, " b"], chances: Float[np.ndarray, "b 3"] | None = None
    ) -> UInt8[np.ndarray, "b c *frames s s"]:
        """The pixels of images; chances: in [0, 1), what random crops draw, None for the middle.

        Neighbours in a file are read one after another, whatever their order in the batch.

        Raises:
            OSError: where a file that could be read is changed or gone.
        """
        pixels = np.empty((len(places), *self.shape[1:]), np.uint8)
        order = np.argsort(self.rows[places], kind="stable")
        jobs = [
            _Job(
                self.sources[int(self.rows[places[one]])],
                None if chances is None else Chance(*map(float, chances[one])),
            )
            for one in order
        ]
        for place, job, result in zip(order, jobs, self._workers.map(jobs), strict=True):
            if isinstance(result, Exception):
                raise OSError(
                    f"{job.source} could be read when it was listed, and cannot any more "
                    f"({result}): put it back, then give the same command again to go on"
                ) from result
            pixels[place] = result
        return pixels

    def select(self, at: Any) -> EncodedImages[T]:
        """Some of the images, by the same workers; none is decoded."""
        part = EncodedImages(self.sources, self.decoder, self.rows[at])
        part._workers = self._workers
        return part

    def with_workers(self, count: int) -> EncodedImages[T]:
        """The same images, decoded by `count` processes."""
        return EncodedImages(self.sources, self.decoder, self.rows, count)

    def close(self) -> None:
        """Ends the workers; the next reading starts new ones."""
        self._workers.close()
