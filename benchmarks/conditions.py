"""The conditions of image number i: those of a test image, see `evaluation_rows`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from hierdiff.data import ImageData
from hierdiff.data.order import evaluation_rows


def target_parts(data: ImageData, places: Sequence[int]) -> dict[str, Int[Tensor, " n"]]:
    """Codes of the parts that the conditions of images number `places` state, see `draw_rows`."""
    at = evaluation_rows(len(data), places).numpy()
    return {name: torch.from_numpy(codes[at]) for name, codes in data.condition_codes.items()}


def evaluation_captions(data: ImageData, places: Sequence[int]) -> list[str] | None:
    """The captions of images number `places`; None where the data has none."""
    captions = data.captions
    if captions is None:
        return None
    return [captions[row] for row in evaluation_rows(len(data), places).tolist()]


def example_caption(data: ImageData) -> str:
    """The caption of image number 0, to time its encoding; "" where the data has none."""
    first = evaluation_captions(data, range(1))
    return "" if first is None else first[0]
