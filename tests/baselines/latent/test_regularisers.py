"""Regularisers: known divergences, named reductions, straight-through gradient, use of codes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from baselines.latent import regularisers as module
from baselines.latent.regularisers import KL, VQ, reduced, regularisers

SHAPE = (3, 2, 4, 5)  # of z


def filled(mean: float, logvar: float) -> torch.Tensor:
    halves = [torch.full(SHAPE, value, dtype=torch.float64) for value in (mean, logvar)]
    return torch.cat(halves, dim=1)


def moments(expansion: int = 1) -> torch.Tensor:
    b, c, h, w = SHAPE
    return torch.randn(b, c * expansion, h, w, dtype=torch.float64)


def vq(codes: int = 7, **options) -> VQ:
    made = VQ(codes=codes, channels=SHAPE[1], **options).double()
    torch.nn.init.normal_(made.codes.weight)
    return made


@pytest.mark.parametrize(
    ("mean", "logvar", "nats"), [(1, 0, 0.5), (0, -2, 0.567667642), (0, 0, 0.0)]
)
def test_the_divergence_has_its_known_values(mean, logvar, nats):
    found = KL().divergence(filled(mean, logvar))
    torch.testing.assert_close(found, torch.full_like(found, nats), rtol=0, atol=1e-9)


@given(mean=st.floats(-5, 5), logvar=st.floats(-20, 10))
def test_the_divergence_is_that_of_two_gaussians(mean, logvar):
    one = torch.tensor(1.0, dtype=torch.float64)
    wanted = kl_divergence(Normal(mean * one, (logvar * one / 2).exp()), Normal(0 * one, one))
    found = KL().divergence(filled(mean, logvar))[0, 0, 0, 0]
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_the_sum_is_the_mean_times_the_elements_of_an_example():
    given_moments, elements = moments(2), math.prod(SHAPE[1:])
    total = KL()(given_moments, reduction="sum").loss
    mean = KL()(given_moments, reduction="mean").loss
    torch.testing.assert_close(total, mean * elements)
    torch.testing.assert_close(mean, KL()(given_moments).logs["kl"])


def test_the_sum_of_a_known_divergence_does_not_grow_with_the_batch():
    for n in (1, 3):
        loss = KL()(filled(1, 0)[:n], reduction="sum").loss
        torch.testing.assert_close(loss, torch.tensor(20.0, dtype=torch.float64))  # 40 / 2


def test_a_latent_is_mean_plus_deviation_times_noise():
    eps = torch.randn(SHAPE)
    torch.testing.assert_close(KL().sample(filled(3, 2 * math.log(2)), eps), 3 + 2 * eps.double())
    torch.testing.assert_close(KL().mode(filled(3, 1)), filled(3, 1)[:, :2])


def test_log_variance_stays_within_its_limits():
    for given_value, kept in ((-100, -30), (100, 20), (5, 5)):
        _, logvar = KL().posterior(filled(0, given_value))
        assert (logvar == kept).all()


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="unknown reduction 'means', did you mean 'mean'"):
        reduced(torch.ones(2), "means")


def test_the_nearest_code_is_the_nearest(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 7)  # does not divide 60: several parts, a short last one
    part, z = vq(), moments()
    distances = (z[:, None] - part.codes.weight[None, :, :, None, None]).square().sum(2)
    assert torch.equal(part.nearest(z), distances.argmin(1))
    assert len(part.nearest(z).unique()) > 1


def test_autocast_does_not_blur_the_choice_of_codes():
    part = vq(codes=200).float()
    z = moments().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = part.nearest(z)
    assert torch.equal(found, part.nearest(z))


def test_codes_are_their_own_nearest():
    part = vq()
    q = part.quantised(moments())
    assert torch.equal(part.quantised(q), q)
    assert {tuple(v) for v in q.movedim(1, -1).reshape(-1, 2).tolist()} <= {
        tuple(v) for v in part.codes.weight.tolist()
    }


def test_the_encoder_gets_the_gradient_of_the_quantised_latent():
    part, z = vq(), moments().requires_grad_()
    q = part(z).z
    weight = torch.randn_like(q)
    loss = (q.square() * weight).sum()
    at_q, at_z = torch.autograd.grad(loss, (q, z), retain_graph=True)
    assert torch.equal(at_q, at_z) and at_q.abs().max() > 0
    (at_codes,) = torch.autograd.grad(loss, part.codes.weight, allow_unused=True)
    assert at_codes is None


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_commitment_moves_the_encoder_and_codebook_the_codes(reduction):
    z = moments().requires_grad_()
    part = vq(commitment=0.25, codebook=2.0)
    elements = z.numel() if reduction == "mean" else len(z)
    at_z, at_codes = torch.autograd.grad(part(z, reduction=reduction).loss, (z, part.codes.weight))
    q, index = part.quantised(z).detach(), part.nearest(z)
    torch.testing.assert_close(at_z, 0.25 * 2 * (z.detach() - q) / elements)
    pulled = torch.zeros_like(at_codes)
    pulled.index_add_(0, index.flatten(), (q - z.detach()).movedim(1, -1).reshape(-1, 2))
    torch.testing.assert_close(at_codes, 2.0 * 2 * pulled / elements)


def test_the_released_weights_stand_the_other_way_round():
    z = moments()
    q = vq()
    ours, released = vq(), vq(commitment=1, codebook=0.25)
    for part in (ours, released):
        part.load_state_dict(q.state_dict())
    difference = (q.quantised(z) - z).square().mean()
    for part in (ours, released):  # same number, other gradients
        torch.testing.assert_close(part(z, reduction="mean").loss, 1.25 * difference)


def test_uniform_use_has_the_perplexity_of_all_codes():
    part = vq(codes=8)
    every = torch.arange(8).repeat(6).view(3, 4, 4)
    found = part.use(every)
    torch.testing.assert_close(found, {"usage": torch.tensor(1.0), "perplexity": torch.tensor(8.0)})
    one = part.use(torch.full((3, 4, 4), 5))
    torch.testing.assert_close(one, {"usage": torch.tensor(1 / 8), "perplexity": torch.tensor(1.0)})


def test_a_training_pass_logs_the_use_of_its_codes():
    logs = vq()(moments()).logs
    assert set(logs) == {"usage", "perplexity", "quantisation"}
    assert 1 / 7 <= logs["usage"] <= 1 <= logs["perplexity"] <= 7
    assert not any(value.requires_grad for value in logs.values())


def test_codes_start_within_one_over_their_number():
    start = VQ(codes=50, channels=40).codes.weight
    assert start.abs().max() <= 1 / 50 and abs(start.std() - 1 / 50 / 3**0.5) < 1e-3


def test_vq_diffuses_before_quantisation_and_kl_is_read_as_it_is():
    z = moments()
    assert torch.equal(vq().sample(z, torch.ones_like(z)), z)
    assert torch.equal(KL().quantised(z), z)


def test_a_regulariser_is_told_the_latent_channels():
    assert regularisers.build(
        {"name": "vq", "codes": 4}, offered={"channels": 6}
    ).codes.weight.shape == (4, 6)
