"""Networks of files as a method: measured as they are, as a cascade, or trained further."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hierdiff.methods import Request, methods, on_shapes
from hierdiff.training import load_method
from hierdiff.training.published import completed, config_of
from hierdiff.training.run import stage_steps
from tests import tiny
from tests.interop.published import converted


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Converted files of the tiny networks."""
    folder = tmp_path_factory.mktemp("published")
    places = {}
    for name in ("mdm_two_level", "adm_upsampler_tiny"):
        places[name] = folder / f"{name}-ours.safetensors"
        converted(folder, name).save(places[name])
    return places


def base(folder: Path, seen: int = 0, **options: object) -> Path:
    """Weights of a base of 8 px, like those of a run; seen: classes of its data."""
    from hierdiff.training.bounds import tensors_of
    from hierdiff.training.format import save_weights

    node = {
        "name": "end_to_end",
        "resolutions": [8],
        "denoiser": {"name": "unet", "width": 32, "multiples": [1], "blocks": 1, "attention": 0},
        "sampling": {"steps": 2},
        **options,
    }
    facts = {"channels": 3, "classes": seen, "text_width": 0, "text_length": 0}
    path = folder / "base.safetensors"
    method = methods.build(node, offered=facts)
    save_weights(path, tensors_of(method), {"method": node, "facts": facts})
    return path


def node_of(*paths: Path, **options: object) -> dict:
    names = [str(path) for path in paths]
    return completed({"name": "published", "checkpoint": names, **options})


def test_it_has_no_steps_and_needs_none(files: dict[str, Path]):
    method = on_shapes(node_of(files["mdm_two_level"]), offered={"channels": 3})
    assert method.resolutions == (16, 8)
    assert [stage.share for stage in method.stages] == [0] and method.stages[0].pretrained
    assert stage_steps(method, 100) == [0]
    method.check_ready()


def test_a_network_that_was_built_without_classes_takes_data_of_any(tmp_path: Path):
    """As in `experiment=captions`; one that knows them takes data of its own."""
    (tmp_path / "without").mkdir()
    without = node_of(base(tmp_path / "without", seen=7, classes=0))
    assert not on_shapes(without, offered={"channels": 3, "classes": 4}).reads.classes
    with pytest.raises(ValueError, match="knows 7 classes, the data 4"):
        on_shapes(node_of(base(tmp_path, seen=7)), offered={"channels": 3, "classes": 4})


def test_a_share_trains_it_further(files: dict[str, Path]):
    node = node_of(files["mdm_two_level"], share=1)
    assert stage_steps(on_shapes(node, offered={"channels": 3}), 100) == [100]


def test_options_of_the_sampler_replace_those_of_the_release(files: dict[str, Path]):
    node = node_of(files["mdm_two_level"], sampling={"steps": 3, "guidance": None, "rule": None})
    sampling = on_shapes(node, offered={"channels": 3}).stages[0].sampling
    assert (sampling.steps, sampling.guidance) == (3, 7.5)


def test_files_that_follow_each_other_are_a_cascade(tmp_path: Path, files: dict[str, Path]):
    node = node_of(base(tmp_path), files["adm_upsampler_tiny"], sampling={"steps": 2})
    method = on_shapes(node, offered={"channels": 3})
    assert method.resolutions == (16, 8)
    assert [stage.name for stage in method.stages] == ["8", "8to16"]
    assert [stage.weights for stage in method.stages] == node["checkpoint"]


def test_an_upsampler_alone_is_not_ready(files: dict[str, Path]):
    method = on_shapes(node_of(files["adm_upsampler_tiny"]), offered={"channels": 3})
    with pytest.raises(ValueError, match="stage 8 is sampled before it is trained"):
        method.check_ready()


def test_networks_that_do_not_follow_each_other_are_refused(files: dict[str, Path]):
    upsampler, joint = files["adm_upsampler_tiny"], files["mdm_two_level"]
    with pytest.raises(ValueError, match=r"makes images at \[16, 8\]: the first network of a"):
        config_of([joint, upsampler])


def test_data_of_another_kind_are_refused(files: dict[str, Path]):
    node = node_of(files["mdm_two_level"])
    with pytest.raises(ValueError, match="3 channels, the data have 1"):
        on_shapes(node, offered={"channels": 1})
    with pytest.raises(ValueError, match="text of width 24, the data give 8"):
        on_shapes(node, offered={"channels": 3, "text_width": 8})


@pytest.mark.slow
def test_a_run_without_steps_samples_as_the_file_and_stands_alone(
    tmp_path: Path, files: dict[str, Path]
):
    """Its weights are rebuilt without the files that it came from."""
    from hierdiff.training import Recipe, train
    from tests.training.runs import images

    paths = [base(tmp_path), files["adm_upsampler_tiny"]]
    node = node_of(*paths, sampling={"steps": 2})
    data = images(side=16)
    method = methods.build(node, offered={"channels": 3})
    config = {"method": node, "facts": {"channels": 3}}
    summary = train(method, data, tmp_path / "run", Recipe(steps=4), config=config)
    assert summary.steps == 0
    paths[0].unlink()
    again, _ = load_method(summary.weights)
    found, twin = (one.sample(Request(2, noise=tiny.noise(1))) for one in (again, method))
    assert all(torch.equal(found[side], twin[side]) for side in (16, 8))
    theirs, _ = load_method(files["adm_upsampler_tiny"])
    pair = (again.stages[1].state_dict(), theirs.stages[1].state_dict())
    assert all(torch.equal(pair[0][name], pair[1][name]) for name in pair[1])
