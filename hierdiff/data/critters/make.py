"""Draws the embedded `critters` again: `python -m hierdiff.data.critters.make [FOLDER]`.

Checks that they come out as those that ship and, given a folder, writes them there.

2,048 vector creatures, seeds 0..2047 of DiceBear's style "Critters" (CC0 1.0), rendered at 64 px.
The pixels that ship are the data; this file says where they came from and proves that they can be
had again. It needs three packages, pinned because any of them may move a pixel:

    pip install dicebear-core==10.7.0 dicebear-styles==10.6.0 resvg-py==0.5.0
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hierdiff.data.critters import COUNT, SHA256, SIDE

PINS = {"dicebear-core": "10.7.0", "dicebear-styles": "10.6.0", "resvg-py": "0.5.0"}

BODY_COLOURS = {
    "#7dd3fc": "sky blue",
    "#a5b4fc": "periwinkle",
    "#c4b5fd": "lavender",
    "#f0abfc": "orchid",
    "#fda4af": "pink",
    "#fca5a5": "salmon",
    "#fdba74": "apricot",
    "#fcd34d": "yellow",
    "#bef264": "lime",
    "#6ee7b9": "mint",
    "#5eead4": "turquoise",
    "#e2e8f0": "silver",
}
BACKGROUNDS = {
    "#0369a1": "ocean blue",
    "#1d4ed8": "royal blue",
    "#4338ca": "indigo",
    "#6d28d9": "violet",
    "#a21caf": "magenta",
    "#be185d": "raspberry",
    "#be123c": "crimson",
    "#c2410c": "rust",
    "#b45309": "ochre",
    "#047857": "green",
    "#0f766e": "teal",
    "#1e293b": "midnight",
}
COLOURS = {"body_colour": BODY_COLOURS, "accent_colour": BODY_COLOURS, "background": BACKGROUNDS}
OPTIONS = {  # our word: DiceBear's option; a part that is absent has no option
    "body": "bodyVariant",
    "body_colour": "bodyColor",
    "eyes": "eyesVariant",
    "mouth": "mouthVariant",
    "top": "topVariant",
    "accent_colour": "accentColor",
    "pattern": "patternVariant",
    "cheeks": "cheeksVariant",
    "background": "backgroundColor",
}


def names_of(definition: dict[str, Any]) -> dict[str, list[str]]:
    """The values of every attribute by code; code 0 of a part that may be absent is "none"."""
    names: dict[str, list[str]] = {}
    for attribute, option in OPTIONS.items():
        if attribute in COLOURS:
            values = list(COLOURS[attribute].values())
        else:
            values = list(definition["components"][option.removesuffix("Variant")]["variants"])
        optional = attribute in ("top", "pattern", "cheeks", "accent_colour")
        names[attribute] = ["none", *values] if optional else values
    return names


def attribute_of(options: dict[str, Any], attribute: str) -> str:
    """The value of an attribute in the options of a drawn avatar, "none" where it is absent."""
    value = options.get(OPTIONS[attribute], "none")
    if isinstance(value, list):
        value = value[0] if value else "none"
    return COLOURS.get(attribute, {}).get(value, value)


def draw(
    seeds: Sequence[int] = range(COUNT),
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, list[str]]]:
    """One creature for each seed: pixels uint8 (n h w c, which packs a third better than n c h w),
    codes uint8 (n,) by attribute, and the names of the codes."""
    check_pins()
    import resvg_py
    from dicebear import Avatar, Style

    definition = json.loads((files("dicebear_styles") / "critters.json").read_text("utf-8"))
    style = Style(definition)
    names = names_of(definition)
    pixels = np.empty((len(seeds), SIDE, SIDE, 3), np.uint8)
    codes = {attribute: np.empty(len(seeds), np.uint8) for attribute in names}
    for row, seed in enumerate(seeds):
        avatar = Avatar(style, {"seed": str(seed), "size": SIDE})
        png = resvg_py.svg_to_bytes(
            svg_string=avatar.to_string(), width=SIDE, height=SIDE, skip_system_fonts=True
        )
        image = Image.open(io.BytesIO(bytes(png))).convert("RGB")
        pixels[row] = np.asarray(image)
        options = avatar.to_json()["options"]
        for attribute, known in names.items():
            codes[attribute][row] = known.index(attribute_of(options, attribute))
    codes["accent_colour"][codes["top"] == 0] = 0  # the accent shows on the top alone
    return pixels, codes, names


def check_pins() -> None:
    """Checks the versions of the packages that draw.

    Raises:
        SystemExit: names the versions to install.
    """
    for package, pinned in PINS.items():
        try:
            installed = version(package)
        except PackageNotFoundError:
            installed = "absent"
        if installed != pinned:
            raise SystemExit(
                f"{package} is {installed}, the data was made with {pinned}: pip install "
                + " ".join(f"{name}=={pin}" for name, pin in PINS.items())
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws all images again and compares their SHA-256; writes them to a folder that is named.

    Raises:
        SystemExit: where they differ.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER")
    folder: Path | None = parser.parse_args(arguments).folder
    pixels, codes, names = draw()
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"pixels have sha256 {digest}, those that ship {SHA256}: nothing written")
    print(f"{COUNT} images of {SIDE} px, sha256 {digest}, as those that ship")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(folder / "critters.npz", allow_pickle=False, pixels=pixels, **codes)
        (folder / "names.json").write_text(json.dumps(names, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
