"""The settings of a run: one frozen object, made of the composed config at the entry point.

Groups with a fixed set of options are typed here and checked by their annotations. What a
constructor checks (`data`, `denoiser`, `sampler`, `method`, `trainer`, and the nodes inside
`measure`) is an immutable mapping. What a run settles (`auto`, steps that a budget decides) gives
another object, and `Settings.to_config` is the config again, value for value: a record keeps it.
`configs/benchmark.yaml` gives the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from hierdiff.levels import Sides
from hierdiff.metrics.extractors import Extractor
from hierdiff.metrics.perceptual import Perceptual
from hierdiff.options import Between, Count, Length, Natural, Positive, check, hints
from hierdiff.registry import Later, Node, check_node, complete
from hierdiff.train import check_chosen

Several = Between(2)  # statistics of one image are none
Text = str | int | float  # what YAML makes of a name
G = TypeVar("G")


@dataclass(frozen=True)
class Curve:
    """How a learning curve is measured. samples: images, 0 for none; loss: images of the loss."""

    samples: Natural
    metrics: Sequence[str]
    loss: Natural


@dataclass(frozen=True)
class Measure:
    """How a run is measured. samples: images under each of `seeds`; batch: images at once;
    references: {resolution: file} (32, or 8x32x32 of clips) of statistics instead of the training
    images."""

    extractor: Later[Extractor]
    metrics: Sequence[str]
    samples: Annotated[int, Several]
    seeds: Annotated[Sequence[int], Length(1, more=True)]
    resolutions: Sequence[Count | Sides]
    batch: Count
    curve: Curve
    references: Mapping[int | str, str | Path]
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
        """The budgets that are given, by name."""
        amounts = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: float(amount) for name, amount in amounts.items() if amount is not None}


@dataclass(frozen=True)
class TimingOptions:
    """How costs are timed. batches: sizes to try; memory_cap: MiB; repeats: 0 for no costs; alone:
    also the network of each coarse joint level without the rest."""

    batches: Annotated[Sequence[Count], Length(1, more=True)]
    memory_cap: Positive | None
    repeats: Natural
    alone: bool = False


@dataclass(frozen=True)
class Analysis:
    """What is looked at beside the row. name: "exposure_bias"; samples: images; log_snrs: of the
    augmentation."""

    name: str
    samples: Annotated[int, Several]
    log_snrs: Sequence[float]


@dataclass(frozen=True)
class Settings:
    """One run of the benchmark.

    label: of its row. folder: where it works. dry_run: true for the plan alone, "time" to time some
    steps for it. analysis: None for none. The options of `hierdiff.train` are as there.
    """

    measure: Measure
    match: Match
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

    @property
    def place(self) -> Path:
        """The run folder."""
        return Path(self.folder)

    def to_config(self) -> dict[str, Any]:
        """The config that these settings are made of, as new dicts, lists and plain values."""
        config = thaw(self)
        for group in ("denoiser", "sampler", "analysis"):
            if config[group] is None:  # as hydra leaves out a group of which nothing is chosen
                del config[group]
        return config

    def settle(
        self,
        *,
        metrics: Sequence[str] | None = None,
        trainer: Mapping[str, Any] | None = None,
        sampler_steps: int | None = None,
    ) -> Settings:
        """Other settings, in which what a run has found out is definite; None: nothing new."""
        new = self
        if metrics is not None:
            new = replace(new, measure=replace(new.measure, metrics=tuple(metrics)))
        if trainer is not None:
            new = replace(new, trainer=freeze(trainer))
        if sampler_steps is not None:
            new = replace(new, sampler=freeze({**(new.sampler or {}), "steps": sampler_steps}))
        return new


GROUPS: dict[str, type] = {
    "measure": Measure,
    "match": Match,
    "cost": TimingOptions,
    "analysis": Analysis,
}
NAMES = ("name", "label", "folder", "dry_run")  # by which a job is known before anything else


def settings_of(config: Mapping[str, Any]) -> Settings:
    """The settings of a composed config, of which nothing is kept that could change.

    Raises: ValueError for an option of a group that is not there, or cannot have its value. What
    a constructor checks is not looked at.
    """
    groups: dict[str, Any] = {
        name: group_of(schema, config[name], name)
        for name, schema in GROUPS.items()
        if config.get(name) is not None or name != "analysis"
    }
    check_chosen(config)
    rest = {key: freeze(value) for key, value in config.items() if key not in GROUPS}
    check_options(rest)
    complete(Settings, {**rest, **groups}, "a run")
    return Settings(**{**rest, **groups})


def group_of(schema: type[G], node: Any, at: str) -> G:
    """A typed group of options from its mapping.

    at: its path in the config, for errors. Raises: ValueError for a value that is no mapping, an
    unknown or missing option, or a value that an option cannot have.
    """
    check(node, Mapping, at)
    if schema is Measure and "curve" in node:
        node = {**node, "curve": group_of(Curve, node["curve"], f"{at}.curve")}
    check_node(schema, node, at, at=at)
    if schema is Analysis:  # whose name is an option as well
        check(node.get("name"), str, f"{at}.name")
    complete(schema, node, at, at)
    return schema(**{name: freeze(value) for name, value in node.items()})


def check_names(config: Mapping[str, Any]) -> None:
    """ValueError for a name or a folder that is none."""
    check_options({name: config[name] for name in NAMES if name in config})


def check_options(options: Mapping[str, Any]) -> None:
    """ValueError for an option of a run, no group of them, that cannot have its value."""
    kinds = hints(Settings)
    for name, value in options.items():
        check(value, kinds.get(name, Any), name)


def freeze(value: Any) -> Any:
    """Mappings and lists, and those inside, as copies that cannot be changed."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: freeze(one) for key, one in value.items()})
    return tuple(map(freeze, value)) if isinstance(value, (list, tuple)) else value


def thaw(value: Any) -> Any:
    """What `freeze` was given, and dataclasses as dicts of their fields."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: thaw(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {key: thaw(one) for key, one in value.items()}
    return [thaw(one) for one in value] if isinstance(value, (list, tuple)) else value
