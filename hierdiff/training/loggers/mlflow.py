"""MLflow, in a data base in the run folder unless a server is named."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from typing_extensions import override

from hierdiff.training.loggers.logger import Logger, loggers, run_id

RUN = "hierdiff.run"  # tag by which a run that is resumed is found


@loggers.register("mlflow")
class MLflow(Logger):
    """Writes to `mlflow.db` and `mlflow/` of the run folder, or to a server.

    uri: of a server, None for the folder; MLFLOW_TRACKING_URI is not read. experiment: its name.
    """

    package: ClassVar[str] = "mlflow"

    def __init__(self, *, uri: str | None = None, experiment: str = "hierdiff") -> None:
        super().__init__()
        self.uri, self.experiment = uri, experiment

    @override
    def start(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        if self.uri is None:  # read where it is imported; how it is used is sent otherwise
            os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        folder.mkdir(parents=True, exist_ok=True)
        place = folder.resolve()
        uri = self.uri or f"sqlite:///{place / 'mlflow.db'}"
        files = None if self.uri else (place / "mlflow").as_uri()
        self._client = self.module("mlflow.tracking").MlflowClient(tracking_uri=uri)
        known = self._client.get_experiment_by_name(self.experiment)
        experiment = (
            known.experiment_id
            if known is not None
            else self._client.create_experiment(self.experiment, artifact_location=files)
        )
        name = run_id(folder)
        before = self._client.search_runs([experiment], f"tags.`{RUN}` = '{name}'", max_results=1)
        run = before[0] if before else self._client.create_run(
            experiment, tags={RUN: name}, run_name=folder.name
        )  # fmt: skip
        self._run = run.info.run_id
        self._client.log_dict(self._run, dict(config), "config.json")

    @override
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    @override
    def image(self, name: str, image: Image.Image, step: int) -> None:
        self._client.log_image(self._run, image, key=name, step=step)

    @override
    def finish(self) -> None:
        self._client.set_terminated(self._run)
