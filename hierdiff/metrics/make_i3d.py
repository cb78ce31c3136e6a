"""Makes the weights of the extractor `i3d`: `python -m hierdiff.metrics.make_i3d FILE`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0, or 1 for an error."""
    parser = argparse.ArgumentParser(
        prog="python -m hierdiff.metrics.make_i3d",
        description="Converts the public PyTorch file of I3D, the network of FVD, to weights in "
        "the cache folder. Only tensors are read from it.",
    )
    parser.add_argument("file", type=Path, metavar="rgb_imagenet.pt")
    chosen = parser.parse_args(arguments)
    # here, so that `--help` does without torch
    from hierdiff.metrics.extractors.i3d import make_weights
    from hierdiff.metrics.weights import made

    return made(lambda: make_weights(chosen.file))


if __name__ == "__main__":
    sys.exit(main())
