"""Any folder of images: class = sub-folder, captions from `captions.jsonl`.

    photos/cat/1.jpg  photos/dog/2.png  ...        classes cat, dog (in natural order: 2 before 10)
    photos/1.jpg  photos/2.png  ...                no classes
    photos/train/cat/1.jpg  photos/val/cat/2.jpg   training and test part
    photos/captions.jsonl                          {"file": "cat/1.jpg", "caption": "a cat"} a line

The key of an image is its path below the folder. What cannot be read, is smaller than the
resolution, is no regular file or has a name that is no UTF-8 is skipped with a warning that names
it, and counted in `skipped`; nothing else stops.
"""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hierdiff.data.cache import cache_folder, decoded, fingerprint
from hierdiff.data.classes import in_natural_order
from hierdiff.data.image_data import HASHED, ImageData, datasets, in_split_order
from hierdiff.data.pixels import SUFFIXES, read_square
from hierdiff.files.reading import from_json, read_text, with_escapes
from hierdiff.registry import Node

log = logging.getLogger(__name__)

CAPTIONS = "captions.jsonl"
TRAIN = ("train", "training")  # folders that are parts of a split, in upper or lower case
TEST = ("test", "testing", "val", "valid", "validation")  # the first that fits is the test part
OWN = "test_root"  # begins the keys of images below another root


@dataclass(frozen=True)
class Split:
    """Where the parts of a folder are: what their keys begin with, and in words.

    train: of the training part, or of all images where `test` is None.
    """

    train: str = ""
    test: str | None = None
    words: str = HASHED

    def holds(self, key: str) -> bool:
        """Whether an image belongs to one of the parts."""
        return key.startswith(self.train) or self.tests(key)

    def tests(self, key: str) -> bool:
        """Whether an image belongs to the test part."""
        return self.test is not None and key.startswith(self.test)

    def class_of(self, key: str) -> str | None:
        """The first folder within the part."""
        prefix = self.test if self.test is not None and self.tests(key) else self.train
        first, slash, _ = key.removeprefix(prefix).partition("/")
        return first if slash else None


@datasets.register("folder")
def folder(
    *,
    root: str | Path,
    test_root: str | Path | None = None,
    resolution: int = 64,
    channels: int = 3,
    cache: str | Path | None = None,
    text: Node | None = None,
    flip: bool = False,
    captions: str | Path | None = None,
    scalars: Sequence[str] = (),
    licence: str = "as stated by the owner of the folder",
) -> ImageData:
    """Upright, centre-cropped, area-averaged images of every format in data/pixels.py.

    test_root: a folder of the same form whose images are the test part. Without it the test part is
    `root/val` (or test, valid, validation) beside `root/train`, and else a quarter of the images.
    channels: 3 or 1; captions: a file other than ROOT/captions.jsonl; scalars: ["scale"] hands the
    side of the original in pixels to the denoiser.

    Raises:
        ValueError: for options that do not fit.
        FileNotFoundError: where a folder is absent or holds no image.
    """
    if resolution < 1 or channels not in (1, 3):
        raise ValueError(f"resolution {resolution} must be positive, channels {channels} 1 or 3")
    if unknown := set(scalars) - {"scale"}:
        raise ValueError(f"folder has no scalar {sorted(unknown)}: it knows ['scale']")
    top = existing(root, "root")
    own = None if test_root is None else existing(test_root, "test_root")
    if own is not None and own.resolve() in (top.resolve(), *top.resolve().parents):
        raise ValueError(f"data.test_root={own} holds data.root={top}: give one apart from it")
    paths, odd = image_paths(top, apart=own)
    split = split_of(tuple(paths), own)
    paths = {key: path for key, path in paths.items() if split.holds(key)}
    empty = [] if paths else [top]
    if own is not None:
        tested, odd_too = image_paths(own)
        empty += [] if tested else [own]
        paths |= {f"{OWN}/{key}": path for key, path in tested.items()}
        odd += odd_too
    for line in odd:
        log.warning("skipped %s", line)
    if empty:
        kinds = ", ".join(sorted(SUFFIXES))
        raise FileNotFoundError(f"image folder {empty[0]} holds no image: put some there ({kinds})")
    keys = list(paths)
    order = in_split_order(
        keys, in_test=None if split.test is None else list(map(split.tests, keys))
    )
    keys = [keys[row] for row in order]
    written = folder_captions(top, own, captions, split, keys)
    found = decoded(
        "folder",
        [paths[key] for key in keys],
        lambda path: read_square(path, resolution=resolution, channels=channels),
        channels=channels,
        resolution=resolution,
        identity=fingerprint(top, paths.values()) + repr(split),
        cache=cache_folder(cache),
    )
    kept = [keys[row] for row in found.rows]
    classes = [split.class_of(key) for key in kept]
    names = in_natural_order({name for name in classes if name is not None})
    all_names = {name for key in keys if (name := split.class_of(key)) is not None}
    if absent := in_natural_order(all_names - set(names)):
        log.warning("no class for %s: no image in it", ", ".join(map(with_escapes, absent)))
    numbers = {name: number for number, name in enumerate(names)}
    return ImageData(
        name="folder",
        images=found.images,
        keys=tuple(kept),
        licence=licence,
        labels=(
            np.array([-1 if name is None else numbers[name] for name in classes], np.int64)
            if names
            else None
        ),
        captions=None if written is None else tuple(written.get(key, "") for key in kept),
        class_names=tuple(names),
        flip=flip,
        scalars={name: found.sides for name in scalars},
        skipped=(*odd, *found.skipped),
        digests=found.digests,
        in_test=None if split.test is None else np.array(list(map(split.tests, kept)), bool),
        split=split.words,
    ).with_text(text, cache_folder(cache))


def existing(path: str | Path, option: str) -> Path:
    """The folder at `path`; option: its name, for the error.

    Raises:
        FileNotFoundError: where it does not exist.
    """
    top = Path(os.path.expanduser(path))
    if not top.is_dir():
        raise FileNotFoundError(
            f"image folder {top} does not exist: set data.{option} to one that does"
        )
    return top


def image_paths(top: Path, apart: Path | None = None) -> tuple[dict[str, Path], list[str]]:
    """Every path below `top` with the suffix of an image, by its key, in order, and what is odd.

    The second are lines for what cannot be listed. Links are followed, hidden names are left out,
    and no file is opened. apart: a folder that is left out.
    """
    paths: dict[str, Path] = {}
    odd: list[str] = []
    image_named_folders: list[Path] = []  # folders
    seen = set() if apart is None else {os.path.realpath(apart)}

    def unreadable(error: OSError) -> None:
        odd.append(with_escapes(f"{error.filename}: {error.strerror or error}"))

    for where, folders, files in os.walk(top, onerror=unreadable, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:  # a link back up, or to what is listed already
            folders.clear()
            if apart is None or real != os.path.realpath(apart):
                odd.append(with_escapes(f"{where}: it is the same folder as another one"))
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        image_named_folders += [Path(where, name) for name in folders if _is_image(name)]
        for name in files:
            if name.startswith(".") or not _is_image(name):
                continue
            path = Path(where, name)
            key = path.relative_to(top).as_posix()
            if key.isascii() or _is_utf8(key):
                paths[key] = path
            else:
                odd.append(with_escapes(f"{path}: its name is no UTF-8, rename it"))
    for path in image_named_folders:
        if not any(path in image.parents for image in paths.values()):
            odd.append(with_escapes(f"{path}: it is a folder, and holds no image"))
    return dict(sorted(paths.items())), sorted(odd)


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def split_of(keys: Sequence[str], own: Path | None = None) -> Split:
    """The parts that folders `train` and `val` (or test, ...) are.

    Folders around both that hold nothing else are passed; `train` alone is no class. own: another
    folder is the test part.
    """
    base, inside = "", list(keys)
    while True:
        tops = sorted({key.partition("/")[0] for key in inside if "/" in key})
        train = next((top for name in TRAIN for top in tops if top.casefold() == name), None)
        tests = [top for name in TEST for top in tops if top.casefold() == name]
        alone = len(tops) == 1 and all("/" in key for key in inside)
        if train is not None and (tests or alone):
            return _parts(base, inside, train, tests, own)
        if not alone:
            words = HASHED if own is None else f"data.test_root={own}"
            return Split(test=None if own is None else f"{OWN}/", words=words)
        base += f"{tops[0]}/"
        inside = [key.partition("/")[2] for key in inside]


def _parts(
    base: str, inside: Sequence[str], train: str, tests: Sequence[str], own: Path | None
) -> Split:
    def classes_in(top: str) -> bool:
        return any(key.startswith(f"{top}/") and key.count("/") > 1 for key in inside)

    alike = [top for top in tests if classes_in(top) == classes_in(train)]
    chosen = [] if own is not None else (alike or list(tests))[:1]
    others = [key.partition("/")[0] for key in inside]
    others = [place for place in others if place not in (train, *chosen)]
    words = f"folders {train} and {chosen[0]}" if chosen else f"folder {train}, {HASHED}"
    test = f"{base}{chosen[0]}/" if chosen else None
    if own is not None:
        words, test = f"folder {train} and data.test_root={own}", f"{OWN}/"
    if others:
        places = ", ".join(with_escapes(place) for place in sorted(set(others))[:5])
        words += f", {len(others)} images elsewhere are left out: {places}"
    return Split(f"{base}{train}/", test, words)


def folder_captions(
    top: Path, own: Path | None, file: str | Path | None, split: Split, keys: Sequence[str]
) -> dict[str, str] | None:
    """Captions by key, or None where there is no file.

    They are in `file`, else beside the images, in `top` and in the folders of its parts.

    Raises:
        FileNotFoundError: where `file` does not exist.
        ValueError: for a line that is no caption (`read_captions`).
    """
    if file is not None:
        path = Path(os.path.expanduser(file))
        if not path.is_file():
            raise FileNotFoundError(f"captions file {path} does not exist: set data.captions")
        return read_captions(path, {key: key for key in keys})
    places = {"": top, split.train: top / split.train}
    if split.test is not None:
        places[split.test] = top / split.test if own is None else own
    files = {
        p: where / CAPTIONS for p, where in places.items() if os.path.lexists(where / CAPTIONS)
    }
    captions: dict[str, str] = {}
    for prefix, path in files.items():
        known = {key.removeprefix(prefix): key for key in keys if key.startswith(prefix)}
        captions |= read_captions(path, known)
    return captions if files else None


def read_captions(path: Path, known: Mapping[str, str]) -> dict[str, str]:
    r"""The captions of a file by key. known: keys by the names that a line may use.

    Names agree in any Unicode form, and with "\" for "/" or "./" before them. Captions are in
    form NFC. Of several for one image the last counts, with a warning.

    Raises:
        OSError: where the file cannot be read.
        ValueError: names a line that is no caption; or where no line names an image.
    """
    names = {_plain(name): key for name, key in known.items()} | dict(known)
    captions: dict[str, str] = {}
    lines: dict[str, int] = {}
    strangers, again = 0, []
    try:
        text = read_text(path)
    except OSError as error:
        raise OSError(
            f"captions {path} cannot be read ({error.strerror}): replace the file, remove it, or "
            f"name another by data.captions=FILE"
        ) from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = from_json(line)
            file, caption = entry["file"], entry["caption"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'{path}:{number} is no caption ({error}): write {{"file": ..., "caption": ...}}'
            ) from error
        if not isinstance(file, str) or not isinstance(caption, str):
            raise ValueError(f"{path}:{number}: file and caption must be strings")
        if not _is_utf8(caption):
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


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).replace("\\", "/").removeprefix("./")
