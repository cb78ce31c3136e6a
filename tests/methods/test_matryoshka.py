"""The method under study: levels, shifts, mixed batches, growth."""

import math

import pytest
import torch

from hierdiff.batch import Cond
from hierdiff.methods import Request, methods
from hierdiff.objective import Draws
from tests import tiny


def build(resolutions=(16, 8, 4), **options):
    return tiny.method("mdm", resolutions=resolutions, **options)


def log_snr(method, t=0.4):
    return method.stages[-1].process.log_snr(torch.tensor([t], dtype=torch.float64))[0]


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_each_level_is_shifted_by_its_side_ratio_to_the_coarsest(shift):
    fine, middle, coarse = log_snr(build(shift=shift)).tolist()
    assert coarse - middle == pytest.approx(shift * math.log(2))
    assert coarse - fine == pytest.approx(shift * math.log(4))


@pytest.mark.parametrize("shift", [None, 1.0, 2.0])
def test_with_a_reference_the_finest_level_has_the_schedule_of_end_to_end(shift):
    method = build(shift=shift, reference=32)
    twin = tiny.method("end_to_end", resolutions=(16,), reference=32)
    wanted = [float(log_snr(twin)) + (shift or 0) * math.log(16 / side) for side in (16, 8, 4)]
    assert log_snr(method).tolist() == pytest.approx(wanted)


def test_growth_holds_the_same_objects_from_the_coarsest_level_up():
    method = build(growth=(0.3, 0.2))
    low, middle, whole = method.stages
    assert [stage.resolutions for stage in method.stages] == [(4,), (8, 4), (16, 8, 4)]
    assert [stage.share for stage in method.stages] == pytest.approx([0.3, 0.2, 0.5])
    assert low.denoiser is whole.denoiser.inner.inner and middle.denoiser is whole.denoiser.inner
    assert low.process.schedules[0] is whole.process.schedules[-1]
    ids = {id(parameter) for parameter in whole.parameters()}
    assert all(id(p) in ids for stage in (low, middle) for p in stage.parameters())
    assert len(list(method.parameters())) == len(ids)


def test_what_a_low_stage_learns_stays_where_it_is_when_levels_are_added():
    """The finer levels start as no change to the coarse ones."""
    method = build((16, 8), growth=(0.5,))
    low, whole = method.stages
    tiny.randomised(low)
    before = low.sample(Request(2, noise=tiny.noise()))
    steps = []
    whole.sample(Request(2, noise=tiny.noise(), watch=lambda i, s, x: steps.append(x)))
    batch = tiny.batch("class")
    draws = whole.draw(batch, tiny.noise())
    part = type(draws)(draws.t, draws.eps[1:], draws.drop)
    joint, alone = whole(batch, draws), low(batch, part)
    assert torch.equal(joint.logs["loss/8"], alone.logs["loss/8"])
    assert list(before) == [8] and low.training and len(steps) == 3


def test_a_low_stage_of_growth_draws_and_trains_like_a_model_of_its_own():
    method = build((16, 8), growth=(0.5,))
    alone = tiny.method("end_to_end", resolutions=(8,))
    low = method.stages[0]
    alone.stages[0].denoiser.load_state_dict(low.denoiser.state_dict())
    batch = tiny.batch("class")
    losses = [s(batch, s.draw(batch, tiny.noise())).total for s in (low, alone.stages[0])]
    assert torch.equal(*losses)


@pytest.mark.parametrize("kind", ["unconditional", "class and text"])
def test_examples_without_the_fine_level_train_the_inner_network_as_a_model_of_its_own(kind):
    """Coarse loss of a batch of 4: one joint example and 3 of the inner stage alone."""
    options = {"fractions": [0.25, 1], "objective": {"level_weights": [0.0, 1.0]}}
    whole = tiny.randomised(build((16, 8), kind=kind, **options)).stages[-1]
    low, batch = whole.tail(1), tiny.batch(kind, 4)
    draws = whole.draw(batch, tiny.noise())
    assert [len(e) for e in draws.eps] == [1, 4]

    def part(stage, rows):
        eps = tuple(e[rows] for e in draws.eps[-len(stage.resolutions) :])
        return stage(
            batch.map(lambda x: x[rows]), Draws(draws.t[rows], eps, draws.drop[rows])
        ).total

    def gradients(loss):
        whole.zero_grad()
        loss.backward()
        return loss.detach(), [p.grad.clone() for p in low.parameters()]

    mixed = gradients(whole(batch, draws).total)
    split = gradients((part(whole, slice(0, 1)) + 3 * part(low, slice(1, 4))) / 4)
    torch.testing.assert_close(mixed, split, rtol=1e-3, atol=1e-5)


def test_mixed_batches_round_up_so_that_no_level_is_empty():
    stage = build((16, 8, 4), fractions=[0.1, 0.6, 1]).stages[-1]
    draws = stage.draw(tiny.batch("class", 3), tiny.noise())
    assert [len(e) for e in draws.eps] == [1, 2, 3]
    loss = stage(tiny.batch("class", 3), draws)
    assert all(torch.isfinite(value) for value in loss.logs.values())


def test_the_parts_of_a_tail_are_those_of_its_levels():
    stage = build(
        fractions=[0.25, 0.5, 1],
        objective={
            "level_weights": [4, 2, 1],
            "parameterization": {"input_scale": ["none", "sample", "none"]},
        },
        sampling={"steps": 2, "guidance": [3.0, 2.0, 1.5]},
    ).stages[-1]
    tail = stage.tail(2)
    assert tail.fractions == [0.5, 1] and list(tail.objective.level_weights) == [2, 1]
    assert list(tail.objective.parameterization.input_scale) == ["sample", "none"]
    assert list(tail.sampling.guidance) == [2.0, 1.5] and tail.sampling.steps == 2
    assert list(tail.sample(Request(1, noise=tiny.noise()))) == [8, 4]
    assert stage.tail(1).fractions == [1.0]


def test_every_resolution_is_made_by_the_joint_stage():
    for options in ({}, {"growth": [0.25, 0.25]}, {"fractions": [0.5, 0.5, 1]}):
        method = build(**options)
        assert all(method.at(side) is method.stages[-1] for side in method.resolutions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"growth": [0.5, 0.5, 0.5]}, r"growth \[0.5, 0.5, 0.5\] for 3 levels"),
        ({"growth": [0.6, 0.5]}, r"together less than 1"),
        ({"growth": [0.0]}, r"positive share"),
        ({"fractions": [1, 0.5, 1]}, r"fractions.*not falling"),
        ({"fractions": [0.5, 1]}, r"fractions \[0.5, 1.0\] for 3 levels"),
        ({"fractions": [0, 0.5, 1]}, r"above 0"),
        ({"fractions": [0.2, 0.5, 0.9]}, r"the last 1"),
        ({"objective": {"level_weights": [1, 1]}}, r"2 level weights for 3 levels"),
        ({"resolutions": [16, 12, 4]}, r"12 does not divide 16"),
        ({"resolutions": [4, 8, 16]}, r"not in order"),
    ],
)
def test_levels_that_make_no_hierarchy_are_refused_at_build(options, message):
    with pytest.raises(ValueError, match=message):
        methods.build({**tiny.method_node("mdm", (16, 8, 4)), **options})


@pytest.mark.parametrize("inner", ["dit", "uvit", "rin", "ldm_unet"])
def test_a_network_of_one_level_is_trained_and_sampled_innermost(inner):
    node = {**tiny.denoiser_node("nested_unet", 2), "inner": tiny.denoiser_node(inner)}
    method = build((16, 8), growth=(0.5,), denoiser=node)
    low, whole = method.stages
    assert not whole.notes and whole.denoiser.carries == (inner == "rin")
    batch, losses = tiny.batch("class"), []
    for stage in (low, whole):
        optimizer = torch.optim.Adam(stage.parameters(), lr=3e-3)
        draws = stage.draw(batch, tiny.noise())
        for _ in range(12):
            loss = stage(batch, draws)
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.step()
            losses.append({key: value.detach().item() for key, value in loss.logs.items()})
        first, last = losses[-12], losses[-1]
        assert all(last[key] < first[key] for key in first)
    assert whole.denoiser.into.weight.any() and whole.denoiser.back.weight.any()
    images = method.sample(Request(2, noise=tiny.noise(), guidance=2.0))
    assert {side: part.shape[-1] for side, part in images.items()} == {16: 16, 8: 8}
    assert all(torch.isfinite(part).all() for part in images.values())


def test_a_row_says_that_its_innermost_network_gives_no_features():
    """A token of 16 channels is not split over 8 x 8 pixels."""
    wide = {**tiny.denoiser_node("dit"), "patch": 8}
    node = {**tiny.denoiser_node("nested_unet", 2), "inner": wide}
    whole = build((16, 8), denoiser=node).stages[-1]
    assert whole.notes == (
        "the innermost network, DiT, gives no features: it is nested through its 3 image channels",
    )


@pytest.mark.parametrize("shift", [None, 0, 0.0])
def test_without_a_shift_all_levels_are_on_the_schedule_itself(shift):
    schedules = build(shift=shift).stages[-1].process.schedules
    assert all(schedule is schedules[0] for schedule in schedules)
    fine, middle, coarse = log_snr(build(shift=shift)).tolist()
    assert fine == middle == coarse


def guided_samples(method, **request):
    cond = tiny.cond("class and text", 2)
    return method.sample(Request(2, cond, noise=tiny.noise(), steps=2, **request))


def test_guidance_leads_away_from_the_negative_conditions():
    method = tiny.randomised(build((16, 8), kind="class and text"))
    plain, dropped = guided_samples(method, guidance=1.0), guided_samples(method, guidance=3.0)
    same = guided_samples(method, guidance=3.0, negative=tiny.cond("class and text", 2))
    none = guided_samples(method, guidance=3.0, negative=Cond())
    other = tiny.cond("class and text", 2, seed=5)
    away = guided_samples(method, guidance=3.0, negative=other)
    for name in method.resolutions:
        torch.testing.assert_close(same[name], plain[name], rtol=1e-4, atol=1e-4)
        assert torch.equal(none[name], dropped[name])
        assert not torch.allclose(away[name], dropped[name], atol=1e-3)
    with pytest.raises(ValueError, match="captions for 2 images"):
        guided_samples(method, guidance=3.0, negative=tiny.cond("text", 3))
