from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hierdiff.levels import check_resolutions, down, level_names, pyramid, up

sides = st.sampled_from([1, 2, 3, 4])


def images(side: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, side, side, generator=generator, dtype=torch.float64)


def test_a_lower_level_is_the_mean_of_blocks():
    x = torch.arange(16, dtype=torch.float64).reshape(1, 1, 4, 4)
    expected = torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]], dtype=torch.float64)
    torch.testing.assert_close(down(x, 2), expected)


def test_up_repeats_every_pixel_to_a_block():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    expected = torch.tensor([[1.0, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]])
    torch.testing.assert_close(up(x, 4), expected[None, None])


@given(side=sides, factor=sides)
def test_down_undoes_up(side: int, factor: int):
    x = images(side)
    torch.testing.assert_close(down(up(x, side * factor), side), x)


@given(side=sides, first=sides, second=sides)
def test_pooling_in_two_steps_is_pooling_in_one(side: int, first: int, second: int):
    x = images(side * first * second)
    torch.testing.assert_close(down(down(x, side * first), side), down(x, side))


def test_pooling_to_its_own_side_changes_nothing():
    x = images(4)
    assert torch.equal(down(x, 4), x)


@given(side=sides, factor=sides)
def test_pooling_keeps_the_mean(side: int, factor: int):
    x = images(side * factor)
    torch.testing.assert_close(down(x, side).mean(), x.mean())


def test_white_noise_keeps_one_part_in_four_of_its_variance_when_the_side_is_halved():
    x = torch.randn(64, 3, 64, 64, dtype=torch.float64)
    relative_error = 4 * down(x, 32).var() / x.var() - 1
    assert abs(relative_error) < 5 * (2 / down(x, 32).numel()) ** 0.5


def test_a_pyramid_is_finest_first_and_each_level_the_pooled_image():
    x = images(8)
    levels = pyramid(x, (8, 4, 1))
    assert [level.shape[-1] for level in levels] == [8, 4, 1]
    for level in levels:
        torch.testing.assert_close(level, down(x, level.shape[-1]))


def test_a_pyramid_need_not_start_at_the_side_of_the_images():
    (level,) = pyramid(images(8), (2,))
    torch.testing.assert_close(level, down(images(8), 2))


@pytest.mark.parametrize(
    ("shape", "side"), [((1, 1, 6, 6), 4), ((1, 1, 4, 8), 4), ((1, 1, 2, 2), 4)]
)
def test_a_side_that_does_not_divide_the_image_is_refused(shape, side):
    with pytest.raises(ValueError, match=f"cannot be pooled to {side}: choose"):
        down(torch.zeros(shape), side)


def test_a_side_that_is_no_multiple_is_refused():
    with pytest.raises(ValueError, match="side 6 is not a multiple of 4: choose"):
        up(torch.zeros(1, 1, 4, 4), 6)


@pytest.mark.parametrize("resolutions", [[64], [64, 32], (256, 128, 64), [12, 4]])
def test_resolutions_in_order_pass(resolutions):
    assert check_resolutions(resolutions) == tuple(resolutions)


@pytest.mark.parametrize(
    ("resolutions", "message"),
    [
        ([32, 64], r"not in order: write the finest first, \[64, 32\]"),
        ([64, 64], "name 64 twice: name each once"),
        ([64, 48], r"resolution 48 does not divide 64: .* such as \[64, 32\]"),
        ([64, 32, 24], "resolution 24 does not divide 32"),
        ([], "one or more positive sides"),
        ([64, 0], "one or more positive sides"),
        ([-64], "one or more positive sides"),
    ],
)
def test_resolutions_that_make_no_pyramid_are_refused(resolutions, message):
    with pytest.raises(ValueError, match=message):
        check_resolutions(resolutions)


def test_a_level_is_named_by_its_side_and_where_others_have_it_by_its_place_too():
    assert level_names([64, 32]) == ("64", "32")
    assert level_names([32, 16, 16]) == ("32", "16-1", "16-2")
    assert level_names([]) == ()
