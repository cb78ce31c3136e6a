"""Times finished runs again, all of them interleaved."""

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
from benchmarks.settings import TimingOptions, group_of
from hierdiff.config import from_yaml
from hierdiff.files.lock import worked_in
from hierdiff.inputs import changed, inputs
from hierdiff.resolution import Name, name_of, text_of
from hierdiff.results.cost import Cost
from hierdiff.results.folders import paths
from hierdiff.results.provenance import machine, now
from hierdiff.results.record import Record
from hierdiff.training.bounds import built
from hierdiff.training.format import header
from hierdiff.trust import check_trust

log = logging.getLogger(__name__)


def time_again(
    folders: Sequence[str],
    overrides: Mapping[str, Any],
    *,
    anew: bool = False,
    trust: Collection[str] = (),
) -> list[Path]:
    """Times all finished runs below the folders together, interleaved, and writes their records.

    overrides: `batches`, `repeats`, `memory_cap`, `alone`; None for those of each run. A record
    says with which runs it was timed, how, when and where; runs that were last timed together in
    the same way are skipped unless `anew`. trust: see `check_trust`, for classes that the runs name
    by path. Returns the paths of the records. Where another process works in a folder, `Busy` is
    raised; for code that is not trusted, PermissionError.

    Raises:
        ValueError: where no run is finished, or no case of a run could be timed; that run then
            keeps its costs.
    """
    with ExitStack() as held:
        records = finished_records(folders, held)
        configs = {path: read_config(path.parent, trust) for path in records}
        records = unchanged(records, configs)
        if not records:
            raise ValueError(
                f"no finished run under {', '.join(folders)}: make one by python -m benchmarks.run"
            )
        configs = {path: configs[path] for path in records}
        names = sorted(path.parent.name for path in records)
        about = {"together": names, "asked": dict(overrides)}
        digests = {path.parent.name: inputs(config) for path, config in configs.items()}
        if any(digests.values()):
            about["inputs"] = digests
        before = [record.provenance.get("cost") or {} for record in records.values()]
        if not anew and all({**one, **about} == one for one in before):
            log.info("timed together at %s: --anew times them again", before[0].get("ended"))
            return list(records)
        rows = time_together(records, configs, overrides)
        write_costs(records, rows, {**about, "ended": now(), "machine": machine()})
    return list(records)


def finished_records(folders: Sequence[str], held: ExitStack) -> dict[Path, Record]:
    """Records below the folders that have numbers and were not edited, by path.

    held: takes the locks of their folders.
    """
    records: dict[Path, Record] = {}
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
            records[path] = record
    return records


def unchanged(
    records: Mapping[Path, Record], configs: Mapping[Path, Mapping[str, Any]]
) -> dict[Path, Record]:
    """The records whose files and code are as they were; the log names the others."""
    same = dict(records)
    for path, config in configs.items():
        other = changed(records[path].provenance.get("inputs") or {}, inputs(config))
        if other is not None:
            log.warning(
                "%s was made from another content of %s than there is now and keeps its times: "
                "make it again, or put the old one back",
                *(path, other),
            )
            del same[path]
    return same


def write_costs(
    records: Mapping[Path, Record], rows: Mapping[Path, Sequence[Cost]], about: Mapping[str, Any]
) -> None:
    """Writes the records with their new costs.

    Raises:
        ValueError: at the end, where no case of a record could be timed.
    """
    reasons = {
        path: [row.train_failure or row.sample_failure for row in rows[path]] for path in records
    }
    lost = {path: why[0] for path, why in reasons.items() if why and all(why)}
    for path, record in records.items():
        if path not in lost:
            provenance = {**record.provenance, "cost": dict(about)}
            cost = tuple(by_resolution(rows[path]))
            replace(record, cost=cost, provenance=provenance).write(path)
    if lost:
        listed = "; ".join(f"{path.parent}: {why}" for path, why in lost.items())
        raise ValueError(f"no case could be timed, so the costs there stay as they were: {listed}")


def time_together(
    records: Mapping[Path, Record],
    configs: Mapping[Path, Mapping[str, Any]],
    overrides: Mapping[str, Any],
) -> dict[Path, list[Cost]]:
    """Rows of the cases of each record; all its processes live at once.

    Raises:
        ValueError: where a record or its config lacks what its timing needs.
    """
    owned = []
    for path, record in records.items():
        config = configs[path]
        device = device_for(config["trainer"].get("accelerator"))
        try:
            new = {name: value for name, value in overrides.items() if value is not None}
            timing = group_of(TimingOptions, {**record.config["cost"], **new}, "cost")
            cases = cases_of(config, trajectories_of(record), timing, device.type)
        except (KeyError, TypeError, AttributeError) as error:
            why = " ".join(str(error).split())[:300]
            raise ValueError(
                f"{path} does not say how it is to be timed ({type(error).__name__}: {why}): "
                f"make it again"
            ) from error
        owned += [(path, case) for case in cases]
    rows: dict[Path, list[Cost]] = {path: [] for path in records}
    for what in ("train", "sample"):
        chosen = [(path, case) for path, case in owned if case.what == what]
        for (path, _), row in zip(chosen, costs([case for _, case in chosen], track), strict=True):
            rows[path].append(row)
    return rows


def trajectories_of(record: Record) -> list[tuple[Name, ...]]:
    """Names of the levels of each trajectory, by the costs of the record; else each level alone."""
    rows = [c for c in record.cost if c.part is None]
    levels = {text_of(c.level): c.level for c in rows}
    known = list(dict.fromkeys(tuple(map(text_of, c.trajectory)) for c in rows))
    own = [text_of(name) for name in record.resolutions]
    if sorted(name for trajectory in known for name in trajectory) != sorted(own):
        known = [(name,) for name in own]
    return [tuple(levels.get(name, name_of(name)) for name in trajectory) for trajectory in known]


REQUIRED: dict[str, Any] = {  # parts of a config that a case needs, with their types
    **{"method": dict, "facts": dict, "trainer": dict, "text": (dict, type(None))},
    **{"trainer.precision": str, "trainer.channels_last": bool, "trainer.compile": (bool, str)},
}


def read_config(folder: Path, trust: Collection[str] = ()) -> dict[str, Any]:
    """The config beside the weights of a run, of a method whose size is that of the weights.

    Raises:
        PermissionError: for code that is not trusted, before it is imported.
        ValueError: where the file cannot be read, lacks a part, or describes another size.
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
    wrong = [key for key, kind in REQUIRED.items() if not isinstance(values.get(key, ...), kind)]
    if wrong:
        raise ValueError(f"{path} has no usable {', '.join(wrong)}: copy it again from its run")
    weights = folder / "weights.safetensors"
    shapes = header(weights)[0] if weights.is_file() else None
    built(config, path, shapes, real=False)
    return config
