"""Perceptual distances by registry: two batches of images in [-1, 1] to one distance an example.

A network compares the features of both images, each of unit length at its position, by squared
difference (Zhang et al., arXiv 1801.03924). A network trained on ImageNet flatters the distances
of other ImageNet networks too, so each has an attribute `uses_imagenet`.

The frozen network is not a submodule: it follows the module to a device, but it has no part in
checkpoints, averages, parameter counts, or training mode.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.metrics import weights
from hierdiff.metrics.extractors import EfficientNetLite0
from hierdiff.registry import Registry

Maps = Sequence[Float[Tensor, "b _c _h _w"]]
# VGG16: widths between poolings; features are taken before each
WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
TAPPED = tuple(widths[-1] for widths in WIDTHS)
SHIFT = (-0.030, -0.088, -0.188)  # ImageNet's mean and deviation, for images in [-1, 1]
SCALE = (0.458, 0.448, 0.450)
UNIT_EPSILON = 1e-10  # of a squared length: keeps the gradient finite where all features are zero


class Perceptual(nn.Module, ABC):
    """A frozen network that compares images.

    identity: name@weights, for the row of a table. uses_imagenet: whether its weights were trained
    on ImageNet.
    """

    identity: str
    uses_imagenet: bool

    def __init__(self, network: nn.Module | None = None):
        super().__init__()
        frozen = () if network is None else (network.eval().requires_grad_(False),)
        self._frozen: tuple[nn.Module, ...] = frozen

    @abstractmethod
    def distance(
        self, a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        """Distance of each pair, 0 or more; images in [-1, 1]."""

    @override
    def forward(
        self, images: Float[Tensor, "b c h w"], others: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, " b"]:
        """Distance of each pair of images in [-1, 1]: 0 or more, 0 for equal ones.

        Grey images are repeated to three channels.

        Raises:
            ValueError: for other numbers of channels than 1 and 3.
        """
        return self.distance(_colour(images), _colour(others))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        for network in self._frozen:
            network._apply(fn)
        return super()._apply(fn, recurse)


perceptuals: Registry[Perceptual] = Registry("perceptual network", Perceptual)


@perceptuals.register("none")
class NoPerceptual(Perceptual):
    """Always 0."""

    identity = "none"
    uses_imagenet = False

    @override
    def distance(
        self, a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        return a.new_zeros(len(a))


@perceptuals.register("efficientnet_lite0")
class EfficientNetPyramid(Perceptual):
    """Five feature maps of an ImageNet EfficientNet-lite0, whose weights come as a package.

    Mean over maps of the mean over positions of |u - v|^2, u and v the features of unit length:
    0 to 4, with no learned weights. It is no LPIPS. side: to which smaller images are enlarged,
    bilinearly; larger ones stay as they are.
    """

    uses_imagenet = True

    def __init__(self, *, side: int = 64):
        with torch.device("cpu"):  # a file is read, also where the rest is built on meta
            extractor = EfficientNetLite0()
        super().__init__(extractor.network)
        self.side = side
        self.identity = f"efficientnet_lite0@{extractor.weights}"

    def features(self, images: Float[Tensor, "b 3 h w"]) -> Maps:
        """16, 24, 40, 112 and 320 channels at 1/2 to 1/32 of the side."""
        x = images  # mean and standard deviation 0.5 of 0..1: [-1, 1] is what the network takes
        if min(x.shape[2:]) < self.side:
            x = F.interpolate(x, size=(self.side, self.side), mode="bilinear")
        network: Any = self._frozen[0]
        return network.forward_intermediates(x, intermediates_only=True)

    @override
    def distance(
        self, a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        maps = _squares(self.features(a), self.features(b))
        return torch.stack([squares.sum(1).mean((1, 2)) for squares in maps]).mean(0)


@perceptuals.register("lpips")
class LPIPS(Perceptual):
    """LPIPS 0.1 on VGG16 (arXiv 1801.03924), from weights that the user has.

    vgg: file of torchvision's ImageNet VGG16 (vgg16-397923af.pth), of which the convolutions are
    read. linear: file of the learned weights, `lin0.model.1.weight` ...; without it the one that
    comes with torchmetrics. Both as safetensors or as what `torch.load(weights_only=True)` reads.
    """

    uses_imagenet = True
    shift: Tensor
    scale: Tensor

    def __init__(self, *, vgg: str | Path | None = None, linear: str | Path | None = None):
        convolutions = _read(vgg, "vgg", "vgg16-397923af.pth of torchvision")
        heads = _read(linear or _torchmetrics_linear(), "linear", "vgg.pth of LPIPS 0.1")
        with torch.device("cpu"):
            network = _VGG16()
            network.load_state_dict(weights.matching(convolutions, network.state_dict(), vgg or ""))
        lins = {f"lin{i}.model.1.weight": torch.empty(1, c, 1, 1) for i, c in enumerate(TAPPED)}
        super().__init__(network)
        for i, weight in enumerate(
            weights.matching(heads, lins, linear or "of torchmetrics").values()
        ):
            self.register_buffer(f"linear{i}", weight, persistent=False)
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None], persistent=False)
        self.identity = f"lpips-vgg@{_hash(network.state_dict())}"

    @override
    def distance(
        self, a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        network = self._frozen[0]
        maps = [network((x - self.shift) / self.scale) for x in (a, b)]
        total = a.new_zeros(len(a))
        for i, squares in enumerate(_squares(*maps)):
            weight = self.get_buffer(f"linear{i}")
            total = total + (squares * weight).sum(1).mean((1, 2))
        return total


class _VGG16(nn.Module):
    """The convolutions of VGG16 under torchvision's names; features before each pooling."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs, self.taps = 3, []
        for widths in WIDTHS:
            for width in widths:
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
                inputs = width
            self.taps.append(len(layers) - 1)
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])

    @override
    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.taps:
                maps.append(x)
        return maps


def _colour(images: Tensor) -> Tensor:
    if images.shape[1] not in (1, 3):
        raise ValueError(
            f"a perceptual network takes 1 or 3 channels, got {images.shape[1]}: "
            f"set perceptual: {{name: none}} for such images"
        )
    return repeat(images, "b 1 h w -> b 3 h w") if images.shape[1] == 1 else images


def _squares(a: Maps, b: Maps) -> list[Tensor]:
    """(u - v)^2 of features of unit length, in float32 or above, map by map."""
    return [(_unit(x) - _unit(y)).square() for x, y in zip(a, b, strict=True)]


def _unit(x: Tensor) -> Tensor:
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x * (x.square().sum(1, keepdim=True) + UNIT_EPSILON).rsqrt()


def _read(path: str | Path | None, option: str, what: str) -> dict[str, Tensor]:
    place = None if path is None else Path(path).expanduser()
    if place is None or not place.is_file():
        raise FileNotFoundError(
            f"lpips needs weights, {option} = {path} is no file: give `{option}` the path of {what}"
            f", or use efficientnet_lite0, whose weights come as a package"
        )
    return weights.read_weights(place)


def _torchmetrics_linear() -> Path | None:
    spec = find_spec("torchmetrics")  # finds the package without importing it
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "functional" / "image" / "lpips_models" / "vgg.pth"


def _hash(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in state.values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:8]
