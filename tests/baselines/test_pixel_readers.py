"""Published files of ADM and RIN become methods that compute what their authors' code does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from baselines.pixel_readers import RELEASES, ADMReader, RINReader, layout_of
from hierdiff.batch import Cond
from hierdiff.denoisers import denoisers
from hierdiff.interop.conversion import check, config_of, convert
from hierdiff.methods import Diffusion, Method, methods
from hierdiff.training import load_method
from tests.interop import test_rin
from tests.interop.published import converted, method_of, relative, released, tensors_of
from tests.reference.adm_layout import adm_layout
from tests.test_configs import composed

SIZES = {  # of the released files, by our configurations
    "64": (64, False),
    "128": (128, False),
    "256": (256, False),
    "512": (512, False),
    "64_256": (256, True),
    "128_512": (512, True),
}


def output(method: Method, name: str) -> torch.Tensor:
    """The last stage's network on the inputs of a reference file."""
    tensors, stage = tensors_of(name), method.stages[-1]
    assert isinstance(stage, Diffusion)
    x, low = tensors["x_t"], tensors.get("low_res")
    cond = Cond(
        labels=tensors.get("labels"),
        low=None if low is None else F.interpolate(low, x.shape[2:], mode="bilinear"),
    )
    log_snr = stage.process.log_snr((tensors["t"] + 1).double() / 1000)
    with torch.no_grad():
        out = stage.denoiser((x,), log_snr, stage.denoiser.prepare(cond))
    return torch.cat([out.levels[0], *(out.variance or ())], dim=1)


@pytest.mark.parametrize("name", ["adm_tiny", "adm_upsampler_tiny"])
def test_one_forward_of_adm_is_theirs(tmp_path: Path, name: str):
    method = method_of(tmp_path, name)
    assert relative(output(method, name), tensors_of(name)["output"]) < 1e-5


def test_an_upsampler_alone_is_not_sampled(tmp_path: Path):
    with pytest.raises(ValueError, match="stage 8 is sampled before it is trained"):
        method_of(tmp_path, "adm_upsampler_tiny").check_ready()


@pytest.mark.parametrize("size", SIZES)
def test_a_released_size_is_read_with_no_key_left(size: str):
    """Names and shapes are written out from the official constructor's loop, not from ours."""
    side, upsampler = SIZES[size]
    node = composed(f"denoiser=adm_{size}")["denoiser"]
    state = {
        name: torch.empty(shape, device="meta")
        for name, shape in adm_layout(size, classes=1000).items()
    }
    published = ADMReader().read(state, {})
    config = config_of(published)
    check(published, config, Path(f"{size}.pt"))
    assert published.method["resolutions"][0] == side
    network = (published.method["stages"][-1] if upsampler else published.method)["denoiser"]
    facts = {"channels": 3, "classes": 1000, "low_channels": 3 if upsampler else 0}
    with torch.device("meta"):
        ours, shipped = (denoisers.build(one, offered=facts) for one in (network, node))
    assert str(ours) == str(shipped) and ours.clocks == shipped.clocks
    heads = [
        [part.heads for part in one.modules() if hasattr(part, "heads")] for one in (ours, shipped)
    ]
    assert heads[0] == heads[1] and heads[0]


def test_every_release_is_one_of_the_shipped_sizes():
    found = set()
    for size in SIZES:
        layout = layout_of(adm_layout(size, classes=1000))
        found.add((layout.low, layout.width, layout.multiples, sum(layout.attention)))
    assert found == set(RELEASES)


def test_a_network_that_is_no_release_needs_its_resolution(tmp_path: Path):
    with pytest.raises(ValueError, match="none of the releases: give resolution=SIDE"):
        convert(released(tmp_path, "adm_tiny"))


def test_rin_is_read_from_an_npz_with_every_option_from_its_shapes(tmp_path: Path):
    state = test_rin.checkpoint(test_rin.TINY, test_rin.CLASSES)
    published = RINReader().read(state, {})
    wanted = {**test_rin.TINY, "read_heads": 2}
    assert published.method["denoiser"] == wanted
    np.savez(tmp_path / "rin.npz", **{name: value.numpy() for name, value in state.items()})
    one = convert(tmp_path / "rin.npz")
    assert one.config["published"]["reader"] == "rin"
    assert all(torch.equal(one.weights[name], v) for name, v in published.weights.items())
    one.save(tmp_path / "ours.safetensors")
    method, _ = load_method(tmp_path / "ours.safetensors")
    assert method.resolutions == (8,)


def test_the_cascade_of_an_upsampler_is_one_of_ours(tmp_path: Path):
    node = converted(tmp_path, "adm_upsampler_tiny").config["method"]
    method = methods.build(node, offered={"channels": 3})
    assert method.stages[1].name == "8to16"
