"""A toy law, images that show their parts as grey levels, and a classifier that reads them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hierdiff.data.law import Law
from hierdiff.metrics.extractors import Extractor

TOY = Law(
    "toy",
    {"shape": (0.5, 0.5), "hat": (0.25, 0.25, 0.5), "colour": (0.5, 0.25, 0.25)},
    impossible=((("shape", 0), ("colour", 1)), (("shape", 1), ("colour", 2))),
    classes="shape",
    captioned=("shape", "hat"),
)
STEP = 20  # grey levels from one code to the next


class Painted(Extractor):
    """The mean of channel i over a step is the code of attribute i."""

    name, label, weights, resize = "painted", "FD-painted", "0" * 8, "native"
    outputs, width = TOY.sizes, sum(TOY.sizes.values())

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def features(self, images: Tensor) -> Tensor:
        return torch.cat(list(self.parts(images).values()), dim=1)

    def parts(self, images: Tensor) -> dict[str, Tensor]:
        codes = (images.float().mean((2, 3)) / STEP).round().long()
        channels = zip(TOY.sizes.items(), codes.unbind(1), strict=True)
        return {name: F.one_hot(code, k).float() for (name, k), code in channels}


def painted(rows: list[tuple[int, int, int]], side: int = 16) -> Tensor:
    """One image for each row of codes of shape, hat and colour."""
    codes = torch.tensor(rows, dtype=torch.uint8)
    return (codes * STEP)[:, :, None, None].repeat(1, 1, side, side)
