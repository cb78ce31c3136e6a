"""Entry point of training: `python -m hierdiff.train method=mdm data=critters budget=default`.

Hydra composes `configs/` into plain dicts; from there on there are constructors. The same command
again goes on from the newest checkpoint of the run folder. What takes seconds to load is imported
by the command itself, so that `--help` does without it.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from hierdiff.command import command, plain_config
from hierdiff.files.lock import worked_in
from hierdiff.options import check

log = logging.getLogger(__name__)

ABOUT = """Trains a method and leaves weights, samples and curves of the loss in a run folder.
The same command again resumes from the newest checkpoint there.

    python -m hierdiff.train method=mdm data=critters budget=default

    method=cascaded           the method: mdm, end_to_end, cascaded, latent, rin, ...
    data=folder data.root=DIR the training images: critters, or your own
    denoiser=uvit_small       the network; denoiser.width=96 sets an option of it
    budget=smoke              steps and batch size: smoke, default, compare, gpu
    recipe=shared             optimizer, loss and sampler: shared, or a paper's: chen, rin, ...
    trainer.steps=20000       a single option; also trainer.batch_size, trainer.lr
    seed=1                    of weights, noise and order
    folder=runs/mine          the run folder
"""


@command("train", ABOUT)
def main(cfg: Any) -> None:
    """The command: trains, or resumes, a run.

    Raises:
        Interrupted: where a user ends it; the exit code is `REQUEUE` where a cluster does.
    """
    from hierdiff.prepared import prepare, with_weights
    from hierdiff.training import check_run, train
    from hierdiff.training.interrupt import REQUEUE, Interrupted

    options = plain_config(cfg)
    check(options["folder"], str | Path, "folder")
    folder = Path(options["folder"])
    shapes = prepare(options, shapes_alone=True)
    check_run(shapes.method, folder, shapes.recipe, shapes.config)
    run = with_weights(shapes)
    with worked_in(folder):
        try:
            summary = train(
                run.method, run.part, folder, run.recipe, seed=run.seed, config=run.config
            )
        except Interrupted as stop:
            if not stop.requeue:
                raise
            print(stop, file=sys.stderr)
            sys.exit(REQUEUE)
    log.info("weights %s, samples %s, curve %s/loss.png", summary.weights, summary.sheet, folder)


if __name__ == "__main__":
    main()
