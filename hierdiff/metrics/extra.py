"""Inception score of logits, PSNR and SSIM of uint8 images, as torchmetrics computes them.

torchmetrics is imported at the first call.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn


@dataclass(frozen=True)
class InceptionScore:
    """exp E KL(p(y|x) | p(y)), mean over splits; `spread` over them is not its uncertainty.

    spread: standard deviation over splits, None for a single one.
    """

    value: float
    spread: float | None
    n: int
    splits: int


def inception_score(logits: Float[Tensor, "n k"], splits: int = 10) -> InceptionScore:
    """Mean and spread over splits of exp E KL(p(y|x) | p(y)), at least 1 (arXiv 1606.03498).

    logits: one row an image, those of the extractor `inception` for the published score. Images are
    shuffled before the split, always in the same way.

    Raises:
        ValueError: where there are fewer images than splits.
    """
    if len(logits) < splits:
        raise ValueError(
            f"{len(logits)} images cannot be split in {splits}: give more images or less splits"
        )
    from torchmetrics.image.inception import InceptionScore as Score

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it keeps all; one split has no spread
        score = Score(feature=nn.Identity(), splits=splits)
        score.update(logits)
        torch.manual_seed(0)
        value, spread = score.compute()
    return InceptionScore(float(value), float(spread) if splits > 1 else None, len(logits), splits)


def inception_score_in_order(logits: Float[Tensor, "n k"], size: int = 5000) -> float:
    """Mean over runs of `size` images, in their order, of exp E KL(p(y|x) | p(y)).

    As ADM's evaluator has it: nothing is shuffled, so that images sorted by class score low.
    """
    scores = []
    for part in logits.double().split(size):
        log_p = part.log_softmax(1)
        marginal = log_p.logsumexp(0) - math.log(len(part))
        scores.append(float((log_p.exp() * (log_p - marginal)).sum(1).mean().exp()))
    return sum(scores) / len(scores)


def psnr(images: UInt8[Tensor, "b c h w"], target: UInt8[Tensor, "b c h w"]) -> float:
    """Peak signal-to-noise ratio in dB, 20 log10(255 / rmse), mean over images."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    return float(
        peak_signal_noise_ratio(
            images.float(),
            target.float(),
            data_range=255.0,
            dim=(1, 2, 3),
            reduction="elementwise_mean",
        )
    )


def ssim(images: UInt8[Tensor, "b c h w"], target: UInt8[Tensor, "b c h w"]) -> float:
    """Structural similarity (Gaussian window, sigma 1.5), mean over images; 1 is equality."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    value = structural_similarity_index_measure(images.float(), target.float(), data_range=255.0)
    assert isinstance(value, Tensor)
    return float(value)
