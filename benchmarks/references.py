"""Reference statistics by themselves (`benchmarks.reference`)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.measure.scale import real_references, statistics_folder
from hierdiff.command import plain_config
from hierdiff.data import ImageData, datasets
from hierdiff.files.atomic import clean_beside
from hierdiff.metrics.extractors import Extractor, extractors
from hierdiff.metrics.reference import (
    OPERATOR,
    Reference,
    frames_of,
    ship,
    write_moments,
)
from hierdiff.options import check, hints
from hierdiff.processes import ALONE, Processes
from hierdiff.resolution import Resolution, Resolutions, check_resolutions, finest_first, text_of

log = logging.getLogger(__name__)


def build_references(
    data: ImageData,
    split: str,
    extractor: Extractor,
    resolutions: Sequence[Any],
    folder: Path,
    processes: Processes = ALONE,
) -> dict[Resolution, Reference]:
    """The references of a split by resolution, as a run builds them.

    Raises:
        ValueError: where a resolution does not divide that of the data.
    """
    sides = check_resolutions(resolutions)
    check_resolutions(finest_first([data.resolution, *sides]))
    return real_references(data, extractor, sides, folder, split=split, processes=processes)


def reference_line(name: str, split: str, extractor: Extractor, reference: Reference) -> str:
    """One line about a reference, with the hash of its statistics."""
    statistics, frames = reference.statistics, frames_of(reference.resolution)
    count = f"{statistics.n} images"
    if frames > 1:
        count = f"{statistics.n // frames} clips of {frames} frames"
    return (
        f"{name} {split} {text_of(reference.resolution)} px {OPERATOR}: {count}, "
        f"ref={reference.hash}, {extractor.identity}, trace {statistics.moments.trace:.4f}, "
        f"sha256 {statistics.sha256}"
    )


def write_references(
    output: Path, references: Mapping[Resolution, Reference], about: Mapping[str, str]
) -> list[Path]:
    """Writes one file for each resolution, with the side in its name if there are several."""
    check_output(output)
    places = {
        side: output if len(references) == 1 else output.with_stem(f"{output.stem}-{text_of(side)}")
        for side in references
    }
    for side, place in places.items():
        write_moments(place, references[side], about)
        clean_beside(place)
    return list(places.values())


@dataclass(frozen=True)
class ReferenceSettings:
    """The command's own options. split: "train", "test" or "all". ship: write features into the
    package. output: FILE.npz for the moments, None for no file."""

    resolutions: Resolutions
    split: str
    ship: bool
    output: str | None


def reference_settings(config: Mapping[str, Any]) -> ReferenceSettings:
    """The settings of a composed config.

    Raises:
        ValueError: for a value that an option cannot have.
    """
    own = {one.name: config[one.name] for one in fields(ReferenceSettings)}
    for name, value in own.items():
        check(value, hints(ReferenceSettings)[name], name)
    settings = ReferenceSettings(**own)
    if settings.output is not None:
        check_output(Path(settings.output))
    return settings


def check_output(output: Path) -> None:
    """Refuses a file name.

    Raises:
        ValueError: where it does not end in .npz.
    """
    if output.suffix != ".npz":
        raise ValueError(f"output={output} is no .npz: give FILE.npz")


def make_references(cfg: Any) -> None:
    """What the command does with its composed config."""
    settings, node = reference_settings(cfg), plain_config(cfg["data"])
    extractor = extractors.build(plain_config(cfg["measure"])["extractor"], at="measure.extractor")
    data = datasets.build(node, at="data")
    processes = Processes.joined()
    made = build_references(
        data, settings.split, extractor, settings.resolutions, statistics_folder(node), processes
    )
    if not processes.first:
        return
    for reference in made.values():
        print(reference_line(data.name, settings.split, extractor, reference))
    if settings.ship:
        sha256 = data.part(settings.split).reference_sha256
        for reference in made.values():
            print(ship(reference, data=sha256, split=settings.split, extractor=extractor))
    if settings.output is not None:
        about = {"data": data.name, "data_sha256": data.sha256, "split": settings.split}
        for path in write_references(Path(settings.output), made, about):
            print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
