"""A run whose images are decoded at each step, killed three times, in one process and in two."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hierdiff.data import datasets
from hierdiff.training import train
from hierdiff.training.feed import Feed
from tests.data import formats
from tests.training.runs import Line, Lines, config, recipe, server
from tests.training.test_run import free_port

STEPS, BATCH, KILLS = 9, 8, (2, 5, 7)  # 18 training images: an epoch ends within the third step
OPTIONS = {"steps": STEPS, "batch_size": BATCH, "checkpoint_every": 1, "precision": "64-true"}


def line(node: dict[str, Any], folder: Path, accumulate: int, kill: int | None) -> None:
    """A run that writes the digest of each batch it sees, and dies before the step `kill`."""
    data = datasets.build(node).part("train")
    chunks = Feed.chunks

    def seen(feed: Feed, step: int) -> Any:
        if step == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        found = chunks(feed, step)
        for chunk, batch in found:
            content = batch.images.numpy().tobytes() + batch.cond.labels.numpy().tobytes()
            path = folder / "seen" / f"{step}-{chunk}"
            path.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256(content).hexdigest()
            assert not path.exists() or path.read_text() == digest
            path.write_text(digest)
        return found

    Feed.chunks = seen  # type: ignore[method-assign]
    torch.manual_seed(0)
    method = Lines([Line()])
    train(method, data, folder, recipe(accumulate=accumulate, **OPTIONS), config=config())


def work(
    node: dict[str, Any], folder: Path, environment: dict[str, str], accumulate: int, kill: int
) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    line(node, folder, accumulate, kill)


def ended(node: dict[str, Any], folder: Path, processes: int, kill: int | None = None) -> None:
    """One start of the command, in as many processes."""
    shared = {
        **{"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "GROUP_RANK": "0"},
        **{"MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
    }
    started = []
    for rank in range(processes):
        own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        process = server.Process(target=work, args=(node, folder, own, 2 // processes, kill))
        process.start()
        started.append(process)
    for process in started:
        process.join(120)
        assert process.exitcode == (0 if kill is None else -signal.SIGKILL)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "seen").iterdir()}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    pytest.importorskip("pyarrow")
    root = tmp_path_factory.mktemp("streams")
    found = formats.write_all(root, formats.files(24))
    options = {"resolution": 8, "cache": str(root / "cache"), "flip": True}
    return {name: {**node, **options} for name, node in found.items()}


@pytest.fixture(scope="module")
def whole(nodes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on a decoded folder in one process that nobody killed."""
    folder = tmp_path_factory.mktemp("whole")
    ended(nodes["folder"], folder, 1)
    return folder


@pytest.mark.parametrize(("name", "processes"), [("webdataset", 2), ("parquet", 1)])
def test_three_kills_and_another_format_change_no_batch_and_no_weight(
    nodes, whole, tmp_path, name, processes
):
    for kill in KILLS:
        ended(nodes[name], tmp_path, processes, kill)
    ended(nodes[name], tmp_path, processes)
    assert contents(tmp_path) == contents(whole)
    assert len(contents(whole)) == 2 * STEPS
    weights, expected = (load_file(f / "weights.safetensors") for f in (tmp_path, whole))
    for key, tensor in expected.items():
        torch.testing.assert_close(weights[key], tensor, rtol=1e-12, atol=1e-14)
