"""Entry point that measures a loader alone: how fast images come, without training.

It reads the batches of a training run as one process of it would, and prints images/s for each
number of workers, beside what steps of a given speed need.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hierdiff.command import command, plain_config
from hierdiff.options import Count, Natural, Positive, check

log = logging.getLogger(__name__)
WARM = 2  # batches that are not timed: workers start with the first

ABOUT = """Measures how fast images are read, without training.

    python -m hierdiff.loader data=webdataset data.root=SHARDS

    batch_size=64             images in a batch
    batches=20                number of timed batches
    workers=[0,4,8]           numbers of decoding processes; null: that of data.reading
    need=485                  images/s that training consumes, to compare with
"""


def images_per_second(data: Any, batch_size: int, batches: int) -> float:
    """Speed of reading batches of `ImageData` in training order, as a step of one process gets
    them."""
    import torch

    from hierdiff.data.order import indices

    began = 0.0
    for step in range(WARM + batches):
        if step == WARM:
            began = time.perf_counter()
        rows = indices(step, n=len(data), batch=batch_size, seed=0)
        data.batch(rows, crop=torch.rand(batch_size, 3) if data.crops else None)
    return batches * batch_size / (time.perf_counter() - began)


@command("loader", ABOUT)
def main(cfg: Any) -> None:
    """The command: prints a line for each number of workers."""
    from hierdiff.data import datasets  # here, so that `--help` does without torch
    from hierdiff.data.encoded import EncodedImages

    options = plain_config(cfg)
    check(options["batch_size"], Count, "batch_size", 64)
    check(options["batches"], Count, "batches", 20)
    check(options["workers"], Sequence[Natural] | None, "workers", [0, 4])
    check(options["need"], Positive | None, "need")
    data = datasets.build(options["data"], at="data").part("train")
    log.info(data.summary())
    sizes, need = (options["batch_size"], options["batches"]), options["need"]
    if not isinstance(data.images, EncodedImages):
        print(line("decoded beforehand", images_per_second(data, *sizes), need))
        return
    images = data.images
    counts = [images.workers] if options["workers"] is None else options["workers"]
    for count in counts:
        some = replace(data, images=images.with_workers(count))
        print(line(f"{count} workers", images_per_second(some, *sizes), need))


def line(what: str, speed: float, need: float | None) -> str:
    """A speed in images/s, and how it compares with what is needed."""
    beside = "" if need is None else f", {speed / need:.2f} of the {need:g} images/s needed"
    return f"{what}: {speed:.0f} images/s{beside}"


if __name__ == "__main__":
    main()
