"""What every registered dataset must hold."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hierdiff.batch import Batch
from hierdiff.data import cache, datasets
from hierdiff.data.encoded import EncodedImages
from hierdiff.options import hints
from hierdiff.text import encoders
from tests.data import formats
from tests.data.samples import write_cells, write_emoji, write_folder
from tests.data.test_releases import write_cifar_binary, write_tiny_imagenet

SIDE = 8


SAMPLES = {
    **{"elpv": write_cells, "fluent_emoji": write_emoji, "folder": write_folder},
    "webdataset": lambda root: formats.write_shards(root, formats.files(24)),
    "parquet": lambda root: formats.write_parquet(root, formats.files(24)),
    "huggingface": lambda root: formats.write_parquet(root, formats.files(24)),
    **{"cifar": write_cifar_binary, "tiny_imagenet": write_tiny_imagenet},
}
STREAMED = ("webdataset", "parquet", "huggingface")


@pytest.fixture(scope="module", params=datasets.names())
def node(request, tmp_path_factory):
    """The dataset's node; those that are read from files get a small folder of their form."""
    node = {
        "name": request.param,
        "resolution": SIDE,
        "cache": str(tmp_path_factory.mktemp("cache")),
    }
    if request.param in STREAMED:
        pytest.importorskip("datasets")
        node["reading"] = {"workers": 0}
    if request.param in SAMPLES:
        write = SAMPLES[request.param]
        node["root"] = str(write(tmp_path_factory.mktemp("images") / request.param))
    return node


@pytest.fixture(scope="module")
def data(node):
    return datasets.build(node)


def test_a_batch_has_images_in_range_and_labels(data):
    batch = data.batch(torch.tensor([0, len(data) - 1, 0]))
    assert isinstance(batch, Batch)
    assert batch.images.shape == (3, data.facts["channels"], SIDE, SIDE)
    assert batch.images.dtype == torch.float32
    assert batch.images.abs().max() <= 1
    assert torch.equal(batch.images[0], batch.images[2])
    if data.class_names:
        assert batch.cond.labels.dtype == torch.int64
        assert data.facts["classes"] == len(data.class_names)


def test_every_field_has_one_entry_for_each_image(data):
    fields = [data.keys, data.labels, data.captions, data.groups, *data.attributes.values()]
    assert {len(field) for field in fields if field is not None} == {len(data)}
    assert data.images.dtype == np.uint8
    assert len(set(data.keys)) == len(data)
    assert data.licence


def test_labels_are_classes(data):
    if data.labels is not None:
        assert data.labels.min() >= -1
        assert data.labels.max() < len(data.class_names)


def test_the_split_is_disjoint_complete_and_shares_what_it_is_read_from(data):
    train, test = data.part("train"), data.part("test")
    assert not set(train.groups or train.keys) & set(test.groups or test.keys)
    assert set(train.keys) | set(test.keys) == set(data.keys)
    for part in (train, test):
        if isinstance(data.images, EncodedImages):
            assert part.images.sources is data.images.sources
        else:
            assert np.shares_memory(part.images, data.images)
    assert train.sha256 != test.sha256


def test_a_second_build_reads_the_cache_and_is_the_same(data, node, monkeypatch):
    def fail(*args, **options):
        raise AssertionError("decoded again")

    monkeypatch.setattr(cache._Entry, "_make", fail)
    again = datasets.build(node)
    assert again.keys == data.keys
    assert again.sha256 == data.sha256


def test_digests_kept_beside_the_cache_are_those_of_the_pixels(data):
    part = data.part("test")
    assert replace(part, digests=None).sha256 == part.sha256


def test_a_line_says_what_was_found(data):
    said, test = data.summary(), len(data.part("test"))
    assert "\n" not in said and said.startswith(
        f"data {data.name}: {len(data)} images of {SIDE} px"
    )
    assert f"train {len(data) - test}, test {test}" in said and "none skipped" in said
    assert ("no classes" in said) == (not data.class_names)
    assert data.part("train").summary() == said


def test_another_label_caption_or_split_is_another_hash(data):
    change = {"in_test": ~data.tested}
    if data.labels is not None:
        change |= {"labels": np.roll(data.labels, 1), "class_names": data.class_names[::-1]}
    if data.captions is not None:
        change["captions"] = ("other", *data.captions[1:])
    hashes = {replace(data, **{name: value}).sha256 for name, value in change.items()}
    assert len(hashes | {data.sha256}) == len(change) + 1


def test_captions_can_be_encoded_and_the_encoder_rebuilt(data, node):
    if data.captions is None:
        with pytest.raises(ValueError, match="no captions"):
            datasets.build(node | {"text": {"name": "vocabulary"}})
        return
    texted = datasets.build(node | {"text": {"name": "vocabulary"}})
    cond = texted.batch(torch.tensor([1])).cond
    assert cond.tokens.shape == (1, texted.facts["text_length"], texted.facts["text_width"])
    rebuilt = encoders.build(texted.text_node)
    tokens, mask = rebuilt.encode([texted.captions[1]])
    assert torch.equal(tokens, cond.tokens) and torch.equal(mask, cond.mask)
    assert torch.equal(texted.cond(captions=[texted.captions[1]]).tokens, cond.tokens)


def test_an_unknown_option_suggests_the_nearest(node):
    with pytest.raises(ValueError, match="did you mean 'resolution'"):
        datasets.build({"name": node["name"], "resolutoin": 8})


SEEN = {  # options of what training or networks see, of those data that have them
    "flip": True,
    "varied": True,
    "scalars": ["original_height", "crop_top"],
}


@pytest.mark.parametrize("option", SEEN)
def test_what_training_sees_changes_nothing_of_what_is_measured(node, data, option):
    if option not in hints(datasets.named(node)):
        pytest.skip("it has no such option")
    value, plain = SEEN[option], data
    if node["name"] == "clips":  # whose images have neither scalars nor rates
        node = {**node, "resolution": [2, SIDE, SIDE]}
        value, plain = ["fps"] if option == "scalars" else value, datasets.build(node)
    other = datasets.build({**node, option: value})
    for part in ("train", "test"):
        one, two = plain.part(part), other.part(part)
        assert one.reference_sha256 == two.reference_sha256 and one.keys == two.keys
        assert np.array_equal(one.images[:], two.images[:])
