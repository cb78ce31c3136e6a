"""Entry point of sampling: `python -m hierdiff.sample checkpoint=runs/NAME/weights.safetensors`.

Writes `OUT/sheet.png`, the levels side by side, and `OUT/SIDE/0000.png` ... at every resolution.
Image i depends on the seed and i alone, not on how many are made or how many at once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from hierdiff.batch import Cond
from hierdiff.command import command, plain
from hierdiff.data import conditions
from hierdiff.files import write_png
from hierdiff.guidance import is_off
from hierdiff.images import sheet, to_pil, to_uint8
from hierdiff.method import Method
from hierdiff.noise import per_example, seed_of
from hierdiff.text import encoders
from hierdiff.training import load_method

log = logging.getLogger(__name__)
T = TypeVar("T")
DEFAULT = 16  # images
SHEET = 64  # images on the sheet at most


def asked(cfg: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[int, Cond]:
    """How many images and under which conditions; config: of the model. Errors before compute."""
    labels, captions = cfg["labels"], cfg["captions"]
    lists = [one for one in (labels, captions) if one is not None]
    if any(not isinstance(one, (list, tuple)) or not one for one in lists):
        raise ValueError("labels and captions are lists: labels=[0,1], captions=['a red owl']")
    n = cfg["n"] if cfg["n"] is not None else max(map(len, lists), default=DEFAULT)
    if n < 1 or any(len(one) > n for one in lists):
        raise ValueError(
            f"n={n} with {max(map(len, lists), default=0)} labels or captions: leave n out, "
            f"or ask for at least one image and one for each"
        )
    names = config.get("class_names") or ()
    if labels is not None and not names:
        raise ValueError("labels were given to a model without classes: leave them out")
    node = config.get("text")
    if captions is not None and node is None:
        knows = f"classes {', '.join(names)}: use labels" if names else "no conditions: leave them"
        raise ValueError(f"captions need a model that was trained on text; this one knows {knows}")
    guided = cfg["guidance"] is not None and not is_off(cfg["guidance"])
    if guided and not names and node is None:
        raise ValueError(
            f"guidance={cfg['guidance']} needs a model with classes or text: leave it out"
        )
    cond = conditions(
        None if labels is None else repeated(labels, n),
        None if captions is None else repeated(captions, n),
        class_names=names,
        text=None if captions is None or node is None else encoders.build(node),
    )
    return n, cond


def repeated(values: Sequence[T], n: int) -> list[T]:
    return [values[i % len(values)] for i in range(n)]


def sample(
    method: Method, n: int, cond: Cond, out: Path, cfg: Mapping[str, Any], device: torch.device
) -> Path:
    """n images into `out`, in batches; the path of the sheet."""
    method = method.to(device)
    shown: dict[int, list[torch.Tensor]] = {}
    for start in range(0, n, cfg["batch_size"]):
        rows = range(start, min(n, start + cfg["batch_size"]))
        part = cond.map(lambda values, rows=rows: values[rows.start : rows.stop])  # type: ignore[misc]
        noise = per_example([seed_of(cfg["seed"], "sample", i) for i in rows], device)
        images = method.sample(
            len(rows), part, noise=noise, steps=cfg["steps"], guidance=cfg["guidance"]
        )
        for side, batch in images.items():
            pixels = to_uint8(batch).cpu()
            shown.setdefault(side, []).append(pixels[: max(0, SHEET - start)])
            for i, image in zip(rows, pixels, strict=True):
                write_png(out / str(side) / f"{i:04d}.png", to_pil(image))
        log.info("%d of %d images", rows.stop, n)
    path = out / "sheet.png"
    write_png(path, sheet([torch.cat(shown[side]) for side in sorted(shown, reverse=True)]))
    return path


@command("sample")
def main(cfg: Any) -> None:
    options = plain(cfg)
    if options["batch_size"] < 1:
        raise ValueError(f"batch_size={options['batch_size']}: take 1 or more")
    method, config = load_method(options["checkpoint"], options["trust"])
    n, cond = asked(options, config)
    device = options["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={device}: {str(error).splitlines()[0]}") from error
    path = sample(method, n, cond, Path(options["out"]), options, place)
    log.info("sheet %s, single images in %s/RESOLUTION", path, path.parent)


if __name__ == "__main__":
    main()
