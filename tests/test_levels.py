from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hierdiff.levels import down, pyramid, up
from hierdiff.resolution import (
    Named,
    check_resolutions,
    divides,
    finest_first,
    level_names,
    name_of,
    plain_of,
    resolution_of,
    side_of,
    sides_of,
    text_of,
)

small = st.integers(1, 4)
factors = st.integers(1, 3)
boxes = st.integers(1, 3).flatmap(
    lambda n: st.tuples(
        *[st.lists(small if i == 0 else factors, min_size=n, max_size=n) for i in range(3)]
    )
)  # sides, and two factors of each


def images(*sides: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, *sides, generator=generator, dtype=torch.float64)


def times(*rows: list[int]) -> tuple[int, ...]:
    return tuple(math.prod(column) for column in zip(*rows, strict=True))


def test_a_lower_level_is_the_mean_of_blocks():
    x = torch.arange(16, dtype=torch.float64).reshape(1, 1, 4, 4)
    expected = torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]], dtype=torch.float64)
    torch.testing.assert_close(down(x, 2), expected)


def test_frames_are_averaged_where_the_side_stays():
    clip = torch.arange(8.0).reshape(1, 1, 4, 1, 2)
    expected = torch.tensor([[1.0, 2.0], [5.0, 6.0]]).reshape(1, 1, 2, 1, 2)
    assert torch.equal(down(clip, (2, 1, 2)), expected)
    assert torch.equal(up(expected, (4, 1, 2))[0, 0, :, 0, 0], torch.tensor([1.0, 1, 5, 5]))


def test_up_repeats_every_pixel_to_a_block():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    expected = torch.tensor([[1.0, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]])
    torch.testing.assert_close(up(x, 4), expected[None, None])


@given(box=boxes)
def test_down_undoes_up_along_every_side(box):
    x, fine = images(*box[0]), times(*box[:2])
    torch.testing.assert_close(down(up(x, fine), tuple(box[0])), x)


@given(box=boxes)
def test_pooling_in_two_steps_is_pooling_in_one(box):
    x = images(*times(*box))
    torch.testing.assert_close(
        down(down(x, times(*box[:2])), tuple(box[0])), down(x, tuple(box[0]))
    )


@given(box=boxes)
def test_pooling_keeps_the_mean(box):
    x = images(*times(*box))
    torch.testing.assert_close(
        down(x, tuple(box[0])).mean((2, *range(3, x.ndim))), x.flatten(2).mean(2)
    )


@given(box=boxes)
def test_a_mean_over_n_pixels_divides_white_noise_by_n_as_the_side_says(box):
    fine, coarse = times(*box), tuple(box[0])
    share = side_of(coarse) ** 2 / side_of(fine) ** 2
    assert share == pytest.approx(1 / math.prod(times(*box[1:])))


def test_pooling_to_its_own_side_changes_nothing():
    x = images(4, 4)
    assert torch.equal(down(x, 4), x)


def test_white_noise_keeps_one_part_in_four_of_its_variance_when_the_side_is_halved():
    x = torch.randn(64, 3, 64, 64, dtype=torch.float64)
    relative_error = 4 * down(x, 32).var() / x.var() - 1
    assert abs(relative_error) < 5 * (2 / down(x, 32).numel()) ** 0.5


def test_a_pyramid_is_finest_first_and_each_level_the_pooled_image():
    x = images(8, 8)
    levels = pyramid(x, (8, 4, 1))
    assert [level.shape[-1] for level in levels] == [8, 4, 1]
    for level in levels:
        torch.testing.assert_close(level, down(x, level.shape[-1]))


def test_a_pyramid_need_not_start_at_the_side_of_the_images():
    (level,) = pyramid(images(8, 8), (2,))
    torch.testing.assert_close(level, down(images(8, 8), 2))


@pytest.mark.parametrize(
    ("shape", "resolution", "text"),
    [
        ((1, 1, 6, 6), 4, "4"),
        ((1, 1, 4, 6), 4, "4"),
        ((1, 1, 2, 2), 4, "4"),
        ((1, 1, 8, 4, 4), 4, "4"),
        ((1, 1, 8, 4, 4), (3, 4, 4), "3x4x4"),
    ],
)
def test_a_side_that_does_not_divide_the_image_is_refused(shape, resolution, text):
    with pytest.raises(ValueError, match=f"cannot be pooled to {text}: choose"):
        down(torch.zeros(shape), resolution)


def test_a_side_that_is_no_multiple_is_refused():
    with pytest.raises(ValueError, match="side 6 is not a multiple of 4: choose"):
        up(torch.zeros(1, 1, 4, 4), 6)
    with pytest.raises(ValueError, match="side 6x4x4 is not a multiple of 4: choose"):
        up(torch.zeros(1, 1, 4, 4), (6, 4, 4))


@pytest.mark.parametrize(
    ("resolutions", "form"),
    [
        ([64], (64,)),
        ([64, 32], (64, 32)),
        ((256, 128, 64), (256, 128, 64)),
        ([12, 4], (12, 4)),
        ([[64, 64], 32], (64, 32)),
        ([[8, 32, 32], [4, 32, 32], [4, 16, 16]], ((8, 32, 32), (4, 32, 32), (4, 16, 16))),
        ([[64, 96], [32, 48]], ((64, 96), (32, 48))),
        ([[32], [16]], ((32,), (16,))),
    ],
)
def test_resolutions_in_order_pass_in_one_form(resolutions, form):
    assert check_resolutions(resolutions) == form


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
        ([[8, 32, 0]], "one or more positive sides"),
        ([[8, 32, 32], 16], "have 3 and 2 sides: give each as many"),
        (
            [[4, 8, 8], [8, 8, 8]],
            r"not in order: write the finest first, \[\[8, 8, 8\], \[4, 8, 8\]\]",
        ),
        ([[8, 4, 4], [6, 4, 4]], r"\[6, 4, 4\] does not divide \[8, 4, 4\]"),
        ([[8, 4, 4], [2, 8, 4]], r"\[2, 8, 4\] does not divide \[8, 4, 4\]"),
        ([[32, 32], 32], "name 32 twice"),
    ],
)
def test_resolutions_that_make_no_pyramid_are_refused(resolutions, message):
    with pytest.raises(ValueError, match=message):
        check_resolutions(resolutions)


@given(sides=st.lists(st.integers(1, 999), max_size=3))
def test_a_resolution_survives_the_way_to_text_and_to_json_and_back(sides):
    resolution = resolution_of(sides)
    assert name_of(text_of(resolution)) == resolution
    assert resolution_of(plain_of(resolution)) == resolution
    assert sides_of(resolution) == tuple(sides)


def test_a_square_has_one_form():
    assert resolution_of([32, 32]) == resolution_of(32) == 32
    assert text_of((32, 32)) == "32" and text_of((8, 32, 32)) == "8x32x32"
    assert resolution_of([32]) != resolution_of(32)
    assert text_of((32,)) != text_of(32)


def test_a_word_is_a_name_that_knows_its_resolution_and_equals_the_word():
    refined = Named("refined", (64, 64))
    assert {refined: 1}["refined"] == 1
    assert text_of(refined) == plain_of(refined) == name_of("refined") == "refined"
    assert resolution_of(refined) == 64 and sides_of(refined) == (64, 64)
    for again in (copy.deepcopy(refined), pickle.loads(pickle.dumps(refined))):
        assert again == refined and resolution_of(again) == 64


@pytest.mark.parametrize("word", ["64", "8x32x32", "", "../up", "a b"])
def test_a_word_that_could_be_a_resolution_or_a_path_is_no_name(word):
    with pytest.raises(ValueError, match="start with a letter"):
        Named(word, 64)


def test_a_plain_word_has_no_resolution():
    with pytest.raises(ValueError, match="'base' has no resolution"):
        resolution_of("base")


def test_finest_is_what_has_most_pixels_and_each_comes_once():
    assert finest_first([16, 64, 32, 64]) == [64, 32, 16]
    assert finest_first([(4, 8, 8), (8, 8, 8), 32]) == [32, (8, 8, 8), (4, 8, 8)]


def test_only_equal_ranks_divide():
    assert divides((4, 8, 8), (8, 8, 8)) and not divides((8, 8, 8), (4, 8, 8))
    assert divides(8, (16, 8)) and not divides(8, (8, 8, 8))


def test_a_level_is_named_by_its_resolution_and_where_others_have_it_by_its_place_too():
    assert level_names([64, 32]) == ("64", "32")
    assert level_names([32, 16, 16]) == ("32", "16-1", "16-2")
    assert level_names([(8, 16, 16), (4, 16, 16)]) == ("8x16x16", "4x16x16")
    assert level_names([Named("detail", 16), Named("low", 16)]) == ("detail", "low")
    assert level_names([]) == ()
