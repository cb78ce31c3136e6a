"""What a feature extractor is: uint8 images or clips in, one feature vector for each out.

A distance means something only for one extractor with its weights, its resize and its
quantisation; the three together are an extractor's `identity`. Images are 0..255, grey is repeated
to three channels, arithmetic is float32 without autocast and without TF32. Weights that do not
come as a package are read from files of the user.

Only the 2015 Inception weights give a distance that may be called FID.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.inputs import source_of
from hierdiff.metrics.identity import Identity
from hierdiff.registry import Registry

CHUNK = 16  # images of a pass on a CPU, whose caches hold no more activations
OFFLINE = "efficientnet_lite0 needs no file, and its distance is called FD-EffLite0"


class Extractor(nn.Module, ABC):
    """Frozen network from images to features; a subclass writes `features`.

    clip: 0 where it sees images (b c h w), of a clip every frame; else the fewest frames of the
    clips (b c f h w) that it sees each as one. Such an extractor stands beside one of images.
    width: length of a feature vector; label: what a distance on these features is called;
    weights: first 8 hex digits of the weights' sha256; resize: how images reach the input size;
    released: name of the file that is looked for where no weights are given, None for none;
    released_at: where a file of weights comes from, None where that is not known.
    beside: further extractors by name, whose features `extract` gives as well (see `join`).
    """

    name: str
    width: int
    label: str
    weights: str
    resize: str
    released: str | None = None
    released_at: str | None = None
    clip: int = 0
    beside: nn.ModuleDict

    def __init__(self) -> None:
        super().__init__()
        self.beside = nn.ModuleDict()

    def join(self, names: Iterable[str]) -> None:
        """Builds the registered extractors of these names to stand beside this one."""
        for name in names:
            if name not in self.beside:
                self.beside[name] = extractors.build({"name": name})

    @abstractmethod
    def features(self, images: UInt8[Tensor, "b 3 *sides"]) -> Float[Tensor, "b d"]:
        """Features of colour images (or clips, see `clip`), float32."""

    @property
    def outputs(self) -> dict[str, int]:
        """Width of each output of one pass: the features, and whatever else the network gives."""
        return {"features": self.width}

    def parts(self, images: UInt8[Tensor, "b 3 *sides"]) -> dict[str, Float[Tensor, "b _d"]]:
        """One pass over colour images, an entry for each of `outputs`."""
        return {"features": self.features(images)}

    def label_of(self, kind: str) -> str:
        """Heading of a metric on these features: "KD" gives KD-EffLite0, or KID for Inception."""
        if self.label == "FID":
            return kind.replace("FD", "FID").replace("KD", "KID")
        return f"{kind}-{self.label.removeprefix('FD-')}"

    @property
    def widths(self) -> dict[str, int]:
        """Width of each of `outputs`, and of the features of each extractor beside this one."""
        return {**self.outputs, **{name: one.width for name, one in self.companions.items()}}

    @property
    def companions(self) -> dict[str, Extractor]:
        """The extractors beside this one, by name."""
        return {name: one for name, one in self.beside.items() if isinstance(one, Extractor)}

    @property
    def identity(self) -> str:
        """As text: extractor@weights : resize : quantisation."""
        return str(self.base_identity)

    @property
    def base_identity(self) -> Identity:
        """Network, resize and quantisation: the part of an identity that an extractor fixes."""
        return Identity(f"{self.name}@{self.weights}", self.resize, "uint8-round")

    @property
    def key(self) -> str:
        """Key of a cache of its outputs: its identity, and the source if the class is not ours."""
        source = source_of(type(self).__module__)
        return self.identity if source is None else f"{self.identity} : {source[:12]}"

    def sees(self, sides: Sequence[int]) -> bool:
        """Whether it takes inputs of these sides: (h, w) of images or (f, h, w) of clips."""
        return len(sides) == 3 and sides[0] >= self.clip if self.clip else len(sides) == 2

    def made_of(self, sides: Sequence[int], wanted: Collection[str] | None = None) -> list[str]:
        """Names among `widths` (and `wanted`) that are made of inputs of these sides."""
        makers = dict.fromkeys(self.outputs, self) | self.companions
        return [
            name
            for name, maker in makers.items()
            if maker.sees(sides) and (wanted is None or name in wanted)
        ]

    @override
    def forward(self, images: UInt8[Tensor, "b c *sides"]) -> Float[Tensor, "b d"]:
        """Features of uint8 images of 1 or 3 channels, on the extractor's device; see `extract`."""
        return self.extract(images, self.outputs)["features"]

    def extract(
        self, images: UInt8[Tensor, "b c *sides"], wanted: Collection[str] | None = None
    ) -> dict[str, Float[Tensor, "b _d"]]:
        """All of `widths` that are made of such inputs, float32, on the extractor's device; with
        `wanted`, those of them and what the same network gives beside.

        Raises:
            ValueError: unless the images are uint8 with 1 or 3 channels, of sides that are seen.
        """
        names = self.made_of(images.shape[2:], wanted)
        if images.dtype != torch.uint8 or images.shape[1] not in (1, 3) or not names:
            clips = f"f, h, w) with f of {self.clip} or more" if self.clip else "h, w)"
            raise ValueError(
                f"extractor {self.name!r} takes uint8 images of shape (b, 1 or 3, {clips}, got "
                f"{images.dtype} {tuple(images.shape)}: quantise with hierdiff.images.to_uint8"
            )
        device = next(self.parameters()).device
        images = images.to(device).expand(-1, 3, *(-1,) * (images.ndim - 2))
        frames = images.shape[2] if images.ndim == 5 else 1
        with torch.no_grad(), torch.autocast(device.type, enabled=False), full_float32():
            chunk = max(1, CHUNK // frames if device.type == "cpu" else len(images))
            chunks = [self._extract(some, names) for some in images.split(chunk)]
            return {name: torch.cat([some[name] for some in chunks]) for name in chunks[0]}

    def _extract(
        self, images: UInt8[Tensor, "b 3 *sides"], names: Collection[str]
    ) -> dict[str, Float[Tensor, "b _d"]]:
        own = not set(self.outputs).isdisjoint(names)
        parts = dict(self.parts(images)) if own else {}
        for name, other in self.companions.items():
            if name in names:
                parts[name] = other.features(images)
        return {name: part.float() for name, part in parts.items()}

    @override
    def train(self, mode: bool = True) -> Extractor:
        """An extractor never leaves evaluation mode."""
        return super().train(False)

    def _freeze(self) -> None:
        self.eval().requires_grad_(False)


extractors: Registry[Extractor] = Registry("extractor", Extractor)


def pil_bicubic(images: UInt8[Tensor, "b 3 h w"], side: int) -> UInt8[Tensor, "b 3 s s"]:
    """Images resized one by one with Pillow's bicubic filter, which antialiases when it reduces."""
    resized = [
        np.array(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
        for image in images.permute(0, 2, 3, 1).cpu().numpy()
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(images.device)


def normalized(
    x: Float[Tensor, "b 3 h w"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "b 3 h w"]:
    """Images less `mean`, over `std`, by channel."""
    return (x - x.new_tensor(mean)[:, None, None]) / x.new_tensor(std)[:, None, None]


def sha256_of(data: bytes) -> str:
    """SHA-256 of bytes, as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


@contextmanager
def full_float32() -> Iterator[None]:
    """Neither matrix products nor convolutions in TF32, whatever the caller has set."""
    knobs: tuple[Any, Any] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [knob.fp32_precision for knob in knobs]
    try:
        for knob in knobs:
            knob.fp32_precision = "ieee"
        yield
    finally:
        for knob, value in zip(knobs, before, strict=True):
            knob.fp32_precision = value
