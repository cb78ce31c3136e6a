"""Analyses beside the row, by the name of `analysis`: what is refused, measured and drawn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure.experts import check_experts, watch_experts, write_experts_picture
from benchmarks.measure.exposure import (
    check_exposure,
    exposure_bias,
    gaps,
    upsamplers,
    write_exposure_picture,
)
from benchmarks.measure.samples import Draw
from benchmarks.measure.spectrum import check_spectrum, spectra, write_spectrum_picture
from benchmarks.measure.steps import check_steps, quality_by_steps, write_steps_picture
from benchmarks.measure.stream import Gauge
from benchmarks.settings import Analysis
from hierdiff.methods import Method

Look = tuple[dict[str, Any], Callable[[Path], None]]  # for the record, and what draws the picture


class Kind(NamedTuple):
    """check: refuses a method. look: measures one. distances: whether it needs the references of
    the training images at the resolutions of the method."""

    check: Callable[[Method, Analysis], None]
    look: Callable[[Method, Draw, Gauge, Analysis], Look]
    distances: bool


def by_exposure(method: Method, draw: Draw, gauge: Gauge, wanted: Analysis) -> Look:
    """The exposure bias of a cascade."""
    rows = exposure_bias(method, draw, gauge, wanted.samples, wanted.log_snrs)
    own = {one.stage.name: one.bridge.output_log_snr for one in upsamplers(method)}
    result = {"rows": rows, "gap": gaps(rows, method), "level": own}
    return result, partial(write_exposure_picture, rows=rows, own=own)


def by_steps(method: Method, draw: Draw, gauge: Gauge, wanted: Analysis) -> Look:
    """The quality over the number of steps."""
    rows = quality_by_steps(method, draw, gauge, wanted.samples, wanted.steps)
    return {"rows": rows}, partial(write_steps_picture, rows=rows)


def by_spectrum(method: Method, draw: Draw, gauge: Gauge, wanted: Analysis) -> Look:
    """The power spectrum of samples and of real images."""
    rows = spectra(draw, gauge, wanted.samples)
    return {"rows": rows}, partial(write_spectrum_picture, rows=rows)


def by_experts(method: Method, draw: Draw, gauge: Gauge, wanted: Analysis) -> Look:
    """What the experts of the networks do while samples are drawn."""
    watched = watch_experts(method, draw, wanted.samples)
    return {"rows": watched.rows()}, partial(write_experts_picture, watched=watched)


ANALYSES = {
    "exposure_bias": Kind(lambda m, wanted: check_exposure(m, wanted.log_snrs), by_exposure, True),
    "steps": Kind(lambda m, _: check_steps(m), by_steps, True),
    "spectrum": Kind(lambda m, _: check_spectrum(m), by_spectrum, False),
    "experts": Kind(lambda m, _: check_experts(m), by_experts, False),
}
