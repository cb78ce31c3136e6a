"""Draws first samples of several runs under each other, a labelled row each, real images last.

python -m benchmarks.figure runs/mdm runs/end_to_end -o samples.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmarks.tables.choices import require_runs
from benchmarks.tables.labels import labels
from hierdiff.config import printable, reported
from hierdiff.files.atomic import write_png
from hierdiff.resolution import resolution_of
from hierdiff.results.folders import readable
from hierdiff.results.record import Record
from hierdiff.sheets import COLUMNS, first_images

SAMPLES, REAL = "samples.png", "real.png"  # of a run folder
LABEL, GAP = 18, 6  # height of the letters, and space around images, in pixels


def figure(records: Sequence[Record], n: int) -> Image.Image:
    """The first n finest samples of each record's run, and the real images of the first run.

    Raises:
        OSError: where a sheet is missing or damaged.
        ValueError: for a record that was not read from a run folder, or whose sheet has another
            layout.
    """
    rows = [
        (label, _row(record, SAMPLES, n))
        for label, record in zip(labels(records), records, strict=True)
    ]
    rows.append(("real images", _row(records[0], REAL, n)))
    font = ImageFont.load_default(LABEL)
    left = 2 * GAP + max(round(font.getlength(label)) for label, _ in rows)
    width = left + max(sum(image.width + GAP for image in images) for _, images in rows)
    canvas = Image.new(
        "RGB", (width, GAP + sum(images[0].height + GAP for _, images in rows)), "white"
    )
    draw, y = ImageDraw.Draw(canvas), GAP
    for label, images in rows:
        middle, x = y + images[0].height // 2, left
        draw.text((GAP, middle), label, fill="black", font=font, anchor="lm")
        for image in images:
            canvas.paste(image, (x, y))
            x += image.width + GAP
        y += images[0].height + GAP
    return canvas


def _row(record: Record, name: str, n: int) -> list[Image.Image]:
    if record.path is None:
        raise ValueError(f"{record.name} was not read from a run folder, whose {name} is needed")
    finest = resolution_of(record.levels[0])
    with Image.open(record.path.parent / name) as picture:
        return first_images(picture.convert("RGB"), finest, n)


@reported
def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the figure and prints where it is."""
    parser = argparse.ArgumentParser("benchmarks.figure", description="Samples of finished runs.")
    parser.add_argument("folders", nargs="+", metavar="RUN", help="in the order of the rows")
    parser.add_argument("-n", "--images", type=int, default=COLUMNS, choices=range(1, COLUMNS + 1))
    parser.add_argument("-o", "--output", type=Path, default=Path("figure.png"), metavar="FILE")
    chosen = parser.parse_args(arguments)
    records = []
    for folder in chosen.folders:
        found, unread = readable(folder)
        require_runs([*found, *unread], [folder])
        records += found
        for line in unread:
            print(f"left out: {printable(line)}", file=sys.stderr)
    records = [record for record in records if record.failure is None]
    require_runs(records, chosen.folders)
    write_png(chosen.output, figure(records, chosen.images))
    print(printable(str(chosen.output)))


if __name__ == "__main__":
    main()
