"""All measured samples stay in the run folder, also over a kill, and are measured again alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.conditions import EvaluationConditions
from benchmarks.measure.external import external_images
from benchmarks.measure.samples import sample_facts, stored_form
from hierdiff.data import ImageData
from hierdiff.data.order import evaluation_rows
from hierdiff.files.samples import KINDS, Samples
from tests.training.runs import images


def levels(n: int = 10) -> dict[int, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        side: torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=draw)
        for side in (8, 4)
    }


def captioned() -> ImageData:
    return replace(images(20), captions=tuple(f"picture {i}" for i in range(20)))


def part(whole: dict[int, torch.Tensor], start: int, stop: int) -> dict[int, torch.Tensor]:
    return {side: batch[start:stop] for side, batch in whole.items()}


def place(folder: Path, kind: str, side: int) -> Path:
    return folder / (f"{side}.npz" if kind == "npz" else f"{side}")


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_read_as_they_were_drawn(kind, tmp_path):
    drawn, data = levels(), captioned()
    Samples(tmp_path, kind, 10).add(0, stored_form(part(drawn, 0, 4)))
    again = Samples(tmp_path, kind, 10)  # after a kill; one batch is drawn twice
    for start in (4, 4, 8):
        again.add(start, stored_form(part(drawn, start, min(start + 4, 10))))
    again.close(sample_facts(EvaluationConditions(data), 3, range(10)))
    rows = evaluation_rows(20, range(10)).numpy()
    assert data.labels is not None and data.captions is not None
    for side in (8, 4):
        read = external_images(place(tmp_path, kind, side))
        assert len(read) == 10 and not read.skipped
        assert torch.equal(read.images(0, 10), drawn[side])
        assert [int(one) for one in read.labels if one is not None] == data.labels[rows].tolist()
        assert read.captions == [data.captions[row] for row in rows]
    if kind == "npz":
        assert np.load(tmp_path / "8.npz")["seeds"].tolist() == [3] * 10
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize("kind", ["npz", "webdataset"])
def test_samples_that_were_complete_before_a_kill_stay(kind, tmp_path):
    drawn, facts = levels(), sample_facts(EvaluationConditions(images(20)), 0, range(10))
    stored = Samples(tmp_path, kind, 10)
    stored.add(0, stored_form(drawn))
    stored.close(facts)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    again = Samples(tmp_path, kind, 10)
    again.add(4, stored_form(part(drawn, 4, 10)))
    again.close(facts)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


@pytest.mark.parametrize("kind", ["npz", "webdataset"])
def test_a_process_that_was_killed_before_the_end_is_closed_by_the_next(kind, tmp_path):
    Samples(tmp_path, kind, 10).add(0, stored_form(levels()))
    Samples(tmp_path, kind, 10).close(sample_facts(EvaluationConditions(images(20)), 0, range(10)))
    assert len(external_images(place(tmp_path, kind, 8))) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_measuring_leaves_none_of_the_old(kind, tmp_path):
    for n in (10, 6):
        stored = Samples(tmp_path, kind, n)
        stored.add(0, stored_form(part(levels(), 0, n)))
        stored.close(sample_facts(EvaluationConditions(images(20)), 0, range(n)))
    assert len(external_images(place(tmp_path, kind, 8))) == 6
