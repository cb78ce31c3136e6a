"""Edge-supervised learning: targets, the focal loss, its threshold of time."""

import pytest
import torch
import torch.nn.functional as F

from hierdiff.denoisers import denoisers
from hierdiff.objective import EdgeSupervised, ScoreMatching
from hierdiff.objective.edges import edges_of, focal
from hierdiff.process import VariancePreserving
from hierdiff.schedules import Cosine
from tests import tiny

PROCESS = VariancePreserving([Cosine()])


def problem(**options):
    torch.manual_seed(0)
    node = {**tiny.denoiser_node("raphael"), "gate_noise": 0.0, "edges": True, **options}
    network = tiny.randomised(denoisers.build(node, offered=tiny.facts("text")))
    x0 = (torch.rand(4, 3, 8, 8) * 2 - 1,)
    draws = EdgeSupervised().draw(PROCESS, [x0[0].shape], tiny.noise())
    return network, x0, tiny.cond("text", 4), draws


def test_a_step_has_edges_at_both_of_its_columns_and_a_ramp_everywhere():
    like = torch.zeros(1, 1, 8, 8)
    step = torch.ones(1, 3, 8, 8)
    step[..., :4] = -1
    assert edges_of(step, like)[0, 0].sum(0).tolist() == [0, 0, 0, 8, 8, 0, 0, 0]
    ramp = torch.arange(8.0).expand(1, 3, 8, 8)
    assert torch.equal(edges_of(ramp, like)[..., 1:7], torch.ones(1, 1, 8, 6))
    assert not edges_of(torch.ones(1, 3, 8, 8), like).any()
    turned = edges_of(step.mT, torch.zeros(1, 1, 4, 4))
    assert turned.shape == (1, 1, 4, 4) and turned[0, 0, :, 0].tolist() == [0, 1, 1, 0]


def test_the_focal_loss_without_focus_is_half_the_cross_entropy():
    torch.manual_seed(0)
    logits, goal = torch.randn(3, 1, 4, 4), torch.rand(3, 1, 4, 4)
    entropy = F.binary_cross_entropy_with_logits(logits, goal, reduction="none")
    torch.testing.assert_close(focal(logits, goal, 0.5, 0.0), entropy.flatten(1).mean(1) / 2)


def test_the_focal_loss_of_one_pixel_is_the_published_formula():
    logits, edge = torch.full((1, 1, 1, 1), 0.8), torch.ones(1, 1, 1, 1)
    p = torch.tensor(0.8).sigmoid()
    torch.testing.assert_close(focal(logits, edge, 0.25, 2.0)[0], -0.25 * (1 - p) ** 2 * p.log())
    other = -0.75 * p**2 * (1 - p).log()
    torch.testing.assert_close(focal(logits, 1 - edge, 0.25, 2.0)[0], other)


def test_edges_are_a_term_of_the_times_up_to_the_threshold():
    network, x0, cond, draws = problem()
    plain = ScoreMatching()(PROCESS, network, x0, cond, draws)
    for until, rows in ((0.0, 0), (0.5, int((draws.t <= 0.5).sum())), (1.0, 4)):
        loss = EdgeSupervised(until=until)(PROCESS, network, x0, cond, draws)
        torch.testing.assert_close(loss.total, plain.total + loss.logs["loss/edges"])
        assert bool(loss.logs["loss/edges"] > 0) == (rows > 0)
        assert torch.equal(loss.logs["loss/8"], plain.logs["loss/8"])
    off = EdgeSupervised(edges=0.0)(PROCESS, network, x0, cond, draws)
    assert torch.equal(off.total, plain.total)


def test_every_parameter_learns_from_both_terms():
    network, x0, cond, draws = problem(space_experts=1, time_experts=1)
    loss = EdgeSupervised(until=1.0)(PROCESS, network.train(), x0, cond, draws)
    loss.total.backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_a_network_without_guesses_is_refused_in_a_sentence():
    network = problem(edges=False)[0]
    with pytest.raises(ValueError, match=r"guesses no edges: choose the objective score"):
        EdgeSupervised().check(PROCESS, network)
    EdgeSupervised().check(PROCESS, problem()[0])


def test_recomputed_blocks_have_equal_gradients_and_edges():
    from hierdiff.denoisers.recompute import recompute

    grads = []
    for again in (False, True):
        network, x0, cond, draws = problem()
        if again:
            recompute(network)
        EdgeSupervised(until=1.0)(PROCESS, network, x0, cond, draws).total.backward()
        grads.append([p.grad for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_guesses_that_nothing_trains_are_told(caplog):
    network, *_ = problem()
    EdgeSupervised().check(PROCESS, network)
    assert not caplog.messages
    ScoreMatching().check(PROCESS, network)
    assert "guesses edges, which this objective leaves untrained" in caplog.text
