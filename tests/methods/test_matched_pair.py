"""`mdm` of two or three levels and `end_to_end` differ in the hierarchy and in nothing else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hierdiff.batch import Cond
from hierdiff.methods import Method, on_shapes
from hierdiff.prepared import method_node
from tests.benchmarks.test_ready import config_of

PAIR = ("mdm", "end_to_end")
HIERARCHIES = ("mdm", "mdm_3")
SIDES = (32, 64)
FACTS = {"channels": 3, "classes": 14}


def config(name: str, side: int, *words: str) -> dict:
    return config_of(
        Path("x"), f"method={name}", f"data.resolution={side}", "budget=default", *words
    )


def built(name: str, side: int) -> Method:
    return on_shapes(method_node(config(name, side)), offered=FACTS)


def operations(method: Method) -> tuple[Counter[int], int]:
    """Operations of the convolutions of one evaluation by the side of their output, and of all."""
    stage, by_side = method.stages[0], Counter[int]()

    def count(module: nn.Conv2d, _: object, out: torch.Tensor) -> None:
        each = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
        by_side[out.shape[-1]] += 2 * out.numel() * each

    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    x_t = tuple(torch.zeros(1, 3, side, side, device="meta") for side in stage.resolutions)
    cond = Cond(labels=torch.zeros(1, dtype=torch.long, device="meta"))
    log_snr = torch.zeros(1, len(x_t), device="meta")
    with FlopCounterMode(display=False) as whole, torch.device("meta"):
        stage.denoiser(x_t, log_snr, stage.denoiser.prepare(cond))
    return by_side, whole.get_total_flops()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", HIERARCHIES)
def test_the_pair_costs_the_same_at_each_side_and_in_all(name, side):
    (ours, total), (theirs, whole) = (operations(built(n, side)) for n in (name, "end_to_end"))
    assert set(ours) == set(theirs) == {side, side // 2, side // 4}
    for at in ours:
        assert ours[at] == pytest.approx(theirs[at], rel=0.01)
    # attention over 16 x 16 positions is one block of three levels, and four blocks of the others
    assert total == pytest.approx(whole, rel=0.03 if (name, side) == ("mdm_3", 64) else 0.01)


def test_the_pair_has_the_same_features_where_its_networks_meet():
    """Into and out of each side; the official rule: the outer bottleneck as wide as the inner's
    first features."""
    mdm, twin = (built(name, 32).stages[0].denoiser for name in PAIR)
    assert mdm.into.in_channels == mdm.into.out_channels == mdm.back.out_channels
    entering = [[weight.shape[1] for weight in net.grow.parameters() if weight.ndim == 4]
                for net in (mdm.inner, mdm, twin)]  # fmt: skip
    assert entering[0] + entering[1] == entering[2]
    first = [net.first.out_channels for net in (mdm, twin)]
    assert first[0] == first[1]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", HIERARCHIES)
def test_the_pair_sees_the_same_noise_at_the_finest_side(name, side):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    moments = [built(n, side).stages[0].process.moment(t) for n in (name, "end_to_end")]
    finest = [moment.log_snr[..., 0] for moment in moments]
    assert torch.equal(*finest)


def test_the_pair_is_trained_and_sampled_alike():
    ours, theirs = (config(name, 32) for name in PAIR)
    for part in ("trainer", "sampler", "data", "measure", "match", "seed"):
        assert ours[part] == theirs[part]
    ours, theirs = ours["method"], theirs["method"]
    shared = {key: ours["objective"][key] for key in theirs["objective"]}
    assert shared == theirs["objective"]
    assert {*ours["objective"]} - {*shared} == {"level_weights"}
    for option in ("process", "schedule", "reference"):
        assert ours[option] == theirs[option]
