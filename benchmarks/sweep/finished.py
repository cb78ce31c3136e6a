"""Whether a finished run has the options, files, data and code of the run that is wanted now."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure.quality import AUTO
from benchmarks.plan.budget import SAMPLING
from benchmarks.plan.plan import TRAINING
from hierdiff.data import datasets
from hierdiff.inputs import changed, inputs
from hierdiff.metrics import weights
from hierdiff.metrics.attributes import ATTRIBUTES
from hierdiff.metrics.extractors import extractors
from hierdiff.results.flat import flat
from hierdiff.results.plain import content_hash
from hierdiff.results.plain import plain as record_plain
from hierdiff.results.record import FILE, Record

log = logging.getLogger(__name__)
# options that name or display a run, and those inside them
OPTIONS = ("guidance", "steps", "ema")  # that a selection may have
NAMES = ("folder", "name", "label", "analysis", "dry_run")
APPEARANCE = (  # options that do not change its numbers
    *("data.cache", "method.codec.cache", "trainer.progress", "trainer.tensorboard"),
    *("trainer.loggers", "data.reading.workers", "data.reading.decoded"),
    *("trainer.keep", "trainer.checkpoint_every", "trainer.sheet_every", "trainer.sheet_images"),
    *("trainer.log_every", "samples", "trust"),
)
UNSAID = {  # what older records do not say, and what their runs did
    **{"measure.labels": "test", "measure.scale": True, "trainer.recompute": False},
    **{"trainer.matmul": "highest", "method.basis": "pyramid", "method.times": "joint"},
    **{"data.reading.crop": "center", "data.reading.filter": "area"},
    **{"data.reading.broken": "skip", "data.reading.uncaptioned": "empty"},
}


class Unlike(ValueError):
    """A finished run differs from the one that is wanted."""


def record_in(
    config: Mapping[str, Any], folder: Path, digests: dict[str, str] | None = None
) -> Record | None:
    """The record of a run that has ended with its numbers; None where there is none.

    Files, data and code that have changed since make it another run; another commit of hierdiff
    does not. digests: a cache, see `data_digest`.

    Raises:
        Unlike: for the record of a run with another config, with the first difference.
    """
    record = Record.read(folder) if (folder / FILE).exists() else None
    if record is None or record.failure is not None:
        return None
    check_same_options(record, config, folder)
    check_same_inputs(
        record, config, folder, lambda: inputs_of(config, data_digest(config["data"], digests))
    )
    return record


def finished_record(
    config: Mapping[str, Any], folder: Path, digests: dict[str, str] | None = None
) -> Record | None:
    """As `record_in`; None where the record lacks the analysis of the config too."""
    record, analysis = record_in(config, folder, digests), config.get("analysis")
    lacks = record is not None and analysis is not None and analysis["name"] not in record.analysis
    return None if lacks else record


def check_same_inputs(
    record: Record,
    config: Mapping[str, Any],
    folder: Path,
    inputs_now: Callable[[], Mapping[str, str]],
) -> None:
    """Refuses a record that was made from other files, data or code.

    inputs_now: makes the digests of what there is now; not called for a record that has none.

    Raises:
        Unlike: for the first difference.
    """
    inputs_then = record.provenance.get("inputs")
    if inputs_then is None:
        log.warning(
            "%s does not say from what it was made: its options alone were compared", folder / FILE
        )
        return
    other = changed(inputs_then, inputs_now())
    if other is not None:
        now = flat(record_plain(config, "config", free=True))
        place = {"data": now.get("data.root")}.get(other, now.get(other))
        raise Unlike(
            f"{folder / FILE} was made from another content of {other}"
            f"{'' if place is None else f' ({place})'} than there is now: "
            f"remove it, or give another folder=..."
        )


def check_same_options(record: Record, config: Mapping[str, Any], folder: Path) -> None:
    """Refuses a record with another value of an option.

    Options that the run has settled (`auto`, what a budget or a selection decides) and those that
    name or display a run may differ.

    Raises:
        Unlike: for the first other value.
    """
    was, now = (flat(record_plain(node, "config", free=True)) for node in (record.config, config))
    budgets = {name for name, amount in config.get("match", {}).items() if amount is not None}
    by_budget = {"trainer.steps": TRAINING, "sampler.steps": SAMPLING}
    ignored = {key for key, kind in by_budget.items() if budgets & set(kind)}
    selected = {name for name in OPTIONS if now.get(f"select.{name}")}
    ignored |= {f"sampler.{name}" for name in selected}
    if not selected and not any(was.get(f"select.{name}") for name in OPTIONS):
        ignored |= {key for key in {*was, *now} if key.startswith("select.")}
    if "measure.pack" not in was:  # earlier versions made 64 images in a call
        ignored |= {"measure.pack"}
    was = {**{key: value for key, value in UNSAID.items() if key in now}, **was}
    if record.provenance.get("inputs") is not None:
        ignored |= {"data.root", "data.test_root", "images"}  # digests of contents stand for them
    for key in sorted({*was, *now} - ignored):
        before, after = was.get(key), now.get(key)
        open_then = after == AUTO or (isinstance(after, list) and before in _meanings(after))
        display = key.partition(".")[0] in NAMES or key in APPEARANCE
        if not display and before != after and not open_then:
            raise Unlike(
                f"{folder / FILE} was made with {key}={before!r}, now it is {after!r}: "
                f"remove it, or give another folder=..."
            )


def inputs_of(config: Mapping[str, Any], data: str | None) -> dict[str, str]:
    """Digests of what a record depends on beside its options; data: digest of its data."""
    node, files = config["measure"]["extractor"], {}
    released = getattr(extractors.named(node), "released", None)
    if released is not None and node.get("weights") is None:
        paths = (place for place in weights.search_paths(released) if place.is_file())
        files = {f"{place.name} for measure.extractor": place for place in [*paths][:1]}
    return inputs({k: v for k, v in config.items() if k not in NAMES}, data=data, files=files)


def data_digest(node: Mapping[str, Any], digests: dict[str, str] | None = None) -> str:
    """The digest of the data of a node; digests: a cache, so that each data set is read once."""
    digests = {} if digests is None else digests
    key = content_hash(record_plain(node, "data", free=True))
    if key not in digests:
        digests[key] = datasets.build(node).sha256
    return digests[key]


def _meanings(metrics: list[Any]) -> list[list[Any]]:
    """The values that `auto` in a list of metrics may have been settled to."""
    return [[m for name in metrics for m in (able if name == AUTO else [name])]
            for able in ([], [ATTRIBUTES])]  # fmt: skip
