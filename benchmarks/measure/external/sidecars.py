"""What stands beside images from elsewhere: captions and classes, in files of their own.

    0.png  0.txt  0.cls              caption and class of 0.png, as in a shard of webdataset
    metadata.jsonl                   {"file_name": "0.png", "text": "a cat", "label": 3} a line, or
                                     another table of `hierdiff.data.captions`, in any folder

A file of an image's own wins over a line of a table, both over the folder that the image is in.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from hierdiff.data.captions import TABLES, Label, of_file, read_table
from hierdiff.data.folder import Tree
from hierdiff.files.reading import with_escapes

TEXT, CLASS = ".txt", ".cls"


@dataclass
class Beside:
    """Captions and labels of images by name, and the names of the files that they are from."""

    captions: dict[str, str] = field(default_factory=dict)
    labels: dict[str, Label] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)


def beside(tree: Tree, others: list[str]) -> Beside:
    """What the other files of a tree say of its images.

    Raises:
        ValueError: for a file that is no UTF-8, a line that is no caption and no class, or one that
            names no image.
    """
    found = Beside()
    for name in first_tables(others):
        _add_table(found, tree, name)
    owners = {_stem(name): name for name in tree.images}
    for name in others:
        suffix, owner = PurePosixPath(name).suffix.lower(), owners.get(_stem(name))
        if owner is None or suffix not in (TEXT, CLASS):
            continue
        content = tree.text(name) or ""
        if suffix == TEXT:
            found.captions[owner] = of_file(content)
        else:
            found.labels[owner] = unicodedata.normalize("NFC", content.strip())
        found.files.add(name)
    return found


def first_tables(names: list[str]) -> list[str]:
    """In each folder that holds tables, the one that counts."""
    paths = [PurePosixPath(name) for name in names]
    tables = sorted((p for p in paths if p.name in TABLES), key=lambda p: TABLES.index(p.name))
    return [path.as_posix() for path in {path.parent: path for path in reversed(tables)}.values()]


def _add_table(found: Beside, tree: Tree, name: str) -> None:
    """Adds the lines of a table, whose file names are below its own folder.

    Raises:
        ValueError: names a line that is none.
    """
    folder, place = PurePosixPath(name).parent, tree.root / with_escapes(name)
    known = {
        PurePosixPath(image).relative_to(folder).as_posix(): image
        for image in tree.images
        if PurePosixPath(image).is_relative_to(folder)
    }
    table = read_table(tree.text(name) or "", place, known)
    for line, file in table.strangers.items():
        raise ValueError(f"{place}:{line} names {with_escapes(file)}, which is no image there")
    found.captions |= table.captions
    found.labels |= table.labels
    found.files.add(name)


def _stem(name: str) -> str:
    """What the paths of an image and of a file of its own share: `a.b` of `a.b.png`."""
    return PurePosixPath(name).with_suffix("").as_posix()
