"""Records of schemas before the present one: what they lack, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hierdiff.results.rows import ALONE, Row


def older_costs(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Costs before schema 4. They were of the network that makes a resolution: a stage on the way
    of the finest trajectory, which its breakdown lists too, or of joint levels one alone, which
    never makes the images that were measured. Training was timed with another optimizer's step."""

    def stages(row: Row) -> set[str]:
        parts = [one for one in row.get("breakdown") or () if isinstance(one, Mapping)]
        return {str(one.get("name")) for one in parts} - {"rest"}

    finest = max((row["resolution"] for row in rows), default=0)
    way = set().union(*(stages(row) for row in rows if row["resolution"] == finest))

    def part(row: Row) -> str | None:
        on_the_way = bool(stages(row)) and stages(row) <= way
        return None if on_the_way or row["resolution"] == finest else ALONE

    return tuple({**row, "part": part(row), "train_step": "plain AdamW"} for row in rows)
