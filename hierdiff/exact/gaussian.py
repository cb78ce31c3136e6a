"""Exact denoisers of Gaussian data: one pixel, an image with its pyramid under joint noise, and
the details of an image given its low band.

For x ~ N(0, C) seen through z = B x + e, with B the stack of alpha_r D_r (block means) and e noise
of covariance S = diag(sigma_r^2), E[x | z] = C B' (B C B' + S)^-1 z, and level r of the denoiser is
D_r of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from hierdiff.bands import Details
from hierdiff.guidance import Carry, Denoised
from hierdiff.levels import Levels, pyramid, spread
from hierdiff.process import GaussianProcess, Moment


def exponential(side: int, length: float = 1.5) -> Tensor:
    """Stationary covariance exp(-distance / length) of the pixels of a square, float64."""
    place = torch.cartesian_prod(*[torch.arange(side, dtype=torch.float64)] * 2)
    return torch.exp(-torch.cdist(place, place) / length)


class Pixel:
    """The denoiser of N(0, variance) in every pixel of every level, each independent.

    x0 = alpha variance x / (alpha^2 variance + sigma^2).
    """

    def __init__(self, process: GaussianProcess, variance: float):
        self.process, self.variance = process, variance

    def __call__(self, x: Levels, t: Moment, carry: Carry = None) -> Denoised:
        """E[x0 | x], a denoise function; without a carry."""
        gain = t.alpha * self.variance / (t.alpha**2 * self.variance + t.sigma**2)
        return Denoised(tuple(g * level for g, level in zip(spread(gain, x), x, strict=True)))


class Joint:
    """The denoiser of a Gaussian image of one channel and of its block means, jointly.

    The covariance of two pixels falls exponentially with their distance. std: root mean square of a
    pixel. sides: of the levels, finest first.
    """

    def __init__(
        self, process: GaussianProcess, sides: Sequence[int] = (4, 2), *, std: float = 0.8
    ):
        self.process, self.sides = process, tuple(sides)
        n = sides[0] ** 2
        basis = torch.eye(n, dtype=torch.float64).reshape(n, 1, sides[0], sides[0])
        self.pooled = [level.flatten(1).T for level in pyramid(basis, self.sides)]  # D_r
        covariance = exponential(sides[0])
        covariance += 0.3 * torch.diag(torch.linspace(0, 1, n, dtype=torch.float64))
        self.covariance = std**2 * covariance / covariance.diagonal().mean()

    @property
    def clean(self) -> Tensor:
        """Covariance of the stacked clean levels."""
        stack = torch.cat(self.pooled)
        return stack @ self.covariance @ stack.T

    def stacked(self, x: Levels) -> Tensor:
        """The pixels of all levels of each example in one row, finest first."""
        return torch.cat([level.flatten(1) for level in x], dim=1)

    def split(self, z: Tensor) -> Levels:
        """Levels of b 1 h w out of their stack, b by all their pixels; `stacked` undoes it."""
        parts = z.split([side**2 for side in self.sides], dim=1)
        return tuple(
            part.reshape(-1, 1, side, side) for part, side in zip(parts, self.sides, strict=True)
        )

    def matrix(self, t: float) -> Tensor:
        """M at time t, float64, with stacked x0 = M z for a stacked state z."""
        alpha, sigma = self.process.alpha_sigma(torch.tensor([t], dtype=torch.float64))
        b = torch.cat([a * d for a, d in zip(alpha[0], self.pooled, strict=True)])
        widths = torch.tensor([side**2 for side in self.sides])
        noise = torch.diag(sigma[0].repeat_interleave(widths) ** 2)
        observed = b @ self.covariance @ b.T + noise
        gain = torch.linalg.solve(observed, b @ self.covariance).T
        return torch.cat(self.pooled) @ gain

    def __call__(self, x: Levels, t: Moment, carry: Carry = None) -> Denoised:
        """E[x0 | x], a denoise function; without a carry."""
        return Denoised(self.split(self.stacked(x) @ self.matrix(float(t.time)).T))

    def marginal(self, t: float) -> Tensor:
        """Covariance of the stacked noisy levels at time t, float64."""
        alpha, sigma = self.process.alpha_sigma(torch.tensor([t], dtype=torch.float64))
        widths = torch.tensor([side**2 for side in self.sides])
        a, s = alpha[0].repeat_interleave(widths), sigma[0].repeat_interleave(widths)
        return a[:, None] * self.clean * a + torch.diag(s**2)

    def flow(self, z: Tensor, start: float, end: float) -> Tensor:
        """The solution at time `end` of the probability-flow ODE from the state z at `start`.

        dz/dt = alpha' x0 + sigma' eps, with derivatives by automatic differentiation; relative
        tolerance 1e-11. z: one example, 1 x all pixels, float64.
        """
        widths = torch.tensor([side**2 for side in self.sides])

        def slope(t: float, z: np.ndarray) -> np.ndarray:
            now = torch.tensor([t], dtype=torch.float64)
            rates = torch.autograd.functional.jacobian(self.process.alpha_sigma, now)
            columns = (*self.process.alpha_sigma(now), *rates)
            alpha, sigma, d_alpha, d_sigma = (
                column.reshape(-1).repeat_interleave(widths) for column in columns
            )
            state = torch.from_numpy(z)
            x0 = self.matrix(t) @ state
            return (d_alpha * x0 + d_sigma * (state - alpha * x0) / sigma).numpy()

        solution = solve_ivp(slope, (start, end), z[0].numpy(), "DOP853", rtol=1e-11, atol=1e-13)
        return torch.from_numpy(solution.y[:, -1])[None]


class Conditional:
    """The Haar details d of a Gaussian image of one channel, given its clean low band l.

    d given l is N(A l, S), A = C_dl C_ll^-1, S = C_dd - A C_ld. Seen through x = alpha d + sigma e,
    E[d | x, l] = A l + alpha S (alpha^2 S + sigma^2)^-1 (x - alpha A l). covariance: of the pixels
    of a square image. gain: of the details, as in `Details`.
    """

    def __init__(self, covariance: Tensor, *, gain: float = 1.0):
        self.side = round(len(covariance) ** 0.5)
        basis = torch.eye(len(covariance), dtype=covariance.dtype)
        image = basis.reshape(-1, 1, self.side, self.side)
        codec = Details(self.side, 1, gain=gain)
        details, low = codec.encode(image)[0].flatten(1).T, pyramid(image, [codec.low])[0]
        low = low.flatten(1).T
        self.details, self.across = details @ covariance @ details.T, details @ covariance @ low.T
        self.low = low @ covariance @ low.T
        self.mean = torch.linalg.solve(self.low, self.across.T).T  # A
        self.covariance = self.details - self.mean @ self.across.T  # S

    def __call__(self, x: Tensor, low: Tensor, alpha: float, sigma: float) -> Tensor:
        """E[d | x, l] of x: b 3 h w, given low: b 1 h w."""
        noise = sigma**2 * torch.eye(len(self.covariance), dtype=x.dtype)
        gain = alpha * torch.linalg.solve(alpha**2 * self.covariance + noise, self.covariance).T
        mean = low.flatten(1) @ self.mean.T
        return (mean + (x.flatten(1) - alpha * mean) @ gain.T).reshape(x.shape)

    def error(self, receptive: int, alpha: float, sigma: float) -> float:
        """Mean squared error of the best estimate of a pixel's three details from its field.

        The pixel is in the middle, and sees x and l in the receptive x receptive pixels around it,
        as far as there are any.
        """
        half = self.side // 2
        away = (torch.arange(half) - half // 2).abs() <= receptive // 2
        field = (away[:, None] & away).flatten()
        seen = torch.cat([field.repeat(3), field])
        n = len(self.details)
        whole = torch.cat(
            [
                torch.cat([alpha**2 * self.details, alpha * self.across], 1),
                torch.cat([alpha * self.across.T, self.low], 1),
            ]
        )
        whole[:n, :n] += sigma**2 * torch.eye(n, dtype=whole.dtype)
        middle = half // 2 * (half + 1) + half**2 * torch.arange(3)
        targets = torch.cat([alpha * self.details[middle], self.across[middle]], 1)[:, seen]
        known = targets @ torch.linalg.solve(whole[seen][:, seen], targets.T)
        return float((self.details[middle][:, middle] - known).diagonal().mean())
