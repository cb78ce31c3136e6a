"""A prior of an embedding: a stage whose state is a vector, which conditions the next one."""

import json

import pytest

from hierdiff.codec import Pyramid
from hierdiff.denoisers import Denoiser
from hierdiff.methods import Bridged, Method, Sampling
from hierdiff.methods.diffusion import diffusion
from hierdiff.registry import Later
from hierdiff.resolution import Resolutions
from hierdiff.schedules import Cosine
from tests.house.embedding import Colour, Embedded, Linear
from tests.house.runs import bench


class PriorThenDecoder(Method):
    def __init__(self, *, resolutions: Resolutions, denoiser: Later[Denoiser], sampling: Sampling):
        shared = {"schedules": [Cosine()], "sampling": sampling, "facts": {"channels": 3}}
        shared["process"] = "variance_preserving"
        prior = diffusion(codec=Colour(resolutions), denoiser=Linear(), **shared)
        bridge = {"stage": Bridged, "bridge": Embedded(), "previous": prior}
        decoder = diffusion(codec=Pyramid(resolutions), denoiser=denoiser, **bridge, **shared)
        super().__init__(resolutions, [prior, decoder])


@pytest.mark.slow
def test_a_prior_of_an_embedding_is_a_stage_of_its_own(tmp_path):
    record = bench(
        *(tmp_path, "tests.house.embedding", "method=custom", "denoiser=small"),
        *("sampler=dpmpp_2m", f"method.name={__name__}:PriorThenDecoder"),
        *("+denoiser.vectors={colour: 3}", "measure.resolutions=[]"),
    )
    assert [stage["name"] for stage in record.training["stages"]] == ["vector", "vectorto32"]
    curves = {(row.stage, row.metric) for row in record.curves}
    assert curves == {("vector", "validation vector"), ("vectorto32", "validation loss")}
    assert {row.level for row in record.quality if row.metric.startswith("FD")} == {32}
    (cost,) = record.cost
    parts = {part.name: part.flops for part in cost.breakdown}
    assert cost.evaluations == 3 + 3 and parts["stage vector"] == 3 * 2 * (3 + 1) * 3
    logged = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert "loss/vector" in json.loads(logged[0]) and "loss/32" in json.loads(logged[-1])
    assert {"samples.png", "film.png"} <= {path.name for path in (tmp_path / "run").iterdir()}
