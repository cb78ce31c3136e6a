"""The classifier of parts: one small network with a head for each attribute of a known law.

It takes images of any side, enlarged or reduced to 64 px by one operator (bilinear, which is the
identity at 64 px and widens where it reduces), and knows the block means to 32, 16 and 8 px from
its training. Weights come with the package, as half-precision safetensors whose metadata says how
they were made and how often they are right; `hierdiff.metrics.make_classifier` makes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from einops.layers.torch import Rearrange
from jaxtyping import Float, UInt8
from safetensors import safe_open
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.data.law import Law
from hierdiff.metrics import weights as files
from hierdiff.metrics.extractors import Extractor
from hierdiff.metrics.reference import SHIPPED

SIDE = 64  # at which the network looks
SIDES = (64, 32, 16, 8)  # whose block means it was trained on
SHA256 = {
    "critters": "f0f1a1e429360a8172027fdd4979b7f154313610fd69bd5565d78ab5bbb99f5a",
}  # of the files that ship, by law
MAKE = "python -m hierdiff.metrics.make_classifier"


class PartNetwork(nn.Module):
    """Logits of every code, attribute after attribute, from images in [-1, 1]."""

    def __init__(self, codes: int, width: int = 32):
        super().__init__()
        low, mid, high = width, 2 * width, 4 * width
        self.trunk = nn.Sequential(
            nn.PixelUnshuffle(2),  # 32 x 32
            *_convolution(12, low),
            _Residual(low),
            *_convolution(low, mid, stride=2),
            _Residual(mid),
            *_convolution(mid, high, stride=2),
            _Residual(high),
            *_convolution(high, 24, side=1),
            Rearrange("b c h w -> b (c h w)"),  # parts have their places
        )
        self.heads = nn.Linear(24 * (SIDE // 8) ** 2, codes)

    @override
    def forward(self, x: Float[Tensor, "b 3 64 64"]) -> Float[Tensor, "b k"]:
        return self.heads(self.trunk(x))


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        second = nn.Sequential(*_convolution(width, width))[:-1]
        self.inside = nn.Sequential(*_convolution(width, width), *second)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return (x + self.inside(x)).relu()


def _convolution(inputs: int, outputs: int, side: int = 3, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def stored_tensors(network: PartNetwork) -> dict[str, Tensor]:
    """The tensors that a weights file holds: all but the batch counters of the norms."""
    return {name: t for name, t in network.state_dict().items() if t.is_floating_point()}


def network_input(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 64 64"]:
    """Images in [-1, 1], resized to the network's side."""
    x = F.interpolate(images.float(), size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return x / 127.5 - 1


class PartClassifier(Extractor):
    """Frozen; its outputs are the logits of each attribute, `features` all logits.

    sizes: number of codes by attribute. law: hash of the law whose parts it knows. accuracy: on
    held-out images, by side (a string) and attribute.
    """

    resize = f"bilinear-antialias-{SIDE}"

    def __init__(
        self,
        network: PartNetwork,
        sizes: Mapping[str, int],
        *,
        name: str,
        law: str,
        weights: str,
        accuracy: Mapping[str, Mapping[str, float]],
    ):
        super().__init__()
        self.network, self.sizes = network, dict(sizes)
        self.name, self.law, self.weights = name, law, weights
        self.label, self.width = f"FD-{name}", sum(self.sizes.values())
        self.accuracy = accuracy
        self._freeze()

    @property
    @override
    def outputs(self) -> dict[str, int]:
        return self.sizes

    @override
    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        return self.network(network_input(images))

    @override
    def parts(self, images: UInt8[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b _d"]]:
        logits = self.features(images).split(list(self.sizes.values()), dim=1)
        return dict(zip(self.sizes, logits, strict=True))

    @staticmethod
    def read(path: Path, sha256: str) -> PartClassifier:
        """Reads a file of `make_classifier`.

        Raises:
            ValueError: unless its SHA-256 is `sha256`.
        """
        digest = files.sha256(path)
        if digest != sha256:
            raise ValueError(
                f"{path} has sha256 {digest}, not {sha256}: install hierdiff again, or make it "
                f"with {MAKE}"
            )
        with safe_open(path, "pt") as file:
            about: dict[str, Any] = {k: json.loads(v) for k, v in file.metadata().items()}
        sizes = about["sizes"]
        network = PartNetwork(sum(sizes.values()), about["width"])
        state = {name: tensor.float() for name, tensor in files.read_weights(path).items()}
        network.load_state_dict(files.matching(state, stored_tensors(network), path), strict=False)
        return PartClassifier(
            network,
            sizes,
            name=f"{about['name']}-parts",
            law=about["law"],
            weights=digest[:8],
            accuracy=about["accuracy"],
        )


def weights_path(name: str) -> Path:
    """Path of the classifier's weights in the package, for the law of this name."""
    return SHIPPED / f"classifier-{name}.safetensors"


def no_classifier(law: Law) -> str:
    """The error's text for a law without a classifier."""
    return (
        f"no classifier of the parts of {law.name!r} comes with the package, only of "
        f"{', '.join(SHA256)}"
    )


def classifier_of(law: Law) -> PartClassifier:
    """The classifier in the package for a law.

    Raises:
        ValueError: where there is none, it is damaged, or it was trained for another version of the
            law.
    """
    if law.name not in SHA256:
        raise ValueError(f"{no_classifier(law)}: leave its metrics out")
    classifier = PartClassifier.read(weights_path(law.name), SHA256[law.name])
    if classifier.law != law.hash:
        raise ValueError(
            f"the classifier of {law.name!r} was trained for the law {classifier.law}, the data "
            f"has {law.hash}: make it again with {MAKE}"
        )
    return classifier
