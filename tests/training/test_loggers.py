"""Loggers: a contract over the registry with stand-in packages, then each with its own package."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from PIL import Image

from hierdiff.registry import build
from hierdiff.training import Recipe
from hierdiff.training.loggers import Logger, loggers
from tests.training.runs import run

PICTURE = Image.new("RGB", (6, 4), (200, 30, 30))
CONFIG = {"method": {"name": "mdm"}, "seed": 0}
MODULES = (
    "torch.utils.tensorboard",
    "tensorboard",
    "wandb",
    "mlflow",
    "mlflow.tracking",
    "trackio",
)


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, MagicMock]]:
    """Stand-ins for all packages, which note what they are called with."""
    fakes = {name: MagicMock(name=name, __spec__=ModuleSpec(name, None)) for name in MODULES}
    for name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, name, fake)
    yield fakes


def told(fakes: dict[str, MagicMock]) -> str:
    return " ".join(repr(call) for fake in fakes.values() for call in fake.mock_calls)


@pytest.mark.parametrize("name", loggers.names())
def test_every_logger_hands_on_numbers_pictures_options_and_the_end(
    name: str, tmp_path: Path, packages: dict[str, MagicMock]
):
    logger = loggers.build({"name": name})
    assert not told(packages)  # nothing is opened before the run starts
    logger.start(tmp_path, CONFIG, 0)
    assert "mdm" in told(packages)
    before = told(packages)
    logger.scalars({"loss/64": 0.125}, 30)
    assert "loss/64" in told(packages) and "0.125" in told(packages) and "30" in told(packages)
    assert told(packages) != before
    logger.image("samples", PICTURE, 30)
    assert "samples" in told(packages)
    logger.finish()
    ends = ("close()", "finish()", "set_terminated(")
    assert any(end in told(packages) for end in ends)


@pytest.mark.parametrize("name", loggers.names())
def test_no_logger_is_given_an_address_unless_asked(
    name: str, tmp_path: Path, packages: dict[str, MagicMock], monkeypatch: pytest.MonkeyPatch
):
    for variable in ("WANDB_ERROR_REPORTING", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(variable, "unset")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    loggers.build({"name": name}).start(tmp_path, CONFIG, 0)
    calls = told(packages)
    assert "http" not in calls and "mode='online'" not in calls
    kept_here = {"wandb": "mode='offline'", "trackio": "space_id=None", "mlflow": "sqlite:///"}
    assert kept_here.get(name, str(tmp_path)) in calls


@pytest.mark.parametrize("asked", ["offline", "disabled"])
def test_the_environment_keeps_weights_and_biases_offline(
    asked: str, tmp_path: Path, packages: dict[str, MagicMock], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WANDB_MODE", asked)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "unset")
    loggers.build({"name": "wandb", "mode": "online"}).start(tmp_path, CONFIG, 0)
    assert f"mode={asked!r}" in told(packages)


@pytest.mark.parametrize("name", loggers.names())
def test_a_missing_package_is_one_sentence_that_names_the_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("hierdiff.training.loggers.logger.find_spec", lambda package: None)
    with pytest.raises(ImportError, match=rf"pip install 'hierdiff\[{name}\]'"):
        build(Recipe, {"steps": 1, "loggers": [{"name": name}]}, at="trainer")


class Kept(Logger):
    """Keeps what it is given."""

    package = "json"

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[Any, ...]] = []

    def start(self, folder, config, step) -> None:
        self.events.append(("start", step))

    def scalars(self, values, step) -> None:
        self.events.append(("scalars", step, dict(values)))

    def image(self, name, image, step) -> None:
        self.events.append(("image", step, image.size))

    def finish(self) -> None:
        self.events.append(("finish",))


def test_a_run_shows_its_log_and_its_sheets_to_its_loggers(tmp_path: Path):
    kept = Kept()
    run(tmp_path, loggers=[kept], sheet_every=6)
    kinds = [event[0] for event in kept.events]
    assert kinds[0] == "start" and kinds[-1] == "finish" and kinds.count("image") == 2
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    shown = [event for event in kept.events if event[0] == "scalars"]
    assert [step for _, step, _ in shown] == [line["step"] for line in lines]
    assert [v["loss"] for _, _, v in shown] == [line["loss"] for line in lines]


# -- the packages themselves -----------------------------------------------------------------------


def ran(name: str, folder: Path) -> None:
    """Numbers at two steps and a picture, with the real package."""
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    folder.mkdir()
    logger = loggers.build({"name": name})
    logger.start(folder, CONFIG, 0)
    for step, loss in ((10, 0.5), (20, 0.25)):
        logger.scalars({"loss": loss}, step)
    logger.image("samples", PICTURE, 20)
    logger.finish()


@pytest.mark.slow
def test_tensorboard_reads_what_was_shown(tmp_path: Path):
    ran("tensorboard", tmp_path / "run")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(10, 0.5), (20, 0.25)]
    assert events.Images("samples")[0].width == 6


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_weights_and_biases_keeps_an_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    ran("wandb", tmp_path / "run")
    (offline,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert list(offline.glob("run-*.wandb"))
    (picture,) = offline.glob("files/media/images/*.png")
    assert Image.open(picture).size == PICTURE.size


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_mlflow_keeps_a_data_base_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    ran("mlflow", tmp_path / "run")
    base = sqlite3.connect(tmp_path / "run" / "mlflow.db")
    found = base.execute("select step, value from metrics where key = 'loss' order by step")
    assert found.fetchall() == [(10, 0.5), (20, 0.25)]
    assert list((tmp_path / "run" / "mlflow").rglob("samples*.png"))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_trackio_keeps_a_run_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    ran("trackio", tmp_path / "run")
    base = sqlite3.connect(tmp_path / "trackio" / "hierdiff.db")
    lines = [json.loads(row[0]) for row in base.execute("select metrics from metrics")]
    assert [line["loss"] for line in lines if "loss" in line] == [0.5, 0.25]
