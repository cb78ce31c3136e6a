"""What a network predicts: x0, eps, v, u or EDM's F, each a row of one table.

A row gives (a, b) with prediction = a x0 + b eps. Together with x_t = alpha x0 + sigma eps this is
a 2x2 system, and one solve converts any prediction into any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hierdiff.levels import Levels, spread
from hierdiff.options import Positive
from hierdiff.registry import single, suggest

TensorPair = tuple[Tensor, Tensor]


def _edm(alpha: Tensor, sigma: Tensor, sigma_data: float) -> TensorPair:
    scale = (alpha**2 * sigma_data**2 + sigma**2).sqrt()
    return sigma / (sigma_data * scale), -alpha * sigma_data / scale


# prediction = a x0 + b eps, as (alpha, sigma, sigma_data) -> (a, b)
PREDICTIONS: dict[str, Callable[[Tensor, Tensor, float], TensorPair]] = {
    "x0": lambda alpha, sigma, _: (torch.ones_like(alpha), torch.zeros_like(alpha)),
    "eps": lambda alpha, sigma, _: (torch.zeros_like(alpha), torch.ones_like(alpha)),
    "v": lambda alpha, sigma, _: (-sigma, alpha),  # arXiv 2202.00512
    "u": lambda alpha, sigma, _: (-torch.ones_like(alpha), torch.ones_like(alpha)),  # eps - x0
    "edm": _edm,  # F of arXiv 2206.00364, equation 7
}
INPUT_SCALES = ("none", "data", "sample", "population")


def target(
    kind: str, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor, sigma_data: float = 1.0
) -> Tensor:
    """The prediction of a perfect network, in the shape of x0.

    kind: a row of `PREDICTIONS`. alpha, sigma: broadcast to x0. sigma_data: standard deviation of
    the data, used by `edm` alone.
    """
    a, b = PREDICTIONS[kind](alpha, sigma, sigma_data)
    return a * x0 + b * eps


def to_x0_eps(
    kind: str,
    prediction: Tensor,
    x_t: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    sigma_data: float = 1.0,
) -> TensorPair:
    """x0 and eps of a prediction: solves [a b; alpha sigma] (x0, eps) = (prediction, x_t).

    Arguments as in `target`. Infinite or NaN where the system is singular: eps at SNR 0.
    """
    a, b = PREDICTIONS[kind](alpha, sigma, sigma_data)
    determinant = a * sigma - b * alpha
    x0 = (sigma * prediction - b * x_t) / determinant
    eps = (a * x_t - alpha * prediction) / determinant
    return x0, eps


def error_ratio(kind: str, alpha: Tensor, sigma: Tensor, sigma_data: float = 1.0) -> Tensor:
    """Squared error in `kind` over squared error in x0, at fixed x_t.

    With x_t fixed, an error d in x0 is -alpha / sigma d in eps, hence (a - b alpha / sigma)^2. The
    result has the shape of alpha and sigma.
    """
    a, b = PREDICTIONS[kind](alpha, sigma, sigma_data)
    return (a - b * alpha / sigma) ** 2


def check_kind(kind: str) -> str:
    """Returns `kind` if it is a row of `PREDICTIONS`.

    Raises:
        ValueError: with the nearest known name, if it is not.
    """
    if kind not in PREDICTIONS:
        raise ValueError(
            f"unknown prediction {kind!r}{suggest(kind, PREDICTIONS) or ','} "
            f"known: {', '.join(PREDICTIONS)}"
        )
    return kind


@single("parameterization")
@dataclass(frozen=True)
class Parameterization:
    """What the network predicts and how its input is scaled.

    prediction: a row of `PREDICTIONS`. input_scale: one for all levels or one for each: "none";
    "data", x_t / sqrt(alpha^2 sigma_data^2 + sigma^2) (EDM's c_in); "population", x_t over its own
    standard deviation over its n values (Chen, arXiv 2301.10972, code); or "sample", over that with
    n - 1 (MDM's middle level at 1024). sigma_data: standard deviation of the data, in units of the
    [-1, 1] range. image_scale: Chen's b, by which images are multiplied before noise is added
    (`input_scaled`): the network receives the log-SNR of the schedule without it, and so gamma.

    Raises:
        ValueError: for an unknown prediction or input scale.
    """

    prediction: str = "v"
    input_scale: str | Sequence[str] = "none"
    sigma_data: Positive = 0.5
    image_scale: Positive = 1.0

    def __post_init__(self) -> None:
        check_kind(self.prediction)
        for scale in [self.input_scale] if isinstance(self.input_scale, str) else self.input_scale:
            if scale not in INPUT_SCALES:
                raise ValueError(
                    f"unknown input scale {scale!r}{suggest(scale, INPUT_SCALES) or ','} "
                    f"known: {', '.join(INPUT_SCALES)}"
                )

    def scaled(
        self, x_t: Levels, alpha: Float[Tensor, "b levels"], sigma: Float[Tensor, "b levels"]
    ) -> Levels:
        """The network's input: each level of x_t times its input scale."""
        n = len(x_t)
        choices = [self.input_scale] * n if isinstance(self.input_scale, str) else self.input_scale
        parts = zip(choices, x_t, spread(alpha, x_t), spread(sigma, x_t), strict=True)
        return tuple(self._scaled(*part) for part in parts)

    def _scaled(self, choice: str, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        if choice == "data":
            return x / (alpha**2 * self.sigma_data**2 + sigma**2).sqrt()
        if choice in ("sample", "population"):
            lost = int(choice == "sample")  # degrees of freedom
            return x / x.std(dim=tuple(range(1, x.ndim)), correction=lost, keepdim=True)
        return x

    def network_log_snr(self, log_snr: Float[Tensor, "b levels"]) -> Float[Tensor, "b levels"]:
        """What the network receives for a log-SNR of the process."""
        return log_snr - 2 * math.log(self.image_scale)

    def x0_eps(
        self,
        levels: Levels,
        x_t: Levels,
        alpha: Float[Tensor, "b levels"],
        sigma: Float[Tensor, "b levels"],
    ) -> tuple[Levels, Levels]:
        """x0 and eps of each level's prediction in `levels`, in the dtype of x_t."""
        parts = zip(levels, x_t, spread(alpha, x_t), spread(sigma, x_t), strict=True)
        pairs = [
            to_x0_eps(self.prediction, level.to(x.dtype), x, a, s, self.sigma_data)
            for level, x, a, s in parts
        ]
        return tuple(x0 for x0, _ in pairs), tuple(eps for _, eps in pairs)
