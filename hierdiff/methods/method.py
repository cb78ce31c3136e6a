"""A method: one or more stages; trainer and benchmark see nothing but the method."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from hierdiff.batch import Cond
from hierdiff.denoisers.protocol import Reads
from hierdiff.methods.generator import Generator, Request
from hierdiff.methods.stage import Images, Stage
from hierdiff.registry import Node, Registry
from hierdiff.resolution import Name, Resolution, plain_of, text_of


class Method(nn.Module):
    """One or more stages, trained in order.

    resolutions: names of the images that it makes, finest first.
    """

    stages: Sequence[Stage]
    few_steps: Sequence[int] = (1, 2, 4, 8, 16)  # numbers of steps that are worth a comparison

    def __init__(self, resolutions: Sequence[Name], stages: Iterable[Stage]):
        super().__init__()
        self.resolutions = tuple(resolutions)
        self.add_module("stages", nn.ModuleList(stages))

    def sample(self, request: Request) -> Images:
        """{name: n images in [-1, 1]} at every resolution, or at those that the request names.

        Raises:
            ValueError: where a stage is untrained, no network reads a condition, or the request
                names no resolution or an unknown one.
        """
        self.check_ready()
        for cond in (request.cond, request.negative):
            if cond is not None:
                check_cond(cond, self.reads)
        names = self.resolutions if request.resolutions is None else request.resolutions
        for name in names:
            self.at(name)
        finest = next((name for name in self.resolutions if name in names), None)
        if finest is None:
            raise ValueError("images at no resolution are asked for: name one, or None for all")
        images = self.at(finest, request.steps).sample(request)
        return {name: image for name, image in images.items() if request.wants(name)}

    def fit(self, resolutions: Sequence[Resolution]) -> None:
        """Readies every stage for batches of images of these sides beside the finest resolution.

        Raises:
            ValueError: where a stage is trained on images of one size, or smaller ones.
        """
        for stage in self.stages:
            if resolutions and stage.resolutions[0] != self.resolutions[0]:
                raise ValueError(
                    f"stage {stage.name} is trained on images of {text_of(stage.resolutions[0])} "
                    f"px, and buckets are for the finest: leave data.buckets out"
                )
            stage.fit(resolutions)

    def resized(self, resolution: Resolution) -> Method:
        """The method with the same weights that makes images of other sides.

        Raises:
            ValueError: where it makes images of one size alone.
        """
        others: dict[int, Stage] = {}
        for stage in self.stages:
            if not isinstance(stage, Generator):
                continue
            if stage.resolutions[0] != self.resolutions[0]:
                raise ValueError(
                    f"stage {stage.name} makes images of {text_of(stage.resolutions[0])} px beside "
                    f"the finest: leave resolution={plain_of(resolution)} out"
                )
            before = None if stage.previous is None else others[id(stage.previous)]
            others[id(stage)] = stage.resized(resolution, cast("Generator | None", before))
        method = copy.copy(self)
        stages = [others.get(id(stage), stage) for stage in self.stages]
        method._modules = {**self._modules, "stages": nn.ModuleList(stages)}
        method.resolutions = method.stages[-1].resolutions
        return method

    @property
    def contrasts(self) -> Mapping[str, Method | Generator]:
        """What quality is compared over the number of steps, by name: this method, and others that
        make the same images, such as the teacher of a distilled one."""
        return {"": self}

    def at(self, name: Name, steps: int | None = None) -> Generator:
        """The stage that makes the method's images of that name.

        Names whose images come from one trajectory give the same object, which is what costs refer
        to. steps: of the sampler, None for the method's own; a method may have a network for each
        number of them.

        Raises:
            ValueError: where the method makes no images of that name.
        """
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
        """The conditions that its networks read together; None where one does not declare them.

        A network declares them by an attribute `reads`, as every `Denoiser` does.
        """
        whole = Reads()
        for stage in self.stages:
            for network in stage.modules():
                reads = getattr(network, "reads", whole)
                if reads is None:
                    return None
                whole = whole | reads
        return whole

    def check_facts(self, facts: Mapping[str, Any]) -> None:
        """Checks that the networks read the conditions of the data, and find those they read.

        facts: of the data; names in `scalars`, {name: width} in `vectors`, `text_width`. Labels may
        remain unread (the log says so), the scalar `scale` has a default (the image's own side),
        and conditions from a bridge need not be in the data.

        Raises:
            ValueError: for a condition that no network reads, or that the data does not have.
        """
        if self.reads is None:
            return
        scalars = frozenset(facts.get("scalars", ()))
        if unread := sorted(scalars - self.reads.scalars):
            raise ValueError(
                f"data.scalars={sorted(scalars)}: no network of the method reads {unread[0]!r}, "
                f"leave it out or name it in the denoiser's `scalars`"
            )
        bridges = [stage.bridge for stage in self.stages if isinstance(stage, Generator)]
        bridged = {name for bridge in bridges if bridge is not None for name in bridge.gives}
        if missing := sorted(self.reads.scalars - scalars - {"scale"} - bridged):
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
                other = f"at a width of {vectors[name]}" if name in vectors else "not at all"
                raise ValueError(
                    f"the denoiser reads the vector {name!r} of width {width}, which the data "
                    f"gives {other}: change its `vectors`"
                )
        if facts.get("text_width", 0) and not self.reads.text_width:
            raise ValueError(
                "data.text gives captions that no network of the method reads: leave it out, or "
                "take a denoiser with a text_width"
            )

    def check_ready(self) -> None:
        """Checks, before compute, that every stage is trained or has weights.

        Raises:
            ValueError: naming the stage that is not.
        """
        for place, stage in enumerate(self.stages):
            if not stage.ready:
                raise ValueError(
                    f"stage {stage.name} is sampled before it is trained (share 0, no weights): "
                    f"give method.stages.{place}.share or method.stages.{place}.weights"
                )


methods: Registry[Method] = Registry("method", Method)


def on_shapes(node: Node, **options: Any) -> Method:
    """`methods.build` on the meta device: the method takes no memory and cannot compute.

    Where a part needs real numbers to be built, the method is built on the CPU as usual.
    """
    try:
        with torch.device("meta"):
            return methods.build(node, **options)
    except (NotImplementedError, RuntimeError, TypeError):
        return methods.build(node, **options)


def check_cond(cond: Cond, reads: Reads | None) -> None:
    """Checks that every condition but labels and text is read; `reads` None accepts all.

    Raises:
        ValueError: for a scalar, vector or low-resolution image that no network reads.
    """
    if reads is None:
        return
    unread = {f"scalars[{name!r}]": True for name in cond.scalars if name not in reads.scalars}
    unread |= {f"vectors[{name!r}]": True for name in cond.vectors if name not in reads.vectors}
    unread["low"] = cond.low is not None and not reads.low_channels
    for name, is_unread in unread.items():
        if is_unread:
            raise ValueError(f"no network of the method reads cond.{name}: leave it out")
