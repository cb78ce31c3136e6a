"""Numbers of diffusers (tests/reference_data) from our networks, and its names there and back."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from baselines.latent.autoencoder import ConvolutionalAutoencoder
from hierdiff.batch import Cond
from hierdiff.denoisers import denoisers
from hierdiff.interop import autoencoder, diffusers, dit, ldm
from hierdiff.interop.published import shapes_of
from hierdiff.schedules import LinearBeta
from tests.interop.published import relative

FOLDER = Path(__file__).parent.parent / "reference_data"
CLOCK = {"name": "steps", "schedule": {"name": "linear_beta"}}


@cache
def read(name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict, dict]:
    """Weights, the other tensors, the config.json, all metadata."""
    with safe_open(FOLDER / f"diffusers_{name}_tiny.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    start = "weights."
    weights = {k.removeprefix(start): v.float() for k, v in tensors.items() if k.startswith(start)}
    return weights, tensors, json.loads(metadata["config"]), metadata


def log_snr(tensors) -> torch.Tensor:
    return LinearBeta()((tensors["t"] + 1).double() / 1000)[:, None]


def test_the_autoencoder_computes_what_theirs_does():
    weights, tensors, config, _ = read("autoencoder")
    diffusers.check_autoencoder(config)
    released = diffusers.autoencoder(weights)
    options = autoencoder.options(shapes_of(released), config["sample_size"])
    network = ConvolutionalAutoencoder(**options, groups=config["norm_num_groups"]).eval()
    network.load_state_dict(autoencoder.rename(released))
    with torch.no_grad():
        mean, logvar = network.regulariser.posterior(network.encode(tensors["images"]))
        images = network.decode(tensors["mean"])
    assert relative(mean, tensors["mean"]) < 1e-5
    assert relative(logvar, tensors["logvar"]) < 1e-5
    assert relative(images, tensors["reconstruction_from_mean"]) < 1e-5


def test_the_autoencoder_is_written_back_bit_for_bit():
    weights = read("autoencoder")[0]
    back = diffusers.restored_autoencoder(diffusers.autoencoder(weights))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)


def test_names_of_attention_before_2023_are_read():
    weights = read("autoencoder")[0]
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in weights.items():
        place = name.rpartition(".")[0].partition("attentions.0.")[2]
        renamed[name.replace(place, older.get(place, place)) if place else name] = tensor
    assert renamed.keys() != weights.keys()
    assert diffusers.autoencoder(renamed).keys() == diffusers.autoencoder(weights).keys()


@pytest.mark.parametrize("name", ["unet", "unet_condition"])
def test_the_unet_computes_what_theirs_does(name):
    weights, tensors, config, _ = read(name)
    diffusers.check_unet(config)
    official = diffusers.unet(weights)
    shapes = shapes_of(official)
    node = {
        **ldm.options(shapes),
        **diffusers.heads(config),
        "groups": config["norm_num_groups"],
        "clock": CLOCK,
    }
    facts = {"channels": config["in_channels"], "text_width": ldm.context(shapes)}
    network = denoisers.build(node, offered=facts).eval()
    network.load_state_dict(ldm.rename(official, new_order=True))
    context = tensors.get("context")
    mask = None if context is None else torch.ones(context.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        cond = network.prepare(Cond(tokens=context, mask=mask))
        out = network((tensors["x_t"],), log_snr(tensors), cond)
    assert relative(out.levels[0], tensors["output"]) < 1e-5


def sdxl() -> tuple[dict, dict, dict]:
    """Options of our network, its weights, and the tensors."""
    weights, tensors, config, _ = read("unet_sdxl")
    official = diffusers.unet(weights)
    told = {"fourier": config["addition_time_embed_dim"], "pooled": tensors["pooled"].shape[1]}
    shapes = shapes_of(official)
    options = ldm.options(shapes) | ldm.told(shapes, **told) | diffusers.heads(config)
    node = {**options, "groups": config["norm_num_groups"], "clock": CLOCK}
    return node, ldm.rename(official, **told), tensors


def test_the_unet_of_sdxl_computes_what_theirs_does():
    """Transformers of another depth at each side, pooled text and micro-conditions."""
    node, weights, tensors = sdxl()
    assert (node["depth"], node["attention"]) == ([0, 1, 2], [0, 1, 1])
    facts = {"channels": 4, "text_width": 12}
    network = denoisers.build(node, offered=facts).eval()
    network.load_state_dict(weights)
    scalars = dict(zip(node["scalars"], tensors["time_ids"].unbind(1), strict=True))
    cond = Cond(
        tokens=tensors["context"],
        mask=torch.ones(2, 3, dtype=torch.bool),
        scalars=scalars,
        vectors={"pooled_text": tensors["pooled"]},
    )
    with torch.no_grad():
        out = network((tensors["x_t"],), log_snr(tensors), network.prepare(cond)).levels[0]
    assert relative(out, tensors["output"]) < 1e-5


def test_another_number_of_scalars_than_those_of_sdxl_is_refused():
    shapes = {"label_emb.0.0.weight": (1280, 1280 + 4 * 256)}
    with pytest.raises(ValueError, match="the U-Net reads 2304 numbers beside the time, which"):
        ldm.told(shapes)
    assert len(ldm.told({"label_emb.0.0.weight": (1536, 2560)})["scalars"]) == 5


def test_dit_computes_what_theirs_does_with_the_official_frequencies():
    """Theirs embeds time at other frequencies than the code that its weights come from: with those
    the numbers are ours, with its own they are not."""
    weights, tensors, config, _ = read("dit")
    diffusers.check_transformer(config)
    official = diffusers.transformer(weights)
    shapes = shapes_of(official)
    node = {**dit.options(shapes), "heads": config["num_attention_heads"], "clock": CLOCK}
    network = denoisers.build(node, offered=dit.facts(shapes)).eval()
    network.load_state_dict(dit.rename(official))
    labels = tensors["labels"]
    cond = network.prepare(Cond(labels=torch.where(labels == 10, -1, labels)))
    with torch.no_grad():
        out = network((tensors["x_t"],), log_snr(tensors), cond)
    found = torch.cat([out.levels[0], *out.variance], dim=1)
    assert relative(found, tensors["output"]) < 1e-5
    assert relative(found, tensors["output_with_their_frequencies"]) > 1e-2


def test_blocks_that_embed_time_differently_are_refused():
    weights = dict(read("dit")[0])
    name = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"
    weights[name] = weights[name] + 1
    with pytest.raises(ValueError, match=f"{name} differs from that of the first block"):
        diffusers.transformer(weights)


@pytest.mark.parametrize(
    ("check", "name", "changed", "message"),
    [
        (diffusers.check_unet, "unet", {"freq_shift": 1}, "UNet2DModel of freq_shift=1"),
        (diffusers.check_unet, "unet", {"downsample_padding": 0}, "downsample_padding=0"),
        (
            diffusers.check_unet,
            "unet_condition",
            {"addition_embed_type": "text_time"},
            "addition_embed_type='text_time'",
        ),
        (
            diffusers.check_unet,
            "unet_condition",
            {"down_block_types": ["SimpleCrossAttnDownBlock2D"]},
            "blocks of SimpleCrossAttnDownBlock2D",
        ),
        (
            diffusers.check_autoencoder,
            "autoencoder",
            {"use_quant_conv": False},
            "use_quant_conv=False",
        ),
        (diffusers.check_transformer, "dit", {"norm_type": "ada_norm_single"}, "norm_type"),
    ],
)
def test_what_our_networks_do_not_have_is_refused_by_name(check, name, changed, message):
    with pytest.raises(ValueError, match=message):
        check({**read(name)[2], **changed})


def test_heads_of_several_widths_are_refused():
    config = {**read("unet_condition")[2], "attention_head_dim": [2, 2]}
    with pytest.raises(ValueError, match="attention_head_dim=\\[2, 2\\]"):
        diffusers.heads(config)


@pytest.mark.parametrize(
    ("config", "node"),
    [
        (
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
            {"name": "scaled_linear_beta", "steps": 1000, "start": 0.00085, "end": 0.012},
        ),
        ({"beta_schedule": "squaredcos_cap_v2"}, {"name": "squared_cosine", "steps": 1000}),
    ],
)
def test_schedulers_become_schedules(config, node):
    assert diffusers.schedule(config) == node
    assert diffusers.prediction({**config, "prediction_type": "v_prediction"}) == "v"


def test_linear_betas_of_another_number_of_steps_are_those_of_the_config():
    config = {"beta_start": 0.001, "beta_end": 0.2, "num_train_timesteps": 100}
    node = diffusers.schedule({**config, "beta_schedule": "linear"})
    betas = LinearBeta(**{k: v for k, v in node.items() if k != "name"}).betas()
    torch.testing.assert_close(betas, torch.linspace(0.001, 0.2, 100, dtype=torch.float64))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"beta_schedule": "exponential"}, "beta_schedule='exponential'"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEuler"),
        ({"beta_schedule": "linear", "rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
    ],
)
def test_other_schedulers_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        diffusers.schedule(config)
