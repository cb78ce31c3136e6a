"""Loss weights as functions of log-SNR, on the squared error of x0 whatever the loss space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from hierdiff.options import Positive
from hierdiff.registry import Registry


class Weight(ABC):
    """A weight on the squared error of x0 as a function of log-SNR."""

    @abstractmethod
    def __call__(self, log_snr: Tensor, ratio: Tensor) -> Tensor:
        """The weights, of the shape of log_snr.

        ratio: squared error in the loss space over that in x0 (`parameterization.error_ratio`).
        """


weights: Registry[Weight] = Registry("loss weight", Weight)


@weights.register("constant")
@dataclass(frozen=True)
class Constant(Weight):
    """Plain mean square in the loss space."""

    @override
    def __call__(self, log_snr: Tensor, ratio: Tensor) -> Tensor:
        return ratio


@weights.register("snr")
@dataclass(frozen=True)
class SNR(Weight):
    """The SNR: what a plain loss on eps amounts to."""

    @override
    def __call__(self, log_snr: Tensor, ratio: Tensor) -> Tensor:
        return log_snr.exp()


@weights.register("truncated_snr")
@dataclass(frozen=True)
class TruncatedSNR(Weight):
    """max(SNR, 1) (Salimans & Ho, arXiv 2202.00512)."""

    @override
    def __call__(self, log_snr: Tensor, ratio: Tensor) -> Tensor:
        return log_snr.exp().clamp(min=1)


@weights.register("min_snr")
@dataclass(frozen=True)
class MinSNR(Weight):
    """min(SNR, gamma) (Hang et al., arXiv 2303.09556)."""

    gamma: Positive = 5.0

    @override
    def __call__(self, log_snr: Tensor, ratio: Tensor) -> Tensor:
        return log_snr.exp().clamp(max=self.gamma)


@weights.register("sigmoid")
@dataclass(frozen=True)
class SigmoidWeight(Weight):
    """sigmoid(bias - log_snr) on the eps error (Kingma & Gao, arXiv 2303.00848)."""

    bias: float = 0.0

    @override
    def __call__(self, log_snr: Tensor, ratio: Tensor) -> Tensor:
        return log_snr.exp() * torch.sigmoid(self.bias - log_snr)


@weights.register("edm")
@dataclass(frozen=True)
class EDMWeight(Weight):
    """SNR + 1 / sigma_data^2: EDM's lambda (arXiv 2206.00364, table 1)."""

    sigma_data: Positive = 0.5

    @override
    def __call__(self, log_snr: Tensor, ratio: Tensor) -> Tensor:
        return log_snr.exp() + self.sigma_data**-2
