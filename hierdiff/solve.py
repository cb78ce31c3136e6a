"""Where the prediction of a network becomes the clean levels and the noise that it stands for."""

from __future__ import annotations

from typing import Any, NamedTuple

from hierdiff.batch import Cond
from hierdiff.denoisers.protocol import LOG_SNR_LIMIT, Denoiser, Prediction, predict
from hierdiff.levels import Levels
from hierdiff.parameterization import Parameterization
from hierdiff.process import Moment


class Solution(NamedTuple):
    """x0, eps: of each level, in the precision of the state. prediction: as the network gave it."""

    x0: Levels
    eps: Levels
    prediction: Prediction


def solve(
    denoiser: Denoiser,
    parameterization: Parameterization,
    x_t: Levels,
    t: Moment,
    cond: Cond,
    carry: Any = None,
) -> Solution:
    """One call of the network on the state x_t at the moment t, solved for x0 and eps.

    x_t: levels of b_i c and any sides, finest first. cond: as `Denoiser.prepare` gives it. The
    network sees x_t by the input scale of the parameterization, and its `network_log_snr` within
    +-`LOG_SNR_LIMIT`. Errors: as in `predicted`.
    """
    scaled_input = parameterization.scaled(x_t, t.alpha, t.sigma)
    limited = parameterization.network_log_snr(t.log_snr).clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)
    prediction = predict(denoiser, scaled_input, limited, cond, carry)
    x0, eps = parameterization.x0_eps(prediction.levels, x_t, t.alpha, t.sigma)
    return Solution(x0, eps, prediction)
