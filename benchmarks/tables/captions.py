"""Under which conditions the numbers of a table hold: its caption, and the notes beneath it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.tables.costs import ALIKE, COSTS
from benchmarks.tables.digits import number
from benchmarks.tables.formats.cells import MISSING
from benchmarks.tables.presets import UNITS, Preset
from hierdiff.metrics.quality import Quality
from hierdiff.resolution import Name, order_of, px
from hierdiff.results.cost import Cost
from hierdiff.results.hardware import hardware
from hierdiff.results.record import Record

PRETRAINED = "‡"
CASES = ("train", "sample")  # of which a cost is made
TRAINING, SAMPLING = "training", "sampling"  # seeds
BOTH = (
    ": sqrt(between^2 + within^2), between the means of training seeds and within one over "
    "sampling seeds."
)
PER_IMAGE = {"flops_per_image": ("GFLOPs an image", 1e9), "latency": ("s an image", 1.0)}


def table_caption(rows: Mapping[str, Record], metrics: Sequence[str], wanted: Preset) -> str:
    """Data, budget, counts, noise floor, seeds, hardware."""
    records = list(rows.values())
    budgets = sorted({record.budget for record in records})
    about = [*captioned(records), f"budget {', '.join(budgets)}", *matched(records)]
    parts = [", ".join([records[0].data, *about]) + "."]
    found = [q for r in records for q in r.quality if q.value is not None and q.metric in metrics]
    alike: dict[str, list[str]] = {}
    for metric in metrics:
        own = [q for q in found if q.metric == metric]
        if own:
            makers = sorted({q.identity.maker for q in own})
            counts = sorted({_counts(q) for q in own})
            alike.setdefault(f"({', '.join(makers)}) of {', '.join(counts)}", []).append(metric)
    parts += [f"{', '.join(same)} {maker}." for maker, same in alike.items()]
    parts += [f"Noise floor of {metric}: {floor}." for metric, floor in floors(found).items()]
    parts += _seeds(records, found)
    costs = sorted(
        {
            f"{hardware(record, c)}, {batch_of(c)}"
            for record in records
            for c in record.cost
            if any(cost.value(c) is not None for cost in COSTS if cost.hardware)
        }
    )
    if costs and wanted.costs:
        parts.append(f"Cost on {'; '.join(costs)}.")
        if not wanted.finest and len({c.level for r in records for c in r.cost}) > 1:
            parts.append(
                "Cost at a resolution is that of the trajectory that makes the native images "
                "there, and of training its last stage; pooled images cost what the finest do."
            )
    distances = {q.metric for r in records for q in r.quality if q.whole}
    if len(records) > 1 and (found or (costs and wanted.costs)):
        parts.append(
            "Bold: the best value, and those that cannot be told from it at 95 % confidence. "
            "Nothing is bold in a column where no values can be told apart, or where a spread is "
            "unknown"
            + (
                f" or a timing was noisy; memory within {100 * ALIKE:.0f} % counts as equal."
                if costs and wanted.costs
                else "."
            )
        )
        if found and len(distances) > 1:
            parts.append(
                "Where the distances of a resolution (FD, KD, MIND) have no best method in common, "
                "none of them is bold."
            )
    return " ".join(parts)


def captioned(records: Sequence[Record]) -> list[str]:
    """What reads the captions, where every run has some."""
    data = [record.config.get("data") for record in records]
    texts = [one.get("text") if isinstance(one, Mapping) else None for one in data]
    names = sorted({str(text.get("name")) for text in texts if isinstance(text, Mapping)})
    return [f"captions read by {', '.join(names)}"] if all(texts) else []


def batch_of(cost: Cost) -> str:
    """The batch size of a cost row, for the caption."""
    size = cost.batch or cost.train_batch
    return f"batch {size}" if size else "each at its best batch"


def _counts(q: Quality) -> str:
    against = q.n_reference
    return f"{q.n} images" + (f" against {against}" if against is not None else "")


def floors(found: Sequence[Quality]) -> dict[str, str]:
    """What a perfect model would get at this count: for each metric that has it, by resolution."""
    by_metric: dict[str, dict[Name, list[float]]] = {}
    for q in sorted(found, key=lambda q: order_of(q.level)):
        if q.floor is not None:
            sides = by_metric.setdefault(q.metric, {})
            sides.setdefault(q.level, []).append(q.floor)
    return {
        metric: ", ".join(
            f"{px(level)} {MISSING.join(dict.fromkeys((number(min(own)), number(max(own)))))}"
            for level, own in sides.items()
        )
        for metric, sides in by_metric.items()
    }


def matched(records: Sequence[Record]) -> list[str]:
    """Which budget the runs share, where they were planned to share one."""
    budgets = set()
    for record in records:
        for name, amount in (record.training.get("plan") or {}).items():
            unit, factor = {**UNITS, **PER_IMAGE}.get(name, (name, 1.0))
            budgets.add(f"matched by {name} ({number(amount / factor)} {unit})")
    return sorted(budgets)


def _seeds(records: Sequence[Record], found: Sequence[Quality]) -> Iterator[str]:
    merged = [r.config["seed"] for r in records if isinstance(r.config.get("seed"), list)]
    if merged:
        yield (
            "A row with a number of seeds is the mean over that many trainings, any other row is "
            "one training."
        )
    elif not all(record.external for record in records):
        yield "Each row is one training."
    rows = set(found)
    single = [q for r in records if not isinstance(r.config.get("seed"), list) for q in r.quality]
    draws = sorted({len(q.values) for q in single if q in rows and q.spread is not None})
    if draws:
        yield f"{MISSING.join(map(str, dict.fromkeys((draws[0], draws[-1]))))} sampling seeds."
    sources = {frozenset(_sources(q)) for q in found if q.spread is not None}
    if sources == {frozenset({SAMPLING})}:
        yield "±: standard deviation over sampling seeds."
    elif sources:
        over = sorted(" and ".join(sorted(own, reverse=True)) for own in sources)
        yield (
            f"±: standard deviation of one result, over {' or '.join(over)} seeds"
            + (BOTH if any(len(own) > 1 for own in sources) else ".")
        )


def _sources(q: Quality) -> Iterator[str]:
    """Over which seeds a spread is."""
    if q.between is not None:
        yield TRAINING
    if q.between is None or q.within is not None:
        yield SAMPLING


def budget(record: Record, when: str, what: str) -> float | None:
    """Images, FLOPs or seconds of training, "planned" or "spent"; old records say it elsewhere."""
    amounts = record.training.get(when)
    if amounts is None and when == "spent":
        amounts = record.training
    amount = (amounts or {}).get(what)
    return None if amount is None else float(amount)


def pretrained(record: Record) -> list[str]:
    """Names of the stages whose training is not in the budget."""
    return [stage["name"] for stage in record.training.get("stages", ()) if stage.get("pretrained")]
