"""Captions of images in files: `captions.jsonl`, `metadata.jsonl`, `metadata.csv`, and `.txt`.

A line, or a row, names an image and its caption:

    {"file": "cat/1.jpg", "caption": "a cat"}          also file_name or path, text or prompt
    file_name,text                                     the same as a table with a first row of names

A `.txt` file beside an image, of the same name but for the suffix, holds its caption.
"""

from __future__ import annotations

import csv
import io
import logging
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from hierdiff.files.reading import from_json, read_text

log = logging.getLogger(__name__)

TABLES = ("captions.jsonl", "metadata.jsonl", "metadata.csv", "captions.csv")  # first found counts
FILE = ("file", "file_name", "filename", "path", "image")
CAPTION = ("caption", "text", "prompt")
SIDECARS = "txt"  # what `captions` is set to for these alone


def read_captions(path: Path, known: Mapping[str, str]) -> dict[str, str]:
    """As `captions_in`, of a file.

    Raises:
        OSError: where the file cannot be read.
        ValueError: as `captions_in`.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise OSError(
            f"captions {path} cannot be read ({error.strerror}): replace the file, remove it, or "
            f"name another by data.captions=FILE"
        ) from error
    return captions_in(text, path, known)


def captions_in(text: str, path: Path, known: Mapping[str, str]) -> dict[str, str]:
    r"""The captions of a table by key. path: of it; known: keys by the names that a line may use.

    Names agree in any Unicode form, and with "\" for "/" or "./" before them. Captions are in
    form NFC. Of several for one image the last counts, with a warning.

    Raises:
        ValueError: names a line that is no caption; or where no line names an image.
    """
    names = {_plain(name): key for name, key in known.items()} | dict(known)
    captions: dict[str, str] = {}
    lines: dict[str, int] = {}
    strangers, again = 0, []
    entries = _rows if path.suffix.lower() == ".csv" else _lines
    for number, file, caption in entries(text, path):
        if not is_utf8(caption):
            raise ValueError(f"{path}:{number}: the caption holds half a character: write it anew")
        key = names.get(file, names.get(_plain(file)))
        if key is None:
            strangers += 1
            continue
        caption = unicodedata.normalize("NFC", caption)
        if captions.get(key, caption) != caption:
            again.append(f"{path}:{number} and {lines[key]}")
        captions[key], lines[key] = caption, number
    if not captions:
        raise ValueError(f"{path} names no image of {path.parent}: write paths as they are there")
    if strangers:
        log.warning("%s: %d lines name no image of the folder and are left out", path, strangers)
    if again:
        log.warning(
            "%d images have several captions, of which the last counts; the first: %s",
            *(len(again), again[0]),
        )
    return captions


def _lines(text: str, path: Path) -> Iterator[tuple[int, str, str]]:
    """Line number, file and caption of each line of JSON.

    Raises:
        ValueError: names a line that is no caption.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = from_json(line)
            file = next(entry[name] for name in FILE if name in entry)
            caption = next(entry[name] for name in CAPTION if name in entry)
        except (ValueError, KeyError, TypeError, StopIteration) as error:
            reason = str(error) or f"it has none of {', '.join((*FILE, *CAPTION))}"
            raise ValueError(
                f'{path}:{number} is no caption ({reason}): write {{"file": ..., "caption": ...}}'
            ) from error
        if not isinstance(file, str) or not isinstance(caption, str):
            raise ValueError(f"{path}:{number}: file and caption must be strings")
        yield number, file, caption


def _rows(text: str, path: Path) -> Iterator[tuple[int, str, str]]:
    """Line number, file and caption of each row of a table.

    Raises:
        ValueError: where the first row names no file or no caption, or a row is shorter.
    """
    table = csv.reader(io.StringIO(text, newline=""))
    try:
        names = [name.strip() for name in next(table, [])]
        file = next((names.index(name) for name in FILE if name in names), None)
        caption = next((names.index(name) for name in CAPTION if name in names), None)
        if file is None or caption is None:
            raise ValueError(
                f"{path}:1 names the columns {', '.join(names)}: name one of them "
                f"{', '.join(FILE)} and one {', '.join(CAPTION)}"
            )
        for row in table:
            if not row:
                continue
            if len(row) <= max(file, caption):
                raise ValueError(f"{path}:{table.line_num} has {len(row)} columns, not {names}")
            yield table.line_num, row[file], row[caption]
    except csv.Error as error:
        raise ValueError(
            f"{path}:{table.line_num} is no row of a table ({error}): mend it"
        ) from error


def sidecar(key: str) -> str:
    """The `.txt` file beside an image."""
    return str(PurePosixPath(key).with_suffix(".txt"))


def sidecars(keys: Mapping[str, str], text: Callable[[str], str | None]) -> dict[str, str] | None:
    """Captions by key from the files beside the images, None where there is no such file.

    keys: paths below the root by key; text: content of a text file there, None where there is none.
    """
    found = {key: text(sidecar(path)) for key, path in keys.items()}
    captions = {
        key: unicodedata.normalize("NFC", " ".join(caption.split()))
        for key, caption in found.items()
        if caption is not None
    }
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
