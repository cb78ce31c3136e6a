"""Times finished runs again, all of them interleaved: `python -m benchmarks.cost RUNS`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hierdiff.config import reported


@reported
def main(arguments: Sequence[str] | None = None) -> None:
    """Times the runs and prints the paths of their records."""
    parser = argparse.ArgumentParser(
        "benchmarks.cost",
        description="Times finished runs again, all of them interleaved, and writes the new costs "
        "into their records: what ran at different times on a busy machine is compared fairly.",
        epilog="example: python -m benchmarks.cost runs/compare --repeats 5",
    )
    parser.add_argument("folders", nargs="+", metavar="RUNS")
    parser.add_argument("--repeats", type=int, default=3, help="of each timing (3)")
    parser.add_argument("--batches", type=int, nargs="+", help="sizes to try, for those of the run")
    parser.add_argument("--memory-cap", type=float, metavar="MIB")
    parser.add_argument("--alone", action="store_true", help="parts of joint levels as well")
    parser.add_argument("--anew", action="store_true", help="also what was timed together before")
    parser.add_argument(
        "--trust",
        nargs="+",
        default=(),
        metavar="PACKAGE",
        help="packages, or paths of code, whose classes the runs may name (my_nets ./nets.py)",
    )
    chosen = parser.parse_args(arguments)
    from benchmarks.cost.again import time_again  # `--help` does without torch

    overrides = {
        "repeats": chosen.repeats,
        "batches": chosen.batches,
        "memory_cap": chosen.memory_cap,
        "alone": chosen.alone or None,
    }
    for path in time_again(chosen.folders, overrides, anew=chosen.anew, trust=chosen.trust):
        print(path)


if __name__ == "__main__":
    main()
