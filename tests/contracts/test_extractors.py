"""What holds for every registered extractor."""

from contextlib import nullcontext
from functools import cache

import pytest
import torch

from hierdiff.metrics.extractors import extractors
from tests.metrics import foreign_weights
from tests.metrics.foreign_inception import write_random

SLOW = {"inception", "dinov2", "clip", "i3d"}
NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
    for name in extractors.names()
]
IMAGES = torch.randint(
    0, 256, (3, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def inputs(extractor):
    """Images, or clips of them that change from frame to frame."""
    shifts = range(extractor.clip)
    return torch.stack([IMAGES.roll(i, 3) for i in shifts], dim=2) if shifts else IMAGES


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    write = {
        "inception": write_random,
        "dinov2": foreign_weights.write_dinov2,
        "clip": foreign_weights.write_clip,
        "squeezenet": foreign_weights.write_squeezenet,
        "i3d": foreign_weights.write_i3d,
    }
    small = {"dinov2": {"size": "small"}}

    @cache
    def build(name):
        if name not in write:
            return extractors.build({"name": name})
        weights = write[name](tmp_path_factory.mktemp(name))
        return extractors.build({"name": name, "weights": str(weights), **small.get(name, {})})

    return build


@pytest.mark.parametrize("name", NAMES)
def test_features_are_finite_float32_rows_of_the_stated_width(name, built):
    extractor = built(name)
    found = extractor(inputs(extractor))
    assert found.dtype == torch.float32 and found.shape == (3, extractor.width)
    assert torch.isfinite(found).all() and (found.std(dim=0) > 0).any()
    assert not found.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_two_calls_agree_also_after_train_and_under_autocast(name, built):
    extractor = built(name)
    images = inputs(extractor)
    first = extractor(images)
    extractor.train()
    assert not any(module.training for module in extractor.modules())
    for context in (nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            assert torch.equal(extractor(images), first)


@pytest.mark.parametrize("name", NAMES)
def test_one_image_does_not_touch_another(name, built):
    extractor = built(name)
    images = inputs(extractor)
    together = extractor(images)
    alone = torch.cat([extractor(image[None]) for image in images])
    torch.testing.assert_close(alone, together, rtol=1e-3, atol=1e-4 * float(together.abs().max()))
    assert not torch.allclose(alone[0], alone[1])


@pytest.mark.parametrize("name", NAMES)
def test_grey_is_colour_with_three_equal_channels(name, built):
    extractor = built(name)
    grey = inputs(extractor)[:, :1]
    assert torch.equal(extractor(grey), extractor(grey.repeat_interleave(3, dim=1)))


@pytest.mark.parametrize("name", NAMES)
def test_the_identity_states_name_weights_resize_and_quantisation(name, built):
    extractor = built(name)
    who, resize, quantisation = extractor.identity.split(" : ")
    assert who == f"{extractor.name}@{extractor.weights}" and len(extractor.weights) == 8
    assert extractor.name.startswith(name)
    assert resize == extractor.resize and quantisation == "uint8-round"


@pytest.mark.parametrize("name", NAMES)
def test_only_the_published_inception_weights_may_be_called_fid(name, built):
    assert built(name).label.startswith("FD-")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_uint8_with_one_or_three_channels_or_of_other_sides_is_refused(name, built):
    images = inputs(built(name))
    for bad in (images / 255, images.repeat_interleave(2, dim=1), images[:, :, 0]):
        with pytest.raises((ValueError, TypeError)):
            built(name)(bad)


@pytest.mark.parametrize("name", NAMES)
def test_one_pass_gives_every_stated_output_as_finite_float32_of_its_width(name, built):
    extractor = built(name)
    images = inputs(extractor)
    found = extractor.extract(images)
    assert {key: part.shape[1] for key, part in found.items()} == extractor.outputs
    assert all(
        part.dtype == torch.float32 and torch.isfinite(part).all() for part in found.values()
    )
    assert torch.equal(found["features"], extractor(images))
