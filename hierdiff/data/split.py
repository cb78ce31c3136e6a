"""The parts of a set of files by what their names, or those of folders around them, begin with:
train-0000.tar, val-0000.tar; train/0000.parquet, test/0000.parquet."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from hierdiff.data.classes import in_natural_order
from hierdiff.data.image_data import HASHED

TRAIN = ("train", "training")  # in upper or lower case
TEST = ("test", "testing", "val", "valid", "validation")  # the first that fits is the test part


@dataclass(frozen=True)
class Parts:
    """Files of data, those of the test part (None where images are divided by hash), in words."""

    files: tuple[Path, ...]
    tested: frozenset[str] | None
    words: str

    def tests(self, paths: Iterable[str]) -> list[bool] | None:
        """Of each image, by its file, whether it is of the test part; None: divided by hash."""
        return None if self.tested is None else [path in self.tested for path in paths]


def files_in(root: str | Path, option: str, pattern: str) -> list[Path]:
    """The files below a folder that are called so, or the one that is named.

    option: what names `root`. pattern: as in `named_files`.

    Raises:
        FileNotFoundError: where there is none.
    """
    place = Path(os.path.expanduser(root))
    if place.is_file():
        return [place]
    found = named_files(place, pattern)
    if not found:
        raise FileNotFoundError(
            f"{place} holds no {PurePath(pattern).suffix} file: set data.{option} to a folder of "
            f"them, or to one"
        )
    return found


def named_files(folder: Path, pattern: str) -> list[Path]:
    """Files of a folder in natural order, without hidden ones; pattern: such as `*.tar`."""
    names = [one.relative_to(folder).as_posix() for one in folder.glob(pattern)]
    return [folder / name for name in in_natural_order(names) if not name.startswith(".")]


def parts_of(root: str | Path, test_root: str | Path | None, pattern: str, what: str) -> Parts:
    """The parts of the files below `root`, or of those and the test part below `test_root`.

    Raises:
        FileNotFoundError: where there are none.
        ValueError: as `parts_by_name`.
    """
    files = files_in(root, "root", pattern)
    own = files_in(test_root, "test_root", pattern) if test_root else []
    return parts_by_name(files, own, what, Path(os.path.expanduser(root)))


def parts_by_name(files: Sequence[Path], own: Sequence[Path], what: str, root: Path) -> Parts:
    """The parts of `files` below `root`; own: files that are the test part; what: files in words.

    Raises:
        ValueError: where a file is in both.
    """
    if own:
        if both := {path.resolve() for path in files} & {path.resolve() for path in own}:
            raise ValueError(
                f"data.test_root and data.root both hold {min(both)}: take it from one"
            )
        return Parts((*files, *own), frozenset(map(str, own)), f"data.test_root={own[0].parent}")
    called = {path: _called(path, root) for path in files}
    train = [path for path in files if called[path].startswith(TRAIN)]
    for name in TEST:
        test = [path for path in files if called[path].startswith(name)]
        if train and test:
            words = f"{what} train* and {name}*"
            if left := len(files) - len(train) - len(test):
                words += f", {left} {what} are left out"
            return Parts((*train, *test), frozenset(map(str, test)), words)
    return Parts(tuple(files), None, HASHED)


def _called(path: Path, root: Path) -> str:
    """What says the part of a file, in lower case: its name, or else a folder around it that is
    called after one, below `root`."""
    names = [path.name, *(folder.name for folder in path.parents if root in folder.parents)]
    own, *around = map(str.lower, names)
    said = () if own.startswith((*TRAIN, *TEST)) else (*TRAIN, *TEST)
    return next((name for name in around if name in said), own)
