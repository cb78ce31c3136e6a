"""What is selected is the best candidate, on noise and conditions that the row never sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import phases, single
from benchmarks.measure.kept import Kept, weights_hash
from benchmarks.measure.selection import (
    Choice,
    choices,
    select_choice,
    selection_of,
    with_choice,
)
from benchmarks.ready import ready
from benchmarks.report.parts import LabelledRecord
from benchmarks.report.plots import selection_charts
from benchmarks.tables.notes import selections
from hierdiff.metrics.quality import HIGH, LOW, Candidate
from hierdiff.prepared import Prepared
from hierdiff.results.record import Record
from hierdiff.training import load_method
from tests.benchmarks.rows import quality, record
from tests.benchmarks.test_ready import options_of
from tests.training import runs

QUICK = (
    *("trainer.steps=2", "trainer.batch_size=4", "trainer.ema=[16,64]", "trainer.progress=false"),
    *("measure.samples=8", "measure.metrics=[fd]", "measure.seeds=[0]", "cost.repeats=0"),
    *("measure.curve.samples=0", "measure.curve.loss=0", "sampler.steps=2"),
)
QUALITY = quality(32, "native", 0.0)
SELECT = "select={guidance: [1, 1.5], ema: [16, 64], samples: 6}"


def plain_track(items, what, total):
    return items


def chosen_from(values, better=LOW, kept=None):
    """What `select` takes out of guidance scales with these values of the metric."""
    options = [Choice(guidance=float(i)) for i in range(len(values))]
    drawn = []

    def draw(choice):
        drawn.append(choice)
        return [replace(QUALITY, value=values[int(choice.guidance)], better=better)]

    choice, rows = select_choice(draw, options, kept or Kept(), plain_track)
    assert [row.chosen for row in rows] == [one == choice for one in options]
    return choice.guidance, len(drawn)


def test_the_best_is_chosen_and_the_first_of_equal_ones():
    assert chosen_from([3.0, 1.0, 2.0]) == (1.0, 3)
    assert chosen_from([3.0, 1.0, 2.0], HIGH) == (0.0, 3)
    assert chosen_from([2.0, 1.0, 1.0]) == (1.0, 3)


def test_candidates_of_a_killed_process_are_not_drawn_again(tmp_path):
    path = tmp_path / "measuring.safetensors"
    assert chosen_from([3.0, 1.0], kept=Kept(path, "k")) == (1.0, 2)
    assert chosen_from([9.0, 9.0, 0.5], kept=Kept(path, "k")) == (2.0, 1)


def test_all_combinations_are_candidates():
    options = options_of(Path("x"), "select={guidance: [1, 2], ema: [16], steps: [5, 9]}").select
    assert [(c.guidance, c.steps, c.half_life) for c in choices(options)] == [
        (1, 5, 16), (1, 9, 16), (2, 5, 16), (2, 9, 16)
    ]  # fmt: skip


def test_a_choice_has_the_weights_of_its_half_life_and_its_sampler(tmp_path):
    summary = runs.run(tmp_path)
    data = runs.images()
    made = Prepared(runs.built(), data, data, runs.recipe(), 0, runs.config())
    for half_life, file in ((None, summary.weights), (0, tmp_path / "weights_ema_0.safetensors")):
        one = with_choice(made, Choice(guidance=2.5, half_life=half_life), tmp_path)
        assert weights_hash(one.method) == weights_hash(load_method(file)[0])
        assert one.method.stages[0].sampling.guidance == 2.5
        assert one.method.stages[0].sampling.steps == 2
        assert one.config["method"]["sampling"] == {"steps": 2, "guidance": 2.5}


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    """A record with a selection, and what was drawn for it: seed and images of the conditions."""
    folder, draws = tmp_path_factory.mktemp("run") / "run", []
    real = phases.Draw

    def watched(method, conditions, seed, *others):
        draws.extend([(seed, len(conditions.data))] if seed else [])
        return real(method, conditions, seed, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "Draw", watched)
        made = single.make(options_of(folder, *QUICK, SELECT))
    return made, draws, folder


def test_candidates_see_noise_and_conditions_of_their_own(selected):
    made, draws, _ = selected
    assert draws == [(1000, 1513)] * 4  # the training images
    assert {row.identity.rows for row in made.selection} == {"rows=permuted(1513)"}
    assert {row.identity.rows for row in made.quality} == {"rows=permuted(535)"}
    assert made.provenance["seeds"] == {"training": 0, "samples": [0], "selection": 1000}


def test_the_row_has_the_options_that_were_selected_and_the_record_all_candidates(selected):
    made, _, folder = selected
    (best,) = (row for row in made.selection if row.chosen)
    assert best.value == min(row.value for row in made.selection)
    assert made.config["sampler"]["guidance"] == best.guidance
    assert len({(row.guidance, row.half_life) for row in made.selection}) == 4
    read = Record.read(folder)
    assert read.selection == made.selection and not read.edited


@pytest.mark.slow
def test_the_same_command_again_reads_the_record_and_another_selection_does_not(selected):
    made, draws, folder = selected
    assert ready(options_of(folder, *QUICK, SELECT)).record.hash == made.hash
    with pytest.raises(ValueError, match="select.samples=6, now it is 7"):
        ready(options_of(folder, *QUICK, SELECT.replace("samples: 6", "samples: 7")))
    assert len(draws) == 4


@pytest.mark.slow
def test_a_selection_of_what_the_run_has_anyway_changes_no_number(tmp_path):
    alone = single.make(options_of(tmp_path / "alone", *QUICK))
    one = "select={guidance: [1], ema: [16], steps: [2], samples: 6}"
    chosen = single.make(options_of(tmp_path / "chosen", *QUICK, one))
    assert [row.value for row in chosen.quality] == [row.value for row in alone.quality]
    assert len(chosen.selection) == 1 and not alone.selection


def test_a_choice_has_the_memory_layout_of_training(tmp_path):
    runs.run(tmp_path, channels_last=True)
    data = runs.images()
    recipe = runs.recipe(channels_last=True)
    made = Prepared(runs.built(), data, data, recipe, 0, runs.config())
    method = with_choice(made, Choice(), tmp_path).method
    kernels = [p for p in method.parameters() if p.ndim == 4 and min(p.shape) > 1]
    assert kernels
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("select={ema: [5]}", r"select.ema=\[5\]: training averages over \[16\]"),
        ("select={steps: [9], seed: 1}", r"select.seed=1 is one of measure.seeds=\[0, 1\]"),
        ("select={steps: [9], metric: pr}", "select.metric=pr: take a metric of one value"),
        ("select={steps: [0]}", r"select.steps=\[0\]"),
        ("select={guidance: [-.inf]}", "select.guidance="),
        ("select={guidance: [[1, 2, 3]]}", "3 guidance scales for 2 levels"),
        ("select={guidances: [1]}", "select has no option 'guidances', did you mean 'guidance'"),
    ],
)
def test_what_cannot_be_selected_is_refused_before_compute(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        ready(options_of(tmp_path, options))
    assert not [*tmp_path.iterdir()]


def test_a_method_without_a_sampler_stands_beside_rows_whose_guidance_is_chosen(tmp_path):
    select = "select={guidance: [1, 2], steps: [3], samples: 6}"
    found = ready(options_of(tmp_path, "method=r3gan", select))
    chosen = selection_of(found.run, options_of(tmp_path, select).select)
    assert not chosen.options and chosen.samples == 6


def test_a_budget_of_sampling_and_a_selection_exclude_each_other(tmp_path):
    words = ("match.flops_per_image=1e9", "select={guidance: [1, 2]}")
    with pytest.raises(ValueError, match="match.flops_per_image decides the cost of sampling"):
        ready(options_of(tmp_path, *words))


def test_tables_and_report_show_the_choice_and_the_curve():
    rows = tuple(
        Candidate(**vars(replace(QUALITY, value=value)), guidance=guidance, chosen=value == 1.0)
        for guidance, value in ((1.0, 2.0), (1.5, 1.0), ((2.0, 1.0), 3.0))
    )
    made = replace(record("mdm"), selection=rows)
    (line,) = selections({"mdm": made})
    assert "mdm: guidance 1.5 chosen out of 3 by" in line
    (chart,) = selection_charts([LabelledRecord("mdm", made, 0)])
    assert [one.name for one in chart.images] == ["guidance"]
    assert "Chosen: mdm guidance 1.5." in chart.note
