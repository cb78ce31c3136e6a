"""The command: `python -m hierdiff.plan denoiser=mdm_1024 gpus=64 gpu=H100`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hierdiff.command import command
from hierdiff.config import folder_of_configs

ABOUT = """Estimates what a training run needs, from shapes alone and in seconds: parameters,
operations, memory per GPU with and without sharding and recomputation, days and energy.

    python -m hierdiff.plan denoiser=mdm_1024 gpus=64 gpu=H100

    denoiser=mdm_1024         a network; the experiment of that name, if there is one
    experiment=NAME           or the options of hierdiff.train: method, denoiser, budget, trainer...
    gpu=H100 gpus=64          A100, H100, H200, L40S, RTX4090; gpu.memory=40 sets one of its numbers
    mfu=0.35                  share of the peak speed that is reached, an assumption
    rate=485                  measured images per second of one GPU, instead of mfu
    classes=1000 text_width=0 of the data, which are not read
    check=true                compare the estimate for a small step with memory measured here"""


def with_experiment(words: Sequence[str]) -> list[str]:
    """`denoiser=NAME` as `experiment=NAME` where there is one and no other word says what is
    trained: a released network is planned with the run that it was released from."""
    chosen = {key: value for key, _, value in (word.partition("=") for word in words)}
    name = chosen.get("denoiser", "")
    experiment = Path(folder_of_configs()) / "experiment" / f"{name}.yaml"
    if not name or not experiment.exists() or {"experiment", "method"} & chosen.keys():
        return list(words)
    return [f"experiment={name}" if word == f"denoiser={name}" else word for word in words]


@command("plan", ABOUT)
def run(cfg: Any) -> None:
    """The command on a composed config."""
    from hierdiff.plan.shown import show_plan  # here, so that `--help` does without torch

    show_plan(cfg)


def main() -> None:
    """The command, with a released network as the experiment that it is from."""
    sys.argv[1:] = with_experiment(sys.argv[1:])
    run()


if __name__ == "__main__":
    main()
