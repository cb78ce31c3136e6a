"""Writes the tables of records into the pages that quote them: `python docs/quote.py`.

A page names a table by the options of `benchmarks.tables`, and after a colon the parts of it that
it quotes (caption, rows, notes; all of them without a colon):

    <!-- tables results/study/critters-32px-4e13: rows caption -->
    (replaced)
    <!-- end -->
"""

from __future__ import annotations

import contextlib
import io
import re
from functools import cache
from pathlib import Path

from benchmarks.tables.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
QUOTE = re.compile(r"(<!-- tables ([^:>]+?)(?:: ([a-z ]+))? -->\n).*?(<!-- end -->)", re.DOTALL)
PARTS = ("caption", "rows", "notes")


@cache
def parts_of(words: str) -> dict[str, str]:
    """Caption, rows and notes of a table by its options; files are below the root."""
    arguments = [str(ROOT / w) if (ROOT / w).exists() else w for w in words.split()]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        main(arguments)
    blocks = out.getvalue().strip().split("\n\n")
    rows = next(i for i, block in enumerate(blocks) if block.startswith("|"))
    return dict(zip(PARTS, ["\n\n".join(blocks[:rows]), *blocks[rows:]], strict=False))


def quoted(text: str) -> str:
    """The text of a page with its quotes made anew."""

    def fresh(match: re.Match[str]) -> str:
        start, words, named, end = match.groups()
        parts = parts_of(words)
        chosen = [parts[name] for name in (named or " ".join(PARTS)).split() if parts.get(name)]
        return start + "\n" + "\n\n".join(chosen) + "\n\n" + end

    return QUOTE.sub(fresh, text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(quoted(page.read_text(encoding="utf-8")), encoding="utf-8")
