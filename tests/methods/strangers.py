"""Methods of no class that the harness could know, small and real."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hierdiff.batch import Batch
from hierdiff.methods import Generator, Images, Method, Part, Request, Turn
from hierdiff.noise import Noise
from hierdiff.objective import Loss
from hierdiff.options import Count, Natural
from hierdiff.resolution import Resolutions

LATENT, BINS = 16, 8


class Adversarial(Method):
    """A generator of one pass, trained against a critic (arXiv 1406.2661, hinge loss)."""

    def __init__(
        self,
        *,
        resolutions: Resolutions,
        width: Count = 8,
        channels: Count = 3,
        classes: Natural = 0,
    ):
        (side,) = resolutions
        super().__init__(resolutions, [OnePass(side, width, channels, classes)])


class OnePass(Generator):
    name = "one pass"

    def __init__(self, side: int, width: int, channels: int, classes: int):
        super().__init__()
        self.resolutions, self.level_names = (side,), (str(side),)
        self.facts = {"channels": channels, "classes": classes}
        self.label = nn.Embedding(classes + 1, LATENT)
        self.generator = nn.Sequential(
            nn.Linear(LATENT, width * (side // 2) ** 2),
            nn.Unflatten(1, (width, side // 2, side // 2)),
            nn.SiLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, channels, 3, padding=1),
            nn.Tanh(),
        )
        self.critic = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, side // 2)
        )

    @property
    def turns(self) -> tuple[Turn, ...]:
        return Turn("generator", nn.ModuleList(self.networks)), Turn("critic", self.critic)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return self.label, self.generator

    def images(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return self.generator(z if labels is None else z + self.label(labels + 1))

    def draw(self, batch: Batch, noise: Noise) -> Tensor:
        return noise((len(batch), LATENT))

    def forward(self, batch: Batch, draws: Tensor, turn: str = "generator", step: int = 0) -> Loss:
        fake = self.critic(self.images(draws, batch.cond.labels))
        if turn == "generator":
            return Loss(-fake.mean(), {f"loss/{self.resolutions[0]}": -fake.mean()})
        total = F.relu(1 - self.critic(batch.images)).mean() + F.relu(1 + fake).mean()
        return Loss(total, {"loss/critic": total})

    def sample(self, request: Request) -> Images:
        cond = self.complete(request.cond, request.n)
        with torch.no_grad():
            return {
                self.resolutions[0]: self.images(request.noise((request.n, LATENT)), cond.labels)
            }


class Autoregressive(Method):
    """Pixels one after another, each channel one of 8 values (arXiv 1606.05328 without gates)."""

    def __init__(self, *, resolutions: Resolutions, width: Count = 8, channels: Count = 3):
        (side,) = resolutions
        super().__init__(resolutions, [Raster(side, width, channels)])


class Masked(nn.Conv2d):
    """Sees the pixels before its own in raster order, and its own where `own`."""

    def __init__(self, inputs: int, outputs: int, own: bool):
        super().__init__(inputs, outputs, 3, padding=1)
        seen = torch.tensor([[1, 1, 1], [1, float(own), 0], [0, 0, 0]])
        self.register_buffer("seen", seen, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.seen, self.bias, padding=1)


class Raster(Generator):
    name = "raster"

    def __init__(self, side: int, width: int, channels: int):
        super().__init__()
        self.resolutions, self.level_names = (side,), (str(side),)
        self.facts = {"channels": channels}
        self.net = nn.Sequential(
            *(Masked(channels, width, False), nn.SiLU(), Masked(width, width, True), nn.SiLU()),
            nn.Conv2d(width, channels * BINS, 1),
        )

    def logits(self, x: Tensor) -> Tensor:
        return self.net(x).unflatten(1, (-1, BINS))

    def draw(self, batch: Batch, noise: Noise) -> None:
        return None

    def forward(self, batch: Batch, draws: None, turn: str = "denoiser", step: int = 0) -> Loss:
        bins = ((batch.images + 1) * BINS / 2).long().clamp(0, BINS - 1)
        nats = F.cross_entropy(self.logits(value(bins)).movedim(2, 1), bins)
        return Loss(nats, {f"loss/{self.resolutions[0]}": nats})

    @torch.no_grad()
    def sample(self, request: Request) -> Images:
        x = request.noise((request.n, *self.shapes()[0])) * 0
        side = self.resolutions[0]
        for row in range(side):
            for column in range(side):
                logits = self.logits(x)[..., row, column]
                uniform = torch.special.ndtr(request.noise(logits.shape)).clamp(1e-6, 1 - 1e-6)
                x = x.clone()
                x[..., row, column] = value((logits - (-uniform.log()).log()).argmax(2))
            if request.watch is not None:
                request.watch(row, 1 - (row + 1) / side, (x,))
        return {side: x}

    def parts(self, stop: float = 0.0) -> tuple[Part, ...]:
        def prepare(n: int, noise: Noise) -> Callable[[], object]:
            x = noise((n, *self.shapes()[0]))
            return lambda: self.logits(x)

        return (Part("pixel", prepare, self.resolutions[0] ** 2),)


def value(bins: Tensor) -> Tensor:
    """The middle of a bin, in [-1, 1]."""
    return (2 * bins + 1) / BINS - 1
