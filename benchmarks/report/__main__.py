"""`python -m benchmarks.report RUNS [RUNS ...] -o report`: the page of all runs in the folders.

`--watch` writes it again while runs train, and a browser loads it again by itself.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from benchmarks.report.charts import swatch
from benchmarks.report.content import Page, page
from benchmarks.report.live import live_folders, state_of
from benchmarks.report.parts import page_source
from benchmarks.report.pictures import CHARTS, FOLDER, ReportFiles
from benchmarks.tables import published as papers
from benchmarks.tables.choices import add_choices, require_runs, select
from hierdiff.config import one_line, printable, reported
from hierdiff.files.atomic import PART, write
from hierdiff.files.lock import LOCK, worked_in
from hierdiff.files.reading import from_json
from hierdiff.heap import uncollected
from hierdiff.results.folders import readable

INDEX = "index.html"
MADE_BY = b'<meta name="generator" content="hierdiff report">'  # by which our pages are recognised
OWN = re.compile(rf"({FOLDER}|{CHARTS}|tables)/[^\s./\\][^\s/\\]*")  # files beside the page
BEGUN = ".begun.json"  # the files of a report that is being written


def render(content: Page) -> bytes:
    """The page as an HTML file in UTF-8; all text from records is escaped."""
    source = {name: page_source(name) for name in ("html", "css", "js")}
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
    )
    environment.globals["swatch"] = lambda look: Markup(swatch(look))
    environment.filters["svg"] = Markup  # our own SVG, whose text is escaped already
    environment.filters["breakable"] = _with_breaks
    html = environment.from_string(source["html"]).render(
        page=content,
        css=Markup(source["css"]),
        js=Markup(source["js"]),
        policy=_policy(source["css"], source["js"]),
    )
    return html.encode("utf-8", "replace")


def _printable(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _with_breaks(name: str) -> Markup:
    """A name in which a line may break after the dots of an option."""
    return Markup("<wbr>").join(re.split(r"(?<=\w\.)(?=[a-z])", printable(name)))


def _policy(css: str, js: str) -> str:
    """A content security policy: only our own style, script and pictures beside the page."""

    def hashed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; img-src 'self' file:; style-src {hashed(css)}; "
        f"script-src {hashed(js)}; base-uri 'none'; form-action 'none'"
    )


def write_report(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes the files, the page last; then removes the files of an older report.

    Until the page is written, a list of all files marks the folder as ours, so that the same
    command completes a report whose writing was interrupted. Where another process writes it,
    `Busy` is raised.

    Raises:
        FileExistsError: where the folder holds anything else than a report.
    """
    index, begun = folder / INDEX, folder / BEGUN
    ours = begun.is_file() or (index.is_file() and MADE_BY in index.read_bytes())
    others = folder.iterdir() if folder.exists() and not ours else ()
    if any(path.name != LOCK and not PART.fullmatch(path.name) for path in others):
        raise FileExistsError(f"{folder} holds other files: name a new folder by -o")
    with worked_in(folder):
        older = _listed(begun) | _linked(index)
        write(begun, json.dumps(sorted(older | set(files)), indent=1).encode())
        for name in sorted(files, key=lambda name: (name == INDEX, name)):
            path = folder / name
            if not path.is_file() or path.read_bytes() != files[name]:
                write(path, files[name])
        for name in older - set(files):
            if (folder / name).is_file():
                (folder / name).unlink()
        begun.unlink()
        (folder / LOCK).unlink(missing_ok=True)  # a page may be copied elsewhere, without a lock


def _listed(begun: Path) -> set[str]:
    """The files of a report whose writing was interrupted, of those names that a report has."""
    try:
        names = from_json(begun.read_bytes())
    except (OSError, ValueError):
        return set()
    known = names if isinstance(names, list) else []
    return {name for name in known if isinstance(name, str) and OWN.fullmatch(name)}


def _linked(index: Path) -> set[str]:
    if not index.is_file():
        return set()
    links = re.findall(r'(?:href|src)="([^"]*)"', index.read_text("utf-8", "replace"))
    return {link for link in links if OWN.fullmatch(link)}


def seconds(word: str) -> int:
    """A whole number of seconds, at least 1.

    Raises:
        ValueError: for anything else.
    """
    if not word.isdecimal() or int(word) < 1:
        raise ValueError(f"{word} is no number of seconds: take 1 or more")
    return int(word)


def write_page(
    chosen: argparse.Namespace, live: Sequence[Path] = (), refresh: int | None = None
) -> Page:
    """Writes the page of the chosen runs, and of those in training."""
    files = ReportFiles()
    records, unread = readable(*chosen.folders)
    records = select(records, chosen.where)
    require_runs([*records, *unread, *live], chosen.folders)
    content = page(
        records,
        files,
        folders=[Path(folder) for folder in chosen.folders],
        unread=unread,
        published=papers.chosen_rows(chosen.published),
        live=live,
        refresh=refresh,
    )
    files.contents[INDEX] = render(content)
    write_report(chosen.output, files.contents)
    return content


@reported
@uncollected()
def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the report and prints where it is."""
    parser = argparse.ArgumentParser("benchmarks.report", description="A page of finished runs.")
    add_choices(parser)
    parser.add_argument("-o", "--output", type=Path, default=Path("report"), metavar="FOLDER")
    parser.add_argument(
        "--watch", type=seconds, nargs="?", const=10, metavar="SECONDS",
        help="also show runs in training, and rewrite the page as they progress, until they end",
    )  # fmt: skip
    chosen = parser.parse_args(arguments)
    folders = [Path(folder) for folder in chosen.folders]
    before = None
    while chosen.watch is not None and (live := live_folders(folders)):
        state = state_of(folders)
        if state != before:
            content = write_page(chosen, live, chosen.watch)
            print(f"{len(live)} in training: {printable(str(chosen.output / INDEX))}", flush=True)
            before = state
        time.sleep(chosen.watch)
    content = write_page(chosen)
    for line in content.unread:
        print(f"left out: {one_line(line)}", file=sys.stderr)
    print(printable(f"{content.title}: {chosen.output / INDEX}"))


if __name__ == "__main__":
    main()
