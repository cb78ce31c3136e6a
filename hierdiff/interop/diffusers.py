"""Names of diffusers' folders, as those of the projects whose networks they hold.

`AutoencoderKL` and `VQModel` become the released autoencoders (`hierdiff.interop.autoencoder`),
`UNet2DConditionModel` and `UNet2DModel` the U-Net of latent diffusion (`hierdiff.interop.ldm`),
`DiTTransformer2DModel` DiT (`hierdiff.interop.dit`). A folder's config.json says what no shape
shows; what our networks do not have is refused by its name there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hierdiff.interop.autoencoder import decoder_turned
from hierdiff.interop.names import Names

Config = Mapping[str, Any]

AUTOENCODERS = ("AutoencoderKL", "VQModel")
UNETS = ("UNet2DConditionModel", "UNet2DModel")
TRANSFORMERS = ("DiTTransformer2DModel", "Transformer2DModel")

# Options that our networks do not have, with the values that mean the same as their absence.
_UNET = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "freq_shift": (0,),
    "flip_sin_to_cos": (True,),
    "downsample_padding": (1,),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "mid_block_scale_factor": (1,),
    "act_fn": ("silu", "swish"),
    "norm_eps": (1e-5,),
    "attn_norm_num_groups": (None,),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "only_cross_attention": (False,),
    "mid_block_only_cross_attention": (None, False),
    "dual_cross_attention": (False,),
    "cross_attention_norm": (None,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "class_embed_type": (None,),
    "addition_embed_type": (None,),
    "time_cond_proj_dim": (None,),
    "timestep_post_act": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "attention_type": ("default",),
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1,),
}
_BLOCKS = {
    *("DownBlock2D", "CrossAttnDownBlock2D", "AttnDownBlock2D"),
    *("UpBlock2D", "CrossAttnUpBlock2D", "AttnUpBlock2D"),
}
_AUTOENCODER = {
    "act_fn": ("silu", "swish"),
    "norm_type": ("group",),
    "use_quant_conv": (True,),
    "use_post_quant_conv": (True,),
    "lookup_from_codebook": (False,),
}
_AUTOENCODER_BLOCKS = {
    *("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    *("UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
}
_TRANSFORMER = {
    "norm_type": ("ada_norm_zero",),
    "activation_fn": ("gelu-approximate",),
    "attention_bias": (True,),
    "norm_elementwise_affine": (False,),
    "cross_attention_dim": (None,),
    "only_cross_attention": (False,),
    "num_vector_embeds": (None,),
}
_SCHEDULER = {
    "rescale_betas_zero_snr": (False,),
    "trained_betas": (None,),
    "thresholding": (False,),
}
BETAS = {
    "linear": "linear_beta",
    "scaled_linear": "scaled_linear_beta",
    "squaredcos_cap_v2": "squared_cosine",
}
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


def check_autoencoder(config: Config) -> None:
    """Checks that our autoencoder has what a config.json says.

    Raises:
        ValueError: names the option that it has not.
    """
    _check(config, _AUTOENCODER, _AUTOENCODER_BLOCKS)


def check_unet(config: Config) -> None:
    """Checks that our `LDMUNet` has what a config.json says; errors as in `check_autoencoder`."""
    _check(config, _UNET, _BLOCKS)


def check_transformer(config: Config) -> None:
    """Checks that our `DiT` has what a config.json says; errors as in `check_autoencoder`."""
    _check(config, _TRANSFORMER, set())


def _check(config: Config, known: Mapping[str, Sequence[Any]], blocks: set[str]) -> None:
    name = config.get("_class_name", "the network")
    for option, values in known.items():
        value = config.get(option, values[0])
        each = value if isinstance(value, list) else [value]
        if other := [one for one in each if one not in values]:
            raise ValueError(
                f"{name} of {option}={other[0]!r} is not a network that is read here: of "
                f"{option} only {', '.join(map(repr, values))}"
            )
    for option in ("down_block_types", "up_block_types"):
        if other := [block for block in config.get(option, ()) if blocks and block not in blocks]:
            raise ValueError(
                f"{name} has blocks of {other[0]}, which our network has not: of {option} only "
                f"{', '.join(sorted(blocks))}"
            )


# Autoencoders

_RELEASED = Names(  # those of diffusers first
    ("encoder.down_blocks.{i}.resnets.{j}", "encoder.down.{i}.block.{j}"),
    ("encoder.down_blocks.{i}.attentions.{j}", "encoder.down.{i}.attn.{j}"),
    ("encoder.down_blocks.{i}.downsamplers.0", "encoder.down.{i}.downsample"),
    ("decoder.up_blocks.{i}.resnets.{j}", "decoder.up.{i}.block.{j}"),
    ("decoder.up_blocks.{i}.attentions.{j}", "decoder.up.{i}.attn.{j}"),
    ("decoder.up_blocks.{i}.upsamplers.0", "decoder.up.{i}.upsample"),
    ("mid_block.resnets.0", "mid.block_1"),
    ("mid_block.attentions.0", "mid.attn_1"),
    ("mid_block.resnets.1", "mid.block_2"),
    ("conv_norm_out", "norm_out"),
    ("conv_shortcut", "nin_shortcut"),
    *(("query", "q"), ("key", "k"), ("value", "v"), ("proj_attn", "proj_out")),  # before 2023
    *(("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")),
    ("group_norm", "norm"),
)
_MAPS = re.compile(r"\.(?:attn\.\d+|attn_1)\.(?:q|k|v|proj_out)\.weight$")


def autoencoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of `AutoencoderKL` or `VQModel` under the names of the released autoencoders.

    Linear maps of attention become convolutions of 1 x 1.
    """
    found = decoder_turned({_RELEASED.ours(key): tensor for key, tensor in state.items()})
    return {
        key: tensor[:, :, None, None] if _MAPS.search(key) and tensor.ndim == 2 else tensor
        for key, tensor in found.items()
    }


def restored_autoencoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `autoencoder`, in the names that diffusers writes since 2023."""
    return {
        _RELEASED.theirs(key): tensor[:, :, 0, 0] if _MAPS.search(key) else tensor
        for key, tensor in decoder_turned(state).items()
    }


# U-Nets

_LAYERS = Names(  # those of diffusers first
    ("conv_in", "input_blocks.0.0"),
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("class_embedding", "label_emb"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
    ("resnets.{j}.norm1", "resnets.{j}.in_layers.0"),
    ("resnets.{j}.conv1", "resnets.{j}.in_layers.2"),
    ("resnets.{j}.time_emb_proj", "resnets.{j}.emb_layers.1"),
    ("resnets.{j}.norm2", "resnets.{j}.out_layers.0"),
    ("resnets.{j}.conv2", "resnets.{j}.out_layers.3"),
    ("resnets.{j}.conv_shortcut", "resnets.{j}.skip_connection"),
    ("attentions.{j}.group_norm", "attentions.{j}.norm"),
    ("attentions.{j}.to_out.0", "attentions.{j}.proj_out"),
    ("downsamplers.0.conv", "downsamplers.0.op"),
)
_UNET_BLOCK = re.compile(
    r"(down|up|mid)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)"
)


def unet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of `UNet2DConditionModel` or `UNet2DModel` under latent diffusion's names.

    Queries, keys and values of plain attention are joined, in the order that
    `hierdiff.interop.ldm.rename` takes with `new_order`.
    """
    blocks = 1 + max(
        int(match[4])
        for key in state
        if (match := _UNET_BLOCK.fullmatch(key)) and match[1] == "down" and match[3] == "resnets"
    )
    found = {_ldm(key, blocks, state): tensor for key, tensor in _joined(state).items()}
    return {
        key: tensor[:, :, None] if _QKV.search(key) and tensor.ndim == 2 else tensor
        for key, tensor in found.items()
    }


_QKV = re.compile(r"\.(?:qkv|proj_out)\.weight$")


def _joined(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With `qkv` of plain attention, whose queries stand beside a group norm."""
    found = {}
    for key, tensor in state.items():
        place, _, leaf = key.rpartition(".")
        attention, _, part = place.rpartition(".")
        if f"{attention}.group_norm.weight" not in state or not part.startswith("to_"):
            found[key] = tensor
        elif part == "to_q":
            names = [f"{attention}.to_{one}.{leaf}" for one in "qkv"]
            found[f"{attention}.qkv.{leaf}"] = torch.cat([state[name] for name in names])
    return found


def _ldm(key: str, blocks: int, state: Mapping[str, Any]) -> str:
    name = _LAYERS.ours(key)
    match = _UNET_BLOCK.fullmatch(name)
    if match is None:
        return name
    way, level, kind, number, rest = match.groups()
    i, j = int(level or 0), int(number)
    if way == "mid":
        return f"middle_block.{2 * j if kind == 'resnets' else 1}.{rest}"
    if kind == "downsamplers":
        return f"input_blocks.{(i + 1) * (blocks + 1)}.0.{rest}"
    slot = int(kind == "attentions")
    if way == "down":
        return f"input_blocks.{1 + i * (blocks + 1) + j}.{slot}.{rest}"
    if kind == "upsamplers":  # behind the last block of its level, and its attention
        attention = any(one.startswith(f"up_blocks.{level}.attentions.") for one in state)
        j, slot = blocks, 1 + attention
    return f"output_blocks.{i * (blocks + 1) + j}.{slot}.{rest}"


def heads(config: Config) -> dict[str, int]:
    """`heads` or `head_width` of our `LDMUNet` for the config.json of a U-Net.

    `attention_head_dim` of `UNet2DModel` is a width, of `UNet2DConditionModel` the number of heads.

    Raises:
        ValueError: for heads of several widths and numbers.
    """
    if config.get("_class_name") == "UNet2DModel":
        width = config.get("attention_head_dim", 8)
        return {"heads": 1} if width is None else {"head_width": width}
    number = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    if isinstance(number, int):
        return {"heads": number}
    widths = {w / n for w, n in zip(config["block_out_channels"], number, strict=True)}
    if len(widths) != 1 or not (width := widths.pop()).is_integer():
        raise ValueError(
            f"attention_head_dim={number} for widths of {config['block_out_channels']}: heads of "
            f"one width or of one number are read"
        )
    return {"head_width": int(width)}


# Transformers

_DIT = {
    "pos_embed.proj": "x_embedder.proj",
    "proj_out_1": "final_layer.adaLN_modulation.1",
    "proj_out_2": "final_layer.linear",
}
_DIT_BLOCK = {
    "norm1.linear": "adaLN_modulation.1",
    "attn1.to_out.0": "attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}
_EMBEDDINGS = {
    "timestep_embedder.linear_1": "t_embedder.mlp.0",
    "timestep_embedder.linear_2": "t_embedder.mlp.2",
    "class_embedder.embedding_table": "y_embedder.embedding_table",
}
_DIT_LAYER = re.compile(r"transformer_blocks\.(\d+)\.(.*)")


def transformer(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of `DiTTransformer2DModel` under DiT's names, without its fixed positions.

    Raises:
        ValueError: where blocks embed time and class otherwise than the first, as DiT's do not.
    """
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        place, _, leaf = key.rpartition(".")
        match = _DIT_LAYER.fullmatch(place)
        if key == "pos_embed.pos_embed":
            continue
        if match is None:
            found[f"{_DIT.get(place, place)}.{leaf}"] = tensor
            continue
        block, layer = match.groups()
        if layer.startswith("norm1.emb."):
            name = f"{_EMBEDDINGS.get(layer.removeprefix('norm1.emb.'), layer)}.{leaf}"
            if not tensor.is_meta and not torch.equal(found.setdefault(name, tensor), tensor):
                raise ValueError(
                    f"{key} differs from that of the first block: DiT embeds time and class once"
                )
            found.setdefault(name, tensor)
        elif layer == "attn1.to_q":
            parts = [state[f"transformer_blocks.{block}.attn1.to_{n}.{leaf}"] for n in "qkv"]
            found[f"blocks.{block}.attn.qkv.{leaf}"] = torch.cat(parts)
        elif layer not in ("attn1.to_k", "attn1.to_v"):
            found[f"blocks.{block}.{_DIT_BLOCK.get(layer, layer)}.{leaf}"] = tensor
    return found


# Schedulers


def schedule(config: Config) -> dict[str, Any]:
    """The node of a schedule for a scheduler_config.json.

    Raises:
        ValueError: for betas or options that no schedule here has.
    """
    _check(config, _SCHEDULER, set())
    kind = config.get("beta_schedule")
    if kind not in BETAS:
        raise ValueError(
            f"{config.get('_class_name', 'the scheduler')} of beta_schedule={kind!r} has none of "
            f"the schedules that are read: {', '.join(BETAS)}"
        )
    steps = config.get("num_train_timesteps", 1000)
    node = {"name": BETAS[kind], "steps": steps}
    if kind == "squaredcos_cap_v2":
        return node
    scale = steps / 1000 if kind == "linear" else 1.0  # ours multiplies these by 1000 / steps
    return {**node, "start": config["beta_start"] * scale, "end": config["beta_end"] * scale}


def prediction(config: Config) -> str:
    """What the network predicts, for a scheduler_config.json.

    Raises:
        ValueError: for a prediction that is not known.
    """
    kind = config.get("prediction_type", "epsilon")
    if kind not in PREDICTIONS:
        raise ValueError(
            f"prediction_type={kind!r} is not read: one of {', '.join(PREDICTIONS)} is"
        )
    return PREDICTIONS[kind]
