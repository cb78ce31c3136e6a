"""A sweep goes on after a failure, says why, and does what is missing when it is given again."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from unittest.mock import ANY

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from benchmarks.sweep import launch, process, shared
from benchmarks.sweep.job import reason_of_exit
from benchmarks.sweep.ledger import (
    BUSY,
    FAILED,
    INTERRUPTED,
    MADE,
    PASSED,
    RUNNING,
    Job,
    open_ledger,
)
from hierdiff.config import folder_of_configs
from hierdiff.files.claim import claimed
from hierdiff.results.folders import records
from hierdiff.results.record import Record
from hierdiff.training.interrupt import REQUEUE
from tests.benchmarks.test_run import QUICK as MEASURED

JOBS = [["seed=0"], ["seed=1"]]
QUICK = (*(word for word in MEASURED if not word.startswith("cost.")), "cost.repeats=0")


@pytest.mark.parametrize(
    ("overrides", "jobs"),
    [
        (["method=mdm"], ["method=mdm"]),
        (["method=mdm,rin", "a=b"], ["method=mdm a=b", "method=rin a=b"]),
        (
            ["method=mdm,rin", "seed=range(0,2)"],
            ["method=mdm seed=0", "method=mdm seed=1", "method=rin seed=0", "method=rin seed=1"],
        ),
        (["lr=choice(1e-3,2e-3)", "+a=[1,2]"], ["lr=0.001 +a=[1,2]", "lr=0.002 +a=[1,2]"]),
        (["seed=1,2", "seed=3"], ["seed=3"]),
    ],
)
def test_the_jobs_of_a_sweep_are_known_before_the_first(overrides, jobs):
    assert [" ".join(job) for job in launch.jobs_of(overrides)] == jobs
    split = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(overrides), None)
    assert [" ".join(job) for job in split[0]] == jobs  # as hydra has it


@pytest.mark.parametrize(
    ("left", "stopped", "code", "lines"),
    [
        ({0: MADE, 1: PASSED}, False, 0, []),
        ({0: FAILED, 1: MADE}, False, 1, ["failed: job0; the same command tries again"]),
        ({0: RUNNING, 1: MADE}, False, 1, ["failed: job0; the same command tries again"]),
        ({0: INTERRUPTED, 1: MADE}, False, 130, ["interrupted in job0: the same command goes on"]),
        ({0: MADE}, True, 130, ["interrupted: the same command goes on"]),
        ({0: MADE}, False, 1, ["no word of 1 of 2 jobs: see their logs and records"]),
        (
            {0: MADE, 1: BUSY},
            False,
            75,
            ["busy: another process works on job1; wait for it and give the same command again"],
        ),
        ({0: FAILED, 1: BUSY}, False, 1, ["failed: job0; the same command tries again", ANY]),
    ],
)
def test_the_exit_code_is_made_of_what_the_jobs_left(tmp_path, left, stopped, code, lines):
    with open_ledger(tmp_path, JOBS) as ledger:
        for number, state in left.items():
            ledger.put(number, Job(f"job{number}", state, 0, 1))
        if stopped:
            ledger.stop()
        assert launch.verdict(ledger) == (code, lines)


@pytest.mark.parametrize(("reason", "code"), [("cluster", REQUEUE), ("user", 130)])
def test_a_sweep_that_a_cluster_stopped_says_so_by_its_exit_code(tmp_path, reason, code):
    with open_ledger(tmp_path, JOBS) as ledger:
        ledger.stop(reason)
        assert launch.verdict(ledger)[0] == code


def test_a_job_that_another_command_holds_is_busy_and_one_that_nobody_holds_has_failed(tmp_path):
    with open_ledger(tmp_path, JOBS) as ledger, claimed(ledger.claim(0)):
        for number in (0, 1):
            ledger.put(number, Job(f"job{number}", RUNNING, 0))
        code, lines = launch.verdict(ledger)
        assert code == 1
        assert lines[0].startswith("failed: job1;") and "works on job0;" in lines[1]


@pytest.mark.parametrize(
    ("code", "last", "reason"),
    [
        (1, "error: no disk", "no disk"),
        (1, "", "exit code 1"),
        (-9, "", "killed by SIGKILL (as the system does where memory runs out)"),
        (-15, "step 3", "killed by SIGTERM"),
    ],
)
def test_a_reason_is_one_sentence(code, last, reason):
    assert reason_of_exit(code, last) == reason


def test_the_last_line_of_a_job_is_kept_and_passed_on(capfdbinary):
    code, last = process.run_process([sys.executable, "-c", "import sys; sys.exit('one\\ntwo')"])
    assert (code, last) == (1, "two")
    assert b"one\ntwo" in capfdbinary.readouterr().err


def test_ctrl_c_is_noticed_and_the_job_is_waited_for():
    code = "import time; time.sleep(0.4)"
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with process.noting_signals() as interrupts:
        assert process.run_process([sys.executable, "-c", code]) == (0, "")
    assert interrupts == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


SAVES = """
import os, signal, sys, time
def ask(number, frame):
    sys.stderr.write("x" * 100_000)  # more than a pipe holds
    open(sys.argv[1], "w").write("saved")
    sys.exit(130)
signal.signal(signal.SIGTERM, ask)
open(sys.argv[1], "w").write("works")
os.kill(os.getpid(), signal.SIGUSR2)  # Slurm tells every process of a job
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_sweep_that_is_ended_asks_its_job_to_save_and_waits(tmp_path, number):
    """The signal reaches the sweep alone, as from `kill` and from a service manager."""
    saved = tmp_path / "saved"

    def tell():
        while not saved.exists() or not saved.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with open_ledger(tmp_path, JOBS) as ledger:
        threading.Thread(target=tell).start()
        with process.noting_signals(ledger) as interrupts:
            command = [
                sys.executable,
                "-c",
                SAVES.replace("os.kill(", "(lambda *_: 0)("),
                str(saved),
            ]
            code, _ = process.run_process(command, ledger, interrupts)
        assert (code, interrupts) == (130, [number]) and ledger.stopped
    assert saved.read_text() == "saved"
    assert signal.getsignal(number) is before


def test_a_job_of_a_stopped_sweep_that_had_ctrl_c_itself_is_not_asked_twice(tmp_path):
    with open_ledger(tmp_path, JOBS) as ledger:
        ledger.stop()
        command = [sys.executable, "-c", "import time; time.sleep(0.6)"]
        assert process.run_process(command, ledger, [signal.SIGINT])[0] == 0
        assert process.run_process(command, ledger, [])[0] == -signal.SIGTERM


FOLLOWER = """
import signal, sys, time
from benchmarks.sweep.process import follow_sweep
def ask(number, frame):
    open(sys.argv[1], "w").write("ended")
    sys.exit(130)
signal.signal(signal.SIGTERM, ask)
follow_sweep()
open(sys.argv[1], "w").write("works")
time.sleep(60)
"""
LEADER = (
    "import sys; from benchmarks.sweep import process; "
    "process.run_process([sys.executable, '-c', *sys.argv[1:]])"
)


@pytest.mark.slow
def test_a_job_ends_when_its_sweep_was_killed(tmp_path):
    said = tmp_path / "said"
    with subprocess.Popen([sys.executable, "-c", LEADER, FOLLOWER, str(said)]) as leader:
        while not said.exists() or said.read_text() != "works":
            time.sleep(0.05)
            assert leader.poll() is None
        leader.kill()
    end = time.time() + 20
    while said.read_text() != "ended" and time.time() < end:
        time.sleep(0.05)
    assert said.read_text() == "ended"


def test_a_job_whose_time_is_up_is_asked_to_save(tmp_path):
    """As under submitit, whose handler of SIGUSR2 raises."""

    def raises(number, frame):
        raise SystemExit("requeued")

    def tell():
        while not saved.exists() or not saved.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR2)

    saved, before = tmp_path / "saved", signal.signal(signal.SIGUSR2, raises)
    try:
        threading.Thread(target=tell).start()
        with pytest.raises(SystemExit, match="requeued"):
            process.run_process([sys.executable, "-c", SAVES, str(saved)])
        assert signal.getsignal(signal.SIGUSR2) is raises
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert saved.read_text() == "saved"


@contextmanager
def a_sweep(*overrides):
    """Its config, and the overrides of its jobs."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(folder_of_configs(), version_base="1.3"):
        words = ["hydra.job.config_name=benchmark", "hydra.job.name=run"]
        yield compose("benchmark", words, return_hydra_config=True), launch.jobs_of(list(overrides))


@pytest.mark.parametrize(
    ("overrides", "lines", "values"),
    [
        (
            ["method=mdm,end_to_end", "method.growth=[0.25]"],
            ["method.growth is no option of end_to_end: left out there"],
            [{"growth": [0.25]}, {}],
        ),
        pytest.param(
            ["method=cascaded,mdm", "+method.bridge.log_snr=1", "method.shift=2"],
            [
                "method.shift is no option of cascaded: left out there",
                "method.bridge.log_snr is no option of mdm: left out there",
            ],
            [{}, {"shift": 2}],
            marks=pytest.mark.slow,
        ),
        (
            ["method=latent,rin", "autoencoder@method.codec.autoencoder=small_f4"],
            ["autoencoder@method.codec.autoencoder is no option of rin: left out there"],
            [{}, {}],
        ),
        (
            ["method=mdm,end_to_end", "denoiser.inner.width=32", "method.drop=0.2"],
            None,
            "no option 'drop'",
        ),
        pytest.param(
            ["method=mdm,end_to_end", "method.objective.multiscale=[]"],
            [],
            [{}, {}],
            marks=pytest.mark.slow,
        ),
        pytest.param(  # each by its whole path, whichever is written first
            ["method=mdm,end_to_end", "data.growth=1", "method.growth=[0.25]"],
            None,
            "data.growth: dataset 'critters' has no option 'growth'",
            marks=pytest.mark.slow,
        ),
        (["method=mdm", "method.growht=[0.25]"], None, "did you mean 'growth'"),
        pytest.param(
            ["seed=0,1", "trainer.stepz=3"], None, "did you mean 'steps'", marks=pytest.mark.slow
        ),
    ],
)
def test_options_of_some_methods_apply_where_they_exist(overrides, lines, values):
    with a_sweep(*overrides) as (config, jobs):
        if lines is None:
            with pytest.raises(ValueError, match=values):
                shared.check_shared(config, jobs)
            return
        assert shared.check_shared(config, jobs) == lines
        loader = GlobalHydra.instance().config_loader()
        for overrides, expected in zip(jobs, values, strict=True):
            cfg = loader.load_sweep_config(config, list(overrides))  # as a launcher does
            left = [
                line.partition(" ")[0] for line in lines if cfg.hydra.runtime.choices.method in line
            ]
            assert not [word for word in cfg.hydra.overrides.task if shared.option_of(word) in left]
            assert {key: cfg.method.get(key) for key in expected} == expected


def test_seeds_and_budgets_are_axes_whose_folders_differ():
    axes = ["method=mdm", "budget=smoke,default", "seed=0,1", "match.flops=1e11,2e11"]
    with a_sweep(*axes) as (config, jobs):
        runs = launch.composed(config, jobs)
        assert len({run["folder"] for run in runs}) == len(jobs) == 8
        launch.check_folders(runs)


def test_two_jobs_that_would_share_a_folder_are_refused_by_the_option_that_differs():
    with a_sweep("method=mdm", "seed=0,1", "folder=runs/x") as (config, jobs):
        runs = launch.composed(config, jobs)
        with pytest.raises(ValueError, match=r"folder=runs/x, which differ in seed \(0 and 1\)"):
            launch.check_folders(runs)


@pytest.mark.parametrize("launcher", ["joblib", "submitit_slurm"])
def test_a_launcher_that_is_not_installed_names_the_extra(monkeypatch, launcher):
    launch.check_launcher(["-m", "hydra/launcher=basic", f"hydra/launcher={launcher}"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    launch.check_launcher(["hydra/launcher=basic", "method=mdm"])
    with pytest.raises(SystemExit, match=rf"{launcher} .*pip install 'hierdiff\[sweep\]'"):
        launch.check_launcher(["-m", f"hydra/launcher={launcher}"])


def test_slurm_takes_its_options_and_logs_beside_the_runs():
    GlobalHydra.instance().clear()
    options = ("partition=gpu", "timeout_min=240", "gpus_per_node=1", "cpus_per_task=8")
    overrides = ["hydra/launcher=submitit_slurm", *(f"hydra.launcher.{one}" for one in options)]
    with initialize_config_dir(folder_of_configs(), version_base="1.3"):
        cfg = compose("benchmark", overrides=overrides, return_hydra_config=True)
    launcher = cfg.hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher")
    assert (launcher.partition, launcher.timeout_min, launcher.gpus_per_node) == ("gpu", 240, 1)
    assert launcher.submitit_folder == "runs/.submitit/%j"


def command(folder, *options):
    place = f"folder={folder}/${{label}}"
    return [sys.executable, "-m", "benchmarks.run", "-m", *QUICK, *options, place]


ENVIRONMENT = {**os.environ, "JAXTYPING_DISABLE": "1"}
BOTH = "method=end_to_end,mdm"


def swept(folder, *options):
    told = command(folder, *options)
    return subprocess.run(told, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.mark.slow
def test_a_failing_job_is_a_row_and_a_rerun_makes_only_what_is_missing(tmp_path):
    broken = "method.resolutions=[32]"  # mdm's network has two levels
    ended = swept(tmp_path, BOTH, broken)
    assert ended.returncode == 1
    assert "job 2 of 2: mdm" in ended.stderr
    assert "nest one network for each" in ended.stdout  # in the table
    made, failed = (Record.read(tmp_path / name) for name in ("end_to_end", "mdm"))
    assert made.failure is None and made.quality
    assert failed.failure is not None and not failed.quality
    kept = (tmp_path / "end_to_end" / "record.json").read_bytes()
    mended = swept(tmp_path, BOTH)
    assert mended.returncode == 0, mended.stderr
    assert (tmp_path / "end_to_end" / "record.json").read_bytes() == kept
    assert Record.read(tmp_path / "mdm").failure is None
    other = swept(tmp_path, BOTH, "seed=1")  # refused before anything is spent
    assert other.returncode == 2 and "job " not in other.stderr
    assert "end_to_end/record.json was made with seed=0, now it is 1: remove it" in other.stderr


@pytest.mark.slow
def test_training_that_diverges_is_a_row(tmp_path):
    ended = swept(tmp_path, "method=end_to_end", "trainer.lr=1e30", "trainer.steps=20")
    assert ended.returncode == 1
    record = Record.read(tmp_path / "end_to_end")
    assert "loss" in str(record.failure) and not record.quality


@pytest.mark.slow
def test_a_job_that_the_system_kills_is_a_row(tmp_path):
    """As where memory runs out."""
    told = command(tmp_path, "method=end_to_end", "trainer.steps=3000")
    log = tmp_path / "end_to_end" / "log.jsonl"
    with subprocess.Popen(told, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        while not log.exists() and process.poll() is None:
            time.sleep(0.1)
        (job,) = children(process.pid)
        os.kill(job, signal.SIGKILL)
        process.communicate(timeout=120)
    assert process.returncode == 1
    failure = Record.read(tmp_path / "end_to_end").failure
    assert failure == "killed by SIGKILL (as the system does where memory runs out)"


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


@pytest.mark.slow
def test_a_dry_run_shows_every_plan_and_leaves_nothing(tmp_path):
    asked = ("method=end_to_end", "label=a,b", "match.flops=1e11", f"hydra.sweep.dir={tmp_path}")
    ended = swept(tmp_path, *asked, "--dry-run")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("sampler steps") == 2 and "no word" not in ended.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".yaml"]


@pytest.mark.slow
def test_a_dry_sweep_lists_every_refusal_and_ends_with_code_1(tmp_path):
    asked = ("method=end_to_end,mdm,cascaded", "method.resolutions=[32,16]")
    ended = swept(tmp_path, *asked, f"hydra.sweep.dir={tmp_path}", "--dry-run")
    assert ended.returncode == 1
    refusals = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(refusals) == 1 and refusals[0].startswith("error: end_to_end: "), ended.stderr
    assert ended.stdout.count("sampler steps") == 2
    assert "failed: end_to_end" in ended.stderr


@pytest.mark.trial
def test_a_sweep_at_equal_operations_is_timed_together_and_ends_in_table_and_page(tmp_path):
    """What `make compare` does, small."""
    place = tmp_path / "runs"
    asked = ("method=end_to_end,cascaded", "match.flops=8e11")
    ended = swept(place, *asked)
    assert ended.returncode == 0, ended.stderr

    def called(module: str, *options: str) -> str:
        told = [sys.executable, "-m", f"benchmarks.{module}", str(place), *options]
        done = subprocess.run(told, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    called("cost", "--repeats", "1", "--batches", "2")
    spent = []
    for record in records(place):
        assert record.training["spent"] == {**record.training["planned"], "seconds": ANY}
        assert record.provenance["cost"]["together"] == ["cascaded", "end_to_end"]
        assert all(row.train_images_per_s > 0 for row in record.cost)
        spent.append(record.training["spent"]["flops"])
    assert len(spent) == 2 and max(spent) <= 1.02 * min(spent), spent
    table = called("tables")
    assert "matched by flops" in table and table.count("| cascaded") == 1
    called("report", "-o", str(tmp_path / "page"))
    page = (tmp_path / "page" / "index.html").read_text()
    assert all(name in page for name in ("cascaded", "end_to_end", "real images"))


@pytest.mark.slow
def test_a_killed_sweep_keeps_what_was_finished(tmp_path):
    first = tmp_path / "end_to_end" / "record.json"
    with subprocess.Popen(
        command(tmp_path, BOTH), env=ENVIRONMENT, start_new_session=True
    ) as process:
        while not first.exists() and process.poll() is None:
            time.sleep(0.1)
        os.killpg(process.pid, 9)
    kept = first.read_bytes()
    ended = swept(tmp_path, BOTH)
    assert ended.returncode == 0, ended.stderr
    assert first.read_bytes() == kept
    assert Record.read(tmp_path / "mdm").failure is None


@pytest.mark.slow
def test_two_sweeps_into_one_folder_make_whole_records(tmp_path):
    both = [subprocess.Popen(command(tmp_path, BOTH), env=ENVIRONMENT) for _ in range(2)]
    # which is busy with a job is no news of it
    assert {process.wait() for process in both} <= {0, process.BUSY}
    for name in ("end_to_end", "mdm"):
        record = Record.read(tmp_path / name)
        assert record.failure is None and not record.edited and record.quality


@pytest.mark.trial
def test_jobs_at_once_leave_what_jobs_in_turn_leave(tmp_path):
    several = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    ended = swept(tmp_path, BOTH, "method.resolutions=[32]", *several)
    assert ended.returncode == 1, ended.stderr
    assert "failed: mdm; the same command tries again" in ended.stderr
    made, failed = (Record.read(tmp_path / name) for name in ("end_to_end", "mdm"))
    assert made.failure is None and "nest one network" in str(failed.failure)
    assert not list((tmp_path.parent / "runs").glob(".sweeps/*"))


@pytest.mark.trial
def test_jobs_that_are_submitted_leave_what_jobs_in_turn_leave(tmp_path):
    """Slurm's launcher on this machine: it shares all but the queue."""
    place = ("hydra/launcher=submitit_local", f"hydra.sweep.dir={tmp_path}")
    ended = swept(tmp_path, BOTH, *place)
    assert ended.returncode == 0, ended.stderr
    for name in ("end_to_end", "mdm"):
        assert Record.read(tmp_path / name).failure is None
    assert list((tmp_path / ".submitit").glob("*/*_log.err"))
    assert not (tmp_path / ".sweeps").exists()


CTRL_C, SIGTERM = "a terminal's Ctrl-C", "SIGTERM to the sweep alone"


@pytest.mark.parametrize(
    ("launcher", "how"),
    [
        pytest.param("basic", SIGTERM, marks=pytest.mark.slow),
        pytest.param("basic", CTRL_C, marks=pytest.mark.trial),
        pytest.param("joblib", SIGTERM, marks=pytest.mark.trial),
        pytest.param("joblib", CTRL_C, marks=pytest.mark.trial),
    ],
)
def test_an_interrupted_sweep_ends_with_checkpoints_and_goes_on(tmp_path, launcher, how):
    more = ["trainer.steps=3000", "trainer.checkpoint_every=0", f"hydra/launcher={launcher}"]
    told = [*command(tmp_path, BOTH, *more), f"hydra.sweep.dir={tmp_path}"]
    log = tmp_path / "end_to_end" / "log.jsonl"
    with subprocess.Popen(
        told, env=ENVIRONMENT, start_new_session=True, stderr=subprocess.PIPE, text=True
    ) as process:
        while not log.exists() and process.poll() is None:
            time.sleep(0.1)
        time.sleep(1)
        code = REQUEUE if how.startswith("SIGTERM") else 130
        if how.startswith("SIGTERM"):
            os.kill(process.pid, signal.SIGTERM)
        else:
            os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    assert "the same command goes on" in said
    assert list((tmp_path / "end_to_end" / "checkpoints").glob("step_*"))
    assert not (tmp_path / "end_to_end" / "record.json").exists()
    if launcher == "basic":  # the second job never began
        assert not (tmp_path / "mdm").exists()
