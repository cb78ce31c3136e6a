"""Degenerate cases: where two roads to the same thing meet, they coincide bit for bit."""

from dataclasses import replace

import pytest
import torch

from hierdiff.batch import Batch, Cond
from hierdiff.methods import Method, Request, Sampling, methods
from hierdiff.noise import per_example
from hierdiff.registry import build
from tests import tiny


def pair(kind="class", **options):
    """One-level `mdm` and `end_to_end`, each initialised from the same seed."""
    shared = {"resolutions": (16,), **options}
    return tuple(tiny.method(name, kind, seed=4, **shared) for name in ("mdm", "end_to_end"))


def learned(stage, batch):
    """Loss and gradients, then weights after three steps of plain descent."""
    loss = None
    for step in range(3):
        stage.zero_grad()
        loss = stage(batch, stage.draw(batch, tiny.noise(step)))
        loss.total.backward()
        with torch.no_grad():
            for parameter in stage.parameters():
                parameter -= 0.05 * parameter.grad
    return loss.total.detach(), [(p.grad, p.detach().clone()) for p in stage.parameters()]


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_one_level_matryoshka_is_end_to_end_bit_for_bit(kind):
    mdm, twin = pair(kind)
    states = mdm.state_dict(), twin.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    batch = tiny.batch(kind)
    (loss, weights), (twin_loss, twin_weights) = (learned(m.stages[-1], batch) for m in (mdm, twin))
    assert torch.equal(loss, twin_loss)
    for (grad, weight), (twin_grad, twin_weight) in zip(weights, twin_weights, strict=True):
        assert torch.equal(grad, twin_grad) and torch.equal(weight, twin_weight)
    cond = tiny.cond(kind, 2)
    images, twins = (m.sample(Request(2, cond, noise=tiny.noise(9))) for m in (mdm, twin))
    assert images.keys() == twins.keys() and torch.equal(images[16], twins[16])


def test_so_are_they_with_the_same_shift_from_a_reference():
    shared = {"resolutions": (16,), "seed": 4, "reference": 8}
    mdm, twin = tiny.method("mdm", shift=2.0, **shared), tiny.method("end_to_end", **shared)
    unshifted = tiny.method("end_to_end", resolutions=(16,), seed=4)
    batch = tiny.batch("class")
    draws = mdm.stages[0].draw(batch, tiny.noise())
    losses = [m.stages[0](batch, draws).total for m in (mdm, twin, unshifted)]
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])


def test_a_shift_at_the_reference_is_no_shift():
    plain = tiny.method("end_to_end", resolutions=(16,))
    there = tiny.method("end_to_end", resolutions=(16,), reference=16)
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    found = [m.stages[0].process.log_snr(t) for m in (plain, there)]
    assert torch.equal(*found)
    assert torch.equal(found[0][:, 0], plain.stages[0].process.schedules[0].base(t))


def test_guidance_of_one_calls_the_network_once_a_step():
    method = tiny.randomised(tiny.method("mdm"))
    calls = []
    tiny.count_evaluations(method.stages[-1].denoiser, calls)
    first = method.sample(
        Request(2, Cond(labels=torch.tensor([0, 1])), noise=tiny.noise(), guidance=1.0)
    )
    assert len(calls) == 3
    each = method.sample(
        Request(2, Cond(labels=torch.tensor([0, 1])), noise=tiny.noise(), guidance=[1.0, 1.0])
    )
    assert len(calls) == 6
    assert all(torch.equal(first[side], each[side]) for side in first)


def test_guidance_outside_its_interval_is_none():
    labels = Cond(labels=torch.tensor([0, 1]))
    method = tiny.randomised(tiny.method("mdm"))
    plain = method.sample(Request(2, labels, noise=tiny.noise()))
    never = tiny.method(
        "mdm", sampling={"steps": 3, "guidance": 5.0, "interval": (0.9999, 0.99999)}
    )
    never.load_state_dict(method.state_dict())
    found = never.sample(Request(2, labels, noise=tiny.noise()))
    assert all(torch.equal(plain[side], found[side]) for side in plain)


def test_guidance_of_some_channels_leaves_the_others_as_they_were():
    """One step from noise is the clean image itself: no channel meets another on the way."""
    labels = Cond(labels=torch.tensor([0, 1]))
    found = {}
    for guidance, channels in ((1.0, None), (3.0, None), (3.0, 2)):
        sampling = {"steps": 1, "guidance": guidance, "channels": channels, "together": False}
        sampling["threshold"] = {"name": "none"}
        method = tiny.randomised(tiny.method("mdm", sampling=sampling))
        found[guidance, channels] = method.sample(Request(2, labels, noise=tiny.noise()))
    plain, full, some = found.values()
    for side in plain:
        assert torch.equal(some[side][:, :2], full[side][:, :2])
        assert torch.equal(some[side][:, 2], plain[side][:, 2])
        assert not torch.allclose(full[side], plain[side])


def test_guidance_of_channels_that_are_not_there_is_refused():
    with pytest.raises(ValueError, match="4 channels where the state has 3"):
        tiny.method("mdm", sampling={"channels": 4})
    with pytest.raises(ValueError, match="channels takes a whole number, 1 or more, or null"):
        Sampling(channels=0)


def test_full_fractions_are_no_fractions_and_share_their_draws():
    batch = tiny.batch("class")
    plain = tiny.method("mdm").stages[-1]
    full = tiny.method("mdm", fractions=[1, 1]).stages[-1]
    losses = [stage(batch, stage.draw(batch, tiny.noise())).total for stage in (plain, full)]
    assert torch.equal(*losses)


def test_the_draw_of_an_example_does_not_depend_on_the_batch_size():
    stage = tiny.method("mdm", objective={"stratified": False}).stages[-1]
    batch = tiny.batch("class", 3)
    many = stage.draw(batch, per_example([3, 4, 5]))
    last = batch.map(lambda part: part[2:])
    one = stage.draw(last, per_example([5]))
    assert torch.equal(many.t[2:], one.t)
    assert all(torch.equal(a[2:], b) for a, b in zip(many.eps, one.eps, strict=True))


def test_images_larger_than_the_finest_level_are_pooled_on_the_way_in():
    stage = tiny.method("end_to_end").stages[0]
    images = torch.rand(2, 3, 32, 32)
    cond = tiny.cond("class", 2)
    large = Batch(images, cond)
    small = Batch(torch.nn.functional.avg_pool2d(images, 2), cond)
    draws = stage.draw(large, tiny.noise())
    torch.testing.assert_close(stage(large, draws).total, stage(small, draws).total)


def test_a_denoiser_of_the_wrong_depth_is_refused():
    node = tiny.method_node("mdm", (16, 8))
    with pytest.raises(ValueError, match=r"1 level\(s\) for 2 resolutions \[16, 8\]"):
        methods.build({**node, "denoiser": tiny.denoiser_node("unet")})
    with pytest.raises(ValueError, match="end_to_end has one resolution"):
        methods.build({**node, "name": "end_to_end"})


def test_sampling_is_a_value_with_parts_or_their_nodes():
    node = {"rule": {"name": "dpmpp_2m"}, "grid": {"name": "uniform"}}
    assert Sampling() == build(Sampling, node)


def test_every_process_trains_and_samples():
    """The start of a trajectory has the standard deviation of its process at t = 1."""
    for process, schedule, std in (
        ("variance_preserving", {"name": "cosine"}, 1),
        ("flow", {"name": "linear_flow"}, 1),
        ("variance_exploding", {"name": "power", "sigma_max": 80}, 80),
    ):
        parameterization = {"prediction": "edm", "input_scale": "data"}
        method = tiny.method(
            "mdm",
            process=process,
            schedule=schedule,
            shift=0.0,
            objective={"parameterization": parameterization, "loss_space": "x0"},
        )
        stage, batch = method.stages[-1], tiny.batch("class")
        assert torch.isfinite(stage(batch, stage.draw(batch, tiny.noise())).total)
        first = []
        stage.denoiser.register_forward_pre_hook(
            lambda module, args, first=first: first.append(args)
        )
        images = method.sample(Request(64, noise=tiny.noise(), steps=3))
        seen = first[0][0][0].std() * (1 if std == 1 else 80)  # c_in is 1 / sigma here
        assert float(seen) == pytest.approx(std, rel=0.02)
        assert all(torch.isfinite(level).all() for level in images.values())


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"guidance": float("inf")}, "guidance=inf: guidance takes a number"),
        ({"guidance": [1.0, float("nan")]}, "guidance takes a number"),
        ({"interval": [float("nan"), 1.0]}, "interval takes a list of two numbers"),
        ({"interval": [0.0]}, "interval takes a list of two"),
        ({"threshold": {"name": "static", "limit": float("nan")}}, "limit takes a number above 0"),
        ({"threshold": {"name": "dynamic", "cap": float("inf")}}, "cap takes a number, 1 or more"),
        ({"grid": {"name": "mdm", "table": 3}, "steps": 9}, "choose another grid, or fewer steps"),
        ({"rule": {"name": "ddim", "eta": float("nan")}}, "eta takes a number, 0 or more"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_training(sampling, message):
    with pytest.raises(ValueError, match=message) as error:
        tiny.method("mdm", sampling={"steps": 3, **sampling})
    assert "\n" not in str(error.value)


def test_guidance_of_one_call_is_checked_too():
    method = tiny.method("mdm")
    for scale in (float("nan"), float("inf"), []):
        with pytest.raises(ValueError, match="guidance takes a number"):
            method.sample(Request(1, noise=tiny.noise(), guidance=scale))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", tiny.SAMPLED)
def test_weights_that_are_not_finite_give_no_images(name, value):
    """Also behind a threshold, which would clip an infinity to white; the stage has its name."""
    method = tiny.method(name)
    stage = method.stages[-1]
    with torch.no_grad():
        for parameter in stage.denoiser.parameters():
            parameter.fill_(value)
    with pytest.raises(FloatingPointError, match=rf"stage {stage.name} .*step 1 of \d.*level 0"):
        method.sample(Request(2, Cond(labels=torch.tensor([0, 1])), noise=tiny.noise()))


NEST = {"name": "nested_unet", "width": 8, "groups": 4, "blocks": 1, "attention": 0}
INNER = {"name": "unet", "width": 8, "multiples": [1], "groups": 4, "blocks": 1, "attention": 0}


def nested(resolutions, **outer):
    node = {"name": "mdm", "resolutions": resolutions, "sampling": {"steps": 2}}
    return {**node, "denoiser": {**NEST, "inner": INNER, **outer}}


@pytest.mark.parametrize(
    ("resolutions", "outer", "message"),
    [
        ([64, 16], {"multiples": [1, 1]}, r"1 times, down to 32 px.*16 px.*1 more, 3 in all"),
        ([64, 16], {"multiples": [1]}, r"0 times, down to 64 px.*2 more, 3 in all.*\[1, 1, 1\]"),
        ([32, 16], {"multiples": [1, 1, 1]}, r"2 times, down to 8 px.*1 fewer, 2 in all"),
        ([32, 16], {"multiples": [1, 1], "resample_first": True}, r"1 fewer, 1 in all, such as"),
        ([24, 8], {"multiples": [1, 1]}, r"halves 24 px.*works at 8 px: choose resolutions"),
        ([15, 5], {"multiples": [1]}, r"halves 15 px until it meets"),
    ],
)
def test_a_nesting_whose_sides_do_not_meet_says_how_many_multiples_do(resolutions, outer, message):
    with pytest.raises(ValueError, match=message):
        methods.build(nested(resolutions, **outer))


@pytest.mark.parametrize(
    ("resolutions", "outer"),
    [([64, 16], {"multiples": [1, 1, 1]}), ([32, 16], {"multiples": [1], "resample_first": True})],
)
def test_a_nesting_with_the_multiples_that_were_asked_for_trains(resolutions, outer):
    stage = methods.build(nested(resolutions, **outer)).stages[-1]
    batch = tiny.batch("unconditional", 2, resolutions[0])
    assert torch.isfinite(stage(batch, stage.draw(batch, tiny.noise())).total)


def test_a_learned_variance_of_a_network_that_learns_none_is_refused_at_build():
    with pytest.raises(ValueError, match=r"learned variance, and UNet learns none: choose.*small"):
        tiny.method("mdm", sampling={"rule": {"name": "ancestral", "variance": "learned"}})


def test_a_clock_of_another_schedule_than_the_level_s_is_refused_at_build():
    steps = {"name": "steps", "schedule": {"name": "linear_beta"}}
    network = {**tiny.denoiser_node("unet"), "clock": steps}
    fits = {"resolutions": [16], "denoiser": network, "schedule": {"name": "linear_beta"}}
    methods.build({"name": "mdm", **fits})
    with pytest.raises(ValueError, match=r"counts steps of LinearBeta.*level follows .*Cosine"):
        methods.build({"name": "mdm", **fits, "schedule": {"name": "cosine"}})
    with pytest.raises(ValueError, match="resolution=16, reference=8"):
        methods.build({"name": "mdm", **fits, "reference": 8})


@pytest.mark.parametrize("option", ["classes", "text_width", "low_channels"])
def test_a_network_made_for_other_conditions_than_there_are_is_refused_at_build(option):
    node = {"name": "mdm", "resolutions": [16], "denoiser": tiny.denoiser_node("unet")}
    node["denoiser"][option] = 5
    with pytest.raises(ValueError, match=f"made for {option}=5, and is given 0: leave `{option}`"):
        methods.build(node, offered=tiny.facts("unconditional"))


def test_conditions_of_the_data_that_no_network_reads_are_refused():
    plain = tiny.method("mdm", "unconditional")
    plain.check_facts({"channels": 3, "classes": 3})  # said in the log
    with pytest.raises(ValueError, match=r"reads the vector 'image' .* `vectors`, {image: 5}"):
        plain.check_facts({"channels": 3, "vectors": {"image": 5}})
    with pytest.raises(ValueError, match=r"data.scalars=\['scale'\]: no network .* reads 'scale'"):
        plain.check_facts({"channels": 3, "scalars": ("scale",)})
    with pytest.raises(ValueError, match="data.text gives captions that no network"):
        plain.check_facts({"channels": 3, "text_width": 6})
    reads = {**tiny.denoiser_node("unet"), "scalars": {"crop": 64}}
    reading = methods.build({"name": "mdm", "resolutions": [16], "denoiser": reads})
    with pytest.raises(ValueError, match="reads the scalar 'crop', which the data does not give"):
        reading.check_facts({"channels": 3})
    reading.check_facts({"channels": 3, "scalars": ("crop",)})
    reads = {**tiny.denoiser_node("unet"), "vectors": {"image": 5}}
    reading = methods.build({"name": "mdm", "resolutions": [16], "denoiser": reads})
    for facts, found in (({}, "not at all"), ({"vectors": {"image": 4}}, "at a width of 4")):
        with pytest.raises(ValueError, match=f"vector 'image' of width 5, .* gives {found}"):
            reading.check_facts({"channels": 3, **facts})
    reading.check_facts({"channels": 3, "vectors": {"image": 5}})


@pytest.mark.parametrize(
    ("cond", "name"),
    [
        ({"vectors": {"image": torch.zeros(2, 4)}}, r"vectors\['image'\]"),
        ({"low": torch.zeros(2, 3, 16, 16)}, "low"),
        ({"scalars": {"scale": torch.ones(2)}}, r"scalars\['scale'\]"),
    ],
)
def test_a_condition_that_nothing_reads_is_refused_in_sampling(cond, name):
    with pytest.raises(ValueError, match=f"no network of the method reads cond.{name}: leave"):
        tiny.method("mdm", "unconditional").sample(Request(2, Cond(**cond), noise=tiny.noise()))


def test_an_image_that_nothing_reads_is_refused_in_training():
    batch = tiny.batch("unconditional", 2)
    batch = replace(batch, cond=Cond(low=torch.zeros(2, 3, 16, 16)))
    stage = tiny.method("mdm", "unconditional").stages[-1]
    with pytest.raises(ValueError, match="reads cond.low"):
        stage.draw(batch, tiny.noise())


def vector_and_scalar(**objective) -> Method:
    reads = {"vectors": {"image": 5}, "scalars": ["crop"]}
    node = {"name": "end_to_end", "resolutions": [8], "sampling": {"steps": 2}}
    node |= {"denoiser": {**tiny.denoiser_node("dit"), **reads}, "objective": objective}
    return tiny.randomised(methods.build(node, offered=tiny.facts("class")))


def test_a_caller_may_leave_out_what_the_network_reads_and_it_is_none():
    method = vector_and_scalar()
    none = Cond(vectors={"image": torch.zeros(2, 5)}, scalars={"crop": torch.full((2,), torch.nan)})
    some = Cond(vectors={"image": torch.ones(2, 5)}, scalars={"crop": torch.ones(2)})
    left_out, stated, other = (
        method.sample(Request(2, cond, noise=tiny.noise()))[8] for cond in (Cond(), none, some)
    )
    assert torch.equal(left_out, stated) and not torch.equal(left_out, other)
    with pytest.raises(ValueError, match="3 image for 2 images"):
        method.sample(Request(2, Cond(vectors={"image": torch.zeros(3, 5)}), noise=tiny.noise()))


def test_guidance_leaves_out_the_vectors_and_keeps_the_scalars():
    stage, seen = vector_and_scalar().stages[0], []
    stage.denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    some = Cond(vectors={"image": torch.ones(2, 5)}, scalars={"crop": torch.ones(2)})
    stage.sample(Request(2, some, noise=tiny.noise(), guidance=2.0))
    strong, weak = seen[0].vectors["image"].chunk(2)  # both passes are one call
    assert strong.all() and not weak.any()
    assert torch.equal(*seen[0].scalars["crop"].chunk(2))


def test_conditions_are_dropped_in_training_each_at_its_own_rate():
    stage = vector_and_scalar(drop={"image": 1.0, "label": 0.0, "crop": 1.0}).stages[0]
    seen = []
    stage.denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    batch = tiny.batch("class", side=8)
    some = replace(batch.cond, vectors={"image": torch.ones(4, 5)}, scalars={"crop": torch.ones(4)})
    batch = replace(batch, cond=some)
    stage(batch, stage.draw(batch, tiny.noise())).total.backward()
    assert not seen[0].vectors["image"].any() and seen[0].scalars["crop"].isnan().all()
    assert torch.equal(seen[0].labels, batch.cond.labels)


def test_a_drop_rate_of_a_condition_that_the_network_does_not_read_is_refused_at_build():
    with pytest.raises(ValueError, match="drop names the condition 'caption', which DiT does not"):
        vector_and_scalar(drop={"caption": 0.1})


def test_the_channels_of_the_data_are_not_those_that_guidance_acts_on():
    method = methods.build(tiny.method_node("mdm"), offered={"channels": 3})
    assert method.stages[-1].sampling.channels is None
