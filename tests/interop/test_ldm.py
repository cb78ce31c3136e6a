"""Numbers of latent diffusion and ADM (tests/reference_data) from our network."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from hierdiff.batch import Cond
from hierdiff.denoisers import denoisers
from hierdiff.denoisers.ldm_unet import LDMUNet
from hierdiff.interop import load
from hierdiff.interop.ldm import rename
from hierdiff.schedules import LinearBeta
from tests.interop.published import relative

FOLDER = Path(__file__).parent.parent / "reference_data"
FILES = ("ldm_unet_tiny", "adm_tiny", "adm_upsampler_tiny")


@cache
def read(name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict, int]:
    """Weights, other tensors, configuration and number of parameters."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    weights = {k.removeprefix("weights."): v.float() for k, v in tensors.items() if "." in k}
    rest = {k: v for k, v in tensors.items() if "." not in k}
    return weights, rest, json.loads(metadata["config"]), int(metadata["params"])


def build(config: dict, low: bool) -> LDMUNet:
    """Our network of an official configuration."""
    factors = [2**i for i in range(len(config["channel_mult"]))]
    node = {
        "name": "ldm_unet",
        "width": config["model_channels"],
        "multiples": config["channel_mult"],
        "blocks": config["num_res_blocks"],
        "attention": [int(f in config["attention_resolutions"]) for f in factors],
        "heads": config["num_heads"],
        "head_width": config.get("num_head_channels"),
        "transformer": config.get("use_spatial_transformer", False),
        "scale_shift": config.get("use_scale_shift_norm", False),
        "resample_blocks": config.get("resblock_updown", False),
        "learned_variance": config["out_channels"] == 2 * config["in_channels"],
        "clock": {"name": "steps", "schedule": {"name": "linear_beta"}},
        "augmentation": False,
    }
    facts = {
        "channels": config["in_channels"],
        "classes": config.get("num_classes") or 0,
        "text_width": config.get("context_dim", 0),
        "low_channels": config["in_channels"] if low else 0,
    }
    return denoisers.build(node, offered=facts).eval()


def renamed(weights: dict, config: dict, **changed) -> dict[str, torch.Tensor]:
    options = {
        "heads": config["num_heads"],
        "head_width": config.get("num_head_channels"),
        "new_order": config.get("use_new_attention_order", False),
    }
    return rename(weights, **{**options, **changed})


def output(network: LDMUNet, tensors: dict, t: torch.Tensor | None = None) -> torch.Tensor:
    x = tensors["x_t"]
    step = tensors["t"] if t is None else t
    log_snr = LinearBeta()((step + 1).double() / 1000)[:, None]
    low, text = tensors.get("low_res"), tensors.get("context")
    cond = Cond(
        labels=tensors.get("labels"),
        tokens=text,
        mask=None if text is None else torch.ones(text.shape[:2], dtype=torch.bool),
        low=None if low is None else F.interpolate(low, x.shape[2:], mode="bilinear"),
    )
    with torch.no_grad():
        out = network((x,), log_snr, network.prepare(cond))
    return torch.cat([out.levels[0], *(out.variance or ())], dim=1)


@pytest.mark.parametrize("name", FILES)
def test_the_network_counts_and_computes_what_theirs_does(name):
    weights, tensors, config, parameters = read(name)
    network = build(config, "low_res" in tensors)
    load(network, renamed(weights, config))
    none = network.label.weight[0].numel() if network.label is not None else 0
    assert sum(p.numel() for p in network.parameters()) - none == parameters
    assert relative(output(network, tensors), tensors["output"]) < 1e-5


@pytest.mark.parametrize("name", FILES)
def test_time_and_conditions_matter_to_the_network(name):
    """Otherwise agreement would say nothing about them."""
    weights, tensors, config, _ = read(name)
    network = build(config, "low_res" in tensors)
    network.load_state_dict(renamed(weights, config))
    assert relative(output(network, tensors, tensors["t"].flip(0)), tensors["output"]) > 1e-4
    for key in {"labels", "context", "low_res"} & set(tensors):
        other = {**tensors, key: tensors[key].flip(0)}
        assert relative(output(network, other), tensors["output"]) > 1e-4, key


@pytest.mark.parametrize("name", ["adm_tiny", "adm_upsampler_tiny"])
def test_the_two_orders_of_plain_attention_are_not_the_same(name):
    weights, tensors, config, _ = read(name)
    network = build(config, "low_res" in tensors)
    wrong = not config["use_new_attention_order"]
    network.load_state_dict(renamed(weights, config, new_order=wrong))
    assert relative(output(network, tensors), tensors["output"]) > 1e-4


def test_a_whole_checkpoint_gives_its_averaged_network_and_its_classes():
    weights, _, config, _ = read("ldm_unet_tiny")
    table = torch.arange(11.0)[:, None] * torch.ones(1, config["context_dim"])
    whole = {
        "first_stage_model.encoder.conv_in.weight": torch.zeros(1),
        "cond_stage_model.embedding.weight": table,
    }
    for key, value in weights.items():
        whole[f"model.diffusion_model.{key}"] = torch.zeros_like(value)
        whole["model_ema.diffusion_model" + key.replace(".", "")] = value
    found = rename(whole, null_class=True)
    classes = found.pop("label.weight")
    assert classes[:, 0].tolist() == [10, *range(10)]
    alone = rename(weights)
    assert found.keys() == alone.keys()
    assert all(torch.equal(found[key], alone[key]) for key in alone)


def test_a_table_without_a_row_of_no_class_gets_one_of_zeros():
    weights, _, config, _ = read("adm_tiny")
    table = renamed(weights, config)["label.weight"]
    assert not table[0].any() and torch.equal(table[1:], weights["label_emb.weight"])


def test_linear_maps_around_the_transformer_become_convolutions():
    """Stable Diffusion 2 stores them so."""
    weights, _, _, _ = read("ldm_unet_tiny")
    flat = {k: v[:, :, 0, 0] if ".proj_" in k and v.ndim == 4 else v for k, v in weights.items()}
    assert any(v.shape != weights[k].shape for k, v in flat.items())
    wanted, found = rename(weights), rename(flat)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
