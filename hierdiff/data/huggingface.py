"""Data sets of Hugging Face's library `datasets`: a folder of files, one saved to disk, the hub.

As tables (`streaming=false`) the library keeps an Arrow copy of the encoded files in a cache of its
own, of which any image can be read. `streaming=true` keeps none: images come out of the files in
their order. An epoch is then a permutation of the shards, seeded as ever, and within a shard the
order of its file; where a run that was killed goes on in it follows from its step. A shard is read
from its beginning up to there, by each process and worker of the run.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hierdiff.data.cache import cache_folder, fingerprint
from hierdiff.data.image_data import HASHED, ImageData, datasets
from hierdiff.data.listing import Listing, Reading, image_data
from hierdiff.data.names import named_numbers, read_names
from hierdiff.data.parquet import Columns, Row, keys_of, one_line
from hierdiff.files.reading import Damaged, damage
from hierdiff.registry import Node

TESTS = ("test", "validation", "valid", "val")  # splits, of which the first that is there counts
OPEN = 4  # data sets, and streams, that a process holds open


@datasets.register("huggingface")
def huggingface(
    *,
    root: str | Path,
    config: str | None = None,
    split: str = "train",
    test_split: str | None = None,
    streaming: bool = False,
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
    reading: Reading = Reading(),
    allow_download: bool = False,
    licence: str = "as stated on the card of the data set",
) -> ImageData:
    """Images of a data set that `datasets.load_dataset` or `load_from_disk` reads.

    root: a folder, or the name of a data set on the hub, which is read where that is allowed;
    config: of it. split, test_split: of the training and the test part; null for `test` or
    `validation`, and where there is neither, a quarter of the images by hash. image, label,
    caption, key: columns, as in `parquet`.

    Raises:
        ImportError: without the library.
        FileNotFoundError: where the data set is not here.
        ValueError: where it cannot be read or lacks a split or column, and as `image_data`.
    """
    if find_spec("datasets") is None:
        raise ImportError("data=huggingface needs it: pip install 'hierdiff[huggingface]'")
    place = os.path.expanduser(root)
    if not allow_download and not Path(place).is_dir():
        raise FileNotFoundError(
            f"{place} is no folder: set data.root to one, or data.allow_download=true for the data "
            f"set of this name on the hub"
        )
    where = Place(place, config, streaming, str(cache_folder(cache) / "huggingface"), image)
    columns = Columns(image, label, caption, key)
    known = splits(where)
    tests = [test_split] if test_split is not None else [one for one in TESTS if one in known][:1]
    for name in (split, *tests):
        if name not in known:
            raise ValueError(f"{root} has no split {name!r}: choose from {', '.join(known)}")
    rows = [row for name in (split, *tests) for row in listed(where, name, columns)]
    if not rows:
        raise ValueError(f"{root} has no row in {split}: choose another split")
    numbers = [str(row.source) for row in rows]
    keys = numbers if streaming else keys_of([row.key for row in rows], numbers, key is not None)
    names = read_names(class_names) if class_names is not None else label_names(where, split, label)
    classes, told = named_numbers([row.label for row in rows], names, place)
    listing = Listing(
        name="huggingface",
        sources=[row.source for row in rows],
        content=where,
        keys=keys,
        identity=identity(where, (split, *tests)) + repr(columns),  # a key puts them in order
        classes=classes,
        class_names=told,
        captions=[row.caption for row in rows],
        in_test=[row.source.split != split for row in rows] if tests else None,
        split=f"splits {split} and {tests[0]}" if tests else HASHED,
        shards=np.array([row.source.shard for row in rows]) if streaming else None,
    )
    return image_data(
        listing,
        reading,
        resolution=resolution,
        channels=channels,
        licence=licence,
        flip=flip,
        text=text,
        cache=cache,
    )


class Record(NamedTuple):
    """A row of a data set; of a stream, of one of its shards."""

    split: str
    shard: int
    row: int

    def __str__(self) -> str:
        return f"{self.split}/{self.shard:05d}/{self.row:08d}"


@dataclass(frozen=True)
class Place:
    """Where a data set is, and the bytes of its images."""

    root: str
    config: str | None
    streaming: bool
    cache: str
    image: str

    def __call__(self, source: Record) -> bytes:
        """The bytes of the image file of a row.

        Raises:
            Damaged: where the row has none.
        """
        table = _parts(self)[source.split]
        if self.streaming:
            value = _stream(self, source.split, source.shard).at(source.row)[self.image]
        else:
            value = table[source.row][self.image]
        content = value.get("bytes") if isinstance(value, Mapping) else value
        if content is None and isinstance(value, Mapping) and value.get("path"):
            return Path(value["path"]).read_bytes()
        if not isinstance(content, bytes):
            raise Damaged("its row holds no bytes")
        return content


@lru_cache(maxsize=OPEN)
def _parts(place: Place) -> Mapping[str, Any]:
    """The splits by name; images are not decoded by the library.

    Raises:
        ValueError: where the library cannot read them, or there is no such column.
    """
    import datasets as library

    try:
        if (Path(place.root) / "dataset_dict.json").is_file():
            found = library.load_from_disk(place.root)
        else:
            options = {"streaming": place.streaming, "cache_dir": place.cache}
            found = library.load_dataset(place.root, place.config, **options)
        if place.streaming and not isinstance(found, library.IterableDatasetDict):
            raise ValueError("it was saved as a table, and is no stream: set data.streaming=false")
        return {name: _undecoded(part, place.image, library) for name, part in found.items()}
    except Exception as error:  # readers of many formats raise many kinds
        raise ValueError(f"{place.root} cannot be read by datasets: {error}") from error


def _undecoded(part: Any, image: str, library: Any) -> Any:
    if image not in part.features:
        raise ValueError(f"it has no column {image!r}: set data.image to one of {[*part.features]}")
    if isinstance(part.features[image], library.Image):
        return part.cast_column(image, library.Image(decode=False))
    return part


class _Stream:
    """A shard that is read forward, and from its beginning for what lies behind."""

    def __init__(self, shard: Any):
        self.shard, self.rows, self.next = shard, iter(shard), 0

    def at(self, row: int) -> Mapping[str, Any]:
        """The row of that number.

        Raises:
            Damaged: where the shard has fewer rows.
        """
        if row < self.next:
            self.rows, self.next = iter(self.shard), 0
        for value in self.rows:
            self.next += 1
            if self.next == row + 1:
                return value
        raise Damaged(f"its shard has {self.next} rows by now")


@lru_cache(maxsize=OPEN)
def _stream(place: Place, split: str, shard: int) -> _Stream:
    part = _parts(place)[split]
    return _Stream(part.shard(num_shards=part.num_shards, index=shard))


atexit.register(_stream.cache_clear)  # a reader that is open when modules go complains


def splits(place: Place) -> list[str]:
    """Names of the splits."""
    return list(_parts(place))


def listed(place: Place, split: str, columns: Columns) -> Iterator[Row]:
    """What is known of the images of a split, without reading those of a table.

    Raises:
        ValueError: where a column that was asked for is not there, or a label is no number.
    """
    part = _parts(place)[split]
    with damage(Path(place.root)):
        _, label, caption, key = columns.within([*part.features])
    beside = [name for name in (label, caption, key) if name is not None]
    shards = range(part.num_shards) if place.streaming else range(1)
    for number in shards:
        some = part.shard(num_shards=part.num_shards, index=number) if place.streaming else part
        for row, value in enumerate(some.select_columns(beside) if beside else some):
            found = value.get(label) if label else None
            if found is not None and not isinstance(found, int):
                raise ValueError(
                    f"{place.root}: the class {found!r} in column {label!r} is no number: set "
                    f"data.label to a column of numbers"
                )
            yield Row(
                Record(split, number, row),
                str(value[key]) if key else None,
                None if found in (None, -1) else found,
                one_line(value.get(caption) if caption else ""),
            )


def label_names(place: Place, split: str, label: str | None) -> list[str] | None:
    """Names of classes, where the data set has them."""
    names = getattr(_parts(place)[split].features.get(label or "label"), "names", None)
    return None if names is None else list(map(str, names))


def identity(place: Place, names: tuple[str, ...]) -> str:
    """Changes with the files of a folder, or with what the hub says of a data set."""
    root = Path(place.root)
    if root.is_dir():
        files = sorted(path for path in root.rglob("*") if path.is_file())
        return fingerprint(root, files) + repr((place, names))
    about = [str(_parts(place)[name].info.download_checksums) for name in names]
    return repr((place, names, about))
