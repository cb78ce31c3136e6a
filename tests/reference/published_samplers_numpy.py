"""The samplers of ADM, DiT, latent diffusion and SiT in NumPy, from their papers' own formulas.

Tables of betas and alpha^2, steps counted from 0, and SiT's time, in which 0 is noise: nothing here
knows a log-SNR. Each function returns the states after each step.
"""

import numpy as np

Array = np.ndarray


def respaced(alpha_squared: Array, steps: list[int]) -> tuple[Array, Array, Array]:
    """betas, alpha^2 and alpha^2 one step earlier of the chain that visits these steps alone."""
    kept = alpha_squared[steps]
    earlier = np.append(1.0, kept[:-1])
    return 1 - kept / earlier, kept, earlier


def ancestral(model, x, alpha_squared, steps, noises, clip=False):
    """DDPM with a learned variance between the posterior's and beta (iDDPM, equation 15).

    model: (x, step) to eps and the interpolation in [-1, 1].
    """
    beta, kept, earlier = respaced(alpha_squared, steps)
    posterior = beta * (1 - earlier) / (1 - kept)
    lower = np.log(np.append(posterior[1], posterior[1:]))
    states = []
    for k in reversed(range(len(steps))):
        eps, share = model(x, steps[k])
        x0 = x / np.sqrt(kept[k]) - np.sqrt(1 / kept[k] - 1) * eps
        x0 = np.clip(x0, -1, 1) if clip else x0
        mean = beta[k] * np.sqrt(earlier[k]) / (1 - kept[k]) * x0
        mean = mean + (1 - earlier[k]) * np.sqrt(1 - beta[k]) / (1 - kept[k]) * x
        upper = (share + 1) / 2
        log_variance = upper * np.log(beta[k]) + (1 - upper) * lower[k]
        x = mean + (np.exp(log_variance / 2) * next(noises) if k else 0)
        states.append(x)
    return states


def ddim(model, x, kept, earlier, steps, noises, eta, clip=False):
    """DDIM, equation 12; kept, earlier: alpha^2 at each step and at that which it goes to."""
    states = []
    for k in reversed(range(len(steps))):
        eps, _ = model(x, steps[k])
        x0 = (x - np.sqrt(1 - kept[k]) * eps) / np.sqrt(kept[k])
        if clip:
            x0 = np.clip(x0, -1, 1)
            eps = (x / np.sqrt(kept[k]) - x0) / np.sqrt(1 / kept[k] - 1)
        ratio = (1 - earlier[k]) / (1 - kept[k]) * (1 - kept[k] / earlier[k])
        std = eta * np.sqrt(ratio)
        x = np.sqrt(earlier[k]) * x0 + np.sqrt(1 - earlier[k] - std**2) * eps
        x = x + (std * next(noises) if std else 0)
        states.append(x)
    return states


COEFFICIENTS = {
    "sigma": lambda time, norm: norm * (1 - time),
    "sbdm": lambda time, norm: norm * ((1 - time) ** 2 / time + (1 - time)),
    "constant": lambda time, norm: norm,
    "decreasing": lambda time, norm: 0.25 * (norm * np.cos(np.pi * time) + 1) ** 2,
    "increasing_decreasing": lambda time, norm: norm * np.sin(np.pi * time) ** 2,
}


def euler_maruyama(velocity, x, count, noises, coefficient, norm, last, start=0.0, size=0.04):
    """SiT's SDE from noise at time `start`, the last of `count` steps of `size`.

    velocity: (x, time) to d x / d time, image minus noise.
    """

    def drift(x, time, weight):
        flow = velocity(x, time)
        score = (time * flow - x) / (1 - time)
        return flow + weight * score

    times = np.linspace(start, 1 - size, count)
    step = times[1] - times[0]
    states = []
    for time in times[:-1]:
        weight = COEFFICIENTS[coefficient](time, norm)
        x = x + drift(x, time, weight) * step + np.sqrt(2 * weight * step) * next(noises)
        states.append(x)
    weight = COEFFICIENTS[coefficient](times[-1], norm) if last == "mean" else 0.0
    states.append(x + drift(x, times[-1], weight) * size)
    return states
