"""A sweep: every job of `-m` in a process of its own, failures as rows, progress over the whole.

A crash, a lack of memory or a kill ends one job and not the sweep: what it leaves is a record with
the reason. The same sweep again does what is missing: finished runs are printed, interrupted ones
go on, failed ones are tried again. The launcher is hydra's: one after another by default,
`hydra/launcher=joblib` for several at once on one machine, `submitit_slurm` for a cluster.
Ctrl-C reaches every process of a terminal: jobs end with a checkpoint, and no further one begins.
SIGTERM and SIGHUP are passed on to the job, and a job whose sweep was killed ends by itself.
"""

from __future__ import annotations

import atexit
import importlib.util
import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from benchmarks import ledger as states
from benchmarks.ledger import Job, Ledger, opened
from benchmarks.measure import AUTO
from benchmarks.protocol import SAMPLING, TRAINING
from hierdiff.command import absent_group, new_part, parts_of, plain, sentence
from hierdiff.config import stop_signals
from hierdiff.data import datasets
from hierdiff.inputs import changed, inputs
from hierdiff.metrics import weights
from hierdiff.metrics.attributes import ATTRIBUTES
from hierdiff.metrics.extractors import extractors
from hierdiff.record import FILE, Record, content_hash
from hierdiff.record import plain as record_plain
from hierdiff.registry import UnknownOption
from hierdiff.results import flat
from hierdiff.train import prepare

log = logging.getLogger(__name__)
INTERRUPTED = 130  # exit code of a run that was asked to stop
REFUSED = 2
FOLLOWS = "HIERDIFF_FOLLOWS"  # tells a job's process that its input closes when its sweep ends
BUSY = 75  # exit code of a run whose folder another process works on (EX_TEMPFAIL)


# options that name or show a run, and all that is in them
NAMES = ("folder", "name", "label", "analysis", "dry_run")
APPEARANCE = (  # options that leave its numbers as they are
    *("data.cache", "method.codec.cache", "trainer.progress", "trainer.tensorboard"),
    *("trainer.keep", "trainer.checkpoint_every", "trainer.sheet_every", "trainer.sheet_images"),
    "trainer.log_every",
)


def in_sweep() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


# -- the process that launches ---------------------------------------------------------------------


def launched(main: Callable[[], None]) -> None:
    """`main` as a command; says what hydra does not: a launcher that is not installed, Ctrl-C."""
    check_launcher(sys.argv[1:])
    try:
        main()
    except KeyboardInterrupt:  # between two jobs, or while those of a cluster are waited for
        print("interrupted: the same command goes on; jobs in a queue stay there", file=sys.stderr)
        sys.exit(INTERRUPTED)


def check_launcher(arguments: Sequence[str]) -> None:
    """Ends the process where `hydra/launcher=` names one that is an extra and not installed."""
    for name in (one.partition("=")[2] for one in arguments if one.startswith("hydra/launcher=")):
        plugin = f"hydra_plugins.hydra_{name.partition('_')[0]}_launcher"
        if name != "basic" and not _installed(plugin):
            sys.exit(
                f"error: hydra/launcher={name} is not installed: pip install 'hierdiff[sweep]' "
                f"brings joblib, submitit_slurm and submitit_local; basic is always there"
            )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # there is not even one plugin
        return False


class Progress(Callback):
    """Opens the ledger before the first job; tells at the end what the jobs left in it.

    Exit code of the sweep: 130 where it was interrupted, 1 where a job ended without its numbers, 2
    where a record is there that was made otherwise, 75 where another process is at a job.
    """

    def __init__(self) -> None:
        self._open = ExitStack()
        self._ledger: Ledger | None = None

    def __reduce__(self) -> tuple[type[Progress], tuple[()]]:
        return Progress, ()  # launchers send it to their jobs, which find the ledger themselves

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        given = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        swept = jobs(given)  # type: ignore[arg-type]
        try:
            lines = shared(config, swept)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(REFUSED)
        for line in lines:
            print(line, file=sys.stderr)
        self._ledger = self._open.enter_context(opened(Path(config.hydra.sweep.dir), len(swept)))
        atexit.register(self._open.close)  # also where the sweep is interrupted
        digests: dict[str, str] = {}
        for number, overrides in enumerate(swept):
            try:
                label = there(config, overrides, digests)
            except Unlike as error:  # before anything is spent
                print(f"error: {error}", file=sys.stderr)
                sys.exit(REFUSED)
            if label is not None:
                now = time.time()
                self._ledger.put(number, Job(label, states.PASSED, now, now))
        if "joblib" in config.hydra.launcher._target_:
            # else the launcher would answer Ctrl-C with SIGKILL to jobs that write a checkpoint,
            # and idle workers, which inherit this, would break its pool
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for number in stop_signals():
                signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """The jobs see it in the ledger."""
        if self._ledger is not None:
            self._ledger.stop()

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        if self._ledger is None:
            return
        code, lines = verdict(self._ledger)
        self._open.close()
        for line in lines:
            print(line, file=sys.stderr)
        if code:
            sys.exit(code)


def verdict(ledger: Ledger) -> tuple[int, list[str]]:
    """Exit code of a sweep whose launcher is through, and what is told of it."""
    failed = ledger.labels(states.FAILED) + ledger.labels(states.RUNNING)
    interrupted, busy = ledger.labels(states.INTERRUPTED), ledger.labels(states.BUSY)
    missing = ledger.total - len(ledger.jobs())
    code, lines = 0, []
    if failed:
        code = 1
        lines.append(f"failed: {', '.join(failed)}; the same command tries again")
    if interrupted or ledger.stopped:
        begun = f" in {', '.join(interrupted)}" if interrupted else ""
        return INTERRUPTED, [*lines, f"interrupted{begun}: the same command goes on"]
    if missing:
        code = 1
        lines.append(f"no word of {missing} of {ledger.total} jobs: see their logs and records")
    if busy:
        code = code or BUSY
        lines.append(
            f"busy: another process works on {', '.join(busy)}; wait for it and give the same "
            f"command again"
        )
    return code, lines


def jobs(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """The overrides of each job of a sweep, in hydra's order."""
    choices = {}
    for one in OverridesParser.create().parse_overrides(list(overrides)):
        key = one.get_key_element()
        swept = one.is_sweep_override()
        values = one.sweep_string_iterator() if swept else [one.get_value_element_as_str()]
        choices[key] = [f"{key}={value}" for value in values]
    return list(itertools.product(*choices.values()))


def there(
    config: Any, overrides: Sequence[str], digests: dict[str, str] | None = None
) -> str | None:
    """The label of a job of which nothing is missing; None for another, or one that is no good.
    Raises `Unlike`."""
    try:
        options = options_of(config, own(config, overrides))
        if options["dry_run"]:
            return None
        return options["label"] if finished(options, Path(options["folder"]), digests) else None
    except Unlike:
        raise
    except Exception:  # the job itself says what is wrong
        return None


def options_of(config: Any, overrides: Sequence[str]) -> dict[str, Any]:
    """The options of a job of the sweep whose config is given."""
    before = HydraConfig.instance().cfg
    cfg = _composed(GlobalHydra.instance().config_loader(), config, list(overrides))
    try:
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        return plain(cfg)
    finally:
        HydraConfig.instance().cfg = before


# -- options that some methods of a sweep have, and others have not --------------------------------


def own(config: Any, overrides: Sequence[str]) -> list[str]:
    """The overrides of a job without those that its method has no place for."""
    left = left_out(config, tuple(overrides))
    return [one for one in overrides if key_of(one) not in left]


def shared(config: Any, swept: Sequence[Sequence[str]]) -> list[str]:
    """A line for each option that some jobs of a sweep have no place for. ValueError for one that
    none has."""
    left = [left_out(config, tuple(overrides)) for overrides in swept]
    lines = []
    for key in dict.fromkeys(key for one in left for key in one):
        if all(key in one for one in left):
            raise ValueError(left[0][key])
        methods = [_method(job) for job, one in zip(swept, left, strict=True) if key in one]
        lines.append(f"{key} is no option of {', '.join(dict.fromkeys(methods))}: left out there")
    return lines


def _method(overrides: Sequence[str]) -> str:
    chosen = [one.partition("=")[2] for one in overrides if key_of(one) == "method"]
    return chosen[-1] if chosen else "this method"


def key_of(override: str) -> str:
    return override.lstrip("+").partition("=")[0]


def left_out(config: Any, overrides: tuple[str, ...]) -> dict[str, str]:
    """Keys of a job's overrides that its parts have no place for, and the sentence that refuses
    each."""
    place = (config.hydra.job.config_name, *overrides)
    if place not in _LEFT:
        left: dict[str, str] = {}
        rest = list(overrides)
        while (found := _refused(config, rest)) is not None:
            left[found[0]] = found[1]
            rest = [one for one in overrides if key_of(one) not in left]
        _LEFT[place] = left
    return _LEFT[place]


_LEFT: dict[tuple[str, ...], dict[str, str]] = {}  # found once: parts are built for it


def _refused(config: Any, overrides: Sequence[str]) -> tuple[str, str] | None:
    loader = GlobalHydra.instance().config_loader()
    choices = [one for one in overrides if "@" in one or loader.get_group_options(key_of(one))]
    try:
        files = _composed(loader, config, choices)
        new = {key_of(one): new_part(files, key_of(one)) for one in overrides if one not in choices}
        if any(new.values()):
            prepare(options_of(config, overrides), shapes_alone=True)
    except HydraException as error:
        group = absent_group(error)
        return None if group is None else (group, sentence(error))
    except UnknownOption as error:
        where = parts_of(error.path) if error.path else ()
        keys = [
            key
            for key, part in new.items()
            if part == error.option and parts_of(key)[: len(where)] == where
        ]
        return (keys[0], str(error)) if keys else None
    except Exception:  # the job itself says what is wrong
        return None
    return None


_composed: Callable[..., Any] = ConfigLoaderImpl.load_sweep_config


def _of_its_own(self: Any, master_config: Any, sweep_overrides: list[str]) -> Any:
    return _composed(self, master_config, own(master_config, sweep_overrides))


ConfigLoaderImpl.load_sweep_config = _of_its_own  # type: ignore[assignment]


# -- a job -----------------------------------------------------------------------------------------


class Unlike(ValueError):
    """A finished run was made with other options than are asked for."""


def finished(
    options: dict[str, Any], folder: Path, digests: dict[str, str] | None = None
) -> Record | None:
    """The record of a run of which nothing is missing. Raises `Unlike`. digests: as `data_digest`
    keeps them."""
    record = Record.read(folder) if (folder / FILE).exists() else None
    if record is None or record.failure is not None:
        return None
    check_same(record, options, folder, digests)
    analysis = options.get("analysis")
    return record if analysis is None or analysis["name"] in record.analysis else None


def check_same(
    record: Record,
    options: dict[str, Any],
    folder: Path,
    digests: dict[str, str] | None = None,
) -> None:
    """Refuses a finished run as the answer to other options than it was made with, or to files,
    data or code that have changed since. What was open then (`auto`, steps that a budget decides)
    is no difference, and neither is another commit of hierdiff."""
    made_of = record.provenance.get("inputs")
    was, now = (flat(record_plain(node, "config", free=True)) for node in (record.config, options))
    budgets = {name for name, amount in options["match"].items() if amount is not None}
    decided = {"trainer.steps": TRAINING, "sampler.steps": SAMPLING}
    undecisive = {key for key, kind in decided.items() if budgets & set(kind)}
    if made_of is not None:
        undecisive |= {"data.root", "data.test_root"}  # the digest of the data stands for it
    for key in sorted({*was, *now} - undecisive):
        kept, asked = was.get(key), now.get(key)
        open_then = asked == AUTO or (isinstance(asked, list) and kept in _closed(asked))
        shown = key.partition(".")[0] in NAMES or key in APPEARANCE
        if not shown and kept != asked and not open_then:
            raise Unlike(
                f"{folder / FILE} was made with {key}={kept!r}, now it is {asked!r}: "
                f"remove it, or give another folder=..."
            )
    if made_of is None:
        log.warning(
            "%s does not say from what it was made: its options alone were compared", folder / FILE
        )
        return
    other = changed(made_of, inputs_of(options, data_digest(options["data"], digests)))
    if other is not None:
        place = {"data": options["data"].get("root")}.get(other, now.get(other))
        raise Unlike(
            f"{folder / FILE} was made from another content of {other}"
            f"{'' if place is None else f' ({place})'} than there is now: "
            f"remove it, or give another folder=..."
        )


def inputs_of(options: dict[str, Any], data: str) -> dict[str, str]:
    """What a record is made from beside its options; data: digest of its data."""
    node, files = options["measure"]["extractor"], {}
    released = getattr(extractors.named(node), "released", None)
    if released is not None and node.get("weights") is None:
        found = (place for place in weights.places(released) if place.is_file())
        files = {f"{place.name} for measure.extractor": place for place in [*found][:1]}
    return inputs({k: v for k, v in options.items() if k not in NAMES}, data=data, files=files)


def data_digest(node: dict[str, Any], digests: dict[str, str] | None = None) -> str:
    """Of the data of a node as it is now, or as it was when `digests` was begun."""
    digests = {} if digests is None else digests
    key = content_hash(record_plain(node, "data", free=True))
    if key not in digests:
        digests[key] = datasets.build(node).sha256
    return digests[key]


def _closed(metrics: list[Any]) -> list[list[Any]]:
    """What `auto` in a list may have become."""
    return [[m for name in metrics for m in (able if name == AUTO else [name])]
            for able in ([], [ATTRIBUTES])]  # fmt: skip


def looked_at(label: str, look: Callable[[], None]) -> None:
    """A job of a dry sweep: what speaks against it is said, and the next one is looked at."""
    ledger, began = Ledger.here(), time.time()
    try:
        look()
        state = states.PASSED
    except Exception as error:
        print(f"error: {label}: {reason(error)}", file=sys.stderr, flush=True)
        state = states.FAILED
    if ledger is not None:
        ledger.put(int(HydraConfig.get().job.num), Job(label, state, began, time.time()))


def job(options: dict[str, Any], folder: Path) -> Record | None:
    """The record of a job of this sweep, as it is there or made in a fresh process; None where it
    was interrupted or another process is at it. A failure is a record too, and no exception."""
    number, label = int(HydraConfig.get().job.num), options["label"]
    ledger, began = Ledger.here(), time.time()
    if ledger is not None and ledger.stopped:
        return None

    def put(state: str) -> None:
        if ledger is not None:
            ended = None if state == states.RUNNING else time.time()
            ledger.put(number, Job(label, state, began, ended))

    try:
        record = finished(options, folder)
        if record is not None:
            put(states.PASSED)
            return record
        put(states.RUNNING)
        line = f"job {number + 1}: {label}" if ledger is None else ledger.place(number, label)
        print(line, file=sys.stderr, flush=True)
        state, record = apart(options, folder, ledger)
        put(state)
        return record
    except Exception as error:
        print(f"error: {label}: {reason(error)}", file=sys.stderr, flush=True)
        put(states.FAILED)
        return None


def apart(
    options: dict[str, Any], folder: Path, ledger: Ledger | None
) -> tuple[str, Record | None]:
    """How a job ended in a process of its own, and its record."""
    told = HydraConfig.get()
    command = [sys.executable, "-m", "benchmarks.run", *told.overrides.task]
    for source in told.runtime.config_sources:
        if source.provider == "command-line":
            command += ["--config-dir", source.path]
    with noticed(ledger) as interrupts:
        try:
            code, last = run(command, ledger, interrupts)
        except Exception as error:  # submitit raises one where a job's time is up
            code, last = 1, reason(error)
    stopped = bool(interrupts) or (ledger is not None and ledger.stopped)
    if interrupts and ledger is not None:
        ledger.stop()
    missing = not (folder / FILE).exists()
    if code in (INTERRUPTED, -signal.SIGINT) or (stopped and missing):
        return states.INTERRUPTED, None
    if code == BUSY:
        return states.BUSY, None
    if missing:
        failed(options, ended(code, last)).write(folder)
    record = Record.read(folder)
    return states.FAILED if record.failure is not None or code else states.MADE, record


@contextmanager
def noticed(ledger: Ledger | None = None) -> Iterator[list[int]]:
    """Inside, Ctrl-C is added to the list and work goes on: the job has got it as well.

    SIGTERM and SIGHUP, which reach this process alone, are added too and stop the ledger.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def notice(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if number != signal.SIGINT and ledger is not None:
            ledger.stop()

    numbers = (signal.SIGINT, *stop_signals())
    before = {number: signal.signal(number, notice) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(
    command: Sequence[str], ledger: Ledger | None = None, interrupts: Sequence[int] = ()
) -> tuple[int, str]:
    """Exit code and last line of stderr, which passes through as it comes.

    interrupts: signals that this process has got, as `noticed` lists them. Where the sweep is
    stopped, or a launcher's signal handler raises (submitit's does before a job's time is up), the
    process is asked to end, with its checkpoint, and waited for.
    """
    last = b""
    with spawned(command) as process, asked_where_stopped(process, ledger, interrupts):
        assert process.stderr is not None
        try:
            while chunk := process.stderr.read1():  # type: ignore[attr-defined]
                sys.stderr.buffer.write(chunk)
                sys.stderr.flush()
                last = (last + chunk)[-4000:]
            process.wait()
        except BaseException:
            process.terminate()
            process.communicate()
            raise
    lines = last.decode(errors="replace").replace("\r", "\n").strip().splitlines()
    return process.returncode, lines[-1].strip() if lines else ""


@contextmanager
def asked_where_stopped(
    process: subprocess.Popen[bytes], ledger: Ledger | None, interrupts: Sequence[int]
) -> Iterator[None]:
    """Inside, the process is asked to end as soon as the ledger says that the sweep is stopped,
    unless it has had Ctrl-C itself."""
    over = threading.Event()

    def watch(ledger: Ledger) -> None:
        while not over.wait(0.2):
            if ledger.stopped and signal.SIGINT not in interrupts:
                process.terminate()
                return

    watcher = threading.Thread(target=watch, args=(ledger,), daemon=True)
    if ledger is not None:
        watcher.start()
    try:
        yield
    finally:
        over.set()


@contextmanager
def spawned(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends when this one is gone (`follow_sweep`), and that ignores the signals by
    which Slurm tells all those of a job that its time is up, if this one answers them."""
    main = threading.current_thread() is threading.main_thread()
    answered = {n: signal.getsignal(n) for n in (signal.SIGUSR1, signal.SIGUSR2) if main}
    answered = {n: handler for n, handler in answered.items() if callable(handler)}
    for number in answered:
        signal.signal(number, signal.SIG_IGN)
    theirs, ours = os.pipe()  # which the system closes when this process ends, however it does
    try:
        process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, FOLLOWS: "1"},
        )
    finally:
        os.close(theirs)
        for number, handler in answered.items():
            signal.signal(number, handler)
    try:
        with process:
            yield process
    finally:
        os.close(ours)


def follow_sweep() -> None:
    """In a job's process: ends it, as SIGTERM does, when the process of the sweep is gone."""
    if os.environ.pop(FOLLOWS, None) is None:
        return

    def watch() -> None:
        while os.read(0, 1):
            continue
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def ended(code: int, last: str) -> str:
    """Why a job has no record, in one sentence."""
    if code < 0:
        name = signal.Signals(-code).name
        why = " (as the system does where memory runs out)" if name == "SIGKILL" else ""
        return f"killed by {name}{why}"
    return last.removeprefix("error: ") or f"exit code {code}"


def reason(error: Exception) -> str:
    """Of an exception, in one line; the first sentence alone where memory ran out."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, torch.OutOfMemoryError):
        return f"out of memory: {text.partition('. ')[0]}"
    expected = isinstance(error, (ValueError, OSError, FloatingPointError, ImportError))
    return text if expected else f"{type(error).__name__}: {text}"


def failed(options: dict[str, Any], reason: str) -> Record:
    """The row of a job that ended without its numbers."""
    return Record(
        name=options["label"],
        method=options["method"]["name"],
        data=options["data"]["name"],
        budget=options["budget_name"],
        resolutions=tuple(options["method"]["resolutions"]),
        config=options,
        failure=reason,
    )
