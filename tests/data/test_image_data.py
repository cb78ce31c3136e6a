import numpy as np
import pytest
import torch

from hierdiff.data import ImageData, conditions
from hierdiff.data.image_data import is_test
from hierdiff.data.law import Law, uniform
from hierdiff.text import Vocabulary


def toy(n=40, **options):
    images = np.random.default_rng(0).integers(0, 256, (n, 1, 2, 2)).astype(np.uint8)
    keys = tuple(f"key{row}" for row in range(n))
    return ImageData(name="toy", images=images, keys=keys, licence="none", **options)


def test_the_split_of_a_key_never_changes():
    assert [is_test(f"key{row}") for row in range(12)] == SPLIT


SPLIT = [False, False, False, False, False, True, False, True, False, False, True, False]


def test_a_quarter_of_many_keys_is_tested():
    share = np.mean([is_test(str(row)) for row in range(10_000)])
    assert abs(share - 0.25) < 3 * (0.25 * 0.75 / 10_000) ** 0.5


def test_groups_never_straddle_the_split():
    data = toy(groups=tuple(f"group{row % 7}" for row in range(40)))
    train, test = data.part("train"), data.part("test")
    assert not set(train.groups) & set(test.groups)
    assert len(train) + len(test) == 40


def test_an_empty_part_and_an_unknown_part_are_errors():
    single = toy(n=1)
    empty = "train" if is_test("key0") else "test"
    with pytest.raises(ValueError, match="is empty"):
        single.part(empty)
    with pytest.raises(ValueError, match="train, test or all"):
        single.part("tset")


def test_a_flip_mirrors_the_chosen_examples_only():
    data = toy()
    plain = data.batch(torch.tensor([3, 4])).images
    mirrored = data.batch(torch.tensor([3, 4]), flip=torch.tensor([True, False])).images
    assert torch.equal(mirrored[0], plain[0].flip(-1))
    assert torch.equal(mirrored[1], plain[1])


def test_the_digest_is_of_everything_that_training_and_measuring_read():
    known = {
        "labels": np.zeros(4, np.int64),
        "class_names": ("a", "b"),
        "captions": ("x",) * 4,
        "scalars": {"scale": np.arange(4)},
        "attributes": {"hat": np.arange(4)},
        "in_test": np.array([False, False, True, True]),
    }
    changes = {
        "labels": np.array([0, 0, 0, 1]),
        "class_names": ("b", "a"),
        "captions": ("x", "x", "x", "y"),
        "scalars": {"scale": np.array([0, 1, 2, 4])},
        "attributes": {"hat": np.array([0, 1, 2, 4])},
        "in_test": np.array([False, True, False, True]),
    }
    digests = [toy(n=4, **known | {name: value}).sha256 for name, value in changes.items()]
    digests += [toy(n=4, **known | {"scalars": {"side": np.arange(4)}}).sha256]
    digests += [toy(n=4, **known | {"in_test": None}).sha256]
    digests += [toy(n=4, **known | {"captions": None}).sha256, toy(n=4, **known).sha256]
    assert len(set(digests)) == len(digests)
    assert toy(n=4, **known).sha256 == toy(n=4, **known).sha256


def test_the_digest_is_of_pixels_labels_and_captions():
    labels = np.zeros(40, np.int64)
    base = toy(labels=labels, captions=("x",) * 40).sha256
    assert base == toy(labels=labels.copy(), captions=("x",) * 40).sha256
    other = labels.copy()
    other[7] = 1
    assert base != toy(labels=other, captions=("x",) * 40).sha256
    assert base != toy(labels=labels, captions=("y",) * 40).sha256
    changed = toy(labels=labels, captions=("x",) * 40)
    changed.images[5, 0, 0, 0] ^= 1
    assert base != changed.sha256


def test_classes_go_by_number_or_name():
    cond = conditions([1, "cat", -1], class_names=("cat", "dog"))
    assert cond.labels.tolist() == [1, 0, -1]
    assert cond.tokens is None


def test_a_class_out_of_range_lists_the_classes():
    for label in (2, -2):
        with pytest.raises(ValueError, match="0 cat, 1 dog"):
            conditions([label], class_names=("cat", "dog"))
    with pytest.raises(ValueError, match="unknown class 'dgo', did you mean 'dog'"):
        conditions(["dgo"], class_names=("cat", "dog"))


def test_what_is_not_given_is_none_for_every_image():
    text = Vocabulary(words=("cat",), width=4, length=3)
    cond = conditions(["cat", "cat"], class_names=("cat",), text=text)
    assert not cond.mask.any() and not cond.tokens.any()
    cond = conditions(captions=["cat"], class_names=("cat",), text=text)
    assert cond.labels.tolist() == [-1]
    assert cond.mask.sum() == 1


def test_conditions_that_the_data_lacks_are_refused():
    with pytest.raises(ValueError, match="no text encoder"):
        conditions(captions=["cat"])
    with pytest.raises(ValueError, match="no classes"):
        conditions([0])
    with pytest.raises(ValueError, match="2 labels and 1 captions"):
        conditions([0, 0], ["a"], class_names=("cat",), text=Vocabulary())


def test_text_without_captions_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no captions"):
        toy().with_text({"name": "vocabulary"}, tmp_path)


def test_parts_keep_every_field_aligned(tmp_path):
    rows = np.arange(40)
    data = toy(
        labels=rows.copy(),
        captions=tuple(f"word{row}" for row in rows),
        scalars={"scale": rows.astype(np.float32)},
        attributes={"part": rows.copy()},
    ).with_text({"name": "vocabulary"}, tmp_path)
    test = data.part("test")
    batch = test.batch(torch.arange(len(test)))
    for place, row in enumerate(test.labels.tolist()):
        assert test.keys[place] == f"key{row}"
        assert test.captions[place] == f"word{row}"
        assert test.attributes["part"][place] == row
        assert batch.cond.scalars["scale"][place] == row
        expected, _ = data.text.encode([f"word{row}"])
        assert torch.equal(batch.cond.tokens[place], expected[0])


def test_conditions_tell_the_parts_of_the_images_that_have_them():
    law = Law(
        "toy", {"kind": uniform(2), "hat": uniform(3)}, classes="kind", captioned=("hat", "kind")
    )
    kind, hat = np.array([0, 1, 1, 0]), np.array([2, 0, 1, 1])
    known = {
        "labels": np.array([0, -1, 1, -1]),
        "class_names": ("a", "b"),
        "captions": ("x", "y", "", ""),
        "attributes": {"kind": kind, "hat": hat},
        "law": law,
    }
    data = toy(n=4, **known)
    assert {name: codes.tolist() for name, codes in data.condition_codes.items()} == {
        "kind": [0, -1, 1, -1]
    }
    spoken = toy(n=4, **known, text=Vocabulary(words=("x", "y"), width=4))
    assert {name: codes.tolist() for name, codes in spoken.condition_codes.items()} == {
        "kind": [0, 1, 1, -1],
        "hat": [2, 0, -1, -1],
    }
    assert toy(n=4, **{**known, "law": None}).condition_codes == {}
    assert toy(n=4, **{**known, "class_names": ()}).condition_codes == {}


def test_a_summary_says_in_a_line_what_was_found():
    names = tuple(str(number) for number in range(1, 13))
    labels = np.arange(40) % 13 - 1
    data = toy(
        labels=labels,
        class_names=names,
        captions=tuple("x" if row < 30 else "" for row in range(40)),
        scalars={"scale": labels},
        skipped=tuple(f"{row}.png: broken" for row in range(7)),
        in_test=labels == 3,
        split="by hand",
    )
    assert data.summary() == (
        "data toy: 40 images of 2 px; 12 classes (1, 2, 3, 4, 5, ... 12); 4 images without a class;"
        " train 37, test 3 (by hand); no training image of 1 classes (4); no test image of 11 "
        "classes (1, 2, 3, 5, 6, ...); captions for 30; scalars scale; 7 skipped: "
        "0.png: broken | 1.png: broken | 2.png: broken | 3.png: broken | 4.png: broken | ..."
    )
    assert toy().summary() == (
        f"data toy: 40 images of 2 px; no classes; train {40 - toy().tested.sum()}, "
        f"test {toy().tested.sum()} (a quarter of the names is test, by their hash); "
        "no captions; none skipped"
    )


def test_parts_are_those_that_the_data_states():
    in_test = np.arange(40) % 2 == 0
    data = toy(in_test=in_test)
    assert data.part("test").keys == data.keys[::2]
    assert data.part("train").part("train").keys == data.keys[1::2]
    assert data.part("train").summary() == data.summary()
    with pytest.raises(ValueError, match="the test part .* all on the other side"):
        data.part("train").part("test")


def test_captions_to_sample_are_text_in_the_form_of_the_data():
    text = Vocabulary(words=("caf\u00e9",), width=4, length=3)
    (first, second) = conditions(captions=["caf\u00e9", "cafe\u0301"], text=text).tokens
    assert torch.equal(first, second)
    for caption in (5, None, True, ["cafe"]):
        with pytest.raises(ValueError, match="is no text: write it in quotes"):
            conditions(captions=[caption], text=text)
