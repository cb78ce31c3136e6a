"""How time, memory and operations of an image grow with its side, for all methods, untrained.

    python -m benchmarks.scaling method=mdm,cascaded resolutions=[32,64,128,256]

Without `method=` all of `hierdiff/configs/method` are taken (`python -m hierdiff.list methods` says
what they are); other words are options of a run, the same for every method. At one resolution all
methods are timed in turn, each in a process of its own. Rows are stored in the folder
(`folder=runs/scaling`), and the same command resumes after them. A method that fails or runs out of
memory at a resolution has the reason in its row. An exponent p is that of a power law in the side,
value ~ side^p, fitted by least squares in logarithms: 2 is proportional to the pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hierdiff.config import reported


@reported
def main(words: Sequence[str] | None = None) -> None:
    """The command."""
    words = sys.argv[1:] if words is None else words
    if {"--help", "-h"} & set(words):
        print(__doc__)
        return
    from benchmarks.sides import scale  # here, so that `--help` does without torch

    scale(words)


if __name__ == "__main__":
    main()
