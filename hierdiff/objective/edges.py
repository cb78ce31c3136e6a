"""Edge-supervised learning: a network guesses the edges of the clean image (RAPHAEL, section 3.2).

arXiv 2305.18295. Its edges are those of a trained detector (HED); here they are the Sobel gradient
of the clean state, which needs no weights: of the image in pixel methods, of the latent in others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from hierdiff.denoisers.protocol import Denoiser, Prediction
from hierdiff.levels import Levels
from hierdiff.objective.base import objectives
from hierdiff.objective.loss import Draws
from hierdiff.objective.score import ScoreMatching
from hierdiff.options import NonNegative, Share
from hierdiff.process import GaussianProcess


@objectives.register("edge_supervised")
@dataclass(frozen=True)
class EdgeSupervised(ScoreMatching):
    """Score matching plus the focal loss of the edges that a network guesses (`Prediction.edges`).

    edges: weight of the loss (1 in the paper), which is the mean over the network's guesses.
    until: the largest time at which edges are learned (T_c = 500 of 1000 steps). focal_alpha,
    focal_gamma: of the focal loss (arXiv 1708.02002). Other options as in `score`.
    """

    learns_edges: ClassVar[bool] = True

    edges: NonNegative = 1.0
    until: Share = 0.5
    focal_alpha: Share = 0.5
    focal_gamma: NonNegative = 2.0

    @override
    def check(
        self,
        process: GaussianProcess,
        denoiser: Denoiser | None = None,
        shapes: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """As in `ScoreMatching`.

        Raises:
            ValueError: also for a network that guesses no edges.
        """
        super().check(process, denoiser, shapes)
        if denoiser is not None and not denoiser.guesses_edges:
            raise ValueError(
                f"edge_supervised with {type(denoiser).__name__}, which guesses no edges: choose "
                f"the objective score, or a denoiser that does (raphael with edges: true)"
            )

    @override
    def terms(
        self, prediction: Prediction, x0: Levels, draws: Draws
    ) -> Mapping[str, Float[Tensor, " b"]]:
        losses = [
            focal(guess, edges_of(x0[0], guess), self.focal_alpha, self.focal_gamma)
            for guess in prediction.edges
        ]
        own = dict(super().terms(prediction, x0, draws))
        if losses:  # none in evaluation
            early = (draws.t <= self.until).to(losses[0])
            own["edges"] = self.edges * early * torch.stack(losses).mean(0)
        return own


def edges_of(
    images: Float[Tensor, "b c h w"], like: Float[Tensor, "b 1 i j"]
) -> Float[Tensor, "b 1 i j"]:
    """Length of the Sobel gradient over its largest in the image, 0 to 1, averaged over blocks.

    The channels are averaged first; like: of the sides that are wanted, which divide those of the
    images. An image without any edge gives zeros.
    """
    x = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    ramp, smooth = x.new_tensor([-1.0, 0.0, 1.0]), x.new_tensor([1.0, 2.0, 1.0])
    across = torch.outer(smooth, ramp)
    kernels = torch.stack([across, across.T])[:, None]
    length = F.conv2d(x, kernels).norm(dim=1, keepdim=True)
    length = F.adaptive_avg_pool2d(length, (like.shape[-2], like.shape[-1]))
    largest = length.amax((2, 3), keepdim=True)
    return length / largest.clamp_min(torch.finfo(length.dtype).tiny)


def focal(
    logits: Float[Tensor, "b 1 i j"], goal: Float[Tensor, "b 1 i j"], alpha: float, gamma: float
) -> Float[Tensor, " b"]:
    """The focal loss (arXiv 1708.02002) of each image, the mean over its pixels; goal: 0 to 1."""
    p = logits.sigmoid()
    edge = alpha * (1 - p) ** gamma * goal * F.softplus(-logits)
    plain = (1 - alpha) * p**gamma * (1 - goal) * F.softplus(logits)
    return (edge + plain).flatten(1).mean(1)
