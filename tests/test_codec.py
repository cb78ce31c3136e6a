"""The pyramid as a codec."""

import pytest
import torch

from hierdiff.codec import Pyramid


def test_a_pyramid_of_one_resolution_is_the_identity():
    images = torch.rand(2, 3, 8, 8)
    (level,) = Pyramid([8]).encode(images)
    assert torch.equal(level, images)
    assert torch.equal(Pyramid([8]).decode((level,))[8], images)


def test_levels_are_block_means_of_the_finest_one():
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    levels = Pyramid([8, 4, 2]).encode(images)
    assert [tuple(level.shape[1:]) for level in levels] == list(Pyramid([8, 4, 2]).shapes())
    torch.testing.assert_close(levels[1][:, :, 1, 0], images[:, :, 2:4, 0:2].mean((2, 3)))
    torch.testing.assert_close(levels[2][:, :, 0, 1], images[:, :, :4, 4:].mean((2, 3)))


def test_images_finer_than_the_finest_resolution_are_pooled_to_it():
    images = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(
        Pyramid([4, 2]).encode(images), Pyramid([8, 4, 2]).encode(images)[1:]
    )


def test_decoding_names_each_level_by_its_resolution():
    levels = Pyramid([8, 4]).encode(torch.rand(1, 3, 8, 8))
    decoded = Pyramid([8, 4]).decode(levels)
    assert list(decoded) == [8, 4]
    assert all(decoded[level.shape[-1]] is level for level in levels)


def test_the_tail_encodes_to_the_coarsest_levels():
    images = torch.rand(1, 1, 8, 8)
    whole = Pyramid([8, 4, 2], channels=1)
    assert whole.tail(2).shapes() == Pyramid([4, 2], channels=1).shapes()
    torch.testing.assert_close(whole.tail(2).encode(images), whole.encode(images)[1:])


@pytest.mark.parametrize(
    ("resolutions", "message"),
    [
        ([8, 16], r"not in order.*\[16, 8\]"),
        ([8, 8], r"name 8 twice"),
        ([12, 8], r"8 does not divide 12"),
        ([], r"one or more positive sides"),
        ([8, 0], r"one or more positive sides"),
    ],
)
def test_resolutions_that_make_no_pyramid_are_refused(resolutions, message):
    with pytest.raises(ValueError, match=message):
        Pyramid(resolutions)
