"""Degradations: how the low-resolution image of an upsampler is made from the real image.

In training alone: a generated image goes to the next stage as it is. BSRGAN (Zhang et al., arXiv
2103.14006), used by latent diffusion (arXiv 2112.10752) and unCLIP's 1024 px stage (arXiv
2204.06125). Images are in [-1, 1]; inside they are in [0, 1].
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from hierdiff.noise import Noise
from hierdiff.options import Between, Length, NonNegative, check_fields
from hierdiff.registry import Registry


class Degradation(ABC):
    """Makes low-resolution images worse than the mean of their pixels, each in its own way."""

    @abstractmethod
    def __call__(
        self, images: Float[Tensor, "b c h w"], sides: Sequence[int], noise: Noise
    ) -> Float[Tensor, "b c i j"]:
        """Images of `sides` (divisors of h and w), on the same device, from those in [-1, 1].

        It is called eagerly, and all its randomness is of `noise`.
        """


degradations: Registry[Degradation] = Registry("degradation", Degradation)

MODES = ("bilinear", "bicubic", "area")  # of a resize, without antialiasing as published
RADIUS = 12  # of blur kernels at most, in pixels
UNIFORMS = 32  # random numbers of one image, more than it may need
Qualities = Annotated[Sequence[Annotated[int, Between(1, 100)]], Length(2)]
Deviations = Annotated[Sequence[NonNegative], Length(2)]


@degradations.register("bsr")
@dataclass(frozen=True)
class BSR(Degradation):
    """BSRGAN's: two blurs, two reductions, noise and JPEG in random order, then JPEG.

    A quarter of images at a factor of 4 is halved first. A blur is anisotropic or isotropic, at
    even odds. The first reduction goes to any size down to 1 / (2 factor), or takes single pixels
    after a blur; the second ends at the wanted sides. Camera noise (a network) is left out.

    blur: 1 for the published widths, 0.25 for those of latent diffusion's light variant. noise:
    lowest and highest standard deviation in 1 / 255; [2, 8] in the light variant. quality: of JPEG,
    1 to 100; [80, 95] in the light variant.

    Raises:
        ValueError: where a range begins above its end.
    """

    blur: NonNegative = 1.0
    noise: Deviations = (2, 25)
    quality: Qualities = (30, 95)

    def __post_init__(self) -> None:
        check_fields(self, "degradation")
        for name in ("noise", "quality"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} {[low, high]}: give [lowest, highest]")

    @override
    def __call__(self, images: Tensor, sides: Sequence[int], noise: Noise) -> Tensor:
        b, c = images.shape[:2]
        numbers = torch.special.ndtr(noise((b, UNIFORMS)))
        mixes, white = noise((b, c, c + 1)), noise(images.shape)
        if images.is_meta:
            return images.new_empty(b, c, *sides)
        rows = [
            self._degraded(x[None], sides, iter(u), mix, eps[None])
            for x, u, mix, eps in zip(
                images / 2 + 0.5, numbers.tolist(), mixes.to(images), white.to(images), strict=True
            )
        ]
        return torch.cat(rows) * 2 - 1

    def _degraded(
        self,
        x: Float[Tensor, "1 c h w"],
        sides: Sequence[int],
        u: Iterator[float],
        mix: Float[Tensor, "c c1"],
        eps: Float[Tensor, "1 c h w"],
    ) -> Float[Tensor, "1 c i j"]:
        factor = x.shape[-1] // sides[-1]
        if factor == 4 and next(u) < 0.25:
            x, factor = resized(x, [side // 2 for side in x.shape[-2:]], next(u)), 2

        def reduced(x: Tensor) -> Tensor:
            if next(u) < 0.75:
                by = 1 + (2 * factor - 1) * next(u)
                return resized(x, [max(1, int(side / by)) for side in x.shape[-2:]], next(u))
            variance = (0.1 + (0.6 * factor - 0.1) * next(u)) ** 2
            x = gaussian_blur(x, (variance, variance), shift=(factor - 1) / 2)
            return x[..., ::factor, ::factor]

        steps: list[Callable[[Tensor], Tensor]] = [
            reduced,
            lambda x: resized(x, sides, next(u)),
            lambda x: self._blurred(x, factor, u),
            lambda x: self._blurred(x, factor, u),
            lambda x: self._noisy(x, u, mix, eps),
            lambda x: jpeg(x, self._quality(u)) if next(u) < 0.9 else x,
        ]
        keys = [next(u) for _ in steps]
        keys[:2] = sorted(keys[:2])  # the reduction to the wanted sides is the second one
        for i in sorted(range(len(steps)), key=keys.__getitem__):
            x = steps[i](x).clamp(0, 1)
        return jpeg(x, self._quality(u))

    def _blurred(self, x: Tensor, factor: int, u: Iterator[float]) -> Tensor:
        if next(u) < 0.5:
            most = self.blur * (4 + factor)  # of a variance
            return gaussian_blur(x, (most * next(u), most * next(u)), math.pi * next(u))
        variance = (self.blur * (2 + 0.2 * factor) * next(u)) ** 2
        return gaussian_blur(x, (variance, variance))

    def _noisy(self, x: Tensor, u: Iterator[float], mix: Tensor, eps: Tensor) -> Tensor:
        low, high = self.noise
        eps = eps[..., : x.shape[-2], : x.shape[-1]]
        std, kind = low + (high - low) * next(u), next(u)
        if kind < 0.4:  # of brightness alone
            eps = eps[:, :1]
        elif kind < 0.6:  # correlated between channels, at the highest standard deviation
            axes, _ = torch.linalg.qr(mix[:, :-1])
            spread = torch.special.ndtr(mix[:, -1]).sqrt()
            eps, std = torch.einsum("ij,bjhw->bihw", axes * spread, eps), high
        return x + std / 255 * eps

    def _quality(self, u: Iterator[float]) -> int:
        low, high = self.quality
        return low + min(int((high - low + 1) * next(u)), high - low)


def resized(
    x: Float[Tensor, "b c h w"], sides: Sequence[int], u: float
) -> Float[Tensor, "b c i j"]:
    """Resized by one of `MODES`; u: in [0, 1), which of them."""
    mode = MODES[min(int(u * len(MODES)), len(MODES) - 1)]
    corners = None if mode == "area" else False
    return F.interpolate(x, size=tuple(sides), mode=mode, align_corners=corners)


def gaussian_blur(
    x: Float[Tensor, "b c h w"], variances: tuple[float, float], angle: float = 0, shift: float = 0
) -> Float[Tensor, "b c h w"]:
    """A Gaussian blur with reflected edges.

    variances: along two axes at right angles, in squared pixels. angle: of the first one to the
    rows. shift: of the centre, in pixels to the right and down.
    """
    reach = math.ceil(5 * math.sqrt(max(variances)) + shift)
    radius = min(RADIUS, reach, *(side - 1 for side in x.shape[-2:]))
    place = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device) - shift
    y, z = torch.meshgrid(place, place, indexing="ij")
    along = math.cos(angle) * z + math.sin(angle) * y
    across = math.cos(angle) * y - math.sin(angle) * z
    first, second = (max(variance, 1e-3) for variance in variances)
    kernel = torch.softmax((-(along**2) / first - across**2 / second).flatten() / 2, dim=0)
    c, n = x.shape[1], 2 * radius + 1
    wide = F.pad(x, (radius,) * 4, mode="reflect") if radius else x
    return F.conv2d(wide, kernel.reshape(1, 1, n, n).expand(c, 1, n, n), groups=c)


# Quantisation of JPEG at quality 50 (ITU-T T.81, annex K), of brightness and of colour.
BRIGHTNESS = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
COLOUR = (
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99),
    *(99,) * 32,
)
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def jpeg(x: Float[Tensor, "b c h w"], quality: int) -> Float[Tensor, "b c h w"]:
    """The image that a JPEG file would hold: [0, 1], of 256 values.

    quality: 1 to 100, as libjpeg scales the tables of the standard. Three channels are colours, of
    which those without brightness are halved (4:2:0) and repeated again.
    """
    h, w = x.shape[-2:]
    planes = (x * 255).round() - 128
    if x.shape[1] == 3:
        planes = torch.einsum("ij,bjhw->bihw", x.new_tensor(TO_YCC), planes)
    planes = F.pad(planes, (0, -w % 16, 0, -h % 16), mode="replicate")
    if x.shape[1] == 3:
        colour = quantised(F.avg_pool2d(planes[:, 1:], 2), COLOUR, quality)
        planes = torch.cat(
            [
                quantised(planes[:, :1], BRIGHTNESS, quality),
                F.interpolate(colour, scale_factor=2.0, mode="nearest"),
            ],
            dim=1,
        )
        planes = torch.einsum("ij,bjhw->bihw", x.new_tensor(TO_RGB), planes)
    else:
        planes = quantised(planes, BRIGHTNESS, quality)
    return (planes[..., :h, :w] + 128).round().clamp(0, 255) / 255


def quantised(
    planes: Float[Tensor, "b c h w"], table: Sequence[int], quality: int
) -> Float[Tensor, "b c h w"]:
    """Blocks of 8 x 8 with their cosine transform rounded to multiples of a table's entries."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = ((planes.new_tensor(table).reshape(8, 8) * percent + 50) / 100).floor().clamp(1, 255)
    n = torch.arange(8, dtype=planes.dtype, device=planes.device)
    basis = torch.cos(math.pi / 8 * n[:, None] * (n + 0.5)) / 2
    basis[0] /= math.sqrt(2)
    blocks = planes.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).transpose(-3, -2)
    waves = (basis @ blocks @ basis.T / steps).round() * steps
    return (basis.T @ waves @ basis).transpose(-3, -2).flatten(-4, -3).flatten(-2, -1)
