"""Any folder of images, or a zip of one: class = sub-folder; tables or `.txt` files beside them.

    photos/cat/1.jpg  photos/dog/2.png  ...        classes cat, dog (in natural order: 2 before 10)
    photos/1.jpg  photos/2.png  ...                no classes
    photos/train/cat/1.jpg  photos/val/cat/2.jpg   training and test part
    photos/captions.jsonl                          {"file": "cat/1.jpg", "caption": "a cat"} a line
    photos/metadata.csv                            file_name,label    classes without sub-folders
    photos/cat/1.txt                               a cat

At a resolution of three sides, [frames, side, side], these are clips: an animated file (GIF, WebP,
APNG) is one, and so is a folder of images that do not move, in natural order, whose key is the
folder's. `reading.every` takes every second, third ... frame, so that clips of one rate stay so.

The key of an image is its path below the folder. What cannot be read, is smaller than the
resolution, is no regular file or has a name that is no UTF-8 is skipped with a warning that names
it, and counted in `skipped`; nothing else stops, unless `reading.broken` is "refuse".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from hierdiff.data.buckets import Aspects
from hierdiff.data.cache import fingerprint
from hierdiff.data.captions import (
    SIDECARS,
    TABLES,
    Label,
    Table,
    is_utf8,
    sidecars,
    told_in,
)
from hierdiff.data.classes import in_natural_order
from hierdiff.data.image_data import HASHED, ImageData, datasets
from hierdiff.data.listing import Listing, Reading, image_data
from hierdiff.data.names import named_folders, named_numbers, read_names
from hierdiff.data.pixels import SUFFIXES, opened
from hierdiff.data.sources import FileSource, Frames, Member, Source, content, opened_zip
from hierdiff.data.split import TEST, TRAIN
from hierdiff.files.reading import damage, read_text, with_escapes
from hierdiff.options import Count
from hierdiff.registry import Node
from hierdiff.resolution import sides_of

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
    resolution: Count | Sequence[Count] = 64,
    channels: int = 3,
    cache: str | Path | None = None,
    text: Node | None = None,
    flip: bool = False,
    captions: str | Path | None = None,
    class_names: str | Path | None = None,
    scalars: Sequence[str] = (),
    buckets: Aspects | None = None,
    reading: Reading = Reading(decoded=True, broken="skip", uncaptioned="empty"),
    licence: str = "as stated by the owner of the folder",
) -> ImageData:
    """Upright, centre-cropped, area-averaged images of every format in data/pixels.py.

    root: a folder, or a zip of one. test_root: one of the same form whose images are the test part.
    Without it the test part is `root/val` (or test, valid, validation) beside `root/train`, and
    else a quarter of the images. channels: 3 or 1; captions: a file other than those that are found
    in ROOT, or "txt" for the files beside the images alone; class_names: a file, see
    `hierdiff.data.names`; scalars: names of `hierdiff.data.micro`, numbers that the
    denoiser reads. buckets: training shows images in these shapes, None: as squares, which are what
    is measured in any case. resolution: [frames, side, side] takes the files for clips, see above.

    Raises:
        ValueError: for options that do not fit, and images that are refused.
        FileNotFoundError: where a folder is absent or holds no image.
    """
    top, own = Path(os.path.expanduser(root)), None
    clips = len(sides_of(resolution)) == 3
    if test_root is not None:
        own = Path(os.path.expanduser(test_root))
        if own.resolve() in (top.resolve(), *top.resolve().parents):
            raise ValueError(f"data.test_root={own} holds data.root={top}: give one apart from it")
        inside = opened_tree(own, "test_root", clips=clips)
    tree = opened_tree(top, "root", apart=own, clips=clips)
    split = split_of(tuple(tree.images), own)
    found = {key: source for key, source in tree.images.items() if split.holds(key)}
    empty = [] if found else [top]
    odd, identity = list(tree.odd), tree.identity
    if own is not None:
        empty += [] if inside.images else [own]
        found |= {f"{OWN}/{key}": source for key, source in inside.images.items()}
        odd, identity = odd + inside.odd, identity + inside.identity
    if empty:
        kinds = ", ".join(sorted(SUFFIXES))
        raise FileNotFoundError(f"image folder {empty[0]} holds no image: put some there ({kinds})")
    keys = list(found)
    written = beside(tree, inside if own is not None else None, captions, split, keys)
    classes: list[str | None] = list(map(split.class_of, keys))
    names: tuple[str, ...] = ()
    if not any(classes):
        classes, names = classes_of(written.labels, keys, class_names, top)
    elif class_names is not None:
        check_agreement(written.labels, dict(zip(keys, classes, strict=True)))
        folders = {name for name in classes if name is not None}
        told, names = named_folders(read_names(class_names), folders, class_names)
        classes = [None if name is None else told[name] for name in classes]
    else:
        check_agreement(written.labels, dict(zip(keys, classes, strict=True)))
    listing = Listing(
        name="folder",
        sources=list(found.values()),
        content=content,
        keys=keys,
        identity=identity + repr(split),
        classes=classes,
        class_names=names,
        captions=[written.captions.get(key, "") for key in keys],
        in_test=None if split.test is None else list(map(split.tests, keys)),
        split=split.words,
        odd=tuple(odd),
    )
    return image_data(
        listing,
        reading,
        resolution=resolution,
        channels=channels,
        licence=licence,
        flip=flip,
        scalars=scalars,
        buckets=buckets,
        text=text,
        cache=cache,
    )


@dataclass(frozen=True)
class Tree:
    """The images below a root, a folder or a zip, by key; and how its text files are read.

    odd: "PATH: reason" for what cannot be listed; text: content of a file by its path below the
    root, None where there is none; identity: changes with the images; others: lists the paths below
    the root of the files that are no images, without hidden ones.
    """

    root: Path
    images: Mapping[str, Source]
    odd: list[str]
    text: Callable[[str], str | None]
    identity: str
    others: Callable[[], list[str]]


def opened_tree(
    root: Path, option: str = "root", apart: Path | None = None, clips: bool = False
) -> Tree:
    """The images of a folder or a zip; option: its name, for errors; apart: a folder left out;
    clips: animated files and folders of frames are listed instead.

    Raises:
        FileNotFoundError: where there is none.
        Damaged: for a zip that cannot be read.
    """
    if clips:
        tree = opened_tree(root, option, apart)
        return replace(tree, images=clips_of(tree.images))
    if root.is_file() and root.suffix.lower() == ".zip":
        return _zipped(root)
    paths, odd = image_paths(existing(root, option), apart)

    def text(name: str) -> str | None:
        path = root / name
        return read_text(path) if os.path.lexists(path) else None

    def others() -> list[str]:
        found = (path for path in root.rglob("*") if path.is_file())
        names = (path.relative_to(root).as_posix() for path in found)
        return [name for name in names if name not in paths and not _is_hidden(name)]

    images = {key: FileSource(str(path)) for key, path in paths.items()}
    return Tree(root, images, odd, text, fingerprint(root, paths.values()), others)


def clips_of(images: Mapping[str, Any]) -> dict[str, Any]:
    """Sources of clips by key: animated files, and folders whose first image does not move."""
    folders: dict[str, list[str]] = {}
    for key in images:
        folders.setdefault(key.rpartition("/")[0], []).append(key)
    clips: dict[str, Any] = {}
    for folder, keys in folders.items():
        if not folder or _moves(images[keys[0]]):
            clips |= {key: images[key] for key in keys}
        else:
            parts = tuple(images[key] for key in in_natural_order(keys))
            clips[folder] = Frames(folder, parts)
    return dict(sorted(clips.items()))


def _moves(source: Source) -> bool:
    try:
        with opened(BytesIO(source.read())) as image:
            return getattr(image, "n_frames", 1) > 1
    except Exception:  # a file that cannot be read is told of when it is decoded
        return True


def _zipped(root: Path) -> Tree:
    """A zip as the folder that it was made of, and without the folder around all of it.

    Raises:
        ValueError: for a name that it holds twice.
        Damaged: where it cannot be read.
    """
    archive = opened_zip(str(root))
    names = [one.filename for one in archive.infolist() if not one.is_dir()]
    names = [name for name in names if not _is_hidden(name)]
    around = {name.partition("/")[0] for name in names if _is_image(name)}
    base = f"{around.pop()}/" if len(around) == 1 else ""
    if not all(name.startswith(base) and "/" in name for name in names if _is_image(name)):
        base = ""
    images: dict[str, Source] = {}
    for name in sorted(filter(_is_image, names)):
        key = name.removeprefix(base)
        if key in images:
            raise ValueError(f"{root} holds {with_escapes(name)} twice: zip the folder anew")
        images[key] = Member(str(root), name)
    held = set(names)

    def text(name: str) -> str | None:
        if base + name not in held:
            return None
        with damage(Path(f"{root}/{name}")):
            return archive.read(base + name).decode("utf-8-sig").replace("\r\n", "\n")

    def others() -> list[str]:
        return [name.removeprefix(base) for name in names if not _is_image(name)]

    return Tree(root, images, [], text, fingerprint(root.parent, [root]), others)


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


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
            if key.isascii() or is_utf8(key):
                paths[key] = path
            else:
                odd.append(with_escapes(f"{path}: its name is no UTF-8, rename it"))
    for path in image_named_folders:
        if not any(path in image.parents for image in paths.values()):
            odd.append(with_escapes(f"{path}: it is a folder, and holds no image"))
    return dict(sorted(paths.items())), sorted(odd)


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


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


def classes_of(
    labels: Mapping[str, Label], keys: Sequence[str], file: str | Path | None, root: Path
) -> tuple[list[str | None], tuple[str, ...]]:
    """Classes by image and their names in order, out of the labels of tables.

    labels: by key, numbers or names. file: of the names.

    Raises:
        ValueError: where some are numbers and some are names, or a number has no name.
    """
    labels = {key: label for key, label in labels.items() if str(label) != "-1"}  # none
    words = [label for label in labels.values() if not str(label).isdecimal()]
    if words and len(words) < len(labels):
        number = next(label for label in labels.values() if str(label).isdecimal())
        raise ValueError(f"{root}: classes {words[0]!r} and {number!r}: write names, or numbers")
    told = read_names(file) if file is not None and labels else None
    if not words:
        numbers = [int(labels[key]) if key in labels else None for key in keys]
        return named_numbers(numbers, told, str(root))
    named = {key: str(label) for key, label in labels.items()}
    if told is None:
        return [named.get(key) for key in keys], ()
    by_name, names = named_folders(told, set(named.values()), str(file))
    return [by_name[named[key]] if key in named else None for key in keys], names


def check_agreement(labels: Mapping[str, Label], folders: Mapping[str, str | None]) -> None:
    """Refuses labels of a table that part the images otherwise than their folders do.

    folders: the class of each image by key.

    Raises:
        ValueError: names an image whose label is that of another folder.
    """
    stands: dict[Label, str | None] = {}
    for key, label in labels.items():
        first = stands.setdefault(label, folders[key])
        told = str(label) in set(folders.values())
        if first != folders[key] or (told and folders[key] != str(label)):
            other = first if first != folders[key] else label
            raise ValueError(
                f"{key} is in folder {folders[key]}, and its table gives it the class {label!r}, "
                f"which is folder {other}: mend the table, or move the image"
            )


def beside(
    tree: Tree, own: Tree | None, file: str | Path | None, split: Split, keys: Sequence[str]
) -> Table:
    """Captions and labels by key.

    They are in `file`, else in a table beside the images, in the root and in the folders of its
    parts; captions also in a `.txt` beside each image, where no table has any.

    Raises:
        FileNotFoundError: where `file` does not exist, or is "txt" and no image has a `.txt`.
        ValueError: for a line that is no caption (`told_in`).
    """
    if file is not None and file != SIDECARS:
        path = Path(os.path.expanduser(file))
        if not path.is_file():
            raise FileNotFoundError(f"captions file {path} does not exist: set data.captions")
        return told_in(_text(read_text, path), path, {key: key for key in keys})
    found = Table() if file == SIDECARS else _tables(tree, own, split, keys)
    if found.captions:
        return found
    for part, inside in ((tree, False), (own, True)):
        if part is not None:
            own_keys = {k: k.removeprefix(f"{OWN}/") for k in keys if k.startswith(OWN) == inside}
            found.captions.update(sidecars(own_keys, part.text) or {})
    if file == SIDECARS and not found.captions:
        raise FileNotFoundError(f"{tree.root}: no image has a .txt beside it: leave data.captions")
    return found


def _tables(tree: Tree, own: Tree | None, split: Split, keys: Sequence[str]) -> Table:
    """What the tables in the root and in the folders of its parts say."""
    places = {"": (tree, ""), split.train: (tree, split.train)}
    if split.test is not None:
        places[split.test] = (tree, split.test) if own is None else (own, "")
    found = Table()
    for prefix, (part, place) in places.items():
        for name in TABLES:
            path = part.root / place / name
            text = _text(part.text, place + name, path)
            if text is not None:
                known = {key.removeprefix(prefix): key for key in keys if key.startswith(prefix)}
                table = told_in(text, path, known)
                found.captions.update(table.captions)
                found.labels.update(table.labels)
                break
    return found


def _text(read: Callable[[Any], Any], what: Any, path: Path | None = None) -> Any:
    try:
        return read(what)
    except OSError as error:
        raise OSError(
            f"captions {path or what} cannot be read ({error.strerror}): replace the file, remove "
            f"it, or name another by data.captions=FILE"
        ) from error
