import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierdiff.data import class_index, conditions
from hierdiff.data.classes import in_natural_order

MONTHS = tuple(str(month) for month in range(1, 13))


def test_names_are_counted_as_people_count_them():
    assert in_natural_order(sorted(MONTHS)) == list(MONTHS)
    assert in_natural_order(["b", "a11", "a2", "a", "02", "2", "a2b10", "a2b9"]) == [
        *("02", "2", "a", "a2", "a2b9", "a2b10", "a11", "b"),
    ]


@given(st.lists(st.text(max_size=5), max_size=8))
def test_the_natural_order_is_one_order_of_any_names(names):
    assert in_natural_order(names[::-1]) == in_natural_order(names)


@pytest.mark.parametrize("label", [2, "2", np.int64(2)])
def test_a_class_called_by_a_number_is_found_by_name(label):
    """Hydra makes the int 2 of `labels=[2]`, whatever the folders are called."""
    assert MONTHS[class_index(label, MONTHS)] == "2"
    assert conditions([label], class_names=MONTHS).labels.tolist() == [1]
    shuffled = ("11", "2", "cat", "0")
    assert shuffled[class_index(label, shuffled)] == "2"


@given(st.lists(st.integers(0, 30).map(str), min_size=1, unique=True), st.integers(0, 40))
def test_among_names_of_digits_a_number_is_a_name_or_refused(names, number):
    if str(number) in names:
        assert names[class_index(number, names)] == str(number)
    else:
        with pytest.raises(ValueError, match="called by numbers"):
            class_index(number, names)


def test_a_number_that_may_mean_two_classes_is_refused():
    padded = tuple(f"{month:02}" for month in range(1, 13))
    with pytest.raises(ValueError, match=r"\['02', '03'\].*labels=\['02'\]"):
        class_index(2, padded)
    assert class_index("02", padded) == 1
    assert class_index(12, padded) == 11
    assert class_index(3, ("03", "04")) == 0  # no class stands at place 3
    with pytest.raises(ValueError, match="2 times"):
        class_index("crane", ("crane", "owl", "crane"))


def test_names_of_words_go_by_number_or_name_or_none():
    names = ("cat", "dog", "7")
    assert [class_index(one, names) for one in ("cat", 1, "1", 7, "7", -1, "-1", 0)] == [
        *(0, 1, 1, 2, 2, -1, -1, 0),
    ]


def test_a_name_is_found_in_either_unicode_form():
    assert class_index("caf\u00e9", ("tea", "cafe\u0301")) == 1
    assert class_index("cafe\u0301", ("tea", "caf\u00e9")) == 1


@pytest.mark.parametrize(
    "label, message",
    [
        ("dgo", "unknown class 'dgo', did you mean 'dog'"),
        ("", "unknown class ''"),
        ("9" * 5000, "unknown class"),
        (2, "out of range: choose from 0 cat, 1 dog, or -1"),
        (-2, "out of range: choose from 0 cat, 1 dog, or -1"),
        (True, "neither a name nor a whole number"),
        (np.bool_(True), "neither a name nor a whole number"),
        (1.0, "neither a name nor a whole number"),
        (None, "neither a name nor a whole number"),
        (["cat"], "neither a name nor a whole number"),
    ],
)
def test_what_names_no_class_is_refused_with_the_way_out(label, message):
    with pytest.raises(ValueError, match=message):
        class_index(label, ("cat", "dog"))


def test_a_refusal_among_many_classes_is_short():
    with pytest.raises(ValueError, match=r"0 c0, .*9 c9, \.\.\., 999 c999") as error:
        class_index(1000, [f"c{place}" for place in range(1000)])
    assert len(str(error.value)) < 200
