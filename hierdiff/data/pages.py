"""Single values of a column of bytes in a `.parquet` file: the page that holds one is read alone.

A row group keeps a column as a chunk of pages of about 1 MB, one after another, each behind a
header. pyarrow reads a chunk whole, so the headers are read here, by the published format
(parquet-format, `parquet.thrift` and Encodings.md): pages of version 1 and 2, plain or by a
dictionary, which is what writers make of bytes. `chunk_of` is None for any other chunk.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from hierdiff.data.sources import LARGEST, Range
from hierdiff.files.reading import Damaged

HEADER = 2**12  # bytes that are read for a header at first
CODECS = ("UNCOMPRESSED", "SNAPPY", "GZIP", "ZSTD", "BROTLI")
DATA, DICTIONARY, DATA_2 = 0, 2, 3  # types of pages
PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY = 0, 2, 3, 8  # encodings
BOOLEANS = {1: True, 2: False}  # types of thrift's compact protocol that are values


class Page(NamedTuple):
    """A page: its first row in the row group, its values, and bytes in the file.

    rows: values in it; start, packed, unpacked: place of what is behind the header, its bytes there
    and in memory; plain: values stand in it, not numbers of the dictionary; levels: bytes before
    the packed part that tell what is null, None where these are packed too; squeezed: whether it is
    compressed.
    """

    first: int
    rows: int
    start: int
    packed: int
    unpacked: int
    plain: bool
    levels: int | None
    squeezed: bool


class Chunk(NamedTuple):
    """A column in a row group. depth: level of a value that is there, below it is null."""

    path: str
    codec: str
    depth: int
    dictionary: Page | None
    pages: tuple[Page, ...]

    def page_of(self, row: int) -> Page:
        """The page that holds a row.

        Raises:
            IndexError: where none does.
        """
        page = self.pages[bisect_right(self.pages, row, key=lambda one: one.first) - 1]
        if not 0 <= row - page.first < page.rows:
            raise IndexError(f"{self.path}: no page holds row {row} of its group")
        return page


@lru_cache(maxsize=64)
def _footer(path: str, changed: int) -> Any:
    from pyarrow.parquet import read_metadata

    return read_metadata(path)


@lru_cache(maxsize=4096)
def chunk_of(path: str, changed: int, group: int, column: str) -> Chunk | None:
    """The pages of a column of bytes, `column` or `column.bytes`; None for a form unknown here.

    changed: a time that differs for another file under the same name.
    """
    footer = _footer(path, changed)
    about = footer.row_group(group)
    for number in range(about.num_columns):
        chunk, kind = about.column(number), footer.schema.column(number)
        if chunk.path_in_schema in (column, f"{column}.bytes"):
            break
    else:
        return None
    flat = kind.physical_type == "BYTE_ARRAY" and kind.max_repetition_level == 0
    if not flat or chunk.compression not in CODECS:
        return None
    place = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        place = min(place, chunk.dictionary_page_offset)
    end, row = place + chunk.total_compressed_size, 0
    dictionary, pages = None, []
    while place < end and row < about.num_rows:
        header, start = _header(path, place, end)
        page = _page(header, start, row)
        place = start + header[3]
        if page is None:
            return None
        if header[1] == DICTIONARY:
            dictionary = page
        else:
            pages.append(page)
            row += page.rows
    if row != about.num_rows or (dictionary is None and not all(page.plain for page in pages)):
        return None
    return Chunk(path, chunk.compression, kind.max_definition_level, dictionary, tuple(pages))


def values_of(chunk: Chunk, page: Page, dictionary: Sequence[bytes]) -> list[bytes | None]:
    """The values of a page, None for null; dictionary: those of the chunk, where it has one.

    Raises:
        Damaged: for one too large, or cut short.
    """
    if page.packed > LARGEST or page.unpacked > LARGEST:
        raise Damaged(f"a page takes {page.unpacked} bytes, more than {LARGEST}")
    content = Range(chunk.path, "a page", page.start, page.packed).read()
    apart = page.levels or 0
    told, content = content[:apart], content[apart:]
    if page.squeezed and chunk.codec != "UNCOMPRESSED":
        from pyarrow import Codec

        codec = Codec(chunk.codec.lower())
        content = codec.decompress(content, page.unpacked - apart, asbytes=True)
    present = np.ones(page.rows, bool)
    if chunk.depth and page is not chunk.dictionary:
        if page.levels is None:
            size = int.from_bytes(content[:4], "little")
            told, content = content[4 : 4 + size], content[4 + size :]
        present = _numbers(told, chunk.depth.bit_length(), page.rows) == chunk.depth
    count = int(present.sum())
    if page.plain:
        found = iter(_plain(content, count))
    else:
        width = content[0] if count else 0
        found = iter([dictionary[at] for at in _numbers(content[1:], width, count).tolist()])
    return [next(found) if one else None for one in present.tolist()]


def _plain(content: bytes, count: int) -> list[bytes]:
    """Values that each stand behind their size, 4 bytes.

    Raises:
        Damaged: where it ends before.
    """
    found, place = [], 0
    for _ in range(count):
        start = place + 4
        place = start + int.from_bytes(content[place:start], "little")
        if start > len(content) or place > len(content):
            raise Damaged("a page ends within a value")
        found.append(content[start:place])
    return found


def _numbers(content: bytes, width: int, count: int) -> np.ndarray:
    """Numbers of `width` bits in runs, or packed by eight (encoding RLE).

    Raises:
        Damaged: where it ends before.
    """
    found, place, known = [np.zeros(0, np.int64)], 0, 0
    while known < count and width:
        head, place = _varint(content, place)
        if head & 1:
            size = (head >> 1) * width
            bits = np.unpackbits(np.frombuffer(content, np.uint8, size, place), bitorder="little")
            part = bits.reshape(-1, width).astype(np.int64) @ (1 << np.arange(width))
        else:
            size = (width + 7) // 8
            value = int.from_bytes(content[place : place + size], "little")
            part = np.full(min(head >> 1, count), value, np.int64)
        if not len(part) or place + size > len(content):
            raise Damaged("a page ends within its numbers")
        found.append(part)
        place, known = place + size, known + len(part)
    return np.concatenate(found)[:count] if width else np.zeros(count, np.int64)


def _page(header: dict[int, Any], start: int, row: int) -> Page | None:
    """What a header says; None for a kind unknown here."""
    kind, unpacked, packed = header[1], header[2], header[3]
    if kind == DICTIONARY and header[7][2] in (PLAIN, PLAIN_DICTIONARY):
        return Page(-1, header[7][1], start, packed, unpacked, True, None, True)
    if kind == DATA:
        about = header[5]
        encoding, levels, squeezed = about[2], None, True
        if about[3] != RLE:
            return None
    elif kind == DATA_2:
        about = header[8]
        encoding, levels, squeezed = about[4], about[5], about.get(7, True)
    else:
        return None
    if encoding not in (PLAIN, PLAIN_DICTIONARY, RLE_DICTIONARY):
        return None
    return Page(row, about[1], start, packed, unpacked, encoding == PLAIN, levels, squeezed)


def _header(path: str, place: int, end: int) -> tuple[dict[int, Any], int]:
    """The header at a place of a file, and where it ends.

    Raises:
        Damaged: where there is none.
    """
    size = HEADER
    while True:
        size = min(size, end - place)
        content = Range(path, "a page", place, size).read()
        try:
            header, length = _struct(content, 0)
            if min(header[2], header[3]) >= 0 and place + length + header[3] <= end:
                return header, place + length
            raise Damaged(f"{path}: the page at byte {place} reaches beyond its column")
        except IndexError:  # it is longer
            if size == end - place:
                raise Damaged(f"{path}: a page has no header at byte {place}") from None
            size *= 8
        except (KeyError, TypeError, RecursionError) as error:
            raise Damaged(f"{path}: no header of a page at byte {place} ({error})") from error


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place


def _struct(content: bytes, place: int) -> tuple[dict[int, Any], int]:
    """A structure of thrift's compact protocol by the numbers of its fields."""
    found: dict[int, Any] = {}
    number = 0
    while True:
        head, place = content[place], place + 1
        if head == 0:
            return found, place
        if head >> 4:
            number += head >> 4
        else:
            number, place = _signed(content, place)
        kind = head & 15
        if kind in BOOLEANS:
            found[number] = BOOLEANS[kind]
        else:
            found[number], place = _value(content, place, kind)


def _signed(content: bytes, place: int) -> tuple[int, int]:
    value, place = _varint(content, place)
    return (value >> 1) ^ -(value & 1), place


def _value(content: bytes, place: int, kind: int) -> tuple[Any, int]:
    if kind in (4, 5, 6):
        return _signed(content, place)
    if kind == 8:
        size, place = _varint(content, place)
        if place + size > len(content):
            raise IndexError("text that goes on")
        return content[place : place + size], place + size
    if kind == 12:
        return _struct(content, place)
    if kind in (1, 2, 3):
        return content[place], place + 1
    raise TypeError(f"a field of kind {kind}")


def stamp(path: str) -> int:
    """What another file under the same name differs in."""
    return os.stat(path).st_mtime_ns
