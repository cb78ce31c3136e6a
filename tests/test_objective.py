"""The training loss: weights, loss spaces, levels, ragged batches, dropped conditions, times."""

import logging
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hierdiff.batch import Cond
from hierdiff.denoisers import Denoiser, Prediction
from hierdiff.noise import from_generator
from hierdiff.objective import (
    Draws,
    Objective,
    densities,
    uniforms,
    variational_bound,
    weights,
)
from hierdiff.parameterization import PREDICTIONS, Parameterization
from hierdiff.process import Flow, VariancePreserving
from hierdiff.schedules import Cosine, LinearBeta, LinearFlow, Power, Shifted

PROCESS = VariancePreserving([Shifted(Cosine(), 4, 2, 1.0), Cosine()])
B = 4
NONE = Cond()


class Guess(Denoiser):
    """Each level times a number plus its log-SNR: uses all of its inputs, and keeps them."""

    levels = 2

    def __init__(self, losses=None):
        super().__init__()
        self.factor, self.losses, self.told = nn.Parameter(torch.tensor(0.4)), losses, []

    def forward(self, x_t, log_snr, cond, carry=None, added=None):
        self.told.append((x_t, log_snr, cond))
        levels = tuple(
            self.factor.to(x.dtype) * x + 0.02 * log_snr[: len(x), i].reshape(-1, 1, 1, 1)
            for i, x in enumerate(x_t)
        )
        return Prediction(levels, losses=self.losses)


def noise(seed=0, dtype=torch.float64):
    return from_generator(torch.Generator().manual_seed(seed), dtype=dtype)


def problem(rows=B, t=None):
    draw = noise(1)
    x0 = draw((rows, 3, 4, 4)), draw((rows, 3, 2, 2))
    eps = draw((rows, 3, 4, 4)), draw((rows, 3, 2, 2))
    t = torch.linspace(0.1, 0.9, rows, dtype=torch.float64) if t is None else t
    return x0, Draws(t, eps, torch.zeros(rows, dtype=torch.bool))


def loss(objective, process=PROCESS, denoiser=None, x0=None, draws=None, cond=NONE):
    given_x0, given_draws = problem()
    return objective(process, denoiser or Guess(), x0 or given_x0, cond, draws or given_draws)


@pytest.mark.parametrize("prediction", ["v", "eps", "x0", "u", "edm"])
@pytest.mark.parametrize("space", sorted(PREDICTIONS))
def test_constant_weight_is_the_plain_mean_square_in_the_loss_space(prediction, space):
    """By hand, one example and one level at a time."""
    parameterization = Parameterization(prediction)
    found = loss(Objective(parameterization, loss_space=space))
    x0, draws = problem()
    alpha, sigma = PROCESS.alpha_sigma(draws.t)
    log_snr = PROCESS.log_snr(draws.t)
    for i, side in enumerate((4, 2)):
        errors = []
        for row in range(B):
            a, s = alpha[row, i], sigma[row, i]
            x, e = x0[i][row], draws.eps[i][row]
            x_t = a * x + s * e
            guess = Guess().factor.double() * x_t + 0.02 * log_snr[row, i]
            matrix = torch.stack(
                [torch.stack(PREDICTIONS[prediction](a, s, 0.5)), torch.stack([a, s])]
            )
            pair = torch.stack([guess.flatten(), x_t.flatten()])
            clean, eps = torch.linalg.solve(matrix, pair)
            p, q = PREDICTIONS[space](a, s, 0.5)
            wrong = p * (clean - x.flatten()) + q * (eps - e.flatten())
            errors.append((wrong**2).mean())
        torch.testing.assert_close(found.logs[f"loss/{side}"], torch.stack(errors).mean())


@torch.no_grad()
def test_eps_loss_of_a_v_network_is_alpha_squared_times_its_v_loss():
    """MDM: gamma ||v - v'||^2 = SNR ||x - x'||^2."""
    t = torch.full((B,), 0.3, dtype=torch.float64)
    x0, draws = problem(t=t)
    by_space = {
        space: loss(Objective(loss_space=space), x0=x0, draws=draws).logs for space in PREDICTIONS
    }
    alpha, sigma = PROCESS.alpha_sigma(t)
    for i, side in enumerate((4, 2)):
        key, a, s = f"loss/{side}", float(alpha[0, i]), float(sigma[0, i])
        assert float(by_space["eps"][key]) == pytest.approx(a**2 * float(by_space["v"][key]))
        assert float(by_space["eps"][key]) == pytest.approx((a / s) ** 2 * by_space["x0"][key])


@pytest.mark.parametrize("name", [name for name in weights.names() if name != "constant"])
@pytest.mark.parametrize("process", [PROCESS, Flow([LinearFlow(), LinearFlow()])])
def test_a_weight_is_on_x0_whatever_the_loss_space(name, process):
    totals = [
        loss(Objective(loss_space=space, weight={"name": name}), process).total.detach()
        for space in sorted(PREDICTIONS)
    ]
    for total in totals[1:]:
        torch.testing.assert_close(total, totals[0], rtol=1e-9, atol=0)


def test_snr_weight_is_the_plain_loss_on_eps_and_constant_in_x0_is_none():
    plain = loss(Objective(loss_space="eps")).total
    torch.testing.assert_close(loss(Objective(loss_space="v", weight={"name": "snr"})).total, plain)


@pytest.mark.parametrize(
    ("node", "log_snr", "wanted"),
    [
        ({"name": "snr"}, 2, math.exp(2)),
        ({"name": "truncated_snr"}, 2, math.exp(2)),
        ({"name": "truncated_snr"}, -2, 1),
        ({"name": "truncated_snr"}, math.log(1 / 3), 1),
        ({"name": "min_snr"}, 2, 5),
        ({"name": "min_snr"}, 0, 1),
        ({"name": "min_snr", "gamma": 0.5}, 0, 0.5),
        ({"name": "sigmoid"}, 0, 0.5),
        ({"name": "sigmoid", "bias": 2.0}, 2, math.exp(2) / 2),
        ({"name": "edm"}, -2 * math.log(0.5), 8),
        ({"name": "edm"}, -2 * math.log(80), 4.00015625),
        ({"name": "edm"}, -2 * math.log(0.002), 250004),
    ],
)
def test_weights_have_their_published_values(node, log_snr, wanted):
    found = weights.build(node)(
        torch.tensor(float(log_snr), dtype=torch.float64), torch.tensor(7.0)
    )
    assert float(found) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("log_snr", "wanted"), [(2, 0.596014610), (0, 0.5), (-2, 0.119202922)])
def test_min_snr_5_weighs_the_error_of_v_as_published(log_snr, wanted):
    """Read off the loss: min-SNR total over plain v loss, at one log-SNR for all."""
    process = VariancePreserving([Cosine(), Cosine()])
    t = Cosine().inverse(torch.full((B,), float(log_snr), dtype=torch.float64))
    x0, draws = problem(t=t)
    objectives = [
        Objective(loss_space="x0", weight={"name": "min_snr"}),
        Objective(loss_space="v"),
    ]
    weighted, plain = (loss(o, process, x0=x0, draws=draws).total for o in objectives)
    assert float((weighted / plain).detach()) == pytest.approx(wanted, rel=1e-8)


def test_level_weights_multiply_their_level_in_the_total_only():
    plain = loss(Objective())
    assert list(plain.logs) == ["loss/4", "loss/2"]
    torch.testing.assert_close(plain.total, plain.logs["loss/4"] + plain.logs["loss/2"])
    heavy = loss(Objective(level_weights=[16, 0.5]))
    assert heavy.logs == plain.logs
    torch.testing.assert_close(heavy.total, 16 * plain.logs["loss/4"] + 0.5 * plain.logs["loss/2"])


def test_a_level_counts_the_same_whatever_its_number_of_pixels():
    """A wrong constant: each level's mean square is that of one pixel."""
    process = VariancePreserving([Cosine(), Cosine()])
    x0 = torch.ones(1, 3, 4, 4).double(), torch.ones(1, 3, 2, 2).double()
    draws = Draws(torch.tensor([0.5]).double(), x0, torch.tensor([False]))
    logs = loss(Objective(), process, x0=x0, draws=draws).logs
    torch.testing.assert_close(logs["loss/4"], logs["loss/2"])


def ragged(objective, roll):
    x0, draws = problem()
    x0 = tuple(level.roll(roll, 0) for level in x0)
    eps = tuple(level.roll(roll, 0) for level in draws.eps)
    draws = Draws(draws.t.roll(roll), (eps[0][: B // 2], eps[1]), draws.drop)
    return loss(objective, x0=(x0[0][: B // 2], x0[1]), draws=draws)


def test_a_mixed_batch_has_the_loss_of_the_full_one_on_average():
    """Each example is once among those with the high level: the mean is the full loss exactly."""
    objective = Objective(level_weights=[3, 1])
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
    full = gradient(lambda d: loss(Objective(), denoiser=d).total)

    def half(denoiser, rows):
        order = [*rows, *[i for i in range(B) if i not in rows]]
        levels = tuple(level[order] for level in x0)
        eps = tuple(level[order] for level in draws.eps)
        part = Draws(draws.t[order], (eps[0][:2], eps[1]), draws.drop)
        return loss(Objective(), denoiser=denoiser, x0=(levels[0][:2], levels[1]), draws=part).total

    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    mean = sum(gradient(lambda d, p=p: half(d, p)) for p in pairs) / len(pairs)
    torch.testing.assert_close(mean, full)


def test_losses_of_the_denoiser_are_added_and_logged():
    extra = {"commitment": torch.tensor([1.0, 3.0, 0.0, 0.0], dtype=torch.float64)}
    plain, more = loss(Objective()), loss(Objective(), denoiser=Guess(extra))
    torch.testing.assert_close(more.total, plain.total + 1)
    assert float(more.logs["loss/commitment"]) == 1


def test_the_network_is_told_log_snr_within_30_and_sees_the_scaled_state():
    process = VariancePreserving([Shifted(Cosine(-60, 60), 4, 2), Cosine(-60, 60)])
    t = torch.tensor([1e-9, 0.3, 0.6, 1 - 1e-9], dtype=torch.float64)
    x0, draws = problem(t=t)
    denoiser = Guess()
    objective = Objective(Parameterization("v", "sample"))
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
        pooled=torch.ones(B, 5),
        scalars={"scale": torch.ones(B)},
        low=torch.ones(B, 3, 2, 2),
    )
    x0, draws = problem()
    drop = torch.tensor([True, False, False, True])
    denoiser = Guess()
    loss(Objective(), denoiser=denoiser, x0=x0, draws=Draws(draws.t, draws.eps, drop), cond=cond)
    told = denoiser.told[0][2]
    assert told.labels.tolist() == [-1, 1, 2, -1]
    assert told.tokens[:, 0, 0].tolist() == [0, 1, 1, 0]
    assert told.mask[:, 0].tolist() == [False, True, True, False]
    assert told.pooled[:, 0].tolist() == [0, 1, 1, 0]
    assert told.scalars["scale"].tolist() == [1] * B and told.low.min() == 1


@pytest.mark.parametrize(("rate", "low", "high"), [(0, 0, 0), (1, 1, 1), (0.1, 0.08, 0.12)])
def test_conditions_are_dropped_at_the_stated_rate(rate, low, high):
    draws = Objective(drop=rate).draw(PROCESS, [(2, 1, 2, 2), (4000, 1, 1, 1)], noise())
    assert low <= float(draws.drop.float().mean()) <= high
    assert draws.t.shape == (4000,) and [len(e) for e in draws.eps] == [2, 4000]


def test_noise_of_the_levels_is_independent():
    draws = Objective().draw(PROCESS, [(2000, 1, 1, 1)] * 2, noise())
    a, b = (e.flatten() for e in draws.eps)
    assert abs(float((a * b).mean())) < 4 / math.sqrt(2000)


@given(b=st.integers(1, 40), seed=st.integers(0, 1000))
def test_stratified_times_have_exactly_one_in_each_cell(b, seed):
    u = uniforms(b, noise(seed), stratified=True)
    assert sorted((u * b).floor().long().tolist()) == list(range(b))


def test_stratified_times_are_shuffled():
    """The first rows alone carry the high level in a mixed batch: not always at early times."""
    first = torch.stack([uniforms(8, noise(seed), stratified=True)[0] for seed in range(400)])
    assert abs(float(first.mean()) - 0.5) < 4 * math.sqrt(1 / 12 / 400)
    assert abs(float(first.var()) - 1 / 12) < 0.015


def test_uniform_times_are_uniform_and_never_at_the_ends():
    u = uniforms(20_000, noise())
    assert float(u.min()) > 0 and float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 4 * math.sqrt(1 / 12 / 20_000)
    extreme = uniforms(2, lambda shape: torch.tensor([-40.0, 40.0]))
    assert float(extreme[0]) > 0 and float(extreme[1]) < 1


GRID = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000


def test_logit_normal_times_have_the_stated_moments():
    t = densities.build({"name": "logit_normal", "mean": -0.5, "std": 0.7})(GRID, PROCESS)
    assert float(torch.logit(t).mean()) == pytest.approx(-0.5, abs=1e-6)
    assert float(torch.logit(t).std()) == pytest.approx(0.7, abs=1e-3)


def test_edm_times_have_log_normal_noise_levels():
    process = VariancePreserving([Shifted(Power(), 4, 2), Power(sigma_max=1e4)])
    t = densities.build({"name": "edm"})(GRID, process)
    log_sigma = -process.log_snr(t)[:, 1] / 2
    assert float(log_sigma.mean()) == pytest.approx(-1.2, abs=1e-4)
    assert float(log_sigma.std()) == pytest.approx(1.2, abs=1e-3)


@pytest.mark.parametrize("name", densities.names())
def test_every_density_keeps_times_inside_and_in_order(name):
    u = torch.linspace(1e-6, 1 - 1e-6, 1001, dtype=torch.float64)
    t = densities.build({"name": name})(u, PROCESS)
    assert t.shape == u.shape and float(t.min()) >= 0 and float(t.max()) <= 1
    moved = t.diff()
    assert (moved >= 0).all() or (moved <= 0).all()


def test_eps_prediction_is_refused_where_the_snr_is_zero_at_the_end():
    process = Flow([LinearFlow()])
    with pytest.raises(ValueError, match=r"'eps' with SNR 0.*predict 'v' or 'x0'"):
        Objective(Parameterization("eps")).check(process)
    Objective(Parameterization("v")).check(process)
    Objective(Parameterization("eps")).check(VariancePreserving([Cosine()]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_space": "epsilon"}, r"unknown prediction 'epsilon', did you mean 'eps'"),
        ({"drop": 1.5}, r"drop rate 1.5"),
        ({"self_conditioning": 2}, r"self_conditioning 2 is not a share"),
        ({"vlb": -1.0}, r"vlb -1.0 over 1000 steps"),
        ({"vlb": 1.0, "vlb_steps": 1}, r"vlb 1.0 over 1 steps.*2 steps or more"),
        ({"weight": {"name": "minsnr"}}, r"unknown loss weight 'minsnr', did you mean 'min_snr'"),
        ({"weight": {"name": "min_snr", "gama": 5}}, r"no option 'gama', did you mean 'gamma'"),
        ({"time": {"name": "logitnormal"}}, r"did you mean 'logit_normal'"),
    ],
)
def test_bad_options_are_refused_with_the_nearest_good_one(options, message):
    with pytest.raises(ValueError, match=message):
        Objective(**options)


def test_one_level_weight_is_needed_for_each_level():
    with pytest.raises(ValueError, match="3 level weights for 2 levels"):
        Objective(level_weights=[1, 2, 3]).check(PROCESS)
    with pytest.raises(ValueError, match="1 input scales for 2 levels"):
        Objective(Parameterization("v", ["sample"])).check(PROCESS)


def test_the_tail_keeps_weights_and_input_scales_of_the_coarsest_levels():
    whole = Objective(Parameterization("v", ["sample", "none"]), level_weights=[4, 1])
    tail = whole.tail(1)
    assert list(tail.level_weights) == [1]
    assert list(tail.parameterization.input_scale) == ["none"]
    assert Objective().tail(1) == Objective()


class Silent(Denoiser):
    """Predicts eps = 0: its error is the noise itself."""

    def forward(self, x_t, log_snr, cond, carry=None, added=None):
        return Prediction(tuple(torch.zeros_like(x) for x in x_t))


ONE = VariancePreserving([Cosine()])
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
    found = silent_loss(Objective(EPS, multiscale=[32, 64, 128, 256]), eps)
    assert float(found.total) == pytest.approx(0.00732421875, rel=1e-12)
    assert float(found.logs["loss/256"]) == pytest.approx(1)
    for side in (32, 64, 128, 256):
        wanted = (side / 256) ** 2
        assert float(found.logs[f"multiscale/{side}"]) == pytest.approx(wanted, rel=1e-12)


def test_the_multiscale_loss_pools_errors_before_they_are_squared_and_weighs_each_example():
    draw = noise(3)
    eps, t = draw((B, 3, 4, 4)), torch.linspace(0.2, 0.8, B, dtype=torch.float64)
    objective = Objective(EPS, weight={"name": "truncated_snr"}, multiscale=[2, 4])
    found = silent_loss(objective, eps, t)
    weight = (1 / Cosine()(t).exp()).clamp(min=1)  # of eps: max(SNR, 1) / SNR
    blocks = eps.reshape(B, 3, 2, 2, 2, 2).mean(dim=(3, 5))
    wanted = sum(
        (weight * e.square().mean(dim=(1, 2, 3))).mean() / s for s, e in ((2, blocks), (4, eps))
    )
    torch.testing.assert_close(found.total, wanted)


def test_one_scale_is_the_plain_loss_over_its_side():
    eps = noise(3)((B, 3, 4, 4))
    plain, one = silent_loss(Objective(EPS), eps), silent_loss(Objective(EPS, multiscale=[4]), eps)
    torch.testing.assert_close(one.total, plain.total / 4)
    assert torch.equal(one.logs["loss/4"], plain.logs["loss/4"])


@pytest.mark.parametrize("scales", [[2], [3, 4], [4, 4], [0, 4], [8, 4]])
def test_scales_are_divisors_of_the_side_with_the_side_among_them(scales):
    with pytest.raises(ValueError, match=r"at 4 px: name divisors of 4"):
        Objective(multiscale=scales).check(ONE, shapes=[(3, 4, 4)])
    Objective(multiscale=[2, 4]).check(ONE, shapes=[(3, 4, 4)])


def test_multiscale_is_for_one_level():
    with pytest.raises(ValueError, match=r"multiscale \[2, 4\] for 2 levels"):
        Objective(multiscale=[2, 4]).check(PROCESS)


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
    total = Objective(self_conditioning=rate)(ONE, denoiser, x0, NONE, draws).total
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
    draws = Objective(self_conditioning=rate).draw(ONE, [(4000, 1, 1, 1)], noise())
    assert low <= float(draws.again.float().mean()) <= high


def test_without_self_conditioning_nothing_more_is_drawn_and_with_it_last():
    plain, more = (
        Objective(drop=0.1, self_conditioning=rate).draw(PROCESS, [(3, 1, 2, 2)] * 2, noise())
        for rate in (0.0, 0.9)
    )
    assert plain.again is None and more.again.shape == (3,)
    assert torch.equal(plain.t, more.t) and torch.equal(plain.drop, more.drop)
    assert all(torch.equal(a, b) for a, b in zip(plain.eps, more.eps, strict=True))
    asked = []

    def counted(shape):
        asked.append(tuple(shape))
        return torch.zeros(*shape, dtype=torch.float64)

    Objective(self_conditioning=0.0).draw(PROCESS, [(3, 1, 2, 2)] * 2, counted)
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
        Objective(self_conditioning=1.0)(ONE, denoiser, (x,), NONE, draws).total.backward()
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
    objective = Objective(EPS, self_conditioning=0.5, multiscale=[1, 2])
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
        Objective(self_conditioning=0.9).check(PROCESS, Guess())
    Objective(self_conditioning=0.9).check(ONE, Remembering())
    Objective().check(PROCESS, Guess())


class Unsure(Guess):
    """A guess with a variance that has a weight of its own."""

    learns_variance = True

    def __init__(self):
        super().__init__()
        self.width = nn.Parameter(torch.tensor(0.3))

    def forward(self, x_t, log_snr, cond, carry=None, added=None):
        out = super().forward(x_t, log_snr, cond)
        return out._replace(variance=tuple((self.width * x.double()).tanh() for x in x_t))


CHAIN = VariancePreserving([LinearBeta()])


def chain(step):
    """Coefficients of x0 and of x_t in the posterior's mean, its log-variance and log beta, written
    for 1000 integer steps from 0; the posterior of step 0 has the variance of step 1."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    bar = torch.cumprod(1 - betas, 0)
    before = torch.cat([torch.ones(1).double(), bar[:-1]])
    variance = betas * (1 - before) / (1 - bar)
    of_x0 = betas * before.sqrt() / (1 - bar)
    of_x_t = (1 - before) * (1 - betas).sqrt() / (1 - bar)
    return of_x0[step], of_x_t[step], variance[max(step, 1)].log(), betas[step].log()


def bound_problem(seed=5):
    """x0 with both ends of the range, x_t, a guess and a variance."""
    draw = noise(seed)
    x0, x_t, guess, variance = (draw((1, 3, 4, 4)) for _ in range(4))
    x0 = (x0 * 0.5).clamp(-1, 1)
    x0[0, 0, 0, :2] = torch.tensor([-1.0, 1.0])
    return x0, x_t, x0 + 0.003 * guess, variance.tanh()


def bound(x0, x_t, guess, variance, t, process=CHAIN, steps=1000):
    t = torch.as_tensor(t, dtype=torch.float64).reshape(-1)
    return variational_bound(process, (x0,), (x_t,), (guess,), (variance,), t, steps)[0]


@pytest.mark.parametrize("step", [1, 2, 499, 999])
def test_the_bound_is_that_of_a_chain_of_integer_steps(step):
    x0, x_t, guess, variance = bound_problem()
    of_x0, of_x_t, low, high = chain(step)
    share = (variance + 1) / 2
    posterior, model = (
        torch.distributions.Normal(of_x0 * x + of_x_t * x_t, (log / 2).exp())
        for x, log in ((x0, low), (guess, share * high + (1 - share) * low))
    )
    bits = torch.distributions.kl_divergence(posterior, model) / math.log(2)
    found = bound(x0, x_t, guess, variance, (step + 1) / 1000)
    rounding = 1e-16  # of terms about 1, whose sum is 5e-12 at the last step
    torch.testing.assert_close(found, bits.mean()[None], rtol=1e-6, atol=rounding)


@pytest.mark.parametrize("t", [0.001, 0.0004])
def test_the_bound_of_the_first_step_is_the_likelihood_of_256_values(t):
    x0, x_t, guess, variance = bound_problem()
    _, _, low, high = chain(0)
    share = (variance + 1) / 2
    model = torch.distributions.Normal(guess, ((share * high + (1 - share) * low) / 2).exp())
    above = torch.where(x0 == 1, 1.0, model.cdf(x0 + 1 / 255))
    below = torch.where(x0 == -1, 0.0, model.cdf(x0 - 1 / 255))
    bits = -(above - below).clamp(min=1e-12).log2()
    found = bound(x0, x_t, guess, variance, t)
    torch.testing.assert_close(found, bits.mean()[None], rtol=1e-6, atol=0)


@pytest.mark.parametrize("process", [CHAIN, ONE, Flow([LinearFlow()])])
def test_the_bound_is_zero_only_where_mean_and_variance_are_the_posteriors(process):
    x0, x_t, _, _ = bound_problem()
    small = -torch.ones_like(x0)
    for t in (0.1, 0.5, 0.9):
        found = [
            float(bound(x0, x_t, guess, variance, t, process, steps=20))
            for guess, variance in ((x0, small), (x0, small + 1), (x0 + 0.1, small))
        ]
        assert found[0] == pytest.approx(0, abs=1e-12) and min(found[1:]) > 1e-9


def test_the_best_variance_is_the_posteriors_and_the_squared_error_of_the_mean():
    of_x0, _, low, high = chain(20)
    wrong = 0.5 * (high.exp() - low.exp()).sqrt()  # of the mean: within the range
    best = ((low.exp() + wrong**2).log() - low) / (high - low) * 2 - 1
    assert -1 < float(best) < 1
    x0, x_t, _, _ = bound_problem()
    variance = torch.full_like(x0, float(best)).requires_grad_()
    bound(x0, x_t, x0 + wrong / of_x0, variance, 0.021).backward()
    assert variance.grad.abs().max() < 1e-9
    assert float(bound(x0, x_t, x0 + wrong / of_x0, variance.detach() + 0.1, 0.021)) > 0


def test_the_bound_stays_small_where_the_posterior_shrinks_to_a_point():
    """An error of a tenth of the noise, at times on both sides of the first step."""
    t = torch.linspace(1e-6, 0.004, 400, dtype=torch.float64)
    sigma = CHAIN.alpha_sigma(t)[1][:, :, None, None]
    x0 = torch.zeros(400, 1, 2, 2, dtype=torch.float64)
    found = bound(x0, x0, x0 + 0.1 * sigma, -torch.ones_like(x0), t)
    assert torch.isfinite(found).all() and float(found[t > 0.001].max()) < 0.1


def test_the_bound_moves_the_variance_and_nothing_else():
    gradients = []
    for vlb in (0.0, 1.0):
        denoiser = Unsure()
        loss(Objective(vlb=vlb), denoiser=denoiser).total.backward()
        gradients.append((denoiser.factor.grad, denoiser.width.grad))
    (plain, nothing), (same, moved) = gradients
    assert torch.equal(plain, same) and nothing is None and moved.abs() > 0


def test_the_bound_is_added_by_its_weight_and_that_of_its_level():
    plain = loss(Objective(level_weights=[3, 1]), denoiser=Unsure())
    found = loss(Objective(level_weights=[3, 1], vlb=0.5, vlb_steps=10), denoiser=Unsure())
    assert list(found.logs) == ["loss/4", "loss/2", "vlb/4", "vlb/2"]
    added = 0.5 * (3 * found.logs["vlb/4"] + found.logs["vlb/2"])
    torch.testing.assert_close(found.total, plain.total + added)
    assert found.logs["vlb/4"] > 0 and found.logs["vlb/2"] > 0


def test_without_the_bound_a_variance_changes_no_number():
    with_variance, without = (loss(Objective(), denoiser=d()) for d in (Unsure, Guess))
    assert torch.equal(with_variance.total, without.total)
    assert list(with_variance.logs) == list(without.logs) == ["loss/4", "loss/2"]


def test_a_level_of_fewer_rows_has_the_bound_of_its_rows():
    x0, draws = problem()
    objective = Objective(vlb=1.0)
    first = loss(
        objective,
        denoiser=Unsure(),
        x0=(x0[0][:1], x0[1]),
        draws=Draws(draws.t, (draws.eps[0][:1], draws.eps[1]), draws.drop),
    )
    alone = loss(
        objective,
        denoiser=Unsure(),
        x0=tuple(level[:1] for level in x0),
        draws=Draws(draws.t[:1], tuple(e[:1] for e in draws.eps), draws.drop[:1]),
    )
    torch.testing.assert_close(first.logs["vlb/4"], alone.logs["vlb/4"])


def test_a_network_without_a_variance_is_refused_the_bound():
    with pytest.raises(ValueError, match=r"vlb 1.0 with Guess, which learns no variance"):
        Objective(vlb=1.0).check(PROCESS, Guess())
    Objective(vlb=1.0).check(PROCESS, Unsure())


def test_a_learned_variance_that_nothing_trains_is_told(caplog):
    with caplog.at_level(logging.WARNING):
        Objective(vlb=1.0).check(PROCESS, Unsure())
        Objective().check(PROCESS, Guess())
        Objective().check(PROCESS)
        assert not caplog.text
        Objective().check(PROCESS, Unsure())
    assert "Unsure learns a variance, which vlb 0 leaves untrained" in caplog.text


def test_levels_of_one_side_are_logged_by_their_place():
    """Bands of a transform share a side: none hides the other."""
    process = VariancePreserving([Cosine(), Cosine()])
    eps = torch.ones(1, 1, 2, 2).double(), torch.ones(1, 1, 2, 2).double()
    x0 = eps[0], 3 * eps[1]
    draws = Draws(torch.tensor([0.5]).double(), eps, torch.tensor([False]))
    found = loss(Objective(), process, x0=x0, draws=draws)
    assert list(found.logs) == ["loss/2-0", "loss/2-1"]
    assert not torch.equal(found.logs["loss/2-0"], found.logs["loss/2-1"])
    torch.testing.assert_close(found.total, sum(found.logs.values()))
