"""Growth of a hierarchy: over the stages of a run, and over several runs."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hierdiff.inputs import inputs
from hierdiff.methods import Method
from hierdiff.training import check_run, load_method, train
from hierdiff.training.format import save_weights, unpacked
from hierdiff.training.initial import start_networks
from hierdiff.training.optimizer import hand_on, moments_of
from tests.training.runs import GROWN, INNER, NESTED, NODE, built, config, images, recipe, run

KEPT = {**GROWN, "keep_moments": True}
LOW = {**NODE, "name": "end_to_end", "resolutions": [4], "denoiser": INNER}
WIDE = {**NODE, "resolutions": [16, 8, 4]}


def grown(path: Path | str, low: dict[str, Any] = INNER, **options: Any) -> dict[str, Any]:
    inner = {**low, "weights": str(path), **options}
    return {**NODE, "denoiser": {**NESTED, "inner": inner}}


def inner_of(method: Method) -> torch.nn.Module:
    return method.stages[-1].denoiser.inner


def started(node: dict[str, Any]) -> Method:
    method = built(node, seed=1)
    start_networks(method, config(node))
    return method


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def low(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a run at the low resolution alone."""
    return run(tmp_path_factory.mktemp("low"), LOW, steps=2, checkpoint_every=0).weights


def test_an_inner_network_starts_from_the_weights_of_a_run(low: Path):
    first = load_method(low)[0].stages[0].denoiser.state_dict()
    method = started(grown(low))
    assert same(inner_of(method).state_dict(), first)
    assert any("weights of another training" in note for note in method.stages[0].notes)
    assert method.stages[0].pretrained and not built().stages[0].pretrained
    fresh = built(NODE, seed=1).stages[0].denoiser.first
    assert torch.equal(method.stages[0].denoiser.first.weight, fresh.weight)


def test_a_network_of_clips_starts_from_one_of_images(low: Path):
    inner = {**INNER, "name": "space_time_unet", "scalars": {"fps": 8}}
    nested = {**NESTED, "name": "space_time_unet", "inner": {**inner, "weights": str(low)}}
    method = started({**NODE, "denoiser": nested})
    first = load_method(low)[0].stages[0].denoiser.state_dict()
    weights = inner_of(method).state_dict()
    assert same({name: weights[name] for name in first}, first)
    new = {name: weights[name] for name in weights.keys() - first.keys()}
    assert {".mixing." in name for name in new} == {True, False}
    assert all(".mixing." in name or name.startswith("scalars.fps.") for name in new)
    assert not any(value.any() for name, value in new.items() if name.endswith("conv.weight"))
    wider = {**nested, "inner": {**inner, "weights": str(low), "width": 2 * inner["width"]}}
    with pytest.raises(ValueError, match="does not fit the network that starts from it"):
        started({**NODE, "denoiser": wider})


def test_a_nest_of_two_levels_starts_the_inside_of_three(tmp_path: Path):
    """64 px, then 256 around it, then 1024 around both, each from the file of the run before."""
    two = run(tmp_path, steps=2, checkpoint_every=0).weights
    outer = {**NESTED, "inner": {**NESTED, "weights": str(two)}}
    method = started({**WIDE, "denoiser": outer})
    assert same(inner_of(method).state_dict(), load_method(two)[0].stages[0].denoiser.state_dict())
    # and the low level alone is in the file too
    again = started(grown(two))
    assert same(
        inner_of(again).state_dict(),
        load_method(two)[0].stages[0].denoiser.inner.state_dict(),
    )


def test_a_run_trains_on_from_the_file_and_needs_it_no_more(low: Path, tmp_path: Path):
    file = shutil.copy(low, tmp_path / "low.safetensors")
    node = grown(file)
    before = load_file(file)
    weights = run(tmp_path / "run", node, steps=2, checkpoint_every=1, lr=1e-12, keep=9).weights
    Path(file).unlink()
    trained = load_file(weights)
    for name, tensor in before.items():
        place = name.replace("stages.0.denoiser.", "stages.0.denoiser.inner.")
        assert torch.allclose(trained[place], tensor, atol=1e-9)
    inner_of(load_method(weights)[0])
    (tmp_path / "run" / "checkpoints" / "step_0000002.safetensors").unlink()
    run(tmp_path / "run", node, steps=2, checkpoint_every=1, lr=1e-12, keep=9)  # from step 1


def test_a_frozen_inner_network_stays_and_the_rest_moves(low: Path, tmp_path: Path):
    node = grown(low, freeze=True)
    weights = run(tmp_path, node, steps=3, checkpoint_every=2).weights
    end = load_method(weights)[0].stages[0].denoiser
    assert same(end.inner.state_dict(), load_method(low)[0].stages[0].denoiser.state_dict())
    assert end.back.weight.abs().sum() > 0 and end.into.weight.abs().sum() > 0


def test_a_frozen_network_cannot_be_grown_alone(low: Path, tmp_path: Path):
    node = {**grown(low, freeze=True), "growth": [0.5]}
    with pytest.raises(ValueError, match="no weights to train in 'denoiser'"):
        check_run(built(node), tmp_path, recipe(), config(node))
    with pytest.raises(ValueError, match="without weights"):
        built({**NODE, "denoiser": {**NESTED, "inner": {**INNER, "freeze": True}}})


def test_converted_weights_are_tensors_alone_with_groups_of_32(tmp_path: Path):
    wide = {**INNER, "width": 32, "groups": 32}
    outer = {**NESTED, "inner": wide}
    tensors = built({**NODE, "denoiser": outer}, seed=7).stages[0].denoiser.inner.state_dict()
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, tmp_path / "w.safetensors")
    method = started(grown(tmp_path / "w.safetensors", wide))
    assert same(inner_of(method).state_dict(), {n: t + 1 for n, t in tensors.items()})
    with pytest.raises(ValueError, match="groups"):
        started(grown(tmp_path / "w.safetensors", {**wide, "groups": 8}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 16}, r"does not fit .* as '.*bias', the network \[16\]"),
        ({"blocks": 2}, "the network .*; give that network the options"),
        ({"groups": 2}, "groups of .* is 4 there and 2 here"),
        ({"clock": {"name": "steps", "schedule": {"name": "cosine"}}}, "kind of clock"),
    ],
)
def test_another_network_in_the_file_is_one_clear_error(low, tmp_path, options, message):
    node = grown(low, {**INNER, **options})
    with pytest.raises(ValueError, match=message):
        check_run(built(node), tmp_path, recipe(), config(node))


def test_files_that_hold_no_such_network_are_refused(low: Path, tmp_path: Path):
    outer = {**NESTED, "inner": {**NESTED, "weights": str(low)}}
    with pytest.raises(ValueError, match=r"no trained network of 2 level\(s\)"):
        started({**WIDE, "denoiser": outer})
    objective = {"parameterization": {"prediction": "x0"}}
    with pytest.raises(ValueError, match="prediction is v there and x0 here"):
        started({**grown(low), "objective": objective})
    with pytest.raises(FileNotFoundError, match="no file .*absent"):
        started(grown(tmp_path / "absent.safetensors"))
    (tmp_path / "old.pth").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(ValueError, match="pickles"):
        started(grown(tmp_path / "old.pth"))


def test_code_of_a_package_that_the_run_does_not_name_is_not_imported(low, tmp_path):
    tensors, facts = unpacked(low)
    facts["config"]["method"]["denoiser"] = {"name": "evil_package:Net"}
    save_weights(tmp_path / "evil.safetensors", tensors, facts["config"])
    with pytest.raises(PermissionError, match="evil_package"):
        started(grown(tmp_path / "evil.safetensors"))


def test_the_hash_of_the_file_is_an_input_of_the_run(low: Path, tmp_path: Path):
    file = shutil.copy(low, tmp_path / "low.safetensors")
    node = grown(file)
    place = "method.denoiser.inner.weights"
    digests = inputs({"method": node})
    assert len(digests[place]) == 64
    kept = config(node, inputs=digests)
    train(built(node), images(), tmp_path / "run", recipe(steps=2), config=kept)
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file)
    now = config(node, inputs=inputs({"method": node}))
    with pytest.raises(ValueError, match=f"another content of {place}"):
        train(built(node), images(), tmp_path / "run", recipe(steps=2), config=now)


def test_a_stage_of_growth_has_its_own_batch_and_learning_rate(tmp_path: Path):
    early = {"share": 0.5, "batch_size": 2, "lr": 3.0}
    method = built({**NODE, "growth": [early]})
    low, whole = method.stages
    assert (low.batch_size, low.turns[0].lr, low.share) == (2, 3.0, 0.5)
    assert (whole.batch_size, whole.turns[0].lr, whole.share) == (None, 1.0, 0.5)
    summary = run(tmp_path, {**NODE, "growth": [early]}, steps=4, checkpoint_every=0)
    assert summary.images == 2 * 2 + 2 * 4


def test_moments_go_over_to_the_weights_that_both_optimizers_train():
    kept, gone, new = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(3))
    first = torch.optim.AdamW([kept, gone], lr=0.1)
    (kept.sum() + gone.sum()).backward()
    first.step()
    second = torch.optim.AdamW([new, kept], lr=0.1)
    hand_on(moments_of([first]), second)
    assert second.state[kept]["exp_avg"].abs().sum() > 0 and float(second.state[kept]["step"]) == 1
    assert new not in second.state


def test_moments_are_dropped_at_a_border_unless_they_are_kept(tmp_path: Path):
    ends = {}
    for name, node in {"dropped": GROWN, "kept": KEPT}.items():
        summary = run(tmp_path / name, node, checkpoint_every=1, keep=99)
        ends[name] = load_file(summary.weights)
        border = tmp_path / name / "checkpoints" / "step_0000005.safetensors"
        held = [k for k in load_file(border) if k.startswith("optimizer/denoiser/")]
        assert bool(held) == (name == "kept")
    assert not same(ends["dropped"], ends["kept"])


@pytest.mark.parametrize("last", [5, 6])
def test_a_run_that_keeps_moments_resumes_at_and_behind_its_border(tmp_path: Path, last: int):
    whole = load_file(run(tmp_path / "whole", KEPT, checkpoint_every=1, keep=99).weights)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "weights.safetensors").unlink()
    for path in (tmp_path / "cut" / "checkpoints").iterdir():
        if int(path.stem.removeprefix("step_")) > last:
            path.unlink()
    assert same(load_file(run(tmp_path / "cut", KEPT, checkpoint_every=1, keep=99).weights), whole)


def test_growth_takes_numbers_and_stages():
    method = built({**NODE, "growth": [0.25]})
    assert [stage.share for stage in method.stages] == [0.25, 0.75]
    with pytest.raises(ValueError, match="batch_size"):
        built({**NODE, "growth": [{"share": 0.5, "batch_size": 0}]})
    with pytest.raises(ValueError, match="has no option 'batchsize'"):
        built({**NODE, "growth": [{"share": 0.5, "batchsize": 8}]})
