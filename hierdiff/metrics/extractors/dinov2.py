"""DINOv2 as a feature extractor (arXiv 2304.07193), for FD-DINOv2 (arXiv 2306.04675)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from typing_extensions import override

from hierdiff.metrics import weights as files
from hierdiff.metrics.extractors.base import OFFLINE, Extractor, extractors, normalized, pil_bicubic
from hierdiff.registry import suggest

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of 0..1


@extractors.register("dinov2")
class DINOv2(Extractor):
    """Class token of DINOv2 ViT-L/14 at 224 px, the features of FD-DINOv2 (arXiv 2306.04675).

    weights: the released file (`dinov2_vitl14_pretrain.pth`), or its tensors as safetensors. As in
    that paper images are resized by Pillow's bicubic filter in 8 bits; the position embeddings are
    interpolated as the release does. size: large; small and base are other networks.
    """

    resize = "pil-bicubic-224"
    SIZES = {"small": 384, "base": 768, "large": 1024}

    def __init__(self, weights: str | Path | None = None, size: str = "large"):
        import timm

        super().__init__()
        if size not in self.SIZES:
            raise ValueError(
                f"unknown size {size!r} of dinov2{suggest(size, self.SIZES) or ','} "
                f"choose from {', '.join(self.SIZES)}"
            )
        released = f"dinov2_vit{size[0]}14_pretrain.pth"
        path = None if weights is None else files.located(weights)
        if path is None or not path.is_file():
            raise FileNotFoundError(
                f"weights={weights} is no file: dinov2 needs {released}, give its path as "
                f"weights=FILE; {OFFLINE}"
            )
        self.name, self.width = f"dinov2-{size}", self.SIZES[size]
        self.label = "FD-DINOv2" if size == "large" else f"FD-DINOv2-{size}"
        self.weights = files.sha256(path)[:8]
        network: Any = timm.create_model(
            f"vit_{size}_patch14_dinov2", pretrained=False, img_size=224, num_classes=0
        )
        state = files.read_weights(path)
        if "pos_embed" in state:
            state["pos_embed"] = released_positions(state["pos_embed"], side=16)
        network.load_state_dict(files.matching(state, network.state_dict(), path))
        self.network = network
        self._freeze()

    @override
    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        x = pil_bicubic(images, 224).float() / 255
        return self.network(normalized(x, *IMAGENET))


def released_positions(positions: Float[Tensor, "1 n d"], side: int) -> Float[Tensor, "1 m d"]:
    """Position embeddings (class token first) of `side` x `side` patches, as DINOv2's release
    makes them: bicubic, without antialiasing, scaled by (side + 0.1) / old side."""
    token, patches = positions[:, :1].float(), positions[:, 1:].float()
    old = round(patches.shape[1] ** 0.5)
    if old == side:
        return positions
    grid = patches.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    scale = (side + 0.1) / old
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([token, grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
