"""Small folders of the same form as the packages that the datasets read."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image


def write_cells(root: Path) -> Path:
    """labels.csv and 24 grey photographs; cell i is 10 i bright."""
    (root / "images").mkdir(parents=True)
    lines = []
    kinds = [("0.0", "mono"), ("0.3333333333333333", "poly"), ("1.0", "poly")]
    for number in range(24):
        chance, crystal = kinds[number % 3]
        Image.new("L", (300, 300), 10 * number).save(root / "images" / f"cell{number}.png")
        lines.append(f"images/cell{number}.png  {chance}  {crystal}\n")
    (root / "labels.csv").write_text("".join(lines))
    return root


def write_emoji(root: Path) -> Path:
    """Two packages side by side: 20 waving hands with a skin tone each, a heart, a face, a keycap.

    All are transparent blue but the face, which is opaque and not square.
    """
    assets = root / "fluent-emoji-3d" / "assets"
    labels = root / "emojibase-data"
    for folder in (assets, labels / "en", labels / "meta"):
        folder.mkdir(parents=True)
    entries = []
    for number in range(20):
        base = f"1f4{number:02d}"
        tone = {"hexcode": f"{base.upper()}-1F3FB", "label": f"waving hand {number}: light"}
        wave = {"hexcode": base.upper(), "label": f"waving hand {number}", "group": 1}
        entries.append(wave | {"skins": [tone]})
        for code in (base, f"{base}-1f3fb"):
            _blue(assets / f"{code}.webp", 256, alpha=0)
    _blue(assets / "2764-fe0f.webp", 256, alpha=0)
    _blue(assets / "30-fe0f-20e3.webp", 256, alpha=0)
    _blue(assets / "1f600.webp", 264, alpha=255)
    entries += [
        {"hexcode": "2764", "label": "red heart", "group": 0},
        {"hexcode": "1F600", "label": "grinning face", "group": 0},
        {"hexcode": "1F1E6", "label": "regional indicator A"},
    ]
    (labels / "en" / "data.json").write_text(json.dumps(entries))
    names = {"groups": {"0": "smileys-emotion", "1": "people-body"}}
    (labels / "meta" / "groups.json").write_text(json.dumps(names))
    return root


def write_folder(root: Path) -> Path:
    """24 images in the sub-folders a and b."""
    for number in range(24):
        place = root / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        colour = (number, 2 * number, 3 * number)
        Image.new("RGB", (16, 12), colour).save(place / f"{number}.png")
    return root


def _blue(path: Path, height: int, alpha: int) -> None:
    Image.new("RGBA", (256, height), (0, 0, 255, alpha)).save(path, lossless=True)
