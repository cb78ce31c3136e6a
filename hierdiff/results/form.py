"""What a record must look like for its numbers to be used: a form as data, and what breaks it.

Records travel between people, versions and editors. Whoever reads one may add, divide and draw what
the form names; everything else in it is text to be shown. A key that ends in "?" may be missing,
"*" stands for every other key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hierdiff.resolution import NAME_WORD

LARGEST = 1e100  # of a number, so that its square and sums of squares are finite too
Test = Callable[[Any], bool]
Rule = tuple[str, Test]  # what a value must be, in words, and whether it is


def _is_number(value: Any) -> bool:
    if type(value) not in _NUMBERS:  # as JSON gives them; bool is no number
        return False
    return -LARGEST <= value <= LARGEST  # neither infinite nor NaN


def _is_amount(value: Any) -> bool:  # most values are one, or none
    return value is None or (type(value) in _NUMBERS and -LARGEST <= value <= LARGEST)


_NUMBERS = frozenset((int, float))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


NUMBER: Rule = (f"a finite number up to {LARGEST:g}", _is_number)
TEXT: Rule = ("text", _is_text)
COUNT: Rule = (
    "a positive whole number",
    lambda value: _is_number(value) and isinstance(value, int) and value > 0,
)
RESOLUTION: Rule = (
    "a positive whole number, or a list of them",
    lambda value: all(map(COUNT[1], value)) if isinstance(value, list) else COUNT[1](value),
)
LEVEL: Rule = (
    "the name of a level",
    lambda value: _is_text(value) and NAME_WORD.fullmatch(value) is not None,
)
NAME: Rule = (
    "a positive whole number, a list of them, or the name of a level",
    lambda value: LEVEL[1](value) or RESOLUTION[1](value),
)
ANY: Rule = ("anything", lambda value: True)
UNKNOWN: Rule = ("nothing", lambda value: False)  # a field of no name that this version knows
TREE: Rule = ("a mapping", lambda value: isinstance(value, Mapping))


def or_none(rule: Rule) -> Rule:
    """The rule that also allows null."""
    return f"{rule[0]} or null", lambda value: value is None or rule[1](value)


AMOUNT: Rule = (f"{NUMBER[0]} or null", _is_amount)
WORD: Rule = (f"{TEXT[0]} or null", lambda value: value is None or isinstance(value, str))
TRUTH = or_none(("true or false", lambda value: isinstance(value, bool)))
WHOLE = or_none(("a whole number", lambda value: _is_number(value) and isinstance(value, int)))
IDENTITY: dict[str, Any] = {
    "maker": TEXT,
    **dict.fromkeys(("resize?", "quantisation?", "rows?", "reference?", "estimator?"), TEXT),
    **dict.fromkeys(("n?", "frames?", "protocol?"), WHOLE),
    "*": UNKNOWN,
}
QUALITY: dict[str, Any] = {
    "resolution": RESOLUTION,
    "level?": LEVEL,
    "view": TEXT,
    "metric": TEXT,
    "value": AMOUNT,
    "identity": IDENTITY,
    **dict.fromkeys(("n?", "n_reference?", "draws?"), WHOLE),
    **dict.fromkeys(("floor?", "spread?", "between?", "within?"), AMOUNT),
    "route?": WORD,
    "better": WORD,  # no default is right for every metric
    "values?": [NUMBER],
    "*": ANY,
}
PART: dict[str, Any] = {"name": TEXT, "seconds?": AMOUNT, "flops?": AMOUNT, "*": UNKNOWN}
TRIAL: dict[str, Any] = {
    "name": TEXT,
    **{"images_per_s?": AMOUNT, "memory_mib?": AMOUNT, "failure?": WORD, "*": UNKNOWN},
}
COST: dict[str, Any] = {
    "resolution": RESOLUTION,
    "level?": LEVEL,
    "trajectory?": ([NAME],),
    **dict.fromkeys(("part?", "device?", "dtype?", "train_step?"), WORD),
    **dict.fromkeys(("train_failure?", "sample_failure?"), WORD),
    **dict.fromkeys(("channels_last?", "train_noisy?", "sample_noisy?"), TRUTH),
    **{
        f"{case}_{name}?": AMOUNT
        for case in ("train", "sample")
        for name in (
            *("images_per_s", "images_per_s_between", "iqr_s", "load", "memory_mib"),
            *("memory_reserved_mib", "memory_baseline_mib"),
        )
    },
    **dict.fromkeys(("latency_s?", "latency_s_between?", "latency_iqr_s?"), AMOUNT),
    **dict.fromkeys(("batch?", "train_batch?", "threads?", "repeats?"), AMOUNT),
    **dict.fromkeys(("energy_j?", "compile_s?", "parameters?", "active_parameters?"), AMOUNT),
    **dict.fromkeys(("flops_per_call?", "flops_per_image?", "evaluations?"), AMOUNT),
    "runs?": WHOLE,
    "breakdown?": ([PART],),
    **dict.fromkeys(("train_sweep?", "sample_sweep?"), ([TRIAL],)),
    "*": UNKNOWN,
}
CURVE = {
    **QUALITY,
    "stage?": WORD,
    "step?": WHOLE,
    **dict.fromkeys(("images?", "flops?", "seconds?", "half_life?"), AMOUNT),
}
GUIDANCE: Rule = (
    "a number, a list of them, or null",
    lambda value: all(map(_is_number, value)) if isinstance(value, list) else AMOUNT[1](value),
)
CANDIDATE = {
    **QUALITY,
    "guidance?": GUIDANCE,
    "steps?": WHOLE,
    "half_life?": AMOUNT,
    "chosen?": ("true or false", lambda value: isinstance(value, bool)),
}
SPENT: dict[str, Any] = {**dict.fromkeys(("images?", "flops?", "seconds?"), AMOUNT), "*": ANY}
MACHINE: dict[str, Any] = {"cpu?": WORD, "gpu?": ({"names?": ([TEXT],), "*": ANY},), "*": ANY}
FORM: dict[str, Any] = {
    **dict.fromkeys(("name", "method", "data", "budget"), TEXT),
    "resolutions": [NAME],
    "quality": [QUALITY],
    "cost": [COST],
    "scale": {"*": [QUALITY]},
    "curves": [CURVE],
    "selection": [CANDIDATE],
    "training": {
        **SPENT,
        "plan?": ({"*": NUMBER},),
        "planned?": (SPENT,),
        "spent?": (SPENT,),
        "stages?": [{"name?": TEXT, "images?": AMOUNT, "flops?": AMOUNT, "*": ANY}],
        "notes?": [TEXT],
    },
    "analysis": {"*": TREE},
    "config": {
        **dict.fromkeys(("match?", "trainer?", "sampler?", "cost?", "stated?"), or_none(TREE)),
        "*": ANY,
    },
    "provenance": {
        "machine?": (MACHINE,),
        "cost?": ({"machine?": (MACHINE,), "*": ANY},),
        **dict.fromkeys(("git?", "packages?", "seeds?"), or_none(TREE)),
        "evaluation?": ({"protocol": TEXT, "departures": [TEXT]},),
        "*": ANY,
    },
    "failure": WORD,
    "*": ANY,
}


def broken(value: Any) -> str | None:
    """Where what a record holds breaks its form, in a sentence; None where it does not."""
    return None if _HOLDS(value) else _fault(value, FORM, "")


def _fault(value: Any, form: Any, where: str) -> str | None:
    """Where `value` breaks a form.

    form: a rule; a list of one form, for every member; a mapping of forms; or a tuple of one form,
    in whose place None may stand.
    """
    if isinstance(form, tuple):
        if len(form) == 1:
            return None if value is None else _fault(value, form[0], where)
        return None if form[1](value) else _sentence(value, form, where)
    if isinstance(form, list):
        if not isinstance(value, (list, tuple)):
            return f"{where} is {_short(value)}, where a list is needed"
        faults = (_fault(member, form[0], f"{where}[{i}]") for i, member in enumerate(value))
        return next(filter(None, faults), None)
    if not isinstance(value, Mapping):
        return f"{where or 'it'} is {_short(value)}, where a mapping is needed"
    rules, rest, needed = _rules(form)
    lacking = next((key for key in needed if key not in value), None)
    if lacking is not None:
        return f"{where or 'it'} lacks {lacking!r}"
    faults = (
        _fault(child, rules.get(key, rest), f"{where}.{key}" if where else str(key))
        for key, child in value.items()
    )
    return next(filter(None, faults), None)


def _test(form: Any) -> Test:
    """Whether a value holds a form, as `_fault` says, in one call: a record has thousands."""
    if isinstance(form, tuple):
        if len(form) == 2:
            return form[1]
        some = _test(form[0])
        return lambda value: value is None or some(value)
    if isinstance(form, list):
        member = _test(form[0])
        return lambda value: isinstance(value, (list, tuple)) and all(map(member, value))
    rules, rest, needed = _rules(form)
    tests, other, keys = {key: _test(one) for key, one in rules.items()}, _test(rest), set(needed)

    def holds(value: Any) -> bool:
        if not (type(value) is dict or isinstance(value, Mapping)) or not keys <= value.keys():
            return False
        for key, child in value.items():  # noqa: SIM110  (a generator is slower)
            if not tests.get(key, other)(child):
                return False
        return True

    return holds


def _sentence(value: Any, rule: Rule, where: str) -> str:
    if rule is UNKNOWN:
        return f"{where} is no field that this version knows, a later one may read it"
    return f"{where} is {_short(value)}, where {rule[0]} is needed"


def _rules(form: Mapping[str, Any]) -> tuple[dict[str, Any], Any, list[str]]:
    """The rules of a mapping by key, that of every other key, and the keys that are needed."""
    rules = {key.rstrip("?"): rule for key, rule in form.items()}
    return rules, form.get("*", ANY), [key for key in form if key[-1] not in "?*"]


_HOLDS = _test(FORM)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
