"""What the command line says of a codec."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from hierdiff.command import plain_config
from hierdiff.config import folder_of_configs
from hierdiff.methods import methods
from hierdiff.prepared import Prepared, method_node, prepare
from tests import tiny

PIXELS = ("denoiser=small", "sampler=dpmpp_2m", "method.reference=32")


def composed(*arguments: str) -> dict[str, Any]:
    with initialize_config_dir(folder_of_configs(), version_base="1.3"):
        small = ("name=any", "data.resolution=16", "budget=smoke")
        return plain_config(compose("train", [*small, *arguments]))


def prepared(*arguments: str) -> Prepared:
    return prepare(composed(*arguments))


@pytest.mark.parametrize("codec", ["codec@method.codec=identity", "method.codec=null"])
def test_latents_that_are_pixels_are_end_to_end(codec):
    one = prepared("method=latent", codec, *PIXELS)
    other = prepared("method=end_to_end", "denoiser=small", "sampler=dpmpp_2m")
    states = [run.method.state_dict() for run in (one, other)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    losses = []
    for run in (one, other):
        (stage,), batch = run.method.stages, run.part.batch(torch.arange(4))
        losses.append(stage(batch, stage.draw(batch, tiny.noise())).total)
    assert torch.equal(*losses)


def test_a_codec_of_ones_own_is_named_with_its_options():
    path = "tests.baselines.latent.test_latent:Halved"
    run = prepared(
        *("method=latent", "codec@method.codec=custom", f"method.codec.name={path}"),
        *("+method.codec.channels=3", *PIXELS),
    )
    assert type(run.method.stages[0].codec).__name__ == "Halved"


@pytest.mark.parametrize("method", ["latent", "sit"])
def test_an_autoencoder_keeps_its_options(method):
    layout = "autoencoder@method.codec.autoencoder=small_f4"
    node = composed(f"method={method}", layout, "method.codec.checkpoint=FILE")["method"]
    assert node["codec"]["checkpoint"] == "FILE" and node["codec"]["name"] == "autoencoder"
    assert node["codec"]["autoencoder"]["multiples"] == [1, 2, 2]


@pytest.mark.parametrize(("layout", "weight"), [("small_f2", 1e-6), ("vq_f4", 1.0)])
def test_the_weight_of_a_regulariser_follows_the_layout(layout, weight):
    cfg = composed("method=latent", f"autoencoder@method.codec.autoencoder={layout}")
    with torch.device("meta"):
        method = methods.build(method_node(cfg), offered={"channels": 3})
    assert method.stages[0].regulariser_weight == weight
