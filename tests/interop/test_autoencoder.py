"""The released autoencoders: our network computes what theirs does, from their names."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from baselines.latent.autoencoder import ConvolutionalAutoencoder
from hierdiff.interop import load
from hierdiff.interop.autoencoder import rename
from tests.interop.published import relative

FILE = Path(__file__).parent.parent / "reference_data" / "kl_autoencoder_tiny.safetensors"


@cache
def read() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, str]]:
    """Their weights, the other tensors, the metadata."""
    with safe_open(FILE, "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    weights = {
        key.removeprefix("weights."): value.float()
        for key, value in tensors.items()
        if key.startswith("weights.")
    }
    return weights, tensors, metadata


def layout() -> dict:
    """Theirs, under our names."""
    config = json.loads(read()[2]["config"])
    return {
        "width": config["ch"],
        "multiples": config["ch_mult"],
        "blocks": config["num_res_blocks"],
        "attention_at": config["attn_resolutions"],
        "resolution": config["resolution"],
        "latent_channels": config["z_channels"],
    }


def new(**options) -> ConvolutionalAutoencoder:
    found = {**layout(), "dropout": json.loads(read()[2]["config"])["dropout"]}
    return ConvolutionalAutoencoder(**{**found, **options}).eval()


def test_the_autoencoder_counts_and_computes_what_theirs_does():
    weights, tensors, metadata = read()
    network = new()
    load(network, rename(weights))
    assert sum(p.numel() for p in network.parameters()) == int(metadata["params"])
    with torch.no_grad():
        mean, logvar = network.regulariser.posterior(network.encode(tensors["images"]))
        images = network.decode(tensors["mean"])
    assert relative(mean, tensors["mean"]) < 1e-5
    assert relative(logvar, tensors["logvar"]) < 1e-5
    assert relative(images, tensors["reconstruction_from_mean"]) < 1e-5


def test_a_whole_checkpoint_gives_its_first_stage_alone():
    weights = read()[0]
    whole = {f"first_stage_model.{key}": value for key, value in weights.items()}
    others = {
        "first_stage_model.loss.logvar": torch.zeros(()),
        "model.diffusion_model.out.0.weight": torch.zeros(1),
        "scale_factor": torch.ones(()),
    }
    assert rename({**whole, **others}).keys() == rename(weights).keys()


def test_an_autoencoder_checkpoint_gives_up_its_adversary_and_averages():
    weights = read()[0]
    others = {"loss.discriminator.main.0.weight": torch.zeros(1), "model_ema.decay": torch.ones(())}
    assert rename({**weights, **others}).keys() == rename(weights).keys()


def test_a_codebook_finds_its_place():
    code = torch.randn(7, 4)
    renamed = rename({**read()[0], "quantize.embedding.weight": code})
    network = new(regulariser={"name": "vq", "codes": 7})
    wanted = network.state_dict()
    assert renamed.keys() == wanted.keys()
    assert renamed["regulariser.codes.weight"] is code


def test_an_unknown_name_is_left_for_the_load_to_refuse():
    renamed = rename({**read()[0], "decoder.mystery.weight": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="decoder.mystery.weight"):
        new().load_state_dict(renamed)
