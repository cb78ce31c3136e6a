"""Schedules a second time, one number at a time from the published definitions, slowly."""

import math


def table(kind: str, steps: int = 1000) -> list[float]:
    """alpha^2 of the entries 0 (clean) to `steps`: the running product of 1 - beta."""
    found = [1.0]
    for i in range(steps):
        found.append(found[-1] * (1 - beta(kind, i, steps)))
    return found


def beta(kind: str, i: int, steps: int) -> float:
    share = i / (steps - 1)
    if kind == "linear_beta":
        return 1e-4 + share * (0.02 - 1e-4)
    if kind == "scaled_linear_beta":
        return (math.sqrt(0.00085) + share * (math.sqrt(0.012) - math.sqrt(0.00085))) ** 2
    ratio = bar((i + 1) / steps) / bar(i / steps)  # squared_cosine
    return min(1 - ratio, 0.999)


def bar(u: float) -> float:
    return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2


def cosine(t: float, low: float = -15, high: float = 15) -> float:
    first, last = math.atan(math.exp(-high / 2)), math.atan(math.exp(-low / 2))
    return -2 * math.log(math.tan(first + t * (last - first)))


def chen_sigmoid(t: float, start: float, end: float, tau: float) -> float:
    """alpha^2: a sigmoid between its values at both ends."""

    def value(u: float) -> float:
        return 1 / (1 + math.exp(-(start + u * (end - start)) / tau))

    return (value(1) - value(t)) / (value(1) - value(0))
