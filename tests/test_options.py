"""What an annotation allows, and how it is said."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pytest

from hierdiff.options import (
    Between,
    Count,
    Length,
    Limit,
    Natural,
    Own,
    Pair,
    Positive,
    Share,
    check,
    check_fields,
    fits,
    hints,
    words,
)
from hierdiff.registry import Later, Node, Registry, single

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (int, [0, -3, np.int64(2)], [True, 2.0, "3", None, NAN, [1]]),
        (float, [0, 1.5, -2, np.float32(0.5)], [True, "1.0", None, NAN, INF, -INF]),
        (bool, [True, False], [0, 1, "true", None]),
        (str, ["", "a"], [1, None, b"a", ["a"]]),
        (int | None, [None, 3], [False, 3.5]),
        (Count, [1, 10], [0, -1, 1.0, True]),
        (Natural, [0, 3], [-1]),
        (Share, [0, 1, 0.25], [-0.1, 1.1, NAN]),
        (Positive, [1e-9, 3], [0, -1, INF]),
        (Limit, [INF, -INF, 0.5], [NAN, "inf"]),
        (Annotated[float, Between(0, 1, below=True)], [0, 0.99], [1, 1.0]),
        (Sequence[float], [[], [1, 2.5], (1,)], [1, "12", [True], [None], {"a": 1}]),
        (Sequence[str], [["ab"]], ["ab", [1]]),
        (tuple[float, float], [[1, 2], (1, 2)], [[1], [1, 2, 3], 0.9]),
        (tuple[int, ...], [[], [1, 2]], [[1.5]]),
        (Pair, [[1, 2]], [[1], 0.9, None]),
        (Annotated[Sequence[int], Length(1, more=True)], [[1], [1, 2]], [[], 1]),
        (Mapping[str, float], [{}, {"a": 1}], [{1: 1}, {"a": "b"}, [1]]),
        (Mapping[int, str | Path], [{32: "a"}, {32: Path("a")}], [{"32": "a"}, {32: 1}]),
        (Literal["a", "b", 1], ["a", 1], ["c", True, None, 1.0]),
        (Path, ["a", Path("a")], [1, None]),
        (Callable[[int], int], [abs], [3]),
        (Any, [None, len], []),
    ],
    ids=str,
)
def test_what_fits_an_annotation_and_what_does_not(annotation, good, bad):
    assert [value for value in good if not fits(value, annotation)] == []
    assert [value for value in bad if fits(value, annotation)] == []


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (int, "a whole number"),
        (Count, "a whole number, 1 or more"),
        (Share, "a number from 0 to 1"),
        (Positive | None, "a number above 0, or null"),
        (Sequence[float], "a list of numbers"),
        (Sequence[Count], "a list of whole numbers of 1 or more"),
        (Pair, "a list of two numbers"),
        (tuple[int, int, int], "a list of three whole numbers"),
        (Annotated[Sequence[Share], Length(1, more=True)], "a list of one or more numbers from 0"),
        (bool, "true or false"),
        (Literal["low", "high"], "one of low, high"),
        (Literal["auto"] | Count, "auto, or a whole number, 1 or more"),
        (Mapping[str, float], "a mapping of numbers by name"),
        (float | Sequence[float], "a number, or a list of numbers"),
        (str | Path | None, "a text, or a path, or null"),
        (Any, "a value"),
    ],
    ids=str,
)
def test_an_annotation_is_said_in_plain_english(annotation, said):
    assert words(annotation).startswith(said)
    assert not any(sign in words(annotation) for sign in "[]|")


def test_an_error_names_path_value_rule_and_an_example():
    with pytest.raises(ValueError) as caught:
        check(16, Annotated[Sequence[float], Length(1, more=True)], "trainer.ema", (2000,))
    said = "trainer.ema=16: ema takes a list of one or more numbers, such as [2000]"
    assert str(caught.value) == said


class Wheel:
    pass


wheels = Registry("wheel", Wheel)


@wheels.register("round")
class Round(Wheel):
    def __init__(self, *, spokes: Count = 8, inside: Wheel | None = None, holes: int = 0):
        self.spokes, self.inside, self.holes = spokes, inside, holes


@single("tyre")
@dataclass(frozen=True)
class Tyre:
    width: Positive
    colours: Sequence[Literal["black", "grey"]] = ("black",)


@wheels.register("car")
class Car(Wheel):
    def __init__(
        self,
        *,
        tyre: Tyre,
        spares: Sequence[Wheel] = (),
        doors: Mapping[str, Wheel] = MappingProxyType({}),
        hub: Later[Wheel] | None = None,
        size: float,
        holes: Annotated[int, Own()] = 0,
        theirs: Unknown = None,
    ):
        self.tyre, self.spares, self.doors, self.hub = tyre, spares, doors, hub
        self.holes = holes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": "big"}, r"^method\.size='big': size takes a number$"),
        ({"tyre": 3}, r"^method\.tyre=3: tyre takes a tyre as a mapping of its options$"),
        ({"tyre": {"width": 0}}, r"^method\.tyre\.width=0: width takes a number above 0$"),
        ({"tyre": {"width": 1, "colours": ["red"]}}, r"^method\.tyre\.colours=\['red'\]: .*grey"),
        ({"tyre": {"widht": 1}}, r"tyre has no option 'widht', did you mean 'width'"),
        ({"tyre": {}}, r"^method\.tyre\.width: tyre needs the option 'width': give it a number"),
        ({"hub": {"name": "round", "spokes": 0}}, r"^method\.hub\.spokes=0: spokes takes"),
        ({"doors": {"left": {"name": "round", "spokes": 0}}}, r"^method\.doors\.left\.spokes=0: "),
        ({"doors": {"left": {"spokes": 1}}}, r"^method\.doors\.left: a wheel is given as"),
        ({"doors": {"left": 1}}, r"doors takes a mapping of wheels as \{name: \.\.\.,.*\} by name"),
        ({"spares": [{"name": "round", "spokes": 2.0}]}, r"^method\.spares\[0\]\.spokes=2\.0: "),
        (
            {"spares": {"name": "round"}},
            r"spares takes a list of wheels as \{name: \.\.\., options",
        ),
        ({"spares": [{"name": "rund"}]}, r"unknown wheel 'rund', did you mean 'round'"),
    ],
)
def test_options_are_checked_however_deep_with_their_path(change, said):
    node = {"name": "car", "size": 1, "tyre": {"width": 2}, **change}
    with pytest.raises(ValueError, match=said):
        wheels.build(node, at="method")


def test_parts_are_built_where_the_annotation_is_one_and_left_where_it_is_later():
    inside: Node = {"name": "round", "spokes": 3}
    node = {"name": "car", "size": 1, "tyre": {"width": 2}, "hub": {"name": "round"}}
    car: Any = wheels.build({**node, "spares": [inside, Round()], "doors": {"left": inside}})
    assert car.tyre == Tyre(2)
    assert [one.spokes for one in car.spares] == [3, 8] and car.doors["left"].spokes == 3
    assert car.hub == {"name": "round"}


def test_facts_reach_the_parts_inside_but_no_option_of_its_own_meaning():
    node = {"name": "car", "size": 1, "tyre": {"width": 2}, "spares": [{"name": "round"}]}
    car: Any = wheels.build(node, offered={"holes": 5, "width": 3})
    assert car.spares[0].holes == 5 and car.holes == 0 and car.tyre.width == 2
    car = wheels.build({**node, "holes": 4}, offered={"holes": 5})
    assert (car.holes, car.spares[0].holes) == (4, 4)  # a node's own option is the fact inside


def test_a_constructor_that_is_called_takes_no_node():
    @dataclass(frozen=True)
    class Axle:
        wheel: Wheel

    check_fields(Axle(Round()), "axle")
    with pytest.raises(ValueError, match=r"^axle\.wheel=.*: wheel takes a wheel$"):
        check_fields(Axle({"name": "round"}), "axle")  # type: ignore[arg-type]


def test_an_option_that_stands_elsewhere_is_named_by_its_own_path():
    node = {"name": "car", "size": 1, "tyre": {"width": True}}
    with pytest.raises(ValueError, match=r"^sampler\.width=true: "):
        wheels.build(node, at="method", elsewhere={"tyre": "sampler"})


def test_without_a_path_the_part_is_named():
    node = {"name": "round", "inside": {"name": "round", "spokes": None}}
    with pytest.raises(ValueError, match=r"^wheel 'round': inside.spokes=null: spokes takes"):
        wheels.build(node)


def test_a_missing_option_is_asked_for():
    with pytest.raises(ValueError, match=r"wheel 'car' needs the option 'size': give it a number"):
        wheels.build({"name": "car", "tyre": {"width": 2}})


def test_what_is_not_annotated_or_cannot_be_resolved_is_passed_as_it_is():
    assert hints(Car)["theirs"] is Any and hints(Car)["size"] is float
    wheels.build({"name": "car", "tyre": {"width": 2}, "size": 1, "theirs": len})

    @wheels.register("loose")
    def loose(*, anything=None) -> Wheel:
        assert anything == [1, "a", None]
        return Wheel()

    wheels.build({"name": "loose", "anything": [1, "a", None]})


def test_a_dataclass_can_check_its_own_fields():
    with pytest.raises(ValueError, match=r"^part\.width=nan: width takes a number above 0"):
        check_fields(Tyre(NAN), "part")
