"""Entry point of sampling: `python -m hierdiff.sample checkpoint=runs/NAME/weights.safetensors`.

Writes `OUT/sheet.png`, the levels side by side, `OUT/LEVEL/0000.png` ... of every level by name
("64", "8x32x32"; a clip is its frames in a row), or `OUT/LEVEL.npz` or shards of webdataset, and
`OUT/samples.json`, which says what each image was made from. Image i depends on the seed and i
alone, not on how many are made or how many at once. A folder that an earlier call filled is emptied
of what its samples.json lists; with anything else in it, it is refused. What
takes seconds to load is imported by the command itself, so that `--help` does without it.
"""

from __future__ import annotations

from typing import Any

from hierdiff.command import command, plain_config

ABOUT = """Draws images from a trained model, one file each, and a sheet of all.

    python -m hierdiff.sample checkpoint=runs/NAME

    n=64                          how many images
    labels=[owl,3]                classes by name or number, repeated up to n
    captions=["a red owl"]        for a model that was trained on text
    negative="low quality"        what guidance leads away from; "" for the empty caption
    steps=50 guidance=2.0         of the sampler; by default as the model was configured
    resolution=[24,40]            another size than in training, if the network accepts it
    seed=1                        image i depends on the seed and on i only
    samples=npz                   or webdataset, instead of PNG files, with class, caption and
                                  seed; float: arrays that are not rounded to 8 bits
    given=start.npz               noise and conditions from a file of arrays (hierdiff/given.py)
    out=samples                   the folder; what an earlier call wrote there is replaced
    trust=[my_package]            packages whose classes the checkpoint may import
"""


@command("sample", ABOUT)
def main(cfg: Any) -> None:
    """The command: samples of a checkpoint as files; errors as in `hierdiff.sampled.make`."""
    from hierdiff.sampled import make

    make(plain_config(cfg))


if __name__ == "__main__":
    main()
