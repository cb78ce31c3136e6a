"""Variations of images, and images between two, by embeddings (arXiv 2204.06125, section 3)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from baselines.unclip.method import EmbeddingPrior
from hierdiff.batch import Cond
from hierdiff.data import conditions
from hierdiff.data.pixels import read_square
from hierdiff.files.atomic import write_png
from hierdiff.guidance import Scale
from hierdiff.images import sheet, to_float, to_uint8
from hierdiff.levels import Levels
from hierdiff.methods import Generator, Images, Method, Request
from hierdiff.noise import per_example, seed_of
from hierdiff.options import Count, Length, check
from hierdiff.text import encoders
from hierdiff.training import load_method

log = logging.getLogger(__name__)
OPTIONS: dict[str, tuple[Any, Any]] = {  # what each may be, and an example
    "checkpoint": (str | Path, None),
    "images": (Annotated[Sequence[str], Length(1, more=True)], ["a.png"]),
    "n": (Count, 8),
    "between": (bool, False),
    "steps": (Count | None, 25),
    "guidance": (Scale | None, 2.0),
    "captions": (Annotated[Sequence[str], Length(1, more=True)] | None, ["a red owl"]),
    "seed": (int, 0),
    "out": (str | Path, None),
    "device": (str | None, None),
    "trust": (Sequence[str], ["my_package"]),
}


def prior_of(method: Method) -> EmbeddingPrior:
    """The first stage.

    Raises:
        ValueError: where it makes no embedding.
    """
    first = method.stages[0]
    if not isinstance(first, EmbeddingPrior):
        raise ValueError(
            f"variations need a model with an image embedding, and its first stage is "
            f"{first.name}: take a run of method=unclip"
        )
    return first


def decoded(method: Method, embedding: Float[Tensor, "n d"], request: Request) -> Images:
    """Images of the method's finest resolution from clean embeddings, through all later stages."""
    x: Levels = (embedding,)
    images: Images = {}
    for stage in method.at(method.resolutions[0]).chain[1:]:
        images = stage.follow(request, x)
        x = tuple(images[name] for name in stage.resolutions)
    return images


def between(first: Float[Tensor, " d"], last: Float[Tensor, " d"], n: int) -> Float[Tensor, "n d"]:
    """The n embeddings from the first to the last, both included, along the arc between them.

    Their norms change evenly (spherical interpolation, section 3.2).
    """
    a, b = first / first.norm(), last / last.norm()
    angle = torch.arccos((a @ b).clamp(-1, 1))
    w = torch.linspace(0, 1, n, device=first.device, dtype=first.dtype)[:, None]
    if float(angle) < 1e-4:
        return first + w * (last - first)
    arc = (torch.sin((1 - w) * angle) * a + torch.sin(w * angle) * b) / torch.sin(angle)
    return arc * ((1 - w) * first.norm() + w * last.norm())


def read(paths: Sequence[str], stage: Generator) -> Float[Tensor, "n c h w"]:
    """Images of the stage's resolution, in [-1, 1], cut to squares in their middle."""
    channels, side, _ = stage.shapes()[0]
    pixels = [read_square(Path(path), resolution=side, channels=channels)[0] for path in paths]
    return to_float(torch.from_numpy(np.stack(pixels)))


def make(options: Mapping[str, Any]) -> None:
    """What the command does with its options.

    Raises:
        FileNotFoundError: for an image that is not there.
        ValueError: for options that do not fit, before compute.
    """
    for name, (kind, example) in OPTIONS.items():
        check(options[name], kind, name, example)
    paths, n = options["images"], options["n"]
    if options["between"] and (len(paths) < 2 or n < 2):
        raise ValueError("between=true needs two images or more, and n=2 or more: give them")
    method, config = load_method(options["checkpoint"], options["trust"])
    prior = prior_of(method)
    node, captions = config.get("text"), options["captions"]
    if captions is not None and (node is None or len(captions) not in (1, len(paths))):
        raise ValueError(
            f"{len(captions)} captions for {len(paths)} images: give one, or one for each, to a "
            f"model that was trained on text; or leave them out"
        )
    device = torch.device(options["device"] or ("cuda" if torch.cuda.is_available() else "cpu"))
    finest = method.to(device).at(method.resolutions[0])
    images = read(paths, finest).to(device)
    (embeddings,) = prior.encode(images)
    rows = []
    count = len(paths) - (1 if options["between"] else 0)
    for i in range(count):
        seeds = [seed_of(options["seed"], "vary", 0 if options["between"] else k) for k in range(n)]
        z = embeddings[i].expand(n, -1)
        if options["between"]:
            z = between(embeddings[i], embeddings[i + 1], n)
        cond = Cond()
        if captions is not None and node is not None:
            caption = captions[i % len(captions)]
            cond = conditions(
                None,
                [caption] * n,
                class_names=config.get("class_names") or (),
                text=encoders.build(node),
            )
        request = Request(
            n,
            cond,
            noise=per_example(seeds, device),
            steps=options["steps"],
            guidance=options["guidance"],
        )
        made = decoded(method, z, request)[finest.resolutions[0]]
        ends = [images[i : i + 1], made]
        ends += [images[i + 1 : i + 2]] if options["between"] else []
        rows.append(to_uint8(torch.cat(ends)).cpu())
        log.info("%d of %d rows", i + 1, count)
    path = Path(options["out"]) / "sheet.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, sheet([torch.cat(rows)], columns=rows[0].shape[0]))
    log.info("sheet %s: a row for each image, itself first", path)
