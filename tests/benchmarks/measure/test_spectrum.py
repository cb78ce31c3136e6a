"""The power spectrum: known answers, its rows, and the charts of it and of a swept option."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.conditions import EvaluationConditions
from benchmarks.measure.samples import Draw
from benchmarks.measure.spectrum import (
    check_spectrum,
    radial_power,
    spectra,
    write_spectrum_picture,
)
from benchmarks.measure.stream import Gauge
from benchmarks.report.parts import LabelledRecord
from benchmarks.report.plots import option_charts, spectrum_charts
from hierdiff.metrics.extractors import RandomConv
from tests import tiny
from tests.benchmarks.rows import cost, quality, record
from tests.training.runs import built, images


def test_white_noise_has_its_variance_at_every_frequency():
    x = 0.5 * torch.randn(400, 3, 16, 12, generator=torch.Generator().manual_seed(0))
    power = radial_power(x)
    assert power.shape == (6,)
    torch.testing.assert_close(
        power, torch.full((6,), 0.25, dtype=torch.float64), rtol=0.03, atol=0
    )


def test_a_wave_has_its_power_at_its_own_frequency_and_a_constant_has_none():
    across = torch.cos(2 * torch.pi * 3 * torch.arange(16) / 16).expand(1, 1, 16, 16)
    power = radial_power(across + 0.3)
    directions = 16  # coefficients between 2.5 and 3.5 cycles
    whole = float((across**2).sum())
    assert float(power[2]) * directions == pytest.approx(whole)
    assert float(power.sum() - power[2]) < 1e-9


@pytest.fixture(scope="module")
def rows():
    method = tiny.randomised(built())
    conditions = EvaluationConditions(images(40).part("test"))
    return spectra(Draw(method, conditions, 0, "32-true", pack=4), Gauge(RandomConv(), {}), 8)


def test_both_sources_have_a_row_for_each_frequency_of_the_finest_images(rows):
    told = [(row["source"], row["frequency"], row["resolution"], row["n"]) for row in rows]
    assert told == [(name, k, 8, 8) for name in ("generated", "real") for k in (1, 2, 3, 4)]
    assert all(row["value"] > 0 for row in rows)


def test_the_picture_and_the_chart_have_samples_and_real_images(rows, tmp_path: Path):
    write_spectrum_picture(tmp_path / "spectrum.png", rows)
    assert (tmp_path / "spectrum.png").stat().st_size > 1000
    made = [replace(record(name), analysis={"spectrum": {"rows": rows}}) for name in "ab"]
    (chart,) = spectrum_charts([LabelledRecord(one.name, one, i) for i, one in enumerate(made)])
    (svg,) = (one.svg for one in chart.images)
    assert chart.name == "Power spectrum at 8 px" and svg.count('<path class="line') == 3
    broken = {"spectrum": {"rows": [{"frequency": "a"}, 3, {"frequency": 2, "value": None}]}}
    for analysis in ({}, {"spectrum": None}, broken):
        one = replace(record("row"), analysis=analysis)
        assert not list(spectrum_charts([LabelledRecord("row", one, 0)]))


def swept(values):
    made = [
        replace(
            record(f"row {x}", quality=(quality(64, "native", 100.0 - i),), cost=(cost(64, 9, 9),)),
            method="local",
            config={"method": {"details": {"receptive": x}, "same": 1}},
        )
        for i, x in enumerate(values)
    ]
    return [LabelledRecord(one.name, one, i) for i, one in enumerate(made)]


def test_rows_that_differ_in_one_number_are_drawn_over_it():
    (chart,) = option_charts([*swept([5, 9, 13]), LabelledRecord("other", record("other"), 3)])
    assert chart.name == "local over receptive"
    names = [one.name for one in chart.images]
    assert names == [
        *("FD-EffLite0 at 64 px", "sampled images/s", "sampling memory, MiB"),
        "GFLOPs per image",
    ]
    assert "from 100 to 98" in chart.images[0].svg and "receptive" in chart.images[0][1]


@pytest.mark.parametrize("values", [[5, 9], [5, 5, 9], [5, 9, "all"], [5]])
def test_two_values_or_words_are_not_drawn(values):
    assert not list(option_charts(swept(values)))


def test_a_method_of_clips_is_refused():
    check_spectrum(built())
    clips = built()
    clips.resolutions = ((4, 8, 8),)
    with pytest.raises(ValueError, match=r"analysis=spectrum at 4x8x8: it is for images alone"):
        check_spectrum(clips)
