"""Inception v3 with the weights of 2015, on whose features a distance may be called FID."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from typing_extensions import override

from hierdiff.metrics import weights as files
from hierdiff.metrics.extractors.base import Extractor, extractors

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
ABSENT = (
    f"put {INCEPTION_FILE} there (or allow_download=true), or measure offline with the extractor "
    f"efficientnet_lite0, whose distance is called FD-EffLite0"
)
SIDE = 299
RESIZES = {  # what each is called in an identity, by the name that clean-fid gives it
    "legacy_tensorflow": f"tensorflow1-bilinear-{SIDE}",
    "legacy_pytorch": f"bilinear-{SIDE}",
    "clean": f"pil-bicubic-float-{SIDE}",
}


@extractors.register("inception")
class Inception(Extractor):
    """The network of FID: Inception v3 of 2015-12-05 as ported by torch-fidelity, pool of 2048.

    The same pass gives the 1008 logits without bias (Inception score) and the first 7 channels of
    `mixed_6/conv`, 17 x 17 (sFID, arXiv 2103.03841). weights: a file; without it
    `$HIERDIFF_WEIGHTS` and the checkpoint cache of torch hub are searched. resize: to 299 px, by
    the names of clean-fid (arXiv 2104.11222): `legacy_tensorflow`, TensorFlow 1's bilinear one, of
    ADM, EDM and torch-fidelity; `legacy_pytorch`, that of pytorch-fid; `clean`, Pillow's bicubic
    one, which antialiases, in floats.
    """

    released = INCEPTION_FILE
    released_at = (
        f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
    )
    name = "inception"
    width = 2048
    resize = RESIZES["legacy_tensorflow"]

    def __init__(
        self,
        weights: str | Path | None = None,
        allow_download: bool = False,
        resize: Literal["legacy_tensorflow", "legacy_pytorch", "clean"] = "legacy_tensorflow",
    ):
        super().__init__()
        self.resize, self.convention = RESIZES[resize], resize
        path = _inception_file(weights, allow_download)
        self.weights = files.checked_hash(path, INCEPTION_FILE)
        real = path.name.endswith(INCEPTION_FILE[-12:])
        self.label = "FID" if real else "FD-Inception"
        self.network = _inception(path)
        self._freeze()

    @property
    @override
    def outputs(self) -> dict[str, int]:
        return {"features": self.width, "logits": 1008, "spatial": 7 * 17 * 17}

    @override
    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        return self.parts(images)["features"]

    @override
    def parts(self, images: UInt8[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b _d"]]:
        maps: list[Tensor] = []
        conv: Any = self.network.Mixed_6d.branch1x1  # TensorFlow's mixed_6/conv
        hooks = [conv.register_forward_hook(lambda module, args, out: maps.append(out[:, :7]))]
        if self.convention != "legacy_tensorflow":  # which the network does itself
            x = (resized(images, self.convention) - 128) / 128
            first: Any = self.network.Conv2d_1a_3x3
            hooks.append(first.register_forward_pre_hook(lambda module, args: (x,)))
        try:
            pool, logits = self.network(images)
        finally:
            for hook in hooks:
                hook.remove()
        return {"features": pool, "logits": logits, "spatial": maps[0].flatten(1)}


def resized(images: UInt8[Tensor, "b 3 h w"], convention: str) -> Float[Tensor, "b 3 s s"]:
    """Images at 299 px in 0..255, as pytorch-fid (`legacy_pytorch`) or clean-fid (`clean`) has
    them; Pillow's bicubic filter on floats is that of `F.interpolate` but for 0.01."""
    x, size = images.float(), (SIDE, SIDE)
    if convention == "legacy_pytorch":
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return F.interpolate(x, size=size, mode="bicubic", antialias=True).clamp(0, 255)


def _inception(path: Path) -> Any:
    """torch-fidelity's network; it unpickles its file, so it gets a copy of the tensors alone."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    safe = io.BytesIO()
    torch.save(files.read_weights(path), safe)
    safe.seek(0)
    return FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], safe)


def _inception_file(weights: str | Path | None, allow_download: bool) -> Path:
    places = files.search_paths(INCEPTION_FILE)
    if allow_download and weights is None and not any(place.is_file() for place in places):
        return _download(places[-1])
    return files.first_file(weights, places, "Inception", ABSENT)


def _download(path: Path) -> Path:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(
        URL_INCEPTION_V3, str(path), hash_prefix=INCEPTION_FILE[-12:-4], progress=False
    )
    return path
