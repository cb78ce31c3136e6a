"""Training in aspect buckets, and images at other sides than those of training."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hierdiff.data import ImageData
from hierdiff.methods import Request, methods
from hierdiff.training import load_method, train
from tests import tiny
from tests.baselines.latent import test_latent as latent
from tests.training.runs import GROWN, NODE, config, images, recipe

NET = {**latent.NET, "multiples": [1, 1]}
PIXELS = {"name": "end_to_end", "resolutions": [8], "denoiser": NET, "sampling": {"steps": 2}}
LATENT = latent.node(discriminator=None)
SDXL = {**LATENT, "name": "sdxl", "refine": 0.5}
METHODS = {"pixels": PIXELS, "mdm": NODE, "latent": LATENT, "sdxl": SDXL}
OTHERS = ((8, 8), (4, 16), (16, 4))


def bucketed(shapes=OTHERS) -> ImageData:
    """Squares, and the same rows in as many buckets as there are shapes."""
    data, parts = images(), []
    rng = np.random.default_rng(0)
    for number, shape in enumerate(shapes):
        part = data.select(np.arange(number, len(data), len(shapes)))
        if shape != (8, 8):
            pixels = rng.integers(0, 256, (len(part), 3, *shape), dtype=np.uint8)
            part = replace(part, images=pixels)
        parts.append(part)
    return replace(data, buckets=tuple(parts))


def run(folder: Path, node: dict, data: ImageData, steps: int = 4):
    torch.manual_seed(1)
    method = methods.build(node, offered={"channels": 3, "classes": 4})
    options = recipe(steps=steps, batch_size=4, checkpoint_every=2, keep=20)
    return train(method, data, folder, options, config=config(node, data_sha256=data.sha256))


def trained(folder: Path, node: dict, data: ImageData):
    return load_method(run(folder, node, data).weights)[0]


def sampled(method, resolution=None):
    method = method if resolution is None else method.resized(resolution)
    return method.sample(Request(2, noise=tiny.noise(0)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pixels", "latent"])
def test_one_bucket_trains_as_none_bit_for_bit(tmp_path, name):
    data = images()
    runs = [
        trained(tmp_path / str(len(one.buckets)), METHODS[name], one)
        for one in (data, bucketed([(8, 8)]))
    ]
    first, second = (run.state_dict() for run in runs)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_trained_in_buckets_and_makes_images_of_any(tmp_path, name):
    method = trained(tmp_path, METHODS[name], bucketed())
    own = sampled(method)
    for resolution in ((4, 16), (16, 8)):
        made = sampled(method, resolution)
        assert made[resolution].shape == (2, 3, *resolution)
        assert len(made) == len(own) and torch.isfinite(made[resolution]).all()
    assert torch.equal(sampled(method, 8)[8], own[8])
    assert torch.equal(sampled(method)[8], own[8])


@pytest.mark.slow
def test_a_run_in_buckets_that_was_cut_ends_with_the_same_bits(tmp_path):
    """In the middle of the second stage; stages have 4, 4 and 2 steps."""
    whole, cut = run(tmp_path / "whole", SDXL, bucketed()), tmp_path / "cut"
    shutil.copytree(whole.folder, cut)
    for path in (cut / "checkpoints").iterdir():
        if int(path.stem.split("_")[1]) > 6:
            path.unlink()
    (cut / "weights.safetensors").unlink()
    again = run(cut, SDXL, bucketed())
    assert again.resumed_at == 6
    assert again.weights.read_bytes() == whole.weights.read_bytes()
    assert (cut / "log.jsonl").read_bytes() == (whole.folder / "log.jsonl").read_bytes()


def test_levels_keep_their_ratio():
    method = methods.build(NODE, offered={"channels": 3, "classes": 4})
    assert method.resized((4, 16)).resolutions == ((4, 16), (2, 8))
    with pytest.raises(ValueError, match="images of 5x16 px have no level that is to them what 4"):
        method.resized((5, 16))


def test_a_step_learns_from_images_of_its_bucket():
    """The loss of a batch of a bucket is that of a method of those sides."""
    method = methods.build(PIXELS, offered={"channels": 3, "classes": 4})
    other = methods.build({**PIXELS, "resolutions": [[4, 16]]}, offered=latent.LATENT_FACTS)
    other.load_state_dict(tiny.randomised(method).state_dict())
    batch = bucketed().buckets[1].batch(torch.arange(4))
    method.fit([(8, 8), (4, 16)])
    losses = []
    for stage in (method.stages[0], other.stages[0]):
        losses.append(stage(batch, stage.draw(batch, tiny.noise(0))).total)
    assert torch.equal(*losses)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (GROWN, "stage 4 is trained on images of 4 px, and buckets are for the finest"),
        ({**PIXELS, "name": "cascaded", "resolutions": [8, 4]}, "buckets are for the finest"),
        (latent.node(), "image side 4 is too small for this discriminator, which needs 6"),
    ],
)
def test_methods_of_images_of_one_size_are_one_sentence(node, message):
    method = methods.build(node, offered={"channels": 3, "classes": 4})
    with pytest.raises(ValueError, match=message):
        method.fit([(4, 16)])
    with pytest.raises(ValueError, match="multiple of 2|px beside the finest"):
        method.resized((5, 16))
