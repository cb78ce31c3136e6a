"""A method from outside hierdiff that is no diffusion: images in one pass of a network.

Generative moment matching networks, Li et al., arXiv 1502.02761: a network turns noise into images,
and is trained until a batch of its images cannot be told from a batch of real ones by the maximum
mean discrepancy. There is no process, no denoiser and no sampler; the trainer and the benchmark
need none of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hierdiff.batch import Batch
from hierdiff.methods import Generator, Images, Method, Request, methods
from hierdiff.noise import Noise
from hierdiff.objective import Loss
from hierdiff.options import Count
from hierdiff.resolution import Resolutions, check_resolutions

BANDWIDTHS = (0.5, 1.0, 2.0, 4.0)  # of the Gaussian kernels, times the mean distance of two images


def discrepancy(made: Tensor, real: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of two batches, equation 3 of the paper.

    made, real: (b, d). The kernel is a sum of Gaussians.
    """
    together = torch.cat([made, real])
    squares = torch.cdist(together, together).square()
    scale = squares.detach().mean()
    kernel = sum(torch.exp(-squares / (2 * width**2 * scale)) for width in BANDWIDTHS)
    b = len(made)
    return kernel[:b, :b].mean() + kernel[b:, b:].mean() - 2 * kernel[:b, b:].mean()


class OnePass(Generator):
    """The only stage: noise of `latent` numbers to an image of one resolution."""

    name = "one_pass"

    def __init__(self, side: int, *, width: int, latent: int, channels: int):
        super().__init__()
        self.resolutions = self.level_names = (side,)
        self.facts = {"channels": channels}
        self.latent = latent
        layers: list[nn.Module] = [nn.Linear(latent, width * 16), nn.Unflatten(1, (width, 4, 4))]
        for _ in range((side // 4).bit_length() - 1):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1)]
            layers += [nn.GroupNorm(8, width), nn.SiLU()]
        layers += [nn.Conv2d(width, channels, 3, padding=1), nn.Tanh()]
        self.network = nn.Sequential(*layers)

    def draw(self, batch: Batch, noise: Noise) -> Tensor:
        """The randomness of a training step, made outside of the loss."""
        return noise((len(batch), self.latent))

    def forward(self, batch: Batch, draws: Tensor, turn: str = "denoiser", step: int = 0) -> Loss:
        """The loss; its parts by name are what the log and the curve show."""
        total = discrepancy(self.network(draws).flatten(1), batch.images.flatten(1))
        return Loss(total, {"discrepancy": total})

    def sample(self, request: Request) -> Images:
        """n images in [-1, 1], by the name of their resolution."""
        with torch.no_grad():
            z = request.noise((request.n, self.latent)).to(self.device)
            return {self.resolutions[0]: self.network(z)}


@methods.register("one_pass")
class OnePassMethod(Method):
    """A generative moment matching network (arXiv 1502.02761).

    width: channels, a multiple of 8. latent: numbers that an image is made of. channels: of the
    data, which hierdiff fills in. Error: ValueError for more than one resolution, or one that is no
    power of 2.
    """

    def __init__(
        self,
        *,
        resolutions: Resolutions,
        width: Count = 64,
        latent: Count = 32,
        channels: Count = 3,
    ):
        side, *others = check_resolutions(resolutions)
        if others or not isinstance(side, int) or side < 4 or side & (side - 1):
            raise ValueError(
                f"one_pass makes images of one side, a power of 2 from 4 on, got {resolutions}: "
                f"choose another data.resolution"
            )
        super().__init__([side], [OnePass(side, width=width, latent=latent, channels=channels)])
