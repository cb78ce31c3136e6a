"""How a table is printed: a file of YAML that chooses, names and orders what it shows.

    preset: main
    columns:
      - 32 px FD-EffLite0
      - {column: spent PFLOPs, name: training PFLOPs, digits: 2}
    rows: [mdm, {row: end_to_end, name: end-to-end}]
    baseline: end_to_end
    caption: Matryoshka diffusion and its end-to-end twin.
    label: tab:pair
    notes: footnote

A column is chosen by its group and heading without the arrow, a row by its name; `*` stands for
anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from benchmarks.tables.best import places
from benchmarks.tables.layout import LINE, Column, Table
from benchmarks.tables.select import matching
from hierdiff.config import from_yaml
from hierdiff.options import Natural, Positive, check_fields
from hierdiff.registry import check_node

LABEL = re.compile(r"[A-Za-z0-9:._/-]+")
EXAMPLE = "examples/table.yaml"
T = TypeVar("T")


@dataclass(frozen=True)
class ShownColumn:
    """A column that is shown. name, group: in place of its heading and of its group's. digits:
    behind the point, None for as many as are significant."""

    column: str
    name: str | None = None
    group: str | None = None
    digits: Natural | None = None

    def __post_init__(self) -> None:
        check_fields(self, "columns")


@dataclass(frozen=True)
class ShownRow:
    """A row that is shown. name: in place of its own."""

    row: str
    name: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "rows")


@dataclass(frozen=True)
class Spec:
    """What a table shows and how.

    preset: one of `PRESETS`, whose columns there are to choose from. columns, rows: those that are
    shown, in this order; all where there are none. The columns of one group stand together, and
    methods stand before the scale and the scale before published numbers, whatever the order.
    baseline: the row from which the others' differences are shown. caption: in place of the
    conditions, which then stand in the notes. label: of LaTeX and of a footnote. transpose: a line
    for each column. width: of a line on paper in points, 345 in LaTeX's article class, about 240 in
    one of two columns. notes: where the notes stand, with the provenance of the numbers.

    Raises:
        ValueError: for a label with other signs than letters, digits and `:._/-`.
    """

    preset: str = "main"
    columns: Sequence[ShownColumn] = ()
    rows: Sequence[ShownRow] = ()
    baseline: str | None = None
    caption: str | None = None
    label: str = ""
    transpose: bool = False
    width: Positive = LINE
    notes: Literal["beneath", "footnote", "appendix"] = "beneath"

    def __post_init__(self) -> None:
        check_fields(self, "spec")
        if self.label and not LABEL.fullmatch(self.label):
            raise ValueError(
                f"label {self.label!r} is no label of LaTeX: write letters, digits and :._/- alone"
            )

    @classmethod
    def read(cls, path: Path) -> Spec:
        """Reads a file of YAML.

        Raises:
            FileNotFoundError: where there is no file.
            ValueError: for an unknown option or a wrong value, with the file.
        """
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: give a file such as {EXAMPLE}")
        node = from_yaml(path)
        try:
            columns = [_entry(ShownColumn, "column", one) for one in _list(node, "columns")]
            rows = [_entry(ShownRow, "row", one) for one in _list(node, "rows")]
            check_node(cls, {**node, "columns": columns, "rows": rows}, "a table")
            return cls(**{**node, "columns": columns, "rows": rows})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _list(node: Mapping[str, Any], name: str) -> Sequence[Any]:
    entries = node.get(name) or []
    if not isinstance(entries, list):
        raise ValueError(f"{name}={entries!r}: {name} takes a list")
    return entries


def _entry(kind: type[T], name: str, value: Any) -> T:
    node = value if isinstance(value, Mapping) else {name: value}
    if name not in node:
        raise ValueError(f"{name}s: {dict(node)!r} does not say which {name}: add {name}: NAME")
    check_node(kind, node, f"a {name}", f"{name}s")
    return kind(**node)


def arranged(table: Table, spec: Spec) -> Table:
    """The table with the columns, names and digits of a spec, and its caption.

    Raises:
        ValueError: where two rows or two columns would have one name.
    """
    columns = _columns(table, spec.columns)
    names = _names(table, spec.rows)
    if len(set(names.values())) < len(names):
        raise ValueError(f"two rows would have one name: {', '.join(names.values())}")

    def of_rows(values: Mapping[str, T]) -> dict[str, T]:
        return {names[row]: value for row, value in values.items() if row in names}

    def of_columns(parts: Mapping[Column, Mapping[str, T]]) -> dict[Column, dict[str, T]]:
        return {new: of_rows(parts[old]) for old, new in columns.items() if old in parts}

    caption = table.caption if spec.caption is None else spec.caption
    shown = replace(
        table,
        rows=[names[row] for row in table.rows],
        cells=of_columns(table.cells),
        spread=of_columns(table.spread),
        noise=of_columns(table.noise),
        words=of_columns(table.words),
        places=of_columns(table.places),
        p_values=of_columns(table.p_values),
        scale=[names[row] for row in table.scale],
        published=of_rows(table.published),
        caption=caption,
        notes=[
            *([] if spec.caption is None else [table.caption]),
            *table.notes,
            *_shown_as(columns, names),
        ],
        label=spec.label,
        transposed=spec.transpose,
        width=spec.width,
        notes_in=spec.notes,
    )
    # with other digits, other numbers are equal as printed
    again = {c: p for c, p in places(shown).items() if c.digits is not None and c in shown.places}
    coarse = {c for c in shown.places if c.digits is not None}
    kept = {c: p for c, p in shown.places.items() if c not in coarse}
    return replace(shown, places={**kept, **again})


def _columns(table: Table, shown: Sequence[ShownColumn]) -> dict[Column, Column]:
    if not shown:
        return {column: column for column in table.columns}
    by_key = {column.key: column for column in table.columns}
    found: dict[Column, Column] = {}
    for one in shown:
        for key in matching(one.column, list(by_key), "column"):
            column = by_key[key]
            found.setdefault(
                column,
                replace(
                    column,
                    what=column.what if one.name is None else one.name,
                    group=column.group if one.group is None else one.group,
                    digits=one.digits,
                ),
            )
    if len({column.key for column in found.values()}) < len(found):
        raise ValueError(
            f"two columns would have one heading: {', '.join(c.key for c in found.values())}"
        )
    groups = dict.fromkeys(column.group for column in found.values())
    return {old: new for group in groups for old, new in found.items() if new.group == group}


def _shown_as(columns: Mapping[Column, Column], names: Mapping[str, str]) -> Sequence[str]:
    """A note of what has another name than in the records, so that nobody takes one metric for
    another."""
    renamed = {new.what: old.what for old, new in columns.items() if old.what != new.what}
    renamed |= {new: old for old, new in names.items() if old != new}
    told = "; ".join(f"{new} is {old}" for new, old in renamed.items())
    return [f"names: {told}"] if told else []


def _names(table: Table, shown: Sequence[ShownRow]) -> dict[str, str]:
    given = {
        row: one.name
        for one in reversed(shown)
        if one.name is not None
        for row in matching(one.row, list(table.rows), "row")
    }
    return {row: given.get(row, row) for row in table.rows}
