"""What changes between frames, against known answers."""

import numpy as np
import pytest
import torch

from hierdiff.metrics.extractors import extractors
from hierdiff.metrics.fidelity import FidelityMeter
from hierdiff.metrics.frechet import Statistics
from hierdiff.metrics.motion import clip_statistics, flicker, warping_error
from hierdiff.metrics.reference import references
from hierdiff.metrics.table import check_metrics


def moving_texture(n=2, frames=4, side=16, step=1, seed=0):
    """A random texture that moves to the right by `step` pixels a frame."""
    random = np.random.default_rng(seed)
    wide = random.integers(0, 256, (n, 3, side, side + 4 * frames), dtype=np.uint8)
    first = 3 * frames
    clips = [wide[..., first - step * t : first - step * t + side] for t in range(frames)]
    return torch.from_numpy(np.stack(clips, axis=2))


def test_a_still_clip_has_no_flicker_and_no_warping_error():
    still = moving_texture(step=0)
    assert not flicker(still).any() and not warping_error(still).any()


def test_an_even_change_does_not_flicker_and_one_to_and_fro_by_its_size():
    even = torch.arange(0, 80, 20, dtype=torch.uint8).reshape(1, 1, 4, 1, 1).expand(2, 3, 4, 8, 8)
    assert not flicker(even).any()
    to_and_fro = torch.tensor([0, 10, 0, 10], dtype=torch.uint8).reshape(1, 1, 4, 1, 1)
    torch.testing.assert_close(flicker(to_and_fro.expand(1, 3, 4, 8, 8)), torch.tensor([20.0]))


@pytest.mark.parametrize("step", [1, 2, 3])
def test_what_moves_within_reach_is_warped_back_but_at_its_border(step):
    """Only blocks at the left border, into which new pixels come, leave an error."""
    within, beyond = moving_texture(step=step), moving_texture(step=4)
    assert warping_error(within).max() < 0.8 * warping_error(beyond).min()
    inner = moving_texture(side=32, step=step)[..., 8:24]  # border pixels are known there
    assert warping_error(inner).max() < warping_error(beyond).min()
    assert flicker(within).min() > 50


def test_a_clip_counts_once_with_the_mean_and_the_change_of_its_features():
    features = torch.tensor([[0.0, 1], [2, 1], [4, 1], [5, 5], [5, 5], [5, 5]])
    statistics = clip_statistics(Statistics.of(features, keep=6), frames=3)
    assert statistics.n == 2
    torch.testing.assert_close(statistics.kept, torch.tensor([[2.0, 1, 2, 0], [5, 5, 0, 0]]))


def test_the_frames_of_a_clip_are_kept_together():
    stream = Statistics(1, keep=40, group=8)
    for start in range(0, 800, 32):
        stream.add(torch.arange(start, start + 32).float()[:, None])
    clips = stream.rows.reshape(5, 8)
    assert len(stream.rows) == 40 and (clips == clips[:, :1] + torch.arange(8)).all()
    assert (clips[:, 0] % 8 == 0).all()
    assert clip_statistics(stream, 8).n == 5
    some = stream.sample(16)[:, 0].reshape(2, 8)
    assert (some == some[:, :1] + torch.arange(8)).all()


@pytest.fixture(scope="module")
def extractor():
    return extractors.build({"name": "random_conv"})


def measured(extractor, clips, real, metrics=("fd", "fd_motion", "flicker")):
    known = references([real], extractor, [(4, 16, 16)], data="d", split="train")
    meter = FidelityMeter(extractor, known, metrics)
    meter.add({(4, 16, 16): clips})
    return {
        row.metric.split("-")[0] + ("-motion" in row.metric) * "-motion": row
        for row in meter.qualities()
    }


def test_another_order_of_frames_moves_the_distance_of_motion_alone(extractor):
    real, other = moving_texture(24, seed=1), moving_texture(24, seed=2)
    shuffled = other[:, :, [0, 3, 1, 2]]
    usual, mixed = measured(extractor, other, real), measured(extractor, shuffled, real)
    assert usual["FD"].value == pytest.approx(mixed["FD"].value, rel=1e-4)
    assert usual["FD-motion"].value != pytest.approx(mixed["FD-motion"].value, rel=1e-3)
    same = measured(extractor, real, real)["FD-motion"]
    assert same.value == pytest.approx(0, abs=1e-3 * usual["FD-motion"].value)
    row = usual["FD-motion"]
    assert (row.n, row.n_reference) == (24, 24) and row.floor > 0
    assert "N=24 : frames=4" in str(row.identity)
    assert usual["FD"].floor is None
    assert (usual["flicker"].n, usual["flicker"].better) == (24, None)
    assert usual["flicker"].value == pytest.approx(float(flicker(other).mean()))
    assert usual["warping"].value == pytest.approx(float(warping_error(other).mean()))


@pytest.mark.parametrize("name", ["fd_motion", "flicker"])
@pytest.mark.parametrize("resolution", [16, (2, 16, 16)])
def test_images_and_clips_of_two_frames_are_refused(extractor, name, resolution):
    with pytest.raises(ValueError, match="compares neighbouring frames of clips of 3 or more"):
        check_metrics([name], extractor, resolutions=[resolution])
