"""A measuring that is killed goes on from the last batch that was kept, with the same bits."""

import logging
import os

import numpy as np
import pytest
import torch

from benchmarks.measure.kept import Kept, measuring_key, weights_hash
from benchmarks.measure.quality import Meter, quality_of_seeds
from benchmarks.measure.samples import samples
from hierdiff.metrics.extractors import RandomConv
from hierdiff.metrics.identity import Identity
from hierdiff.metrics.quality import CurvePoint, Quality
from tests import tiny
from tests.benchmarks.measure.test_quality import (  # noqa: F401
    SIDES,
    Noise,
    data,
    extractor,
    lawful,
    refs,
    stream,
)

N, BATCH, SEEDS = 14, 4, (0, 1)  # 4 batches under each seed
METRICS = ["fd", "kd", "consistency"]


class Killed(Exception):
    pass


class Levels(Noise):
    """Its noise at 8 px, and other noise at 4 px."""

    def sample(self, request):
        n = request.n
        return {side: request.noise((n, 3, side, side)).clamp(-3, 3) / 3 for side in SIDES}


@pytest.fixture
def measured(data):  # noqa: F811
    """`quality_of_seeds` that is killed at the given batch, counted over both seeds; its draws."""
    extractor = RandomConv(width=12)  # noqa: F811
    references = refs(data, extractor)

    def run(kept, killed_at=None, seeds=SEEDS):
        made = []

        def draw(seed, start):
            options = {"seed": seed, "precision": "32-true", "batch": BATCH, "start": start}
            for images in samples(Levels(), data, N, **options):
                if len(made) == killed_at:
                    raise Killed
                made.append(seed)
                if not kept.shown:
                    kept.shown = {side: x[:3].clone() for side, x in images.items()}
                yield images

        rows = quality_of_seeds(
            draw, seeds, lambda: Meter(extractor, references, METRICS, data), kept
        )
        return rows, made

    return run


def same(one, other):
    assert one == other  # bit by bit


@pytest.mark.parametrize("killed_at", [0, 2, 4, 7])
def test_killed_at_any_batch_the_rows_are_those_of_a_whole_measuring(tmp_path, measured, killed_at):
    whole, everything = measured(Kept())
    assert len(everything) == 8
    path = tmp_path / "state"
    with pytest.raises(Killed):
        measured(Kept(path, "k", every=0), killed_at)
    again = Kept(path, "k", every=0)
    shown = {side: images.clone() for side, images in again.shown.items()}
    rows, made = measured(again)
    same(rows, whole)
    assert len(made) == 8 - killed_at  # no batch is drawn twice
    if killed_at:
        assert all(torch.equal(again.shown[side], images) for side, images in shown.items())
        assert set(shown) == set(SIDES) and len(shown[8]) == 3
    again.remove()
    assert not list(tmp_path.iterdir())


def test_killed_after_every_batch_it_ends_all_the_same(tmp_path, measured):
    whole, _ = measured(Kept())
    for _ in range(7):
        with pytest.raises(Killed):
            measured(Kept(tmp_path / "state", "k", every=0), 1)
    rows, made = measured(Kept(tmp_path / "state", "k", every=0), 1)
    same(rows, whole)
    assert made == [1]  # the last batch of the second seed


def test_state_of_another_key_is_no_answer(tmp_path, measured, caplog):
    path = tmp_path / "state"
    with pytest.raises(Killed):
        measured(Kept(path, "k", every=0), 3)
    with caplog.at_level(logging.INFO):
        kept = Kept(path, "other")
    assert not kept.state and not kept.rows and not kept.shown
    assert "other weights or options" in caplog.text


@pytest.mark.parametrize("seed", range(24))
def test_a_damaged_state_is_ignored_with_a_warning(tmp_path, measured, caplog, seed):
    path = tmp_path / "state"
    with pytest.raises(Killed):
        measured(Kept(path, "k", every=0), 2, seeds=(0,))
    content, generator = bytearray(path.read_bytes()), np.random.default_rng(seed)
    if seed < 6:  # cut short, or empty
        content = content[: generator.integers(len(content)) if seed else 0]
    else:
        content[generator.integers(len(content) if seed > 15 else 2000)] ^= 1 << (seed % 8)
    path.write_bytes(content)
    kept = Kept(path, "k", every=0)
    assert "is damaged" in caplog.text and caplog.text.count("\n") == 1
    assert not kept.state and not kept.rows and not kept.shown


def test_a_pipe_in_the_place_of_the_state_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "state")
    kept = Kept(tmp_path / "state", "k")
    assert not kept.state and not kept.rows
    row = Quality(8, "native", "FD", 1.0, Identity("i"))
    kept.once("a", Quality, lambda: [row])
    assert Kept(tmp_path / "state", "k").rows == {"a": [row.plain()]}


def test_a_state_that_does_not_fit_is_measured_from_the_start(tmp_path, measured, caplog):
    whole, _ = measured(Kept(), seeds=(0,))
    kept = Kept()
    kept.state = {"count": np.asarray(4), "fidelity/finest": np.asarray(8)}
    del kept.state["count"]
    rows, made = measured(kept, seeds=(0,))
    same(rows, whole)
    assert len(made) == 4 and "measured from the start" in caplog.text


def test_nothing_is_written_before_its_time(tmp_path, measured):
    with pytest.raises(Killed):
        measured(Kept(tmp_path / "state", "k", every=3600), 3)
    assert not list(tmp_path.iterdir())


def test_a_meter_goes_on_with_the_bits_of_another(lawful, extractor):  # noqa: F811
    references = refs(lawful, extractor)
    metrics = ["fd", "pr", "consistency", "attributes"]
    whole, first, second = (Meter(extractor, references, metrics, lawful) for _ in range(3))
    *before, last = stream(1)
    for levels in (*before, last):
        whole.add(levels)
    for levels in before:
        first.add(levels)
    second.restore(first.to_arrays())
    second.add(last)
    assert second.count == whole.count == 24
    same(second.rows(), whole.rows())


def test_what_is_done_once_is_not_done_again(tmp_path):
    path = tmp_path / "state"
    rows = [CurvePoint(8, "native", "FD", 0.1 + 0.2, Identity("i"), step=3)]
    assert Kept(path, "k").once("curve a", CurvePoint, lambda: rows) == rows
    assert Kept(path, "k").once("curve a", CurvePoint, lambda: pytest.fail("again")) == rows


def test_keys_and_hashes_of_weights_tell_what_differs():
    assert measuring_key(1, "a") == measuring_key(1, "a") != measuring_key(1, "b")
    one, same_, other = (tiny.method("mdm", seed=seed) for seed in (0, 0, 1))
    assert weights_hash(one) == weights_hash(same_) != weights_hash(other)
