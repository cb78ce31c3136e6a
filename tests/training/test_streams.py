"""A run whose images are decoded at each step, killed three times, in one process and in two."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from hierdiff.data import datasets
from hierdiff.training import train
from hierdiff.training.feed import Feed
from tests.data import formats
from tests.training.runs import Line, Lines, config, environments, recipe, server


class Plan(NamedTuple):
    """A run over so many images, and the steps before which it is killed."""

    images: int
    steps: int
    batch: int
    kills: tuple[int, ...]

    @property
    def options(self) -> dict[str, Any]:
        fixed = {"checkpoint_every": 1, "precision": "64-true"}
        return {"steps": self.steps, "batch_size": self.batch, **fixed}


SMALL = Plan(24, 9, 8, (2, 5, 7))  # 18 training images: an epoch ends within the third step
LARGE = Plan(5000, 36, 256, (6, 15, 29))  # 3750 training images: one ends within the fifteenth


def line(plan: Plan, node: dict[str, Any], folder: Path, accumulate: int, kill: int | None) -> None:
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
    train(method, data, folder, recipe(accumulate=accumulate, **plan.options), config=config())


def work(environment: dict[str, str], *given: Any) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    line(*given)


def ended(
    plan: Plan, node: dict[str, Any], folder: Path, processes: int, kill: int | None = None
) -> None:
    """One start of the command, in as many processes."""
    started = []
    for own in environments(processes) if processes > 1 else [{}]:
        given = (own, plan, node, folder, 2 // processes, kill)
        process = server.Process(target=work, args=given)
        process.start()
        started.append(process)
    for process in started:
        process.join(300)
        assert process.exitcode == (0 if kill is None else -signal.SIGKILL)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "seen").iterdir()}


def nodes(root: Path, plan: Plan) -> dict[str, dict[str, Any]]:
    pytest.importorskip("pyarrow")
    found = formats.write_all(root, formats.files(plan.images))
    options = {"resolution": 8, "cache": str(root / "cache"), "flip": True}
    return {name: {**node, **options} for name, node in found.items()}


class Runs(NamedTuple):
    """One set of images in several formats, and the run on a decoded folder that nobody killed."""

    plan: Plan
    nodes: dict[str, dict[str, Any]]
    whole: Path


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(SMALL, marks=pytest.mark.slow),
        pytest.param(LARGE, marks=pytest.mark.trial),
    ],
    ids=lambda plan: f"{plan.images} images",
)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    plan, folder = request.param, tmp_path_factory.mktemp("whole")
    made = nodes(tmp_path_factory.mktemp("streams"), plan)
    ended(plan, made["folder"], folder, 1)
    return Runs(plan, made, folder)


@pytest.mark.parametrize(
    ("name", "processes"),
    [
        ("webdataset", 2),
        ("parquet", 1),
        pytest.param("webdataset", 1, marks=pytest.mark.trial),
        pytest.param("parquet", 2, marks=pytest.mark.trial),
        pytest.param("encoded folder", 2, marks=pytest.mark.trial),
    ],
)
def test_three_kills_and_another_format_change_no_batch_and_no_weight(
    runs: Runs, tmp_path: Path, name: str, processes: int
):
    plan, node = runs.plan, runs.nodes[name]
    for kill in plan.kills:
        ended(plan, node, tmp_path, processes, kill)
    ended(plan, node, tmp_path, processes)
    assert contents(tmp_path) == contents(runs.whole)
    assert len(contents(runs.whole)) == 2 * plan.steps
    weights, expected = (load_file(f / "weights.safetensors") for f in (tmp_path, runs.whole))
    for key, tensor in expected.items():
        torch.testing.assert_close(weights[key], tensor, rtol=1e-12, atol=1e-14)
