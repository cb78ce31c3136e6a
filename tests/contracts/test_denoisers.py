"""What holds for every registered denoiser, at each depth it can be nested to."""

import inspect
import io
from dataclasses import replace

import pytest
import torch

from hierdiff.batch import Cond
from hierdiff.denoisers import Joined, denoisers
from hierdiff.metrics.cost import active_parameters, parameters
from tests import tiny

CASES = list(tiny.denoiser_cases())
each_deep = pytest.mark.parametrize("case", CASES, ids=str)
# a third level in slow tests, but for the contracts that a nest can break
each = pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[pytest.mark.slow] * (c.depth > 2)) for c in CASES],
    ids=str,
)
UPSAMPLERS = [
    case
    for case in CASES
    if "low_channels" in inspect.signature(denoisers.get(case.name)).parameters
]
each_upsampler = pytest.mark.parametrize("case", UPSAMPLERS, ids=str)


def run(network, x_t, log_snr, cond):
    return network(x_t, log_snr, network.prepare(cond))


def without_gradient(network, x_t, log_snr, cond):
    """Parameters to which no gradient comes in one call; of experts, in as many as choose each."""
    for _ in range(8 if active_parameters(network) < parameters(network) else 1):
        out = run(network, x_t, log_snr, cond).levels
        sum((level * torch.randn(level.shape)).sum() for level in out).backward()
    return [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]


@each_deep
@tiny.kinds
def test_shapes_in_are_shapes_out_and_values_are_finite(case, kind):
    network = tiny.denoiser(case.name, kind, case.depth)
    assert network.levels == case.depth
    x_t, log_snr = case.state(3)
    out = run(network, x_t, log_snr, tiny.cond(kind, 3)).levels
    assert [level.shape for level in out] == [level.shape for level in x_t]
    assert all(torch.isfinite(level).all() for level in out)


@each_deep
@tiny.swept_kinds
def test_every_parameter_gets_a_gradient(case, kind):
    network = tiny.denoiser(case.name, kind, case.depth)
    x_t, log_snr = case.state(3)
    assert not without_gradient(network, x_t, log_snr, tiny.cond(kind, 3))


@each
@tiny.swept_kinds
def test_one_example_does_not_touch_another(case, kind):
    network = tiny.denoiser(case.name, kind, case.depth).eval()
    x_t, log_snr = case.state(3)
    cond = tiny.cond(kind, 3)
    both = run(network, x_t, log_snr, cond).levels
    for row in range(3):
        one = slice(row, row + 1)
        alone = run(
            network,
            tuple(level[one] for level in x_t),
            log_snr[one],
            cond.map(lambda part, one=one: part[one]),
        ).levels
        wanted = tuple(level[one] for level in both)
        torch.testing.assert_close(alone, wanted, rtol=1e-4, atol=1e-4)


@each
@tiny.swept_kinds
def test_state_noise_level_and_condition_all_matter(case, kind):
    network = tiny.denoiser(case.name, kind, case.depth).eval()
    x_t, log_snr = case.state(3)
    cond = tiny.cond(kind, 3)
    usual = run(network, x_t, log_snr, cond).levels
    changed = [
        run(network, tuple(level + 0.5 for level in x_t), log_snr, cond).levels,
        run(network, x_t, log_snr + 3, cond).levels,
    ]
    if kind != "unconditional":
        nothing = cond.dropped(torch.ones(3, dtype=torch.bool))
        changed.append(run(network, x_t, log_snr, nothing).levels)
    for other in changed:
        for a, b in zip(usual, other, strict=True):
            assert (a - b)[-1].abs().max() > 1e-5


@each
def test_a_state_dict_rebuilds_the_network_from_its_node(case):
    network = tiny.denoiser(case.name, "class and text", case.depth).eval()
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    node, facts = tiny.denoiser_node(case.name, case.depth), tiny.facts("class and text")
    again = denoisers.build(node, offered=facts).eval()
    again.load_state_dict(torch.load(file, weights_only=True))
    x_t, log_snr = case.state(2)
    cond = tiny.cond("class and text", 2)
    first, second = (run(net, x_t, log_snr, cond).levels for net in (network, again))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@each
def test_two_calls_agree(case):
    network = tiny.denoiser(case.name, depth=case.depth).eval()
    x_t, log_snr = case.state(2)
    first, second = (run(network, x_t, log_snr, tiny.cond("", 2)).levels for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@each_deep
def test_the_tail_is_the_same_object_inside(case):
    network = tiny.denoiser(case.name, depth=case.depth)
    inside = {id(module) for module in network.modules()}
    for n in range(1, case.depth + 1):
        tail = network.tail(n)
        assert tail.levels == n and id(tail) in inside
    for n in (0, case.depth + 1):
        with pytest.raises(ValueError, match=r"level\(s\), not"):
            network.tail(n)


@each
@pytest.mark.parametrize(
    ("kind", "message"),
    [("class", r"3 classes.*no labels.*-1 for none"), ("text", r"reads text.*empty mask")],
)
def test_a_condition_that_is_missing_is_named(case, kind, message):
    with pytest.raises(ValueError, match=message):
        tiny.denoiser(case.name, kind, case.depth).prepare(Cond())


@each
def test_no_label_differs_from_every_class(case):
    network = tiny.denoiser(case.name, "class", case.depth).eval()
    x_t, log_snr = case.state(1)
    conds = [Cond(labels=torch.tensor([label])) for label in (-1, 0, 1, 2)]
    outs = [run(network, x_t, log_snr, cond).levels[-1] for cond in conds]
    for i, a in enumerate(outs):
        assert all((a - b).abs().max() > 1e-5 for b in outs[:i])


@each
def test_the_meta_device_is_enough_to_build(case):
    node, facts = tiny.denoiser_node(case.name, case.depth), tiny.facts("class")
    with torch.device("meta"):
        network = denoisers.build(node, offered=facts)
    assert all(p.device.type == "meta" for p in network.parameters())


def upsampler(case):
    facts = {**tiny.facts("unconditional"), "low_channels": 3}
    node = tiny.denoiser_node(case.name, case.depth)
    return tiny.randomised(denoisers.build(node, offered=facts)).eval()


def beside(x, augmentation=None):
    """A low-resolution image for the noisy one, and the log-SNR that it is given with."""
    low = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    level = None if augmentation is None else torch.full((len(x),), augmentation)
    return Cond(low=low, scalars={} if level is None else {"augmentation": level})


@each_upsampler
def test_an_upsampler_sees_the_low_resolution_image_and_its_noise_level(case):
    network = upsampler(case)
    x_t, log_snr = case.state(2)
    cond = beside(x_t[0], 1.0)
    usual = run(network, x_t, log_snr, cond).levels[0]
    assert usual.shape == x_t[0].shape
    others = {
        "image": Cond(low=cond.low.flip(-1), scalars=cond.scalars),
        "level": beside(x_t[0], 4.0),
    }
    for what, other in others.items():
        changed = run(network, x_t, log_snr, other).levels[0]
        assert ((changed - usual).abs().amax((1, 2, 3)) > 1e-5).all(), what


@each_upsampler
def test_a_low_resolution_image_is_clean_unless_told_otherwise(case):
    network = upsampler(case)
    x_t, log_snr = case.state(2)
    outs = [
        run(network, x_t, log_snr, beside(x_t[0], level)).levels[0]
        for level in (None, 30.0, 50.0, -30.0, -90.0)
    ]
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])
    assert torch.equal(outs[3], outs[4])  # both ends are limits


@each_upsampler
def test_every_parameter_of_an_upsampler_gets_a_gradient(case):
    network = upsampler(case)
    x_t, log_snr = case.state(3)
    assert not without_gradient(network.train(), x_t, log_snr, beside(x_t[0], 1.0))


@each_upsampler
def test_a_low_resolution_image_that_is_missing_is_named(case):
    x_t, log_snr = case.state(2)
    with pytest.raises(ValueError, match="low"):
        run(upsampler(case), x_t, log_snr, Cond())


def nested(name, kind="unconditional", **outer):
    """The network innermost in a U-Net, adapters as drawn: zero."""
    node = tiny.denoiser_node("nested_unet", 2) | outer
    node["inner"] = tiny.denoiser_node(name)
    return denoisers.build(node, offered=tiny.facts(kind)).eval()


each_innermost = pytest.mark.parametrize("name", [c.name for c in CASES if c.depth == 1])


@each_innermost
@tiny.swept_kinds
def test_adapters_as_drawn_leave_the_prediction_of_the_inner_network_unchanged(name, kind):
    network = nested(name, kind)
    tiny.randomised(network.inner)
    x_t, log_snr = tiny.state(2, 3)
    cond = tiny.cond(kind, 3)
    joint = run(network, x_t, log_snr, cond).levels[1]
    alone = run(network.tail(1), x_t[1:], log_snr[:, 1:], cond).levels[0]
    assert alone.abs().max() > 0 and torch.equal(joint, alone)


@each_innermost
def test_an_inner_network_is_nested_by_its_width_and_both_ways_are_open(name):
    network = tiny.randomised(nested(name))
    assert not isinstance(network.inner, Joined)
    assert not any("gives no features" in note for note in network.notes)
    width = network.inner.nest_width
    assert width > 3 and network.into.out_channels == network.back.in_channels == width
    x_t, log_snr = tiny.state(2, 3)
    usual = run(network, x_t, log_snr, Cond()).levels
    for changed in ((x_t[0] + 0.5, x_t[1]), (x_t[0], x_t[1] + 0.5)):
        for a, b in zip(usual, run(network, changed, log_snr, Cond()).levels, strict=True):
            assert ((a - b).abs().amax((1, 2, 3)) > 1e-5).all()


@each_innermost
def test_features_stand_where_their_pixels_do(name):
    """What is added at one side of an image reaches the features of that side first."""
    network = tiny.randomised(nested(name).inner)
    (x,), log_snr = tiny.state(1, 2)
    cond = network.prepare(Cond())
    zero = torch.zeros(2, network.nest_width, 8, 8, requires_grad=True)
    features = network((x,), log_snr, cond, None, zero).features
    assert features.shape == zero.shape
    features[0, :, 6:, 6:].square().sum().backward()
    grown = zero.grad.abs().sum(1)
    assert not grown[1].any()  # another example
    assert grown[0, 6:, 6:].mean() > grown[0].mean() > 0


@each_innermost
def test_every_parameter_of_a_nest_gets_a_gradient(name):
    network = tiny.randomised(nested(name, "class and text"))
    x_t, log_snr = tiny.Case(name, 2).state(3)
    assert not without_gradient(network.train(), x_t, log_snr, tiny.cond("class and text", 3))


@each_innermost
def test_a_row_without_the_finer_level_is_denoised_as_alone(name):
    network = tiny.randomised(nested(name))
    x_t, log_snr = tiny.state(2, 3)
    ragged = run(network, (x_t[0][:1], x_t[1]), log_snr, Cond()).levels[1]
    alone = run(network.tail(1), x_t[1:], log_snr[:, 1:], Cond()).levels[0]
    torch.testing.assert_close(ragged[1:], alone[1:], rtol=1e-4, atol=1e-4)
    assert (ragged[0] - alone[0]).abs().max() > 1e-5


NAMED = {"scalars": ["crop_top"], "vectors": {"image_embedding": 5}}


def with_named(case, kind="unconditional", **options):
    """A network that reads a scalar and a vector in its innermost part, weights as drawn."""
    node = tiny.denoiser_node(case.name, case.depth)
    innermost = node
    while "inner" in innermost:
        innermost = innermost["inner"]
    innermost |= NAMED | options
    return denoisers.build(node, offered=tiny.facts(kind)).eval()


def named(kind="unconditional", crop=7.0, embedding=1.0):
    scalars = {"crop_top": torch.full((3,), crop)}
    vectors = {"image_embedding": torch.full((3, 5), embedding)}
    return replace(tiny.cond(kind, 3), scalars=scalars, vectors=vectors)


@each
@tiny.swept_kinds
def test_a_scalar_and_a_vector_change_nothing_until_they_are_trained(case, kind):
    plain, reading = (
        with_named(case, kind, **own) for own in ({"scalars": None, "vectors": None}, {})
    )
    carried = plain.state_dict()
    if case.name == "rin" and "class" not in kind:
        return  # its vectors take the place of a learned latent
    missing = reading.load_state_dict(carried, strict=False).missing_keys
    assert missing and all("scalars" in key or "vectors" in key for key in missing)
    x_t, log_snr = case.state(3)
    usual = run(plain, x_t, log_snr, tiny.cond(kind, 3)).levels
    given = run(reading, x_t, log_snr, named(kind)).levels
    assert all(torch.equal(a, b) for a, b in zip(usual, given, strict=True))


@each
@tiny.swept_kinds
def test_a_scalar_and_a_vector_matter_once_they_are_trained(case, kind):
    network = tiny.randomised(with_named(case, kind))
    x_t, log_snr = case.state(3)
    usual = run(network, x_t, log_snr, named(kind)).levels
    others = {
        "scalar": named(kind, crop=90.0),
        "no scalar": named(kind, crop=torch.nan),
        "vector": named(kind, embedding=-1.0),
        "no vector": named(kind).dropped({"image_embedding": torch.ones(3, dtype=torch.bool)}),
    }
    for what, cond in others.items():
        changed = run(network, x_t, log_snr, cond).levels
        for a, b in zip(usual, changed, strict=True):
            assert ((a - b).abs().amax((1, 2, 3)) > 1e-6).all(), what


@each
def test_every_parameter_of_a_scalar_and_a_vector_gets_a_gradient(case):
    network = tiny.randomised(with_named(case))
    x_t, log_snr = case.state(3)
    assert not without_gradient(network.train(), x_t, log_snr, named())


@each
def test_a_scalar_or_a_vector_that_is_missing_or_of_another_width_is_named(case):
    network = with_named(case)
    x_t, log_snr = case.state(3)
    wide = replace(named(), vectors={"image_embedding": torch.ones(3, 4)})
    for cond, message in (
        (replace(named(), scalars={}), "scalar 'crop_top' and was given none"),
        (replace(named(), vectors={}), "vector 'image_embedding' of width 5 and was given none"),
        (wide, "vector 'image_embedding' of width 5 and was given one of 4"),
    ):
        with pytest.raises(ValueError, match=message):
            run(network, x_t, log_snr, cond)


@each
def test_a_network_says_what_it_reads(case):
    network = with_named(case, "class and text")
    assert network.reads.names == {"label", "caption", "crop_top", "image_embedding"}
    plain = tiny.denoiser(case.name, depth=case.depth)
    assert not plain.reads.names
    layers = ("scalars", "vectors")
    assert not [key for key in plain.state_dict() if any(layer in key for layer in layers)]
    with pytest.raises(ValueError, match="scalar 'caption' cannot be named so"):
        with_named(case, scalars=["caption"])
    with pytest.raises(ValueError, match="'crop_top' is the name of a scalar and of a vector"):
        with_named(case, vectors={"crop_top": 3})


@each
@tiny.swept_kinds
def test_units_are_called_as_modules_in_their_order_and_early_parts_before_them(case, kind):
    network = tiny.denoiser(case.name, kind, case.depth)
    units, early = network.units, network.early
    calls = []
    for module in (*units, *early):
        module.register_forward_pre_hook(lambda module, _: calls.append(module))
    x_t, log_snr = case.state(3)
    run(network, x_t, log_snr, tiny.cond(kind, 3))
    assert [*calls] == [*early, *units]
    inside = [{id(part) for part in unit.modules()} for unit in units]
    assert sum(map(len, inside)) == len(set().union(*inside))  # no unit is in another
    assert all(any(id(part) in parts for parts in inside) for part in early)
