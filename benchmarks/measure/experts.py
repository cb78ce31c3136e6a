"""What the experts of a network do while samples are drawn: who is chosen, and who paints what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from benchmarks.measure.pictures import evenly_spaced
from benchmarks.measure.samples import Draw
from hierdiff.denoisers.protocol import Denoiser, Routes
from hierdiff.files.atomic import write_figure
from hierdiff.images import to_uint8
from hierdiff.methods import Method
from hierdiff.text import words_of

SHOWN, FRAMES = 3, 6  # samples and steps of the picture


@dataclass(frozen=True)
class Watched:
    """experts: as in `Denoiser`. calls: in the order of sampling, of the rows with conditions.
    images: the first samples. words: of the first caption, as far as each is one token."""

    experts: dict[str, int]
    calls: Sequence[Routes]
    images: UInt8[Tensor, "n c h w"]
    words: Sequence[str]

    def loads(self) -> Iterator[tuple[str, Float[Tensor, "blocks k"]]]:
        """How often each block chooses each expert, over all calls and rows."""
        for name, experts in self.experts.items():
            if name == "time":
                chosen = torch.cat([call.time for call in self.calls])  # n blocks
            else:  # words choose once for a trajectory
                routes = self.calls[0]
                assert routes.words is not None and routes.seen is not None
                chosen = routes.words.transpose(1, 2)[routes.seen]
            counts = torch.nn.functional.one_hot(chosen, experts).double()
            yield name, counts.mean(0)

    def rows(self) -> list[dict[str, Any]]:
        """Effective number of experts, exp(entropy), and share of the busiest: means over blocks,
        each of which has experts of its own."""
        rows = []
        for name, load in self.loads():
            about = {
                "source": "time experts" if name == "time" else "space experts",
                "n": len(self.calls[0].time),
            }
            numbers = {
                "effective number": torch.special.entr(load).sum(1).exp().mean(),
                "largest share": load.amax(1).mean(),
            }
            rows += [{**about, "metric": k, "value": float(v)} for k, v in numbers.items()]
        return rows


def networks_with_experts(method: Method) -> list[Denoiser]:
    """In the order in which the method holds them."""
    return [part for part in method.modules() if isinstance(part, Denoiser) and part.experts]


def check_experts(method: Method) -> None:
    """Refuses a method without experts.

    Raises:
        ValueError: where no network has any.
    """
    if not networks_with_experts(method):
        raise ValueError(
            "analysis=experts watches experts, and no network of the method has any: take "
            "experiment=raphael, or leave the analysis out"
        )


def watch_experts(method: Method, draw: Draw, n: int) -> Watched:
    """The experts of the last such network while n samples are drawn."""
    network, calls = networks_with_experts(method)[-1], list[Routes]()

    def look(module: Any, given: tuple[Any, ...]) -> None:
        x_t, log_snr, cond = given[:3]
        rows = torch.ones(len(log_snr), dtype=torch.bool)
        if cond.mask is not None:  # guidance has rows without words beside those with
            rows = cond.mask.any(1).cpu()
        if rows.any():
            calls.append(module.routes(x_t, log_snr, cond).of(rows.nonzero()[:, 0]))

    handle = network.register_forward_pre_hook(look)
    try:
        images = draw.floats(range(n))
    finally:
        handle.remove()
    captions = draw.conditions.captions([0])
    words = words_of(captions[0]) if captions else []
    finest = to_uint8(images[method.resolutions[0]]).cpu()
    return Watched(dict(network.experts), calls, finest[:SHOWN], words)


def painters(routes: Routes) -> tuple[Tensor, ...]:
    """The expert of the last block that paints the most words at each place: b h w; one or none."""
    return tuple(part.argmax(1) for part in routes.painted[-1:])


def write_experts_picture(path: Path, watched: Watched) -> None:
    """Draws the choices of steps and of words, and who paints where over the steps."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    shown = [painters(call) for call in evenly_spaced(watched.calls, FRAMES)]
    rows = len(watched.images) if shown[0] else 0
    figure = Figure(figsize=(8, 3.4 + 1.2 * rows), layout="constrained")
    parts = figure.add_gridspec(2, 1, height_ratios=[3.4, 1.2 * rows or 0.01])
    above, below = (figure.add_subfigure(parts[place]) for place in (0, 1))
    look = {"cmap": "tab10", "vmin": 0, "vmax": 10, "interpolation": "nearest"}
    left, right = above.subplots(1, 2)
    steps = torch.stack([call.time[0] for call in watched.calls], 1)
    left.imshow(steps.numpy(), aspect="auto", **look)
    left.locator_params(integer=True)
    left.set(title="time experts", xlabel="step, from noise to image", ylabel="block")
    keys = [Patch(color=f"C{i}", label=str(i + 1)) for i in range(max(watched.experts.values()))]
    above.legend(handles=keys, title="expert", loc="outside right upper", frameon=False)
    first = watched.calls[0]
    if first.words is not None and first.seen is not None:
        chosen = first.words[0][:, first.seen[0]].T
        right.imshow(chosen.numpy(), aspect="auto", **look)
        fits = len(watched.words) == len(chosen)
        labels = watched.words if fits else [str(i + 1) for i in range(len(chosen))]
        right.set_yticks(range(len(chosen)), labels)
        right.locator_params(axis="x", integer=True)
        right.set(title="space experts of the words", xlabel="block")
    else:
        right.axis("off")
    if rows:
        below.suptitle("space expert of most words at each place, last block", fontsize="large")
        grid = below.subplots(rows, FRAMES + 1, squeeze=False)
        for place, title in ((0, "first step"), (len(shown) - 1, "last step"), (-1, "sample")):
            grid[0][place].set_title(title, fontsize="medium")
        for row, (axes, image) in enumerate(zip(grid, watched.images, strict=True)):
            for place, maps in zip(axes, shown, strict=False):
                place.imshow(maps[0][row].numpy(), **look)
            axes[-1].imshow(image.permute(1, 2, 0).numpy())
        for place in grid.flat:
            place.axis("off")
    write_figure(path, figure)
