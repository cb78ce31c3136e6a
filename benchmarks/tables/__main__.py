"""Prints a table of finished runs.

python -m benchmarks.tables runs --format latex --preset cost -o cost.tex
python -m benchmarks.tables runs --published method=ADM,CDM resolution=256
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tables import published as papers
from benchmarks.tables.choices import add_choices, require_runs, select
from benchmarks.tables.formats import FORMATS
from benchmarks.tables.presets import PRESETS
from benchmarks.tables.table import tabulate
from hierdiff.config import one_line, reported
from hierdiff.files.atomic import clean_beside, write
from hierdiff.results.folders import readable


@reported
def main(arguments: Sequence[str] | None = None) -> None:
    """Prints or writes the table."""
    parser = argparse.ArgumentParser("benchmarks.tables", description="Tables of finished runs.")
    add_choices(parser)
    parser.add_argument("--format", choices=list(FORMATS), default="markdown")
    parser.add_argument("--preset", choices=list(PRESETS), default="main")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE")
    chosen = parser.parse_args(arguments)
    records, left_out = readable(*chosen.folders)
    for line in left_out:
        print(f"left out: {one_line(line)}", file=sys.stderr)
    records = select(records, chosen.where)
    require_runs(records, chosen.folders)
    others = papers.chosen_rows(chosen.published)
    printed = FORMATS[chosen.format](tabulate(records, chosen.preset, others, left_out))
    if chosen.output is None:
        sys.stdout.write(printed)
    else:
        write(chosen.output, printed.encode())
        clean_beside(chosen.output)


if __name__ == "__main__":
    main()
