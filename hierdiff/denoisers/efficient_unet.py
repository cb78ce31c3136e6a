"""Imagen's Efficient U-Net (arXiv 2205.11487, appendix): the upsampler of a cascade.

Three changes to the U-Net, each an option with its own default here: more blocks at low resolutions
(`blocks`), skips scaled by 1/sqrt(2) (`skip_scale`), and halving before, doubling after the
convolutions of a side (`resample_first`). With all three off it is `unet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from hierdiff.denoisers.layers import (
    Clock,
    LogSNRClock,
    Multiples,
    Pooling,
    Rate,
    Scalars,
    Vectors,
)
from hierdiff.denoisers.protocol import denoisers
from hierdiff.denoisers.unet import UNet
from hierdiff.options import Count, Natural


@denoisers.register("efficient_unet")
class EfficientUNet(UNet):
    """`UNet` without `inner`; see there for the options.

    The published 1024 px model reads text but has no self-attention: `self_attention: false`. It is
    trained on crops of 256 px and applied to whole images. In the published networks
    `attention_after` and `skips` are "level", `pooling` is "attention" and `joint_text` true.
    """

    def __init__(
        self,
        *,
        width: Count = 128,
        multiples: Multiples = (1, 2, 4, 8),
        blocks: Natural | Sequence[Natural] = (2, 4, 8, 8),
        attention: Natural | Sequence[Natural] = (0, 0, 0, 1),
        heads: Count = 8,
        groups: Count = 32,
        ffn: bool = True,
        middle: bool = True,
        dropout: Rate | Sequence[Rate] = 0.0,
        skip_scale: float = 2**-0.5,
        resample_first: bool = True,
        self_attention: bool = True,
        attention_after: Literal["block", "level"] = "block",
        skips: Literal["block", "level"] = "block",
        joint_text: bool = False,
        pooling: Pooling = "mean",
        time_width: Count | None = None,
        text_hidden: Count | None = None,
        mask_text: bool = False,
        scalars: Scalars | None = None,
        vectors: Vectors | None = None,
        clock: Clock = LogSNRClock(),
        channels: Count = 3,
        classes: Natural = 0,
        text_width: Natural = 0,
        low_channels: Natural = 0,
    ):
        super().__init__(
            width=width,
            multiples=multiples,
            blocks=blocks,
            attention=attention,
            heads=heads,
            groups=groups,
            ffn=ffn,
            middle=middle,
            dropout=dropout,
            skip_scale=skip_scale,
            resample_first=resample_first,
            self_attention=self_attention,
            attention_after=attention_after,
            skips=skips,
            joint_text=joint_text,
            pooling=pooling,
            time_width=time_width,
            text_hidden=text_hidden,
            mask_text=mask_text,
            scalars=scalars,
            vectors=vectors,
            clock=clock,
            channels=channels,
            classes=classes,
            text_width=text_width,
            low_channels=low_channels,
        )
