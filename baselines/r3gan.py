"""R3GAN, an adversarial generator of one pass: the other end of the scale of speed.

Huang et al., arXiv 2501.05441: a relativistic loss, in which an image is judged against another,
with gradient penalties at real and at made images, and residual networks without normalisation.
Networks and sizes were read in a copy of the released code (Lemutisme/R3GAN at 3b1496f, 383ff6c).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.batch import Batch, Cond
from hierdiff.denoisers.layers import AttentionPool
from hierdiff.denoisers.protocol import Reads
from hierdiff.levels import clipped, down
from hierdiff.methods import Generator, Images, Method, Request, Turn, methods
from hierdiff.noise import Noise
from hierdiff.objective import Loss
from hierdiff.options import Count, Length, Natural, NonNegative, Positive, Share
from hierdiff.resolution import Resolutions, check_resolutions, sides_of

SLOPE = 0.2  # of the leaky rectifier below 0
GAIN = math.sqrt(2 / (1 + SLOPE**2))  # keeps the variance through it
BASIS = 4  # side in pixels of the coarsest feature map
ADAM = MappingProxyType({"betas": (0.0, 0.99), "clip": 0.0})


def relativistic(better: Float[Tensor, " b"], worse: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    """Mean of softplus(worse - better), pair by pair: 0 where `better` has far the higher logit.

    The discriminator wants real images to be better than made ones, the generator the opposite.
    """
    return F.softplus(worse - better).mean()


def gradient_penalty(
    logits: Float[Tensor, " b"], images: Float[Tensor, "b c h w"]
) -> Float[Tensor, ""]:
    """Mean over images of the squared norm of the gradient of an image's logit at the image.

    Its graph is kept, so that it can be minimised.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


def _scaled(layer: nn.Conv2d | nn.Linear, gain: float = 1.0) -> Any:
    """The layer with normal weights of standard deviation gain / sqrt(numbers that it adds up)."""
    with torch.no_grad():
        layer.weight.normal_(0, gain / math.sqrt(layer.weight[0].numel()))
    return layer


def _pointwise(before: int, after: int, gain: float = 1.0) -> nn.Module:
    return _scaled(nn.Conv2d(before, after, 1, bias=False), gain)


class BiasedRectifier(nn.Module):
    """A bias a channel, and a leaky rectifier."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The same shape."""
        return F.leaky_relu(x + self.bias, SLOPE)


class Block(nn.Sequential):
    """1x1 to `expansion` times the width, 3x3 in groups of `group` channels, 1x1 back, added to its
    input; the last begins at 0, the others are scaled for `blocks` of them in the network."""

    def __init__(self, width: int, expansion: int, group: int, blocks: int):
        inside, gain = expansion * width, GAIN * blocks**-0.25
        grouped = nn.Conv2d(inside, inside, 3, padding=1, groups=inside // group, bias=False)
        super().__init__(
            _pointwise(width, inside, gain),
            BiasedRectifier(inside),
            _scaled(grouped, gain),
            BiasedRectifier(inside),
            _pointwise(inside, width, 0.0),
        )

    @override
    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The same shape."""
        return x + super().forward(x)


class Resample(nn.Module):
    """Twice or half the side by the filter 1 2 1, and a 1x1 where the width changes, at the smaller
    side."""

    kernel: Tensor

    def __init__(self, before: int, after: int, *, up: bool):
        super().__init__()
        self.up = up
        self.change = nn.Identity() if before == after else _pointwise(before, after)
        line = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("kernel", line[:, None] * line, persistent=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d k l"]:
        """Sides doubled or halved."""
        x = self.change(x) if self.up else x
        width = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(width, 1, 3, 3)
        if self.up:
            return F.conv_transpose2d(
                x, 4 * kernel, stride=2, padding=1, output_padding=1, groups=width
            )
        return self.change(F.conv2d(x, kernel, stride=2, padding=1, groups=width))


class Given(nn.Module):
    """Class and caption as one vector: an embedding of the class, -1 being none, plus the words,
    pooled by attention. gain: standard deviation that either begins with, about.

    The published networks know classes alone; the words are ours.
    """

    def __init__(self, classes: int, text_width: int, size: int, gain: float = 1.0):
        super().__init__()
        self.label = nn.Embedding(classes + 1, size) if classes else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, 0, gain)
        self.text = AttentionPool(text_width, size) if text_width else None
        if self.text is not None:
            _scaled(self.text.out, gain)

    def forward(self, cond: Cond) -> Float[Tensor, "b size"]:
        """The sum; `cond` has a value or "none" for each, as `Stage.complete` sees to."""
        parts = []
        if self.label is not None and cond.labels is not None:
            parts.append(self.label(cond.labels + 1))
        if self.text is not None and cond.tokens is not None and cond.mask is not None:
            parts.append(self.text(cond.tokens, cond.mask))
        return sum(parts[1:], parts[0])


class Maker(nn.Module):
    """Noise and conditions to an image: learnt maps of 4x4 pixels, each times a number, then blocks
    at every side.

    widths: coarsest first, of 4, 8, ... pixels. `reads`: its conditions.
    """

    def __init__(
        self,
        widths: Sequence[int],
        latent: int,
        *,
        classes: int,
        text_width: int,
        channels: int,
        **block: int,
    ):
        super().__init__()
        self.reads = Reads(classes=classes, text_width=text_width)
        self.given = Given(classes, text_width, latent) if self.reads.names else None
        size = latent * (1 if self.given is None else 2)
        self.basis = nn.Parameter(torch.randn(widths[0], BASIS, BASIS))
        self.amount = _scaled(nn.Linear(size, widths[0], bias=False))
        self.body = nn.Sequential(*_body(widths, up=True, **block))
        self.image = _pointwise(widths[-1], channels)

    def forward(self, z: Float[Tensor, "b latent"], cond: Cond) -> Float[Tensor, "b c h w"]:
        """Images, not clipped."""
        if self.given is not None:
            z = torch.cat([z, self.given(cond)], 1)
        return self.image(self.body(self.amount(z)[:, :, None, None] * self.basis))


class Judge(nn.Module):
    """An image and its conditions to a logit: the maker's layout in reverse, and the conditions as
    a direction in which the last features are read.

    widths: coarsest first.
    """

    def __init__(
        self, widths: Sequence[int], *, classes: int, text_width: int, channels: int, **block: int
    ):
        super().__init__()
        self.image = _pointwise(channels, widths[-1])
        self.body = nn.Sequential(*_body(widths, up=False, **block))
        width = widths[0]
        self.basis = _scaled(nn.Conv2d(width, width, BASIS, groups=width, bias=False))
        some = bool(classes or text_width)
        self.features = _scaled(nn.Linear(width, width if some else 1, bias=False))
        self.given = Given(classes, text_width, width, width**-0.5) if some else None

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond) -> Float[Tensor, " b"]:
        """Higher for real images."""
        features = self.features(self.basis(self.body(self.image(x))).flatten(1))
        if self.given is None:
            return features[:, 0]
        return (features * self.given(cond)).sum(1)


def _body(
    widths: Sequence[int], *, up: bool, blocks: int, expansion: int, group: int
) -> list[nn.Module]:
    """Blocks of every side with what changes it between them, from the side that comes first."""
    order = list(widths) if up else list(reversed(widths))
    parts: list[nn.Module] = []
    for place, width in enumerate(order):
        if place:
            parts.append(Resample(order[place - 1], width, up=up))
        parts += [Block(width, expansion, group, blocks * len(widths)) for _ in range(blocks)]
    return parts


class Draws(NamedTuple):
    """z: noise behind the made images. drop: which examples lose their conditions."""

    z: Float[Tensor, "b latent"]
    drop: Bool[Tensor, " b"]


class R3GANStage(Generator):
    """Two turns: the generator, and the discriminator that tells its images from real ones.

    gamma: weight of half of each gradient penalty at the first and at the last step, by a cosine
    between. drop: rate at which an example loses class and caption, so that images without them can
    be had. lr: over the trainer's learning rate.
    """

    name = "r3gan"
    compiles = False  # the penalties take gradients inside the loss
    shards = False  # two turns, each with gradients of its own

    def __init__(
        self,
        *,
        side: int,
        widths: Sequence[int],
        latent: int,
        gamma: Sequence[float],
        drop: float,
        lr: float,
        facts: Mapping[str, int],
        **block: int,
    ):
        super().__init__()
        self.side, self.resolutions, self.level_names = side, (side,), (str(side),)
        self.facts, self.lr, self.latent, self.drop = dict(facts), lr, latent, drop
        self.gamma = tuple(gamma)
        known = {**block, **{name: facts[name] for name in ("channels", "classes", "text_width")}}
        self.generator = Maker(widths, latent, **known)
        self.discriminator = Judge(widths, **known)

    @property
    @override
    def turns(self) -> tuple[Turn, ...]:
        return (
            Turn("generator", self.generator, self.lr, ADAM),
            Turn("discriminator", self.discriminator, self.lr, ADAM),
        )

    @property
    @override
    def networks(self) -> tuple[nn.Module, ...]:
        return (self.generator,)

    def gamma_at(self, step: int) -> float:
        """The weight of the penalties at a step of the training."""
        first, last = self.gamma
        part = min(step / self.steps, 1.0) if self.steps else 0.0
        return last + (first - last) * (1 + math.cos(math.pi * part)) / 2

    @override
    def draw(self, batch: Batch, noise: Noise) -> Draws:
        b = len(batch)
        z = noise((b, self.latent))
        return Draws(z, torch.special.ndtr(noise((b,))) < self.drop)

    @override
    def forward(self, batch: Batch, draws: Draws, turn: str = "generator", step: int = 0) -> Loss:
        real = down(batch.images, self.side)
        cond = self.complete(batch.cond, len(batch)).dropped(draws.drop)
        if turn == "generator":
            made = self.generator(draws.z, cond)
            logits, others = (self.discriminator(x, cond) for x in (made, real))
            total = relativistic(logits, others)
            return Loss(total, {f"loss/{self.level_names[0]}": total})
        with torch.no_grad():
            made = self.generator(draws.z, cond)
        with torch.enable_grad():  # the penalties are part of the value too
            # a copy, as counting follows no gradient at a leaf
            real, made = (x.detach().requires_grad_().clone() for x in (real, made))
            logits, others = (self.discriminator(x, cond) for x in (real, made))
            total = relativistic(logits, others)
            at_real, at_made = gradient_penalty(logits, real), gradient_penalty(others, made)
        logs = {
            "adversarial/discriminator": total,
            "penalty/real": at_real,
            "penalty/made": at_made,
        }
        return Loss(total + self.gamma_at(step) / 2 * (at_real + at_made), logs)

    @torch.no_grad()
    @override
    def sample(self, request: Request) -> Images:
        """As in `Generator`.

        Raises:
            FloatingPointError: where images are not finite.
        """
        cond = self.complete(request.cond, request.n)
        z = request.noise((request.n, self.latent)).to(self.generator.basis)
        images = self.generator(z, cond)
        if not images.is_meta and not bool(images.isfinite().all()):
            raise FloatingPointError(
                f"stage {self.name} gives images that are not finite: use earlier weights"
            )
        return {self.resolutions[0]: clipped(images)}


@methods.register("r3gan")
class R3GAN(Method):
    """A generator trained against a discriminator (arXiv 2501.05441); images in one pass.

    width: channels at the finest side, twice as many at each coarser one, at most 8 times; or
    `widths`, coarsest first, of 4, 8, ... pixels. blocks: at each side. expansion: of the width
    inside of a block, in which `group` channels see each other in 3x3. latent: numbers that an
    image is made of. gamma, drop, lr: see `R3GANStage`. channels, classes, text_width, text_length:
    of the data.

    Raises:
        ValueError: for more than one resolution or a side that is no power of 2, and for widths
            that do not fit it or the groups.
    """

    def __init__(
        self,
        *,
        resolutions: Resolutions,
        width: Count = 16,
        widths: Sequence[Count] | None = None,
        blocks: Count = 1,
        expansion: Count = 2,
        group: Count = 16,
        latent: Count = 64,
        gamma: Annotated[Sequence[NonNegative], Length(2)] = (0.5, 0.05),
        drop: Share = 0.1,
        lr: Positive = 1.0,
        channels: Count = 3,
        classes: Natural = 0,
        text_width: Natural = 0,
        text_length: Natural = 0,
    ):
        side, *coarser = check_resolutions(resolutions)
        if coarser:
            raise ValueError(
                f"r3gan has one resolution, got {[side, *coarser]}: "
                f"give the finest, coarser images are pooled from it"
            )
        sides = sides_of(side)
        if len(set(sides)) > 1 or len(sides) != 2 or sides[0] < BASIS or sides[0] & (sides[0] - 1):
            raise ValueError(
                f"r3gan makes square images of a side that is a power of 2 from {BASIS} on, got "
                f"{side}: choose another data.resolution"
            )
        stages = (sides[0] // BASIS).bit_length()
        doubled = [width * min(2**i, 8) for i in reversed(range(stages))]
        chosen = doubled if widths is None else list(widths)
        if len(chosen) != stages:
            raise ValueError(
                f"widths={chosen} for {sides[0]} px: give {stages}, for {BASIS} to {sides[0]} px, "
                f"coarsest first"
            )
        if odd := [one for one in chosen if one * expansion % group]:
            raise ValueError(
                f"a width of {odd[0]} times expansion={expansion} is no multiple of group={group}: "
                f"choose others"
            )
        stage = R3GANStage(
            side=sides[0],
            widths=chosen,
            latent=latent,
            gamma=gamma,
            drop=drop,
            lr=lr,
            facts={
                "channels": channels,
                "classes": classes,
                "text_width": text_width,
                "text_length": text_length,
            },
            blocks=blocks,
            expansion=expansion,
            group=group,
        )
        super().__init__([sides[0]], [stage])
