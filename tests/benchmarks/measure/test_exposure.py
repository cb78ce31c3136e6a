"""Exposure bias: what is compared, and what is refused."""

import pytest
import torch

from benchmarks.conditions import EvaluationConditions
from benchmarks.measure.exposure import (
    SOURCES,
    check_exposure,
    exposure_bias,
    gaps,
    upsamplers,
    write_exposure_picture,
)
from benchmarks.measure.samples import Draw
from benchmarks.measure.stream import Gauge
from hierdiff.methods import methods
from hierdiff.metrics.extractors import extractors
from hierdiff.metrics.reference import references
from tests import tiny
from tests.training.runs import images

NET = {"name": "unet", "width": 8, "multiples": [1], "blocks": 1, "attention": 0, "groups": 4}
FACTS = {"channels": 3, "classes": 4}


def cascade(**bridge):
    torch.manual_seed(0)
    node = {"name": "cascaded", "resolutions": [8, 4], "denoiser": NET, "sampling": {"steps": 2}}
    node["bridge"] = {"name": "augmented", **bridge}
    method = methods.build(node, offered=FACTS)
    for parameter in tiny.randomised(method).parameters():
        parameter.requires_grad_(False)
    return method


def analysed(method, n=12, log_snrs=(6.0, 0.0)):
    data, extractor = images(n), extractors.build({"name": "random_conv"})
    batches = [torch.from_numpy(data.images)]
    reference = references(batches, extractor, [8], data=data.sha256, split="train")
    draw = Draw(method, EvaluationConditions(data), 0, "32-true")
    return exposure_bias(method, draw, Gauge(extractor, reference), n, log_snrs)


def test_every_level_is_measured_on_real_and_on_generated_input(tmp_path):
    method = cascade()
    rows = analysed(method)
    assert [row["level"] for row in rows] == [6, 6, 3, 3, 0, 0]  # with the bridge's own
    assert [row["source"] for row in rows] == list(SOURCES) * 3
    assert {row["stage"] for row in rows} == {"4to8"} and {row["resolution"] for row in rows} == {8}
    values = {(row["source"], row["level"]): row["value"] for row in rows}
    assert gaps(rows, method) == {"4to8": values["generated", 3] - values["real", 3]}
    write_exposure_picture(tmp_path / "bias.png", rows, {"4to8": 3.0})
    assert (tmp_path / "bias.png").stat().st_size > 1000


def test_input_that_cannot_be_seen_gives_no_gap():
    """With endless noise both sources are the same; the noise of an image is shared."""
    method = cascade(log_snr_range=[-float("inf"), 15.0])
    rows = analysed(method, log_snrs=[-float("inf")])
    real, generated = (row["value"] for row in rows if row["level"] < 0)
    assert real == generated
    seen = {row["source"]: row["value"] for row in rows if row["level"] == 3}
    assert seen["real"] != seen["generated"]


def test_a_method_without_a_bridge_and_an_untrained_level_are_refused():
    flat = methods.build({"name": "end_to_end", "resolutions": [8], "denoiser": NET}, offered=FACTS)
    with pytest.raises(ValueError, match="none of the stages 8 is one: take a cascade"):
        upsamplers(flat)
    with pytest.raises(ValueError, match=r"log_snr -9 .*outside"):
        check_exposure(cascade(), [1, -9])


def test_a_bridge_without_noise_has_nothing_to_draw():
    method = tiny.method("local", resolutions=(16, 8))
    with pytest.raises(ValueError, match="that of stage 8to16 adds none: leave the analysis out"):
        check_exposure(method, [])
