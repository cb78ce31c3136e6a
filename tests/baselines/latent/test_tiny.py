"""TAESD: our network beside the numbers of diffusers' and beside a plain one of its own."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open

from baselines.latent.readers.taesd import options, rename
from baselines.latent.tiny import TinyAutoencoder
from tests.interop.published import relative

FILE = Path(__file__).parents[2] / "reference_data" / "diffusers_taesd_tiny.safetensors"


def read() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict]:
    """Weights under the official names of encoder and decoder, other tensors, config."""
    with safe_open(FILE, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata()["config"])
    start = "weights."
    weights = {
        name.removeprefix(start).replace(".layers.", "."): tensor.float()
        for name, tensor in tensors.items()
        if name.startswith(start)
    }
    return weights, tensors, config


def network() -> TinyAutoencoder:
    weights = read()[0]
    node = options(weights)
    found = TinyAutoencoder(**{k: v for k, v in node.items() if k != "name"}).eval()
    found.load_state_dict(rename(weights))
    return found


def test_it_counts_what_the_published_one_does():
    with torch.device("meta"):
        found = TinyAutoencoder()
    count = {
        name: sum(p.numel() for p in part.parameters()) for name, part in found.named_children()
    }
    assert count["encoder"] == 1_222_532
    assert count["decoder"] + count["last_layer"] == 1_222_531


def test_it_computes_what_theirs_does():
    _, tensors, config = read()
    found = network()
    assert config["scaling_factor"] == 1
    with torch.no_grad():
        z = found.regulariser.mode(found.encode(tensors["images"]))
        images = found.decode(tensors["latents"])
    assert relative(z, tensors["latents"]) < 1e-5
    assert relative(images, tensors["reconstruction"]) < 1e-5


def test_it_computes_what_the_official_layers_do_one_after_another():
    """The official decoder begins with the clamp, so that its layers have the next number."""
    weights, tensors, _ = read()

    def plain(x, part, layer):
        bias = weights.get(f"{part}.{layer}.bias")
        stride = 2 if part == "encoder" and bias is None else 1
        return F.conv2d(x, weights[f"{part}.{layer}.weight"], bias, stride, padding=1)

    def block(x, part, layer):
        h = x
        for i in (0, 2, 4):
            h = plain(h if not i else h.relu(), part, f"{layer}.conv.{i}")
        return (h + x).relu()

    def run(x, part, doubled=()):
        last = max(int(name.split(".")[1]) for name in weights if name.startswith(part))
        for layer in range(last + 1):
            if f"{part}.{layer}.conv.0.weight" in weights:
                x = block(x, part, layer)
            elif f"{part}.{layer}.weight" in weights:
                x = plain(x, part, layer)
            elif layer == 1:
                x = x.relu()
            else:
                x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        return x

    found = network()
    with torch.no_grad():
        z = run((tensors["images"] + 1) / 2, "encoder")
        images = 2 * run(3 * torch.tanh(z / 3), "decoder") - 1
        assert relative(found.encode(tensors["images"]), z) < 1e-5
        assert relative(found.decode(z), images) < 1e-5
