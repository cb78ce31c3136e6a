from __future__ import annotations

import pytest
import torch

from hierdiff.noise import from_generator, from_tensors, generator_of, per_example, seed_of


def test_seeds_are_the_same_on_every_machine():
    assert seed_of(0, "draws", 7) == 6188628499792436747
    assert seed_of("a") == 3947422127400296972


def test_seeds_of_different_parts_differ_and_fit_into_63_bits():
    parts = [(0,), (1,), ("0",), (0, 0), (0, "draws"), ("draws", 0), ("a", "b"), ("ab",)]
    seeds = {seed_of(*part) for part in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_generator_goes_on_where_it_stopped_and_starts_again_from_its_seed():
    noise = from_generator(generator_of(1, "x"), dtype=torch.float64)
    first, second = noise((2, 3)), noise((2, 3))
    assert first.dtype == torch.float64
    assert not torch.equal(first, second)
    assert torch.equal(from_generator(generator_of(1, "x"), dtype=torch.float64)((2, 3)), first)


def test_an_example_s_noise_depends_on_its_seed_alone():
    shapes = [(3, 1, 4, 4), (3, 1, 2, 2)]
    together = per_example([5, 6, 7])
    alone = per_example([6])
    for shape in shapes:
        torch.testing.assert_close(together(shape)[1:2], alone((1, *shape[1:])), rtol=0, atol=0)


def test_examples_of_different_seeds_differ_and_of_one_seed_agree():
    x = per_example([5, 6, 5])((3, 8))
    assert torch.equal(x[0], x[2])
    assert not torch.equal(x[0], x[1])


@pytest.mark.parametrize("batch", [2, 4])
def test_as_many_seeds_as_examples(batch: int):
    with pytest.raises(ValueError, match=f"noise for {batch} examples from 3 seeds"):
        per_example([1, 2, 3])((batch, 1))


@pytest.mark.parametrize(
    "source", [lambda: from_generator(generator_of(0)), lambda: per_example(range(100))]
)
def test_noise_is_standard_normal(source):
    x = source()((100, 1000)).double()
    assert abs(x.mean()) < 5 * 1e-5**0.5  # five standard errors of 10^5 draws
    assert abs(x.var() - 1) < 5 * (2e-5) ** 0.5
    assert abs((x**4).mean() - 3) < 5 * (96e-5) ** 0.5


def test_given_tensors_come_in_turn_and_must_have_the_shape_asked_for():
    a, b = torch.zeros(2, 1), torch.ones(3, 1)
    noise = from_tensors([a, b])
    assert noise((2, 1)) is a
    with pytest.raises(ValueError, match=r"shape \(3, 1\), not \(2, 1\)"):
        noise((2, 1))
