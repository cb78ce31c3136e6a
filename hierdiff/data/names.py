"""The names of classes from a file, and numbers of classes as names.

The file has a line for each class, in the order of their numbers: its name, or the name of its
folder, white space, and its name as people say it (`n01440764 tench, Tinca tinca`, as
`LOC_synset_mapping.txt` of ImageNet and `words.txt` have it).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hierdiff.data.classes import in_natural_order
from hierdiff.files.reading import read_text

Named = tuple[dict[str, str], tuple[str, ...]]  # name by folder; names in the order of numbers


def read_names(file: str | Path) -> list[str]:
    """The lines of a file of names.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: where it is empty or no UTF-8.
    """
    path = Path(os.path.expanduser(file))
    if not path.is_file():
        raise FileNotFoundError(f"class names {path} do not exist: set data.class_names to a file")
    lines = [line.strip() for line in read_text(path).split("\n")]
    if not any(lines):
        raise ValueError(f"class names {path} is empty: write a line for each class")
    return [line for line in lines if line]


def named_folders(lines: Sequence[str], folders: Iterable[str], file: str | Path) -> Named:
    """Names of classes that are folders; lines: of the file of names.

    Raises:
        ValueError: where the lines do not name every folder.
    """
    known = in_natural_order(set(folders))
    if set(known) <= set(lines):
        return {folder: folder for folder in known}, tuple(dict.fromkeys(lines))
    pairs = [line.split(maxsplit=1) for line in lines]
    said = {pair[0]: pair[-1] for pair in pairs}
    if set(known) <= set(said):
        ordered = [folder for folder in said if folder in known]
        return _apart({folder: said[folder] for folder in ordered})
    if len(lines) == len(known):
        return _apart(dict(zip(known, lines, strict=True)))
    absent = [folder for folder in known if folder not in said]
    raise ValueError(
        f"{file} has {len(lines)} lines for {len(known)} classes and does not name "
        f"{', '.join(absent[:3])}: write a line `FOLDER NAME` for each"
    )


def _apart(names: Mapping[str, str]) -> Named:
    """Two classes of one name (ImageNet has two cranes) get their folder behind it."""
    counts = Counter(names.values())
    told = {f: name if counts[name] == 1 else f"{name} ({f})" for f, name in names.items()}
    return told, tuple(told.values())


def named_numbers(
    numbers: Sequence[int | None], names: Sequence[str] | None, place: str
) -> tuple[list[str | None], tuple[str, ...]]:
    """Classes as names, and all names, from numbers 0, 1, ... and what they are called, if known.

    place: of the numbers, for errors.

    Raises:
        ValueError: for a number below 0 or without a name.
    """
    given = [number for number in numbers if number is not None]
    most = max(given, default=-1)
    told = _apart({str(i): name for i, name in enumerate(names)})[1] if names else ()
    told = told or tuple(map(str, range(most + 1)))
    wrong = next((number for number in given if not 0 <= number < len(told)), None)
    if wrong is not None:
        if wrong < 0:
            raise ValueError(f"{place}: class {wrong} is below 0: leave it out where there is none")
        raise ValueError(
            f"{place}: class {wrong} has no name, because {len(told)} are named, from 0 on: write "
            f"a line for each class into data.class_names"
        )
    return [None if number is None else told[number] for number in numbers], told
