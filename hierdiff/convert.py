"""Entry point of published weights: `python -m hierdiff.convert FILE -o OUT`.

What comes out is like the weights of a run: `hierdiff.sample checkpoint=OUT` draws from it.
`--to NAME` writes weights of ours in the layout of a project. Nothing in FILE is run.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from hierdiff.config import reported
from hierdiff.files.reading import read_text

log = logging.getLogger(__name__)

EXAMPLES = """examples:
  python -m hierdiff.convert vis_model_256x256.pth -o mdm_256.safetensors
  python -m hierdiff.sample checkpoint=mdm_256.safetensors n=4
  python -m hierdiff.convert mdm_256.safetensors --to mdm -o official.pth

readers and their options: python -m hierdiff.list readers; python -m hierdiff.list mdm"""


def options_of(words: Sequence[str]) -> dict[str, Any]:
    """`["heads=4", "shift=2"]` as options.

    Raises:
        ValueError: for a word without "=", or a value that is no YAML.
    """
    options = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name.isidentifier():
            raise ValueError(f"{word!r} is no option: write name=value, such as heads=4")
        try:
            options[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"{word!r} has no readable value: {error}") from error
    return options


@reported
def main(arguments: Sequence[str] | None = None) -> None:
    """The command: a published file as weights of ours, or ours in a published layout.

    Raises:
        ValueError: for options of a reader beside `--to`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m hierdiff.convert",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="a published file or folder; with --to, weights")
    parser.add_argument("options", nargs="*", help="of the reader, such as heads=4")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the file to write")
    parser.add_argument("--as", dest="reader", help="the reader; by default the file decides")
    parser.add_argument("--to", help="write weights in the layout of this reader")
    parser.add_argument("--table", help="path of the tensors in the file, such as state_dict")
    parser.add_argument("--classes", type=Path, help="names of the classes, one a line")
    parser.add_argument(
        "--ignore", action="append", default=[], help="package.module.Class in the pickle to skip"
    )
    given = parser.parse_intermixed_args(arguments)
    # here, so that `--help` does without torch
    from hierdiff.interop.conversion import convert, official, official_config, save_official

    if given.to is not None:
        if given.options or given.reader:
            raise ValueError(f"--to {given.to} takes no options of a reader: leave them out")
        config = official_config(given.file, given.to)
        save_official(official(given.file, given.to), given.out, config)
        log.info("%s: the layout of %s", given.out, given.to)
        return
    node = options_of(given.options) | ({"name": given.reader} if given.reader else {})
    names = None if given.classes is None else read_text(given.classes).split("\n")
    converted = convert(
        given.file,
        node,
        table=given.table,
        ignore=given.ignore,
        class_names=None if names is None else [name for name in names if name.strip()],
    )
    converted.save(given.out)
    about = converted.config["published"]
    log.info(
        "%s: method %s, read as %s (%s), %d tensors",
        *(given.out, converted.config["method"]["name"], about["reader"], about["project"]),
        len(converted.weights),
    )


if __name__ == "__main__":
    main()
