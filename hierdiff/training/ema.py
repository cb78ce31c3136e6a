"""Exponential moving averages of weights, in several half-lives at once.

Half-lives are counted in images, so that they mean the same at every batch size. EDM's rule
(Karras et al., arXiv 2206.00364, `ema_rampup_ratio` of the official code): before a step that adds
b images to the m seen so far,

    ema <- decay ema + (1 - decay) weights,    decay = 0.5^(b / min(half_life, ramp m)).

The ramp keeps the half-life a fixed part of the training so far: without it the random start stays
in a short run (0.9999^10000 = 37 %). With m = 0 the average is the weights themselves, and so it
stays where the half-life is 0. (arXiv 2312.02696, section 3, on what lengths are worth.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from hierdiff.training.sharding import part, put, whole

RAMP = 0.05


def decay(half_life: float, images: int, step_images: int, ramp: float | None = RAMP) -> float:
    """Share of the old average, 0 to 1, that a step of `step_images` after `images` keeps.

    half_life: in images; ramp: at most this part of `images`, None for no ramp (EDM,
    arXiv 2206.00364; the formula is at the top of this file).
    """
    length = half_life if ramp is None else min(half_life, ramp * images)
    return 0.5 ** (step_images / length) if length > 0 else 0.0


class EMA:
    """Averages of `weights` (by name), one for each half-life in images, in the weights' dtype.

    Half-life 0 keeps no copy: its average is the weights.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        half_lives: Sequence[float],
        ramp: float | None = RAMP,
    ):
        if not half_lives or not all(0 <= length < math.inf for length in half_lives):
            raise ValueError(
                f"ema half-lives {list(half_lives)}: give one or more finite numbers of images, "
                f"0 for none"
            )
        self.half_lives = tuple(half_lives)
        self.ramp = ramp
        self._names = tuple(weights)
        self._weights = list(weights.values())
        self._copies = [self._weights if length == 0 else self._copied() for length in half_lives]

    def _copied(self) -> list[Tensor]:
        return [weight.detach().clone() for weight in self._weights]

    @torch.no_grad()
    def update(self, images: int, step_images: int) -> None:
        """Moves each average towards the weights; a step of `step_images` came after `images`
        others."""
        for length, copies in zip(self.half_lives, self._copies, strict=True):
            if copies is not self._weights:
                weight = 1 - decay(length, images, step_images, self.ramp)
                torch._foreach_lerp_(_parts(copies), _parts(self._weights), weight)

    def weights(self, which: int = 0) -> dict[str, Tensor]:
        """The average number `which` by the names of the weights; not a copy."""
        copies = (copy.detach() for copy in self._copies[which])
        return dict(zip(self._names, copies, strict=True))

    @torch.no_grad()
    def into_weights(self, which: int = 0) -> None:
        """Sets the weights to their average; errors as in `check`."""
        self.check(which)
        if self._copies[which] is not self._weights:
            torch._foreach_copy_(_parts(self._weights), _parts(self._copies[which]))

    def check(self, which: int = 0) -> None:
        """Checks that an average is finite.

        Raises:
            FloatingPointError: names a tensor that holds NaN or infinities.
        """
        copies = self._copies[which]
        each = [whole(copy.isfinite().all()) for copy in copies]
        finite = torch.stack(each).tolist() if copies else []
        names = [name for name, one in zip(self._names, finite, strict=True) if not one]
        if names:
            raise FloatingPointError(
                f"the average of weights over {self.half_lives[which]:g} images is not finite in "
                f"{names[0]} and {len(names) - 1} others: go on from a checkpoint before that, "
                f"with a lower trainer.lr"
            )

    @contextmanager
    def applied(self, which: int = 0) -> Iterator[None]:
        """The weights are their average inside, and themselves again afterwards."""
        raw = self._copied()
        self.into_weights(which)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(_parts(self._weights), _parts(raw))

    def state(self) -> dict[str, Tensor]:
        """The averages that are copies, by `WHICH/NAME`, as checkpoints have them; not copied
        again."""
        return {
            f"{which}/{name}": copy
            for which, copies in enumerate(self._copies)
            if copies is not self._weights
            for name, copy in zip(self._names, copies, strict=True)
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copies the averages of a `state` into these."""
        for key, copy in self.state().items():
            put(state[key], copy)


def _parts(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [part(tensor) for tensor in tensors]
