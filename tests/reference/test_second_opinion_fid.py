"""FID as torch-fidelity and clean-fid find it, on the same features and on the same images."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hierdiff.metrics.extractors import Inception
from hierdiff.metrics.extractors.inception import resized
from hierdiff.metrics.frechet import Statistics, distance
from tests.metrics.foreign_inception import write_random


def features(n: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return (draw.normal(size=(n, 48)) @ np.diag(np.linspace(0.1, 2, 48)) + seed).astype(np.float32)


def ours(a: np.ndarray, b: np.ndarray) -> float:
    return distance(*(Statistics.of(torch.from_numpy(x)) for x in (a, b))).value


def of_torch_fidelity(a: np.ndarray, b: np.ndarray) -> float:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    found = [fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
    return fid_statistics_to_metric(*found, verbose=False)["frechet_inception_distance"]


def clean_fid() -> Any:
    """clean-fid's module, without the warnings of what it calls."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("cleanfid.fid")


def of_clean_fid(a: np.ndarray, b: np.ndarray) -> float:
    fid = clean_fid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(fid.fid_from_feats(a, b))


@pytest.mark.parametrize("other", [of_torch_fidelity, of_clean_fid])
@pytest.mark.parametrize("n", [60, 500])
def test_a_distance_of_the_same_features_is_theirs_to_every_printed_digit(other, n):
    a, b = features(n, 0), features(n + 10, 1)
    assert ours(a, b) == pytest.approx(other(a, b), rel=1e-6)
    assert f"{ours(a, b):.4f}" == f"{other(a, b):.4f}"


@pytest.mark.parametrize("side", [32, 64, 320])
def test_the_clean_resize_is_that_of_pillow_on_floats(side):
    image = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    planes = [
        Image.fromarray(image[..., c].astype(np.float32)).resize(
            (299, 299), Image.Resampling.BICUBIC
        )
        for c in range(3)
    ]
    expected = np.stack([np.asarray(plane).clip(0, 255) for plane in planes])
    found = resized(torch.from_numpy(image.transpose(2, 0, 1))[None].contiguous(), "clean")
    assert np.abs(found[0].numpy() - expected).max() < 2e-2  # of 255


@pytest.mark.parametrize("convention", ["legacy_pytorch", "clean"])
def test_resized_images_are_those_of_clean_fid(convention):
    clean_fid()
    from cleanfid.resize import build_resizer

    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    expected = build_resizer(convention)(image).transpose(2, 0, 1)
    found = resized(torch.from_numpy(image.transpose(2, 0, 1))[None].contiguous(), convention)
    assert np.abs(found[0].numpy() - expected).max() < 2e-2  # of 255


def smooth(n: int, side: int, seed: int) -> np.ndarray:
    """Images with structure, which random weights tell apart."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    pictures = [
        Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC) for one in coarse
    ]
    return np.stack([np.asarray(one) for one in pictures])


def put(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:03}.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("convention", ["legacy_tensorflow", "legacy_pytorch", "clean"])
def test_a_distance_of_the_same_folders_is_that_of_clean_fid(convention, tmp_path):
    """Both with the same network of random weights, for the real ones cannot be had offline."""
    fid = clean_fid()
    extractor = Inception(weights=write_random(tmp_path), resize=convention)
    sets = [smooth(12, 48, 0), smooth(14, 48, 1)]
    folders = [put(tmp_path / str(number), images) for number, images in enumerate(sets)]

    def network(x: Tensor) -> Tensor:
        """Of what clean-fid has resized; native images go through the network's own resize."""
        if convention == "legacy_tensorflow":
            return extractor.network(x.to(torch.uint8))[0]
        first = extractor.network.Conv2d_1a_3x3
        hook = first.register_forward_pre_hook(lambda module, args: ((x - 128) / 128,))
        try:
            return extractor.network(torch.zeros(len(x), 3, 299, 299, dtype=torch.uint8))[0]
        finally:
            hook.remove()

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        expected = fid.compare_folders(
            *map(str, folders), network, convention, num_workers=0, batch_size=8,
            device=torch.device("cpu"), verbose=False,
        )  # fmt: skip
    found = [extractor(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())) for x in sets]
    value = distance(*map(Statistics.of, found)).value
    assert value == pytest.approx(float(expected), rel=1e-4) and value > 0


@pytest.mark.slow
def test_a_distance_of_the_same_folders_is_that_of_torch_fidelity(tmp_path):
    import torch_fidelity

    path = write_random(tmp_path)
    sets = [smooth(12, 48, 0), smooth(14, 48, 1)]
    folders = [put(tmp_path / str(number), images) for number, images in enumerate(sets)]
    expected = torch_fidelity.calculate_metrics(
        **{"input1": str(folders[0]), "input2": str(folders[1]), "fid": True, "cuda": False},
        **{"feature_extractor_weights_path": str(path), "verbose": False, "cache": False},
        **{"batch_size": 16, "save_cpu_ram": True},
    )["frechet_inception_distance"]
    extractor = Inception(weights=path)
    found = [extractor(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())) for x in sets]
    assert distance(*map(Statistics.of, found)).value == pytest.approx(expected, rel=1e-4)
