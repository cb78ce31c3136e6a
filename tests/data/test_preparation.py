"""Crops and filters by their published names against what their definitions say."""

import io

import numpy as np
import pytest
from einops import reduce
from PIL import Image

from hierdiff.data.preparation import Chance, Preparation

RNG = np.random.default_rng(0)


def pixels(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (3, height, width), dtype=np.uint8)


def test_box_is_the_mean_of_blocks_as_area_is():
    image = pixels(32, 40)
    box = Preparation(8, filter="box").square(image).astype(int)
    assert np.abs(box - Preparation(8).square(image)).max() <= 1  # halves are rounded otherwise


def test_the_middle_of_adm_is_box_halves_then_bicubic():
    image = pixels(32, 32)
    half = np.rint(reduce(image.astype(float), "c (h i) (w j) -> c h w", "mean", i=2, j=2))
    expected = reduce(half, "c (h i) (w j) -> c h w", "mean", i=2, j=2)
    found = Preparation(8, crop="adm_center").square(image)
    assert np.abs(found - expected).max() <= 2  # Pillow rounds after rows and after columns
    wide = Image.fromarray(pixels(12, 20).transpose(1, 2, 0))
    whole = np.asarray(wide.resize((13, 8), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    found = Preparation(8, crop="adm_center").square(np.asarray(wide).transpose(2, 0, 1))
    np.testing.assert_array_equal(found, whole[:, :, 2:10])


def test_lanczos_is_that_of_pillow_on_the_middle_square():
    image = pixels(20, 30)
    square = Image.fromarray(image[:, :, 5:25].transpose(1, 2, 0))
    expected = np.asarray(square.resize((8, 8), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    np.testing.assert_array_equal(Preparation(8, filter="lanczos").square(image), expected)


def test_a_random_crop_shows_0_8_to_1_of_the_shorter_side_at_any_place():
    ramp = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None] * 2, (1, 100, 100)).copy()
    prepare = Preparation(40, channels=1, crop="adm_random")
    low = prepare.square(ramp, Chance(0.999, 0.0, 0.0))[0, :, 0].astype(int)
    high = prepare.square(ramp, Chance(0.999, 0.999, 0.0))[0, :, 0].astype(int)
    all_of_it = prepare.square(ramp, Chance(0.0, 0.5, 0.5))[0, :, 0].astype(int)
    assert low[0] <= 4 and low[-1] == pytest.approx(160, abs=4)
    assert high[0] == pytest.approx(40, abs=4) and high[-1] >= 194
    assert all_of_it[0] <= 4 and all_of_it[-1] >= 194
    middle = Preparation(40, channels=1, crop="adm_center").square(ramp)
    np.testing.assert_array_equal(prepare.square(ramp), middle)


def test_the_file_is_decoded_to_the_channels_asked_for():
    buffer = io.BytesIO()
    Image.new("RGBA", (12, 10), (255, 0, 0, 0)).save(buffer, format="PNG")
    square, side = Preparation(8, channels=1, filter="bicubic")(buffer.getvalue())
    assert square.shape == (1, 8, 8) and side == (10, 12) and (square == 255).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resolution": 0}, "must be positive"),
        ({"resolution": 8, "channels": 2}, "1 or 3"),
        ({"resolution": 8, "crop": "adm_center", "filter": "box"}, r"data\.reading\.crop=center"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Preparation(**options)
