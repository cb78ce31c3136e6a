"""A denoiser from outside hierdiff: ConvNeXt blocks at a quarter of the resolution.

The blocks are those of Liu et al., A ConvNet for the 2020s, arXiv 2201.03545: a 7x7 convolution of
each channel by itself, then a layer norm and two linear layers of each pixel. Noise level and class
scale and shift what the norm gives, as in DiT (arXiv 2212.09748).
"""

from __future__ import annotations

from torch import Tensor, nn

from hierdiff.batch import Cond
from hierdiff.denoisers import OneLevelDenoiser, denoisers
from hierdiff.denoisers.layers import Embedding, LogSNRClock
from hierdiff.denoisers.protocol import Reads


class Block(nn.Module):
    """x + MLP(modulated norm(depthwise convolution of x)); starts as no change."""

    def __init__(self, width: int):
        super().__init__()
        self.spatial = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        nn.init.zeros_(self.mlp[2].weight)
        nn.init.zeros_(self.mlp[2].bias)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """x: b width h w. vector: b width."""
        scale, shift = self.modulation(vector)[:, None, None].chunk(2, dim=-1)
        pixels = self.norm(self.spatial(x).permute(0, 2, 3, 1))
        return x + self.mlp(pixels * (1 + scale) + shift).permute(0, 3, 1, 2)


@denoisers.register("convnext")
class ConvNeXt(OneLevelDenoiser):
    """ConvNeXt blocks between a patch embedding and its inverse, arXiv 2201.03545.

    width: channels, a multiple of 8. depth: blocks. patch: pixels of a patch's side. channels,
    classes: facts of the data, which hierdiff fills in.
    """

    def __init__(
        self,
        *,
        width: int = 64,
        depth: int = 4,
        patch: int = 4,
        channels: int = 3,
        classes: int = 0,
    ):
        super().__init__()
        self.channels, self.multiple = channels, patch  # checked against the data before training
        self.reads = Reads(classes=classes)
        self.clock = LogSNRClock()
        self.time = Embedding(width)
        self.label = nn.Embedding(classes + 1, width)  # the last row is for no class
        self.inside = nn.Conv2d(channels, width, patch, stride=patch)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.outside = nn.ConvTranspose2d(width, channels, patch, stride=patch)

    def denoise(self, x: Tensor, log_snr: Tensor, cond: Cond) -> Tensor:
        """x: b c h w, noisy. log_snr: b. Gives a prediction of the same shape as x."""
        vector = self.time(self.clock(log_snr))
        if cond.labels is not None:
            vector = vector + self.label(cond.labels % self.label.num_embeddings)  # -1: the last
        x = self.inside(x)
        for block in self.blocks:
            x = block(x, vector)
        return self.outside(x)
