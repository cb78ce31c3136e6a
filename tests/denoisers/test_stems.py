"""Stems: the 5/3 wavelet's known answers and inverse, patches, registration."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hierdiff.denoisers.stems import Patch, Plain, Wavelet, analysed, stems, synthesised

NODES = [
    {"name": "none"},
    {"name": "patch", "factor": 2},
    {"name": "patch", "factor": 4},
    {"name": "wavelet"},
    {"name": "wavelet", "levels": 2},
]
each = pytest.mark.parametrize("node", NODES, ids=lambda node: "-".join(map(str, node.values())))


def impulse(n: int, at: int) -> torch.Tensor:
    return torch.eye(n, dtype=torch.float64)[at]


def doubles(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_a_constant_is_its_own_approximation_without_details():
    approximations, details = analysed(torch.full((8,), 3.0, dtype=torch.float64))
    assert approximations.tolist() == [3.0] * 4 and details.tolist() == [0.0] * 4


def test_a_line_has_no_details_but_at_the_mirror():
    """x = n, and beyond the last sample x[8] = x[6] = 6: d = 7 - (6 + 6) / 2."""
    approximations, details = analysed(torch.arange(8.0, dtype=torch.float64))
    assert details.tolist() == [0.0, 0.0, 0.0, 1.0]
    assert approximations.tolist() == [0.0, 2.0, 4.0, 6.25]


def test_impulses_read_off_the_published_filters():
    """Low -1/8 2/8 6/8 2/8 -1/8 about even samples, high -1/2 1 -1/2 about odd ones."""
    low, high = zip(*(analysed(impulse(16, at)) for at in range(16)), strict=True)
    about_8 = [float(taps[4]) for taps in low]
    assert about_8[6:11] == [-1 / 8, 2 / 8, 6 / 8, 2 / 8, -1 / 8]
    assert not any(about_8[:6] + about_8[11:])
    about_9 = [float(taps[4]) for taps in high]
    assert about_9[8:11] == [-1 / 2, 1, -1 / 2]
    assert not any(about_9[:8] + about_9[11:])


def test_the_signal_is_mirrored_about_its_first_and_last_sample():
    """A transform of the mirrored signal, far from its ends, agrees with that of the signal."""
    x = doubles(8)
    mirrored = torch.cat([x[1:].flip(0), x, x[:-1].flip(0)])  # x[0] stands at 7
    padded = torch.cat([mirrored[1:], mirrored.new_zeros(1)])  # ... at 6, an even place
    for whole, own in zip(analysed(padded), analysed(x), strict=True):
        torch.testing.assert_close(whole[3:7], own, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(half=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_lifting_steps_are_undone(half, seed):
    x = torch.randn(2, 2 * half, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(synthesised(*analysed(x)), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_the_wavelet_is_inverted_to_rounding_both_ways(levels):
    stem, x = Wavelet(levels), doubles(2, 3, 8, 24)
    inside = stem.enter(x)
    assert inside.shape == (2, 3 * 4**levels, 8 // 2**levels, 24 // 2**levels)
    torch.testing.assert_close(stem.leave(inside), x, rtol=0, atol=1e-12)
    h = doubles(2, 3 * 4**levels, 2, 3)
    torch.testing.assert_close(stem.enter(stem.leave(h)), h, rtol=0, atol=1e-12)


def test_bands_are_stacked_rows_first_and_images_stay_together():
    """An image that changes along a row only has details in aa and ad alone."""
    along = torch.sin(torch.arange(8, dtype=torch.float64)).expand(1, 3, 8, 8)
    approximations, details = analysed(along[0, 0, 0])
    aa, ad, da, dd = (
        Wavelet().enter(along * torch.tensor([1.0, 2.0, 3.0])[:, None, None]).chunk(4, dim=1)
    )
    assert not da.any() and not dd.any()
    for channel, factor in enumerate((1.0, 2.0, 3.0)):
        torch.testing.assert_close(aa[0, channel, 2], factor * approximations)
        torch.testing.assert_close(ad[0, channel, 2], factor * details)


def test_white_noise_does_not_stay_white():
    aa, _, _, dd = Wavelet(channels=1).enter(doubles(64, 1, 64, 64)).chunk(4, dim=1)
    inner = (..., slice(1, -1), slice(1, -1))  # away from the mirrors
    assert float(aa[inner].var()) == pytest.approx((23 / 32) ** 2, rel=0.05)
    assert float(dd[inner].var()) == pytest.approx((3 / 2) ** 2, rel=0.05)


@each
@pytest.mark.parametrize("low_channels", [0, 2])
def test_channels_and_sides_are_as_stated(node, low_channels):
    stem = stems.build(node, offered={"channels": 3, "low_channels": low_channels})
    inside = stem.enter(torch.randn(2, 3 + low_channels, 16, 8))
    assert inside.shape == (2, stem.inputs, 16 // stem.factor, 8 // stem.factor)
    back = stem.leave(torch.randn(2, stem.outputs, 16 // stem.factor, 8 // stem.factor))
    assert back.shape == (2, 3, 16, 8)
    assert stem.outputs == 3 * stem.factor**2
    assert stem.inputs == (3 + low_channels) * stem.factor**2


@each
def test_what_leaves_is_linear_so_that_zero_stays_zero(node):
    stem = stems.build(node)
    assert not stem.leave(torch.zeros(1, stem.outputs, 4, 4)).any()


def test_a_patch_is_read_and_written_without_its_neighbours():
    stem = Patch(4)
    x = torch.randn(1, 3, 8, 8)
    moved = x.clone()
    moved[..., :4, :4] += 1
    change = (stem.enter(moved) - stem.enter(x))[0].abs().amax(0) > 0
    assert change.tolist() == [[True, False], [False, False]]
    h = torch.zeros(1, stem.outputs, 2, 2)
    h[..., 1, 0] = 1
    written = stem.leave(h)[0].abs().amax(0) > 0
    assert written[4:, :4].all() and written.sum() == 16


def test_no_stem_is_the_image_itself():
    x = torch.randn(1, 3, 4, 4)
    assert Plain().enter(x) is x and Plain().leave(x) is x


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"name": "wavelett"}, r"unknown stem 'wavelett', did you mean 'wavelet'"),
        ({"name": "patch", "levels": 2}, r"stem 'patch' has no option 'levels'"),
        ({"name": "patch", "factor": 0}, r"factor=0: factor takes a whole number, 1 or more"),
        ({"name": "wavelet", "levels": 0}, r"levels=0: levels takes a whole number, 1 or more"),
    ],
)
def test_bad_stems_are_refused_at_build(node, message):
    with pytest.raises(ValueError, match=message):
        stems.build(node)
