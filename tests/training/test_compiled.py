"""Blocks compiled one by one: the same gradients, one graph for any batch size, bounded time."""

from __future__ import annotations

import os
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from hierdiff.denoisers.recompute import recompute
from hierdiff.training import compiled
from hierdiff.training.compiled import compile_blocks
from hierdiff.training.fabric import fabric_of, mesh_of
from hierdiff.training.recipe import Recipe
from hierdiff.training.sharding import ShardedStage, whole
from hierdiff.training.untrained import UntrainedSteps
from tests import tiny
from tests.training.runs import in_processes
from tests.training.test_sharded import OneNetwork, batch_of


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> None:
    """Traced and differentiated as a compiler sees it, without kernels, which take minutes."""
    if pytestconfig.getoption("jaxtyping_packages"):
        pytest.skip("the compiler cannot trace shape checks: run with --jaxtyping-packages=")
    monkeypatch.setattr(compiled.torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()


def gradients(network: nn.Module, n: int, depth: int = 1) -> list[Any]:
    x, log_snr = tiny.state(depth, n)
    out = network(x, log_snr, network.prepare(tiny.cond("class", n)))
    loss = sum(level.square().mean() for level in out.levels)
    return list(torch.autograd.grad(loss, list(network.parameters()), allow_unused=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of the compiler are not ours
@pytest.mark.parametrize("name", ["nested_unet", "dit", "uvit", "ldm_unet", "rin"])
def test_compiled_blocks_give_the_gradients_of_eager_ones(traced: None, name: str):
    depth = 2 if name == "nested_unet" else 1
    network = tiny.randomised(tiny.denoiser(name, "class", depth))
    wanted = [gradients(network, n, depth) for n in (4, 3)]
    assert compile_blocks(network) == len(network.units)
    found = [gradients(network, 4, depth)]
    graphs = counters["stats"]["unique_graphs"]
    found.append(gradients(network, 3, depth))
    assert 0 < graphs == counters["stats"]["unique_graphs"]  # none more for another batch
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_sides_of_all_buckets_but_the_first_share_one_graph(traced: None):
    network = tiny.randomised(tiny.denoiser("ldm_unet", "class"))

    def gradient(height: int, width: int) -> torch.Tensor:
        x = torch.linspace(-1, 1, 4 * 3 * height * width).reshape(4, 3, height, width)
        out = network((x,), torch.zeros(4, 1), network.prepare(tiny.cond("class", 4)))
        return torch.autograd.grad(out.levels[0].square().mean(), [next(network.parameters())])[0]

    wanted = gradient(8, 24)
    compile_blocks(network)
    graphs = []
    for sides in ((16, 16), (8, 16), (16, 8), (8, 24)):
        found = gradient(*sides)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] < graphs[1] == graphs[2] == graphs[3] <= 2 * graphs[0]
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_what_is_compiled_may_be_recomputed_and_copied(traced: None):
    network = tiny.randomised(tiny.denoiser("dit", "class"))
    wanted = gradients(network, 4)
    compile_blocks(network)
    recompute(network)
    assert compile_blocks(network) == 0  # as where a stage grows from this one
    torch.testing.assert_close(gradients(network, 4), wanted, rtol=1e-3, atol=1e-5)
    copied = deepcopy(network)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(2)
    torch.testing.assert_close(gradients(network, 4), wanted, rtol=1e-3, atol=1e-5)
    assert not torch.equal(gradients(copied, 4)[-1], wanted[-1])


def sampled(network: nn.Module) -> torch.Tensor:
    x, log_snr = tiny.state(1, 2)
    with torch.no_grad():
        return network(x, log_snr, network.prepare(tiny.cond("class", 2))).levels[0]


def test_sampling_and_blocks_after_the_limit_are_not_compiled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled.torch, "compile", lambda _: pytest.fail("it is compiled"))
    network = tiny.randomised(tiny.denoiser("dit", "class"))
    images, wanted = sampled(network), gradients(network, 2)
    compile_blocks(network, limit=-1)
    assert torch.equal(sampled(network), images)
    torch.testing.assert_close(gradients(network, 2), wanted, rtol=0, atol=0)


def cut_and_compiled(folder: Path, node: Any, environment: dict[str, str]) -> None:
    """Gradients of a compiled network cut over processes, beside those of the whole one."""
    os.environ.update(environment)
    compiled.torch.compile = partial(torch.compile, backend="aot_eager")
    fabric = fabric_of(Recipe(steps=1, accelerator="cpu", strategy="fsdp"))
    fabric.launch()
    (case,) = (one for one in tiny.denoiser_cases() if one.name == "dit")
    stage = OneNetwork(tiny.denoiser(case.name, "class and text", case.depth).double())
    sharded = ShardedStage(stage, mesh_of(fabric, Recipe(steps=1, strategy="fsdp")))
    assert compile_blocks(sharded.stage) and not counters["stats"]
    first = 2 * fabric.global_rank
    stage(batch_of(case, slice(None)), None).backward()
    sharded.stage(batch_of(case, slice(first, first + 2)), None).backward()
    assert counters["stats"]["unique_graphs"]
    cut = sharded.tensors()
    for name, parameter in stage.named_parameters():
        gradient = whole(cut[parameter].grad)
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-6, atol=1e-10, msg=name)


@pytest.mark.slow
def test_compiled_blocks_may_be_cut_over_processes(tmp_path: Path):
    assert in_processes(2, cut_and_compiled, tmp_path, {}) == [0, 0]


def test_a_step_has_the_precision_of_products_that_it_is_given():
    stage = tiny.randomised(tiny.method("end_to_end")).stages[-1]
    seen: list[str] = []
    hook = stage.register_forward_pre_hook(
        lambda *_: seen.append(torch.get_float32_matmul_precision())
    )
    for chosen in ("highest", "medium"):
        recipe = Recipe(steps=1, accelerator="cpu", matmul=chosen, batch_size=2)
        facts = {"channels": 3}
        UntrainedSteps(fabric_of(recipe), stage, recipe, facts=facts, images=2)()
    hook.remove()
    assert seen == ["highest", "medium"] and torch.get_float32_matmul_precision() == "highest"
