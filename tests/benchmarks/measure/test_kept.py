"""A measuring that is killed goes on from the last block that was kept, with the same bits."""

import logging
import os

import numpy as np
import pytest
import torch

from benchmarks.conditions import EvaluationConditions
from benchmarks.measure.kept import Kept, measuring_key, weights_hash
from benchmarks.measure.quality import Meter
from benchmarks.measure.samples import Draw
from benchmarks.measure.stream import Source, measure_seeds, measure_source
from benchmarks.progress import quiet
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

N, SEEDS = 56, (0, 1)  # 4 blocks under each seed
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
    """Measures both seeds, killed at a block, counted over both; its rows and blocks that were
    made."""
    extractor = RandomConv(width=12)  # noqa: F811
    references, conditions = refs(data, extractor), EvaluationConditions(data)

    def run(kept, killed_at=None, seeds=SEEDS):
        made = []

        def measure_seed(seed):
            draw = Draw(Levels(), conditions, seed, "32-true", pack=4)

            def make(numbers):
                if len(made) == killed_at:
                    raise Killed
                made.append(seed)
                return draw(numbers)

            source = Source(
                f"seed {seed}", N, make, 16, 4,
                look=lambda numbers, images: kept.show({k: x[:3] for k, x in images.items()}),
                seen=3,
            )  # fmt: skip
            meter = Meter(extractor, references, METRICS, conditions)
            return measure_source(source, meter, kept, quiet)

        return measure_seeds(measure_seed, seeds, kept), made

    return run


def same(one, other):
    assert one == other  # bit by bit


@pytest.mark.parametrize("killed_at", [0, 2, 4, 7])
def test_killed_at_any_block_the_rows_are_those_of_a_whole_measuring(tmp_path, measured, killed_at):
    whole, everything = measured(Kept())
    assert len(everything) == 8
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        measured(Kept(path, "k"), killed_at)
    again = Kept(path, "k")
    shown = {side: images.clone() for side, images in again.shown.items()}
    rows, made = measured(again)
    same(rows, whole)
    assert len(made) == 8 - killed_at  # no block is made twice
    if killed_at:
        assert all(torch.equal(again.shown[side], images) for side, images in shown.items())
        assert set(shown) == set(SIDES) and len(shown[8]) == 3
    again.remove()
    assert not list(tmp_path.iterdir())


def test_killed_after_every_block_it_ends_all_the_same(tmp_path, measured):
    whole, _ = measured(Kept())
    path = tmp_path / "state.safetensors"
    for _ in range(7):
        with pytest.raises(Killed):
            measured(Kept(path, "k"), 1)
    rows, made = measured(Kept(path, "k"), 1)
    same(rows, whole)
    assert made == [1]  # the last block of the second seed


def test_what_another_measuring_kept_is_no_answer(tmp_path, measured, caplog):
    path = tmp_path / "state.safetensors"
    whole, _ = measured(Kept(), seeds=(0,))
    with pytest.raises(Killed):
        measured(Kept(path, "k"), 3)
    with caplog.at_level(logging.INFO):
        kept = Kept(path, "other")
    assert not kept.rows and not kept.shown
    assert "other weights or options" in caplog.text
    rows, made = measured(kept, seeds=(0,))
    same(rows, whole)
    assert len(made) == 4


@pytest.mark.parametrize("seed", range(16))
def test_a_damaged_file_is_ignored_with_a_warning(tmp_path, measured, caplog, seed):
    """Of two blocks the second is damaged: the first is gone on from. Of what was shown, all."""
    path, whole = tmp_path / "state.safetensors", measured(Kept(), seeds=(0,))[0]
    with pytest.raises(Killed):
        measured(Kept(path, "k"), 2, seeds=(0,))
    damaged = path if seed % 2 else sorted(path.with_suffix("").iterdir())[1]
    content, generator = bytearray(damaged.read_bytes()), np.random.default_rng(seed)
    if seed < 6:  # cut short, or empty
        content = content[: generator.integers(len(content)) if seed > 1 else 0]
    else:
        content[generator.integers(len(content))] ^= 1 << (seed % 8)
    damaged.write_bytes(content)
    kept = Kept(path, "k")
    rows, made = measured(kept, seeds=(0,))
    same(rows, whole)
    assert len(made) == (2 if seed % 2 else 3)
    (warned,) = (line for line in caplog.messages if "is damaged" in line)
    assert "made again" in warned or "from the start" in warned


def test_a_block_after_a_gap_is_made_again(tmp_path, measured):
    path, whole = tmp_path / "state.safetensors", measured(Kept(), seeds=(0,))[0]
    with pytest.raises(Killed):
        measured(Kept(path, "k"), 3, seeds=(0,))
    sorted(path.with_suffix("").iterdir())[1].unlink()
    rows, made = measured(Kept(path, "k"), seeds=(0,))
    same(rows, whole)
    assert len(made) == 3


def test_a_pipe_in_the_place_of_the_state_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "state.safetensors")
    kept = Kept(tmp_path / "state.safetensors", "k")
    assert not kept.rows and not kept.shown
    row = Quality(8, "native", "FD", 1.0, Identity("i"))
    kept.once("a", Quality, lambda: [row])
    assert Kept(tmp_path / "state.safetensors", "k").rows == {"a": [row.plain()]}


def test_a_meter_takes_what_another_one_extracted(lawful, extractor):  # noqa: F811
    references, conditions = refs(lawful, extractor), EvaluationConditions(lawful)
    metrics = ["fd", "pr", "consistency", "attributes"]
    whole, other = (Meter(extractor, references, metrics, conditions) for _ in range(2))
    first = 0
    for levels in stream(1):
        numbers = range(first, first + len(levels[8]))
        other.take(whole.extract(levels, numbers), numbers)
        whole.take(whole.extract(levels, numbers), numbers)
        first = numbers.stop
    assert whole.count == other.count == 24
    same(other.rows(), whole.rows())


def test_what_is_done_once_is_not_done_again(tmp_path):
    path = tmp_path / "state.safetensors"
    rows = [CurvePoint(8, "native", "FD", 0.1 + 0.2, Identity("i"), step=3)]
    assert Kept(path, "k").once("curve a", CurvePoint, lambda: rows) == rows
    assert Kept(path, "k").once("curve a", CurvePoint, lambda: pytest.fail("again")) == rows


def test_keys_and_hashes_of_weights_tell_what_differs():
    assert measuring_key(1, "a") == measuring_key(1, "a") != measuring_key(1, "b")
    one, same_, other = (tiny.method("mdm", seed=seed) for seed in (0, 0, 1))
    assert weights_hash(one) == weights_hash(same_) != weights_hash(other)
