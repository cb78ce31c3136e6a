"""Reference statistics by themselves: computed, stored where runs find them, printed, written.

`python -m benchmarks.reference data=critters data.resolution=32 'resolutions=[32,16]'`. The same
`measure` as in a run decides the extractor. `output=FILE.npz` writes moments in float64 (`mu`,
`sigma`) that pytorch-fid and EDM read as well, and that `hierdiff.metrics.reference.read_moments`
reads back. `ship=true` writes the features themselves into the package.
"""

from __future__ import annotations

from typing import Any

from hierdiff.command import command

ABOUT = """Computes statistics of real images, prints them and stores them where runs find them.

    python -m benchmarks.reference data=critters data.resolution=32 resolutions=[32,16]

    split=test                            part of the data: train, test or all
    measure.extractor={name: inception}   whose features; as in benchmarks.run
    output=FILE.npz                       writes mu and sigma, which pytorch-fid and EDM read too
"""


@command("reference", ABOUT)
def main(cfg: Any) -> None:
    """The command."""
    from benchmarks.references import make_references  # here, so that `--help` does without torch

    make_references(cfg)


if __name__ == "__main__":
    main()
