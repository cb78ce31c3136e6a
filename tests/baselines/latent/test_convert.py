"""A released autoencoder becomes weights that a run takes."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from baselines.latent.convert import main
from hierdiff.methods import Request
from hierdiff.training import load_method
from tests import tiny
from tests.baselines.latent.test_latent import NET, node, trained
from tests.interop.test_autoencoder import FILE, read
from tests.interop.test_autoencoder import layout as theirs
from tests.training.runs import images


def convert(folder: Path, state, name="released.ckpt", **layout) -> Path:
    (folder / "layout.yaml").write_text(yaml.safe_dump({**theirs(), **layout}))
    if name.endswith(".safetensors"):
        save_file(state, folder / name)
    else:
        torch.save(state, folder / name)
    out = folder / "weights.safetensors"
    main([str(folder / name), "-o", str(out), "--layout", str(folder / "layout.yaml")])
    return out


def whole() -> dict:
    first = {f"first_stage_model.{key}": value for key, value in read()[0].items()}
    return {"epoch": 3, "state_dict": {**first, "scale_factor": torch.tensor(0.18215)}}


@pytest.mark.parametrize("name", ["released.safetensors", "released.ckpt"])
def test_a_run_uses_it_and_measures_its_latents_on_its_own_images(tmp_path: Path, name):
    (state, tensors, _), layout = read(), theirs()
    out = convert(tmp_path, state if name.endswith(".safetensors") else whole(), name)
    with pytest.raises(ValueError, match="sampled before it is trained"):
        load_method(out)[0].sample(Request(1, noise=tiny.noise()))
    wanted = node(checkpoint=str(out), autoencoder=layout)
    wanted |= {"resolutions": [32], "denoiser": NET}
    run = trained(tmp_path / "run", wanted, steps=2, data=images(side=32))
    method, _ = load_method(run.weights)
    codec = method.stages[1].codec
    mean = codec.moments(tensors["images"]).chunk(2, 1)[0]
    assert (mean - tensors["mean"]).abs().max() < 1e-5 * tensors["mean"].abs().max()
    x = images(side=32).batch(torch.arange(20)).images
    z = torch.cat([codec.encode(x)[0], codec.encode(x.flip(-1))[0]])
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
    assert any("ImageNet" in note for note in method.stages[0].notes)


def test_its_latents_were_never_measured(tmp_path: Path):
    method, _ = load_method(convert(tmp_path, read()[0]))
    with pytest.raises(ValueError, match="latent statistics were never measured"):
        method.stages[1].codec.check()


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"latent_channels": 3}, r"has \(64, 4, 3, 3\) as decoder.first.weight, the layout"),
        ({"attention_at": []}, "attention.*the layout nothing: give the --layout"),
        ({"middle_attention": False}, "the layout nothing"),
    ],
)
def test_another_layout_is_refused(tmp_path: Path, monkeypatch, capsys, layout, message):
    with pytest.raises(SystemExit):
        convert(tmp_path, read()[0], **layout)
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "weights.safetensors").exists()


def test_a_file_with_more_than_tensors_is_refused(tmp_path: Path, capsys):
    with pytest.raises(SystemExit):
        convert(tmp_path, {"state_dict": read()[0], "callbacks": {Path: 1}})
    assert "if you trust its author" in capsys.readouterr().err


def test_an_unknown_layout_is_refused_with_the_nearest(tmp_path: Path, capsys):
    with pytest.raises(SystemExit):
        main([str(FILE), "-o", str(tmp_path / "a"), "--layout", "kl_f9"])
    assert "unknown layout 'kl_f9', did you mean 'kl_f" in capsys.readouterr().err
