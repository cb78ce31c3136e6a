"""The official implementation's numbers (tests/reference_data) from our parts."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from hierdiff.batch import Cond
from hierdiff.codec import Pyramid
from hierdiff.denoisers import denoisers
from hierdiff.guidance import dynamic_threshold, static_threshold, thresholded
from hierdiff.interop import load
from hierdiff.interop.mdm import rename
from hierdiff.methods import Diffusion, Sampling
from hierdiff.noise import from_tensors
from hierdiff.objective import Draws, ScoreMatching
from hierdiff.parameterization import Parameterization, target
from hierdiff.process import VariancePreserving
from hierdiff.samplers import grids, integrate, samplers
from hierdiff.schedules import Shifted, SquaredCosine
from tests.interop.published import relative

FOLDER = Path(__file__).parent.parent / "reference_data"
FILES = ("mdm_two_level", "mdm_three_level")


@dataclass
class Reference:
    """One file, and the stage that our parts make of its configuration."""

    tensors: dict[str, torch.Tensor]
    stage: Diffusion
    parameters: int

    @property
    def sides(self) -> tuple[int, ...]:
        return self.stage.resolutions

    @property
    def t(self) -> torch.Tensor:
        return (self.tensors["t"] + 1).double() / 1000

    @property
    def cond(self) -> Cond:
        return Cond(tokens=self.tensors["text"], mask=self.tensors["text_mask"].bool())

    @property
    def scaled_cond(self) -> Cond:
        scalars = {"scale": self.tensors["micro.scale"]}
        return Cond(tokens=self.cond.tokens, mask=self.cond.mask, scalars=scalars)

    def levels(self, key: str) -> tuple[torch.Tensor, ...]:
        return tuple(self.tensors[f"{key}.{side}"] for side in self.sides)


def node(config: dict, sides: tuple[int, ...], exponent: float) -> dict:
    """Our config node of an official one; `sides` are those of all levels from this one down."""
    width = config["resolution_channels"][0]
    schedule = {"name": "squared_cosine"}
    found = {
        "name": "nested_unet",
        "width": width,
        "multiples": [w / width for w in config["resolution_channels"]],
        "blocks": config["num_resnets_per_resolution"],
        "attention": config["num_attention_layers"],
        "ffn": bool(config["use_attention_ffn"]),
        "middle": not config["skip_mid_blocks"],
        "time_width": config["temporal_dim"],
        "scalars": {"scale": float(config["micro_conditioning"].removeprefix("scale:"))},
        "mask_text": bool(config["masked_cross_attention"]),
    }
    shift = {"resolution": sides[0], "reference": sides[-1], "exponent": exponent}
    found["clock"] = {
        "name": "steps",
        "schedule": {"name": "shifted", "base": schedule, **shift},
    }
    if "inner" in config:
        inner = node(config["inner"], sides[1:], exponent)
        return found | {"inner": inner}
    return found | {"text_hidden": config["conditioning_feature_proj_dim"]}


def scales(config: dict) -> list[str]:
    own = "none" if config.get("skip_normalization", True) else "sample"
    return [own, *(scales(config["inner"]) if "inner" in config else [])]


@cache
def read(name: str) -> Reference:
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    config = json.loads(metadata["config"])
    exponent = float(metadata["shift_exponent"])
    keys = [key for key in tensors if key.startswith("x0.")]
    sides = tuple(sorted((int(key.removeprefix("x0.")) for key in keys), reverse=True))
    facts = {"channels": 3, "classes": 0, "text_width": int(metadata["text_dim"])}
    network = denoisers.build(node(config, sides, exponent), offered=facts)
    weights = {
        key.removeprefix("weights."): value.float()
        for key, value in tensors.items()
        if key.startswith("weights.")
    }
    load(network, rename(weights))
    stage = Diffusion(
        codec=Pyramid(sides),
        process=VariancePreserving(
            [Shifted(SquaredCosine(), s, sides[-1], exponent) for s in sides]
        ),
        objective=ScoreMatching(
            Parameterization("v", input_scale=scales(config)), loss_space="eps"
        ),
        denoiser=network,
        sampling=Sampling(),
        facts=facts,
    )
    return Reference(tensors, stage.eval(), int(metadata["params"]))


@pytest.fixture(params=FILES)
def reference(request: pytest.FixtureRequest) -> Reference:
    return read(request.param)


def test_the_unshifted_table_is_theirs(reference):
    t = torch.arange(1001, dtype=torch.float64) / 1000
    found = torch.sigmoid(SquaredCosine()(t))
    torch.testing.assert_close(
        found, reference.tensors["alpha_squared_table"].double(), rtol=2e-5, atol=1e-8
    )


def test_each_level_is_noised_as_theirs(reference):
    process = reference.stage.process
    alpha, _ = process.alpha_sigma(reference.t)
    x_t = process.corrupt(reference.levels("x0"), reference.levels("eps"), reference.t)
    for i, side in enumerate(reference.sides):
        wanted = reference.tensors[f"alpha_squared.{side}"].double()
        torch.testing.assert_close(alpha[:, i] ** 2, wanted, rtol=2e-5, atol=1e-8)
        assert relative(x_t[i], reference.tensors[f"x_t.{side}"]) < 1e-5


def test_their_low_levels_are_our_block_means(reference):
    levels = reference.stage.codec.encode(reference.levels("x0")[0])
    for level, wanted in zip(levels, reference.levels("x0"), strict=True):
        torch.testing.assert_close(level, wanted, rtol=1e-5, atol=1e-6)


def test_v_is_theirs(reference):
    alpha, sigma = reference.stage.process.alpha_sigma(reference.t)
    for i, side in enumerate(reference.sides):
        x0, eps = reference.levels("x0")[i], reference.levels("eps")[i]
        a, s = alpha[:, i].float()[:, None, None, None], sigma[:, i].float()[:, None, None, None]
        assert relative(target("v", x0, eps, a, s), reference.tensors[f"v_target.{side}"]) < 1e-5


def test_the_network_counts_and_computes_what_theirs_does(reference):
    stage = reference.stage
    assert sum(p.numel() for p in stage.denoiser.parameters()) == reference.parameters
    x_t = reference.levels("x_t")
    log_snr = stage.process.log_snr(reference.t)
    coefficients = stage.process.coefficients(log_snr)
    seen = stage.objective.parameterization.scaled(x_t, *coefficients)
    with torch.no_grad():
        out = stage.denoiser(seen, log_snr, stage.denoiser.prepare(reference.scaled_cond))
    for level, wanted in zip(out.levels, reference.levels("v_pred"), strict=True):
        assert relative(level, wanted) < 1e-5


def test_text_and_scale_and_time_matter_to_the_network(reference):
    """Otherwise agreement would say nothing about them."""
    stage, x_t = reference.stage, reference.levels("x_t")
    log_snr = stage.process.log_snr(reference.t)

    def run(cond, log_snr=log_snr):
        with torch.no_grad():
            return stage.denoiser(x_t, log_snr, stage.denoiser.prepare(cond)).levels[0]

    usual = run(reference.scaled_cond)
    nothing = reference.scaled_cond.dropped(torch.ones(2, dtype=torch.bool))
    for other in (run(reference.cond), run(nothing), run(reference.scaled_cond, log_snr + 1)):
        assert relative(other, usual) > 1e-4


def test_the_loss_of_each_level_and_example_is_theirs(reference):
    """The objective takes v from the network and compares in eps space, one example at a time."""
    x0, eps = reference.levels("x0"), reference.levels("eps")
    for i in range(2):
        rows = slice(i, i + 1)
        draws = Draws(reference.t[rows], tuple(e[rows] for e in eps), torch.tensor([False]))
        with torch.no_grad():
            loss = reference.stage.objective(
                reference.stage.process,
                reference.stage.denoiser,
                tuple(x[rows] for x in x0),
                reference.scaled_cond.map(lambda part, rows=rows: part[rows]),
                draws,
            )
        wanted = [reference.tensors[f"eps_mse.{side}"][i] for side in reference.sides]
        found = [loss.logs[f"loss/{side}"] for side in reference.sides]
        torch.testing.assert_close(found, wanted, rtol=2e-5, atol=0)
        torch.testing.assert_close(loss.total, sum(wanted), rtol=2e-5, atol=0)


def test_the_grid_visits_their_times(reference):
    times = grids.build({"name": "mdm"})(6, reference.stage.process)
    assert torch.equal(times, reference.tensors["ddim6.times"].double() / 1000)


@pytest.mark.parametrize(
    ("kind", "threshold"),
    [("clip", static_threshold()), ("dynamic_if", dynamic_threshold(0.95, 1.5))],
)
def test_a_ddim_trajectory_ends_where_theirs_does(reference, kind, threshold):
    stage = reference.stage
    with torch.no_grad():
        found = integrate(
            samplers.build({"name": "ddim"}),
            thresholded(stage.denoise(reference.scaled_cond), threshold),
            stage.process,
            reference.levels("noise"),
            grids.build({"name": "mdm"})(6, stage.process),
            from_tensors([]),
        )
    wanted = reference.levels(f"ddim6.{kind}")
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def test_weights_are_not_read_into_norms_of_other_groups():
    """Their shapes are the same."""
    network = denoisers.build(
        {"name": "unet", "width": 32, "multiples": [1], "attention": 0, "groups": 16}
    )
    with pytest.raises(ValueError, match="16 groups, the published networks have 32.*groups=32"):
        load(network, network.state_dict())


def test_weights_of_another_layout_are_refused_by_name():
    network = denoisers.build({"name": "unet", "width": 32, "multiples": [1], "attention": 0})
    weights = network.state_dict()
    del weights["first.weight"]
    with pytest.raises(ValueError, match=r"nothing as first.weight, the network \(32, 3, 3, 3\)"):
        load(network, weights)


def test_a_micro_condition_that_no_data_gives_is_refused():
    state = {"cond_layers.crop_x.0.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match="'crop_x'.*none but 'scale'"):
        rename(state)
