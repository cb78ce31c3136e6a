"""The processes that time cases: start, warm-up, repeats in turn, and numbers or a failure."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from benchmarks.cost.cases import OUT_OF_MEMORY, Case
from benchmarks.cost.steps import WARMUP
from benchmarks.progress import Track
from hierdiff.metrics.cost import load_average
from hierdiff.metrics.timing import timing
from hierdiff.results.cost import BatchTrial, Cost, CostPart


class CaseFailure(Exception):
    """A case ended without its numbers; the message is the reason."""


class Worker:
    """The process of a case at one batch size, warmed up.

    The constructor and all methods but `close` raise `CaseFailure` where the process ends or runs
    out of memory.
    """

    def __init__(self, case: Case, batch: int):
        self.case, self.batch = case, batch
        self.times: dict[str, list[float]] = {}
        self.load = load_average()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.cost.work"],
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
        """Times the case once more."""
        for what, seconds in self._ask("repeat").items():
            self.times.setdefault(what, []).append(seconds)

    @property
    def images_per_s(self) -> float:
        """Median throughput so far."""
        return self.case.images(self.batch) / statistics.median(self.times["seconds"])

    def memory(self) -> dict[str, float | None]:
        """The peak so far in MiB: that of the allocator on a GPU, else that of the process.

        Raises:
            CaseFailure: where the peak is above the cap.
        """
        peak = self._ask("memory")
        used = peak["host"] if self.case.device == "cpu" else peak["allocated"]
        cap = self.case.memory_cap
        if cap is not None and used is not None and used > cap:
            raise CaseFailure(
                f"{OUT_OF_MEMORY} at batch {self.batch}: {used:.0f} MiB, the cap is {cap:.0f}"
            )
        peaks = {"": used, "_reserved": peak["reserved"], "_baseline": peak["host_baseline"]}
        return {f"{self.case.what}_memory{which}_mib": value for which, value in peaks.items()}

    def row(self) -> dict[str, Any]:
        """The numbers of the case, by the fields of a cost row."""
        what, memory = self.case.what, self.memory()
        whole = timing(self.times["seconds"], warmup=WARMUP, load=self.load)
        row = {
            f"{what}_images_per_s": self.images_per_s,
            f"{what}_noisy": whole.unsteady,
            f"{what}_iqr_s": whole.iqr,
            f"{what}_load": whole.load,
            **memory,
            **self._ask(f"describe {whole.median!r}"),
        }
        if "latency" in self.times:
            alone = timing(self.times["latency"], warmup=WARMUP)
            row |= {"latency_s": alone.median, "latency_iqr_s": alone.iqr}
        if "breakdown" in row:
            row["breakdown"] = tuple(CostPart(**part) for part in row["breakdown"])
        return row

    def _ask(self, line: str) -> dict[str, Any]:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # the process has ended; the reason is read below
        answer = process.stdout.readline()
        if not answer:
            raise CaseFailure(self._reason(process.wait()))
        content = json.loads(answer)
        if "failure" in content:
            raise CaseFailure(content["failure"])
        return content

    def _reason(self, code: int) -> str:
        if code == -signal.SIGKILL:  # by the system, where memory runs out
            return f"{OUT_OF_MEMORY} at batch {self.batch}: killed by SIGKILL"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {code}"

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


def best_batch(case: Case) -> tuple[Worker | None, list[BatchTrial]]:
    """The worker with the best throughput, None where no batch size fits, and all that were tried.

    The search ends at the first size that does not fit, which has the failure.
    """
    best: Worker | None = None
    sizes: list[BatchTrial] = []
    for batch in case.batches:
        worker = None
        try:
            worker = Worker(case, batch)
            worker.repeat()
            used = worker.memory()[f"{case.what}_memory_mib"]
        except CaseFailure as failed:
            sizes.append(BatchTrial(f"batch {batch}", failure=str(failed)))
            if worker is not None:
                worker.close()
            break
        rate = worker.images_per_s
        sizes.append(BatchTrial(f"batch {batch}", images_per_s=rate, memory_mib=used))
        if best is None or rate > best.images_per_s:
            best, worker = worker, best
        if worker is not None:
            worker.close()
    return best, sizes


def costs(cases: Sequence[Case], track: Track = lambda items, what, total: items) -> list[Cost]:
    """A row of each case: its conditions, and its numbers or the reason of its failure.

    Repeats are interleaved over all cases, forwards and backwards in turn.
    """
    rows: list[dict[str, Any]] = [{} for _ in cases]  # numbers by the fields of a cost row
    workers: dict[int, Worker] = {}
    try:
        for place in track(range(len(cases)), "cost: batch sizes", len(cases)):
            what = cases[place].what
            worker, sizes = best_batch(cases[place])
            if len(sizes) > 1:
                rows[place][f"{what}_sweep"] = tuple(sizes)
            if worker is None:
                rows[place][f"{what}_failure"] = sizes[-1].failure
            else:
                workers[place] = worker
        rounds = max((case.repeats for case in cases), default=1) - 1  # one was part of the search
        for number in track(range(rounds), "cost: repeats", rounds):
            for place in sorted(workers, reverse=not number % 2):
                if number + 1 < cases[place].repeats:
                    _attempt(rows[place], workers, place, Worker.repeat)
        for place in list(workers):
            rows[place] |= _attempt(rows[place], workers, place, Worker.row) or {}
    finally:
        for worker in workers.values():
            worker.close()
    return [replace(case.conditions, **row) for case, row in zip(cases, rows, strict=True)]


def _attempt(
    row: dict[str, Any], workers: dict[int, Worker], place: int, what: Callable[[Worker], Any]
) -> Any:
    """The result of a call; a worker that fails is closed and its reason goes into the row."""
    try:
        return what(workers[place])
    except CaseFailure as failed:
        worker = workers.pop(place)
        row[f"{worker.case.what}_failure"] = str(failed)
        worker.close()
        return None
