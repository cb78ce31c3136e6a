"""The job script of the docs, under stand-ins for Slurm's commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hierdiff.training.interrupt import REQUEUE

SCRIPT = Path(__file__).resolve().parents[1] / "docs/slurm/train.sbatch"
JOB = {
    **{"SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "a[1-2]", "SLURM_JOB_NUM_NODES": "2"},
    **{"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"},
}


def command(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def submitted(folder: Path, *words: str, hosts: str = "a1 a2", **job: str) -> tuple[int, str]:
    """Exit code of the script, and what it told `scontrol`; srun runs its command once."""
    command(folder, "srun", 'while [[ $1 == --* ]]; do shift; done; exec "$@"')
    command(
        folder,
        "scontrol",
        f'echo "$@" >> {folder}/scontrol.log\n[ "$1" != show ] || printf "%s\\n" {hosts}',
    )
    path = f"{folder}:{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", str(SCRIPT), *words],
        env={**os.environ, **JOB, **job, "PATH": path},
        check=False,
        timeout=120,
    )
    return ran.returncode, (folder / "scontrol.log").read_text()


def test_the_script_is_bash():
    assert subprocess.run(["bash", "-n", str(SCRIPT)], check=False).returncode == 0


@pytest.mark.parametrize(
    ("code", "requeued"), [(0, False), (1, False), (130, False), (REQUEUE, True), (138, True)]
)
def test_a_job_that_the_cluster_stopped_is_put_back(tmp_path: Path, code: int, requeued: bool):
    command(tmp_path, "python", f"env > {tmp_path}/env; echo $@ > {tmp_path}/words; exit {code}")
    found, said = submitted(tmp_path, "name=a b", "seed=1")
    assert found == code
    assert ("requeue 77" in said) == requeued
    assert (
        "-m hierdiff.train trainer.strategy=fsdp name=a b seed=1"
        in (tmp_path / "words").read_text()
    )
    said = (tmp_path / "env").read_text()
    for line in ("RANK=0", "WORLD_SIZE=4", "LOCAL_WORLD_SIZE=2", "MASTER_ADDR=a1"):
        assert f"\n{line}\n" in f"\n{said}"


@pytest.mark.slow
def test_a_run_that_gets_sigusr1_is_requeued_and_goes_on(tmp_path: Path):
    folder = tmp_path / "run"
    words = [
        *("method.resolutions=[8,4]", "data.resolution=8", "denoiser.width=8", "budget=smoke"),
        *("denoiser.groups=4", "denoiser.inner.groups=4", "denoiser.inner.width=8"),
        "denoiser.inner.heads=4",
        *(f"folder={folder}", "trainer.precision=32-true", "trainer.accelerator=cpu"),
        *("trainer.progress=false", "trainer.warmup=0"),
    ]

    def early(after: str) -> str:
        """The signal that Slurm sends, once there is a checkpoint after the one of that path."""
        newest = f"$(ls {folder}/checkpoints/*/facts.json 2>/dev/null | tail -1)"
        return (
            f'{sys.executable} "$@" & run=$!; while kill -0 $run; '
            f'do [[ "{newest}" > "{after}" ]] && kill -USR1 $run && break; sleep 0.1; done; '
            f"wait $run"
        )

    alone = {"SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"}
    command(tmp_path, "python", early(""))
    long = ["trainer.steps=4000", "trainer.checkpoint_every=2"]
    code, said = submitted(tmp_path, *words, *long, hosts="localhost", **alone)
    assert code == REQUEUE and said.endswith("requeue 77\n")
    first = max(path.name for path in (folder / "checkpoints").iterdir())
    command(tmp_path, "python", early(str(folder / "checkpoints" / first / "facts.json")))
    code, _ = submitted(tmp_path, *words, *long, hosts="localhost", **alone)
    assert code == REQUEUE
    assert max(path.name for path in (folder / "checkpoints").iterdir()) > first
