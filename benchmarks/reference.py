"""Reference statistics by themselves: made, kept where runs find them, printed, written to files.

`python -m benchmarks.reference data=critters data.resolution=32 'resolutions=[32,16]'`. The same
`measure` as in a run says which extractor. `output=FILE.npz` writes what can be handed on: moments
in float64 that pytorch-fid and EDM read as well (`mu`, `sigma`), and that come back by
`hierdiff.metrics.reference.foreign`. `ship=true` writes the features themselves into the package.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure.samples import batches
from hierdiff.command import command, plain
from hierdiff.data import ImageData, datasets
from hierdiff.data.cache import cache_folder
from hierdiff.files import clean_beside
from hierdiff.levels import Resolution, Resolutions, check_resolutions, finest_first, text_of
from hierdiff.metrics.extractors import Extractor, extractors
from hierdiff.metrics.reference import OPERATOR, Reference, references, ship, write_moments
from hierdiff.options import check

log = logging.getLogger(__name__)


def built(
    data: ImageData, split: str, extractor: Extractor, resolutions: Sequence[Any], folder: Path
) -> dict[Resolution, Reference]:
    """As a run builds them; ValueError where a resolution does not divide the data's."""
    sides = check_resolutions(resolutions)
    check_resolutions(finest_first([data.resolution, *sides]))
    part = data.part(split)
    return references(batches(part), extractor, sides, data=part.sha256, split=split, folder=folder)


def told(name: str, split: str, extractor: Extractor, reference: Reference) -> str:
    """One line of what a reference is, and the hash of its statistics."""
    statistics = reference.statistics
    return (
        f"{name} {split} {text_of(reference.resolution)} px {OPERATOR}: {statistics.n} images, "
        f"ref={reference.hash}, {extractor.identity}, trace {statistics.moments.trace:.4f}, "
        f"sha256 {statistics.sha256}"
    )


def write_all(
    output: Path, made: Mapping[Resolution, Reference], about: Mapping[str, str]
) -> list[Path]:
    """One file a resolution, the side in its name where there are several."""
    check_output(output)
    places = {
        side: output if len(made) == 1 else output.with_stem(f"{output.stem}-{text_of(side)}")
        for side in made
    }
    for side, place in places.items():
        write_moments(place, made[side], about)
        clean_beside(place)
    return list(places.values())


OPTIONS: dict[str, Any] = {
    "resolutions": Resolutions,
    "split": str,
    "ship": bool,
    "output": str | None,
}


def check_options(options: Mapping[str, Any]) -> None:
    """ValueError for what could not be made or written."""
    for name, kind in OPTIONS.items():
        check(options[name], kind, name)
    if options["output"] is not None:
        check_output(Path(options["output"]))


def check_output(output: Path) -> None:
    if output.suffix != ".npz":
        raise ValueError(f"output={output} is no .npz: give FILE.npz")


@command("reference")
def main(cfg: Any) -> None:
    options = {name: cfg[name] for name in OPTIONS}
    check_options(options)
    node, split = plain(cfg["data"]), options["split"]
    extractor = extractors.build(plain(cfg["measure"])["extractor"], at="measure.extractor")
    data = datasets.build(node, at="data")
    folder = cache_folder(node.get("cache")) / "statistics"
    made = built(data, split, extractor, list(options["resolutions"]), folder)
    for reference in made.values():
        print(told(data.name, split, extractor, reference))
    if options["ship"]:
        sha256 = data.part(split).sha256
        for reference in made.values():
            print(ship(reference, data=sha256, split=split, extractor=extractor))
    if options["output"] is not None:
        about = {"data": data.name, "data_sha256": data.sha256, "split": split}
        for path in write_all(Path(options["output"]), made, about):
            print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
