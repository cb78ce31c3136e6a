"""The formats in which a table is printed, and its notes where they stand apart from it."""

from __future__ import annotations

from benchmarks.tables.formats.csv import csv
from benchmarks.tables.formats.latex import latex, latex_appendix
from benchmarks.tables.formats.markdown import markdown, markdown_appendix
from benchmarks.tables.formats.terminal import terminal

FORMATS = {"markdown": markdown, "latex": latex, "csv": csv, "terminal": terminal}
APPENDICES = {"markdown": markdown_appendix, "latex": latex_appendix}  # of `notes_in=appendix`
