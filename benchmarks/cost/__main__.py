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
        description="Times finished runs again, interleaved, and writes the new costs into their "
        "records, so that runs made at different times on a busy machine compare fairly.",
        epilog="example: python -m benchmarks.cost runs/compare --repeats 5",
    )
    parser.add_argument("folders", nargs="+", metavar="RUNS")
    parser.add_argument("--repeats", type=int, default=3, help="of each timing (default 3)")
    parser.add_argument("--batches", type=int, nargs="+", help="to try, instead of the run's")
    parser.add_argument("--memory-cap", type=float, metavar="MIB")
    parser.add_argument("--alone", action="store_true", help="inner networks of joint levels too")
    parser.add_argument("--anew", action="store_true", help="time again what an earlier call timed")
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
