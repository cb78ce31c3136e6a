"""ELPV: 2,624 electroluminescence photographs of solar cells, 300 px, one channel.

Deitsch et al., "Automatic classification of defective photovoltaic module cells in
electroluminescence images", Solar Energy 185 (2019). Licence CC BY-NC-SA 4.0: not for commercial
use. The source module of a cell is not given, so cells of one module stand on both sides of the
split. Read from the package elpv-dataset, a local folder, or what `hierdiff.fetch` fetched.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from hierdiff.data.cache import cache_folder, fingerprint
from hierdiff.data.image_data import ImageData, datasets
from hierdiff.data.listing import Listing, Reading, image_data
from hierdiff.data.sources import FileSource, content
from hierdiff.files.reading import read_text
from hierdiff.registry import Node

LICENCE = "CC BY-NC-SA 4.0 (images of elpv-dataset, ZAE Bayern)"
PACKAGE = "elpv-dataset==1.0.0.post1"
CRYSTALS = {"mono": "monocrystalline", "poly": "polycrystalline"}
STATES = ("intact", "possibly defective", "likely defective", "defective")  # 0, 1/3, 2/3, 1
SIDE = 300


@datasets.register("elpv")
def elpv(
    *,
    resolution: int = 64,
    root: str | Path | None = None,
    cache: str | Path | None = None,
    text: Node | None = None,
    flip: bool = True,
) -> ImageData:
    """Area means of the photographs; class = crystal x state of the cell (8), templated captions.

    root: a folder with `labels.csv` (path, defect probability, mono|poly) and the images.

    Raises:
        ValueError: for a resolution above 300.
        FileNotFoundError: where the photographs are not here.
    """
    if not 1 <= resolution <= SIDE:
        raise ValueError(
            f"elpv is {SIDE} px, resolution {resolution} is not: choose at most {SIDE}"
        )
    folder = source(root, cache_folder(cache))
    table = read_table(folder / "labels.csv")
    paths = [folder / path for path, _, _ in table]
    crystals = [crystal for *_, crystal in table]
    states = [STATES[round(3 * float(defect))] for _, defect, _ in table]
    cells = list(zip(crystals, states, strict=True))
    listing = Listing(
        name="elpv",
        sources=[FileSource(str(path)) for path in paths],
        content=content,
        keys=[path.stem for path in paths],
        identity=fingerprint(folder, [folder / "labels.csv", *paths]),
        classes=[f"{crystal} {state}" for crystal, state in cells],
        class_names=[f"{crystal} {state}" for crystal in CRYSTALS for state in STATES],
        captions=[
            f"a photograph of a {CRYSTALS[kind]} solar cell, {state}" for kind, state in cells
        ],
    )
    return image_data(
        listing,
        Reading(decoded=True, broken="skip"),
        resolution=resolution,
        channels=1,
        licence=LICENCE,
        flip=flip,
        text=text,
        cache=cache,
    )


def read_table(path: Path) -> list[tuple[str, str, str]]:
    """Path, defect probability and crystal of each photograph.

    Raises:
        ValueError: names a wrong line.
    """
    table = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        parts = line.split()
        if len(parts) == 3 and parts[1].replace(".", "", 1).isdecimal() and parts[2] in CRYSTALS:
            table.append((parts[0], parts[1], parts[2]))
        elif parts:
            raise ValueError(f"{path}:{number} is none of: path, probability, {'|'.join(CRYSTALS)}")
    return table


def source(root: str | Path | None, cache: Path) -> Path:
    """The folder with labels.csv: `root`, else the installed package, else the fetched one.

    Raises:
        FileNotFoundError: where there is none.
    """
    if root is not None:
        top = Path(os.path.expanduser(root))
        for folder in (top, top / "elpv_dataset" / "data"):
            if (folder / "labels.csv").is_file():
                return folder
        raise FileNotFoundError(
            f"{root} holds no labels.csv: give the folder of elpv-dataset with labels.csv, images/"
        )
    spec = find_spec("elpv_dataset")
    installed = Path(spec.origin).parent / "data" if spec is not None and spec.origin else None
    for candidate in (installed, package_folder(cache)):
        if candidate is not None and (candidate / "labels.csv").is_file():
            return candidate
    raise FileNotFoundError(
        f"dataset 'elpv' (90 MB) is not here: pip install {PACKAGE}, or set data.root=FOLDER with "
        f"its labels.csv and images/"
    )


def package_folder(cache: Path) -> Path:
    """The place of the fetched package in the cache."""
    return cache / "sources" / PACKAGE / "elpv_dataset" / "data"
