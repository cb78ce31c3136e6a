"""Cost: floating-point operations, parameters, time and memory.

A multiply-add counts as 2 operations, attention as its two products without the softmax. Times are
seconds, memory is MiB. An unknown value is None, never zero.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import (
    FlopCounterMode,
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from hierdiff.denoisers.protocol import Denoiser
from hierdiff.metrics.timing import Timing, timing

MIB = 2**20


def flops(fn: Callable[[], Any]) -> int:
    """Floating-point operations of one call of `fn`: matrix products, convolutions, attention.

    Works on the `meta` device, and counts a backward pass inside `fn`. Norms, activations and
    resizes count nothing. Causal attention is not halved. Count outside of a timed run.
    """
    with FlopCounterMode(display=False, custom_mapping=_attention_on_cpu()) as counter:
        fn()
    return int(counter.get_total_flops())


def _attention_on_cpu() -> dict[Any, Any]:
    """Formulas for the fused attention of the CPU, for a torch that has none of its own."""
    aten = torch.ops.aten
    own = {
        aten._scaled_dot_product_flash_attention_for_cpu: _forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
    }
    return {op: formula for op, formula in own.items() if op not in flop_registry}


def _forward(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _backward(
    grad: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def parameters(module: nn.Module) -> int:
    """Parameters, each counted once however often it is shared."""
    return sum(p.numel() for p in module.parameters())


def active_parameters(module: nn.Module) -> int:
    """Parameters without those that one call for one image leaves aside (`Denoiser.idle`)."""
    networks = [part for part in module.modules() if isinstance(part, Denoiser)]
    return parameters(module) - sum(network.idle for network in networks)


def time_call(
    fn: Callable[[], Any],
    *,
    warmup: int = 3,
    repeats: int = 10,
    device: torch.device | str = "cpu",
) -> Timing:
    """Wall-clock seconds of `fn`, with the device synchronised before and after every call.

    Raises:
        ValueError: for repeats below 1 or warmup below 0.
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats {repeats} and warmup {warmup}: repeat once or more")
    load = load_average()
    for _ in range(warmup):
        fn()
    times = [seconds_of(fn, device) for _ in range(repeats)]
    return timing(times, warmup=warmup, load=load)


def seconds_of(fn: Callable[[], Any], device: torch.device | str = "cpu") -> float:
    """Wall-clock time of one call, with the device synchronised before and after it."""
    _synchronize(device)
    start = time.perf_counter()
    fn()
    _synchronize(device)
    return time.perf_counter() - start


@dataclass(frozen=True)
class PeakMemory:
    """Peaks in MiB. allocated, reserved: of the CUDA allocator, None elsewhere.

    host: the high-water mark of this process over its whole life, so each case needs a
    fresh process; host_baseline: its resident size when the meter was built.
    """

    allocated: float | None
    reserved: float | None
    host: float | None
    host_baseline: float | None


class MemoryMeter:
    """Peak memory from its construction to `peak()`; on CUDA it resets the allocator's peaks."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.baseline = _status("VmRSS")
        if self.device.type == "cuda":
            _synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> PeakMemory:
        """Peaks so far, in MiB."""
        allocated = reserved = None
        if self.device.type == "cuda":
            _synchronize(self.device)
            allocated = torch.cuda.max_memory_allocated(self.device) / MIB
            reserved = torch.cuda.max_memory_reserved(self.device) / MIB
        return PeakMemory(allocated, reserved, host_peak(), self.baseline)


def host_peak() -> float | None:
    """High-water mark of this process's resident memory in MiB since it began."""
    peak = _status("VmHWM")
    return _rusage_peak() if peak is None else peak


def is_out_of_memory(error: BaseException) -> bool:
    """Of a device or of the host: for the latter torch has a plain RuntimeError."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def energy_of(
    fn: Callable[[], Any], device: torch.device | str, at_least: float = 5.0
) -> float | None:
    """Joules of one call, over as many as take `at_least` seconds; None where nothing counts them.

    NVML's counter of a GPU's total energy: it is updated every 20 to 100 ms, so the window must be
    long, and it counts everything that runs on that GPU. Needs nvidia-ml-py (`hierdiff[energy]`).
    """
    if torch.device(device).type != "cuda":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(
            f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        )
        before = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)  # mJ
    except Exception:  # absent, or a GPU without the counter: NVMLError has no common base
        return None
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < at_least:
        seconds_of(fn, device)
        calls += 1
    spent = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before
    return spent / 1000 / calls


def _status(key: str) -> float | None:
    """A line of /proc/self/status, which Linux gives in KiB, as MiB."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(f"{key}:")]
    return int(values[0]) / 1024 if values else None


def _rusage_peak() -> float | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024  # bytes there, KiB elsewhere


def load_average() -> float | None:
    """Load of the machine over the last minute; None where the system has no such number."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _synchronize(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
