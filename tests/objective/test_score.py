"""Score matching: loss spaces, levels, ragged batches, dropped conditions, two passes."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from hierdiff.batch import Cond
from hierdiff.denoisers import Denoiser, Prediction
from hierdiff.objective import (
    Draws,
    ScoreMatching,
    objectives,
)
from hierdiff.objective.weights import Constant, TruncatedSNR
from hierdiff.parameterization import Parameterization
from hierdiff.process import Flow, VariancePreserving
from hierdiff.schedules import Cosine, LinearFlow, Shifted
from hierdiff.solve import solve
from tests.objective.problems import NONE, ONE, PROCESS, B, Guess, loss, noise, problem


@pytest.mark.parametrize(
    ("weights", "shares"),
    [("pixels", [16, 4, 1]), ("sides", [4, 2, 1]), (None, [1, 1, 1]), ("finest", [1, 0, 0])],
)
def test_level_weights_by_size_are_those_of_the_levels(weights, shares):
    x0 = tuple(torch.zeros(2, 3, side, side) for side in (16, 8, 4))
    objective = ScoreMatching(level_weights=weights)
    assert objective.level_factors(x0) == pytest.approx(shares)
    if weights != "finest":
        assert objective.tail(2).level_factors(x0[1:]) == pytest.approx(shares[1:])
    clips = tuple(torch.zeros(2, 3, 2, side, side) for side in (16, 8))
    assert ScoreMatching(level_weights="pixels").level_factors(clips) == [4, 1]


def test_level_weights_multiply_their_level_in_the_total_only():
    plain = loss(ScoreMatching())
    assert list(plain.logs) == ["loss/4", "loss/2"]
    torch.testing.assert_close(plain.total, plain.logs["loss/4"] + plain.logs["loss/2"])
    heavy = loss(ScoreMatching(level_weights=[16, 0.5]))
    assert heavy.logs == plain.logs
    torch.testing.assert_close(heavy.total, 16 * plain.logs["loss/4"] + 0.5 * plain.logs["loss/2"])


def test_an_absolute_distance_is_the_mean_absolute_error_in_the_loss_space():
    x0, draws = problem()
    for space in ("eps", "v"):
        logs = loss(ScoreMatching(loss_space=space, distance="absolute")).logs
        square = loss(ScoreMatching(loss_space=space)).logs
        t = PROCESS.moment(draws.t)
        x_t = PROCESS.corrupt(x0, draws.eps, draws.t)
        parameterization = ScoreMatching().parameterization
        with torch.no_grad():
            clean, eps, _ = solve(Guess(), parameterization, x_t, t, NONE)
        for i, name in enumerate(("loss/4", "loss/2")):
            a, s = (c[:, i].reshape(-1, 1, 1, 1) for c in (t.alpha, t.sigma))
            error = (
                eps[i] - draws.eps[i]
                if space == "eps"
                else (a * (eps[i] - draws.eps[i]) - s * (clean[i] - x0[i]))
            )
            torch.testing.assert_close(logs[name], error.abs().mean())
            torch.testing.assert_close(square[name], (error**2).mean())


def test_the_weight_of_an_absolute_distance_is_the_root_of_that_of_the_square():
    one = torch.tensor([0.4], dtype=torch.float64)
    x0, eps = (noise(seed)((1, 3, 2, 2)) for seed in (1, 2))
    draws = Draws(one, (eps,), torch.tensor([False]))
    plain, heavy = (
        loss(
            ScoreMatching(weight=weight, distance="absolute", loss_space="x0"),
            ONE,
            x0=(x0,),
            draws=draws,
            denoiser=OneGuess(),
        ).total
        for weight in (Constant(), TruncatedSNR())
    )
    snr = float(ONE.log_snr(one).exp())
    assert float((heavy / plain).detach()) == pytest.approx(math.sqrt(max(snr, 1)))


class OneGuess(Guess):
    levels = 1


def test_a_level_counts_the_same_whatever_its_number_of_pixels():
    """A wrong constant: each level's mean square is that of one pixel."""
    process = VariancePreserving([Cosine(), Cosine()])
    x0 = torch.ones(1, 3, 4, 4).double(), torch.ones(1, 3, 2, 2).double()
    draws = Draws(torch.tensor([0.5]).double(), x0, torch.tensor([False]))
    logs = loss(ScoreMatching(), process, x0=x0, draws=draws).logs
    torch.testing.assert_close(logs["loss/4"], logs["loss/2"])


def ragged(objective, roll):
    x0, draws = problem()
    x0 = tuple(level.roll(roll, 0) for level in x0)
    eps = tuple(level.roll(roll, 0) for level in draws.eps)
    draws = Draws(draws.t.roll(roll), (eps[0][: B // 2], eps[1]), draws.drop)
    return loss(objective, x0=(x0[0][: B // 2], x0[1]), draws=draws)


def test_a_mixed_batch_has_the_loss_of_the_full_one_on_average():
    """Each example is once among those with the high level: the mean is the full loss exactly."""
    objective = ScoreMatching(level_weights=[3, 1])
    full = loss(objective)
    parts = [ragged(objective, roll) for roll in (0, B // 2)]
    torch.testing.assert_close((parts[0].total + parts[1].total) / 2, full.total)
    assert not torch.allclose(parts[0].logs["loss/4"], full.logs["loss/4"])
    torch.testing.assert_close(parts[0].logs["loss/2"], full.logs["loss/2"])


def test_the_gradient_of_a_mixed_batch_is_unbiased_too():
    def gradient(run):
        denoiser = Guess()
        x0, draws = problem()
        total = run(denoiser)
        total.backward()
        return denoiser.factor.grad

    x0, draws = problem()
    full = gradient(lambda d: loss(ScoreMatching(), denoiser=d).total)

    def half(denoiser, rows):
        order = [*rows, *[i for i in range(B) if i not in rows]]
        levels = tuple(level[order] for level in x0)
        eps = tuple(level[order] for level in draws.eps)
        part = Draws(draws.t[order], (eps[0][:2], eps[1]), draws.drop)
        return loss(
            ScoreMatching(), denoiser=denoiser, x0=(levels[0][:2], levels[1]), draws=part
        ).total

    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    mean = sum(gradient(lambda d, p=p: half(d, p)) for p in pairs) / len(pairs)
    torch.testing.assert_close(mean, full)


def test_losses_of_the_denoiser_are_added_and_logged():
    extra = {"commitment": torch.tensor([1.0, 3.0, 0.0, 0.0], dtype=torch.float64)}
    plain, more = loss(ScoreMatching()), loss(ScoreMatching(), denoiser=Guess(extra))
    torch.testing.assert_close(more.total, plain.total + 1)
    assert float(more.logs["loss/commitment"]) == 1


def test_the_network_is_told_log_snr_within_30_and_sees_the_scaled_state():
    process = VariancePreserving([Shifted(Cosine(-60, 60), 4, 2), Cosine(-60, 60)])
    t = torch.tensor([1e-9, 0.3, 0.6, 1 - 1e-9], dtype=torch.float64)
    x0, draws = problem(t=t)
    denoiser = Guess()
    objective = ScoreMatching(Parameterization("v", "sample"))
    loss(objective, process, denoiser, x0, draws)
    x_t, log_snr, _ = denoiser.told[0]
    assert log_snr.abs().max() == 30
    torch.testing.assert_close(log_snr, process.log_snr(t).clamp(-30, 30))
    torch.testing.assert_close(x_t[0].std(dim=(1, 2, 3)), torch.ones(B, dtype=torch.float64))


def test_dropped_examples_lose_label_and_text_and_nothing_else():
    cond = Cond(
        labels=torch.tensor([0, 1, 2, 3]),
        tokens=torch.ones(B, 2, 3),
        mask=torch.ones(B, 2, dtype=torch.bool),
        vectors={"pooled": torch.ones(B, 5)},
        scalars={"scale": torch.ones(B)},
        low=torch.ones(B, 3, 2, 2),
    )
    x0, draws = problem()
    drop = torch.tensor([True, False, False, True])
    denoiser = Guess()
    loss(
        ScoreMatching(), denoiser=denoiser, x0=x0, draws=Draws(draws.t, draws.eps, drop), cond=cond
    )
    told = denoiser.told[0][2]
    assert told.labels.tolist() == [-1, 1, 2, -1]
    assert told.tokens[:, 0, 0].tolist() == [0, 1, 1, 0]
    assert told.mask[:, 0].tolist() == [False, True, True, False]
    assert told.vectors["pooled"][:, 0].tolist() == [0, 1, 1, 0]
    assert told.scalars["scale"].tolist() == [1] * B and told.low.min() == 1


@pytest.mark.parametrize(("rate", "low", "high"), [(0, 0, 0), (1, 1, 1), (0.1, 0.08, 0.12)])
def test_conditions_are_dropped_at_the_stated_rate(rate, low, high):
    draws = ScoreMatching(drop=rate).draw(PROCESS, [(2, 1, 2, 2), (4000, 1, 1, 1)], noise())
    assert low <= float(draws.drop.float().mean()) <= high
    assert draws.t.shape == (4000,) and [len(e) for e in draws.eps] == [2, 4000]


def test_conditions_are_dropped_independently_each_at_its_own_rate():
    rates = {"label": 0.1, "image_embedding": 0.5}
    draws = ScoreMatching(drop=rates).draw(PROCESS, [(2, 1, 2, 2), (20_000, 1, 1, 1)], noise())
    label, image = (draws.drop[name].double() for name in rates)
    assert float(label.mean()) == pytest.approx(0.1, abs=0.009)  # 4 standard errors
    assert float(image.mean()) == pytest.approx(0.5, abs=0.015)
    assert float((label * image).mean()) == pytest.approx(0.05, abs=0.007)


def test_a_rate_for_all_draws_the_numbers_it_always_has():
    shapes = [(2, 1, 2, 2), (6, 1, 1, 1)]
    one = ScoreMatching(drop=0.3).draw(PROCESS, shapes, noise())
    named = ScoreMatching(drop={"label": 0.3}).draw(PROCESS, shapes, noise())
    assert torch.equal(one.drop, named.drop["label"])
    assert torch.equal(one.eps[0], named.eps[0]) and torch.equal(one.t, named.t)


def test_noise_of_the_levels_is_independent():
    draws = ScoreMatching().draw(PROCESS, [(2000, 1, 1, 1)] * 2, noise())
    a, b = (e.flatten() for e in draws.eps)
    assert abs(float((a * b).mean())) < 4 / math.sqrt(2000)


def test_eps_prediction_is_refused_where_the_snr_is_zero_at_the_end():
    process = Flow([LinearFlow()])
    with pytest.raises(ValueError, match=r"'eps' with SNR 0.*predict 'v' or 'x0'"):
        ScoreMatching(Parameterization("eps")).check(process)
    ScoreMatching(Parameterization("v")).check(process)
    ScoreMatching(Parameterization("eps")).check(VariancePreserving([Cosine()]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_space": "epsilon"}, r"unknown prediction 'epsilon', did you mean 'eps'"),
        ({"drop": 1.5}, r"drop=1.5: drop takes a number from 0 to 1"),
        ({"drop": {"label": 0.1, "caption": 1.5}}, r"drop takes a number from 0 to 1"),
        ({"self_conditioning": 2}, r"self_conditioning takes a number from 0 to 1"),
        ({"vlb": -1.0}, r"vlb takes a number, 0 or more"),
        ({"vlb": 1.0, "vlb_steps": 1}, r"vlb_steps takes a whole number, 2 or more"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ScoreMatching(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": {"name": "minsnr"}}, r"unknown loss weight 'minsnr', did you mean 'min_snr'"),
        ({"weight": {"name": "min_snr", "gama": 5}}, r"no option 'gama', did you mean 'gamma'"),
        ({"time": {"name": "logitnormal"}}, r"did you mean 'logit_normal'"),
    ],
)
def test_bad_parts_are_refused_with_the_nearest_good_one(options, message):
    with pytest.raises(ValueError, match=message):
        objectives.build(options)


def test_one_level_weight_is_needed_for_each_level():
    with pytest.raises(ValueError, match="3 level weights for 2 levels"):
        ScoreMatching(level_weights=[1, 2, 3]).check(PROCESS)
    with pytest.raises(ValueError, match="1 input scales for 2 levels"):
        ScoreMatching(Parameterization("v", ["sample"])).check(PROCESS)


def test_the_tail_keeps_weights_and_input_scales_of_the_coarsest_levels():
    whole = ScoreMatching(Parameterization("v", ["sample", "none"]), level_weights=[4, 1])
    tail = whole.tail(1)
    assert list(tail.level_weights) == [1]
    assert list(tail.parameterization.input_scale) == ["none"]
    assert ScoreMatching().tail(1) == ScoreMatching()


class Silent(Denoiser):
    """Predicts eps = 0: its error is the noise itself."""

    def forward(self, x_t, log_snr, cond, carry=None, added=None):
        return Prediction(tuple(torch.zeros_like(x) for x in x_t))


EPS = Parameterization("eps")


def silent_loss(objective, eps, t=None):
    b = len(eps)
    t = torch.full((b,), 0.4, dtype=torch.float64) if t is None else t
    draws = Draws(t, (eps,), torch.zeros(b, dtype=torch.bool))
    return objective(ONE, Silent(), (torch.zeros_like(eps),), NONE, draws)


def test_the_multiscale_loss_of_white_noise_is_the_published_number():
    """Unit error at 256 px; one pixel of 8 in each 8 x 8 block pools exactly as white noise does
    on average.
    """
    eps = torch.zeros(1, 1, 256, 256, dtype=torch.float64)
    eps[..., ::8, ::8] = 8.0
    found = silent_loss(ScoreMatching(EPS, multiscale=[32, 64, 128, 256]), eps)
    assert float(found.total) == pytest.approx(0.00732421875, rel=1e-12)
    assert float(found.logs["loss/256"]) == pytest.approx(1)
    for side in (32, 64, 128, 256):
        wanted = (side / 256) ** 2
        assert float(found.logs[f"multiscale/{side}"]) == pytest.approx(wanted, rel=1e-12)


def test_the_multiscale_loss_pools_errors_before_they_are_squared_and_weighs_each_example():
    draw = noise(3)
    eps, t = draw((B, 3, 4, 4)), torch.linspace(0.2, 0.8, B, dtype=torch.float64)
    objective = ScoreMatching(EPS, weight=TruncatedSNR(), multiscale=[2, 4])
    found = silent_loss(objective, eps, t)
    weight = (1 / Cosine()(t).exp()).clamp(min=1)  # of eps: max(SNR, 1) / SNR
    blocks = eps.reshape(B, 3, 2, 2, 2, 2).mean(dim=(3, 5))
    wanted = sum(
        (weight * e.square().mean(dim=(1, 2, 3))).mean() / s for s, e in ((2, blocks), (4, eps))
    )
    torch.testing.assert_close(found.total, wanted)


def test_one_scale_is_the_plain_loss_over_its_side():
    eps = noise(3)((B, 3, 4, 4))
    plain, one = (
        silent_loss(ScoreMatching(EPS), eps),
        silent_loss(ScoreMatching(EPS, multiscale=[4]), eps),
    )
    torch.testing.assert_close(one.total, plain.total / 4)
    assert torch.equal(one.logs["loss/4"], plain.logs["loss/4"])


@pytest.mark.parametrize("scales", [[2], [3, 4], [4, 4], [8, 4]])
def test_scales_are_divisors_of_the_side_with_the_side_among_them(scales):
    with pytest.raises(ValueError, match=r"at 4 px: name divisors of 4"):
        ScoreMatching(multiscale=scales).check(ONE, shapes=[(3, 4, 4)])
    ScoreMatching(multiscale=[2, 4]).check(ONE, shapes=[(3, 4, 4)])


def test_multiscale_is_for_one_level():
    with pytest.raises(ValueError, match=r"multiscale \[2, 4\] for 2 levels"):
        ScoreMatching(multiscale=[2, 4]).check(PROCESS)


class Remembering(Denoiser):
    """What it carries changes its prediction and depends on all of its parameters."""

    carries = True

    def __init__(self, carry=None):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))
        self.pull = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.fixed, self.calls = carry, []

    def forward(self, x_t, log_snr, cond, carry=None, added=None):
        carry = self.fixed if self.fixed is not None else carry
        (x,) = x_t
        self.calls.append((carry, torch.is_grad_enabled()))
        mean = x.mean(dim=(1, 2, 3))
        kept = torch.zeros_like(mean) if carry is None else carry[0]
        level = self.factor * x + self.pull * kept.reshape(-1, 1, 1, 1)
        return Prediction((level,), (self.factor * (mean + log_snr[:, 0]) + self.pull,))


def two_passes(again, denoiser=None, rate=0.9):
    draw = noise(4)
    x0, eps = (draw((B, 3, 2, 2)),), (draw((B, 3, 2, 2)),)
    t = torch.linspace(0.1, 0.9, B, dtype=torch.float64)
    again = None if again is None else torch.tensor(again)
    draws = Draws(t, eps, torch.zeros(B, dtype=torch.bool), again)
    denoiser = denoiser or Remembering()
    total = ScoreMatching(self_conditioning=rate)(ONE, denoiser, x0, NONE, draws).total
    return total, torch.autograd.grad(total, [denoiser.factor, denoiser.pull]), denoiser


AGAIN = [True, False, True, True]


def test_the_second_pass_sees_the_carry_of_the_first_where_it_may():
    _, _, denoiser = two_passes(AGAIN)
    (nothing, grad_first), (carry, grad_second) = denoiser.calls
    assert nothing is None and not grad_first and grad_second
    assert not carry[0].requires_grad
    assert float(carry[0][1]) == 0 and (carry[0][[0, 2, 3]] != 0).all()


def test_no_gradient_flows_through_the_first_pass():
    """Equal, value and gradient, to a pass whose carry is a constant; and a live one differs."""
    total, gradients, denoiser = two_passes(AGAIN)
    constant = denoiser.calls[1][0]
    wanted = two_passes(None, Remembering(constant))
    torch.testing.assert_close((total, gradients), wanted[:2], rtol=0, atol=0)

    class Live(Remembering):
        def forward(self, x_t, log_snr, cond, carry=None, added=None):
            first = super().forward(x_t, log_snr, cond).carry
            return super().forward(x_t, log_snr, cond, first)

    through = two_passes(None, Live())[1]
    stopped = two_passes([True] * B)
    torch.testing.assert_close(two_passes(None, Live())[0], stopped[0])
    assert not torch.allclose(through[0], stopped[1][0])


def test_examples_without_a_first_pass_see_what_one_pass_sees():
    found, wanted = two_passes([False] * B), two_passes(None)
    assert torch.equal(found[0], wanted[0])
    assert all(torch.equal(a, b) for a, b in zip(found[1], wanted[1], strict=True))


@pytest.mark.parametrize(("rate", "low", "high"), [(1, 1, 1), (0.9, 0.88, 0.92)])
def test_the_first_pass_counts_at_the_stated_rate(rate, low, high):
    draws = ScoreMatching(self_conditioning=rate).draw(ONE, [(4000, 1, 1, 1)], noise())
    assert low <= float(draws.again.float().mean()) <= high


def test_without_self_conditioning_nothing_more_is_drawn_and_with_it_last():
    plain, more = (
        ScoreMatching(drop=0.1, self_conditioning=rate).draw(PROCESS, [(3, 1, 2, 2)] * 2, noise())
        for rate in (0.0, 0.9)
    )
    assert plain.again is None and more.again.shape == (3,)
    assert torch.equal(plain.t, more.t) and torch.equal(plain.drop, more.drop)
    assert all(torch.equal(a, b) for a, b in zip(plain.eps, more.eps, strict=True))
    asked = []

    def counted(shape):
        asked.append(tuple(shape))
        return torch.zeros(*shape, dtype=torch.float64)

    ScoreMatching(self_conditioning=0.0).draw(PROCESS, [(3, 1, 2, 2)] * 2, counted)
    assert asked == [(3,)] * 3 + [(3, 1, 2, 2)] * 2


def test_mixed_precision_loses_no_gradient_to_the_first_pass():
    """A weight whose cast were cached without a gradient would get none in the second pass."""

    class Layer(Remembering):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(12, 12, bias=False)

        def forward(self, x_t, log_snr, cond, carry=None, added=None):
            moved = self.layer(x_t[0].flatten(1).float()).reshape(x_t[0].shape).double()
            return super().forward((moved,), log_snr, cond, carry)

    denoiser = Layer()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = torch.ones(B, 3, 2, 2, dtype=torch.float64)
        draws = Draws(torch.full((B,), 0.5).double(), (x,), torch.zeros(B) > 0, torch.ones(B) > 0)
        ScoreMatching(self_conditioning=1.0)(ONE, denoiser, (x,), NONE, draws).total.backward()
    assert denoiser.layer.weight.grad.abs().max() > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of the compiler are not ours
def test_two_passes_compile_to_one_graph(pytestconfig):
    if pytestconfig.getoption("jaxtyping_packages"):
        pytest.skip("the compiler cannot trace shape checks: run with --jaxtyping-packages=")

    class Quiet(Remembering):
        def forward(self, x_t, log_snr, cond, carry=None, added=None):
            kept = 0.0 if carry is None else carry[0].reshape(-1, 1, 1, 1)
            level = self.factor * x_t[0] + self.pull * kept
            return Prediction((level,), (self.factor * log_snr[:, 0] + self.pull,))

    denoiser, draw = Quiet(), noise(4)
    x0, eps = (draw((B, 3, 2, 2)),), (draw((B, 3, 2, 2)),)
    objective = ScoreMatching(EPS, self_conditioning=0.5, multiscale=[1, 2])
    t = torch.linspace(0.1, 0.9, B, dtype=torch.float64)
    draws = Draws(t, eps, torch.zeros(B) > 0, torch.tensor(AGAIN))

    def total(denoiser, x0, draws):
        return objective(ONE, denoiser, x0, NONE, draws).total

    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    for mask in (AGAIN, AGAIN[::-1]):
        now = replace(draws, again=torch.tensor(mask))
        results = []
        for run in (compiled, total):
            denoiser.zero_grad()
            value = run(denoiser, x0, now)
            value.backward()
            results.append((value.detach(), denoiser.factor.grad, denoiser.pull.grad))
        torch.testing.assert_close(*results)


def test_a_network_that_carries_nothing_is_refused_two_passes():
    with pytest.raises(ValueError, match=r"0.9 with Guess, which carries nothing"):
        ScoreMatching(self_conditioning=0.9).check(PROCESS, Guess())
    ScoreMatching(self_conditioning=0.9).check(ONE, Remembering())
    ScoreMatching().check(PROCESS, Guess())


def test_levels_of_one_side_are_logged_by_their_place():
    """Bands of a transform share a side: none hides the other."""
    process = VariancePreserving([Cosine(), Cosine()])
    eps = torch.ones(1, 1, 2, 2).double(), torch.ones(1, 1, 2, 2).double()
    x0 = eps[0], 3 * eps[1]
    draws = Draws(torch.tensor([0.5]).double(), eps, torch.tensor([False]))
    found = loss(ScoreMatching(), process, x0=x0, draws=draws)
    assert list(found.logs) == ["loss/2-0", "loss/2-1"]
    assert not torch.equal(found.logs["loss/2-0"], found.logs["loss/2-1"])
    torch.testing.assert_close(found.total, sum(found.logs.values()))


@pytest.mark.parametrize("node", [{}, {"loss_space": "v"}])
def test_an_objective_without_a_name_is_score_matching(node):
    assert objectives.build(node) == objectives.build({"name": "score", **node})
    assert objectives.build(node) == ScoreMatching(**node)
