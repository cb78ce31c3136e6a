"""Speed against the plain twin: `python -m benchmarks.speed`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from benchmarks.progress import track
from benchmarks.speed.case import ATTENTION, WHATS, Case, Precision
from benchmarks.speed.layouts import LAYOUTS, method_of
from hierdiff.config import print_whole, reported
from hierdiff.files.digest import write_json
from hierdiff.files.lock import worked_in

FOLDER = "runs/speed"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    out = argparse.ArgumentParser(
        "benchmarks.speed",
        description="Times a training step and a sampler step and the same in plain PyTorch, "
        "in turn, and writes a record of each into the folder.",
        epilog="example: python -m benchmarks.speed --layouts mdm_15m --dtypes bf16-mixed",
    )
    one_of = dict.fromkeys(LAYOUTS)
    out.add_argument(
        "--layouts",
        nargs="+",
        choices=one_of,
        default=["mdm_15m"],
        metavar="NAME",
        help=f"of {', '.join(LAYOUTS)} (mdm_15m)",
    )
    out.add_argument(
        "--what",
        nargs="+",
        choices=WHATS,
        default=list(WHATS),
        metavar="WHAT",
        help="of train, sample, guided (all)",
    )
    out.add_argument(
        "--dtypes",
        nargs="+",
        choices=get_args(Precision),
        default=["32-true", "bf16-mixed"],
        metavar="PRECISION",
        help="of 32-true, bf16-mixed, 64-true (the first two)",
    )
    out.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    out.add_argument("--batch", type=int, help="images at once, for those of the layout")
    out.add_argument("--steps", type=int, default=4, help="of a trajectory (4)")
    out.add_argument("--repeats", type=int, default=9, help="pairs of each timing (9)")
    out.add_argument("--threads", type=int, help="of a CPU (as many as torch takes)")
    out.add_argument(
        "--clock",
        choices=("wall", "cores"),
        default="wall",
        help="whose ratio is printed: time on the wall, or of this process's cores "
        "where others use them too (wall; records have both)",
    )
    out.add_argument("--channels-first", action="store_true", help="in memory; not channels last")
    out.add_argument("--attention", choices=("auto", *ATTENTION), default="auto")
    out.add_argument(
        "--compile", choices=("loss", "blocks"), help="of the training step: which part"
    )
    out.add_argument("--recompute", action="store_true", help="activations, in the backward pass")
    out.add_argument(
        "--memory",
        action="store_true",
        help="also peak memory of training steps, each side alone in a process",
    )
    out.add_argument(
        "--profile",
        choices=("ours", "plain"),
        help="instead of timings: operators, trace and shares of the machine's rates",
    )
    out.add_argument("--folder", type=Path, default=Path(FOLDER), help=f"of the records ({FOLDER})")
    return out


def cases(chosen: argparse.Namespace) -> Iterator[Case]:
    """The cases of a command line."""
    import torch  # here, so that `--help` does without

    threads = chosen.threads or torch.get_num_threads()
    for name in chosen.layouts:
        layout, node = LAYOUTS[name], method_of(name)
        for precision in chosen.dtypes:
            for what in chosen.what:
                yield Case(
                    layout=name,
                    method=node,
                    facts={"channels": 3, "classes": 0, "text_width": 0, **layout.facts},
                    what=what,
                    batch=chosen.batch or layout.batch,
                    precision=precision,
                    device=chosen.device,
                    channels_last=not chosen.channels_first,
                    attention=chosen.attention,
                    recipe={
                        "compile": {"loss": True, "blocks": "blocks"}.get(chosen.compile, False),
                        "recompute": chosen.recompute,
                    },
                    steps=chosen.steps,
                    repeats=chosen.repeats,
                    threads=threads,
                )


def stem_of(case: Case) -> str:
    """The name of a case's record."""
    options = [name for name, chosen in case.recipe.items() if chosen]
    return "-".join([case.layout, case.what, case.precision, *options])


def ask(task: str, case: Case, **options: Any) -> dict[str, Any]:
    """The answer of a process of its own.

    Raises:
        RuntimeError: where the process ends without one, with the last line of its errors.
    """
    question = json.dumps({"task": task, "case": asdict(case), **options})
    command = [sys.executable, "-m", "benchmarks.speed.work"]
    run = subprocess.run(command, input=question, capture_output=True, text=True)
    if run.returncode:
        lines = run.stderr.strip().splitlines()
        raise RuntimeError(
            f"{case.layout}, {case.what}, {case.precision}: "
            f"{lines[-1] if lines else f'exit code {run.returncode}'}"
        )
    return dict(json.loads(run.stdout))


def measured(case: Case, memory: bool) -> dict[str, Any]:
    """The numbers of a case. memory: also the peaks of a training step."""
    numbers = ask("pair", case)
    if memory and case.what == "train":
        numbers["memory"] = {side: ask("memory", case, side=side) for side in ("plain", "ours")}
    return numbers


def row_of(case: Case, numbers: Mapping[str, Any], clock: str) -> list[str]:
    """A line of the table."""
    name = f"{case.layout}, batch {case.batch}"
    if "failure" in numbers:
        return [name, case.what, case.precision, numbers["failure"], "", ""]
    ratio = numbers["ratio"][clock]
    times = numbers["times"]
    best = {side: 1e3 * min(times[f"{side}_{clock}"]) for side in ("ours", "plain")}
    peaks = numbers.get("memory", {})
    memory = " / ".join(f"{peaks[side]['own']:.0f}" for side in best if side in peaks)
    return [
        name,
        case.what,
        case.precision,
        f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})",
        f"{best['ours']:.0f} / {best['plain']:.0f}",
        memory,
    ]


@reported
def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, writes records and prints a table."""
    chosen = parser().parse_args(arguments)
    # here, so that `--help` does without them
    from rich.console import Console
    from rich.table import Table

    from benchmarks.tables.formats.terminal import terminal_text
    from hierdiff.results.provenance import now, provenance

    started, todo = now(), list(cases(chosen))
    table = Table(title=f"by {chosen.clock} time, {todo[0].threads} thread(s); ours / plain")
    for column in (
        "layout",
        "step",
        "precision",
        "plain / ours (quartiles)",
        "best, ms",
        "own MiB",
    ):
        table.add_column(column)
    with worked_in(chosen.folder):
        for case in track(todo, "speed", len(todo)):
            stem = stem_of(case)
            if chosen.profile:
                place = chosen.folder / f"profile-{stem}-{chosen.profile}"
                place.mkdir(parents=True, exist_ok=True)
                numbers = ask("profile", case, side=chosen.profile, folder=str(place))
                print(f"{stem}: {shares_text(numbers)}; {place}/operators.txt, trace.json")
            else:
                place = chosen.folder
                numbers = measured(case, chosen.memory)
                table.add_row(*map(terminal_text, row_of(case, numbers, chosen.clock)))
            about = provenance(started=started, seeds={"weights": 0}, config=asdict(case))
            content = {"case": asdict(case), **numbers, "provenance": about}
            write_json(place / f"{stem}.json", content)
    if not chosen.profile:
        print_whole(Console(), table)


def shares_text(numbers: Mapping[str, Any]) -> str:
    """The shares of a profile as text."""
    parts = [f"{numbers['flops_per_s'] / 1e9:.0f} GFLOP/s"]
    parts += [
        f"{100 * share:.0f} % of the machine's {name} rate"
        for name, share in numbers["share"].items()
    ]
    if numbers.get("mfu") is not None:
        parts.append(f"MFU {100 * numbers['mfu']:.0f} %")
    return ", ".join(parts)


if __name__ == "__main__":
    main()
