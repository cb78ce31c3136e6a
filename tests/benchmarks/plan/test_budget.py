"""A budget decides how many steps a method makes, and the plan counts what training does."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from benchmarks.conditions import example_caption
from benchmarks.cost.cases import cases_of, trajectories
from benchmarks.plan import budget, prices
from benchmarks.plan.budget import make_plan, solve_steps
from benchmarks.plan.plan import Plan, StagePlan
from benchmarks.plan.table import plan_table
from benchmarks.settings import Match, TimingOptions
from hierdiff.config import print_whole
from hierdiff.denoisers import OneLevelDenoiser
from hierdiff.methods import Method, Stage
from hierdiff.metrics.cost import flops
from hierdiff.prepared import Prepared
from hierdiff.training import Summary, train
from hierdiff.training.run import stage_steps
from tests.benchmarks.test_run import prepared

METHODS = ("mdm", "end_to_end", "cascaded", "latent", "simple_diffusion", "chen", "rin", "sit")
# small enough that a training run is counted in seconds
SMALL = ("budget=smoke", "trainer.progress=false", "trainer.sheet_images=1", "sampler.steps=2")


def few(run: Prepared, n: int = 12) -> Prepared:
    """The run with n training images."""
    return replace(run, part=run.part.select(torch.arange(n).numpy()))


def plan(run: Prepared, folder: Any, **match: float) -> Plan:
    return make_plan(run, Match(**match), folder, dry=False)


class Stubborn(OneLevelDenoiser):
    """Looks at numbers, in its constructor or in a call; `refuses` a call everywhere, and forgets
    the sides of images where it is `flat`, or in `sampling`."""

    def __init__(self, *, at: str = "call", channels: int = 3):
        super().__init__()
        self.at = at
        self.net = nn.Conv2d(channels, channels, 1)
        self.scale = 1.0 if at != "constructor" else float(torch.linspace(0, 1, 3).numpy()[1])

    def denoise(self, x, log_snr, cond):
        if self.at == "refuses":
            raise ValueError("nothing pleases it")
        if self.at == "flat" or (self.at == "sampling" and not self.training):
            x = x.flatten(2)
        return self.net(x) * (log_snr.mean().item() if self.at == "call" else self.scale)


def stubborn(at: str, *more: str) -> Prepared:
    name = f"denoiser.name={__name__}:Stubborn"
    return prepared(
        *SMALL, "method=end_to_end", "denoiser=custom", name, f"+denoiser.at={at}", *more
    )


# ---------------------------------------------------------------- what is counted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "more"),
    [
        *((name, ()) for name in METHODS),
        ("mdm", ("method.growth=[0.3]", "method.fractions=[0.5,1]")),
        ("latent", ("method.codec.discriminator=null",)),
        ("cascaded", ("method.stages.0.share=0.5",)),
    ],
)
def test_the_plan_is_what_training_counts(method: str, more: tuple[str, ...], tmp_path):
    run = few(prepared(*SMALL, f"method={method}", *more))
    told = plan(run, tmp_path).flops()
    steps, sheet = [], [0]

    def counted() -> None:
        steps.append(train(run.method, run.part, tmp_path, run.recipe, seed=0))

    whole = flops(counted)
    for index in {*range(len(run.method.stages))}:  # sheets of samples are no training
        stage = run.method.stages[index]
        if steps[0].stage_steps[index]:
            batch = run.part.batch(torch.arange(1))
            sheet.append(flops(lambda s=stage, b=batch: s.preview(b.cond, b, _noise(1))))
    assert told == pytest.approx(whole - sum(sheet), rel=0.01)


def _noise(seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(tuple(shape), generator=generator)


@pytest.mark.slow
def test_an_adversarial_stage_costs_more_once_its_discriminator_has_started(tmp_path):
    run = prepared(*SMALL, "method=latent")
    (before, cheap), (after, dear) = plan(run, tmp_path).stages[0].parts
    assert (before, after) == (15, 9)  # of 24, from 0.6 of them on: 14.4
    assert dear > 1.2 * cheap


@pytest.mark.slow
def test_a_grown_network_pays_for_the_levels_that_it_has(tmp_path):
    run = prepared(*SMALL, "trainer.steps=10", "method.growth=[0.3]")
    low, both = plan(run, tmp_path).stages
    assert (low.steps, both.steps) == (3, 7)
    assert low.parts[0][1] < both.parts[0][1]


@pytest.mark.slow
def test_a_first_pass_of_self_conditioning_is_paid_for(tmp_path):
    whole = plan(prepared(*SMALL, "method=rin"), tmp_path).flops()
    alone = prepared(*SMALL, "method=rin", "method.objective.self_conditioning=0")
    assert whole == pytest.approx(plan(alone, tmp_path).flops() * 4 / 3, rel=0.01)


@pytest.mark.slow
def test_images_are_encoded_once_and_mirrored_ones_too(tmp_path):
    run = prepared(*SMALL, "method=latent")
    once = plan(run, tmp_path).stages[1].start
    assert once > 0 and plan(run, tmp_path).stages[0].start == 0
    mirrored = replace(run, part=replace(run.part, flip=True))
    assert plan(mirrored, tmp_path).stages[1].start == pytest.approx(2 * once)


@pytest.mark.slow
def test_stages_that_share_an_encoder_encode_the_images_once(tmp_path):
    run = prepared(*SMALL, "method=sdxl")
    _, base, refiner = plan(run, tmp_path).stages
    assert base.start > 0 and refiner.start == 0
    run.method.stages[1].share = 0.0  # the refiner alone is trained
    _, base, refiner = plan(run, tmp_path).stages
    assert base.start == 0 and refiner.start > 0


def test_operations_up_to_a_step_of_a_stage():
    stages = [StagePlan("a", 4, 0.0, [(2, 10.0), (3, 20.0)]), StagePlan("b", 4, 7.0, [(5, 1.0)])]
    made = Plan({}, 5, 20, stages, 0.0)
    assert [made.flops(0, n) for n in (0, 1, 2, 4, 5)] == [0, 10, 20, 60, 80]
    assert [made.flops(1, n) for n in (0, 1, 5)] == [80, 88, 92]
    assert made.flops() == 92


# ---------------------------------------------------------------- what cannot be counted


@pytest.mark.parametrize("at", ["constructor", "call"])
def test_a_network_that_does_not_run_on_shapes_alone_is_planned_without_operations(
    at: str, tmp_path, caplog
):
    run = stubborn(at)
    made = plan(run, tmp_path)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1 and "operations are not counted: on shapes alone" in warned[0]
    assert "end_to_end stops with" in warned[0] and "meta" in warned[0]
    assert made.stages[0].steps == made.steps == run.recipe.steps
    assert made.flops() is made.flops(0, 1) is made.flops_per_image is None
    told = made.training(summary(run))
    assert told["planned"]["flops"] is told["spent"]["flops"] is None
    assert told["stages"][0]["flops"] is told["stages"][0]["share"] is None
    assert told["spent"]["images"] == told["planned"]["images"] == run.recipe.steps * 8
    assert told["spent"]["seconds"] == 2
    assert flops(lambda: torch.ones(2, 2) @ torch.ones(2, 2)) == 16  # none are left behind


def summary(run: Prepared) -> Summary:
    """Of a training of one stage in 2 s."""
    steps, nowhere = run.recipe.steps, Path()
    return Summary(nowhere, nowhere, nowhere, steps, 8 * steps, (steps,), (2.0,), {})


@pytest.mark.parametrize(
    ("budget", "other"), [("flops", "match.images"), ("flops_per_image", "match.latency")]
)
def test_a_budget_of_operations_that_cannot_be_counted_is_refused(budget, other, tmp_path):
    told = f"match.{budget}=1e[+]12 needs operations.*end_to_end stops with .*meta.*take {other}$"
    for at in ("constructor", "call"):
        with pytest.raises(ValueError, match=told):
            plan(stubborn(at), tmp_path / "run", **{budget: 1e12})
    assert not (tmp_path / "run").exists()


def test_a_network_that_cannot_be_counted_is_planned_by_images(tmp_path):
    assert plan(stubborn("call"), tmp_path, images=80).steps == 10


@pytest.mark.parametrize("match", [{}, {"flops": 1e12}, {"images": 80}])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["method=end_to_end", "+method.share=0"], r"shares \[0\] of the stages"),
        (["method=end_to_end", "+method.share=1e-9"], "leave a stage without any"),
    ],
)
def test_stages_without_steps_are_refused_under_any_budget(options, message, match, tmp_path):
    with pytest.raises(ValueError, match=message):
        plan(prepared(*SMALL, *options), tmp_path, **match)


@pytest.mark.parametrize(
    ("at", "why", "dry", "match"),
    [
        ("refuses", "ValueError: nothing pleases it", True, {"seconds": 10}),
        ("refuses", "ValueError: nothing pleases it", False, {"flops": 1e12}),
        ("flat", "RuntimeError: .*1024.*", False, {}),
        ("sampling", "RuntimeError: .*1024.*", True, {}),
        ("flat", "RuntimeError: .*1024.*", False, {"seconds": 10}),
        ("sampling", "RuntimeError: .*1024.*", False, {"latency": 10}),
    ],
)
def test_a_network_that_stops_fails_its_plan_and_says_at_what(at, why, dry, match, tmp_path):
    n = {"sampling": 1, "flat": 8 if match else 2}.get(at, 2)  # 8: a batch of the run
    told = (
        rf"^Stubborn stops with {why}, given x_t {n}x3x32x32, log_snr {n}x1, cond.labels {n}.*: m"
    )
    with pytest.raises(ValueError, match=told):
        make_plan(stubborn(at), Match(**match), tmp_path, dry=dry)


# ---------------------------------------------------------------- what a budget decides


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["flops", "images"])
def test_methods_under_one_budget_spend_the_same(budget: str, tmp_path):
    amount = {"flops": 3e13, "images": 20_000}[budget]
    for method in METHODS:
        run = prepared(f"method={method}")
        made = plan(run, tmp_path / method, **{budget: amount})
        images = sum(part.steps * part.batch for part in made.stages)
        spent = {"flops": made.flops(), "images": images}[budget]
        assert spent == pytest.approx(amount, rel=0.01), method


@pytest.mark.slow
def test_stages_keep_the_proportions_of_the_recipe(tmp_path):
    run = prepared("method=cascaded")
    base, upsampler = plan(run, tmp_path, flops=2e13).stages
    assert upsampler.steps == pytest.approx(0.75 * base.steps, abs=1)


@pytest.mark.slow
def test_a_share_of_the_recipe_is_no_privilege_under_a_budget(tmp_path):
    whole = plan(prepared("method=rin"), tmp_path / "a", flops=2e13)
    other = plan(prepared("method=rin", "method.share=1"), tmp_path / "b", flops=2e13)
    assert whole.stages[0].steps == pytest.approx(other.stages[0].steps, abs=2)


def test_a_budget_pays_for_no_activation_twice():
    runs = [prepared(*SMALL), prepared(*SMALL, "trainer.recompute=true")]
    totals = [prices.Prices(run, prices.in_operations).total(10) for run in runs]
    assert totals[0] == totals[1] > 0


@pytest.mark.slow
def test_sampler_steps_meet_a_budget_for_an_image(tmp_path):
    for method in ("mdm", "cascaded", "latent"):
        made = plan(prepared(f"method={method}"), tmp_path / method, flops_per_image=2e10)
        assert made.flops_per_image == pytest.approx(2e10, rel=0.06)
        assert made.steps == 700 and made.sampler_steps != 20


@pytest.mark.slow
def test_guidance_halves_the_sampler_steps_of_a_budget(tmp_path):
    free = plan(prepared(), tmp_path / "a", flops_per_image=4e10)
    guided = plan(prepared("sampler.guidance=2"), tmp_path / "b", flops_per_image=4e10)
    assert guided.sampler_steps == pytest.approx(free.sampler_steps / 2, abs=1)


def test_the_nearest_number_of_steps_is_found():
    run = prepared(*SMALL)
    assert solve_steps(lambda n: 10.0 * n, 1004, "match.flops", run) == 100
    assert solve_steps(lambda n: 10.0 * n, 1006, "match.flops", run) == 101


class Shares(Method):
    """Stages that are their shares."""

    def __init__(self, *shares: float):
        torch.nn.Module.__init__(self)
        self.stages = [SimpleNamespace(share=share) for share in shares]  # type: ignore[misc]

    def at(self, resolution: int) -> Stage:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("shares", "least"),
    [((1,), 1), ((0.5, 0.5), 2), ((0, 1), 1), ((0.7, 0.15, 1), 6), ((1, 1e-3), 501)],
)
def test_from_the_fewest_steps_on_every_stage_has_some(shares: tuple[float, ...], least: int):
    method = Shares(*shares)
    assert budget.fewest(method) == least
    for steps in range(least, 3000):
        counts = stage_steps(method, steps)
        assert [n > 0 for n in counts] == [share > 0 for share in shares]


def test_numbers_of_steps_that_leave_a_stage_without_any_are_passed_over():
    method = Shares(0.7, 0.15, 1)  # 2 steps are enough, 4 are not
    run = replace(prepared(*SMALL), method=method)
    total: Any = lambda steps: float(sum(stage_steps(method, steps)))  # noqa: E731
    assert [solve_steps(total, amount, "match.images", run) for amount in (11, 37)] == [6, 20]


def test_a_budget_of_a_few_steps_is_told_to_be_coarse(caplog):
    with caplog.at_level(logging.WARNING):
        assert solve_steps(lambda n: 10.0 * n, 26, "match.flops", prepared(*SMALL)) == 3
    assert "match.flops=26: the nearest plan has 30 (3 steps)" in caplog.text


@pytest.mark.parametrize(
    ("match", "message"),
    [
        ({"flops": 1e12, "images": 5}, "match.images and match.flops contradict"),
        ({"latency": 1, "flops_per_image": 5}, "match.flops_per_image and match.latency contra"),
        ({"flops": -1}, "match.flops=-1: take more than 0"),
        ({"flops": 5}, "match.flops=5 does not pay for mdm"),
        ({"flops_per_image": 5}, "match.flops_per_image=5 does not pay for one sampler step"),
    ],
)
def test_impossible_budgets_are_refused(match: dict[str, float], message: str, tmp_path):
    with pytest.raises(ValueError, match=message):
        plan(prepared(*SMALL), tmp_path, **match)


def test_sampler_steps_that_nothing_depends_on_are_refused(tmp_path):
    own = "method.stages=[{share: 1, sampling: {steps: 3}}, {share: 1, sampling: {steps: 3}}]"
    run = prepared(*SMALL, "method=cascaded", own)
    with pytest.raises(ValueError, match="does not depend on sampler.steps here"):
        plan(run, tmp_path, flops_per_image=1e10)


# ---------------------------------------------------------------- what a clock decides


class Clock:
    """Steps that take a second for each image, and half of that at the second look."""

    def __init__(self) -> None:
        self.factor = 1.0

    def __call__(self, stage: Any, run: Prepared, batch: int) -> Any:
        return lambda step: 0.0 if step is None else self.factor * batch


@pytest.mark.slow
def test_seconds_are_planned_from_timed_steps_and_a_plan_is_kept(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(budget, "in_seconds", clock)
    run = prepared(*SMALL)  # batches of 8
    made = plan(run, tmp_path, seconds=800)
    assert made.steps == 100 and made.stages[0].seconds == 800
    clock.factor = 0.5  # the machine is faster when the run goes on
    assert plan(run, tmp_path, seconds=800).steps == 100
    assert plan(run, tmp_path, seconds=400).steps == 100  # another budget is another plan
    assert plan(run, tmp_path / "fresh", seconds=800).steps == 200


@pytest.mark.slow
def test_a_kept_plan_is_for_one_method_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "in_seconds", Clock())
    assert plan(prepared(*SMALL), tmp_path, seconds=800).steps == 100
    other = prepared(*SMALL, "trainer.batch_size=16")
    assert plan(other, tmp_path, seconds=800).steps == 50


@pytest.mark.slow
def test_a_timed_dry_run_leaves_nothing_and_reads_what_was_kept(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(budget, "in_seconds", clock)
    run, match, folder = prepared(*SMALL), Match(seconds=800), tmp_path / "run"
    made = make_plan(run, match, folder, dry=True, timed=True)
    assert made.steps == 100 and made.stages[0].seconds == 800
    assert not folder.exists()
    assert plan(run, folder, seconds=800).steps == 100
    before = (folder / budget.FILE).read_bytes()
    clock.factor = 0.5
    assert make_plan(run, match, folder, dry=True, timed=True).steps == 100
    assert make_plan(run, match, folder, dry=True).steps == 100
    assert make_plan(run, Match(seconds=400), folder, dry=True, timed=True).steps == 100
    assert (folder / budget.FILE).read_bytes() == before


def test_a_dry_run_times_nothing_and_says_what_it_leaves_open(tmp_path, monkeypatch, caplog):
    def timed(*args):
        raise AssertionError("a step was timed")

    monkeypatch.setattr(budget, "in_seconds", timed)
    monkeypatch.setattr(budget, "latency_of_image", timed)
    run, match = prepared(*SMALL), Match(seconds=800, latency=0.1)
    made = make_plan(run, match, tmp_path, dry=True)
    assert made.steps == run.recipe.steps and made.stages[0].seconds is None and not made.match
    for name, amount in (("seconds", "800"), ("latency", "0.1")):
        assert f"match.{name}={amount} is met by timing steps, which --dry-run=time" in caplog.text


@pytest.mark.slow
def test_a_timed_dry_run_expects_seconds_where_operations_are_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "in_seconds", Clock())
    made = make_plan(stubborn("call"), Match(), tmp_path, dry=True, timed=True)
    assert made.stages[0].seconds == 8 * made.steps and made.flops() is None


def test_latency_is_that_of_a_cost_row(tmp_path, monkeypatch):
    """Precision, layout of memory, text and all: sampler steps are its own."""
    run = prepared(
        *SMALL,
        "trainer.precision=bf16-mixed",
        "trainer.channels_last=true",
        "data.text={name: vocabulary}",
    )
    caption = example_caption(run.data.part("test"))
    timing = TimingOptions([1], memory_cap=None, repeats=3)
    _, row = cases_of(run.config, trajectories(run.method)[:1], timing, "cpu", caption=caption)
    monkeypatch.setattr(prices, "SamplingTimer", Recorded)
    monkeypatch.setattr(Recorded, "cases", [])
    assert plan(run, tmp_path, latency=0.5).sampler_steps == 20
    for case, steps in zip(Recorded.cases, (2, 6), strict=True):
        node = {**row.method, "sampling": {**row.method["sampling"], "steps": steps}}
        assert replace(case, repeats=row.repeats) == replace(row, method=node)


class Recorded:
    """Stands in for samples: 0.1 s and 0.02 s a step, but for a few that the machine disturbs."""

    cases: list[Any] = []

    def __init__(self, case: Any, stage: Any, batch: int):
        assert batch == 1 and stage.resolutions[0] == case.finest
        self.cases.append(case)
        self.noise = iter([0.0, 9.0, 0.0, -0.05] * 9)
        self.warmed = False

    def warm(self) -> None:
        self.warmed = True

    def repeat(self) -> dict[str, float]:
        assert self.warmed
        steps = self.cases[-1].method["sampling"]["steps"]
        return {"seconds": 99.0, "latency": 0.1 + 0.02 * steps + next(self.noise)}


def test_latency_is_interpolated_between_few_and_more_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "latency_of_image", lambda run, steps: 0.1 + 0.02 * steps)
    assert plan(prepared(*SMALL), tmp_path, latency=0.5).sampler_steps == 20


@pytest.mark.slow
def test_real_clocks_give_a_plan(tmp_path):
    run = prepared(*SMALL)
    made = plan(run, tmp_path, seconds=20, latency=2)
    assert made.steps >= 1 and made.sampler_steps >= 1
    assert made.stages[0].seconds == pytest.approx(20, rel=0.5)


# ---------------------------------------------------------------- what is shown


@pytest.mark.slow
def test_the_plan_names_every_stage_and_the_whole(tmp_path):
    made = plan(prepared(*SMALL, "method=cascaded", "trainer.steps=40"), tmp_path)
    console = Console(width=140)
    with console.capture() as shown:
        console.print(plan_table({"cascaded": made}))
    lines = shown.get().splitlines()
    assert any(" 16to32 " in line and " 30 " in line and " 240 " in line for line in lines)
    assert any(" all " in line and " 70 " in line and " 560 " in line for line in lines)


@pytest.mark.parametrize("width", [20, 60, 80])
def test_no_digit_is_cut_off_in_a_narrow_terminal(width: int):
    stages = [StagePlan("autoencoder", 64, 7e12, [(800000, 4.5e11)], 7654321.0)]
    console = Console(width=width)
    with console.capture() as shown:
        print_whole(console, plan_table({"матрёшка": Plan({}, 800000, 250, stages, 1.5e12)}))
    assert all(f" {n} " in shown.get() for n in ("800,000", "51,200,000", "7,654,321", "1.5e+03"))
    assert "…" not in shown.get()


def test_what_is_unknown_is_a_dash():
    stages = [StagePlan("a", 4, 0.0, [(2, None)]), StagePlan("b", 4, 0.0, [(5, 1e12)], 3.0)]
    console = Console(width=140)
    with console.capture() as shown:
        console.print(plan_table({"own": Plan({}, 7, 20, stages, None)}))
    rows = [[cell.strip() for cell in line.split("│")] for line in shown.get().splitlines()]
    numbers = {row[2]: row[6:-1] for row in rows if len(row) > 2}
    assert numbers["a"] == ["–", "–", "", ""]
    assert numbers["b"] == ["5", "3", "", ""]
    assert numbers["all"] == ["–", "–", "20", "–"]
