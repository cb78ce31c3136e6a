from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hierdiff.files.atomic import write_png
from hierdiff.images import sheet, to_float, to_pil, to_uint8, write_sheet


def test_the_ends_of_the_range_are_black_and_white_and_outside_is_clipped():
    x = torch.tensor([-7.0, -1.0, 1.0, 7.0]).reshape(4, 1, 1, 1)
    assert to_uint8(x).flatten().tolist() == [0, 0, 255, 255]


def test_every_byte_survives_the_way_to_float_and_back():
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(to_uint8(to_float(every)), every)
    assert to_float(every).min() == -1
    assert to_float(every).max() == 1


@given(value=st.floats(-1, 1))
def test_pixels_are_rounded_and_not_cut_off(value: float):
    x = torch.full((1, 1, 1), value)
    assert abs(float(to_float(to_uint8(x)) - x)) <= 1 / 255 + 1e-6


def test_half_precision_is_rounded_in_single():
    x = to_float(torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16))
    assert torch.equal(to_uint8(x.to(torch.bfloat16)), to_uint8(x.to(torch.bfloat16).float()))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_an_image_keeps_its_pixels_in_pillow_and_in_a_file(tmp_path: Path, channels, mode):
    image = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8)
    path = tmp_path / "new folder" / "image.png"
    write_png(path, to_pil(image))
    with Image.open(path) as read:
        assert read.mode == mode
        assert read.size == (7, 5)
        array = np.asarray(read).reshape(5, 7, channels)
    assert torch.equal(torch.from_numpy(array.copy()).permute(2, 0, 1), image)
    assert [p.name for p in path.parent.iterdir()] == ["image.png"]


def colours(n: int, side: int) -> torch.Tensor:
    """Image i is evenly of grey 10 (i + 1)."""
    grey = (10 * torch.arange(1, n + 1, dtype=torch.uint8)).reshape(n, 1, 1, 1)
    return grey.expand(n, 3, side, side).clone()


def test_a_sheet_shows_the_same_example_at_the_same_place_of_every_level():
    cell, gap, columns = 8, 2, 3
    picture = np.asarray(sheet([colours(5, 8), colours(5, 4)], columns, cell, gap))
    block = columns * (cell + gap) + gap
    assert picture.shape == (2 * (cell + gap) + gap, 2 * block + 3 * gap, 3)
    for i in range(5):
        y = gap + i // columns * (cell + gap)
        x = gap + i % columns * (cell + gap)
        for left in (x, x + block + 3 * gap):
            assert (picture[y : y + cell, left : left + cell] == 10 * (i + 1)).all()
    assert (picture[gap + cell + gap :, gap + 2 * (cell + gap) : block] == 255).all()


def test_small_pixels_are_enlarged_without_blur():
    image = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8).expand(1, 3, 2, 2)
    picture = np.asarray(sheet([image], columns=1, cell=6, gap=1))[1:-1, 1:-1, 0]
    expected = np.kron(np.array([[0, 255], [255, 0]]), np.ones((3, 3)))
    assert np.array_equal(picture, expected)


def test_grey_images_make_a_sheet_too():
    assert sheet([colours(2, 4)[:, :1]], columns=2, cell=4, gap=0).size == (8, 4)


def test_a_moving_sheet_shows_a_coarser_frame_as_long_as_the_finer_ones(tmp_path: Path):
    fine = colours(2, 8)[:, :, None] + torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1)
    coarse = colours(2, 4)[:, :, None] + torch.arange(2, dtype=torch.uint8).reshape(2, 1, 1)
    write_sheet(tmp_path / "sheet.png", [fine, coarse])
    with Image.open(tmp_path / "sheet.webp") as moving, Image.open(tmp_path / "sheet.png") as still:
        assert (moving.n_frames, moving.is_animated) == (4, True)
        assert still.height == moving.height and still.width > moving.width
        for frame in range(4):
            moving.seek(frame)
            picture = np.asarray(moving.convert("RGB"))
            assert moving.info["duration"] == 500
            assert (picture[4:100, 4:100] == 10 + frame).all()
            left = 2 * 100 + 4 + 12
            assert (picture[4:100, left + 4 : left + 100] == 10 + frame // 2).all()
    write_sheet(tmp_path / "images.png", [colours(2, 4)])
    assert not (tmp_path / "images.webp").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_becomes_no_pixel(value: float):
    images = torch.zeros(2, 4, 3, 2, 2)
    images[1, 2, 0, 1, 1] = value
    with pytest.raises(FloatingPointError, match="1 of 2 images hold values that are not finite"):
        to_uint8(images)
