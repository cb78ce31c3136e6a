"""Shards of webdataset: `.tar` files whose members of one name but for the suffix are one example.

    shards/train-0000.tar      cat/1.jpg  cat/1.cls  cat/1.txt  cat/2.jpg  ...
    shards/val-0000.tar

`.cls` is the number of the class, `.txt` the caption, `.json` a mapping that may have `label` (or
`cls`) and `caption` (or `text`); the dot that ends a name is the first one after the last slash.
Only headers are read to list a shard, and any image is then a range of its bytes. The key of an
image is the name of its member, with a suffix such as `.jpg`.
"""

from __future__ import annotations

import tarfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np

from hierdiff.data.cache import fingerprint
from hierdiff.data.captions import of_file, stated
from hierdiff.data.image_data import ImageData, datasets
from hierdiff.data.listing import Listing, Reading, image_data
from hierdiff.data.names import named_numbers, read_names
from hierdiff.data.pixels import SUFFIXES
from hierdiff.data.sources import Range, content
from hierdiff.data.split import parts_of
from hierdiff.files.reading import Damaged, check_regular, damage, from_json, with_escapes
from hierdiff.registry import Node

END = 512  # bytes of zeros that end a `.tar`, at least
LARGEST = 2**24  # bytes of a caption or a mapping
BESIDE = (".cls", ".txt", ".json")


@datasets.register("webdataset")
def webdataset(
    *,
    root: str | Path,
    test_root: str | Path | None = None,
    resolution: int = 64,
    channels: int = 3,
    cache: str | Path | None = None,
    text: Node | None = None,
    flip: bool = False,
    class_names: str | Path | None = None,
    scalars: Sequence[str] = (),
    reading: Reading = Reading(),
    licence: str = "as stated by the owner of the shards",
) -> ImageData:
    """Images in `.tar` shards, decoded when they are read unless `reading.decoded`.

    root: a folder of shards, or one shard; test_root: the same, of the test part. Without it,
    shards whose names begin with train and val (or test, ...) are the parts, and else a quarter of
    the images is held out. class_names: a file with a line for each number of a class.

    Raises:
        FileNotFoundError: where there are no shards, or no image in them.
        ValueError: for a shard that is cut short, and as `image_data`.
    """
    parts = parts_of(root, test_root, "*.tar", "shards")
    found = Members()
    for shard in parts.files:
        read_shard(shard, found)
    if not found.names:
        kinds = ", ".join(sorted(SUFFIXES))
        raise FileNotFoundError(f"shards in {root} hold no image: put some there ({kinds})")
    names = None if class_names is None else read_names(class_names)
    classes, told = named_numbers(found.labels, names, str(root))
    listing = Listing(
        name="webdataset",
        sources=Ranges(found),
        content=content,
        keys=found.names,
        identity=fingerprint(parts.files[0].parent, parts.files) + repr(parts.words),
        classes=classes,
        class_names=told,
        captions=found.captions,
        in_test=parts.tests(str(found.shards[shard]) for shard in found.shard),
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


@dataclass
class Members:
    """The images of shards: of each its shard, place, size, name, class and caption."""

    shards: list[Path] = field(default_factory=list)
    shard: list[int] = field(default_factory=list)
    start: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)


class Ranges(Sequence[Range]):
    """Where each image is."""

    def __init__(self, members: Members):
        self.paths = [str(path) for path in members.shards]
        self.names = members.names
        self.places = np.array([members.shard, members.start, members.size], np.int64)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[row] for row in range(*at.indices(len(self)))]
        shard, start, size = self.places[:, at].tolist()
        return Range(self.paths[shard], self.names[at], start, size)


class Example(NamedTuple):
    """An image of a shard and what stands beside it; label: None for none, as it is written."""

    image: Range
    caption: str
    label: Any


def read_shard(path: Path, members: Members) -> None:
    """Adds the images of a shard; no image is read.

    Raises:
        ValueError: as `examples_in`, and for a class that is no number.
    """
    members.shards.append(path)
    for image, caption, label in examples_in(path):
        members.shard.append(len(members.shards) - 1)
        members.start.append(image.start)
        members.size.append(image.size)
        members.names.append(image.name)
        members.labels.append(_number(label, str(image)))
        members.captions.append(caption)


def examples_in(path: Path) -> list[Example]:
    """The images of a shard in its order; no image is read.

    Raises:
        FileNotFoundError: where there is no shard.
        ValueError: `Damaged`, for one that is no `.tar`, is cut short, has an example without or
            with two images, a name that is there twice, or what cannot be read beside an image.
    """
    with damage(path):
        check_regular(path)
        with _opened_tar(path) as archive, path.open("rb") as file:
            examples = _members(archive)
            file.seek(archive.offset)
            if set(file.read(END)) != {0}:
                raise ValueError("it has no end, and was cut short: copy it anew")
            found = (_example(path, stem, parts, file) for stem, parts in examples.items())
            return [example for example in found if example is not None]


@contextmanager
def _opened_tar(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:") as archive:
            yield archive
    except tarfile.TarError as error:
        raise ValueError(
            f"it is no plain .tar, or was cut short ({error}): unpack a .tar.gz, copy another anew"
        ) from error


def _members(archive: tarfile.TarFile) -> dict[str, dict[str, tarfile.TarInfo]]:
    examples: dict[str, dict[str, tarfile.TarInfo]] = {}
    for one in archive:
        if not one.isreg() or is_hidden(one.name):
            continue
        stem, suffix = split_name(one.name)
        parts = examples.setdefault(stem, {})
        if suffix in parts:
            raise ValueError(f"it holds {with_escapes(one.name)} twice: rename one")
        parts[suffix] = one
    return examples


def _example(
    path: Path, stem: str, parts: Mapping[str, tarfile.TarInfo], file: IO[bytes]
) -> Example | None:
    """One example; None for what is neither an image nor beside one.

    Raises:
        ValueError: where it has no image or two, or what is beside it cannot be read.
    """
    images = [suffix for suffix in parts if suffix in SUFFIXES]
    if not images and not any(suffix in BESIDE for suffix in parts):
        return None
    if len(images) != 1:
        raise ValueError(
            f"the example {with_escapes(stem)} has {len(images)} images ({', '.join(parts)}): "
            f"write one beside its .cls, .txt and .json"
        )
    image = parts[images[0]]
    said = {suffix: _text(file, parts[suffix]) for suffix in BESIDE if suffix in parts}
    facts = from_json(said[".json"]) if ".json" in said else {}
    caption, label = stated(facts) if isinstance(facts, dict) else (None, None)
    label = unicodedata.normalize("NFC", said[".cls"].strip()) if ".cls" in said else label
    caption = said.get(".txt", caption)
    place = Range(str(path), image.name, image.offset_data, image.size)
    return Example(place, of_file(str(caption or "")), None if label == "" else label)


def _text(file: IO[bytes], member: tarfile.TarInfo) -> str:
    if member.size > LARGEST:
        raise Damaged(f"{member.name} takes {member.size} bytes, more than {LARGEST}")
    file.seek(member.offset_data)
    return file.read(member.size).decode("utf-8-sig")


def _number(label: Any, place: str) -> int | None:
    if label is None:
        return None
    try:
        return int(str(label))
    except ValueError:
        raise ValueError(
            f"{with_escapes(place)}: its class {label!r} is no whole number: write its number, "
            f"and the names in a file for data.class_names"
        ) from None


def split_name(name: str) -> tuple[str, str]:
    """What the members of one example share, and the suffix in lower case: webdataset cuts at the
    first dot of the last part, of which an image's last suffix counts."""
    head, slash, last = name.rpartition("/")
    stem, dot, suffix = last.partition(".")
    if PurePosixPath(last).suffix.lower() in (*SUFFIXES, *BESIDE):
        suffix = PurePosixPath(last).suffix.lower().removeprefix(".")
        stem = last[: -len(suffix) - 1]
    return head + slash + stem, dot + suffix.lower()


def is_hidden(name: str) -> bool:
    """A name that no program shows."""
    return any(part.startswith((".", "__MACOSX")) and part != "." for part in name.split("/"))
