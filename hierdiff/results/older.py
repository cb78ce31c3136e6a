"""Records of schemas before the present one: what they lack, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from hierdiff.metrics.identity import Identity
from hierdiff.metrics.quality import HIGH, LOW
from hierdiff.results.cost import ALONE
from hierdiff.results.form import COST

# before schema 3, which side of a metric is better was told by its name
HIGHER_IS_BETTER = ("IS", "precision", "recall", "density", "coverage", "PSNR", "SSIM")

CostRow = Mapping[str, Any]  # a cost row as a file has it


def known_costs(rows: Any) -> Any:
    """Cost rows before schema 5, whose fields were free, with those fields that are known now."""
    known = {key.rstrip("?") for key in COST}

    def row(one: Any) -> Any:
        return {k: v for k, v in one.items() if k in known} if isinstance(one, Mapping) else one

    return [row(one) for one in rows] if isinstance(rows, (list, tuple)) else rows


def older_costs(rows: Sequence[CostRow]) -> tuple[CostRow, ...]:
    """Costs before schema 4. They were of the network that makes a resolution: a stage on the way
    of the finest trajectory, which its breakdown lists too, or of joint levels one alone, which
    never makes the images that were measured. Training was timed with another optimizer's step."""

    def stages(row: CostRow) -> set[str]:
        parts = [one for one in row.get("breakdown") or () if isinstance(one, Mapping)]
        return {str(one.get("name")) for one in parts} - {"rest"}

    finest = max((row["resolution"] for row in rows), default=0)
    way = set().union(*(stages(row) for row in rows if row["resolution"] == finest))

    def part(row: CostRow) -> str | None:
        on_the_way = bool(stages(row)) and stages(row) <= way
        return None if on_the_way or row["resolution"] == finest else ALONE

    return tuple({**row, "part": part(row), "train_step": "plain AdamW"} for row in rows)


def with_identities(content: Mapping[str, Any]) -> dict[str, Any]:
    """A record before schema 5 in the present form: its identities were text, and the protocol of
    all of them stood in the provenance alone. What is of another type is left for `form.broken`."""
    about = content.get("provenance")
    protocol = about.get("protocol") if isinstance(about, Mapping) else None

    def row(one: Any) -> Any:
        if not isinstance(one, Mapping):
            return one
        text = one.get("identity", "not stated")
        if not isinstance(text, str):
            return {**one, "identity": None}
        parts = _identity(text).plain()
        if type(protocol) is int:
            parts["protocol"] = protocol
        better = HIGH if one.get("metric") in HIGHER_IS_BETTER else LOW
        return {"better": better, **one, "identity": parts}

    def each(rows: Any) -> Any:
        return [row(one) for one in rows] if isinstance(rows, (list, tuple)) else rows

    scale = content.get("scale")
    if isinstance(scale, Mapping):
        scale = {kind: each(rows) for kind, rows in scale.items()}
    own = {name: each(content.get(name)) for name in ("quality", "curves")}
    return {**content, **own, "scale": scale}


@lru_cache(maxsize=4096)
def _identity(text: str) -> Identity:
    """The parts of `maker : resize : quantisation : N=512 : rows : ref=a1b2 : estimator`; text of
    another form is the maker."""
    parts = [part.strip() for part in text.split(":")]
    counted = next((i for i, part in enumerate(parts) if part.startswith("N=")), None)
    if counted is None or not 1 <= counted <= 3:
        return Identity(text)
    found: dict[str, Any] = {"maker": parts[0], "n": parts[counted].removeprefix("N=")}
    if counted > 1:
        found["quantisation"] = parts[counted - 1]
    if counted > 2:
        found["resize"] = parts[1]
    for part in parts[counted + 1 :]:
        name = (
            "frames" if part.startswith("frames=")
            else "reference" if part.startswith("ref=")
            else "rows" if part.startswith("rows=")
            else "estimator"
        )  # fmt: skip
        if name in found:
            return Identity(text)
        found[name] = part if name in ("rows", "estimator") else part.partition("=")[2]
    for name in {"n", "frames"} & found.keys():
        if not found[name].isdecimal() or len(found[name]) > 15:
            return Identity(text)
        found[name] = int(found[name])
    return Identity(**found)
