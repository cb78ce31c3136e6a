"""Random convolutions as a feature extractor, for tests and smoke runs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.metrics.extractors.base import Extractor, extractors, sha256_of


@extractors.register("random_conv")
class RandomConv(Extractor):
    """Two convolutions with fixed random weights: needs no file, says little about quality."""

    name = "random_conv"
    label = "FD-RandomConv"
    resize = "native"

    def __init__(self, width: int = 32, seed: int = 0):
        super().__init__()
        self.width = width
        self.first = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.second = nn.Conv2d(16, width, 3, stride=2, padding=1)
        generator = torch.Generator().manual_seed(seed)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator) / p[0].numel() ** 0.5
        self.weights = sha256_of(b"".join(p.data.numpy().tobytes() for p in self.parameters()))[:8]
        self._freeze()

    @override
    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        x = F.relu(self.first(images.float() / 127.5 - 1))
        return F.relu(self.second(x)).mean(dim=(2, 3))
