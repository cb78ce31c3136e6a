"""The formats in which a table is printed."""

from __future__ import annotations

from benchmarks.tables.formats.csv import csv
from benchmarks.tables.formats.latex import latex
from benchmarks.tables.formats.markdown import markdown

FORMATS = {"markdown": markdown, "latex": latex, "csv": csv}
