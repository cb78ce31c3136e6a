"""Local conditional models: a coarse image as a whole, then details given it, level by level."""

import json

import pytest
import torch

from hierdiff.batch import Cond
from hierdiff.denoisers import Denoiser
from hierdiff.denoisers.protocol import Prediction
from hierdiff.exact.gaussian import Conditional, exponential
from hierdiff.levels import down
from hierdiff.methods import Request, methods
from hierdiff.noise import from_tensors
from tests import tiny
from tests.house.runs import bench

SMALL = {"name": "local", "width": 8, "layers": 2, "receptive": 3}
WHOLE = {**tiny.denoiser_node("unet"), "multiples": (1,), "attention": 0}


def build(resolutions=(16, 8, 4), kind="class", **options):
    options = {"denoiser": WHOLE, "details": SMALL, **options}
    return tiny.randomised(tiny.method("local", kind, resolutions=resolutions, **options))


def test_with_one_resolution_it_is_end_to_end():
    own = build((8,))
    node = tiny.method_node("end_to_end", (8,), denoiser=WHOLE)
    other = methods.build(node, offered=tiny.facts("class"))
    other.load_state_dict(own.state_dict())
    batch = tiny.batch("class", side=8)
    losses, images = [], []
    for method in (own, other):
        (stage,) = method.stages
        losses.append(stage(batch, stage.draw(batch, tiny.noise())).total)
        images.append(method.sample(Request(2, tiny.cond("class", 2), noise=tiny.noise()))[8])
    assert torch.equal(*losses) and torch.equal(*images)


def test_each_level_is_made_beside_the_one_before_and_keeps_its_block_means():
    method = build()
    assert [stage.name for stage in method.stages] == ["4", "4to8", "8to16"]
    seen = []
    images = method.sample(
        Request(2, tiny.cond("class", 2), noise=tiny.noise(), watch=lambda i, s, x: seen.append(x))
    )
    assert list(images) == [16, 8, 4]
    for high, low in ((16, 8), (8, 4)):
        torch.testing.assert_close(down(images[high], low), images[low])
    assert [[tuple(one.shape[1:]) for one in x] for x in seen[::3]] == [
        [(3, 4, 4)],
        [(9, 4, 4), (3, 4, 4)],
        [(9, 8, 8), (3, 8, 8)],
    ]
    torch.testing.assert_close(method.stages[-1].decode(seen[-1])[16], images[16])


def test_in_training_every_stage_sees_real_images():
    method, batch = build(), tiny.batch("class")
    for stage, side in zip(method.stages[1:], (8, 16), strict=True):
        levels = stage.state(batch)
        assert [tuple(one.shape[1:]) for one in levels] == list(stage.handed_over())
        torch.testing.assert_close(stage.decode(levels)[side], down(batch.images, side))
        _, cond, _ = stage.inputs(batch, stage.draw(batch, tiny.noise()))
        torch.testing.assert_close(cond.low, down(batch.images, side // 2))


def test_details_are_seen_from_no_further_than_the_field():
    stage = build().stages[-1]
    low = torch.zeros(1, 3, 8, 8)
    moved = low.clone()
    moved[..., 0, 0] = 0.5
    x = torch.zeros(1, 9, 8, 8)
    t = stage.process.trajectory([0.5], (x,))[0]
    one, other = (
        stage.denoise(Cond(labels=torch.tensor([0]), low=seen))((x,), t, None).x0[0]
        for seen in (low, moved)
    )
    apart = (one - other).abs().sum((0, 1)) > 0
    assert apart[:2, :2].all() and apart.sum() == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolutions": [16, 4]}, r"Haar bands of \(16, 16\) and \(4, 4\): each resolution is"),
        ({"stages": [{}]}, r"1 stages for the resolutions \[4, 8, 16\]: give one for each"),
        ({"stages": [{}, {}, {"crop": 8}]}, "option 'crop' of a stage of details: leave it out"),
        ({"gain": 0}, "gain"),
        ({"details": {"name": "local", "receptive": 4}}, "receptive=4: a field around a pixel"),
    ],
)
def test_what_it_cannot_have_is_refused_in_a_sentence(options, message):
    node = {**tiny.method_node("local"), "resolutions": [16, 8, 4], "details": SMALL, **options}
    with pytest.raises(ValueError, match=message):
        methods.build(node, offered=tiny.facts("class"))


class Exact(Denoiser):
    """A linear map of the state, and of the low band, that is the exact denoiser."""

    def __init__(self, denoise):
        super().__init__()
        self.exact = denoise

    def forward(self, x_t, log_snr, cond, carry=None, added=None):
        alpha, sigma = (float(part[0]) ** 0.5 for part in (log_snr.sigmoid(), (-log_snr).sigmoid()))
        return Prediction((self.exact(x_t[0], cond.low, alpha, sigma),))


def test_exact_conditionals_sample_the_joint_gaussian():
    """Noise to images is a linear map, whose square is the covariance."""
    covariance = 0.2 * exponential(4)
    details = Conditional(covariance, gain=4.0)

    def coarse(x, _, alpha, sigma):
        noise = sigma**2 * torch.eye(4, dtype=x.dtype)
        gain = alpha * torch.linalg.solve(alpha**2 * details.low + noise, details.low).T
        return (x.flatten(1) @ gain.T).reshape(x.shape)

    node = {
        "name": "local",
        "resolutions": [4, 2],
        "objective": {"parameterization": {"prediction": "x0"}},
        "sampling": {"steps": 50, "rule": {"name": "heun"}, "threshold": {"name": "none"}},
        "denoiser": Exact(coarse),
        "details": Exact(details),
    }
    method = methods.build(node, offered={"channels": 1})
    noise = torch.eye(16, dtype=torch.float64)
    parts = [noise[:, :4].reshape(-1, 1, 2, 2), noise[:, 4:].reshape(-1, 3, 2, 2)]
    images = method.sample(Request(16, noise=from_tensors(parts)))[4].flatten(1)
    torch.testing.assert_close(images.T @ images, covariance, rtol=0, atol=2e-3)


@pytest.mark.slow
def test_it_is_trained_sampled_and_measured_at_every_level(tmp_path):
    record = bench(
        *(tmp_path, "baselines", "method=local", "measure.resolutions=[]"),
        *("method.details.width=8", "method.details.layers=4", "method.resolutions=[32,16]"),
    )
    assert [stage["name"] for stage in record.training["stages"]] == ["16", "16to32"]
    curves = {(row.stage, row.metric, row.level) for row in record.curves}
    assert curves == {("16", "validation loss", 16), ("16to32", "validation loss", 32)}
    assert {row.level for row in record.quality if row.view == "native"} == {32, 16}
    (apart,) = (row for row in record.quality if row.metric == "consistency")
    assert apart.level == 16 and apart.value < 0.5  # of 255: both are rounded to 8 bits
    assert [(row.level, row.evaluations) for row in record.cost] == [(32, 6), (16, 3)]
    parts = [part.name for part in record.cost[0].breakdown]
    assert parts[:2] == ["stage 16", "stage 16to32"]
    logged = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert "loss/16" in json.loads(logged[0]) and "loss/32" in json.loads(logged[-1])
    assert {"samples.png", "film.png"} <= {path.name for path in (tmp_path / "run").iterdir()}
