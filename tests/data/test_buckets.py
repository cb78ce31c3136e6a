"""Aspect buckets: which there are, where an image goes, what it loses, and what a step sees."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hierdiff.data import datasets, order
from hierdiff.data.buckets import Aspects, Buckets, fitted, for_training, nearest
from hierdiff.data.pixels import area, centre

SMALL = ((16, 64), (24, 40), (32, 32), (40, 24), (64, 16))
# as public code lists SDXL's: down to the square, and behind it the same turned but for one
LISTED = """512x2048 512x1984 512x1920 512x1856 576x1792 576x1728 576x1664 640x1600 640x1536
704x1472 704x1408 704x1344 768x1344 768x1280 832x1216 832x1152 896x1152 896x1088
960x1088 960x1024"""


def test_the_buckets_of_sdxl_are_those_of_its_rule_but_for_one():
    wide = {tuple(map(int, one.split("x"))) for one in LISTED.split()}
    found = Aspects(multiple=64).shapes(1024)
    assert set(found) == wide | {(w, h) for h, w in wide} | {(1024, 1024)}
    assert len(found) == len(set(found)) == 41
    aspects = [height / width for height, width in found]
    assert aspects == sorted(aspects)


def test_small_buckets():
    assert Aspects().shapes(32) == SMALL
    assert Aspects(least=1).shapes(32) == ((16, 64), (32, 32), (64, 16))
    assert Aspects(most=1).shapes(32) == ((32, 32),)
    with pytest.raises(ValueError, match="multiple=24 does not divide the resolution 32"):
        Aspects(multiple=24).shapes(32)
    with pytest.raises(ValueError, match="data.buckets.most"):
        Aspects(most=0.5)


def test_an_image_goes_to_the_nearest_log_aspect():
    sizes = np.array([[64, 64], [60, 100], [100, 60], [10, 400], [100, 129], [100, 130]])
    assert nearest(sizes, SMALL).tolist() == [2, 1, 3, 0, 2, 1]
    own = np.log(sizes[:, 0] / sizes[:, 1])
    for at, row in zip(nearest(sizes, SMALL), own, strict=True):
        far = [abs(row - np.log(h / w)) for h, w in SMALL]
        assert far[at] == min(far)


def test_of_two_buckets_that_are_as_near_the_larger_is_taken():
    assert nearest(np.array([[20, 20]]), ((16, 64), (64, 16), (24, 24), (32, 32))).tolist() == [3]


@pytest.mark.parametrize("shape", SMALL)
@pytest.mark.parametrize("size", [(64, 64), (70, 90), (128, 67)])
def test_no_image_loses_more_than_its_bucket_does_not_cover(shape, size):
    """One side is whole, and the other is cut to the bucket's aspect, around the middle."""
    pixels = np.zeros((1, *size), np.uint8)
    cut = centre(pixels, shape).shape[1:]
    assert cut[0] == size[0] or cut[1] == size[1]
    assert abs(cut[0] * shape[1] - cut[1] * shape[0]) <= max(shape) / 2
    assert fitted(pixels, shape).shape[1:] == shape


def test_the_square_bucket_is_the_square_bit_for_bit():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 50, 77), np.uint8)
    assert np.array_equal(fitted(pixels, (32, 32)), area(centre(pixels), 32))
    turned = fitted(pixels.transpose(0, 2, 1), (40, 24))
    assert np.array_equal(turned.transpose(0, 2, 1), fitted(pixels, (24, 40)))
    with pytest.raises(ValueError, match="side 50x62 is below the resolution 64x80"):
        fitted(pixels[..., :63], (64, 80))


SIZES = [5, 1, 10]


def rows(step, buckets=SIZES, **options):
    return order.indices(step, n=sum(buckets), batch=4, seed=3, buckets=buckets, **options)


def test_a_step_has_one_bucket_and_all_examples_are_seen_alike():
    """In as many steps as there are examples a bucket comes as often as it has some."""
    counts = torch.zeros(16, dtype=torch.int64)
    for step in range(16, 32):
        seen = rows(step)
        which = torch.bucketize(seen, torch.tensor(SIZES).cumsum(0), right=True)
        assert len(set(which.tolist())) == 1
        counts += torch.bincount(seen, minlength=16)
    assert counts.tolist() == [4] * 16


def test_the_processes_of_a_step_see_together_what_one_does():
    for step in (0, 7, 100):
        parts = [rows(step, rank=rank, ranks=2) for rank in range(2)]
        assert torch.equal(torch.cat(parts), rows(step))
        epochs = order.epochs(step, n=16, batch=4, seed=3, buckets=SIZES)
        assert len(epochs) == 4 and int(epochs.max()) <= step


def test_one_bucket_has_the_batches_of_none():
    for step in (0, 5, 31):
        assert torch.equal(rows(step, [16]), order.indices(step, n=16, batch=4, seed=3))
        own = order.epochs(step, n=16, batch=4, seed=3, buckets=[16])
        assert torch.equal(own, order.epochs(step, n=16, batch=4))


def folder(tmp_path: Path, **options):
    """Images of a ramp along their longer side, in four sizes."""
    root = tmp_path / "photos"
    root.mkdir(exist_ok=True)
    for number, (height, width) in enumerate([(64, 64), (48, 80), (80, 48), (33, 90)] * 4):
        ramp = np.linspace(0, 255, max(height, width)).astype(np.uint8)
        pixels = np.broadcast_to(ramp if width >= height else ramp[:, None], (height, width))
        Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB").save(root / f"{number:02}.png")
    node = {"name": "folder", "root": str(root), "cache": str(tmp_path / "cache")}
    return datasets.build({**node, "resolution": 32, **options})


TOLD = ["target_height", "target_width", "crop_top", "crop_left", "original_width"]


def test_a_folder_is_trained_on_in_buckets_and_measured_as_squares(tmp_path):
    plain = folder(tmp_path, scalars=TOLD)
    data = folder(tmp_path, scalars=TOLD, buckets={})
    assert np.array_equal(data.images, plain.images) and data.resolution == 32
    assert data.sha256 != plain.sha256 and "in buckets (16x64: 4, 24x40: 4" in data.summary()
    assert [part.resolution for part in data.buckets] == [(16, 64), (24, 40), 32, (40, 24)]
    wide = data.buckets[1]
    assert set(wide.keys) == {f"{number:02}.png" for number in range(1, 16, 4)}
    assert [float(wide.scalars[name][0]) for name in TOLD] == [24, 40, 0, 0, 80]
    ramp = np.linspace(0, 255, 80).astype(np.uint8)
    assert np.array_equal(wide.images[0, 0, 5], np.rint(ramp.reshape(40, 2).mean(1)))
    cut = data.buckets[0].scalars
    assert (float(cut["crop_top"][0]), float(cut["crop_left"][0])) == (3, 0)  # 33 x 90 to 23 x 64
    train = data.part("train")
    assert sum(map(len, train.buckets)) == len(train)
    assert not data.part("test").buckets
    keys = {key for part in train.buckets for key in part.keys}
    assert keys == set(train.keys)


def test_a_batch_of_training_has_the_shape_of_its_bucket(tmp_path):
    buckets = for_training(folder(tmp_path, scalars=TOLD, buckets={}).part("train"))
    assert isinstance(buckets, Buckets)
    for step in range(8):
        index = rows(step, buckets.sizes)
        batch = buckets.batch(index)
        shape = tuple(batch.images.shape[2:])
        assert {int(one) for one in batch.cond.scalars["target_height"]} == {shape[0]}
        assert shape in SMALL
    plain = folder(tmp_path).part("train")
    assert for_training(plain) is plain


@pytest.mark.parametrize("reading", [{"decoded": False}, {"decoded": True, "filter": "lanczos"}])
def test_what_buckets_are_not_made_of_is_one_sentence(tmp_path, reading):
    with pytest.raises(ValueError, match="come into them whole and once, by area: set"):
        folder(tmp_path, buckets={}, reading=reading)


def test_critters_have_windows_of_several_aspects_where_they_are_trained_on_in_buckets(tmp_path):
    node = {"name": "critters", "cache": str(tmp_path), "scalars": ["original_height", *TOLD]}
    data = datasets.build({**node, "buckets": {}})
    assert [part.resolution for part in data.buckets] == [(24, 40), 32, (40, 24)]
    assert min(map(len, data.buckets)) > 600 and sum(map(len, data.buckets)) == 2048
    sizes = np.stack([data.scalars["original_height"], data.scalars["original_width"]], 1)
    assert (sizes.max(1) == 64).all() and sizes.min() == 32
    tall = data.buckets[2].scalars
    assert (tall["original_height"] > tall["original_width"]).all()
    for options in ({"resolution": 64}, {"varied": True}):
        with pytest.raises(ValueError, match="choose 32 or less, and varied=false"):
            datasets.build({**node, "buckets": {}, **options})
