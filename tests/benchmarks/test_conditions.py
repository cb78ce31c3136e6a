"""What captions and labels beside images say, in the words of the data."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.conditions import EvaluationConditions, OwnConditions
from hierdiff.data import ImageData
from hierdiff.data.law import Law, uniform
from hierdiff.data.order import evaluation_rows

LAW = Law(
    "toy",
    {"body": uniform(2), "hat": uniform(3)},
    classes="body",
    captioned=("body", "hat"),
)


@pytest.fixture(scope="module")
def data() -> ImageData:
    body, hat = np.array([1, 0, 1, 0]), np.array([2, 2, 0, 1])
    return ImageData(
        name="toy",
        images=np.zeros((4, 3, 8, 8), np.uint8),
        keys=tuple("abcd"),
        licence="none",
        labels=1 - body,  # class 0 is body 1
        captions=tuple(f"body {b} in hat {h}" for b, h in zip(body, hat, strict=True)),
        class_names=("round", "square"),
        attributes={"body": body, "hat": hat},
        law=LAW,
    )


def codes(own: OwnConditions, n: int) -> dict[str, list[int]]:
    return {name: part.tolist() for name, part in own.parts(range(n)).items()}


def test_labels_state_the_part_that_is_the_class(data):
    own = OwnConditions(["square", 0, None, "0"], (), data)
    assert codes(own, 4) == {"body": [0, 1, -1, 1]}
    assert own.captions(range(4)) is None and own.rule == ""


def test_captions_of_the_data_state_its_parts_and_others_none(data):
    own = OwnConditions((), ["body 0 in hat 1", "a red owl", ""], data)
    assert codes(own, 3) == {"body": [0, -1, -1], "hat": [1, -1, -1]}
    assert own.captions([1, 0]) == ["a red owl", "body 0 in hat 1"]


def test_a_label_says_what_a_caption_leaves_open(data):
    own = OwnConditions(["round", None], ["", "body 0 in hat 2"], data)
    assert codes(own, 2) == {"body": [1, 0], "hat": [-1, 2]}


def test_a_label_that_is_no_class_is_refused(data):
    with pytest.raises(ValueError, match="unknown class 'sqare', did you mean 'square'"):
        OwnConditions(["sqare"], (), data)


def test_what_nothing_is_said_of_is_counted(data):
    assert OwnConditions((), ["a red owl", ""], data).says_nothing
    assert not OwnConditions((), ["body 0 in hat 1", ""], data).says_nothing
    assert OwnConditions((), ["a", "", ""]).without_caption == 2


def test_prompts_have_a_name_of_their_own(data):
    one, other = OwnConditions((), ["a"], data), OwnConditions((), ["b"])
    assert one.prompts.startswith("captions@") and one.prompts != other.prompts
    assert EvaluationConditions(data).prompts == "captions"
    assert other.parts(range(1)) == {} and other.law is None


def test_those_of_held_out_data_follow_its_rows(data):
    places = range(6)
    rows = evaluation_rows(4, places).tolist()
    assert data.captions is not None
    expected = [data.captions[row] for row in rows]
    assert EvaluationConditions(data).captions(places) == expected
