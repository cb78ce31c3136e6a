"""What keeps a latent space small: a divergence from the unit Gaussian, or a codebook.

The encoder ends in `moments`: b (expansion c) h w. A regulariser reads them as the state z that
diffuses (b c h w) and says what the decoder sees of z, and what the encoder pays.

A loss has a named reduction, here and for the reconstruction: "sum" is the sum over the elements of
an example, mean over examples; "mean" is the mean over all. The released KL autoencoders are
trained with "sum", to which their weight of 1e-6 belongs; the VQ ones with "mean" and weight 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.options import Count, NonNegative
from hierdiff.registry import Registry, suggest

LOGVAR = (-30.0, 20.0)  # range of log-variance; outside of it there is no gradient
ROWS = 4096  # vectors compared with the codebook at once: bounds memory

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda values: values.sum() / len(values),
    "mean": torch.mean,
}


def reduced(values: Float[Tensor, "b ..."], reduction: str) -> Float[Tensor, ""]:
    """One number of a loss by element, by a name in `REDUCTIONS`.

    Raises:
        ValueError: for an unknown reduction.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"unknown reduction {reduction!r}{suggest(reduction, REDUCTIONS) or ','} "
            f"choose sum (over an example's elements) or mean (over all)"
        )
    return REDUCTIONS[reduction](values)


class Regularised(NamedTuple):
    """What training needs of one pass: z as the decoder sees it, the loss, numbers to log."""

    z: Tensor
    loss: Tensor
    logs: dict[str, Tensor]


class Regulariser(nn.Module, ABC):
    """expansion: channels of moments for each of z; published: weight of its loss, as released;
    sums: whether its loss may be a sum over an example beside a learnt variance."""

    expansion: int
    published: float
    sums: bool = True

    @abstractmethod
    def forward(
        self,
        moments: Float[Tensor, "b m h w"],
        eps: Float[Tensor, "b c h w"] | None = None,
        reduction: str = "sum",
    ) -> Regularised:
        """One training pass; without eps from the mode."""

    def sample(
        self, moments: Float[Tensor, "b m h w"], eps: Float[Tensor, "b c h w"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """The state that diffuses; without eps the mode."""
        return moments

    def mode(self, moments: Float[Tensor, "b m h w"]) -> Float[Tensor, "b c h w"]:
        """The state without noise."""
        return self.sample(moments)

    def quantised(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """What the decoder sees of a state."""
        return z


regularisers: Registry[Regulariser] = Registry("regulariser", Regulariser)


@regularisers.register("kl")
class KL(Regulariser):
    """Moments are mean and log-variance of a Gaussian posterior (LDM, section 3.1).

    Logs `kl`: nats by element.
    """

    expansion = 2
    published = 1e-6

    def __init__(self) -> None:
        super().__init__()

    def posterior(
        self, moments: Float[Tensor, "b m h w"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Mean and log-variance."""
        mean, logvar = moments.chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR)

    def divergence(self, moments: Float[Tensor, "b m h w"]) -> Float[Tensor, "b c h w"]:
        """(mean^2 + variance - 1 - log variance) / 2, nats."""
        mean, logvar = self.posterior(moments)
        return (mean**2 + logvar.exp() - 1 - logvar) / 2

    @override
    def forward(
        self,
        moments: Float[Tensor, "b m h w"],
        eps: Float[Tensor, "b c h w"] | None = None,
        reduction: str = "sum",
    ) -> Regularised:
        kl = self.divergence(moments)
        logs = {"kl": kl.detach().mean()}
        return Regularised(self.sample(moments, eps), reduced(kl, reduction), logs)

    @override
    def sample(
        self, moments: Float[Tensor, "b m h w"], eps: Float[Tensor, "b c h w"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        mean, logvar = self.posterior(moments)
        return mean if eps is None else mean + (logvar / 2).exp() * eps.to(mean)


@regularisers.register("none")
class Unregularised(Regulariser):
    """The encoder gives the state itself, and pays nothing for it."""

    expansion = 1
    published = 0.0

    def __init__(self) -> None:
        super().__init__()

    @override
    def forward(
        self,
        moments: Float[Tensor, "b m h w"],
        eps: Float[Tensor, "b c h w"] | None = None,
        reduction: str = "sum",
    ) -> Regularised:
        return Regularised(moments, moments.new_zeros(()), {})


@regularisers.register("vq")
class VQ(Regulariser):
    """The nearest of `codes` learned vectors, with a straight-through gradient (VQGAN, eq. 4).

    z diffuses before quantisation and is quantised on its way into the decoder. With q the code of
    z and sg the stop of gradients, the loss is
    codebook |q - sg[z]|^2 + commitment |z - sg[q]|^2.
    The paper's beta is `commitment`. The released code had it on the other term: commitment 1,
    codebook 0.25 is what its checkpoints were trained with.

    channels: of z. Logs, of one batch: `usage`, the share of codes that were nearest to something;
    `perplexity`, exp of the entropy of their frequencies, at most `codes`; `quantisation`, the mean
    of (q - z)^2.
    """

    expansion = 1
    published = 1.0
    sums = False

    def __init__(
        self,
        *,
        codes: Count = 8192,
        channels: Count = 3,
        commitment: NonNegative = 0.25,
        codebook: NonNegative = 1.0,
    ):
        super().__init__()
        self.weights = {"commitment": commitment, "codebook": codebook}
        self.codes = nn.Embedding(codes, channels)
        nn.init.uniform_(self.codes.weight, -1 / codes, 1 / codes)

    def nearest(self, z: Float[Tensor, "b c h w"]) -> Int[Tensor, "b h w"]:
        """Index of the nearest code at every position; autocast compares in float32 too."""
        codes = self.codes.weight.detach()
        rows = rearrange(z.detach().to(codes.dtype), "b c h w -> (b h w) c")
        found = [torch.cdist(part, codes).argmin(dim=1) for part in rows.split(ROWS)]
        b, _, h, w = z.shape
        return torch.cat(found).view(b, h, w)

    @override
    def forward(
        self,
        moments: Float[Tensor, "b m h w"],
        eps: Float[Tensor, "b c h w"] | None = None,
        reduction: str = "sum",
    ) -> Regularised:
        index = self.nearest(moments)
        q = self._vectors(index)
        loss = self.weights["codebook"] * reduced((q - moments.detach()) ** 2, reduction)
        loss = loss + self.weights["commitment"] * reduced((moments - q.detach()) ** 2, reduction)
        logs = self.use(index) | {"quantisation": (q - moments).detach().square().mean()}
        return Regularised(_straight_through(moments, q), loss, logs)

    @override
    def quantised(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return _straight_through(z, self._vectors(self.nearest(z)))

    def use(self, index: Int[Tensor, "b h w"]) -> dict[str, Float[Tensor, ""]]:
        """`usage` and `perplexity` of some indices."""
        ones = torch.ones(index.numel(), device=index.device)
        counts = ones.new_zeros(self.codes.num_embeddings).index_add(0, index.flatten(), ones)
        p = counts / index.numel()
        entropy = -torch.xlogy(p, p).sum()
        return {"usage": (counts > 0).float().mean(), "perplexity": entropy.exp()}

    def _vectors(self, index: Tensor) -> Tensor:
        return rearrange(self.codes(index), "b h w c -> b c h w")


def _straight_through(z: Tensor, q: Tensor) -> Tensor:
    """The value is q, and the gradient goes to z (VQ-VAE, arXiv 1711.00937)."""
    return q.detach() + (z - z.detach())
