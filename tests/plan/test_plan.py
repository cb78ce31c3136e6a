"""Estimates of memory, operations, days and energy, beside known answers and measurements."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hierdiff.config import folder_of_configs
from hierdiff.methods import on_shapes
from hierdiff.metrics.cost import flops
from hierdiff.plan.__main__ import main, with_experiment
from hierdiff.plan.estimate import GPU, Layout, Memory, best, bytes_of, estimates
from hierdiff.plan.measure import error_of, measured_peak
from hierdiff.plan.memory import Allocations
from hierdiff.plan.shown import facts_of, fits
from hierdiff.registry import build
from hierdiff.training import Recipe
from hierdiff.training.untrained import ShapeFabric, UntrainedSteps
from tests.test_configs import composed
from tests.training.runs import INNER, NESTED

FACTS = {"channels": 3, "classes": 4}
NODE: dict[str, Any] = {"name": "mdm", "resolutions": [8, 4], "denoiser": NESTED}
WIDE = {**INNER, "width": 32, "multiples": [1, 2], "blocks": 2, "attention": [0, 1], "heads": 4}


def recipe(**options: Any) -> Recipe:
    return Recipe(**{"steps": 10, "batch_size": 8, "precision": "32-true", "ema": [10], **options})


def estimate(node: dict[str, Any] = NODE, gpus: int = 1, shard_over: int = 1, **options: Any):
    method = on_shapes(node, offered=FACTS)
    (found,) = estimates(method, recipe(**options), FACTS, gpus=gpus, shard_over=shard_over)
    return found


def test_the_peak_is_what_lives_at_one_time():
    x = torch.zeros(1000)
    with Allocations([x]) as memory:
        y = x + 1  # 4,000 bytes
        z = y * 2  # 8,000
        del y
        view = z[:10]  # in the same memory
        x.add_(view.sum())  # 4 more for the sum
    assert memory.peak == 8000
    assert memory.live == 4000
    del z, view
    assert memory.live == 0


def test_gradients_count_apart_from_what_the_backward_pass_takes():
    layer = nn.Linear(100, 50, bias=False)
    x = torch.zeros(7, 100)
    memory = Allocations([layer.weight, x])
    layer.weight.register_post_accumulate_grad_hook(memory.keep_gradient)
    with memory:
        layer(x).sum().backward()
    assert memory.gradients == 4 * 100 * 50
    assert memory.peak >= memory.gradients
    assert memory.peak_without_gradients < memory.gradients + 4 * 7 * 50 + 100


def test_operations_are_those_of_the_trainer_s_own_step():
    stage = on_shapes(NODE, offered=FACTS).stages[0]
    options = recipe()
    with torch.device("meta"):
        step = UntrainedSteps(ShapeFabric(), stage, options, facts=FACTS, images=8)
    assert estimate().flops == flops(step)


def test_bytes_are_those_of_adam_and_of_each_average():
    stage = on_shapes(NODE, offered=FACTS).stages[0]
    size = bytes_of(stage, recipe(ema=[10, 20, 0]))
    numbers = sum(p.numel() for p in stage.parameters())
    count = len(list(stage.parameters()))
    assert size.weights == size.gradients == 4 * numbers
    assert size.optimizer == 2 * 4 * numbers + 4 * count  # two moments, and a count of steps
    assert size.averages == 2 * 4 * numbers


def test_sharding_divides_what_stays_and_recomputation_what_is_kept_for_the_backward_pass():
    layouts = {
        (one.strategy, one.recompute): one
        for one in estimate({**NODE, "resolutions": [8], "denoiser": WIDE}, 4, 4).layouts
    }
    ddp, fsdp = (layouts[name, False] for name in ("ddp", "fsdp"))
    for part in ("weights", "optimizer", "averages"):
        assert getattr(fsdp.memory, part) == getattr(ddp.memory, part) / 4
    assert fsdp.memory.gradients == ddp.memory.gradients / 2 / 4  # DDP has them in buckets too
    again = layouts["ddp", True]
    assert again.memory.activations < ddp.memory.activations
    assert 1.1 < again.flops / ddp.flops < 4 / 3 + 1e-9  # at most one more forward pass


def test_bfloat16_halves_much_of_what_is_kept_but_no_weights():
    full, low = (
        estimate(precision=precision).layouts[0].memory for precision in ("32-true", "bf16-mixed")
    )
    assert low.weights == full.weights
    assert low.activations < full.activations


def test_time_is_operations_over_rate():
    stage = estimate(gpus=2)
    layout = stage.layouts[0]
    assert stage.micro == 4
    assert stage.seconds(layout, 2, rate=1e9) == pytest.approx(stage.flops / 2e9)


def test_a_batch_that_the_gpus_cannot_share_is_refused():
    with pytest.raises(ValueError, match=r"gpus=3 .*batch of 8 images.*trainer.batch_size=9"):
        estimate(gpus=3)


def test_the_layout_with_the_fewest_operations_that_fits_is_chosen():
    memory = Memory(10, 10, 20, 10, 50)
    plain = Layout("ddp", False, memory, 1.0)
    again = Layout("ddp", True, replace(memory, activations=10), 1.3)
    assert best([plain, again], 100) is plain
    assert best([plain, again], 90) is again
    assert best([plain, again], 50) is None
    card = GPU(model="x", memory=1e-7, bf16=1, float32=1, watts=1, source="none")
    assert [fits(layout, card) for layout in (plain, again)] == ["tight", "yes"]


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (Path(folder_of_configs()) / "gpu").glob("*.yaml"))
)
def test_every_gpu_has_a_source_and_is_faster_in_bfloat16(name: str):
    node = composed(f"gpu={name}", name="plan", parts=("gpu",))["gpu"]
    card = build(GPU, node)
    assert card.model == name and card.source
    assert card.peak("bf16-mixed") > card.peak("32-true") > 1e13
    with pytest.raises(ValueError, match="64-true has no known peak"):
        card.peak("64-true")


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (["denoiser=mdm_1024", "gpus=64"], ["experiment=mdm_1024", "gpus=64"]),
        (["denoiser=mdm_1024", "method=mdm"], ["denoiser=mdm_1024", "method=mdm"]),
        (["denoiser=small_nested"], ["denoiser=small_nested"]),
    ],
)
def test_a_released_network_is_planned_with_its_experiment(words: list[str], chosen: list[str]):
    assert with_experiment(words) == chosen


def test_the_width_of_a_text_is_that_of_its_encoder():
    options = {"classes": 0, "text_width": None, "text_length": 128}
    cfg = {"data": {"text": {"name": "t5", "weights": None}}, **options}
    assert facts_of(cfg) == {"channels": 3, "classes": 0, "text_width": 2048, "text_length": 128}
    with pytest.raises(ValueError, match="text_width"):
        facts_of({**cfg, "data": {"text": {"name": "mine"}}})


@pytest.mark.slow
def test_the_command_prints_its_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    words = ["budget=smoke", "gpus=2", "gpu=A100", "trainer.batch_size=8"]
    monkeypatch.setattr("sys.argv", ["plan", *words])
    main()
    said = capsys.readouterr().out
    assert "2 x A100 of 80 GB" in said and "fsdp, recomputed" in said and "an assumption" in said


@pytest.mark.slow
@pytest.mark.parametrize(("denoiser", "images"), [(WIDE, 64), ({**WIDE, "attention": 0}, 128)])
def test_the_estimate_of_memory_is_near_what_a_process_takes(denoiser: Any, images: int):
    node = {**NODE, "resolutions": [32], "denoiser": denoiser}
    memory = estimate(node, batch_size=images).layouts[0].memory
    measured = measured_peak(node, FACTS, images)
    estimated = memory.gradients + memory.activations
    print(error_of(estimated, measured))
    assert measured == pytest.approx(estimated / 2**20, rel=0.15)
