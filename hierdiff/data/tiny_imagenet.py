"""Tiny ImageNet in its own files: 200 classes of 500 + 50 images, 64 px.

    tiny-imagenet-200/wnids.txt  words.txt
    tiny-imagenet-200/train/n01443537/images/n01443537_0.JPEG
    tiny-imagenet-200/val/images/val_0.JPEG  val/val_annotations.txt

`val` is the test part; `test` has no labels and is left out. Classes are in the order of
`wnids.txt`, called by the first word of each in `words.txt`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hierdiff.data.cache import fingerprint
from hierdiff.data.image_data import ImageData, datasets
from hierdiff.data.listing import Listing, Reading, image_data
from hierdiff.data.names import named_folders, read_names
from hierdiff.data.sources import FileSource, content
from hierdiff.files.reading import read_text
from hierdiff.registry import Node

SIDE = 64
LICENCE = "of ImageNet: for research that is not commercial"
ANNOTATIONS = "val_annotations.txt"


@datasets.register("tiny_imagenet")
def tiny_imagenet(
    *,
    root: str | Path,
    resolution: int = SIDE,
    cache: str | Path | None = None,
    text: Node | None = None,
    flip: bool = True,
    reading: Reading = Reading(decoded=True),
) -> ImageData:
    """The images of `tiny-imagenet-200`, or of a folder that holds it; captions name the class.

    Raises:
        ValueError: for files that do not fit together, and as `image_data`.
        FileNotFoundError: where they are not there.
    """
    top = Path(os.path.expanduser(root))
    top = next((p for p in (top, top / "tiny-imagenet-200") if (p / "wnids.txt").is_file()), top)
    if not (top / "wnids.txt").is_file():
        raise FileNotFoundError(f"{top} holds no wnids.txt: set data.root to tiny-imagenet-200")
    trained = sorted((top / "train").glob("*/images/*.JPEG"))
    found = [*((path, path.parent.parent.name) for path in trained), *_tested(top / "val")]
    if not found:
        raise FileNotFoundError(f"{top} holds no image: unpack the published archive anew")
    keys = [path.relative_to(top).as_posix() for path, _ in found]
    ids = read_names(top / "wnids.txt")
    told, names = named_folders(_lines(top, ids), ids, top / "words.txt")
    if strange := {name for _, name in found} - set(ids):
        raise ValueError(f"{top}/wnids.txt lacks {min(strange)}: unpack the archive anew")
    listing = Listing(
        name="tiny_imagenet",
        sources=[FileSource(str(path)) for path, _ in found],
        content=content,
        keys=keys,
        identity=fingerprint(top, [path for path, _ in found]),
        classes=[told[name] for _, name in found],
        class_names=names,
        captions=[f"a photograph of a {told[name]}" for _, name in found],
        in_test=[key.startswith("val/") for key in keys],
        split="folders train and val",
    )
    return image_data(
        listing,
        reading,
        resolution=resolution,
        licence=LICENCE,
        flip=flip,
        text=text,
        cache=cache,
    )


def _tested(val: Path) -> Iterator[tuple[Path, str]]:
    table = val / ANNOTATIONS
    for number, line in enumerate(read_text(table).split("\n"), start=1):
        parts = line.split("\t")
        if len(parts) > 1:
            yield val / "images" / parts[0], parts[1]
        elif line.strip():
            raise ValueError(f"{table}:{number} is no file and class: unpack the archive anew")


def _lines(top: Path, ids: list[str]) -> list[str]:
    """`ID NAME` of each class, in order."""
    words = top / "words.txt"
    told = dict(line.split("\t", 1) for line in read_text(words).split("\n") if "\t" in line)
    return [f"{one} {told.get(one, one).split(',')[0].strip()}" for one in ids]
