"""A converted network is the inner one of a larger run, which starts from its weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from hierdiff.interop.conversion import convert
from hierdiff.interop.mdm import INNER
from hierdiff.methods import methods, on_shapes
from hierdiff.training.initial import check_networks, start_networks
from tests.interop.published import OPTIONS, converted, weights_of


def test_a_small_published_network_starts_the_inner_one_of_a_larger_run(tmp_path: Path):
    """As 64 px of Matryoshka diffusion inside of 256 px: the inner network is the published one."""
    flat = {k.removeprefix(INNER): v for k, v in weights_of("mdm_two_level").items() if INNER in k}
    save_file(flat, tmp_path / "low.safetensors")
    low = tmp_path / "low_ours.safetensors"
    convert(tmp_path / "low.safetensors", OPTIONS["mdm_two_level"]).save(low)

    config = converted(tmp_path, "mdm_two_level").config
    node = config["method"]
    denoiser = node["denoiser"]
    inner = {**denoiser["inner"], "weights": str(low)}
    node = {**node, "denoiser": {**denoiser, "inner": inner}}
    config = {**config, "method": node}
    check_networks(on_shapes(node, offered=config["facts"]), config)
    method = methods.build(node, offered=config["facts"])
    start_networks(method, config)
    found = method.stages[0].denoiser.inner.state_dict()
    twin = convert(tmp_path / "low.safetensors", OPTIONS["mdm_two_level"]).weights
    assert found.keys() == {name.removeprefix("stages.0.denoiser.") for name in twin}
    for name, tensor in found.items():
        assert torch.equal(tensor, twin[f"stages.0.denoiser.{name}"].float()), name
