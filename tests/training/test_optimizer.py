from __future__ import annotations

import math

import pytest
import torch

from hierdiff.methods import Stage, Turn
from hierdiff.training import Recipe
from hierdiff.training.optimizer import load_state, lr_factor, optimizer_of, state_of
from hierdiff.training.step import optimizer_for


def test_the_rate_rises_over_the_warm_up_and_falls_to_nearly_zero():
    factors = [lr_factor(k, 100, warmup=10) for k in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == pytest.approx(0.91)
    assert factors[-1] == pytest.approx(0.01)


def test_other_schedules_at_half_time():
    assert lr_factor(50, 100, warmup=0, decay="constant") == 1
    assert lr_factor(50, 100, warmup=0, decay="cosine") == pytest.approx(0.5)


@pytest.mark.parametrize("rate", [0.7, 0.8])
def test_a_part_of_a_cosine_after_the_warm_up_is_that_of_the_released_code_of_rin(rate):
    """Its rate at step k is ours at step k - 1 of the warm-up, whose first step has none."""
    steps, warmup = 150, 10
    for k in range(warmup, steps):
        curve = (1 + math.cos(math.pi * (k - warmup) / ((steps - warmup) / rate))) / 2
        found = lr_factor(k, steps, warmup=warmup, decay="cosine", span=rate, after_warmup=True)
        assert found == pytest.approx(curve)
    for k in range(warmup):
        found = lr_factor(k, steps, warmup=warmup, decay="cosine", span=rate, after_warmup=True)
        assert found == pytest.approx((k + 1) / warmup)


def test_a_warm_up_of_all_steps_leaves_no_decay():
    assert lr_factor(4, 5, warmup=5, decay="cosine", after_warmup=True) == 1


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


def test_lamb_is_the_one_of_its_paper():
    """Three steps written out: decay inside the update, its length that of the weights' (LAMB,
    arXiv 1904.00962, algorithm 2; biases without both), neither clipped nor of other betas."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 3).double()
    lr, (first, second), decay, eps = 0.02, (0.9, 0.999), 1e-2, 1e-8
    options = {"eps": eps, "max_grad_norm": None}
    parameters = list(layer.parameters())
    optimizer = optimizer_of(
        parameters,
        name="lamb",
        lr=lr,
        betas=(first, second),
        weight_decay=decay,
        options=options,
    )
    wanted = [p.detach().clone() for p in parameters]
    m, v = ([torch.zeros_like(p) for p in wanted] for _ in range(2))
    for step in range(1, 4):
        gradients = [5 * torch.randn_like(p) for p in wanted]
        for i, (p, g) in enumerate(zip(wanted, gradients, strict=True)):
            m[i] = first * m[i] + (1 - first) * g
            v[i] = second * v[i] + (1 - second) * g**2
            update = m[i] / (1 - first**step) / ((v[i] / (1 - second**step)).sqrt() + eps)
            ratio = 1.0
            if p.ndim == 2:
                update = update + decay * p
                ratio = p.norm() / update.norm()
            wanted[i] = p - lr * ratio * update
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g
        optimizer.step()
        for p, known in zip(parameters, wanted, strict=True):
            torch.testing.assert_close(p.detach(), known, rtol=1e-9, atol=0)


def test_the_betas_are_those_of_every_optimizer_that_takes_two():
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    for name in ("adamw", "lamb", "lion"):
        optimizer = optimizer_of([parameter], name=name, betas=(0.5, 0.9))
        assert {tuple(group["betas"]) for group in optimizer.param_groups} == {(0.5, 0.9)}


class Part(Stage):
    """A stage of two turns with a parameter each; the loss is their sum."""

    name, resolutions = "part", (8,)

    def __init__(self, trainer, own):
        super().__init__()
        self.parts = torch.nn.ModuleList([torch.nn.Linear(1, 1, bias=False) for _ in range(2)])
        self.trainer, self.own = trainer, own

    @property
    def turns(self):
        return Turn("a", self.parts[0]), Turn("b", self.parts[1], 1.0, self.own)

    def draw(self, batch, noise):
        return None

    def forward(self, batch, draws, turn="a", step=0):
        raise NotImplementedError


def test_a_stage_and_a_turn_have_options_of_their_own():
    recipe = Recipe(steps=10, lr=1.0, warmup=0, weight_decay=0.5)
    stage = Part({"lr": 2.0, "betas": (0.5, 0.9), "lr_schedule": "constant"}, {"optimizer": "lamb"})
    own = recipe.of(stage)
    assert (own.lr_at(5, 10), recipe.lr_at(5, 10)) == (2.0, 0.5)
    a, b = (optimizer_for(turn, own) for turn in stage.turns)
    assert type(a).__name__ == "AdamW" and type(b).__name__ == "Lamb"
    for optimizer in (a, b):
        (group,) = optimizer.param_groups
        assert tuple(group["betas"]) == (0.5, 0.9) and group["weight_decay"] == 0.5


def test_what_no_stage_has_of_its_own_is_refused():
    recipe = Recipe(steps=10)
    with pytest.raises(ValueError, match="trainer.steps of 'part'.* for the whole run"):
        recipe.of(Part({"steps": 3}, {}))
    with pytest.raises(ValueError, match="trainer.lr of 'b'.* for the whole run"):
        recipe.of(Part({}, {"lr": 3}).turns[1])
    with pytest.raises(ValueError, match="of 'part': trainer.lr"):
        recipe.of(Part({"lr": -1.0}, {}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer": "lyon"}, "unknown optimizer 'lyon'"),
        (
            {"optimizer_options": {"momentum": 0.9}},
            r"trainer.optimizer_options.momentum: .*adamw.* has no option",
        ),
        ({"optimizer": "sgd", "betas": [0.5, 0.9]}, r"betas=\[0.5, 0.9\] are two, which sgd does"),
        ({"optimizer": "lamb", "optimizer_options": {"betas": (0.5, 0.9)}}, "set trainer.betas"),
        ({"optimizer": "lamb", "optimizer_options": {"speed": 1}}, r"none that lamb takes"),
    ],
)
def test_a_recipe_with_options_that_its_optimizer_does_not_take_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message) as error:
        Recipe(steps=1, **wrong)
    assert "\n" not in str(error.value)


def test_a_recipe_may_say_what_its_optimizer_takes():
    Recipe(steps=1, optimizer="lamb", betas=[0.5, 0.9], optimizer_options={"eps": 1e-8})
    Recipe(steps=1, optimizer="adan", optimizer_options={"betas": (0.5, 0.9, 0.9)})
    Recipe(steps=1, betas=[0.5, 0.9], optimizer_options={"eps": 1e-6})
