"""Under which conditions image number i is made: those of a test image, see `evaluation_rows`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from hierdiff.data import ImageData
from hierdiff.data.order import evaluation_rows


def wanted_of(data: ImageData, places: Sequence[int]) -> dict[str, Int[Tensor, " n"]]:
    """What the conditions of images number `places` say of their parts, see `draw_rows`."""
    at = evaluation_rows(len(data), places).numpy()
    return {name: torch.from_numpy(codes[at]) for name, codes in data.told.items()}


def captions_of(data: ImageData, places: Sequence[int]) -> list[str] | None:
    """The captions under which images number `places` are made; None where the data has none."""
    captions = data.captions
    if captions is None:
        return None
    return [captions[row] for row in evaluation_rows(len(data), places).tolist()]


def caption_of(data: ImageData) -> str:
    """That of image number 0, for a cost that includes encoding it; "" where the data has none."""
    first = captions_of(data, range(1))
    return "" if first is None else first[0]
