"""Where the time of a step goes: operators, a trace, and shares of what the machine can do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.case import Case
from benchmarks.speed.pair import SIDES, WARMUP, untrained
from hierdiff.files.atomic import write
from hierdiff.metrics.cost import flops, seconds_of, time_call

PEAKS = {  # dense bf16 products of a card, FLOP/s, by a part of its name (vendor's data sheets)
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}
ROWS = 25  # operators of the table


def machine_rates(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """FLOP/s of this machine now, the best of several: `product` of 2048 x 2048 matrices, and
    `convolution` of 3x3 on 8 x 128 x 32 x 32, channels last in memory."""
    a = torch.randn(2048, 2048, device=device, dtype=dtype)
    x = torch.randn(8, 128, 32, 32, device=device, dtype=dtype)
    kernel = torch.randn(128, 128, 3, 3, device=device, dtype=dtype)
    layout = torch.channels_last
    x, kernel = x.contiguous(memory_format=layout), kernel.contiguous(memory_format=layout)
    with torch.no_grad():
        product = _best(lambda: a @ a, device)
        convolution = _best(lambda: F.conv2d(x, kernel, padding=1), device)
    return {
        "product": 2 * 2048**3 / product,
        "convolution": 2 * 8 * 32**2 * 128**2 * 9 / convolution,
    }


def _best(fn: Callable[[], Any], device: torch.device) -> float:
    for _ in range(3):
        fn()
    return min(seconds_of(fn, device) for _ in range(10))


def peak_of(name: str) -> float | None:
    """The peak of a card, FLOP/s in bf16; None for one that the table does not have."""
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def profiled(case: Case, side: str, folder: str) -> dict[str, Any]:
    """The rate of a step of one side, and its shares of the machine's rates.

    Writes `operators.txt`, a table by time spent in each operator itself, and `trace.json`, for
    chrome://tracing or Perfetto, into the folder.
    """
    device = torch.device(case.device)
    step = SIDES[side](case, untrained(case))
    timed = time_call(step, warmup=WARMUP, repeats=case.repeats, device=device)
    rate = flops(step) / timed.median
    activities = [ProfilerActivity.CPU]
    activities += [ProfilerActivity.CUDA] if device.type == "cuda" else []
    with profile(activities=activities) as profiler:
        seconds_of(step, device)
    table = profiler.key_averages().table(
        sort_by=f"self_{device.type}_time_total", row_limit=ROWS, max_name_column_width=60
    )
    place = Path(folder)
    write(place / "operators.txt", table.encode())
    profiler.export_chrome_trace(str(place / "trace.json"))
    dtype = torch.bfloat16 if case.precision == "bf16-mixed" else torch.float32
    rates = machine_rates(device, dtype)
    result = {
        "flops_per_s": rate,
        "machine": rates,
        "share": {name: rate / one for name, one in rates.items()},
    }
    if device.type == "cuda":
        peak = peak_of(torch.cuda.get_device_name(device))
        result["mfu"] = None if peak is None else rate / peak
    return result
