"""Draws the embedded clips: `python -m hierdiff.data.clips.make [FOLDER]`.

Checks that they come out as those that are meant and, given a folder, writes each there as an
animated WebP without loss, in a folder for its class, with its caption beside it.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from hierdiff.data.clips.drawing import (
    COUNT,
    FRAMES,
    NAMES,
    SHA256,
    SIDE,
    caption,
    check,
    draw,
    parts_of,
)
from hierdiff.files.atomic import write_webp

DURATION = 125  # ms of a frame: a clip takes two seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws all clips and compares their SHA-256; writes them to the folder, if one is named.

    Raises:
        SystemExit: where they differ.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER")
    folder: Path | None = parser.parse_args(arguments).folder
    clips = [draw(seed) for seed in range(COUNT)]
    try:
        check(b"".join(hashlib.sha256(clip.tobytes()).digest() for clip in clips))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{COUNT} clips of {FRAMES} frames of {SIDE} px, sha256 {SHA256}, as they are meant")
    for seed, clip in enumerate(clips if folder is not None else ()):
        parts = parts_of(seed)
        file = Path(folder or "", NAMES["motion"][parts["motion"]], f"{seed:04d}.webp")
        frames = [Image.fromarray(frame) for frame in clip.transpose(1, 2, 3, 0)]
        write_webp(file, frames, DURATION)
        file.with_suffix(".txt").write_text(caption(parts) + "\n", "utf-8")


if __name__ == "__main__":
    main()
