"""Moments are encoded once and found again by whom they fit."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from hierdiff.data import image_data
from hierdiff.files.cache import kept_array as kept
from tests.baselines.latent.test_latent import AUTOENCODER, built
from tests.training.runs import images

F32 = np.dtype("float32")


def started(folder, seed=0, data=None, **codec):
    """The data of a latent stage after its start, and how many batches were encoded for it."""
    method = built(seed, cache=str(folder), **codec)
    stage, calls = method.stages[1], []
    encode = stage.codec.moments

    def counted(x):
        calls.append(len(x))
        return encode(x)

    stage.codec.moments = counted
    return method, stage.start(method.stages[0], data or images()), calls[1:]  # the first: a shape


def test_what_is_kept_is_what_the_encoder_gives(tmp_path):
    method, data, _ = started(tmp_path)
    index, flip = torch.tensor([3, 0, 7]), torch.tensor([True, False, True])
    wanted = method.stages[1].codec.moments(images().batch(index, flip).images)
    torch.testing.assert_close(data.batch(index, flip).images, wanted)
    assert [view.shape for view in data.views] == [(20, 4, 4, 4)] * 2
    assert all(isinstance(file, np.memmap) for view in data.views for file in view.files)


def test_images_are_encoded_once_for_one_autoencoder(tmp_path):
    first, again, other = (started(tmp_path, seed)[2] for seed in (0, 0, 1))
    assert first == [20, 20] and again == [] and other == [20, 20]
    assert len(list((tmp_path / "moments").glob("noise-4x4-*"))) == 2


def test_other_images_are_encoded_for_themselves(tmp_path):
    started(tmp_path)
    assert started(tmp_path, data=images().select(np.arange(12)))[2] == [12, 12]


def test_statistics_are_measured_of_what_was_found_too(tmp_path):
    made, found = (started(tmp_path)[0].stages[1].statistics for _ in range(2))
    assert torch.equal(made.mean, found.mean) and torch.equal(made.std, found.std)


def test_moments_are_those_of_a_network_that_does_not_drop(tmp_path):
    dropping = {**AUTOENCODER, "dropout": 0.9}
    _, wanted, _ = started(tmp_path / "none", autoencoder=AUTOENCODER)
    method, found, _ = started(tmp_path / "some", autoencoder=dropping)
    for mine, theirs in zip(found.views, wanted.views, strict=True):
        np.testing.assert_array_equal(mine[:], theirs[:])
    assert method.stages[0].autoencoder.training  # as it was


def test_the_same_weights_in_other_groups_have_moments_of_their_own(tmp_path):
    with_groups = [{**AUTOENCODER, "groups": groups} for groups in (4, 2)]
    calls = [started(tmp_path, autoencoder=options)[2] for options in with_groups]
    assert calls == [[20, 20], [20, 20]]


def test_conditions_come_without_pixels(tmp_path, monkeypatch):
    _, data, _ = started(tmp_path)
    index = torch.tensor([5, 2])
    wanted, seen = images().batch(index).cond, []
    to_float = image_data.to_float
    monkeypatch.setattr(image_data, "to_float", lambda x: seen.append(x.numel()) or to_float(x))
    assert torch.equal(data.batch(index).cond.labels, wanted.labels)
    assert sum(seen) == 0


@pytest.mark.parametrize("spoil", ["cut", "other", "empty"])
def test_a_file_that_does_not_fit_is_made_again(tmp_path, caplog, spoil):
    path, wanted = tmp_path / "a.npy", np.arange(6, dtype=F32).reshape(3, 2)
    kept(path, (3, 2), F32, [wanted[:2], wanted[2:]])
    if spoil == "other":
        np.save(path, np.zeros((4, 2), F32))
    else:
        path.write_bytes(path.read_bytes()[: {"cut": -5, "empty": 0}[spoil]])
    found = kept(path, (3, 2), F32, [wanted])
    np.testing.assert_array_equal(found, wanted)
    assert "is made again" in caplog.text


def test_an_encoder_that_fails_leaves_no_file(tmp_path):
    def fails():
        yield np.zeros((1, 2), F32)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        kept(tmp_path / "a.npy", (3, 2), F32, fails())
    assert not list(tmp_path.glob("*.npy")) and not list(tmp_path.glob(".*.part"))


def test_a_full_disk_is_told_with_the_file_and_its_size(tmp_path, monkeypatch):
    def full(*given, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(OSError, match=r"cannot write .*a\.npy \(8\.0 MB\): No space left"):
        kept(tmp_path / "a.npy", (1000, 2000), F32, [])


def test_one_makes_the_file_while_others_wait(tmp_path):
    made, found = [], []

    def slow():
        made.append(None)
        time.sleep(0.2)
        yield np.ones((3, 2), F32)

    def work():
        found.append(kept(tmp_path / "a.npy", (3, 2), F32, slow()))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(found) == 3
