"""The quality over the number of steps: its rows, picture, chart, and what cannot have it."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.conditions import EvaluationConditions
from benchmarks.measure.samples import Draw
from benchmarks.measure.scale import real_references
from benchmarks.measure.steps import check_steps, quality_by_steps, write_steps_picture
from benchmarks.measure.stream import Gauge
from benchmarks.phases import trained_before
from benchmarks.report.parts import LabelledRecord
from benchmarks.report.plots import steps_charts
from hierdiff.methods import Method
from hierdiff.metrics.extractors import RandomConv
from hierdiff.results.record import FILE
from tests import tiny
from tests.benchmarks.rows import record
from tests.training.runs import NODE, built, images


class Contrasted(Method):
    """A method that stands beside another one."""

    def __init__(self, one: Method, other: Method):
        super().__init__(one.resolutions, one.stages)
        self.other = (other,)

    @property
    def contrasts(self):
        return {"one": self, "other": self.other[0].stages[-1]}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    data, extractor = images(40), RandomConv(width=12)
    references = real_references(data, extractor, [8, 4], tmp_path_factory.mktemp("references"))
    seen: list[int] = []
    method = Contrasted(*(tiny.randomised(built(), seed) for seed in (0, 1)))
    method.stages[-1].denoiser.register_forward_hook(lambda *_: seen.append(1))
    draw = Draw(method, EvaluationConditions(data.part("test")), 0, "32-true", pack=4)
    found = quality_by_steps(method, draw, Gauge(extractor, references), 8, [2, 1])
    return found, len(seen)


def test_each_contrast_has_a_row_for_each_number_of_steps(rows):
    found, calls = rows
    told = [(row["stage"], row["steps"], row["resolution"], row["n"]) for row in found]
    assert told == [(name, n, 8, 8) for name in ("one", "other") for n in (1, 2)]
    assert len({row["value"] for row in found}) == 4
    assert calls == 2 * (1 + 2)  # two packs


def test_the_picture_and_the_chart_have_a_line_for_each(rows, tmp_path: Path):
    found, _ = rows
    write_steps_picture(tmp_path / "steps.png", found)
    assert (tmp_path / "steps.png").stat().st_size > 1000
    training = {"spent": {"flops": 2e12}, "before": [{"spent": {"flops": 1e12}}]}
    made = replace(record("row"), analysis={"steps": {"rows": found}}, training=training)
    (chart,) = steps_charts([LabelledRecord("row", made, 0)])
    assert chart.name == f"{found[0]['metric']} at 8 px over steps"
    (svg,) = (one.svg for one in chart.images)
    assert "one" in svg and "other" in svg and "sampler steps" in svg
    assert chart.note == "row: 2T training FLOPs, after 1T of the runs that it starts from."


def test_a_chart_needs_no_more_of_a_record_than_there_is():
    broken = {"steps": {"rows": [{"steps": "a"}, 3, {"steps": 2, "value": None}]}}
    for analysis in ({}, {"steps": None}, broken):
        made = replace(record("row"), analysis=analysis)
        assert not list(steps_charts([LabelledRecord("row", made, 0)]))


def test_a_method_without_a_sampler_has_no_steps():
    check_steps(built())
    with pytest.raises(ValueError, match="the method makes its images without any: leave"):
        check_steps(built({"name": "r3gan", "resolutions": [8]}))


def test_the_training_behind_given_weights_is_told_where_its_record_is(tmp_path: Path):
    method = built(NODE)
    method.stages[0].weights = str(tmp_path / "weights.safetensors")
    assert trained_before(method) == []
    replace(record("teacher"), training={"spent": {"flops": 3e12}}).write(tmp_path)
    found = [{"weights": method.stages[0].weights, "spent": {"flops": 3e12}}]
    assert trained_before(method) == found
    (tmp_path / FILE).write_text("{")
    assert trained_before(method) == []
