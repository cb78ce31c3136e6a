"""What a logger is, and the registry of them."""

from __future__ import annotations

import hashlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from typing_extensions import override

from hierdiff.registry import Registry


class Logger(ABC):
    """Shows the scalars, pictures and options of a run. A constructor takes options alone; nothing
    is opened before `start`.

    package: what it imports, which is also the name of its extra.

    Raises:
        ImportError: where the package is not installed.
    """

    package: ClassVar[str]

    def __init__(self) -> None:
        if find_spec(self.package) is None:
            raise ImportError(
                f"trainer.loggers: {self.package} is not installed: "
                f"pip install 'hierdiff[{self.package}]'"
            )

    def module(self, name: str = "") -> Any:
        """Its package, or another module, imported when it is needed."""
        return importlib.import_module(name or self.package)

    @abstractmethod
    def start(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        """Opens the run in `folder`, whose options are `config`; goes on from `step` of it."""

    @abstractmethod
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Shows numbers by name at a step."""

    @abstractmethod
    def image(self, name: str, image: Image.Image, step: int) -> None:
        """Shows a picture at a step."""

    @abstractmethod
    def finish(self) -> None:
        """Ends the run."""


class RunLogger(Logger):
    """A logger whose package has W&B's interface: `start` sets `run`, which logs what it is given,
    and the package has an `Image`."""

    run: Any

    @override
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    @override
    def image(self, name: str, image: Image.Image, step: int) -> None:
        self.run.log({name: self.module().Image(image)}, step=step)

    @override
    def finish(self) -> None:
        self.run.finish()


loggers = Registry("logger", Logger)


def run_id(folder: Path) -> str:
    """The same name for the same folder, by which a run that is resumed is the same one."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
