"""Stages trained alone and put together again: a cascade from two runs."""

from pathlib import Path

import pytest
import torch

from hierdiff.methods import Request, on_shapes
from hierdiff.training import check_run, load_method, train
from hierdiff.training.format import save_weights, unpacked
from tests.training.runs import built, config, images, recipe

NET = {"name": "unet", "width": 8, "multiples": [1], "blocks": 1, "attention": 0, "groups": 4}


def node(*stages, resolutions=(8, 4), **options):
    return {
        "name": "cascaded",
        "resolutions": list(resolutions),
        "denoiser": NET,
        "sampling": {"steps": 2},
        "stages": list(stages) or [{} for _ in resolutions],
        **options,
    }


def trained(folder: Path, cascade, seed=0, data=None):
    data = data or images()
    kept = config(cascade, data_sha256=data.sha256)
    return train(built(cascade, seed), data, folder, recipe(), seed=seed, config=kept)


def test_every_stage_of_a_cascade_may_have_all_the_steps(tmp_path: Path):
    summary = trained(tmp_path, node({"batch_size": 8}, {"share": 0.5}))
    assert summary.steps == 12 + 6 and summary.images == 12 * 8 + 6 * 4
    assert (tmp_path / "samples" / "step_0000012.png").exists()


def test_a_base_trained_alone_is_taken_over_by_another_run(tmp_path: Path):
    alone = trained(tmp_path / "base", node({}, {"share": 0}))
    method, _ = load_method(alone.weights)
    with pytest.raises(ValueError, match="stage 4to8 is sampled before it is trained"):
        method.sample(Request(1, noise=lambda shape: torch.zeros(tuple(shape))))
    weights = str(alone.weights)
    whole = trained(tmp_path / "whole", node({"share": 0, "weights": weights}, {}), seed=1)
    again, _ = load_method(whole.weights)
    for name, tensor in again.stages[0].state_dict().items():
        assert torch.equal(tensor, method.stages[0].state_dict()[name])
    again.sample(Request(1, noise=lambda shape: torch.ones(tuple(shape))))
    Path(weights).unlink()  # what was taken over is kept
    load_method(whole.weights)[0].sample(Request(1, noise=lambda shape: torch.ones(tuple(shape))))


def test_an_upsampler_trained_alone_shows_what_it_makes_of_real_images(tmp_path: Path):
    summary = trained(tmp_path, node({"share": 0}, {}))
    assert summary.sheet.exists() and summary.steps == 12


@pytest.mark.parametrize(
    ("stages", "options", "message"),
    [
        ([{}, {"weights": "FILE", "share": 0}], {}, "holds no trained stage '4to8'"),
        ([{"weights": "FILE"}, {}, {}], {"resolutions": (8, 4, 2)}, "no trained stage '2', but 4"),
        ([{"weights": "FILE"}, {}], {"schedule": {"name": "sigmoid"}}, "differs in its meaning"),
        ([{"weights": "FILE", "denoiser": {"width": 16}}, {}], {}, "differs in its network"),
        ([{"weights": "FILE"}, {}], {"data": 16}, "differs in its data"),
        ([{"weights": "missing.safetensors"}, {}], {}, "no checkpoint missing.safetensors"),
    ],
)
def test_stages_of_different_chains_do_not_mix(tmp_path: Path, stages, options, message):
    alone = trained(tmp_path / "base", node({}, {"share": 0}))
    given = [
        {k: str(alone.weights) if v == "FILE" else v for k, v in stage.items()} for stage in stages
    ]
    data = images(options.pop("data", 20))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        trained(tmp_path / "other", node(*given, **options), data=data)
    assert not (tmp_path / "other" / "checkpoints").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_stage_that_are_not_finite_are_refused_on_shapes_alone(tmp_path: Path, value):
    alone = trained(tmp_path / "base", node({}, {"share": 0}))
    tensors, facts = unpacked(alone.weights)
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 4)
    tensors[name].view(-1)[-1] = value
    save_weights(tmp_path / "bad.safetensors", tensors, facts["config"])
    cascade = node({"share": 0, "weights": str(tmp_path / "bad.safetensors")}, {})
    method = on_shapes(cascade, offered={"channels": 3, "classes": 4})
    with pytest.raises(ValueError, match=f"{name}' is not finite"):
        check_run(method, tmp_path / "run", recipe(), config(cascade, data_sha256=images().sha256))
