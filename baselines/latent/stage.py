"""The two stages of latent diffusion: an autoencoder trained adversarially, and diffusion in it.

Rombach et al., arXiv 2112.10752; Esser et al., arXiv 2012.09841, and their code.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from baselines.latent.autoencoder import Autoencoder
from baselines.latent.discriminator import PatchGAN, adaptive_weight, generator_loss, hinge
from baselines.latent.regularisers import Regulariser, reduced
from hierdiff.batch import Batch, Cond
from hierdiff.data.buckets import Buckets
from hierdiff.data.cache import cache_folder
from hierdiff.files.shards import Shards, kept_shards
from hierdiff.levels import Levels, clipped
from hierdiff.methods import Diffusion, Handover, Images, Request, Stage, Turn
from hierdiff.metrics.perceptual import Perceptual, perceptuals
from hierdiff.noise import Noise
from hierdiff.objective import Draws, Loss
from hierdiff.options import Count, NonNegative, Positive, check_fields
from hierdiff.registry import Later, build, single
from hierdiff.resolution import Resolution, sides_of

if TYPE_CHECKING:  # it trains its autoencoder by a stage of this file
    from baselines.latent.codec import AutoencoderCodec

log = logging.getLogger(__name__)
ENCODED = 64  # images encoded at once
INTERVAL = 10.0  # seconds between words of progress


@single("loss")
@dataclass(frozen=True)
class Losses:
    """Weights of an autoencoder's loss.

    reduction: of reconstruction and regulariser, "sum" over an example's elements (the released KL
    autoencoders, to which 1e-6 belongs) or "mean" over all (the VQ ones). perceptual: on the
    distance of a pair, which counts at every element. regulariser: None for the published weight
    of the one that there is (1e-6 of KL, 1 of VQ). adversarial: on top of the adaptive weight.
    start: of the discriminator, a share of the stage's steps (below 1; at 1 it never starts) or,
    above 1, a step. discriminator_lr: over the trainer's learning rate. learnt_variance: one
    log-variance s for all elements is learnt (the released KL training keeps it at 0: its optimizer
    is not given that parameter).
    """

    reduction: Literal["sum", "mean"] = "sum"
    perceptual: NonNegative = 1.0
    regulariser: NonNegative | None = None
    adversarial: NonNegative = 0.5
    start: NonNegative = 0.5
    discriminator_lr: NonNegative = 1.0
    learnt_variance: bool = True

    def __post_init__(self) -> None:
        check_fields(self, "loss")

    def check(self, regulariser: Regulariser) -> None:
        """Checks that the loss suits a regulariser.

        Raises:
            ValueError: for a codebook with a sum over elements or a learnt variance, which are the
                recipe of KL: of a sum the codebook's share falls with the elements of an image over
                those of its latents, times e^s.
        """
        if not regulariser.sums and (self.reduction == "sum" or self.learnt_variance):
            raise ValueError(
                f"a {type(regulariser).__name__} autoencoder with loss.reduction="
                f"{self.reduction} and loss.learnt_variance={str(self.learnt_variance).lower()}, "
                f"the recipe of KL, under which its codebook hardly counts: choose mean and false, "
                f"or codec@method.codec=vq, which has both"
            )


class LogVariance(nn.Module):
    """Of the reconstruction error, one number for all elements."""

    def __init__(self, learnt: bool):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()), requires_grad=learnt)


class AutoencoderStage(Stage):
    """Two turns: the autoencoder, and a PatchGAN that tells its reconstructions from images.

    Loss of the first: sum of (|x - x'| + perceptual) / exp(s) + s, plus the regulariser, plus, from
    `start` on, the generator's loss times the ratio of gradients at the last layer. discriminator:
    options of `PatchGAN`, None for none. lr: of the autoencoder, over the trainer's learning rate.
    trainer: options of `trainer` that both turns have otherwise, such as betas (0.5 and 0.9 in the
    released code).
    `imagenet`: was the autoencoder trained on a perceptual network from ImageNet; it goes with the
    weights, so that a run which uses them again knows.
    """

    imagenet: Tensor

    name = "autoencoder"
    compiles = False  # the adaptive weight takes gradients inside the loss
    shards = False  # two turns, each with gradients of its own
    tied = False  # an autoencoder is of use for other data

    def __init__(
        self,
        *,
        autoencoder: Autoencoder,
        resolution: int,
        loss: Losses,
        perceptual: Later[Perceptual],
        discriminator: Later[PatchGAN] | None,
        lr: Positive = 1.0,
        trainer: Mapping[str, Any] | None = None,
        share: NonNegative = 1.0,
        weights: str | None = None,
        batch_size: Count | None = None,
        channels: Count = 3,
    ):
        super().__init__()
        if lr <= 0:
            raise ValueError(f"lr={lr} of the autoencoder over the trainer's: take more than 0")
        self.autoencoder, self.lr, self.trainer = autoencoder, lr, dict(trainer or {})
        self.loss = loss
        self.log_variance = LogVariance(self.loss.learnt_variance)
        network: Any = perceptual
        if not isinstance(perceptual, Perceptual):
            network = perceptuals.named(perceptual)  # unknown names are refused at once
        seen = bool(self.loss.perceptual) and getattr(network, "uses_imagenet", True)
        self.register_buffer("imagenet", torch.tensor(seen and weights is None))
        own = self.loss.regulariser
        self.regulariser_weight = autoencoder.regulariser.published if own is None else own
        self.perceptual_node = perceptual
        self._perceptual: tuple[Perceptual] | None = None  # in a tuple: no part of the state
        self.discriminator = None
        if discriminator is not None:
            self.discriminator = build(PatchGAN, discriminator, offered={"channels": channels})
            self.discriminator.check(resolution)
        self.side, self.resolutions = resolution, (resolution,)
        self.share, self.weights, self.batch_size = share, weights, batch_size

    @property
    @override
    def turns(self) -> tuple[Turn, ...]:
        trained = nn.ModuleList([self.autoencoder, self.log_variance])
        made = Turn("autoencoder", trained, self.lr)
        if self.discriminator is None:
            return (made,)
        return (made, Turn("discriminator", self.discriminator, self.loss.discriminator_lr))

    @property
    @override
    def changes(self) -> tuple[int, ...]:
        return () if self.discriminator is None else (math.ceil(self.start_step),)

    @property
    @override
    def identity(self) -> str:
        layout = (f"{name} {value}" for name, value in self.autoencoder.layout.items())
        return f"autoencoder of {', '.join(layout)}"

    def state_dict(self, *args: Any, **options: Any) -> Any:
        """Of the stage alone, for another run: without the discriminator, whose work is done."""
        state = super().state_dict(*args, **options)
        if args or "destination" in options:  # as a part of its method
            return state
        return {k: tensor for k, tensor in state.items() if not k.startswith("discriminator.")}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """Also takes the state of the stage alone; its own discriminator stays as it is then."""
        own = super().state_dict()
        kept = {k: tensor for k, tensor in own.items() if k.startswith("discriminator.")}
        return super().load_state_dict({**kept, **state_dict}, *args, **options)

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """What a row of a table says of the autoencoder."""
        lines = []
        if self.weights is not None and self.origin is None:
            lines.append(f"autoencoder of another run ({self.weights})")
        if self.imagenet:
            lines.append("perceptual loss on an ImageNet network, which flatters Frechet distances")
        return tuple(lines)

    @property
    def start_step(self) -> float:
        """The first step of the discriminator."""
        return self.loss.start * self.steps if self.loss.start <= 1 else self.loss.start

    @property
    def perceptual(self) -> Perceptual:
        """Built when it is needed: its weights are no part of the stage."""
        if self._perceptual is None:
            made = perceptuals.build(self.perceptual_node)
            self._perceptual = (made.to(next(self.parameters())),)
        return self._perceptual[0]

    @override
    def check(self, previous: Stage | None = None) -> None:
        self.loss.check(self.autoencoder.regulariser)
        if self.loss.perceptual:
            perceptuals.build(self.perceptual_node)

    @override
    def start(self, previous: Stage | None, data: Any) -> Any:
        if self.share:
            self.loss.check(self.autoencoder.regulariser)
        if self.share and self.loss.perceptual:
            _ = self.perceptual  # a missing file is found before the first step
        return data

    @override
    def draw(self, batch: Batch, noise: Noise) -> Float[Tensor, "b d h w"]:
        """Noise of the posterior."""
        height, width = batch.images.shape[2:]
        return noise((len(batch), *self.autoencoder.latent_shape((height, width))))

    @override
    def fit(self, resolutions: Sequence[Resolution]) -> None:
        for one in resolutions:
            self.autoencoder.latent_shape(one)
            if self.discriminator is not None:
                self.discriminator.check(min(sides_of(one)))

    @override
    def forward(
        self, batch: Batch, draws: Tensor, turn: str = "autoencoder", step: int = 0
    ) -> Loss:
        adversarial = self.discriminator is not None and step >= self.start_step
        if turn == "discriminator":
            return self._judged(batch.images, draws, adversarial)
        adversarial = adversarial and torch.is_grad_enabled()  # its weight is a ratio of gradients
        images = batch.images
        made = self.autoencoder(images, draws, self.loss.reduction)
        pixel = (images - made.images).abs()
        perceptual = (
            self.perceptual(images, made.images) if self.loss.perceptual else pixel.new_zeros(1)
        )
        error = pixel + self.loss.perceptual * perceptual.to(pixel)[:, None, None, None]
        s = self.log_variance.value
        nll = reduced(error / s.exp() + s, self.loss.reduction)
        total = nll + self.regulariser_weight * made.loss
        logs = {"loss/pixel": pixel.mean(), "loss/perceptual": perceptual.mean(), **made.logs}
        logs["log_variance"] = s * 1.0
        if adversarial and self.discriminator is not None:
            fooled = generator_loss(self.discriminator(made.images))
            weight = adaptive_weight(
                nll, fooled, made.images, made.last_input, self.autoencoder.last_layer
            )
            total = total + self.loss.adversarial * weight * fooled
            logs |= {"adversarial/generator": fooled, "adversarial/weight": weight}
        return Loss(total, logs)

    def _judged(self, images: Tensor, eps: Tensor, adversarial: bool) -> Loss:
        assert self.discriminator is not None
        if not adversarial:  # no gradient: weight decay alone moves it
            return Loss(
                sum((0 * p.sum() for p in self.discriminator.parameters()), images.new_zeros(())),
                {},
            )
        with torch.no_grad():
            made = self.autoencoder(images, eps, self.loss.reduction).images
        real, fake = self.discriminator(images), self.discriminator(made)
        logs = {"adversarial/real": real.mean(), "adversarial/fake": fake.mean()}
        return Loss(hinge(real, fake), logs)

    def reconstructed(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """From the mode of the posterior, in [-1, 1]."""
        with self.autoencoder.at_rest():
            z = self.autoencoder.regulariser.mode(self.autoencoder.encode(images))
            return clipped(self.autoencoder.decode(z))

    @override
    def preview(self, cond: Cond, batch: Batch, noise: Noise) -> Images:
        """Originals, each followed by its reconstruction."""
        pairs = torch.stack([batch.images, self.reconstructed(batch.images)], dim=1)
        return {self.resolutions[0]: pairs.flatten(0, 1)[: len(batch)]}


class LatentDraws(NamedTuple):
    """eps: noise of the posterior."""

    draws: Draws
    eps: Tensor


@dataclass(frozen=True)
class LatentData:
    """Moments of all images, (n, m, h, w) in mapped files for each view: as they are and, where the
    data may be mirrored, mirrored. A posterior is sampled afresh at every step; these are no
    samples. data: for its conditions alone."""

    data: Any
    views: tuple[Shards, ...]

    @property
    def flip(self) -> bool:
        """Whether there are moments of mirrored images."""
        return len(self.views) > 1

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, index: Tensor, flip: Tensor | None = None) -> Batch:
        """Moments and conditions of the examples `index` (b,); flip: which of them are mirrored."""
        rows = index.numpy()
        moments = torch.from_numpy(self.views[0][rows])
        if flip is not None:
            moments[flip] = torch.from_numpy(self.views[1][rows[flip.numpy()]])
        return Batch(moments, self.data.cond_of(index))

    def first(self) -> Tensor:
        """A batch of images drawn once for all, as they are."""
        generator = torch.Generator().manual_seed(0)
        rows = torch.randperm(len(self), generator=generator)[:ENCODED]
        return torch.from_numpy(self.views[0][rows.numpy()])

    def chunks(self) -> Iterator[Tensor]:
        """All of them, in batches."""
        for view in self.views:
            yield from map(torch.from_numpy, view.batches(ENCODED))


class LatentBuckets(Buckets):
    """Moments of images of several shapes."""

    parts: tuple[LatentData, ...]

    def first(self) -> Tensor:
        """As of `LatentData`, of the largest bucket."""
        return max(self.parts, key=len).first()

    def chunks(self) -> Iterator[Tensor]:
        """All of them, in batches of one shape each."""
        for part in self.parts:
            yield from part.chunks()


class LatentDiffusion(Diffusion):
    """Diffusion whose codec is an `AutoencoderCodec`; its training batches hold moments."""

    codec: AutoencoderCodec

    def __init__(self, **parts: Any):
        super().__init__(**parts)
        self.name = "latent"
        self.statistics = self.codec.statistics

    @torch.no_grad()
    @override
    def start(self, previous: Stage | None, data: Any) -> LatentData | LatentBuckets:
        """Encodes every image once, where no run has, and measures the statistics.

        Raises:
            ValueError: for images that are cropped anew in each epoch.
        """
        found: Any
        if parts := getattr(data, "buckets", ()):
            found = LatentBuckets([self._moments_of(part) for part in parts])
        else:
            found = self._moments_of(data)
        if self.objective.needs_teacher:  # whose statistics are those of the network too
            super().start(previous, data)
        else:
            self.codec.statistics.find(found, self.codec.network)
        return cast("LatentData | LatentBuckets", found)

    def _moments_of(self, data: Any) -> LatentData:
        """Posterior moments of every image, in mapped files of the cache folder.

        The name of their folder says whose images it holds, and ends in a hash of the pixels and of
        the autoencoder (its layout and all weights): a run that goes on and another run with the
        same autoencoder find it. A run that is killed while it encodes goes on with the shard it
        was at, and its processes share them. Files are never removed: delete `moments/` of the
        cache folder to make room.

        Raises:
            ValueError: for images that are cropped anew in each epoch.
        """
        codec = self.codec
        if getattr(data, "crops", False):
            raise ValueError(
                "latents are encoded once, and data.reading.crop=adm_random crops images anew in "
                "each epoch: set data.reading.crop=adm_center"
            )
        views = (False, True) if getattr(data, "flip", False) else (False,)
        (first,) = data.batch(torch.arange(1)).images
        shape = (len(views), len(data), *codec.moments(self._placed(first[None]))[0].shape)
        dtype = np.dtype(str(codec.statistics.mean.dtype).removeprefix("torch."))
        key = repr((data.sha256, codec.network.fingerprint(), shape, dtype.str))
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        name = f"{data.name}-{shape[-2]}x{shape[-1]}-{digest}"
        place = cache_folder(codec.cache) / "moments" / name
        kept = (
            kept_shards(
                place / ("mirrored" if mirrored else "as_they_are"),
                *(shape[1:], dtype, partial(self._encoded, data, mirrored)),
                step=ENCODED,
            )
            for mirrored in views
        )
        return LatentData(data, tuple(kept))

    @torch.no_grad()
    def _encoded(self, data: Any, mirrored: bool, first: int, stop: int) -> Iterator[np.ndarray]:
        """Moments of images number `first` to `stop` - 1, in batches."""
        last = time.monotonic()
        for rows in torch.arange(first, stop).split(ENCODED):
            images = data.batch(rows, torch.full((len(rows),), mirrored)).images
            yield self.codec.moments(self._placed(images)).cpu().numpy()
            if time.monotonic() - last > INTERVAL:
                last = time.monotonic()
                log.info("stage latent  encoded %d/%d images", int(rows[-1]) + 1, len(data))

    def _placed(self, images: Tensor) -> Tensor:
        return images.to(self.device, self.codec.statistics.mean.dtype)

    @override
    def start_untrained(self) -> None:
        super().start_untrained()
        self.codec.statistics.set(1.0, self.codec.network)

    @override
    def prepare_batch(self, batch: Batch) -> Batch:
        return Batch(self.codec.moments(batch.images), batch.cond)

    @property
    @override
    def encoder(self) -> nn.Module:
        return self.codec.network

    @torch.no_grad()
    @override
    def state(self, batch: Batch) -> Levels:
        """As in `Generator`; the shape of a batch says whether it holds moments, and theirs is the
        mode of the posterior.
        """
        if batch.images.shape[1:] == (self.codec.channels, *sides_of(self.resolutions[0])):
            return self.encode(batch.images)
        return self.codec.normalised(batch.images, None)

    @override
    def draw(self, batch: Batch, noise: Noise) -> LatentDraws:
        draws = super().draw(batch, noise)
        codec = self._codecs.get(batch.images.shape[2:], self.codec)
        return LatentDraws(draws, noise((len(batch), *codec.shapes()[0])))

    @override
    def fit(self, resolutions: Sequence[Resolution]) -> None:
        """As in `Stage`; its batches hold moments, which have the sides of latents."""
        super().fit(resolutions)
        self._codecs = {codec.shapes()[0][1:]: codec for codec in self._codecs.values()}

    @override
    def inputs(self, batch: Batch, draws: LatentDraws) -> tuple[Levels, Cond, Draws]:
        x0: Levels = self.codec.normalised(batch.images, draws.eps)
        return x0, batch.cond, draws.draws

    @override
    def opening(self, request: Request) -> tuple[Handover, Images]:
        self.codec.check()
        return super().opening(request)
