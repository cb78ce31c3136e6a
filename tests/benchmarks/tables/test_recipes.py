"""Recipes in the labels of rows, and the note on rows that the shared one makes worse."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.tables.labels import labels
from benchmarks.tables.recipes import recipe_notes
from benchmarks.tables.table import tabulate
from hierdiff.results.record import Record
from tests.benchmarks.rows import identity, quality, record


def row(
    name: str, recipe: str | None, fd: float, spread: float | None = 1.0, **changed: Any
) -> Record:
    """A row of three seeds; precision, which is better when high and comes first, says nothing."""
    about = {"values": (fd,) * 3, "spread": spread, "better": "low", "floor": None}
    fine = quality(64, "native", fd, **about)
    coarse = quality(32, "native", 1000 - fd, **about, identity=identity(32))
    aspect = {**about, "metric": "precision", "better": "high"}
    low = quality(64, "native", fd, **aspect, identity=identity(64, estimator="manifold"))
    config = {} if recipe is None else {"recipe_name": recipe}
    return record(name, quality=(low, fine, coarse), scale={}, config=config, **changed)


def flags(*records: Record, preset: str = "main") -> list[str]:
    return [note for note in tabulate(records, preset).notes if "is worse than" in note]


def test_the_recipe_stands_in_the_label_and_no_recipe_does_not():
    made = [row("chen", "shared", 1), row("chen", "chen", 2), row("chen", None, 3)]
    assert labels(made) == ["chen (shared recipe)", "chen (chen recipe)", "chen"]


def test_rows_that_share_a_recipe_are_told_apart_by_their_options():
    made = [row("chen", "shared", 1), row("chen", "shared", 2), row("chen", "chen", 2)]
    for width, own in zip((32, 64, 64), made, strict=True):
        own.config["denoiser"] = {"width": width}  # type: ignore[index]
    assert labels(made) == [
        "chen (shared recipe, denoiser.width=32)",
        "chen (shared recipe, denoiser.width=64)",
        "chen (chen recipe)",
    ]


def test_a_row_that_the_shared_recipe_makes_worse_is_named_with_both_values_and_spreads():
    assert flags(row("chen", "shared", 276), row("chen", "chen", 211), row("mdm", "shared", 9)) == [
        "chen (shared recipe) is worse than chen (chen recipe): FD-EffLite0 at 64 px "
        "276 ± 1 and 211 ± 1, beyond the spread"
    ]


@pytest.mark.parametrize(
    ("spread", "words"),
    [(80.0, "280 ± 80 and 210 ± 80, within the spread"), (None, "276 and 211, of unknown spread")],
)
def test_what_the_spread_says_is_part_of_the_note(spread, words):
    (note,) = flags(row("chen", "shared", 276, spread), row("chen", "chen", 211, spread))
    assert note.endswith(words)


def test_the_default_options_of_a_method_count_as_a_recipe():
    (note,) = flags(row("chen", "shared", 276), row("chen", None, 211))
    assert note.startswith("chen (shared recipe) is worse than chen: ")


@pytest.mark.parametrize(
    "others",
    [
        (row("chen", "chen", 300),),  # which is worse
        (row("rin", "rin", 211),),
        (row("chen", "chen", 211, budget="gpu"),),
        (row("chen", "shared", 211),),
    ],
)
def test_there_is_no_note_on_rows_that_are_not_worse_or_no_pair(others):
    assert not flags(row("chen", "shared", 276), *others)


def test_a_row_without_numbers_says_nothing():
    empty = record("chen", config={"recipe_name": "chen"}, scale={}, failure="out of memory")
    assert not list(recipe_notes({"a": row("chen", "shared", 276), "b": empty}))
    assert not list(recipe_notes({"a": empty, "b": empty}))


def test_a_table_of_costs_has_no_such_note():
    both = (row("chen", "shared", 276), row("chen", "chen", 211))
    assert not flags(*both, preset="cost") and flags(*both, preset="per_resolution")
