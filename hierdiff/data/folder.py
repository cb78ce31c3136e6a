"""Any folder of images: class = sub-folder, captions from `captions.jsonl`.

    photos/cat/1.jpg  photos/dog/2.png  ...      classes cat, dog (sorted)
    photos/1.jpg  photos/2.png  ...              no classes
    photos/captions.jsonl                        {"file": "cat/1.jpg", "caption": "a cat"} a line

A file that cannot be read, or is smaller than the resolution, is skipped with a warning that
names it, and counted in `skipped`. The key of an image is its path below the folder.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hierdiff.data.cache import cache_folder, decoded, fingerprint
from hierdiff.data.image_data import ImageData, datasets, in_split_order
from hierdiff.data.pixels import SUFFIXES, read_square
from hierdiff.registry import Node

log = logging.getLogger(__name__)


@datasets.register("folder")
def folder(
    *,
    root: str | Path,
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

    channels: 3 or 1; captions: a file other than ROOT/captions.jsonl; scalars: ["scale"] hands the
    side of the original in pixels to the denoiser.
    """
    top = Path(root).expanduser()
    if not top.is_dir():
        raise FileNotFoundError(
            f"image folder {top} does not exist: set data.root to one that does"
        )
    if resolution < 1 or channels not in (1, 3):
        raise ValueError(f"resolution {resolution} must be positive, channels {channels} 1 or 3")
    if unknown := set(scalars) - {"scale"}:
        raise ValueError(f"folder has no scalar {sorted(unknown)}: it knows ['scale']")
    paths = listed(top)
    if not paths:
        raise FileNotFoundError(
            f"image folder {top} holds no image: put some there ({', '.join(sorted(SUFFIXES))})"
        )
    keys = [path.relative_to(top).as_posix() for path in paths]
    written = read_captions(top, captions, keys)
    order = in_split_order(keys)
    found = decoded(
        "folder",
        [paths[row] for row in order],
        lambda path: read_square(path, resolution=resolution, channels=channels),
        channels=channels,
        resolution=resolution,
        identity=fingerprint(top, paths),
        cache=cache_folder(cache),
    )
    rows = [order[place] for place in found.rows]
    names = sorted({key.split("/")[0] for key in keys if "/" in key})
    labels = [names.index(keys[r].split("/")[0]) if "/" in keys[r] else -1 for r in rows]
    return ImageData(
        name="folder",
        images=found.images,
        keys=tuple(keys[row] for row in rows),
        licence=licence,
        labels=np.array(labels, np.int64) if names else None,
        captions=None if written is None else tuple(written.get(keys[row], "") for row in rows),
        class_names=tuple(names),
        flip=flip,
        scalars={name: found.sides for name in scalars},
        skipped=found.skipped,
        digests=found.digests,
    ).with_text(text, cache_folder(cache))


def listed(top: Path) -> list[Path]:
    """Every image file below `top`, sorted; links are followed, hidden names are not listed."""
    paths: list[Path] = []
    seen: set[str] = set()
    for where, folders, files in os.walk(top, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:  # a link back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [
            Path(where) / name
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    return sorted(paths)


def read_captions(
    top: Path, given: str | Path | None, keys: Sequence[str]
) -> dict[str, str] | None:
    """Captions by key, or None where there is no file; a line that is none is an error."""
    path = top / "captions.jsonl" if given is None else Path(given).expanduser()
    if not path.is_file():
        if given is not None:
            raise FileNotFoundError(f"captions file {path} does not exist: set data.captions")
        return None
    known = set(keys)
    captions: dict[str, str] = {}
    strangers = 0
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            file, caption = entry["file"], entry["caption"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'{path}:{number} is no caption ({error}): write {{"file": ..., "caption": ...}}'
            ) from error
        if not isinstance(file, str) or not isinstance(caption, str):
            raise ValueError(f"{path}:{number}: file and caption must be strings")
        if file in known:
            captions[file] = caption
        else:
            strangers += 1
    if not captions:
        raise ValueError(f"{path} names no image of {top}: write paths relative to that folder")
    if strangers:
        log.warning("%s: %d lines name no image of the folder and are left out", path, strangers)
    return captions
