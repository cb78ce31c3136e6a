"""What makes two values of a metric comparable: parts as data, which have one form as text."""

from __future__ import annotations

from dataclasses import dataclass, replace

# Counts changes of what a number means. 2: other metrics beside the Fréchet distance. 3: image i is
# made under row `evaluation_rows(i)`, a seeded permutation, where it was row i; more images than
# rows go through further permutations.
PROTOCOL = 3


@dataclass(frozen=True)
class Identity:
    """The conditions of a value: two values may be compared where all of this is equal.

    maker: what computes numbers from images: a network with the hash of its weights (`name@hash`),
    "pixels", or a library. resize, quantisation: how images enter it. n: number of images. frames:
    of each clip. rows: rule of the held-out rows under whose conditions the images were made.
    reference: hash or name of what they are compared with. protocol: `PROTOCOL`
    at the time. estimator: formula of the value. None where a part does not apply or is unknown.
    """

    maker: str
    resize: str | None = None
    quantisation: str | None = None
    n: int | None = None
    frames: int | None = None
    rows: str | None = None
    reference: str | None = None
    protocol: int | None = None
    estimator: str | None = None

    def __str__(self) -> str:
        """`SOURCE : ESTIMATOR`, as in `inception@5793 : N=512 : ref=a1b2 : frechet`."""
        return " : ".join(filter(None, (self.source, self.estimator)))

    @property
    def source(self) -> str:
        """Everything but the estimator, as text."""
        named = {
            **{"N": self.n, "frames": self.frames, "": self.rows},
            **{"ref": self.reference, "protocol": self.protocol},
        }
        settings = [f"{k}={v}" if k else str(v) for k, v in named.items() if v is not None]
        return " : ".join(filter(None, (self.maker, self.resize, self.quantisation, *settings)))

    def apart_from_count(self) -> Identity:
        """Without number of images and estimator, to compare values across numbers of images."""
        return replace(self, n=None, estimator=None)

    def fits(self, other: Identity) -> bool:
        """Whether all that both know is equal, where one may not know the rows: of images that came
        from elsewhere it is not known under which conditions they were made."""
        rows = self.rows or other.rows, other.rows or self.rows
        return replace(self, rows=rows[0]) == replace(other, rows=rows[1])

    def plain(self) -> dict[str, str | int]:
        """As a record stores it: the parts that apply."""
        return {name: part for name, part in vars(self).items() if part is not None}
