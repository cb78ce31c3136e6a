"""Data with a class, an image embedding and micro-conditions, from training to sampling."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hierdiff.batch import Cond
from hierdiff.methods import Request, methods
from hierdiff.sampled import load_method
from hierdiff.training import train
from tests import tiny
from tests.training import runs

READS = {"scalars": ["crop_top", "crop_left"], "vectors": {"image_embedding": 5}}


def data(n: int = 20):
    generator = np.random.default_rng(1)
    return replace(
        runs.images(n),
        scalars={name: generator.integers(0, 9, n) for name in READS["scalars"]},
        vectors={"image_embedding": generator.normal(size=(n, 5))},
    )


def node(inner: str, **reads) -> dict:
    network = {**tiny.denoiser_node("nested_unet", 2), "scalars": ["crop_top"]}
    network["inner"] = {**tiny.denoiser_node(inner), **READS, **reads}
    drop = {"label": 0.1, "image_embedding": 0.5}
    sampling = {"steps": 2, "guidance": 2.0}
    return {
        **{"name": "mdm", "resolutions": [8, 4], "denoiser": network},
        **{"objective": {"drop": drop}, "sampling": sampling},
    }


@pytest.mark.parametrize("inner", ["unet", "rin"])
def test_named_conditions_are_trained_on_kept_and_sampled_from(inner, tmp_path):
    images, chosen = data(), node(inner)
    method = methods.build(chosen, offered=images.facts)
    config = {**runs.config(chosen), "facts": images.facts}
    summary = train(method, images, tmp_path, runs.recipe(steps=4), seed=0, config=config)
    again, _ = load_method(summary.weights)
    projection = again.stages[-1].denoiser.inner.vectors["image_embedding"]
    assert projection.weight.any()  # zero where it starts
    cond = images.batch(torch.arange(2)).cond
    assert cond.names == ("label", "image_embedding", "crop_top", "crop_left")
    made = {"all": cond, "some": replace(cond, vectors={}), "none": Cond()}
    samples = {
        name: again.sample(Request(2, part, noise=tiny.noise()))[8] for name, part in made.items()
    }
    assert not torch.equal(samples["all"], samples["some"])
    assert not torch.equal(samples["some"], samples["none"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scalars": ["crop_top"]}, "no network of the method reads 'crop_left'"),
        ({"scalars": ["crop_top", "crop_left", "fps"]}, "reads the scalar 'fps', which the data"),
        ({"vectors": {"image_embedding": 4}}, "of width 4, which the data gives at a width of 5"),
    ],
)
def test_a_condition_that_data_and_network_do_not_share_is_refused_before_training(
    options, message, tmp_path
):
    method = methods.build(node("unet", **options), offered=data().facts)
    with pytest.raises(ValueError, match=message):
        train(method, data(), tmp_path, runs.recipe())


def test_data_of_other_vectors_is_other_data():
    one, same, other = data(), data(), data()
    other.vectors["image_embedding"][3, 2] += 1
    assert one.sha256 == same.sha256 != other.sha256
    assert one.facts["vectors"] == {"image_embedding": 5}
    part = one.part("test")
    rows = one.tested.nonzero()[0]
    assert np.array_equal(part.vectors["image_embedding"], one.vectors["image_embedding"][rows])
    assert "vectors image_embedding" in one.summary()
