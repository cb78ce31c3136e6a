"""A record: one measured row with its provenance, one file a run, written last and at once.

The file is JSON of schema 6. `None` stands where nothing was measured, never zero; no number is
infinite or NaN. `hash` is SHA-256 over everything else: a record edited by hand is found out.
Rates are images/s, latency s, memory MiB (2^20 bytes), FLOPs count a multiply-add as 2.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from hierdiff.config import is_deeper
from hierdiff.files.atomic import write
from hierdiff.files.reading import from_json
from hierdiff.metrics.quality import Candidate, CurvePoint, Quality
from hierdiff.resolution import Name, resolution_of
from hierdiff.results.cost import Cost
from hierdiff.results.flat import flat
from hierdiff.results.form import broken
from hierdiff.results.older import known_costs, older_costs, with_identities
from hierdiff.results.plain import content_hash, plain

# 2: analysis; 3: curves; 4: costs of the trajectory that makes the images; 5: identities as parts;
# 6: selection
SCHEMA = 6
READ: dict[Any, dict[str, Any]] = {  # what an older one lacks
    1: {"analysis": {}, "curves": (), "selection": ()},
    2: {"curves": (), "selection": ()},
    **dict.fromkeys((3, 4, 5), {"selection": ()}),
    SCHEMA: {},
}
FILE = "record.json"
UNKNOWN = "unknown"  # what the maker of external images has not said
EXTERNAL = "external"  # method of a row whose images came from elsewhere
LARGEST = 2**26  # bytes that are read
DEEPEST = 42  # levels of nesting; a config of this project has less than ten


@dataclass(frozen=True)
class Record:
    """One row: a method on a data set under a budget.

    name: label of the row. method: its registered name, "external" for images that came from
        elsewhere (`benchmarks.evaluate`), of which `config["stated"]` is what their maker says.
    resolutions: names of the levels that the method produces, finest first:
        a side in pixels, a list of sides, or a word.
    quality: one row for each resolution, view and metric.
    cost: one row for each resolution, and rows of their own for networks alone.
    scale: quality rows of real images ("real") and of a Gaussian fitted to them ("gaussian").
    curves: learning curves, one row for each snapshot, half-life of its average and metric.
    selection: candidates for guidance, steps and average, compared on samples of their own, the one
        whose options the row has marked; () where nothing was selected.
    training: images, FLOPs and seconds that were planned and spent, in all and by stage; notes.
    analysis: by name, what was looked at beside the row (`benchmarks.measure.analyses`).
    failure: why the run ended without its numbers, in one sentence.
    path, edited: where it was read, and whether its content no longer matches its hash.
    """

    name: str
    method: str
    data: str
    budget: str
    resolutions: tuple[Any, ...]  # plain names
    quality: tuple[Quality, ...] = ()
    cost: tuple[Cost, ...] = ()
    scale: Mapping[str, Sequence[Quality]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    curves: tuple[CurvePoint, ...] = ()
    selection: tuple[Candidate, ...] = ()
    analysis: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    failure: str | None = None
    schema: int = SCHEMA
    path: Path | None = field(default=None, compare=False)
    edited: bool = field(default=False, compare=False)

    def content(self) -> dict[str, Any]:
        """What is written and hashed, as plain JSON values; raises where a number is not finite."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        own = {
            "quality": [row.plain() for row in self.quality],
            "cost": [row.plain() for row in self.cost],
            "scale": {kind: [row.plain() for row in rows] for kind, rows in self.scale.items()},
            "curves": [row.plain() for row in self.curves],
            "selection": [row.plain() for row in self.selection],
        }
        return {
            name: plain(value, name, free=name in ("config", "provenance"))
            for name, value in {**parts, **own}.items()
            if name not in ("path", "edited")
        }

    @property
    def levels(self) -> tuple[Name, ...]:
        """Names of the levels that the method produces, words with the resolution of their rows."""
        rows: tuple[Quality | Cost, ...] = (*self.quality, *self.curves, *self.cost)
        found = [row.level for row in rows]
        words = {str(level): level for level in found if isinstance(level, str)}
        return tuple(
            words.get(name, name) if isinstance(name, str) else resolution_of(name)
            for name in self.resolutions
        )

    @property
    def external(self) -> bool:
        """Whether its images came from elsewhere."""
        return self.method == EXTERNAL

    @property
    def stated(self) -> Mapping[str, Any]:
        """What the maker of external images says of them."""
        return self.config.get("stated") or {}

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the content: of what was read, that of the file as it stands. Made once."""
        return content_hash(self.content())

    @cached_property
    def options(self) -> dict[str, Any]:
        """The configuration under flat names, `denoiser.width`. Made once."""
        return flat(self.config)

    def write(self, path: str | Path) -> Path:
        """Write to a file, or as `record.json` into a folder: all of it, or nothing."""
        path = Path(path)
        path = path if path.suffix == ".json" else path / FILE
        content = self.content()
        text = json.dumps({**content, "hash": content_hash(content)}, indent=1, allow_nan=False)
        write(path, f"{text}\n".encode())
        return path

    @classmethod
    def read(cls, path: str | Path) -> Record:
        """The record of a file, or of `record.json` in a folder.

        Raises:
            ValueError: for what is no JSON, no record, or one of an unknown schema.
        """
        path = Path(path)
        path = path / FILE if path.is_dir() else path
        try:
            content, actual = _read_json(path)
        except ValueError as error:
            raise ValueError(f"{path} is no JSON ({error}): remove it and run again") from error
        schema = content.get("schema") if isinstance(content, dict) else None
        if not isinstance(schema, int) or schema not in READ:
            raise ValueError(
                f"{path} has record schema {schema!r}, this version reads {SCHEMA}: "
                f"read it with the hierdiff that wrote it, or remove it and run again"
            )
        stated = content.pop("hash", None)
        content = {**READ[schema], **content, "schema": SCHEMA}
        known = {f.name for f in fields(cls)} - {"path", "edited"}
        unknown, missing = sorted(set(content) - known), sorted(known - set(content))
        if unknown or missing:
            raise ValueError(
                f"{path} is no record of schema {SCHEMA} (unknown: {unknown}, missing: {missing}): "
                f"remove it and run again"
            )
        if schema < 5:
            content = {**with_identities(content), "cost": known_costs(content["cost"])}
        fault = broken(content)
        if fault is not None:
            raise ValueError(f"{path} is no record that can be read ({fault}): run again")
        content["resolutions"] = tuple(content["resolutions"])
        try:
            content["quality"] = tuple(map(Quality.read, content["quality"]))
            content["curves"] = tuple(map(CurvePoint.read, content["curves"]))
            content["selection"] = tuple(map(Candidate.read, content["selection"]))
            scale = content["scale"].items()
            content["scale"] = {kind: tuple(map(Quality.read, rows)) for kind, rows in scale}
            costs = older_costs(content["cost"]) if schema < 4 else content["cost"]
            content["cost"] = tuple(map(Cost.read, costs))
            record = cls(**content, path=path, edited=stated != actual)
        except (ValueError, FloatingPointError) as error:
            raise ValueError(f"{path} is no record that can be read: {error}") from error
        vars(record)["hash"] = actual  # the cached property
        return record


def _read_json(path: Path) -> tuple[Any, str]:
    """The content of a file, which may be anything, and the hash of it without its own `hash`.

    Raises:
        ValueError: for what is no JSON of this size.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):  # a pipe would be waited for
        raise ValueError("it is no file")
    if about.st_size > LARGEST:
        raise ValueError(f"it has {about.st_size / 1e6:.0f} MB, a record has less than one")
    text = path.read_text(encoding="utf-8-sig")
    content = from_json(text)
    if is_deeper(content, DEEPEST):
        raise ValueError("it is nested too deeply")
    parts = content.items() if isinstance(content, dict) else ()
    try:
        return content, content_hash({key: part for key, part in parts if key != "hash"})
    except ValueError:  # NaN or infinite: name it
        from_json(text, parse_constant=_no_number, parse_float=_finite)
        raise


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _finite(word: str) -> float:
    value = float(word)
    return value if math.isfinite(value) else _no_number(word)
