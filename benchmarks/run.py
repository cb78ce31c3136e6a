"""The main job: train a method, sample it, measure it, write its record, print its row.

`python -m benchmarks.run method=mdm`; `-m method=mdm,end_to_end` runs one after another. The same
command again resumes where it stopped; a finished run prints its record. `--dry-run` checks the run
and shows its plan, in seconds, and does nothing else; `--dry-run=time` also times some steps. What
takes seconds to load is imported by the command itself, so that `--help` does without it.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks import naming as naming  # registers
from hierdiff.command import HELP, command, plain_config

ABOUT = """Trains a method, samples it, measures it, times it and prints its row beside those of
the runs in the same folder. The same command again resumes where it stopped.

    python -m benchmarks.run method=mdm data=critters budget=default

    -m method=mdm,cascaded    a sweep, one run after another; a run that fails becomes a row
    --dry-run                 shows the plan, or why the run would be refused, in seconds
    --dry-run=time            also how long it would take
    budget=smoke              a small run: smoke, default, compare, gpu
    match.flops=1e15          a training budget, which sets the steps; also images, seconds
    measure.metrics=[fd,pr]   what is measured; measure.samples=5000 images
    samples=npz               keeps all measured samples; also png, webdataset
    cost.repeats=3            repeats of each timing; 0: nothing is timed
    analysis=steps            quality over the number of sampler steps; spectrum: power of samples
                              and real images over the frequency; exposure_bias: of a cascade;
                              experts: which expert paints what
    trainer.steps=20000       any option of hierdiff.train: data, denoiser, sampler, seed, ...
    folder=runs/mine          the run folder
"""


@command("benchmark", ABOUT)
def main(cfg: Any) -> None:
    """One run, or one job of a sweep; errors as in `benchmarks.single.run_one`."""
    from benchmarks.single import run_one

    run_one(plain_config(cfg))


def launch() -> None:
    """The command: one run, a sweep, or the check of either (`--dry-run`)."""
    dry_runs = {"--dry-run": "dry_run=true", "--dry-run=time": "dry_run=time"}
    sys.argv[1:] = [dry_runs.get(word, word) for word in sys.argv[1:]]
    if HELP & set(sys.argv[1:]):
        main()
        return
    from benchmarks.sweep.launch import launch_jobs
    from benchmarks.sweep.process import follow_sweep

    follow_sweep()
    launch_jobs(main)


if __name__ == "__main__":
    launch()
