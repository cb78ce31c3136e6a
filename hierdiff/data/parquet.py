"""Tables of images in `.parquet` files, as Hugging Face's hub has them; needs pyarrow.

A column holds the files: bytes, or {bytes, path}. Another may hold the class (a number, whose
names Hugging Face writes beside it, or a name), another the caption. An image can be read by
itself, but a row group is read whole for it, and a process keeps the last `KEPT` bytes of them:
training in random order is fast where the table is no larger or its groups are small
(`row_group_size=16`), and `reading.decoded=true` is for others. The key of an image is its `path`,
or what the column `key` says, or its number.
"""

from __future__ import annotations

import logging
import os
import unicodedata
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from hierdiff.data.cache import fingerprint
from hierdiff.data.captions import CAPTION
from hierdiff.data.image_data import ImageData, datasets
from hierdiff.data.listing import Listing, Reading, image_data
from hierdiff.data.names import named_numbers, read_names
from hierdiff.data.split import parts_of
from hierdiff.files.reading import Damaged, check_regular, damage, from_json
from hierdiff.registry import Node

log = logging.getLogger(__name__)
TABLES = "**/*.parquet"
KEPT = 2**28  # bytes of row groups that a process keeps
HEAVY = 2**25  # bytes of a row group that are much for one image


@datasets.register("parquet")
def parquet(
    *,
    root: str | Path,
    test_root: str | Path | None = None,
    image: str = "image",
    label: str | None = None,
    caption: str | None = None,
    key: str | None = None,
    resolution: int = 64,
    channels: int = 3,
    cache: str | Path | None = None,
    text: Node | None = None,
    flip: bool = False,
    class_names: str | Path | None = None,
    scalars: Sequence[str] = (),
    reading: Reading = Reading(),
    licence: str = "as stated by the owner of the table",
) -> ImageData:
    """Images in the rows of `.parquet` files, decoded when they are read unless `reading.decoded`.

    root: a folder of files, or one; test_root: the same, of the test part. Without it, files whose
    names begin with train and val (or test, ...) are the parts, or those in folders of these names,
    and else a quarter of the images is held out. image, label, caption, key: columns; label: null
    for `label`, where there is one, caption: null for `caption`, `text` or `prompt`.

    Raises:
        ImportError: without pyarrow.
        FileNotFoundError: where there is no file.
        ValueError: for a file that cannot be read or lacks a column, and as `image_data`.
    """
    if find_spec("pyarrow") is None:
        raise ImportError("data=parquet needs pyarrow: pip install 'hierdiff[parquet]'")
    parts = parts_of(root, test_root, TABLES, "files")
    columns = Columns(image, label, caption, key)
    rows = [row for path in parts.files for row in read_table(path, columns)]
    if not rows:
        raise FileNotFoundError(f"the files of {root} have no row: set data.root to others")
    classes, names = classes_of(rows, parts.files[0], columns, class_names)
    listing = Listing(
        name="parquet",
        sources=[row.source for row in rows],
        content=read_cell,
        keys=keys_of([row.key for row in rows], [str(row.source) for row in rows], key is not None),
        identity=fingerprint(parts.files[0].parent, parts.files) + repr((parts.words, columns)),
        classes=classes,
        class_names=names,
        captions=[row.caption for row in rows],
        in_test=parts.tests(row.source.path for row in rows),
        split=parts.words,
    )
    return image_data(
        listing,
        reading,
        resolution=resolution,
        channels=channels,
        licence=licence,
        flip=flip,
        scalars=scalars,
        text=text,
        cache=cache,
    )


class Columns(NamedTuple):
    """Names of columns, as the options have them."""

    image: str
    label: str | None
    caption: str | None
    key: str | None

    def within(self, names: Sequence[str]) -> Columns:
        """The columns of a table with these names, with those that no option states.

        Raises:
            ValueError: where one that was asked for is not there.
        """
        for option, name in self._asdict().items():
            if name is not None and name not in names:
                raise ValueError(
                    f"it has no column {name!r}: set data.{option} to one of {', '.join(names)}"
                )
        label = self.label or ("label" if "label" in names else None)
        caption = self.caption or next((name for name in CAPTION if name in names), None)
        return self._replace(label=label, caption=caption)


class Cell(NamedTuple):
    """The image in a row of a table."""

    path: str
    group: int
    row: int
    column: str

    def __str__(self) -> str:
        return f"{self.path}: row {self.row} of group {self.group}"


class Row(NamedTuple):
    """What is known of an image. source: where it is, a `Cell` here."""

    source: Any
    key: str | None
    label: Any
    caption: str


def read_cell(cell: Cell) -> bytes:
    """The bytes of an image file.

    Raises:
        Damaged: where the row has none.
    """
    value = _group(cell.path, os.stat(cell.path).st_mtime_ns, cell.group, cell.column)[cell.row]
    found = value.as_py()
    content = found.get("bytes") if isinstance(found, Mapping) else found
    if not isinstance(content, bytes):
        raise Damaged("its row holds no bytes")
    return content


_groups: OrderedDict[tuple[Any, ...], Any] = OrderedDict()  # the last ones used, newest last


def _group(*place: Any) -> Any:
    """The column of a row group; place: path, time of change, group, column."""
    from pyarrow.parquet import ParquetFile

    if place not in _groups:
        path, _, group, column = place
        with ParquetFile(path) as file:
            _groups[place] = file.read_row_group(group, columns=[column]).column(0)
    _groups.move_to_end(place)
    while len(_groups) > 1 and sum(one.nbytes for one in _groups.values()) > KEPT:
        _groups.popitem(last=False)
    return _groups[place]


def read_table(path: Path, columns: Columns) -> list[Row]:
    """What is known of the images of a file, without reading these.

    Raises:
        Damaged: for a file that is none, or lacks a column.
    """
    from pyarrow.parquet import ParquetFile
    from pyarrow.types import is_struct

    with damage(path), ParquetFile(path) as file:
        check_regular(path)
        schema = file.schema_arrow
        chosen = columns.within(schema.names)
        kind = schema.field(columns.image).type
        struct = [field.name for field in kind] if is_struct(kind) else []
        wanted = [name for name in (chosen.label, chosen.caption, chosen.key) if name is not None]
        if "path" in struct:
            wanted.append(f"{columns.image}.path")
        table = file.read(columns=wanted).to_pydict() if wanted else {}
        cells = [
            Cell(str(path), group, row, columns.image)
            for group in range(file.num_row_groups)
            for row in range(file.metadata.row_group(group).num_rows)
        ]
        heavy = max(
            (file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)),
            default=0,
        )
    if heavy > HEAVY:
        log.info("%s has row groups of %.0f MB, each read whole for one image", path, heavy / 1e6)
    empty = [None] * len(cells)
    paths = [one and one.get("path") for one in table.get(columns.image, empty)]
    keys = paths if chosen.key is None else table[chosen.key]
    labels = empty if chosen.label is None else table[chosen.label]
    captions = empty if chosen.caption is None else table[chosen.caption]
    return [
        Row(cell, None if key is None else str(key), label, one_line(caption))
        for cell, key, label, caption in zip(cells, keys, labels, captions, strict=True)
    ]


def one_line(caption: Any) -> str:
    """Of several captions the first."""
    first = next(iter(caption), "") if isinstance(caption, list) else caption
    return unicodedata.normalize("NFC", " ".join(str(first or "").split()))


def keys_of(keys: Sequence[str | None], numbers: Sequence[str], stated: bool) -> Sequence[str]:
    """Keys of images, or their numbers where some have none or share one that nobody stated."""
    known = [key for key in keys if key is not None]
    if len(known) == len(keys) and (stated or len(set(known)) == len(known)):
        return known
    return [f"{number:09d}" for number in range(len(numbers))]


def classes_of(
    rows: Sequence[Row], path: Path, columns: Columns, file: str | Path | None
) -> tuple[list[str | None] | None, tuple[str, ...]]:
    """Names of classes by image and by number; labels that are text are names themselves.

    Raises:
        ValueError: for a number without a name.
    """
    labels = [row.label for row in rows]
    if any(isinstance(label, str) for label in labels):
        return [None if label is None else str(label) for label in labels], ()
    names = read_names(file) if file is not None else label_names(path, columns.label or "label")
    numbers = [None if label is None or label == -1 else int(label) for label in labels]
    return named_numbers(numbers, names, str(path))


def label_names(path: Path, column: str) -> list[str] | None:
    """Names of classes that Hugging Face wrote into the schema of a file, None where it did not."""
    from pyarrow.parquet import read_schema

    with damage(path):
        said = (read_schema(path).metadata or {}).get(b"huggingface")
        features = from_json(said)["info"]["features"] if said else {}
        names = features.get(column, {}).get("names")
    return list(map(str, names)) if names else None
