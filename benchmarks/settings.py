"""The settings of a run: one frozen object, made of the composed config at the entry point.

Groups with a fixed set of options are typed here and checked by their annotations. What a
constructor checks (`data`, `denoiser`, `sampler`, `method`, `trainer`, and the nodes inside
`measure`) is an immutable mapping. Where a run settles an option (`auto`, steps that a budget
decides), it makes a new object. `Settings.to_config` gives the config back, value for value, for
the record.
`configs/benchmark.yaml` gives the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

from benchmarks.conditions import Labels
from hierdiff.guidance import Scale
from hierdiff.metrics.extractors import Extractor
from hierdiff.metrics.perceptual import Perceptual
from hierdiff.options import Between, Count, Length, Natural, Positive, check, hints
from hierdiff.prepared import check_chosen
from hierdiff.registry import Later, Node, check_node, complete
from hierdiff.resolution import Sides

Several = Between(2)  # one image has no covariance
Text = str | int | float  # a name, as YAML reads it
G = TypeVar("G")


@dataclass(frozen=True)
class Curve:
    """Options of a learning curve. samples: images, 0 for none; loss: images of the loss."""

    samples: Natural
    metrics: Sequence[str]
    loss: Natural


@dataclass(frozen=True)
class Measure:
    """Options of the quality. samples: images under each of `seeds`; labels: see
    `EvaluationConditions`; batch: images of a process between two exchanges; pack: images in one
    call of the networks; scale: also rows of real images and of a Gaussian; references:
    {resolution: file} (32, or 8x32x32 of clips) of statistics instead of the training images."""

    extractor: Later[Extractor]
    metrics: Sequence[str]
    samples: Annotated[int, Several]
    seeds: Annotated[Sequence[int], Length(1, more=True)]
    resolutions: Sequence[Count | Sides]
    batch: Count
    curve: Curve
    labels: Labels
    pack: Count
    scale: bool
    references: Mapping[int | str, str | Path] | None
    perceptual: Later[Perceptual]


@dataclass(frozen=True)
class Match:
    """Budgets that methods share, at most one of training and one of sampling; None: no budget.

    images, flops, seconds: of training, over all stages. flops_per_image, latency (seconds): of
    sampling. Seconds are those of this machine.
    """

    images: Positive | None = None
    flops: Positive | None = None
    seconds: Positive | None = None
    flops_per_image: Positive | None = None
    latency: Positive | None = None

    def amounts(self) -> dict[str, float]:
        """The budgets that are set, by name."""
        amounts = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: float(amount) for name, amount in amounts.items() if amount is not None}


@dataclass(frozen=True)
class Selection:
    """What is chosen after training by the quality of a few samples; [] leaves an option as it is.

    guidance, steps: of the sampler. ema: half-lives out of `trainer.ema`. metric: that decides;
    samples, seed: of each candidate, under the conditions of training images.
    """

    guidance: Sequence[Scale]
    steps: Sequence[Count]
    ema: Sequence[float]
    metric: str
    samples: Annotated[int, Several]
    seed: int

    @property
    def options(self) -> dict[str, Sequence[Any]]:
        """The values of each option that is selected, by name."""
        lists = {"guidance": self.guidance, "steps": self.steps, "ema": self.ema}
        return {name: values for name, values in lists.items() if values}


@dataclass(frozen=True)
class TimingOptions:
    """Options of the costs. batches: sizes to try; memory_cap: MiB; repeats: 0 for no costs; alone:
    also the network of each coarse joint level without the rest."""

    batches: Annotated[Sequence[Count], Length(1, more=True)]
    memory_cap: Positive | None
    repeats: Natural
    alone: bool = False


@dataclass(frozen=True)
class Analysis:
    """An analysis beside the row. samples: images of each point. log_snrs: of the augmentation, in
    "exposure_bias". steps: of the sampler, in "steps"; None for those of the method."""

    name: Literal["exposure_bias", "steps", "spectrum", "experts"]
    samples: Annotated[int, Several]
    log_snrs: Sequence[float] = ()
    steps: Annotated[Sequence[Count], Length(1, more=True)] | None = None


@dataclass(frozen=True)
class Protocol:
    """What a published protocol states of the finest images.

    source: where it is stated. resolution: side in pixels. samples: in one value. labels: see
    `EvaluationConditions`. extractor: its name, weights: the first digits of their sha256, None for
    any. metrics: names. reference: name of a file, "train" for the training images, of which there
    are `images`, or "captions". url: where the file comes from, or the command that makes it.
    """

    name: str
    source: str
    resolution: Count
    samples: Count
    labels: Labels
    extractor: str
    metrics: Sequence[str]
    reference: str
    weights: str | None = None
    images: Count | None = None
    url: str | None = None


@dataclass(frozen=True)
class Settings:
    """One run of the benchmark.

    label: of its row. folder: where it works. dry_run: true for the plan alone, "time" to time some
    steps for it. analysis, recipe_name, protocol: None for none. samples: whether all measured
    samples stay in the folder, and as what (`hierdiff.files.samples`). The options of
    `hierdiff.train` are as there; checkpoint: of `method=published`; of, steps: of
    `method=distilled`.
    """

    measure: Measure
    match: Match
    select: Selection
    cost: TimingOptions
    dry_run: bool | str
    data: Node
    method: Node
    trainer: Node
    seed: int
    part: str
    name: Text
    folder: str | Path
    label: Text
    budget_name: Text
    denoiser: Node | None = None
    sampler: Node | None = None
    analysis: Analysis | None = None
    recipe_name: Text | None = None
    protocol: Protocol | None = None
    samples: Literal["npz", "png", "webdataset"] | None = None
    checkpoint: str | Sequence[str] | None = None
    of: str | None = None
    steps: Sequence[Count] | None = None

    @property
    def place(self) -> Path:
        """The run folder."""
        return Path(self.folder)

    def to_config(self) -> dict[str, Any]:
        """The config of these settings, as new dicts, lists and plain values."""
        config = thaw(self)
        unchosen = (
            *("denoiser", "sampler", "analysis", "recipe_name", "protocol", "checkpoint"),
            *("of", "steps"),
        )
        for group in unchosen:
            if config[group] is None:  # as hydra leaves out a group of which nothing is chosen
                del config[group]
        return config

    def sampled_by(self, options: Mapping[str, Any]) -> Settings:
        """New settings with some options of the sampler."""
        return replace(self, sampler=freeze({**(self.sampler or {}), **options}) or self.sampler)


GROUPS: dict[str, type] = {
    "measure": Measure,
    "match": Match,
    "cost": TimingOptions,
    "select": Selection,
    "analysis": Analysis,
    "protocol": Protocol,
}
OPTIONAL = ("analysis", "protocol")  # groups of which nothing may be chosen
NAMES = ("name", "label", "folder", "dry_run")  # by which a job is known before anything else


def settings_of(config: Mapping[str, Any]) -> Settings:
    """The settings of a composed config, deeply immutable; what a constructor checks is not checked
    here.

    Raises:
        ValueError: for an unknown option of a group, or a value that an option cannot have.
    """
    groups: dict[str, Any] = {
        name: group_of(schema, config[name], name)
        for name, schema in GROUPS.items()
        if config.get(name) is not None or name not in OPTIONAL
    }
    check_chosen(config)
    rest = {key: freeze(value) for key, value in config.items() if key not in GROUPS}
    check_run_options(rest)
    complete(Settings, {**rest, **groups}, "a run")
    return Settings(**{**rest, **groups})


def group_of(schema: type[G], node: Any, at: str) -> G:
    """A typed group of options from its mapping; at: its path in the config, for errors.

    Raises:
        ValueError: for a value that is no mapping, an unknown or missing option, or a value that an
            option cannot have.
    """
    check(node, Mapping, at)
    if schema is Measure and "curve" in node:
        node = {**node, "curve": group_of(Curve, node["curve"], f"{at}.curve")}
    check_node(schema, node, at, at=at)
    if schema in (Analysis, Protocol):  # whose name is an option as well
        check(node.get("name"), str, f"{at}.name")
    complete(schema, node, at, at)
    return schema(**{name: freeze(value) for name, value in node.items()})


def check_run_names(config: Mapping[str, Any]) -> None:
    """Refuses a name or a folder of another type.

    Raises:
        ValueError: for such a value.
    """
    check_run_options({name: config[name] for name in NAMES if name in config})


def check_run_options(options: Mapping[str, Any]) -> None:
    """Refuses a value that a single option of a run cannot have.

    Raises:
        ValueError: for such a value.
    """
    kinds = hints(Settings)
    for name, value in options.items():
        check(value, kinds.get(name, Any), name)


def freeze(value: Any) -> Any:
    """A deep copy in which mappings and lists are immutable."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: freeze(one) for key, one in value.items()})
    return tuple(map(freeze, value)) if isinstance(value, (list, tuple)) else value


def thaw(value: Any) -> Any:
    """The inverse of `freeze`, with dataclasses as dicts of their fields."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: thaw(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {key: thaw(one) for key, one in value.items()}
    return [thaw(one) for one in value] if isinstance(value, (list, tuple)) else value
