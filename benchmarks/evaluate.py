"""Measures images that came from elsewhere, and writes a record that stands beside those of runs.

`python -m benchmarks.evaluate images=samples.npz label=VAR data=folder data.root=photos`. The
metrics, references and rows of the scale are those of `benchmarks.run`; the record is marked as
external, and says what the maker of the images states. The same command again prints the record.
"""

from __future__ import annotations

from typing import Any

from hierdiff.command import command, plain_config

ABOUT = """Measures images of another model and writes a record, which tables and reports
show beside those of runs. The same command again prints it.

    python -m benchmarks.evaluate images=samples.npz label=VAR data=folder data.root=photos

    images=FOLDER | FILE.zip | FILE.npz   an .npz holds arr_0: uint8, n h w c, as ADM and EDM write;
                                          also a .tar of webdataset, or a folder of them
    images=my_model:draw trust=[my_model.py]   a function that yields images; with arguments,
                                          images={name: my_model:draw, n: 1000}
    conditions=own                        captions and classes are beside the images
    measure.references={256: FILE.npz}    instead of data: statistics of ADM, EDM, pytorch-fid
    measure.metrics=[fd,kd]               what is measured, as in benchmarks.run
    measure.samples=512                   disjoint sets of 512 images: their mean and spread
    measure.resolutions=[64,32]           where, beside the resolution of the images
    stated.guidance=1.5 stated.steps=250  how they were made; what is not given is shown as unknown
    folder=runs/VAR                       where the record goes
"""


@command("evaluate", ABOUT)
def main(cfg: Any) -> None:
    """The command."""
    from benchmarks.external import evaluate_one  # here, so that `--help` does without torch

    evaluate_one(plain_config(cfg))


if __name__ == "__main__":
    main()
