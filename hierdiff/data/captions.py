"""Captions and classes of images in files: tables such as `metadata.jsonl`, and `.txt`.

A line, or a row, names an image and its caption, and maybe its class:

    {"file": "cat/1.jpg", "caption": "a cat"}          also file_name or path, text or prompt
    {"file_name": "1.jpg", "text": "a cat", "label": 3}
    file_name,text                                     the same as a table with a first row of names

A `.txt` file beside an image, of the same name but for the suffix, holds its caption.
"""

from __future__ import annotations

import csv
import io
import logging
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from hierdiff.files.reading import from_json

log = logging.getLogger(__name__)

TABLES = ("captions.jsonl", "metadata.jsonl", "metadata.csv", "captions.csv")  # first found counts
FILE = ("file", "file_name", "filename", "path", "image")
CAPTION = ("caption", "text", "prompt")
LABEL = ("label", "cls", "class")
Label = str | int  # name of a class, or its number
SIDECARS = "txt"  # what `captions` is set to for these alone


def told_in(text: str, path: Path, known: Mapping[str, str]) -> Table:
    """As `read_table`, of a data set; what names no image is left out with a warning.

    Raises:
        ValueError: names a line that is no caption where others are; or where no line names an
            image.
    """
    table = read_table(text, path, known)
    without = [line for key, line in table.lines.items() if key not in table.captions]
    if without and (table.captions or not table.labels):
        raise ValueError(
            f"{path}:{min(without)} is no caption (it has none of {', '.join(CAPTION)}): "
            f'write {{"file": ..., "caption": ...}}'
        )
    if not table.lines:
        raise ValueError(f"{path} names no image of {path.parent}: write paths as they are there")
    if table.strangers:
        log.warning(
            "%s: %d lines name no image of the folder and are left out", path, len(table.strangers)
        )
    return table


@dataclass(frozen=True)
class Table:
    """What a table says of images by key: captions in form NFC, classes, and the line of each.

    strangers: file names that are of no image, by their line.
    """

    captions: dict[str, str] = field(default_factory=dict)
    labels: dict[str, Label] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    strangers: dict[int, str] = field(default_factory=dict)


def read_table(text: str, path: Path, known: Mapping[str, str]) -> Table:
    r"""The captions and classes of a table. path: of it; known: keys by the names that a line may
    use.

    Names agree in any Unicode form, and with "\" for "/" or "./" before them. Of several captions
    for one image the last counts, with a warning.

    Raises:
        ValueError: names a line that is no caption and no class.
    """
    names = {_plain(name): key for name, key in known.items()} | dict(known)
    table, again = Table(), []
    entries = _rows if path.suffix.lower() == ".csv" else _lines
    for entry in entries(text, path):
        key = names.get(entry.file, names.get(_plain(entry.file)))
        if key is None:
            table.strangers[entry.line] = entry.file
            continue
        if entry.caption is not None:
            if not is_utf8(entry.caption):
                where = f"{path}:{entry.line}"
                raise ValueError(f"{where}: the caption holds half a character: write it anew")
            caption = unicodedata.normalize("NFC", entry.caption)
            if table.captions.get(key, caption) != caption:
                again.append(f"{path}:{entry.line} and {table.lines[key]}")
            table.captions[key] = caption
        if entry.label is not None:
            table.labels[key] = entry.label
        table.lines[key] = entry.line
    if again:
        log.warning(
            "%d images have several captions, of which the last counts; the first: %s",
            *(len(again), again[0]),
        )
    return table


class _Entry(NamedTuple):
    """A line of a table; None where it states no caption or no class."""

    line: int
    file: str
    caption: str | None
    label: Label | None


def _lines(text: str, path: Path) -> Iterator[_Entry]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = from_json(line)
            file = next((entry[name] for name in FILE if name in entry), None)
            caption, label = stated(entry)
            if file is None or (caption is None and label is None):
                raise ValueError(f"it has none of {', '.join((*FILE, *CAPTION))}")
        except (ValueError, TypeError) as error:
            raise ValueError(
                f'{path}:{number} is no caption ({error}): write {{"file": ..., "caption": ...}}'
            ) from error
        if not isinstance(file, str) or not isinstance(caption, str | None):
            raise ValueError(f"{path}:{number}: file and caption must be strings")
        if isinstance(label, bool) or not isinstance(label, str | int | None):
            raise ValueError(f"{path}:{number}: the class must be a name or a whole number")
        yield _Entry(number, file, caption, label)


def stated(facts: Mapping[str, Any]) -> tuple[Any, Any]:
    """Caption and class in a mapping beside an image, None for none."""
    caption = next((facts[name] for name in CAPTION if name in facts), None)
    return caption, next((facts[name] for name in LABEL if name in facts), None)


def _rows(text: str, path: Path) -> Iterator[_Entry]:
    table = csv.reader(io.StringIO(text, newline=""))
    try:
        names = [name.strip() for name in next(table, [])]
        file = next((name for name in FILE if name in names), None)
        if file is None or not any(name in names for name in (*CAPTION, *LABEL)):
            raise ValueError(
                f"{path}:1 names the columns {', '.join(names)}: name one of them "
                f"{', '.join(FILE)} and one {', '.join(CAPTION)}, or {', '.join(LABEL)}"
            )
        for row in table:
            if not row:
                continue
            if len(row) < len(names):
                raise ValueError(f"{path}:{table.line_num} has {len(row)} columns, not {names}")
            entry = dict(zip(names, row, strict=False))
            caption, label = stated(entry)
            yield _Entry(table.line_num, entry[file], caption, label or None)
    except csv.Error as error:
        raise ValueError(
            f"{path}:{table.line_num} is no row of a table ({error}): mend it"
        ) from error


def of_file(text: str) -> str:
    """The caption in a file of its own: a single line, in form NFC."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


def sidecar(key: str) -> str:
    """The `.txt` file beside an image."""
    return str(PurePosixPath(key).with_suffix(".txt"))


def sidecars(keys: Mapping[str, str], text: Callable[[str], str | None]) -> dict[str, str] | None:
    """Captions by key from the files beside the images, None where there is no such file.

    keys: paths below the root by key; text: content of a text file there, None where there is none.
    """
    found = {key: text(sidecar(path)) for key, path in keys.items()}
    captions = {key: of_file(caption) for key, caption in found.items() if caption is not None}
    return captions or None


def is_utf8(text: str) -> bool:
    """Whether a text has no half characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).replace("\\", "/").removeprefix("./")
