"""TAESD, the tiny autoencoder of Stable Diffusion's latents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from typing_extensions import override

from baselines.latent.readers.parts import FirstStage, alone
from hierdiff.interop.published import Published, Reader, Shapes, Table, readers
from hierdiff.interop.reading import read_content
from hierdiff.options import Count


@readers.register("taesd")
@dataclass(frozen=True)
class TAESDReader(Reader):
    """TAESD: its file of the decoder with `encoder`, or a folder of diffusers' `AutoencoderTiny`.

    encoder: FILE of the encoder, where FILE is the decoder's. resolution: of the images, which
    nothing of the network depends on.
    """

    project: ClassVar[str] = "madebyollin/taesd"
    licence: ClassVar[str] = "MIT"

    encoder: str | None = None
    resolution: Count = 256

    @override
    def recognises(self, shapes: Shapes, about: Mapping[str, Any]) -> bool:
        folder = "encoder.layers.1.conv.0.weight" in shapes
        encoder = {"0.weight", "1.conv.0.weight", "1.conv.4.weight"} <= shapes.keys()
        return folder or encoder or {"1.weight", "3.conv.0.weight"} <= shapes.keys()

    @override
    def read(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Published:
        if "encoder.layers.1.conv.0.weight" in tensors:
            theirs = {name.replace(".layers.", "."): one for name, one in tensors.items()}
        elif "0.weight" in tensors or self.encoder is None:
            raise ValueError(
                "TAESD is two files, encoder and decoder: give that of the decoder as FILE and "
                "encoder=FILE of the other"
            )
        else:
            other = dict(next(iter(read_content(self.encoder).by_preference()))[1])
            theirs = {f"encoder.{name}": one for name, one in other.items()}
            theirs |= {_decoder(name): one for name, one in tensors.items()}
        theirs = Table(theirs)
        return alone(FirstStage(options(theirs), rename(theirs), "none"), self.resolution)


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Encoder and decoder, whose layers are counted without the clamp, under our names."""
    last = f"decoder.{max(_layers(state, 'decoder'))}."
    return {
        f"last_layer.{name.removeprefix(last)}" if name.startswith(last) else name: tensor
        for name, tensor in state.items()
    }


def options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Options of our `TinyAutoencoder` that the shapes of `rename`'s argument show.

    Raises:
        ValueError: for halvings of which there is not one at least.
    """
    layers = _layers(state, "encoder")
    halvings = [i for i in layers if f"encoder.{i}.bias" not in state and _plain(state, i)]
    if not halvings:
        raise ValueError("a TAESD encoder that halves no side: the file is not whole")
    width, channels = state["encoder.0.weight"].shape[:2]
    return {
        "name": "tiny",
        "width": width,
        "blocks": (max(layers) - halvings[-1]) - 1,
        "halvings": len(halvings),
        "latent_channels": state[f"encoder.{max(layers)}.weight"].shape[0],
        "channels": channels,
    }


def _layers(state: Mapping[str, Tensor], part: str) -> list[int]:
    found = (re.match(rf"{part}\.(\d+)\.", name) for name in state)
    return sorted({int(match[1]) for match in found if match})


def _plain(state: Mapping[str, Tensor], layer: int) -> bool:
    """Whether a layer of the encoder is one convolution."""
    return f"encoder.{layer}.weight" in state


def _decoder(name: str) -> str:
    """A layer of the official decoder, whose first is the clamp."""
    layer, _, rest = name.partition(".")
    return f"decoder.{int(layer) - 1}.{rest}"
