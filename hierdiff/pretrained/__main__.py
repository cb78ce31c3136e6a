"""Entry point: `python -m hierdiff.pretrained save RUN FOLDER`, `push FOLDER OWNER/NAME`,
`fetch OWNER/NAME`.

`push` and `fetch` are the only words that reach the hub.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from hierdiff.config import reported

log = logging.getLogger(__name__)


@reported
def main(arguments: Sequence[str] | None = None) -> None:
    """The command; errors as in the functions of `hierdiff.pretrained`."""
    parser = argparse.ArgumentParser(prog="python -m hierdiff.pretrained", description=__doc__)
    words = parser.add_subparsers(dest="word", required=True)
    save = words.add_parser("save", help="save weights as a folder with a model card")
    save.add_argument("weights", help="a run folder, its weights, or what hierdiff.convert wrote")
    save.add_argument("folder", help="the folder to write")
    save.add_argument("--record", help="of the run; by default the one beside the weights")
    save.add_argument("--licence", help="of the weights, such as Apache-2.0")
    save.add_argument("--data-licence", help="of the data that they were trained on")
    push = words.add_parser("push", help="upload such a folder to Hugging Face's hub")
    push.add_argument("folder")
    push.add_argument("name", help="OWNER/NAME")
    push.add_argument("--public", action="store_true", help="make a new repository public")
    fetch = words.add_parser("fetch", help="download a model, and check it")
    fetch.add_argument("name", help="OWNER/NAME")
    fetch.add_argument("--revision", help="a branch, tag or commit")
    given = parser.parse_args(arguments)
    # here, so that `--help` does without torch
    from hierdiff.pretrained.folder import check_folder, fetched, push_to_hub, save_pretrained

    if given.word == "save":
        options = {"record": given.record, "licence": given.licence}
        out = save_pretrained(
            given.weights, given.folder, **options, data_licence=given.data_licence
        )
        log.info("%s: config.json, model.safetensors, README.md", out)
    elif given.word == "push":
        log.info("%s", push_to_hub(given.folder, given.name, private=not given.public))
    else:
        folder = fetched(given.name, given.revision)
        check_folder(folder)
        log.info("%s: whole; hierdiff.sample checkpoint=%s/model.safetensors", folder, folder)


if __name__ == "__main__":
    main()
