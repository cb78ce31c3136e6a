"""Haar bands over two stages: the low band is the condition, the detail bands are the target."""

import json
from dataclasses import replace

import pytest

from hierdiff.denoisers import Denoiser
from hierdiff.methods import Bridge, Bridged, Handover, Method, Sampling
from hierdiff.methods.diffusion import diffusion
from hierdiff.registry import Later
from hierdiff.resolution import Named, Resolutions, sides_of
from hierdiff.schedules import Cosine
from tests.house.bands import Details, Low
from tests.house.runs import bench


class Beside(Bridge):
    """The network sees the low band, and the codec decodes it with the details."""

    def __call__(self, x, here, crossing, cond):
        return Handover(replace(cond, low=x[0]), beside=x)


class LowThenDetails(Method):
    def __init__(self, *, resolutions: Resolutions, denoiser: Later[Denoiser], sampling: Sampling):
        side = sides_of(resolutions[0])[0]
        shared = {"schedules": [Cosine()], "denoiser": denoiser, "sampling": sampling}
        shared["process"] = "variance_preserving"
        low = diffusion(codec=Low(side), facts={"channels": 3}, **shared)
        on_low = {"stage": Bridged, "bridge": Beside(), "previous": low}
        facts = {"channels": 3, "low_channels": 3}
        details = diffusion(codec=Details(side), facts=facts, **on_low, **shared)
        super().__init__([side, Named("low", side // 2)], [low, details])


@pytest.mark.slow
def test_details_are_made_beside_the_low_band_that_another_stage_makes(tmp_path):
    record = bench(
        *(tmp_path, "tests.house.bands", "method=custom", "denoiser=small", "sampler=dpmpp_2m"),
        *(f"method.name={__name__}:LowThenDetails", "measure.resolutions=[]"),
    )
    assert [stage["name"] for stage in record.training["stages"]] == ["low", "lowto32"]
    curves = {(row.stage, row.metric, row.level) for row in record.curves}
    assert curves == {("low", "validation loss", "low"), ("lowto32", "validation loss", 32)}
    native = {row.level for row in record.quality if row.view == "native"}
    assert native == {32, "low"}
    (apart,) = (row for row in record.quality if row.metric == "consistency")
    assert apart.level == "low"  # not 0: untrained details leave the range of 8-bit pixels
    assert [(row.level, row.evaluations) for row in record.cost] == [(32, 6), ("low", 3)]
    parts = [part.name for part in record.cost[0].breakdown]
    assert parts[:2] == ["stage low", "stage lowto32"]
    logged = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert "loss/low" in json.loads(logged[0]) and "loss/detail" in json.loads(logged[-1])
    assert {"samples.png", "film.png"} <= {path.name for path in (tmp_path / "run").iterdir()}
