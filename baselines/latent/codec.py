"""The codec of latent diffusion: an autoencoder, and the statistics that make its latents unit.

A missing or stale statistic is an error: published pipelines divide by a constant of their own
(0.18215), and a wrong one ruins samples without a sign.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from baselines.latent.autoencoder import Autoencoder, autoencoders
from baselines.latent.discriminator import PatchGAN
from baselines.latent.regularisers import KL
from baselines.latent.stage import AutoencoderStage, Losses
from hierdiff.codec import Codec, codecs
from hierdiff.levels import Levels, clipped
from hierdiff.metrics.perceptual import Perceptual
from hierdiff.options import Count, NonNegative, Positive, fits
from hierdiff.registry import Later
from hierdiff.resolution import Name, Resolution


@runtime_checkable
class MomentSource(Protocol):
    """The moments of a training set, as `LatentData` has them."""

    def chunks(self) -> Iterable[Tensor]:
        """All of them, in batches."""

    def first(self) -> Tensor:
        """One batch, drawn once for all."""


By = Literal["channel", "tensor", "first_batch", "none"] | Positive


class LatentStatistics(nn.Module):
    """The mean and standard deviation that a state z is brought to 0 and 1 by.

    by: "channel" (each channel's own) or "tensor" (one for all), both of all training images;
    "first_batch", no mean and one deviation, of 64 images (LDM, arXiv 2112.10752, code: the first
    batch); a number, no mean and that scale, by which z is multiplied (0.18215 for the f8
    autoencoder of Stable Diffusion); "none", z as it is (LDM with VQ autoencoders).

    Measured ones are over posterior noise too: the variance of z is that of the posterior means
    plus the mean posterior variance. `mark` is the fingerprint of the autoencoder that they belong
    to, 0 before training.
    """

    mean: Tensor
    std: Tensor
    mark: Tensor

    def __init__(self, channels: int, by: By = "channel"):
        super().__init__()
        if not fits(by, By):
            raise ValueError(
                f"statistics by {by!r}: choose channel, tensor, first_batch, none or a scale above "
                f"0, by which latents are multiplied"
            )
        self.by = by
        for name, value in (("mean", 0.0), ("std", 1.0)):
            self.register_buffer(name, torch.full((channels, 1, 1), value))
        self.register_buffer("mark", torch.zeros(32, dtype=torch.uint8))
        self._found: list[tuple[int, int]] | None = None  # where a check found no fault

    def find(self, data: MomentSource, autoencoder: Autoencoder) -> None:
        """Those of the latents of a training set, by `by`."""
        if self.by in ("channel", "tensor"):
            self.measure(data.chunks(), autoencoder)
        elif self.by == "first_batch":
            mean, variance = of_state(autoencoder, data.first().double())
            self.set(float((mean.var(correction=0) + variance.mean()).sqrt()), autoencoder)
        else:
            self.set(1.0 if isinstance(self.by, str) else 1 / self.by, autoencoder)

    def measure(self, moments: Iterable[Tensor], autoencoder: Autoencoder) -> None:
        """From the moments of all training images, in batches."""
        first = second = torch.zeros((), dtype=torch.float64)
        count = 0
        for batch in moments:
            mean, variance = of_state(autoencoder, batch.double())
            first = first + mean.sum((0, 2, 3)).cpu()
            second = second + (mean**2 + variance).sum((0, 2, 3)).cpu()
            count += mean[:, 0].numel()
        mean, square = first / count, second / count
        if self.by == "tensor":
            mean, square = mean.mean().expand_as(mean), square.mean().expand_as(mean)
        self.mean.copy_(mean[:, None, None])
        self.std.copy_((square - mean**2).sqrt()[:, None, None])
        self._marked(autoencoder)

    def set(self, std: float, autoencoder: Autoencoder) -> None:
        """No mean, and one deviation; 1 for weights that are timed and not looked at."""
        self.mean.zero_()
        self.std.fill_(std)
        self._marked(autoencoder)

    def _marked(self, autoencoder: Autoencoder) -> None:
        self.mark.copy_(torch.tensor(list(autoencoder.fingerprint()), dtype=torch.uint8))
        self._found = self._places(autoencoder)

    def _places(self, autoencoder: Autoencoder) -> list[tuple[int, int]]:
        """Address and version of what a check depends on: tensors that are moved or written to
        (by any but a fused optimizer, whose steps torch does not count) have others."""
        tensors = [self.mark, *autoencoder.state_dict(keep_vars=True).values()]
        return [(tensor.data_ptr(), tensor._version) for tensor in tensors]

    def check(self, autoencoder: Autoencoder) -> None:
        """Checks that the statistics are of this autoencoder.

        Takes no time where nothing was moved or written to since the last time.

        Raises:
            ValueError: where they were never measured, or of another autoencoder.
        """
        places = self._places(autoencoder)
        if places == self._found:
            return
        if not self.mark.any():
            raise ValueError(
                "the latent statistics were never measured: train the latent stage, which measures "
                "them on its training set, or call `statistics.measure`"
            )
        if bytes(self.mark.tolist()) != autoencoder.fingerprint():
            raise ValueError(
                "the latent statistics are those of another autoencoder (its weights or layout "
                "have changed since): train the latent stage again with this one"
            )
        self._found = places


def of_state(autoencoder: Autoencoder, moments: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of z given its moments."""
    if isinstance(autoencoder.regulariser, KL):
        mean, logvar = autoencoder.regulariser.posterior(moments)
        return mean, logvar.exp()
    z = autoencoder.regulariser.mode(moments)
    return z, torch.zeros_like(z)


@codecs.register("autoencoder")
class AutoencoderCodec(Codec):
    """Images of one resolution to unit latents, and back through the decoder.

    autoencoder: its node, by default a `ConvolutionalAutoencoder`. statistics: `by` of
    `LatentStatistics`. checkpoint: weights of another run (or of `hierdiff.convert`), whose
    autoencoder is used as it is and not trained, so that no discriminator is made. cache: folder in
    which the moments of all training images are kept, None: `cache_folder()`. Everything else is
    how the autoencoder is trained (`AutoencoderStage`). resolution, channels: of the images.
    """

    lossy = True
    network: Autoencoder
    stage: AutoencoderStage

    def __init__(
        self,
        *,
        resolution: Count,
        autoencoder: Later[Autoencoder],
        statistics: By = "channel",
        checkpoint: str | None = None,
        loss: Losses = Losses(),
        perceptual: Later[Perceptual] | None = None,
        discriminator: Later[PatchGAN] | None = None,
        lr: Positive = 1.0,
        trainer: Mapping[str, Any] | None = None,
        share: NonNegative = 1.0,
        batch_size: Count | None = None,
        cache: str | None = None,
        channels: Count = 3,
    ):
        facts = {"resolution": resolution, "channels": channels}
        autoencoder = autoencoders.build(autoencoder, offered=facts)
        self.resolutions: tuple[Resolution, ...] = (resolution,)
        self.channels, self.cache = channels, cache
        self.network = autoencoder
        self.statistics = LatentStatistics(autoencoder.latent_channels, statistics)
        self._shape = autoencoder.latent_shape(resolution)
        self.stage = AutoencoderStage(
            autoencoder=autoencoder,
            resolution=resolution,
            loss=loss,
            perceptual=perceptual or {"name": "efficientnet_lite0"},
            discriminator=discriminator if checkpoint is None else None,
            lr=lr,
            trainer=trainer,
            share=0.0 if checkpoint is not None else share,
            weights=checkpoint,
            batch_size=batch_size,
            channels=channels,
        )

    def moments(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b m _h _w"]:
        """What the encoder gives for images in [-1, 1], without gradient."""
        with self.network.at_rest():
            return self.network.encode(images)

    def normalised(self, moments: Tensor, eps: Tensor | None) -> Levels:
        """The unit state of moments; eps: noise of the posterior, None for its mode."""
        z = self.network.regulariser.sample(moments, eps)
        return ((z - self.statistics.mean) / self.statistics.std,)

    @override
    def encode(self, images: Float[Tensor, "b c h w"]) -> Levels:
        return self.normalised(self.moments(images), None)

    @override
    def decode(self, levels: Levels) -> dict[Name, Float[Tensor, "b c _h _w"]]:
        z = levels[0] * self.statistics.std + self.statistics.mean
        with self.network.at_rest():
            return {self.resolutions[0]: clipped(self.network.decode(z))}

    @override
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return (self._shape,)

    def check(self) -> None:
        """Checks the statistics of the latents; see `Statistics.check`."""
        self.statistics.check(self.network)

    @override
    def tail(self, n: int) -> Codec:
        if n != 1:
            raise ValueError(f"an autoencoder gives one level, not {n}")
        return self

    @override
    def resized(self, resolution: Resolution) -> AutoencoderCodec:
        other = copy.copy(self)
        other.resolutions, other._shape = (resolution,), self.network.latent_shape(resolution)
        return other
