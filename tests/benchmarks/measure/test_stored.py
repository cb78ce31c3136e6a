"""All measured samples stay in the run folder, also over a kill, and are measured again alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.measure.external import external_images
from benchmarks.measure.stored import Stored
from hierdiff.data.order import evaluation_rows
from tests.training.runs import images


def levels(n: int = 10) -> dict[int, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        side: torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=draw)
        for side in (8, 4)
    }


def part(whole: dict[int, torch.Tensor], start: int, stop: int) -> dict[int, torch.Tensor]:
    return {side: batch[start:stop] for side, batch in whole.items()}


@pytest.mark.parametrize("kind", ["npz", "png"])
def test_samples_are_read_as_they_were_drawn(kind, tmp_path):
    drawn, data = levels(), images(20)
    stored = Stored(tmp_path, kind, 3, 10, data)
    stored.add(0, part(drawn, 0, 4))
    again = Stored(tmp_path, kind, 3, 10, data)  # after a kill; one batch is drawn twice
    for start in (4, 4, 8):
        again.add(start, part(drawn, start, min(start + 4, 10)))
    again.close()
    for side in (8, 4):
        place = f"seed3-{side}.npz" if kind == "npz" else f"seed3/{side}"
        read = external_images(tmp_path / place)
        assert len(read) == 10
        assert torch.equal(torch.cat(list(read.batches(0, 10))), drawn[side])
    if kind == "npz":
        labels = np.load(tmp_path / "seed3-8.npz")["arr_1"]
        rows = evaluation_rows(20, range(10)).numpy()
        assert np.array_equal(labels, data.labels[rows])
    assert not list(tmp_path.rglob("*.npy"))


def test_samples_that_were_complete_before_a_kill_stay(tmp_path):
    drawn = levels()
    stored = Stored(tmp_path, "npz", 0, 10, images(20))
    stored.add(0, drawn)
    stored.close()
    before = (tmp_path / "seed0-8.npz").read_bytes()
    again = Stored(tmp_path, "npz", 0, 10, images(20))
    again.add(4, part(drawn, 4, 10))
    again.close()
    assert (tmp_path / "seed0-8.npz").read_bytes() == before


@pytest.mark.parametrize("kind", ["npz", "png"])
def test_a_new_measuring_leaves_none_of_the_old(kind, tmp_path):
    for n in (10, 6):
        stored = Stored(tmp_path, kind, 0, n, images(20))
        stored.add(0, part(levels(), 0, n))
        stored.close()
    place = "seed0-8.npz" if kind == "npz" else "seed0/8"
    assert len(external_images(tmp_path / place)) == 6
