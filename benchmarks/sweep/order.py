"""The order of a sweep's jobs: where several run at once, those of the most planned work first.

A sweep whose longest job begins last ends with that one alone. Of all orders for a queue this one
ends at most a third later than the best (R. L. Graham, Bounds on multiprocessing timing anomalies,
1969).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.plan.budget import make_plan
from benchmarks.settings import settings_of
from hierdiff.prepared import prepare
from hierdiff.results.plain import content_hash, plain

log = logging.getLogger(__name__)
ALIKE = ("seed", "label", "name", "folder", "analysis", "dry_run")  # options that cost nothing


def longest_first(work: Sequence[float]) -> list[int]:
    """The numbers of the jobs by falling work; equal ones stay in order."""
    return sorted(range(len(work)), key=lambda number: -work[number])


def planned_work(options: Mapping[str, Any]) -> float:
    """Operations of training and of the measured samples, by the plan of a run; infinite where they
    are unknown. Where a budget of seconds decides the training, those seconds.

    Errors are those of `make_plan`.
    """
    seconds = options["match"]["seconds"]
    if seconds is not None:
        return float(seconds)
    settings = settings_of(options)
    run = prepare(settings.to_config(), shapes_alone=True)
    plan = make_plan(run, settings.match, settings.place, dry=True)
    training, image = plan.flops(), plan.flops_per_image
    if training is None or image is None:
        return math.inf
    return training + image * settings.measure.samples * len(settings.measure.seeds)


def planned_works(
    jobs: Sequence[Mapping[str, Any] | None],
    price: Callable[[Mapping[str, Any]], float] = planned_work,
) -> list[float]:
    """The work of each job, 0 for None and for what is refused, which ends at once.

    Jobs that differ by a seed or a name alone are planned once.
    """
    known: dict[str, float] = {}
    works = []
    for options in jobs:
        if options is None:
            works.append(0.0)
            continue
        node = {key: value for key, value in options.items() if key not in ALIKE}
        key = content_hash(plain(node, "config", free=True))
        if key not in known:
            known[key] = _price(options, price)
        works.append(known[key])
    return works


def _price(options: Mapping[str, Any], price: Callable[[Mapping[str, Any]], float]) -> float:
    try:
        return price(options)
    except Exception as error:  # the job itself reports it
        log.debug("%s has no plan: %s", options["label"], error)
        return 0.0
