"""Every published size, from its official names and shapes on the meta device: no key is left."""

from math import prod
from pathlib import Path

import pytest
import torch
from torch import nn

from baselines.latent.autoencoder import Autoencoder
from baselines.latent.readers.ldm import LDMReader
from baselines.latent.readers.sdxl import SDXLReader
from hierdiff.config import folder_of_configs, from_yaml
from hierdiff.denoisers import denoisers
from hierdiff.interop import autoencoder, dit, ldm
from hierdiff.interop.conversion import check
from hierdiff.interop.conversion import config_of as config_of_method
from hierdiff.interop.published import shapes_of
from hierdiff.registry import build
from tests.interop.official_unet import unet

CONFIGS = Path(folder_of_configs())
CIN = {"multiples": (1, 2, 3, 5), "attention": (0, 1, 1, 1), "context": 512}
TEXT = {"multiples": (1, 2, 4, 4), "attention": (1, 1, 1, 0), "width": 320, "channels": 4}
UNETS = {  # options of the official configs, and the published number of parameters
    "ldm_4": ({"channels": 3, "width": 192, **CIN}, 400_920_579),
    "ldm_8": (
        {
            "channels": 4,
            "width": 256,
            "multiples": (1, 2, 4),
            "attention": (1, 1, 1),
            "context": 512,
        },
        394_984_196,
    ),
    "ldm_4_unconditional": (
        {
            "channels": 3,
            "width": 224,
            "multiples": (1, 2, 3, 4),
            "attention": (0, 1, 1, 1),
            "context": 0,
        },
        274_056_163,
    ),
    "ldm_8_churches": (
        {
            "channels": 4,
            "width": 192,
            "multiples": (1, 2, 2, 4, 4),
            "attention": (1, 1, 1, 1, 0),
            "context": 0,
            "scale_shift": True,
            "resample_blocks": True,
        },
        294_966_916,
    ),
    "ldm_text": ({**TEXT, "context": 1280}, 872_300_484),
    "sd_1": ({**TEXT, "context": 768}, 859_520_964),
    "sd_2": ({**TEXT, "context": 1024, "linear": True}, 865_910_724),
}
AUTOENCODERS = ("kl_f4", "kl_f8", "kl_f32", "vq_f8_z256", "vq_f16", "vq_f4_no_attention")
TRANSFORMERS = [("dit_s_2", 8), ("dit_b_2", 4), ("dit_l_2", 2), ("dit_xl_2", 2), ("sit_xl_2", 2)]


def meta(shapes) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def config_of(group: str, name: str) -> dict:
    return from_yaml(CONFIGS / group / f"{name}.yaml")


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", UNETS)
def test_every_unet_of_latent_diffusion(name):
    options, parameters = UNETS[name]
    shapes = unet(blocks=2, **options)
    assert sum(prod(shape) for shape in shapes.values()) == parameters
    config = config_of("denoiser", name)
    heads = {key: config[key] for key in ("heads", "head_width") if key in config}
    node = {**ldm.options(shapes), **heads, "clock": config["clock"]}
    facts = {"channels": options["channels"], "classes": 0, "text_width": ldm.context(shapes)}
    with torch.device("meta"):
        found = denoisers.build(node, offered=facts)
        shipped = denoisers.build(
            {**config, "class_token": False, "text_width": facts["text_width"]}, offered=facts
        )
    renamed = ldm.rename(meta(shapes), **heads)
    assert shapes_of(renamed) == shapes_of(found.state_dict()) == shapes_of(shipped.state_dict())
    assert count(found) == parameters


@pytest.mark.parametrize(
    ("name", "first", "options", "facts"),
    [
        ("ldm_4", "vq_f4", {}, {"channels": 3, "classes": 1000, "text_width": 0}),
        ("ldm_8_churches", "kl_f8", {}, {"channels": 3, "classes": 0, "text_width": 0}),
        ("sd_1", "kl_f8", {}, {"channels": 3, "classes": 0, "text_width": 768}),
        ("sd_2", "kl_f8", {"prediction": "v"}, {"channels": 3, "classes": 0, "text_width": 1024}),
    ],
)
def test_whole_checkpoints_find_their_release(name, first, options, facts):
    """Heads, betas, resolution and scale come from the release, and every tensor has its place."""
    with torch.device("meta"):
        network = build(Autoencoder, config_of("autoencoder", first))
    state = autoencoder.official(network.state_dict())
    state = {f"first_stage_model.{key}": tensor for key, tensor in state.items()}
    own = unet(blocks=2, **UNETS[name][0])
    state |= {f"model.diffusion_model.{key}": tensor for key, tensor in meta(own).items()}
    if facts["classes"]:
        state |= meta({"cond_stage_model.embedding.weight": (1001, 512)})
    published = LDMReader(**options).read(state, {})
    check(published, config_of_method(published), Path(name))
    shipped = config_of("denoiser", name)
    node = published.method["denoiser"]
    assert {key: node.get(key) for key in ("heads", "head_width", "clock")} == {
        key: shipped.get(key) for key in ("heads", "head_width", "clock")
    }
    assert {key: published.facts[key] for key in facts} == facts
    side = 512 if name.startswith("sd") else 256
    assert published.method["resolutions"] == [side]
    scale = 0.18215 if name.startswith("sd") else "none"
    assert published.method["codec"]["statistics"] == scale


BASE = {"multiples": (1, 2, 4), "attention": (0, 1, 1), "depth": (0, 2, 10), "context": 2048}
REFINER = {"multiples": (1, 2, 4, 4), "attention": (0, 1, 1, 0), "depth": 4, "context": 1280}
SDXL = {"channels": 4, "blocks": 2, "linear": True}


def test_the_two_files_of_sdxl_become_one_method():
    """A base with its autoencoder and text encoders, then the refiner on it: no tensor is left."""
    with torch.device("meta"):
        network = build(Autoencoder, config_of("autoencoder", "kl_f8"))
    first = autoencoder.official(network.state_dict())
    files = []
    for own, width, told, parameters in (
        (BASE, 320, 1280 + 6 * 256, 2_567_463_684),
        (REFINER, 384, 1280 + 5 * 256, 2_259_526_660),
    ):
        shapes = unet(width=width, told=told, **own, **SDXL)
        assert sum(prod(shape) for shape in shapes.values()) == parameters
        files.append(
            {f"first_stage_model.{key}": tensor for key, tensor in first.items()}
            | {f"model.diffusion_model.{key}": tensor for key, tensor in meta(shapes).items()}
            | meta({"conditioner.embedders.0.model.text_projection": (1280, 1280)})
        )
    reader = SDXLReader(text_weights=["clip_l", "clip_g"])
    assert all(reader.recognises(shapes_of(file), {}) for file in files)
    base = reader.read(files[0], {})
    check(base, config_of_method(base), Path("sd_xl_base"))
    assert {key: base.facts[key] for key in ("text_width", "vectors")} == {
        "text_width": 2048,
        "vectors": {"pooled_text": 1280},
    }
    assert base.method["codec"]["statistics"] == 0.13025
    whole = reader.refined(reader.network(files[1]), base)
    check(whole, config_of_method(whole), Path("sd_xl_refiner"))
    for part, name in (("denoiser", "sdxl"), ("refiner", "sdxl_refiner")):
        shipped, node = config_of("denoiser", name), whole.method[part]
        shared = shipped.keys() & node.keys() - {"multiples", "depth", "attention", "clock"}
        assert {key: node[key] for key in shared} == {key: shipped[key] for key in shared}
        assert node["clock"]["schedule"] == shipped["clock"]["schedule"]
    assert [one["skip"] for one in whole.text["parts"]] == [1, 1]


def test_stable_diffusion_2_does_not_show_what_it_predicts():
    own = unet(blocks=2, **UNETS["sd_2"][0])
    with pytest.raises(ValueError, match="say prediction=eps or prediction=v"):
        LDMReader().read(meta(own), {})


@pytest.mark.parametrize(("name", "patch"), TRANSFORMERS)
def test_every_dit_and_sit(name, patch):
    config = {**config_of("denoiser", name), "patch": patch}
    facts = {"channels": 4, "classes": 1000}
    with torch.device("meta"):
        shipped = denoisers.build(config, offered=facts)
    theirs = dit.official(shipped.state_dict(), 32)
    shapes = shapes_of(theirs)
    assert (dit.side(shapes), dit.facts(shapes)) == (32, facts)
    node = {**dit.options(shapes), "heads": dit.HEADS[config["width"]], "clock": config["clock"]}
    assert node["heads"] == config["heads"]
    with torch.device("meta"):
        found = denoisers.build(node, offered=facts)
    assert shapes_of(dit.rename(theirs)) == shapes_of(found.state_dict())
    assert count(found) == count(shipped)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_every_autoencoder(name):
    config = config_of("autoencoder", name)
    with torch.device("meta"):
        shipped = build(Autoencoder, config)
    theirs = autoencoder.official(shipped.state_dict())
    with torch.device("meta"):
        found = build(Autoencoder, autoencoder.options(shapes_of(theirs), 256))
    assert found.layout == shipped.layout
    assert shapes_of(autoencoder.rename(theirs)) == shapes_of(found.state_dict())
