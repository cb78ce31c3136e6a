"""Entry point of variations: `python -m baselines.vary checkpoint=RUN images=FILES`.

For models with an embedding as first stage, such as `method=unclip`. Writes `OUT/sheet.png`: a row
for each image, itself first and then its variations, which have its embedding and other noise; or,
with `between`, a row for each pair of neighbouring images, whose embeddings are interpolated.
"""

from __future__ import annotations

from typing import Any

from hierdiff.command import command, plain_config

ABOUT = """Variations of images, and images between two, from a model with an image embedding.

    python -m baselines.vary checkpoint=runs/NAME/weights.safetensors images=[a.png,b.png]

    n=8                           variations of each image
    between=true                  n images between each image and the next, under one noise
    guidance=2.0 steps=50         of the decoder and the upsamplers
    captions=["a red owl"]        one for all images, or one for each; without them none
    seed=1                        of the noise
    out=variations                the folder; sheet.png and NAME.png in it are replaced
"""


@command("vary", ABOUT)
def main(cfg: Any) -> None:
    """The command; errors as in `baselines.unclip.variations.make`."""
    from baselines.unclip.variations import make

    make(plain_config(cfg))


if __name__ == "__main__":
    main()
