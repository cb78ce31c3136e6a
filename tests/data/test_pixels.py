import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hierdiff.data.pixels import area, as_uint8, centre, overlaps, read_square


@given(st.integers(1, 40), st.integers(1, 40))
def test_area_shares_of_each_new_pixel_sum_to_one(old, new):
    old, new = max(old, new), min(old, new)
    weights = overlaps(old, new)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(weights.sum(0), new / old, atol=1e-6)


def test_three_pixels_become_two_by_thirds():
    np.testing.assert_allclose(overlaps(3, 2), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]], atol=1e-6)


def test_a_dividing_side_gives_block_means():
    image = np.array([[[0, 10, 0, 0], [20, 30, 0, 0], [1, 1, 255, 255], [1, 1, 255, 255]]])
    assert area(image.astype(np.uint8), 2).tolist() == [[[15, 0], [1, 255]]]


def test_the_fractional_route_agrees_with_block_means():
    image = np.random.default_rng(0).integers(0, 256, (3, 12, 12)).astype(np.uint8)
    weights = overlaps(12, 4)
    routed = weights @ image.astype(np.float32) @ weights.T
    assert np.abs(routed - area(image, 4)).max() <= 0.5 + 1e-3


def test_enlarging_is_refused():
    with pytest.raises(ValueError, match="lower the resolution"):
        area(np.zeros((3, 4, 4), np.uint8), 8)


def test_sixteen_bits_are_scaled_not_clipped():
    deep = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))
    assert as_uint8(deep, 1).tolist() == [[[0, 1, 128, 255]]]


def test_transparency_is_white_before_the_average(tmp_path):
    image = np.zeros((2, 2, 4), np.uint8)
    image[0] = 255, 0, 0, 255  # the upper half opaque red, the lower transparent black
    Image.fromarray(image).save(tmp_path / "a.png")
    pixels, side = read_square(tmp_path / "a.png", resolution=1)
    assert (pixels[:, 0, 0].tolist(), side) == ([255, 128, 128], 2)


def test_a_palette_with_a_transparent_entry_is_white_there():
    image = Image.new("P", (1, 1), 0)
    image.putpalette([9, 9, 9])
    image.info["transparency"] = 0
    assert as_uint8(image, 3)[:, 0, 0].tolist() == [255, 255, 255]


def test_the_camera_orientation_is_honoured(tmp_path):
    image = Image.new("L", (2, 2), 0)
    image.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "a.png", exif=exif)
    pixels, _ = read_square(tmp_path / "a.png", resolution=2, channels=1)
    assert pixels[0].tolist() == [[0, 0], [0, 255]]


def test_cmyk_without_ink_is_white_and_with_cyan_has_no_red():
    assert as_uint8(Image.new("CMYK", (1, 1), (0, 0, 0, 0)), 3).ravel().tolist() == [255] * 3
    assert as_uint8(Image.new("CMYK", (1, 1), (255, 0, 0, 0)), 3)[0, 0, 0] == 0


def test_the_crop_is_central():
    image = np.arange(10, dtype=np.uint8).reshape(1, 2, 5)
    assert centre(image).tolist() == [[[1, 2], [6, 7]]]


def test_float_pixels_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match="save 8 or 16 bits"):
        as_uint8(Image.fromarray(np.ones((2, 2), np.float32)), 3)
