"""Draws the embedded clips: creatures that blink, walk, turn and hop, in plain arithmetic.

A clip is a function of its seed alone. What it shows is drawn from the SHA-256 of the seed, and
places are rounded to 1/256 px before pixels are covered by adding, multiplying and square roots,
which every machine rounds alike: all machines draw the same bytes, and none need be stored.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

COUNT, FRAMES, SIDE = 1024, 16, 32
SHA256 = "1320af0f2406c27325ed87d01aad4f6c2c10dca163afe9f708d042849e5e1b98"  # see `check`

BODIES = {  # half width, half height and radius of the corners in px
    "round": (8.0, 8.0, 8.0),
    "square": (7.5, 7.5, 2.5),
    "tall": (5.5, 9.5, 5.5),
    "wide": (10.0, 6.5, 4.0),
}
BODY_COLOURS = {
    "sky blue": (125, 211, 252),
    "lavender": (196, 181, 253),
    "pink": (253, 164, 175),
    "apricot": (253, 186, 116),
    "yellow": (252, 211, 77),
    "lime": (190, 242, 100),
    "mint": (110, 231, 185),
    "silver": (226, 232, 240),
}
BACKGROUNDS = {
    "ocean blue": (3, 105, 161),
    "indigo": (67, 56, 202),
    "violet": (109, 40, 217),
    "raspberry": (190, 24, 93),
    "rust": (194, 65, 12),
    "green": (4, 120, 87),
    "teal": (15, 118, 110),
    "midnight": (30, 41, 59),
}
EYES = {"one eye": (0.0,), "two eyes": (-0.42, 0.42), "three eyes": (-0.7, 0.0, 0.7)}  # angles
MOTIONS = ("blinks", "walks right", "walks left", "turns right", "turns left", "hops")
NAMES: dict[str, tuple[str, ...]] = {
    "motion": MOTIONS,
    "body": tuple(BODIES),
    "body_colour": tuple(BODY_COLOURS),
    "eyes": tuple(EYES),
    "background": tuple(BACKGROUNDS),
}
INK = np.array((31, 41, 55), np.float32)[:, None, None, None]
WHITE = np.full((3, 1, 1, 1), 255, np.float32)
SHADE = 0.12  # how much darker the right side of a body is: light falls from the left
EDGE = 0.2  # cosine of the angle beyond which a face is not seen
_Y, _X = np.mgrid[0:SIDE, 0:SIDE] + 0.5
Values = Any  # arrays of all frames at once, in shapes that broadcast to c f h w, or one float


def check(digests: bytes) -> None:
    """Refuses clips of other bytes than those that are meant, which a machine that rounds otherwise
    would draw.

    digests: SHA-256 of the pixels of each clip (c f h w), in the order of the seeds.

    Raises:
        ValueError: where their SHA-256 is not `SHA256`.
    """
    digest = hashlib.sha256(digests).hexdigest()
    if digest != SHA256:
        raise ValueError(
            f"clips were drawn with sha256 {digest}, those that are meant have {SHA256}: draw them "
            f"on another machine by python -m hierdiff.data.clips.make FOLDER, and take data=folder"
        )


def parts_of(seed: int) -> dict[str, int]:
    """The codes of what the clip of a seed shows: uniform and independent, by attribute."""
    digest = hashlib.sha256(f"clip {seed}".encode()).digest()
    words = [int.from_bytes(digest[4 * i : 4 * i + 4], "big") for i in range(8)]
    return {name: words[i] % len(NAMES[name]) for i, name in enumerate(NAMES)} | {
        "phase": words[6] % FRAMES,
        "place": words[7] % 9 - 4,
    }


def caption(parts: Mapping[str, int]) -> str:
    """For example "a mint round creature with two eyes that walks left, on rust"."""
    words = {name: NAMES[name][parts[name]] for name in NAMES}
    article = "an" if words["body_colour"][0] in "aeiou" else "a"
    return (
        f"{article} {words['body_colour']} {words['body']} creature with {words['eyes']} that "
        f"{words['motion']}, on {words['background']}"
    )


def draw(seed: int) -> UInt8[np.ndarray, "3 16 32 32"]:
    """The clip of a seed: c f h w."""
    parts = parts_of(seed)
    poses = np.array([_pose(parts, frame) for frame in range(FRAMES)])
    x, lift, turn, shut, stride = poses.T[..., None, None]  # each f 1 1
    half, tall, corner = BODIES[NAMES["body"][parts["body"]]]
    y = 26.0 - tall - lift
    clip = np.ones((3, FRAMES, SIDE, SIDE), np.float32) * _colour(BACKGROUNDS, parts["background"])
    clip = _over(clip, INK, 0.3 * _ellipse(x, 28.0, half * (0.8 - 0.04 * lift), 1.2))  # its shadow
    for side in (-1.0, 1.0):
        step = np.maximum(0.0, side * stride)
        foot = _ellipse(x + side * 0.45 * half + stride, 27.0 - lift / 2 - step, 2.2, 1.4)
        clip = _over(clip, INK, foot)
    fur = _colour(BODY_COLOURS, parts["body_colour"])
    fur = fur * (1 - SHADE * (1 + (_X - x) / half) / 2).astype(np.float32)
    clip = _over(clip, fur, _box(x, y, half, tall, corner))
    for own in EYES[NAMES["eyes"][parts["eyes"]]]:
        sine, facing, seen = _turned(turn + own)
        at, open_ = (x + (half - 1.5) * sine, y - 0.25 * tall), np.where(shut < 1, 1 - shut, 1)
        white = _ellipse(*at, 2.3 * facing, 2.6 * open_) * (shut < 1)
        pupil = _ellipse(*at, 1.2 * facing, 1.4 * open_) * (shut < 1)
        lid = _ellipse(*at, 2.3 * facing, 0.5) * (shut == 1)
        clip = _over(_over(clip, WHITE, seen * white), INK, seen * (pupil + lid))
    sine, facing, seen = _turned(turn)
    mouth = _ellipse(x + (half - 1.5) * sine, y + 0.4 * tall, 2.2 * facing, 0.9)
    return np.rint(_over(clip, INK, seen * mouth)).astype(np.uint8)


def _pose(parts: Mapping[str, int], frame: int) -> tuple[float, float, float, float, float]:
    """Of a frame: place and height over the ground in px, angle of the face, how far its eyes are
    shut (0 to 1), and how far the right foot is ahead."""
    motion = MOTIONS[parts["motion"]]
    beat = (frame + parts["phase"]) % FRAMES  # motions that repeat do so within a clip
    x = 16.0 + parts["place"]
    if motion == "blinks":
        return x, 0.0, 0.0, (0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0, 0.0)[beat % 8], 0.0
    if motion == "hops":
        return x, (0.0, 2.5, 4.0, 4.5, 4.0, 2.5, 0.0, 0.0)[beat % 8], 0.0, 0.0, 0.0
    way = 1.0 if motion.endswith("right") else -1.0
    if motion.startswith("turns"):
        return x, 0.0, way * math.tau * beat / FRAMES, 0.0, 0.0
    stride = math.sin(math.tau * beat / 8)
    return 16.0 + way * (frame - 7.5) * 0.6, abs(stride), 0.5 * way, 0.0, stride


def _turned(angle: Values) -> tuple[Values, Values, Values]:
    """Of what is at an angle on a cylinder: its place over the radius, how narrow it looks, and
    whether it is seen."""
    facing = np.cos(angle)
    seen = (facing > EDGE).astype(np.float32)
    return np.sin(angle), np.where(facing > EDGE, facing, 1.0), seen


def _colour(palette: Mapping[str, tuple[int, int, int]], code: int) -> Values:
    return np.array(tuple(palette.values())[code], np.float32)[:, None, None, None]


def _over(clip: Values, colour: Values, cover: Values) -> Values:
    """`colour` over the clip where it is covered, 0 to 1."""
    return clip + cover * (colour - clip)


def _grid(value: Values) -> Values:
    return np.rint(np.asarray(value) * 256) / 256


def _share(inside: Values) -> Values:
    """Within 0 and 1, in single precision, which is as exact as pixels need and half as slow."""
    return np.minimum(np.maximum(inside.astype(np.float32), 0), 1)


def _ellipse(x: Values, y: Values, a: Values, b: Values) -> Values:
    """Share of each pixel, f h w, that an ellipse with the half axes a, b covers, nearly."""
    x, y, a, b = map(_grid, (x, y, a, b))
    u, v = (_X - x) / a, (_Y - y) / b
    return _share(0.5 - (np.sqrt(u * u + v * v) - 1) * np.minimum(a, b))


def _box(x: Values, y: Values, a: float, b: float, corner: float) -> Values:
    """The same of a box with the half sides a, b and round corners."""
    u, v = np.abs(_X - _grid(x)) - (a - corner), np.abs(_Y - _grid(y)) - (b - corner)
    over_u, over_v = np.maximum(u, 0), np.maximum(v, 0)
    outside = np.sqrt(over_u * over_u + over_v * over_v)
    return _share(0.5 - (outside + np.minimum(np.maximum(u, v), 0) - corner))
