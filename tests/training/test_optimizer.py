from __future__ import annotations

import pytest
import torch

from hierdiff.training import Recipe
from hierdiff.training.optimizer import load_state, lr_factor, optimizer_of, state_of


def test_the_rate_rises_over_the_warm_up_and_falls_to_nearly_zero():
    factors = [lr_factor(k, 100, warmup=10) for k in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == pytest.approx(0.91)
    assert factors[-1] == pytest.approx(0.01)


def test_other_schedules_at_half_time():
    assert lr_factor(50, 100, warmup=0, decay="constant") == 1
    assert lr_factor(50, 100, warmup=0, decay="cosine") == pytest.approx(0.5)


def test_biases_do_not_decay():
    layer = torch.nn.Linear(3, 2)
    optimizer = optimizer_of(list(layer.parameters()), weight_decay=0.1)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decays == {id(layer.weight): 0.1, id(layer.bias): 0.0}


def test_an_unknown_optimizer_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'lion'"):
        optimizer_of([torch.nn.Parameter(torch.ones(1))], name="lyon")


@pytest.mark.parametrize("name", ["adamw", "lamb", "lion", "sgd"])
def test_an_optimizer_goes_on_as_if_it_had_not_been_saved(name: str):
    def start() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        return layer, optimizer_of(list(layer.parameters()), name=name, lr=0.1)

    def step(layer: torch.nn.Linear, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        layer(torch.arange(3.0)).square().sum().backward()
        optimizer.step()

    layer, optimizer = start()
    step(layer, optimizer)
    tensors, rest = state_of(optimizer)
    again, other = start()
    again.load_state_dict(layer.state_dict())
    load_state(other, tensors, rest)
    for one, its in ((layer, optimizer), (again, other)):
        step(one, its)
    assert torch.equal(layer.weight, again.weight)
    assert torch.equal(layer.bias, again.bias)


def test_lamb_trusts_each_layer_by_the_norm_of_its_weights():
    """RIN's optimizer: the first step of a weight has the length lr * |w|."""
    layer = torch.nn.Linear(4, 3)
    before = [p.detach().clone() for p in layer.parameters()]
    optimizer = optimizer_of(list(layer.parameters()), name="lamb", lr=0.1, weight_decay=1e-2)
    layer(torch.randn(8, 4)).square().sum().backward()
    optimizer.step()
    moved = [(p.detach() - old).norm() for p, old in zip(layer.parameters(), before, strict=True)]
    torch.testing.assert_close(moved[0], 0.1 * before[0].norm(), rtol=1e-3, atol=0)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-2, 0.0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer": "lyon"}, "unknown optimizer 'lyon'"),
        (
            {"optimizer_options": {"momentum": 0.9}},
            r"trainer.optimizer_options.momentum: .*adamw.* has no option",
        ),
        ({"optimizer": "lion", "betas": [0.5, 0.9]}, r"trainer.betas=\[0.5, 0.9\] are of adamw"),
        ({"optimizer": "lamb", "optimizer_options": {"speed": 1}}, r"none that lamb takes"),
    ],
)
def test_a_recipe_with_options_that_its_optimizer_does_not_take_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message) as error:
        Recipe(steps=1, **wrong)
    assert "\n" not in str(error.value)


def test_a_recipe_may_say_what_its_optimizer_takes():
    Recipe(steps=1, optimizer="lamb", optimizer_options={"betas": (0.5, 0.9)})
    Recipe(steps=1, betas=[0.5, 0.9], optimizer_options={"eps": 1e-6})
