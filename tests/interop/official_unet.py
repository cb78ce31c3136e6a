"""Names and shapes of the official U-Net of latent diffusion, written down from its layout.

Block by block as CompVis/latent-diffusion numbers them, so that a reader of all sizes can be
checked without their files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Named = Iterator[tuple[str, tuple[int, ...]]]


def layer(name: str, *shape: int, bias: bool = True) -> Named:
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]


def residual(name: str, inputs: int, outputs: int, time: int, scale_shift: bool) -> Named:
    yield from layer(f"{name}.in_layers.0", inputs)
    yield from layer(f"{name}.in_layers.2", outputs, inputs, 3, 3)
    yield from layer(f"{name}.emb_layers.1", (1 + scale_shift) * outputs, time)
    yield from layer(f"{name}.out_layers.0", outputs)
    yield from layer(f"{name}.out_layers.3", outputs, outputs, 3, 3)
    if inputs != outputs:
        yield from layer(f"{name}.skip_connection", outputs, inputs, 1, 1)


def plain_attention(name: str, width: int) -> Named:
    yield from layer(f"{name}.norm", width)
    yield from layer(f"{name}.qkv", 3 * width, width, 1)
    yield from layer(f"{name}.proj_out", width, width, 1)


def transformer(name: str, width: int, context: int, linear: bool, depth: int) -> Named:
    sides = () if linear else (1, 1)
    yield from layer(f"{name}.norm", width)
    yield from layer(f"{name}.proj_in", width, width, *sides)
    for i in range(depth):
        block = f"{name}.transformer_blocks.{i}"
        for attention, read in (("attn1", width), ("attn2", context)):
            yield from layer(f"{block}.{attention}.to_q", width, width, bias=False)
            yield from layer(f"{block}.{attention}.to_k", width, read, bias=False)
            yield from layer(f"{block}.{attention}.to_v", width, read, bias=False)
            yield from layer(f"{block}.{attention}.to_out.0", width, width)
        yield from layer(f"{block}.ff.net.0.proj", 8 * width, width)
        yield from layer(f"{block}.ff.net.2", width, 4 * width)
        for norm in ("norm1", "norm2", "norm3"):
            yield from layer(f"{block}.{norm}", width)
    yield from layer(f"{name}.proj_out", width, width, *sides)


def unet(
    *,
    channels: int,
    width: int,
    multiples: Sequence[int],
    blocks: int,
    attention: Sequence[int],
    context: int,
    scale_shift: bool = False,
    resample_blocks: bool = False,
    linear: bool = False,
    depth: Sequence[int] | int = 1,
    told: int = 0,
) -> dict[str, tuple[int, ...]]:
    """Shapes by name. context: 0 for plain attention. linear: around transformers, as in SD 2.
    depth: of these, one for each side; told: numbers beside the time, as in SDXL."""
    time = 4 * width
    depths = [depth] * len(multiples) if isinstance(depth, int) else depth

    def attend(name: str, w: int, i: int) -> Named:
        if not context:
            return plain_attention(name, w)
        return transformer(name, w, context, linear, depths[i])

    def parts() -> Named:
        yield from layer("time_embed.0", time, width)
        yield from layer("time_embed.2", time, time)
        if told:
            yield from layer("label_emb.0.0", time, told)
            yield from layer("label_emb.0.2", time, time)
        yield from layer("input_blocks.0.0", width, channels, 3, 3)
        here, skips, n = width, [width], 1
        for i, multiple in enumerate(multiples):
            w = width * multiple
            for _ in range(blocks):
                yield from residual(f"input_blocks.{n}.0", here, w, time, scale_shift)
                if attention[i]:
                    yield from attend(f"input_blocks.{n}.1", w, i)
                here, n = w, n + 1
                skips.append(w)
            if i + 1 < len(multiples):
                if resample_blocks:
                    yield from residual(f"input_blocks.{n}.0", w, w, time, scale_shift)
                else:
                    yield from layer(f"input_blocks.{n}.0.op", w, w, 3, 3)
                n += 1
                skips.append(w)
        yield from residual("middle_block.0", here, here, time, scale_shift)
        yield from attend("middle_block.1", here, -1)
        yield from residual("middle_block.2", here, here, time, scale_shift)
        n = 0
        for i, multiple in reversed(list(enumerate(multiples))):
            w = width * multiple
            for j in range(blocks + 1):
                yield from residual(
                    f"output_blocks.{n}.0", here + skips.pop(), w, time, scale_shift
                )
                here, slot = w, 1
                if attention[i]:
                    yield from attend(f"output_blocks.{n}.1", w, i)
                    slot = 2
                if i and j == blocks:
                    name = f"output_blocks.{n}.{slot}"
                    if resample_blocks:
                        yield from residual(name, w, w, time, scale_shift)
                    else:
                        yield from layer(f"{name}.conv", w, w, 3, 3)
                n += 1
        yield from layer("out.0", here)
        yield from layer("out.2", channels, here, 3, 3)

    return dict(parts())
