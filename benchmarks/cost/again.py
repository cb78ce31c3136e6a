"""Finished runs timed again, all of them interleaved."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.cost.cases import by_resolution, cases_of
from benchmarks.cost.worker import costs
from benchmarks.device import device_for
from benchmarks.progress import track
from benchmarks.settings import Timing, group_of
from hierdiff.config import from_yaml
from hierdiff.files.lock import worked_in
from hierdiff.inputs import changed, inputs
from hierdiff.levels import Name, name_of, text_of
from hierdiff.results.folders import paths
from hierdiff.results.provenance import machine, now
from hierdiff.results.record import Record
from hierdiff.results.rows import level_of
from hierdiff.training.bounds import built
from hierdiff.training.format import header
from hierdiff.trust import check_trust

log = logging.getLogger(__name__)


def again(
    folders: Sequence[str],
    asked: Mapping[str, Any],
    *,
    anew: bool = False,
    trust: Collection[str] = (),
) -> list[Path]:
    """Times all finished runs below the folders together, interleaved, and writes their records.

    asked: `batches`, `repeats`, `memory_cap`, None for those of each run. A record says with which
    runs it was timed, how, when and where; runs that were last timed so with each other are left
    alone unless `anew`. trust: as `check_trust` has it, for classes that the runs name by path.

    Raises: `Busy` where another process works in a folder; PermissionError for code that is not
    trusted; ValueError where nothing is finished, and where no case of a run could be timed, which
    then keeps the costs that it has.
    """
    with ExitStack() as held:
        found = finished_records(folders, held)
        configs = {path: kept_config(path.parent, trust) for path in found}
        found = unchanged(found, configs)
        if not found:
            raise ValueError(
                f"no finished run under {', '.join(folders)}: make one by python -m benchmarks.run"
            )
        configs = {path: configs[path] for path in found}
        about = {"together": sorted(path.parent.name for path in found), "asked": dict(asked)}
        made_of = {path.parent.name: inputs(config) for path, config in configs.items()}
        if any(made_of.values()):
            about["inputs"] = made_of
        before = [record.provenance.get("cost") or {} for record in found.values()]
        if not anew and all({**one, **about} == one for one in before):
            log.info("timed together at %s: --anew times them again", before[0].get("ended"))
            return list(found)
        rows = time_together(found, configs, asked)
        write_costs(found, rows, {**about, "ended": now(), "machine": machine()})
    return list(found)


def finished_records(folders: Sequence[str], held: ExitStack) -> dict[Path, Record]:
    """Whole records below the folders; `held` holds their folders from now on."""
    found: dict[Path, Record] = {}
    for path in paths(*folders):
        held.enter_context(worked_in(path.parent))
        try:
            record = Record.read(path)
        except (ValueError, OSError) as error:
            log.warning("left out: %s", error)
            continue
        if record.edited:
            log.warning("%s was changed by hand and keeps its times: make it again", path)
        elif record.failure is None:
            found[path] = record
    return found


def unchanged(
    found: Mapping[Path, Record], configs: Mapping[Path, Mapping[str, Any]]
) -> dict[Path, Record]:
    """The records whose files and code are still as they were; of the others the log says so."""
    same = dict(found)
    for path, config in configs.items():
        other = changed(found[path].provenance.get("inputs") or {}, inputs(config))
        if other is not None:
            log.warning(
                "%s was made from another content of %s than there is now and keeps its times: "
                "make it again, or put the old one back",
                *(path, other),
            )
            del same[path]
    return same


def write_costs(
    found: Mapping[Path, Record], rows: Mapping[Path, Sequence[Any]], about: Mapping[str, Any]
) -> None:
    """Writes the records with their new costs. ValueError where no case of one could be timed."""
    lost = {path: why for path in found if (why := _all_failed(rows[path])) is not None}
    for path, record in found.items():
        if path not in lost:
            provenance = {**record.provenance, "cost": dict(about)}
            cost = tuple(by_resolution(rows[path]))
            replace(record, cost=cost, provenance=provenance).write(path)
    if lost:
        reasons = "; ".join(f"{path.parent}: {why}" for path, why in lost.items())
        raise ValueError(f"no case could be timed, so the costs there stay as they were: {reasons}")


def _all_failed(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The reason of the first case where none has numbers."""
    reasons = [[v for k, v in row.items() if k.endswith("_failure")] for row in rows]
    return str(reasons[0][0]) if reasons and all(reasons) else None


def time_together(
    found: Mapping[Path, Record],
    configs: Mapping[Path, Mapping[str, Any]],
    asked: Mapping[str, Any],
) -> dict[Path, list[Any]]:
    """Rows of the cases of each record, as many processes at once as the methods have levels."""
    owned = []
    for path, record in found.items():
        config = configs[path]
        device = device_for(config["trainer"].get("accelerator"))
        try:
            given = {name: value for name, value in asked.items() if value is not None}
            timing = group_of(Timing, {**record.config["cost"], **given}, "cost")
            cases = cases_of(config, trajectories_of(record), timing, device.type)
        except (KeyError, TypeError, AttributeError) as error:
            why = " ".join(str(error).split())[:300]
            raise ValueError(
                f"{path} does not say how it is to be timed ({type(error).__name__}: {why}): "
                f"make it again"
            ) from error
        owned += [(path, case) for case in cases]
    rows: dict[Path, list[Any]] = {path: [] for path in found}
    for what in ("train", "sample"):
        chosen = [(path, case) for path, case in owned if case.what == what]
        for (path, _), row in zip(chosen, costs([case for _, case in chosen], track), strict=True):
            rows[path].append(row)
    return rows


def trajectories_of(record: Record) -> list[tuple[Name, ...]]:
    """Levels of one trajectory together where its costs say so, else each by itself."""
    rows = [c for c in record.cost if c.get("part") is None]
    levels = {text_of(name): name for name in map(level_of, rows)}
    known = list(dict.fromkeys(tuple(map(text_of, c.get("trajectory") or ())) for c in rows))
    own = [text_of(name) for name in record.resolutions]
    if sorted(name for trajectory in known for name in trajectory) != sorted(own):
        known = [(name,) for name in own]
    return [tuple(levels.get(name, name_of(name)) for name in trajectory) for trajectory in known]


KEPT: dict[str, Any] = {  # parts of a run's config that its cases are made of
    **{"method": dict, "facts": dict, "trainer": dict, "text": (dict, type(None))},
    **{"trainer.precision": str, "trainer.channels_last": bool, "trainer.compile": bool},
}


def kept_config(folder: Path, trust: Collection[str] = ()) -> dict[str, Any]:
    """What a run kept beside its weights, of a size that its weights have.

    Errors: PermissionError before anything untrusted is imported; ValueError.
    """
    path = folder / "config.yaml"
    try:
        config = from_yaml(path)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read, without which {folder} cannot be timed"
        ) from error
    check_trust(config, trust, path)
    trainer = config["trainer"] if isinstance(config.get("trainer"), dict) else {}
    values = {**config, **{f"trainer.{key}": value for key, value in trainer.items()}}
    wrong = [key for key, kind in KEPT.items() if not isinstance(values.get(key, ...), kind)]
    if wrong:
        raise ValueError(f"{path} has no usable {', '.join(wrong)}: copy it again from its run")
    weights = folder / "weights.safetensors"
    shapes = header(weights)[0] if weights.is_file() else None
    built(config, path, shapes, real=False)
    return config
