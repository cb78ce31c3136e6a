"""What stands beside images from elsewhere: captions and classes, in files of their own.

    0.png  0.txt  0.cls              caption and class of 0.png, as in a shard of webdataset
    metadata.jsonl                   {"file_name": "0.png", "text": "a cat", "label": 3} a line,
                                     as of a Hugging Face image folder; also "caption" for "text"

A file of an image's own wins over a line of metadata, both over the folder that the image is in.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from benchmarks.measure.external.base import Label
from hierdiff.files.reading import from_json, with_escapes

METADATA = "metadata.jsonl"
TEXT, CLASS = ".txt", ".cls"
Reader = Callable[[], bytes]


@dataclass
class Beside:
    """Captions and labels of images by name, and the names of the files that they are from."""

    captions: dict[str, str] = field(default_factory=dict)
    labels: dict[str, Label] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)


def beside(
    place: Path,
    images: Sequence[str],
    others: Mapping[str, Reader],
    key: Callable[[str], str],
) -> Beside:
    """What `others` say of images.

    images, others: paths below `place`, and what reads the content of each of the others. key: what
    the names of an image and of a file of its own share.

    Raises:
        ValueError: for a file that is no UTF-8, a line that is no metadata, or one that names no
            image.
    """
    found = Beside()
    owners = {key(name): name for name in images}
    for name, read in others.items():
        if PurePosixPath(name).name == METADATA:
            _read_metadata(found, place, name, _text(place, name, read), set(images))
    for name, read in others.items():
        suffix, owner = PurePosixPath(name).suffix.lower(), owners.get(key(name))
        if owner is None or suffix not in (TEXT, CLASS):
            continue
        content = unicodedata.normalize("NFC", _text(place, name, read).strip())
        if suffix == TEXT:
            found.captions[owner] = content
        else:
            found.labels[owner] = content
        found.files.add(name)
    return found


def _read_metadata(found: Beside, place: Path, name: str, text: str, images: set[str]) -> None:
    """Adds the lines of a `metadata.jsonl`, whose file names are below its own folder.

    Raises:
        ValueError: names the line that is none.
    """
    folder = PurePosixPath(name).parent
    for number, line in _lines(text):
        where = f"{place}: {with_escapes(name)}:{number}"
        try:
            entry: Any = from_json(line)
            file = (folder / entry["file_name"]).as_posix()
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'{where} is no metadata ({error}): write {{"file_name": ..., "text": ...}}'
            ) from error
        if file not in images:
            raise ValueError(f"{where} names {with_escapes(file)}, which is no image there")
        caption, label = entry.get("text", entry.get("caption")), entry.get("label")
        if not isinstance(caption, str | None) or not isinstance(label, str | int | None):
            raise ValueError(f"{where}: text must be a string, label a name or a whole number")
        if caption is not None:
            found.captions[file] = unicodedata.normalize("NFC", caption)
        if label is not None:
            found.labels[file] = label
    found.files.add(name)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    return ((i, line) for i, line in enumerate(text.split("\n"), start=1) if line.strip())


def _text(place: Path, name: str, read: Reader) -> str:
    """The text of a file.

    Raises:
        ValueError: where it is no UTF-8.
    """
    try:
        text = read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: {with_escapes(name)} is no UTF-8: save it as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
