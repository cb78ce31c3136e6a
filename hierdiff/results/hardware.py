"""What a time or a memory depends on: the device and its model, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hierdiff.results.cost import Cost
from hierdiff.results.record import Record


def device_name(record: Record, device: str) -> str:
    """A device with its model, where the record knows it: `cuda (NVIDIA H100)`."""
    return hardware_of(device, record.provenance.get("machine") or {})


def hardware_of(device: str, known: Mapping[str, Any]) -> str:
    """A device with its model; known: the machine as provenance has it."""
    names = (known.get("gpu") or {}).get("names") or []
    model = names[0] if device.startswith("cuda") and names else known.get("cpu")
    return f"{device} ({model})" if model else device


def hardware(record: Record, cost: Cost) -> str:
    """What a time or a memory depends on: `cuda (NVIDIA H100), bf16-mixed`, of a CPU also the
    threads."""
    timed = record.provenance.get("cost") or {}  # timed again, maybe elsewhere
    known = timed.get("machine") or record.provenance.get("machine") or {}
    parts = [hardware_of(str(cost.device), known), str(cost.dtype)]
    if cost.threads is not None:
        parts.append(f"{cost.threads} thread{'s' * (cost.threads != 1)}")
    return ", ".join(parts)
