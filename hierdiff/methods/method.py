"""A method: one or more stages; trainer and benchmark see nothing but the method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hierdiff.batch import Cond
from hierdiff.denoisers import Denoiser
from hierdiff.denoisers.protocol import Reads
from hierdiff.levels import Name
from hierdiff.methods.generator import Generator, Request
from hierdiff.methods.stage import Images, Stage
from hierdiff.registry import Node, Registry


class Method(nn.Module):
    """resolutions: names of its images, finest first. stages: trained in order."""

    stages: Sequence[Stage]

    def __init__(self, resolutions: Sequence[Name], stages: Iterable[Stage]):
        super().__init__()
        self.resolutions = tuple(resolutions)
        self.add_module("stages", nn.ModuleList(stages))

    def sample(self, request: Request) -> Images:
        """n images in [-1, 1] at every resolution, or at those that the request wants.

        Error: ValueError where a stage is untrained, or no network reads a condition.
        """
        self.check_ready()
        check_cond(request.cond, self.reads)
        wanted = self.resolutions if request.resolutions is None else request.resolutions
        for name in wanted:
            self.at(name)
        finest = next((name for name in self.resolutions if name in wanted), None)
        if finest is None:
            raise ValueError("images at no resolution are asked for: name one, or None for all")
        images = self.at(finest).sample(request)
        return {name: image for name, image in images.items() if request.wants(name)}

    def at(self, name: Name) -> Generator:
        """The stage whose samples hold the method's own images of that name, the same object
        for all that one trajectory makes: what a cost is taken of."""
        makers = [
            stage
            for stage in self.stages
            if isinstance(stage, Generator) and stage.makes_images
            if name in stage.resolutions
        ]
        if name not in self.resolutions or not makers:
            raise ValueError(
                f"the method makes no images at {name}: choose one of "
                f"{list(self.resolutions)}, and pool the finest to others"
            )
        return makers[-1]

    @property
    def reads(self) -> Reads | None:
        """Of all its networks together; None where one of them does not say."""
        whole = Reads()
        for network in self.modules():
            if isinstance(network, Denoiser):
                if network.reads is None:
                    return None
                whole = whole | network.reads
        return whole

    def check_facts(self, facts: Mapping[str, Any]) -> None:
        """Refuses, before compute, conditions that the data gives and no network reads, and those
        that a network reads and the data does not give.

        facts: of the data; names in `scalars`, {name: width} in `vectors`, `text_width`. Labels may
        be left unread (the log says so), the scalar `scale` has a default that stands for itself
        (the image's own side), and what a bridge gives is not the data's. Error: ValueError.
        """
        if self.reads is None:
            return
        given = frozenset(facts.get("scalars", ()))
        if unread := sorted(given - self.reads.scalars):
            raise ValueError(
                f"data.scalars={sorted(given)}: no network of the method reads {unread[0]!r}, "
                f"leave it out or name it in the denoiser's `scalars`"
            )
        bridges = [stage.bridge for stage in self.stages if isinstance(stage, Generator)]
        bridged = {name for bridge in bridges if bridge is not None for name in bridge.gives}
        if missing := sorted(self.reads.scalars - given - {"scale"} - bridged):
            raise ValueError(
                f"the denoiser reads the scalar {missing[0]!r}, which the data does not give: "
                f"leave it out of its `scalars`"
            )
        vectors: Mapping[str, int] = facts.get("vectors", {})
        for name, width in vectors.items():
            if name not in self.reads.vectors:
                raise ValueError(
                    f"no network of the method reads the vector {name!r} that the data gives: "
                    f"leave it out or name it in the denoiser's `vectors`, {{{name}: {width}}}"
                )
        for name, width in self.reads.vectors.items():
            if vectors.get(name) != width and name not in bridged:
                found = f"at a width of {vectors[name]}" if name in vectors else "not at all"
                raise ValueError(
                    f"the denoiser reads the vector {name!r} of width {width}, which the data "
                    f"gives {found}: change its `vectors`"
                )
        if facts.get("text_width", 0) and not self.reads.text_width:
            raise ValueError(
                "data.text gives captions that no network of the method reads: leave it out, or "
                "take a denoiser with a text_width"
            )

    def check_ready(self) -> None:
        """Refuses to sample what nobody trains, before compute."""
        for place, stage in enumerate(self.stages):
            if not stage.ready:
                raise ValueError(
                    f"stage {stage.name} is sampled before it is trained (share 0, no weights): "
                    f"give method.stages.{place}.share or method.stages.{place}.weights"
                )


methods: Registry[Method] = Registry("method", Method)


def on_shapes(node: Node, **options: Any) -> Method:
    """`methods.build` on the meta device, where the method takes no memory and nothing can be
    computed with it; as usual where one of its parts needs numbers to be built."""
    try:
        with torch.device("meta"):
            return methods.build(node, **options)
    except (NotImplementedError, RuntimeError, TypeError):
        return methods.build(node, **options)


def check_cond(cond: Cond, reads: Reads | None) -> None:
    """ValueError for a condition that nothing reads; labels and texts may be left unread."""
    if reads is None:
        return
    unread = {f"scalars[{name!r}]": True for name in cond.scalars if name not in reads.scalars}
    unread |= {f"vectors[{name!r}]": True for name in cond.vectors if name not in reads.vectors}
    unread["low"] = cond.low is not None and not reads.low_channels
    for name, is_unread in unread.items():
        if is_unread:
            raise ValueError(f"no network of the method reads cond.{name}: leave it out")
