"""What a record must look like for its numbers to be used: a form as data, and what breaks it.

Records travel between people, versions and editors. Whoever reads one may add, divide and draw what
the form names; everything else in it is text to be shown. A key that ends in "?" may be missing,
"*" stands for every other key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from hierdiff.metrics.identity import Identity
from hierdiff.metrics.quality import Candidate, CurvePoint, Quality
from hierdiff.resolution import NAME_WORD
from hierdiff.results.cost import BatchTrial, Cost, CostPart

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
GUIDANCE: Rule = (
    "a number, a list of them, or null",
    lambda value: all(map(_is_number, value)) if isinstance(value, list) else AMOUNT[1](value),
)
RULES: dict[Any, Any] = {  # of a field, by its annotation
    "str": TEXT,
    "str | None": WORD,
    "float | None": AMOUNT,
    "int | None": WHOLE,
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "bool | None": TRUTH,
    "tuple[float, ...]": [NUMBER],
    "tuple[Name, ...]": ([NAME],),
    "float | tuple[float, ...] | None": GUIDANCE,
}


def form_of(row: Any, rest: Rule = UNKNOWN) -> dict[str, Any]:
    """The form of what a dataclass stores: a field that has a default may be missing.

    A level is stored as its resolution, and its name where that is a word. rest: of other keys.
    """
    rules: dict[str, Any] = {}
    for one in fields(row):
        if one.name == "level":
            rules |= {"resolution": RESOLUTION, "level?": LEVEL}
        else:
            needed = one.default is MISSING or one.name == "better"  # none is right for all metrics
            rules[one.name if needed else f"{one.name}?"] = RULES[one.type]
    return {**rules, "*": rest}


RULES["Identity"] = {  # what does not apply is left out, and no null
    key: TEXT if rule is WORD else rule for key, rule in form_of(Identity).items()
}
RULES["tuple[CostPart, ...]"] = ([form_of(CostPart)],)
RULES["tuple[BatchTrial, ...]"] = ([form_of(BatchTrial)],)
QUALITY, CURVE, CANDIDATE = (form_of(one, ANY) for one in (Quality, CurvePoint, Candidate))
COST = form_of(Cost)
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
