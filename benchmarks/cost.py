"""What a method costs at each resolution, each case in a process of its own.

The cost at a resolution is that of what makes the images measured there (`Method.at`): all levels
that diffuse jointly, and of a cascade the stages up to it; weights are untrained. Sampling goes
through all stages of a cascade (parameters and FLOPs of an image are their sums, FLOPs of a call
those of the last) and through the decoder of a codec; training is that of the last stage, by the
trainer's own step. One sample is end to end, from a caption to 8-bit pixels. Of levels that diffuse
jointly, `cost.alone` also measures the network of the coarser ones without the rest, which makes
none of the images that are measured: rows of their own, with the part "alone".

Of several batch sizes, tried from the smallest until memory runs out, the one with the best
throughput under the cap is kept. A process of its own isolates allocator, caches and crashes, and
on CPU its high-water mark is the memory figure. The processes are then asked for one repeat each,
in turn, backwards and forwards, so that a machine that slows down favours nobody.

    python -m benchmarks.cost RUNS       times finished runs again, all of them interleaved
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Track
from benchmarks.work import OUT_OF_MEMORY, WARMUP, Case, device_for
from hierdiff.config import from_yaml, one_line, printable, reported
from hierdiff.files import worked_in
from hierdiff.inputs import changed, inputs
from hierdiff.metrics.cost import load_average, timing
from hierdiff.record import Record, machine, now
from hierdiff.results import paths
from hierdiff.training.bounds import built
from hierdiff.training.checkpoint import header
from hierdiff.trust import check_trust

log = logging.getLogger(__name__)


STEP = (  # options of `trainer` on which the time and memory of a step depend, beside those of Case
    *("accumulate", "optimizer", "optimizer_options", "lr", "betas", "weight_decay", "clip"),
    *("ema", "ema_ramp"),
)


def cases_of(
    config: Mapping[str, Any],
    trajectories: Sequence[Sequence[int]],
    wanted: Mapping[str, Any],
    device: str,
    caption: str = "",
) -> list[Case]:
    """Training and sampling of each trajectory, none for no repeats.

    config: of a run, as it is kept beside its weights; trajectories: see `work.trajectories`;
    wanted: `batches`, `repeats`, `memory_cap`, and `alone` for parts of a trajectory as well.
    """
    if not wanted["repeats"]:
        return []
    if not wanted["batches"] or min(wanted["batches"]) < 1:
        raise ValueError(f"cost.batches={list(wanted['batches'])}: give sizes of 1 or more to try")
    trainer = config["trainer"]
    step = {name: trainer[name] for name in STEP if name in trainer}
    parts = [(tuple(sides), False) for sides in trajectories]
    if wanted.get("alone"):
        parts += [((side,), True) for sides in trajectories for side in sides[1:]]
    return [
        Case(
            method=config["method"],
            facts=config["facts"],
            trajectory=sides,
            alone=alone,
            what=what,
            batches=sorted(wanted["batches"]),
            precision=trainer["precision"],
            device=device,
            channels_last=trainer["channels_last"],
            compile=trainer["compile"],
            recipe=step if what == "train" else {},
            repeats=wanted["repeats"],
            threads=torch.get_num_threads(),
            memory_cap=wanted["memory_cap"],
            text=config["text"],
            caption=caption,
        )
        for sides, alone in parts
        for what in ("train", "sample")
    ]


class Failed(Exception):
    """A case ended without its numbers; the message is the reason."""


class Worker:
    """The process of a case at one batch size, warmed up. Raises `Failed`, here and later."""

    def __init__(self, case: Case, batch: int):
        self.case, self.batch = case, batch
        self.times: dict[str, list[float]] = {}
        self.load = load_average()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.work"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        try:
            self._ask(f"{json.dumps(asdict(case))}\n{batch}")
        except BaseException:
            self.close()
            raise

    def repeat(self) -> None:
        for what, seconds in self._ask("repeat").items():
            self.times.setdefault(what, []).append(seconds)

    @property
    def images_per_s(self) -> float:
        return self.case.images(self.batch) / statistics.median(self.times["seconds"])

    def memory(self) -> dict[str, float | None]:
        """The peak so far: that of the allocator on a GPU, else that of the process. MiB."""
        peak = self._ask("memory")
        used = peak["host"] if self.case.device == "cpu" else peak["allocated"]
        cap = self.case.memory_cap
        if cap is not None and used is not None and used > cap:
            raise Failed(
                f"{OUT_OF_MEMORY} at batch {self.batch}: {used:.0f} MiB, the cap is {cap:.0f}"
            )
        found = {"": used, "_reserved": peak["reserved"], "_baseline": peak["host_baseline"]}
        return {f"{self.case.what}_memory{which}_mib": value for which, value in found.items()}

    def row(self) -> dict[str, Any]:
        """The numbers of the case."""
        what, memory = self.case.what, self.memory()
        whole = timing(self.times["seconds"], warmup=WARMUP, load=self.load)
        found = {
            f"{what}_images_per_s": self.images_per_s,
            f"{what}_noisy": whole.unsteady,
            f"{what}_iqr_s": whole.iqr,
            f"{what}_load": whole.load,
            **memory,
            **self._ask(f"told {whole.median!r}"),
        }
        if "latency" in self.times:
            alone = timing(self.times["latency"], warmup=WARMUP)
            found |= {"latency_s": alone.median, "latency_iqr_s": alone.iqr}
        return found

    def _ask(self, line: str) -> dict[str, Any]:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: why, is read below
        answer = process.stdout.readline()
        if not answer:
            raise Failed(self._reason(process.wait()))
        found = json.loads(answer)
        if "failure" in found:
            raise Failed(found["failure"])
        return found

    def _reason(self, code: int) -> str:
        if code == -signal.SIGKILL:  # as the system does where memory runs out
            return f"{OUT_OF_MEMORY} at batch {self.batch}: killed by SIGKILL"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {code}"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


def best_batch(case: Case) -> tuple[Worker | None, list[dict[str, Any]]]:
    """A worker of the batch size with the best throughput, None where none fits, and what each
    size gave. The first that does not fit ends the search, and is told."""
    best: Worker | None = None
    tried: list[dict[str, Any]] = []
    for batch in case.batches:
        worker = None
        try:
            worker = Worker(case, batch)
            worker.repeat()
            used = worker.memory()[f"{case.what}_memory_mib"]
        except Failed as failed:
            tried.append({"name": f"batch {batch}", "failure": str(failed)})
            if worker is not None:
                worker.close()
            break
        rate = worker.images_per_s
        tried.append({"name": f"batch {batch}", "images_per_s": rate, "memory_mib": used})
        if best is None or rate > best.images_per_s:
            best, worker = worker, best
        if worker is not None:
            worker.close()
    return best, tried


def costs(
    cases: Sequence[Case], track: Track = lambda items, what, total: items
) -> list[dict[str, Any]]:
    """Of each case its numbers; a failure is its reason. Repeats are interleaved over all cases."""
    rows = [case.conditions for case in cases]
    workers: dict[int, Worker] = {}
    try:
        for place in track(range(len(cases)), "cost: batch sizes", len(cases)):
            what = cases[place].what
            worker, tried = best_batch(cases[place])
            if len(tried) > 1:
                rows[place][f"{what}_sweep"] = tried
            if worker is None:
                rows[place][f"{what}_failure"] = tried[-1]["failure"]
            else:
                workers[place] = worker
        rounds = max((case.repeats for case in cases), default=1) - 1  # beside that of the search
        for number in track(range(rounds), "cost: repeats", rounds):
            for place in sorted(workers, reverse=not number % 2):
                if number + 1 < cases[place].repeats:
                    _tried(rows[place], workers, place, Worker.repeat)
        for place in list(workers):
            rows[place] |= _tried(rows[place], workers, place, Worker.row) or {}
    finally:
        for worker in workers.values():
            worker.close()
    return rows


def _tried(
    row: dict[str, Any], workers: dict[int, Worker], place: int, what: Callable[[Worker], Any]
) -> Any:
    """What a worker answers; one that fails leaves, and its reason stays."""
    try:
        return what(workers[place])
    except Failed as failed:
        worker = workers.pop(place)
        row[f"{worker.case.what}_failure"] = str(failed)
        worker.close()
        return None


def by_resolution(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Training and sampling as one row for each resolution of a trajectory, as records have it;
    parts alone have rows of their own."""
    merged: dict[tuple[int, str | None], dict[str, Any]] = {}
    for row in rows:
        for side in row["trajectory"]:
            place = merged.setdefault((side, row["part"]), {})
            place.update({**row, "resolution": side})
    return list(merged.values())


# ---------------------------------------------------------------- finished runs again


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
    alone unless `anew`. No other process works in their folders meanwhile, or `Busy` is raised.
    trust: as `check_trust` has it, for classes that the runs name by path. A run none of whose
    cases could be timed keeps the costs that it has, and ValueError says why.
    """
    with ExitStack() as held:
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
        configs = {path: kept_config(path.parent, trust) for path in found}
        for path, config in configs.items():
            other = changed(found[path].provenance.get("inputs") or {}, inputs(config))
            if other is not None:
                log.warning(
                    "%s was made from another content of %s than there is now and keeps its times: "
                    "make it again, or put the old one back",
                    *(path, other),
                )
                del found[path]
        if not found:
            raise ValueError(
                f"no finished run under {', '.join(folders)}: make one by python -m benchmarks.run"
            )
        configs = {path: configs[path] for path in found}
        about = {"together": sorted(path.parent.name for path in found), "asked": dict(asked)}
        made_of = {path.parent.name: inputs(config) for path, config in configs.items()}
        if any(made_of.values()):
            about["inputs"] = made_of
        timed = [record.provenance.get("cost") or {} for record in found.values()]
        if not anew and all({**one, **about} == one for one in timed):
            log.info("timed together at %s: --anew times them again", timed[0].get("ended"))
            return list(found)
        rows = _timed(found, configs, asked)
        lost = {path: why for path in found if (why := _all_failed(rows[path])) is not None}
        about |= {"ended": now(), "machine": machine()}
        for path, record in found.items():
            if path not in lost:
                told = {**record.provenance, "cost": about}
                replace(record, cost=tuple(by_resolution(rows[path])), provenance=told).write(path)
        if lost:
            reasons = "; ".join(f"{path.parent}: {why}" for path, why in lost.items())
            raise ValueError(
                f"no case could be timed, so the costs there stay as they were: {reasons}"
            )
    return list(found)


def _all_failed(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The reason of the first case where none has numbers."""
    reasons = [[v for k, v in row.items() if k.endswith("_failure")] for row in rows]
    return str(reasons[0][0]) if reasons and all(reasons) else None


def _timed(
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
            wanted = {**record.config["cost"], **{k: v for k, v in asked.items() if v is not None}}
            cases = cases_of(config, trajectories_of(record), wanted, device.type)
        except (KeyError, TypeError, AttributeError) as error:
            told = " ".join(str(error).split())[:300]
            raise ValueError(
                f"{path} does not say how it is to be timed ({type(error).__name__}: {told}): "
                f"make it again"
            ) from error
        owned += [(path, case) for case in cases]
    rows: dict[Path, list[Any]] = {path: [] for path in found}
    for what in ("train", "sample"):
        chosen = [(path, case) for path, case in owned if case.what == what]
        for (path, _), row in zip(chosen, costs([case for _, case in chosen], track), strict=True):
            rows[path].append(row)
    return rows


def trajectories_of(record: Record) -> list[tuple[int, ...]]:
    """Resolutions of one trajectory together where its costs say so, else each by itself."""
    told = [tuple(c.get("trajectory") or ()) for c in record.cost if c.get("part") is None]
    known = list(dict.fromkeys(told))
    whole = sorted(side for sides in known for side in sides) == sorted(record.resolutions)
    return known if whole else [(side,) for side in record.resolutions]


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
    told = {**config, **{f"trainer.{key}": value for key, value in trainer.items()}}
    wrong = [key for key, kind in KEPT.items() if not isinstance(told.get(key, ...), kind)]
    if wrong:
        raise ValueError(f"{path} has no usable {', '.join(wrong)}: copy it again from its run")
    weights = folder / "weights.safetensors"
    shapes = header(weights)[0] if weights.is_file() else None
    built(config, path, shapes, real=False)
    return config


def track(items: Iterable[Any], what: str, total: int) -> Iterable[Any]:
    """A bar on a terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track

    console = Console(stderr=True)
    what = escape(printable(what))
    return track(items, what, total, console=console, disable=not console.is_terminal)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "benchmarks.cost", description="Times finished runs again, interleaved."
    )
    parser.add_argument("folders", nargs="+", metavar="RUNS")
    parser.add_argument("--repeats", type=int, default=3, help="of each timing (3)")
    parser.add_argument("--batches", type=int, nargs="+", help="sizes to try, for those of the run")
    parser.add_argument("--memory-cap", type=float, metavar="MIB")
    parser.add_argument("--alone", action="store_true", help="parts of joint levels as well")
    parser.add_argument("--anew", action="store_true", help="also what was timed together before")
    parser.add_argument(
        "--trust",
        nargs="+",
        default=(),
        metavar="PACKAGE",
        help="packages, or paths of code, whose classes the runs may name (my_nets ./nets.py)",
    )
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    asked = {
        "repeats": chosen.repeats,
        "batches": chosen.batches,
        "memory_cap": chosen.memory_cap,
        "alone": chosen.alone or None,
    }
    try:
        for path in again(chosen.folders, asked, anew=chosen.anew, trust=chosen.trust):
            print(path)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(reported(main)())
