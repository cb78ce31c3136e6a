"""A refiner of the same images takes over at t = 0.3, with guidance."""

from dataclasses import dataclass

import pytest

from hierdiff.codec import Pyramid
from hierdiff.denoisers import Denoiser
from hierdiff.methods import Bridge, Bridged, Handover, Method, Sampling
from hierdiff.methods.diffusion import diffusion
from hierdiff.objective import ScoreMatching
from hierdiff.objective.times import Window
from hierdiff.options import Count, Natural
from hierdiff.registry import Later
from hierdiff.resolution import Resolutions
from hierdiff.schedules import Cosine
from tests.house.runs import bench

START = 0.3


@dataclass(frozen=True)
class Takeover(Bridge):
    """The state at a time, as it stands: the next stage continues from there."""

    def stop(self, log_snr):
        return START

    def __call__(self, x, here, crossing, cond):
        return Handover(cond, x, START)


class Refined(Method):
    def __init__(
        self, *, resolutions: Resolutions, denoiser: Later[Denoiser], sampling: Sampling,
        channels: Count = 3, classes: Natural = 0,
    ):  # fmt: skip
        facts, codec = {"channels": channels, "classes": classes}, Pyramid(resolutions, channels)
        shared = {"codec": codec, "schedules": [Cosine()], "denoiser": denoiser, "facts": facts}
        shared |= {"process": "variance_preserving", "sampling": sampling}
        early, late = ScoreMatching(time=Window(low=START)), ScoreMatching(time=Window(high=START))
        base = diffusion(objective=early, **shared)
        on_base = {"stage": Bridged, "bridge": Takeover(), "previous": base}
        super().__init__(resolutions, [base, diffusion(objective=late, **on_base, **shared)])


@pytest.mark.slow
def test_a_refiner_takes_over_at_a_time_with_guidance(tmp_path):
    record = bench(
        *(tmp_path, "tests.house.bands", "method=custom", "denoiser=small", "sampler=dpmpp_2m"),
        *(f"method.name={__name__}:Refined", "sampler.guidance=2", "measure.resolutions=[]"),
    )
    assert [stage["name"] for stage in record.training["stages"]] == ["32", "32to32"]
    assert {row.level for row in record.quality if row.view == "native"} == {32}
    (cost,) = record.cost
    assert cost.evaluations == 2 * (3 + 1)  # above t = 0.3, and from it on; twice by guidance
    curves = {(row.stage, row.metric, row.level) for row in record.curves}
    assert curves == {(stage, "validation loss", 32) for stage in ("32", "32to32")}
    assert {"samples.png", "film.png"} <= {path.name for path in (tmp_path / "run").iterdir()}
