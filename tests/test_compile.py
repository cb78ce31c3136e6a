"""The training step compiles without a break and computes what it does uncompiled."""

import pytest
import torch
from torch._dynamo.utils import counters

from tests import tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # those of the compiler are not ours
]


@pytest.fixture(autouse=True)
def unchecked(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("jaxtyping_packages"):
        pytest.skip("the compiler cannot trace shape checks: run with --jaxtyping-packages=")
    torch._dynamo.reset()
    counters.clear()


VARIANTS = [
    pytest.param(name, kind, options, id=f"{name}-{kind}-{label}")
    for name in tiny.METHODS
    for kind, label, options in (
        ("class", "plain", {}),
        ("class and text", "edm", {"objective": {"time": {"name": "edm"}, "drop": 0.5}}),
    )
]


def compiling(name, kind="class", **options):
    """The last stage of a method, where it can be compiled."""
    if not tiny.method(name).stages[-1].compiles:
        pytest.skip(f"{name} is not compiled")
    return tiny.randomised(tiny.method(name, kind, **options)).stages[-1]


def step(stage, run, batch, draws):
    stage.zero_grad()
    loss = run(batch, draws)
    loss.total.backward()
    gradients = {name: p.grad.clone() for name, p in stage.named_parameters()}
    logs = {name: value.detach() for name, value in loss.logs.items()}
    return loss.total.detach(), logs, gradients


@pytest.mark.parametrize(("name", "kind", "options"), VARIANTS)
def test_compiled_training_step_is_one_graph_and_agrees_with_eager(name, kind, options):
    stage = compiling(name, kind, **options)
    compiled = torch.compile(stage, fullgraph=True, backend="aot_eager")
    batch = tiny.batch(kind)
    for seed in range(2):
        draws = stage.draw(batch, tiny.noise(seed))
        found = step(stage, compiled, batch, draws)
        torch.testing.assert_close(found, step(stage, stage, batch, draws), rtol=1e-3, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("name", tiny.METHODS)
def test_compiled_training_step_agrees_through_the_default_compiler(name):
    stage = compiling(name)
    compiled = torch.compile(stage, fullgraph=True)
    batch = tiny.batch("class")
    draws = stage.draw(batch, tiny.noise())
    found = step(stage, compiled, batch, draws)
    torch.testing.assert_close(found, step(stage, stage, batch, draws), rtol=1e-3, atol=1e-4)


def test_compiled_mixed_batch_with_a_published_clock_agrees_with_eager():
    """Ragged levels, tables, step clock, per-sample input scale."""
    node = tiny.method_node("mdm", (16, 8))
    base = {"name": "squared_cosine"}
    shifted = {"name": "shifted", "base": base, "resolution": 16, "reference": 8, "exponent": 1}
    outer, inner = ({"name": "steps", "schedule": schedule} for schedule in (shifted, base))
    denoiser = {**node["denoiser"], "clock": outer, "scalars": {"scale": 16.0}}
    denoiser["inner"] = {**denoiser["inner"], "clock": inner}
    stage = tiny.randomised(
        tiny.method(
            "mdm",
            resolutions=(16, 8),
            denoiser=denoiser,
            schedule=base,
            fractions=[0.5, 1],
            objective={"parameterization": {"input_scale": ["none", "sample"]}},
        )
    ).stages[-1]
    compiled = torch.compile(stage, fullgraph=True, backend="aot_eager")
    batch = tiny.batch("class")
    draws = stage.draw(batch, tiny.noise())
    found = step(stage, compiled, batch, draws)
    torch.testing.assert_close(found, step(stage, stage, batch, draws), rtol=1e-3, atol=1e-4)
