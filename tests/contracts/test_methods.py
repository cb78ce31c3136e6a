"""What holds for every registered method, with and without conditions."""

import json

import pytest
import torch

from hierdiff.batch import Cond
from hierdiff.methods import Request, methods
from hierdiff.metrics.cost import flops
from hierdiff.noise import per_example
from tests import tiny

each = pytest.mark.parametrize("name", tiny.METHODS)
each_sampled = pytest.mark.parametrize("name", tiny.SAMPLED)
slow = pytest.mark.slow


def build(name, kind="class", seed=0, **options):
    """With weights moved off their zeros, so that samples depend on the network."""
    method = tiny.method(name, kind, seed, **options)
    for parameter in tiny.randomised(method).parameters():
        parameter.requires_grad_(True)
    return method


def same(first, second, **tolerance):
    assert first.keys() == second.keys()
    for side in first:
        if tolerance:
            torch.testing.assert_close(first[side], second[side], **tolerance)
        else:
            assert torch.equal(first[side], second[side])


@each
@tiny.kinds
def test_the_loss_is_finite_and_moves_every_parameter(name, kind):
    method = build(name, kind)
    batch = tiny.batch(kind)
    for stage in method.stages:
        for turn in stage.turns:
            stage.zero_grad()
            loss = stage(batch, stage.draw(batch, tiny.noise()), turn.name)
            assert torch.isfinite(loss.total) and loss.total.shape == ()
            assert all(torch.isfinite(value) for value in loss.logs.values())
            if turn.name == stage.turns[0].name:
                assert {f"loss/{side}" for side in stage.resolutions} <= set(loss.logs)
            loss.total.backward()
            for key, parameter in turn.module.named_parameters():
                assert parameter.grad is not None and parameter.grad.abs().max() > 0, key


@each
def test_the_loss_depends_on_nothing_but_its_arguments(name):
    method, batch = build(name), tiny.batch("class")
    stage = method.stages[-1]
    draws = stage.draw(batch, tiny.noise(1))
    again = stage.draw(batch, tiny.noise(1))
    torch.manual_seed(5)
    first = stage(batch, draws).total
    torch.manual_seed(6)
    assert torch.equal(stage(batch, again).total, first)
    other = stage(batch, stage.draw(batch, tiny.noise(2))).total
    assert not torch.equal(other, first)


@each
@tiny.swept_kinds
def test_samples_have_every_resolution_and_stay_in_range(name, kind):
    method = build(name, kind)
    images = method.sample(Request(3, tiny.cond(kind, 3), noise=tiny.noise()))
    assert list(images) == list(method.resolutions)
    for side, level in images.items():
        assert level.shape == (3, 3, side, side) and not level.requires_grad
        assert float(level.abs().max()) <= 1 + 5e-3  # the noise left at the schedule's end


@each
def test_the_same_seed_gives_the_same_images_and_another_does_not(name):
    method = build(name)
    first = method.sample(Request(2, noise=tiny.noise(3)))
    same(first, method.sample(Request(2, noise=tiny.noise(3))))
    other = method.sample(Request(2, noise=tiny.noise(4)))
    side = method.resolutions[0]
    assert not torch.equal(first[side], other[side])


@each
@pytest.mark.parametrize("rule", [pytest.param("ddim", marks=slow), "ancestral"])
def test_an_image_does_not_depend_on_the_batch_it_is_made_in(name, rule):
    """Each example has its own generator."""
    options = {"sampling": {"steps": 3, "rule": {"name": rule}}} if name in tiny.SAMPLED else {}
    method = build(name, **options)
    cond = tiny.cond("class", 3)
    together = method.sample(Request(3, cond, noise=per_example([5, 6, 7])))
    for row in range(3):
        alone = method.sample(
            Request(1, cond.map(lambda x, row=row: x[row : row + 1]), noise=per_example([5 + row]))
        )
        wanted = {side: images[row : row + 1] for side, images in together.items()}
        same(alone, wanted, rtol=1e-3, atol=1e-3)


@each
def test_a_method_rebuilds_by_name_from_its_node_and_weights(name):
    node = json.loads(json.dumps(tiny.method_node(name)))
    method = build(name)
    again = methods.build(node, offered=tiny.facts("class"))
    again.load_state_dict(method.state_dict())
    same(
        method.sample(Request(2, noise=tiny.noise())), again.sample(Request(2, noise=tiny.noise()))
    )


@each_sampled
def test_steps_and_guidance_of_a_call_come_before_those_of_the_config(name):
    method, cond = build(name), Cond(labels=torch.tensor([0, 2]))
    seen = []
    method.sample(
        Request(2, cond, noise=tiny.noise(), steps=5, watch=lambda i, s, x: seen.append(i))
    )
    chain = method.stages[-1].chain
    whole = [s for s in chain if s.bridge is None or not s.bridge.stop(s.bridge.output_log_snr)]
    assert len(seen) == 5 * len(whole)  # a stage that takes over goes on with the steps of another
    assert seen.count(0) == len(chain)
    plain = method.sample(Request(2, cond, noise=tiny.noise()))
    same(plain, method.sample(Request(2, cond, noise=tiny.noise(), guidance=1.0)))
    strong = method.sample(Request(2, cond, noise=tiny.noise(), guidance=4.0))
    side = method.resolutions[0]
    assert (strong[side] - plain[side]).abs().max() > 1e-4


@each_sampled
def test_guidance_without_conditions_changes_nothing(name):
    """Both halves are then the same function."""
    method = build(name, "unconditional")
    plain = method.sample(Request(2, noise=tiny.noise()))
    same(plain, method.sample(Request(2, noise=tiny.noise(), guidance=3.0)), rtol=1e-3, atol=1e-3)


@each_sampled
@pytest.mark.parametrize(
    ("rule", "guidance"),
    [
        *(
            pytest.param(*own, marks=slow)
            for own in (("ddim", 1.0), ("heun", 1.0), ("dpmpp_2m", 2.0))
        ),
        ("heun", 2.0),
    ],
)
def test_the_stated_number_of_evaluations_is_that_of_the_calls(name, rule, guidance):
    sampling = {"steps": 4, "rule": {"name": rule}, "guidance": guidance}
    method = build(name, sampling=sampling)
    stage = method.at(method.resolutions[0])
    calls = []
    for part in stage.chain:
        tiny.count_evaluations(part.denoiser, calls)
    method.sample(Request(2, noise=tiny.noise()))
    assert len(calls) == stage.evaluations


@each_sampled
def test_the_operations_of_an_image_are_those_of_its_parts(name):
    method = build(name, "class and text", sampling={"steps": 2, "guidance": 2.0})
    stage = method.at(method.resolutions[0])
    request = Request(1, noise=tiny.noise(), resolutions=[method.resolutions[0]])
    with torch.no_grad():
        parts = sum(flops(part.prepare(1, tiny.noise())) * part.calls for part in stage.parts())
        whole = flops(lambda: stage.sample(request))
    assert parts == pytest.approx(whole, rel=1e-5)  # between stages may be a product of vectors


@each
def test_sampling_leaves_the_training_mode_as_it_was(name):
    method = build(name)
    for mode in (True, False):
        method.train(mode)
        method.sample(Request(1, noise=tiny.noise(), steps=1))
        assert method.stages[-1].training is mode


@each
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3], r"label 3 is out of range.*0 to 2"),
        ([-2, 0], r"label -2 is out of range.*-1 for none"),
        ([0, 1, 2], r"3 labels for 2 images"),
        ([1], r"1 labels for 2 images"),
    ],
)
def test_labels_that_do_not_fit_are_refused_before_sampling(name, labels, message):
    method = tiny.method(name)
    with pytest.raises(ValueError, match=message):
        method.sample(Request(2, Cond(labels=torch.tensor(labels)), noise=tiny.noise()))


@each
def test_no_condition_given_is_no_condition(name):
    """-1 for the label and an empty caption."""
    method = build(name, "class and text")
    none = Cond(
        labels=torch.tensor([-1, -1]),
        tokens=torch.zeros(2, tiny.LENGTH, tiny.WIDTH),
        mask=torch.zeros(2, tiny.LENGTH, dtype=torch.bool),
    )
    same(
        method.sample(Request(2, noise=tiny.noise())),
        method.sample(Request(2, none, noise=tiny.noise())),
    )


@each
def test_the_stage_at_a_resolution_makes_the_images_that_the_method_gives_there(name):
    method = build(name)
    sampled = method.sample(Request(1, noise=tiny.noise()))
    for side in method.resolutions:
        assert method.at(side) is method.at(side)
        images = method.at(side).sample(Request(1, noise=tiny.noise()))
        assert side in images and {*images} <= {*sampled}
    with pytest.raises(ValueError, match="at 5"):
        method.at(5)


@each
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolutions": [8, 16]}, r"not in order|one resolution"),
        ({"resolutions": []}, r"resolutions=\[\]: resolutions takes a list of one or more whole"),
        (
            {"sampling": {"steps": 0}},
            r"sampling.steps=0: steps takes a whole number from 1 to 1000000, such as",
        ),
        ({"sampling": {"rule": {"name": "dimm"}}}, r"unknown sampler 'dimm', did you mean 'ddim'"),
        ({"sampling": {"grid": {"name": "karas"}}}, r"did you mean 'karras'"),
        ({"sampling": {"threshold": {"name": "statc"}}}, r"did you mean 'static'"),
        ({"sampling": {"threshold": {"name": "dynamic", "quantil": 1}}}, r"no option 'quantil'"),
        ({"sampling": {"guidance": [1.0, 2.0, 3.0]}}, r"3 guidance scales for"),
        ({"sampling": {"step": 3}}, r"sampling has no option 'step', did you mean 'steps'"),
        ({"objective": {"los_space": "v"}}, r"no option 'los_space', did you mean 'loss_space'"),
        ({"objective": {"parameterization": {"predicton": "v"}}}, r"did you mean 'prediction'"),
        ({"process": "flw"}, r"unknown process 'flw', did you mean 'flow'"),
        ({"schedule": {"name": "cosin"}}, r"unknown schedule 'cosin', did you mean 'cosine'"),
        ({"denoiser": {"name": "nested"}}, r"unknown denoiser 'nested'"),
        ({"colour": 1}, r"has no option 'colour'"),
    ],
)
def test_bad_options_are_refused_at_build_with_the_way_out(name, options, message):
    if "colour" not in options and not tiny.takes(name, *options):
        pytest.skip("it has no such option")
    with pytest.raises(ValueError, match=message):
        methods.build({**tiny.method_node(name), **options})
