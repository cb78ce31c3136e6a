"""Prints a table of finished runs.

python -m benchmarks.tables runs --format latex --preset cost -o cost.tex
python -m benchmarks.tables runs --published method=ADM,CDM resolution=256
python -m benchmarks.tables runs --spec paper.yaml --format latex -o paper.tex
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tables import published as papers
from benchmarks.tables.choices import add_choices, require_runs, select
from benchmarks.tables.formats import APPENDICES, FORMATS
from benchmarks.tables.layout import APPENDIX, Table
from benchmarks.tables.presets import PRESETS
from benchmarks.tables.spec import Spec, arranged
from benchmarks.tables.table import tabulate
from hierdiff.config import one_line, reported
from hierdiff.files.atomic import clean_beside, write
from hierdiff.heap import uncollected
from hierdiff.results.folders import readable


@reported
@uncollected()
def main(arguments: Sequence[str] | None = None) -> None:
    """Prints or writes the table."""
    parser = argparse.ArgumentParser("benchmarks.tables", description="Tables of finished runs.")
    add_choices(parser)
    parser.add_argument("--format", choices=list(FORMATS), default="markdown")
    parser.add_argument("--preset", choices=list(PRESETS), help="columns; main or that of --spec")
    parser.add_argument(
        "--spec", type=Path, metavar="FILE",
        help="YAML that chooses columns and rows, their names and digits, caption and width",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, metavar="FILE")
    chosen = parser.parse_args(arguments)
    records, left_out = readable(*chosen.folders)
    for line in left_out:
        print(f"left out: {one_line(line)}", file=sys.stderr)
    records = select(records, chosen.where)
    require_runs(records, chosen.folders)
    others = papers.chosen_rows(chosen.published)
    spec = Spec() if chosen.spec is None else Spec.read(chosen.spec)
    table = tabulate(
        records,
        chosen.preset or spec.preset,
        others,
        left_out,
        rows=[one.row for one in spec.rows],
        columns=[one.column for one in spec.columns],
        baseline=spec.baseline,
    )
    show(arranged(table, spec), chosen.format, chosen.output)


def show(table: Table, form: str, output: Path | None) -> None:
    """Prints a table, or writes it to a file; its notes for an appendix follow, or go into a file
    of their own beside it."""
    texts = {output: FORMATS[form](table)}
    if table.notes_in == APPENDIX and form in APPENDICES:
        beside = output and output.with_stem(f"{output.stem}-appendix")
        texts[beside] = texts.get(beside, "") + ("" if beside else "\n") + APPENDICES[form](table)
    for path, text in texts.items():
        if path is None:
            sys.stdout.write(text)
        else:
            write(path, text.encode())
            clean_beside(path)


if __name__ == "__main__":
    main()
