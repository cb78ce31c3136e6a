"""Features kept by content: what computes none again, what is not the same, and damage."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hierdiff.metrics.cached import CachedFeatures
from hierdiff.metrics.extractors import RandomConv
from hierdiff.metrics.reference import BATCH, feature_batches


def images(n: int = 40, side: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator)


def features(cache: CachedFeatures, extractor: RandomConv, x: Tensor) -> Tensor:
    return torch.cat([parts["features"] for parts in cache.batches(extractor, x, {"features"})])


@pytest.fixture
def extractor() -> RandomConv:
    return RandomConv(width=8)


def test_the_same_images_are_computed_once_and_bit_for_bit(extractor, tmp_path):
    expected = torch.cat([parts["features"] for parts in feature_batches(extractor, images())])
    first, again = CachedFeatures(tmp_path), CachedFeatures(tmp_path)
    assert torch.equal(features(first, extractor, images()), expected)
    assert (first.computed, first.read) == (40, 0)
    assert torch.equal(features(again, extractor, images()), expected)
    assert (again.computed, again.read) == (0, 40)


def test_another_batch_of_the_caller_finds_the_same_entries(extractor, tmp_path):
    cache = CachedFeatures(tmp_path)
    whole = features(cache, extractor, images(4 * BATCH))
    parts = [features(cache, extractor, part) for part in images(4 * BATCH).split(2 * BATCH)]
    assert torch.equal(torch.cat(parts), whole) and cache.read == cache.computed == 4 * BATCH


def test_other_pixels_weights_or_sizes_are_other_entries(extractor, tmp_path):
    cache = CachedFeatures(tmp_path)
    x = images(BATCH)
    features(cache, extractor, x)
    other = x.clone()
    other[-1, -1, -1, -1] ^= 1
    for network, pixels in ((extractor, other), (RandomConv(width=8, seed=1), x)):
        features(cache, network, pixels)
    features(cache, extractor, x.reshape(BATCH, 3, 8, 32))
    assert cache.read == 0 and cache.computed == 4 * BATCH


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_a_damaged_entry_is_computed_again(damage, extractor, tmp_path, caplog):
    expected = features(CachedFeatures(tmp_path), extractor, images(BATCH))
    (path,) = tmp_path.rglob("*.npz")
    whole = path.read_bytes()
    if damage == "other":
        features(CachedFeatures(tmp_path / "other"), extractor, images(BATCH + 1)[1:])
        (other,) = (tmp_path / "other").rglob("*.npz")
        other.rename(path)
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        path.write_bytes({"flip": flipped, "cut": whole[:middle], "empty": b""}[damage])
    cache = CachedFeatures(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(features(cache, extractor, images(BATCH)), expected)
    assert cache.computed == BATCH and "features are computed again" in caplog.text
    again = CachedFeatures(tmp_path)
    features(again, extractor, images(BATCH))
    assert again.read == BATCH


def test_a_cache_that_cannot_be_written_to_is_none(extractor, tmp_path, caplog):
    place = tmp_path / "file"
    place.write_text("no folder")
    cache = CachedFeatures(place)
    with caplog.at_level(logging.WARNING):
        found = features(cache, extractor, images())
    assert torch.equal(found, features(CachedFeatures(tmp_path), extractor, images()))
    assert caplog.text.count("features are not kept") == 1


def test_an_entry_is_written_whole_or_not_at_all(extractor, tmp_path: Path):
    features(CachedFeatures(tmp_path), extractor, images())
    names = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert len(names) == 3 and all(name.endswith(".npz") for name in names)
