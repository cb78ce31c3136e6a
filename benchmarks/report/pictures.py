"""The pictures in a run folder, and what each of them shows.

A picture is copied under the hash of its bytes, so that an old page never shows a new picture.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.report.charts import chart_rules, standalone
from benchmarks.report.facts import value_cell
from benchmarks.report.parts import (
    Cell,
    Charts,
    Figure,
    Gallery,
    LabelledRecord,
    Picture,
    PlainTable,
    TableRow,
    finite_number,
    mapping,
    page_source,
    slug_of,
)
from hierdiff.files.reading import from_json, read_text

FOLDER, CHARTS = "pictures", "charts"
SAMPLES, MOVING = "samples.png", "samples.webp"
FORMATS = {".png": "PNG", ".webp": "WEBP"}
SHOWN = "shown.json"  # what the images of the sheet of samples are made from


@dataclass
class ReportFiles:
    """The files beside a page. contents: bytes by name; broken: a sentence for each file that could
    not be read; sizes: of pictures, each of which is decoded once."""

    contents: dict[str, bytes] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def picture(self, path: Path) -> Picture | None:
        """Adds a PNG or a WebP to the report; None where there is none or it cannot be decoded."""
        if not path.is_file():
            return None
        try:
            content = path.read_bytes()
            name = f"{FOLDER}/{hashlib.sha256(content).hexdigest()[:16]}{path.suffix}"
            if name in self.sizes:
                return Picture(name, *self.sizes[name])
            with Image.open(io.BytesIO(content), formats=(FORMATS[path.suffix],)) as image:
                image.load()
                self.sizes[name] = image.size
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            self.broken.append(f"{path.parent.name}/{path.name} is no whole {FORMATS[path.suffix]}")
            return None
        self.contents[name] = content
        return Picture(name, *self.sizes[name])

    @cached_property
    def rules(self) -> str:
        """The style of charts that are files."""
        return chart_rules(page_source("css"))

    def charts(self, section: str, charts: Charts) -> Charts:
        """The charts, each a file of the report as well, named after the section and itself."""
        filed = []
        for chart in charts.images:
            taken = [Path(name).stem for name in self.contents if name.startswith(f"{CHARTS}/")]
            href = f"{CHARTS}/{slug_of(f'{section} {charts.name} {chart.name}', taken)}.svg"
            self.contents[href] = standalone(chart.svg, self.rules)
            filed.append(chart._replace(href=href))
        return replace(charts, images=filed)


@dataclass(frozen=True)
class Sheet:
    """A kind of picture. note: what it shows; alt: a description for who cannot see it; always:
    whether rows without it are listed as missing."""

    file: str
    name: str
    note: str
    alt: str
    always: bool = True


SHEETS = (
    Sheet(
        SAMPLES,
        "Samples",
        "The same noise seeds for every method, not chosen. A block for each resolution that a "
        "method makes, finest left, with the same sample at the same place. Where classes and "
        "captions are those of test images, as they are unless a row says otherwise, a sample has "
        "those of the real image at its place.",
        "Samples of {label} at {sides} pixels, a block of images for each resolution.",
    ),
    Sheet(
        MOVING,
        "Samples in motion",
        "The same samples as above, as clips of two seconds. A level of fewer frames shows each of "
        "them longer.",
        "Moving samples of {label} at {sides} pixels, a block of clips for each resolution.",
        always=False,
    ),
    Sheet(
        "film.png",
        "From noise to image",
        "States of the first samples, from noise at the left to the image at the right: of each a "
        "row for every level of every stage, finest first.",
        "Film strip of {label}: the first samples from noise, left, to image, right.",
    ),
    Sheet(
        "reconstructions.png",
        "Reconstructions",
        "Real images, left, and what the codec makes of them, right: no sample is better.",
        "Real images, left, and their reconstructions by the codec of {label}, right.",
        always=False,
    ),
    Sheet(
        "neighbours.png",
        "Nearest neighbours",
        "Each row is a sample and the training images nearest to it in the features of the metric: "
        "a copy would stand beside its original.",
        "Rows of a sample of {label}, left, and the training images nearest to it.",
    ),
    Sheet(
        "loss.png",
        "Loss",
        "Training loss over images. Losses of different methods are different quantities: compare "
        "their course, not their height.",
        "Training loss of {label} over images, in all and for each level.",
    ),
)
EXPOSURE = (
    "What an upsampler loses because it is given generated images: distance over the level of "
    "augmentation (log-SNR), for real and for generated input."
)
STEPS = (
    "The quality over the number of sampler steps, under the same noise and conditions. A student "
    "has a network for each number of steps; its teacher has one, under its own sampler."
)
SPECTRUM = (
    "The power of the finest samples and of real images over the frequency: 1 everywhere for white "
    "noise of unit variance."
)
EXPERTS = (
    "Above, the expert that each block chooses, a colour for each: for the noise level at each "
    "step, and for each word of the first caption. Below, the expert of the last block that "
    "paints the most words at each place, over the steps, beside the sample. Each block has "
    "experts of its own: a colour means nothing across blocks. In the table, the effective number "
    "of experts, exp(entropy) of how often each is chosen, is 1 where one does all."
)
SCALING = (
    "What an image costs as its side grows, with untrained weights. An exponent of 2 is "
    "proportional to the pixels."
)
SCALED = ("resolution", "batch", "seconds", "memory_mib", "flops", "evaluations", "failure")
HEADS = {
    "resolution": "side, px",
    "seconds": "s/image",
    "memory_mib": "MiB",
    "flops": "FLOPs/image",
}
NUMBERS = (
    "stage",
    "steps",
    "source",
    "frequency",
    "level",
    "resolution",
    "metric",
    "value",
    "floor",
    "n",
)


def galleries(
    data: str, entries: Sequence[LabelledRecord], files: ReportFiles
) -> Iterator[Gallery]:
    """The galleries of all kinds of which there is a picture; the pictures go into `files`."""
    for sheet in SHEETS:
        own = list(_figures(entries, sheet.file, sheet.alt, files))
        have = {label for label, _ in own}
        missing = [e.label for e in entries if sheet.always and e.label not in have]
        suffix = Path(sheet.file).suffix
        real = _real_images(data, entries, files, suffix) if sheet.file in (SAMPLES, MOVING) else ()
        figures = [*real, *(figure for _, figure in own)]
        if figures:
            yield Gallery(sheet.name, sheet.note, figures, missing)
    for name in dict.fromkeys(name for entry in entries for name in entry.record.analysis):
        yield analysis(name, [e for e in entries if name in e.record.analysis], files)


def _figures(
    entries: Sequence[LabelledRecord], file: str, alt: str, files: ReportFiles
) -> Iterator[tuple[str, Figure]]:
    for entry in entries:
        picture = files.picture(entry.folder / file) if entry.folder else None
        if picture:
            failed = " (failed)" if entry.record.failure is not None else ""
            description = alt.format(label=entry.label, sides=entry.sides)
            labelled = entry.folder is not None and file in (SAMPLES, MOVING)
            shown = shown_labels(entry.folder) if entry.folder and labelled else []
            caption = entry.label + failed
            yield entry.label, Figure(picture, caption, description, entry.look, shown)


def shown_labels(folder: Path) -> list[str]:
    """The caption or class of each image on the sheet of samples; none where they are not known."""
    try:
        facts = from_json(read_text(folder / SHOWN))
    except (OSError, ValueError):
        return []
    known = [mapping(one) for one in facts] if isinstance(facts, list) else []
    labels = [one.get("caption") or one.get("class") for one in known]
    return [str(label) for label in labels] if labels and all(labels) else []


def _real_images(
    data: str, entries: Sequence[LabelledRecord], files: ReportFiles, suffix: str
) -> Iterator[Figure]:
    """Each distinct sheet of real images."""
    sheets = [files.picture(entry.folder / f"real{suffix}") for entry in entries if entry.folder]
    for picture in dict.fromkeys(filter(None, sheets)):
        yield Figure(picture, "real images", f"Real test images of {data}.")


def analysis(name: str, entries: Sequence[LabelledRecord], files: ReportFiles) -> Gallery:
    """The gallery of an analysis: its picture, the gap of each stage, and the numbers."""
    alt = "Curves of {label}, whose numbers stand in the table below."
    figures = [figure for _, figure in _figures(entries, f"{Path(name).name}.png", alt, files)]
    gaps, numbers = [], []
    results = [mapping(entry.record.analysis[name]) for entry in entries]
    own = [mapping(row) for result in results for row in result.get("rows") or ()]
    heads = [key for key in NUMBERS if any(row.get(key) not in (None, "") for row in own)]
    for entry in entries:
        result = mapping(entry.record.analysis[name])
        log_snrs = mapping(result.get("level"))
        for stage, gap in mapping(result.get("gap")).items():
            cells = [value_cell(stage), value_cell(gap), value_cell(log_snrs.get(stage))]
            gaps.append(TableRow(entry.label, cells, entry.look))
        for row in map(mapping, result.get("rows") or ()):
            cells = [value_cell(row.get(key)) for key in heads]
            numbers.append(TableRow(entry.label, cells, entry.look))
    title = name.replace("_", " ")
    head = ("row", "stage", "gap: generated − real input", "log-SNR in sampling")
    tables = [
        *([PlainTable(f"Gaps of {title}", head, gaps)] if gaps else []),
        *([PlainTable(f"Numbers of {title}", ("row", *heads), numbers)] if numbers else []),
    ]
    notes = {"exposure_bias": EXPOSURE, "steps": STEPS, "spectrum": SPECTRUM, "experts": EXPERTS}
    return Gallery(title[:1].upper() + title[1:], notes.get(name, ""), figures, tables=tables)


def scaling(folders: Sequence[Path], files: ReportFiles) -> Iterator[Gallery]:
    """The galleries of `benchmarks.scaling` in the folders and in `scaling/` in them: picture, fits
    and numbers."""
    for folder in (place for one in folders for place in (one, one / "scaling")):
        picture = files.picture(folder / "scaling.png")
        alt = "Time, memory and operations of an image over its side, a line for each method."
        figures = [Figure(picture, folder.resolve().name, alt)] if picture else []
        try:
            content = from_json(read_text(folder / "scaling.json"))
            tables = list(_scaling_tables(mapping(content)))
        except (FileNotFoundError, NotADirectoryError):
            tables = []
        except (OSError, ValueError) as error:
            tables = []
            files.broken.append(f"{folder.name}/scaling.json cannot be read ({error})")
        if figures or tables:
            yield Gallery("Scaling", SCALING, figures, tables=tables)


def _scaling_tables(content: Mapping[str, Any]) -> Iterator[PlainTable]:
    exponents = mapping(content.get("exponents"))
    quantities = dict.fromkeys(key for own in exponents.values() for key in mapping(own))
    fits = [
        TableRow(name, [_fitted(mapping(own).get(key)) for key in quantities])
        for name, own in exponents.items()
    ]
    if fits:
        heads = (HEADS.get(key, key) for key in quantities)
        yield PlainTable("Exponents of the side", ("method", *heads), fits)
    entries = sorted(
        map(mapping, content.get("rows") or ()),
        key=lambda row: (str(row.get("method")), finite_number(row.get("resolution")) or 0.0),
    )
    rows = [
        TableRow(str(row.get("method")), [value_cell(row.get(key)) for key in SCALED])
        for row in entries
    ]
    if rows:
        heads = (HEADS.get(key, key) for key in SCALED)
        yield PlainTable("Measured", ("method", *heads), rows, grouped=True)
    about = [
        TableRow(key, [value_cell(v)]) for key, v in mapping(content.get("conditions")).items()
    ]
    if about:
        yield PlainTable("Conditions", ("what", "value"), about)


def _fitted(value: Any) -> Cell:
    """The cell of `2.04 ± 0.10`, sorted by the number before its error."""
    cell = value_cell(value)
    try:
        return replace(cell, value=float(cell.text.split(" ")[0]), number=True)
    except ValueError:
        return cell
