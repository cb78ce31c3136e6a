"""A published file of Matryoshka diffusion becomes a method that computes what theirs does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hierdiff.batch import Cond
from hierdiff.denoisers import denoisers
from hierdiff.interop.conversion import convert, official
from hierdiff.interop.mdm import MDMReader, in_their_layout, rename
from hierdiff.methods import Diffusion, Request
from hierdiff.noise import from_tensors
from tests.interop.published import converted, method_of, relative, released, tensors_of, weights_of
from tests.test_configs import composed

FILES = ("mdm_two_level", "mdm_three_level")


def cond_of(name: str) -> Cond:
    tensors = tensors_of(name)
    scalars = {"scale": tensors["micro.scale"]}
    return Cond(tokens=tensors["text"], mask=tensors["text_mask"].bool(), scalars=scalars)


@pytest.mark.parametrize("name", FILES)
def test_one_forward_is_theirs(tmp_path: Path, name: str):
    tensors, method = tensors_of(name), method_of(tmp_path, name)
    stage = method.stages[0]
    assert isinstance(stage, Diffusion)
    x_t = tuple(tensors[f"x_t.{side}"] for side in method.resolutions)
    log_snr = stage.process.log_snr((tensors["t"] + 1).double() / 1000)
    scaled = stage.objective.parameterization.scaled(x_t, *stage.process.coefficients(log_snr))
    with torch.no_grad():
        out = stage.denoiser(scaled, log_snr, stage.denoiser.prepare(cond_of(name)))
    for level, side in zip(out.levels, method.resolutions, strict=True):
        assert relative(level, tensors[f"v_pred.{side}"]) < 1e-5


@pytest.mark.parametrize("name", FILES)
def test_a_trajectory_of_the_released_sampler_ends_where_theirs_does(tmp_path: Path, name: str):
    tensors, method = tensors_of(name), method_of(tmp_path, name)
    noise = from_tensors([tensors[f"noise.{side}"] for side in method.resolutions])
    images = method.sample(Request(2, cond_of(name), noise=noise, steps=6, guidance=1.0))
    for side, found in images.items():
        target = tensors[f"ddim6.dynamic_if.{side}"]
        torch.testing.assert_close(found, target, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FILES)
def test_written_back_it_is_the_same_file(tmp_path: Path, name: str):
    out = tmp_path / "ours.safetensors"
    converted(tmp_path, name).save(out)
    theirs, back = weights_of(name), official(out, "mdm")
    assert back.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert back[key].dtype == tensor.dtype and torch.equal(back[key], tensor)


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_official_sizes_give_the_shipped_configuration(size: int):
    """The reader finds the options in the shapes alone. The names are those of the reference files,
    the counts of parameters those of the official code (see the configurations)."""
    node = composed(f"experiment=mdm_{size}")["denoiser"]
    facts = {"channels": 3, "text_width": 2048}
    with torch.device("meta"):
        network = denoisers.build(node, offered=facts)
        weights = network.state_dict()
    theirs = in_their_layout(weights)
    published = MDMReader().read(theirs, {})
    with torch.device("meta"):
        again = denoisers.build(published.method["denoiser"], offered=published.facts)
    assert again.clocks == network.clocks
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in weights.items()
    }
    assert rename(theirs).keys() == weights.keys()
    assert published.method["resolutions"] == [s for s in (1024, 256, 64) if s <= size]


def test_a_file_without_a_tensor_or_with_one_more_is_refused_by_name(tmp_path: Path):
    weights = weights_of("mdm_two_level")
    path = tmp_path / "other.safetensors"
    save_file({k: v for k, v in weights.items() if k != "conv_out.bias"}, path)
    with pytest.raises(ValueError, match="lacks 'stages.0.denoiser.head.2.bias'"):
        convert(path, {"resolution": 8})
    save_file({**weights, "conv_out.more": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="the network has not, 'stages.0.denoiser.head.2.more'"):
        convert(path, {"resolution": 8})
    save_file({**weights, "conv_out.bias": torch.zeros(4)}, path)
    with pytest.raises(ValueError, match=r"shape \(4,\) for stages.0.denoiser.head.2.bias.*\(3,\)"):
        convert(path, {"resolution": 8})


def test_the_record_says_what_was_read(tmp_path: Path):
    about = converted(tmp_path, "mdm_two_level").config["published"]
    assert (about["reader"], about["project"]) == ("mdm", "apple/ml-mdm")
    assert about["file"] == released(tmp_path, "mdm_two_level").name and len(about["sha256"]) == 64
