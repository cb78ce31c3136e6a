"""Names and shapes of the released ADM networks, written out from their constructor's loop.

openai/guided-diffusion, unet.py (UNetModel, SuperResModel) and script_util.py for the sizes.
"""

from __future__ import annotations

Layout = dict[str, tuple[int, ...]]

# image side, width, blocks, attention at sides, upsampler
SIZES = {
    "64": (64, 192, 3, (32, 16, 8), False),
    "128": (128, 256, 2, (32, 16, 8), False),
    "256": (256, 256, 2, (32, 16, 8), False),
    "512": (512, 256, 2, (32, 16, 8), False),
    "64_256": (256, 192, 2, (32, 16, 8), True),
    "128_512": (512, 192, 2, (32, 16), True),
}
MULTIPLES = {64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4)}
MULTIPLES_512 = {False: (0.5, 1, 1, 2, 2, 4, 4), True: (1, 1, 2, 2, 4, 4)}


def adm_layout(size: str, classes: int) -> Layout:
    """The state dict of a release, without its numbers."""
    side, width, blocks, attention, upsampler = SIZES[size]
    multiples = MULTIPLES_512[upsampler] if side == 512 else MULTIPLES[side]
    names: Layout = {}
    vector = 4 * width

    def layer(name: str, outputs: int, inputs: int, *kernel: int) -> None:
        names[f"{name}.weight"], names[f"{name}.bias"] = (outputs, inputs, *kernel), (outputs,)

    def norm(name: str, channels: int) -> None:
        names[f"{name}.weight"] = names[f"{name}.bias"] = (channels,)

    def residual(name: str, inputs: int, outputs: int) -> None:
        norm(f"{name}.in_layers.0", inputs)
        layer(f"{name}.in_layers.2", outputs, inputs, 3, 3)
        layer(f"{name}.emb_layers.1", 2 * outputs, vector)
        norm(f"{name}.out_layers.0", outputs)
        layer(f"{name}.out_layers.3", outputs, outputs, 3, 3)
        if inputs != outputs:
            layer(f"{name}.skip_connection", outputs, inputs, 1, 1)

    def attend(name: str, channels: int) -> None:
        norm(f"{name}.norm", channels)
        layer(f"{name}.qkv", 3 * channels, channels, 1)
        layer(f"{name}.proj_out", channels, channels, 1)

    layer("time_embed.0", vector, width)
    layer("time_embed.2", vector, vector)
    names["label_emb.weight"] = (classes, vector)
    here = int(multiples[0] * width)
    layer("input_blocks.0.0", here, 6 if upsampler else 3, 3, 3)
    skips, factor, number = [here], 1, 1
    factors = [side // one for one in attention]
    for level, multiple in enumerate(multiples):
        for _ in range(blocks):
            outputs = int(multiple * width)
            residual(f"input_blocks.{number}.0", here, outputs)
            here = outputs
            if factor in factors:
                attend(f"input_blocks.{number}.1", here)
            skips.append(here)
            number += 1
        if level + 1 < len(multiples):
            residual(f"input_blocks.{number}.0", here, here)
            skips.append(here)
            number, factor = number + 1, factor * 2
    residual("middle_block.0", here, here)
    attend("middle_block.1", here)
    residual("middle_block.2", here, here)
    number = 0
    for level, multiple in reversed(list(enumerate(multiples))):
        for block in range(blocks + 1):
            outputs = int(multiple * width)
            residual(f"output_blocks.{number}.0", here + skips.pop(), outputs)
            here, place = outputs, 1
            if factor in factors:
                attend(f"output_blocks.{number}.1", here)
                place = 2
            if level and block == blocks:
                residual(f"output_blocks.{number}.{place}", here, here)
                factor //= 2
            number += 1
    norm("out.0", here)
    layer("out.2", 6, here, 3, 3)
    return names
