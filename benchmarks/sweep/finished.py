"""Whether a finished run answers what is asked for now: same options, files, data and code."""

from __future__ import annotations

import logging
from collections.abc import Mapping
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
# options that name or show a run, and all that is in them
NAMES = ("folder", "name", "label", "analysis", "dry_run")
APPEARANCE = (  # options that leave its numbers as they are
    *("data.cache", "method.codec.cache", "trainer.progress", "trainer.tensorboard"),
    *("trainer.keep", "trainer.checkpoint_every", "trainer.sheet_every", "trainer.sheet_images"),
    "trainer.log_every",
)


class Unlike(ValueError):
    """A finished run was made with other options than are asked for."""


def finished_record(
    config: Mapping[str, Any], folder: Path, digests: dict[str, str] | None = None
) -> Record | None:
    """The record of a run of which nothing is missing. Raises `Unlike`. digests: as `data_digest`
    keeps them."""
    record = Record.read(folder) if (folder / FILE).exists() else None
    if record is None or record.failure is not None:
        return None
    check_same(record, config, folder, digests)
    analysis = config.get("analysis")
    return record if analysis is None or analysis["name"] in record.analysis else None


def check_same(
    record: Record,
    config: Mapping[str, Any],
    folder: Path,
    digests: dict[str, str] | None = None,
) -> None:
    """Refuses a finished run as the answer to another config than it was made with.

    Files, data and code that have changed since are differences too, but not another commit of
    hierdiff. digests: as `data_digest` keeps them. Raises: `Unlike`.
    """
    check_same_options(record, config, folder)
    made_of = record.provenance.get("inputs")
    if made_of is None:
        log.warning(
            "%s does not say from what it was made: its options alone were compared", folder / FILE
        )
        return
    other = changed(made_of, inputs_of(config, data_digest(config["data"], digests)))
    if other is not None:
        now = flat(record_plain(config, "config", free=True))
        place = {"data": config["data"].get("root")}.get(other, now.get(other))
        raise Unlike(
            f"{folder / FILE} was made from another content of {other}"
            f"{'' if place is None else f' ({place})'} than there is now: "
            f"remove it, or give another folder=..."
        )


def check_same_options(record: Record, config: Mapping[str, Any], folder: Path) -> None:
    """`Unlike` for an option with another value. What was open then (`auto`, steps that a budget
    decides) is no difference, nor is what names or shows a run."""
    was, now = (flat(record_plain(node, "config", free=True)) for node in (record.config, config))
    budgets = {name for name, amount in config["match"].items() if amount is not None}
    by_budget = {"trainer.steps": TRAINING, "sampler.steps": SAMPLING}
    ignored = {key for key, kind in by_budget.items() if budgets & set(kind)}
    if record.provenance.get("inputs") is not None:
        ignored |= {"data.root", "data.test_root"}  # the digest of the data stands for it
    for key in sorted({*was, *now} - ignored):
        before, after = was.get(key), now.get(key)
        open_then = after == AUTO or (isinstance(after, list) and before in _meanings(after))
        shown = key.partition(".")[0] in NAMES or key in APPEARANCE
        if not shown and before != after and not open_then:
            raise Unlike(
                f"{folder / FILE} was made with {key}={before!r}, now it is {after!r}: "
                f"remove it, or give another folder=..."
            )


def inputs_of(config: Mapping[str, Any], data: str) -> dict[str, str]:
    """What a record is made from beside its options; data: digest of its data."""
    node, files = config["measure"]["extractor"], {}
    released = getattr(extractors.named(node), "released", None)
    if released is not None and node.get("weights") is None:
        found = (place for place in weights.places(released) if place.is_file())
        files = {f"{place.name} for measure.extractor": place for place in [*found][:1]}
    return inputs({k: v for k, v in config.items() if k not in NAMES}, data=data, files=files)


def data_digest(node: Mapping[str, Any], digests: dict[str, str] | None = None) -> str:
    """Of the data of a node as it is now, or as it was when `digests` was begun."""
    digests = {} if digests is None else digests
    key = content_hash(record_plain(node, "data", free=True))
    if key not in digests:
        digests[key] = datasets.build(node).sha256
    return digests[key]


def _meanings(metrics: list[Any]) -> list[list[Any]]:
    """What `auto` in a list may have become."""
    return [[m for name in metrics for m in (able if name == AUTO else [name])]
            for able in ([], [ATTRIBUTES])]  # fmt: skip
