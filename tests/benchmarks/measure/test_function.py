"""Images that a function yields: what it may yield, whose code is run, and refusals."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.measure.external import external_images
from tests.benchmarks.measure.test_external import pixels

MODULE = """
import numpy as np
import torch

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)

def arrays(n=12, size=5):
    for start in range(0, n, size):
        yield PIXELS[start:min(start + size, n)]

def tensors():
    for image in torch.from_numpy(PIXELS):
        yield image.permute(2, 0, 1)

def captioned():
    labels = torch.arange(6)
    yield {"images": PIXELS[:6], "captions": list("abcdef"), "labels": labels}
    yield {"images": PIXELS[6:], "labels": labels + 6}

def floats():
    yield torch.rand(2, 3, 8, 8)

def sizes():
    yield PIXELS[:2]
    yield PIXELS[:2, :4, :4]

def few():
    yield {"images": PIXELS[:3], "captions": ["a"]}

def other():
    yield {"pictures": PIXELS}

def nothing():
    return iter([])

def number():
    return 3

constant = 3
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory) -> Path:
    """A module of its own name, so that nothing else has imported it."""
    path = tmp_path_factory.mktemp("generator") / "outside_generator.py"
    path.write_text(MODULE)
    return path


@pytest.fixture
def near(module, monkeypatch) -> list[str]:
    monkeypatch.chdir(module.parent)
    monkeypatch.syspath_prepend(module.parent)
    return ["./outside_generator.py"]


def test_arrays_and_tensors_are_the_images_of_an_npz(near, tmp_path):
    for name in ("arrays", "tensors"):
        read = external_images(f"outside_generator:{name}", near)
        assert len(read) == 12 and read.shape == (8, 8, 3)
        assert read.sha256() == hashlib.sha256(pixels().tobytes()).hexdigest()
        assert np.array_equal(read.read(3, 7), pixels()[3:7])
    few = external_images({"name": "outside_generator:arrays", "n": 7}, near)
    assert len(few) == 7 and few.labels == () and few.captions == ()


def test_the_record_learns_function_arguments_and_source(near, module):
    node = {"name": "outside_generator:arrays", "n": 7}
    before = external_images(node, near).origin
    assert before["function"] == "outside_generator:arrays" and before["arguments"] == {"n": 7}
    content = module.read_text()
    try:
        module.write_text(content + "\n# another line\n")
        assert external_images(node, near).origin["source"] != before["source"]
    finally:
        module.write_text(content)
    assert external_images(node, near).origin == before


def test_captions_and_labels_come_with_images(near):
    read = external_images("outside_generator:captioned", near)
    assert read.captions == [*"abcdef", *[""] * 6] and read.labels == list(range(12))


def test_code_that_is_not_trusted_is_not_run(near):
    for trust in ([], ["another"], ["./other.py"]):
        with pytest.raises(PermissionError, match=re.escape("allow it by trust=[outside_gen")):
            external_images("outside_generator:arrays", trust)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("floats", r"yields 1.: a tensor float32 \(2, 3, 8, 8\), where uint8 .*to_uint8 makes"),
        ("sizes", "yields 2.: images are 4 x 4 px in colour, before they were 8 x 8"),
        ("few", "captions: 1 of 3 images: yield text, one an image"),
        ("other", "it has pictures, of images, labels, captions"),
        ("nothing", "yields no image"),
        ("number", "gives no series of images"),
        ("constant", "is a int: name a function"),
        ("absent", "cannot be imported .*absent"),
        ({"name": "arrays", "m": 3}, "unexpected keyword .*; its arguments: n, size"),
    ],
)
def test_what_gives_no_images_is_said_in_a_sentence(node, message, near):
    options = node if isinstance(node, dict) else {"name": node}
    with pytest.raises(ValueError, match=message):
        external_images({**options, "name": f"outside_generator:{options['name']}"}, near)


def test_a_mapping_without_a_function_is_refused():
    with pytest.raises(ValueError, match="names no function: write .name: package.module:func"):
        external_images({"n": 3})
