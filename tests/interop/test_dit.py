"""The official implementation's numbers (tests/reference_data) from our DiT, guidance included."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from hierdiff.batch import Cond
from hierdiff.codec import Pyramid
from hierdiff.denoisers import denoisers
from hierdiff.denoisers.dit import column_row_positions
from hierdiff.guidance import guided
from hierdiff.interop import dit, load
from hierdiff.interop.dit import rename
from hierdiff.methods import Diffusion, Sampling
from hierdiff.objective import ScoreMatching
from hierdiff.parameterization import Parameterization
from hierdiff.process import VariancePreserving
from hierdiff.schedules import LinearBeta

FILE = Path(__file__).parent.parent / "reference_data" / "dit_tiny.safetensors"


@cache
def reference() -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(FILE, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def official() -> dict[str, torch.Tensor]:
    tensors, _ = reference()
    prefix = "weights."
    return {k.removeprefix(prefix): v.double() for k, v in tensors.items() if k.startswith(prefix)}


@cache
def stage() -> Diffusion:
    """In double precision, which leaves only the rounding of the published numbers."""
    config = json.loads(reference()[1]["config"])
    facts = {"channels": config["in_channels"], "classes": config["num_classes"]}
    node = {
        "name": "dit",
        "width": config["hidden_size"],
        "depth": config["depth"],
        "heads": config["num_heads"],
        "patch": config["patch_size"],
        "mlp_ratio": config["mlp_ratio"],
        "learned_variance": config["learn_sigma"],
        "clock": {"name": "steps", "schedule": {"name": "linear_beta"}},
    }
    denoiser = denoisers.build(node, offered=facts).double()
    load(denoiser, rename(official()))
    side = config["input_size"]
    found = Diffusion(
        codec=Pyramid([side], facts["channels"]),
        process=VariancePreserving([LinearBeta()]),
        objective=ScoreMatching(Parameterization("eps")),
        denoiser=denoiser,
        sampling=Sampling(),
        facts=facts,
    )
    return found.eval()


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Within 1e-5 of the largest published number."""
    scale = float(wanted.abs().max())
    torch.testing.assert_close(found, wanted.double(), rtol=0, atol=1e-5 * scale)


def test_the_outputs_are_the_published_ones():
    tensors, _ = reference()
    t = (tensors["t"] + 1).double() / 1000
    cond = Cond(labels=torch.where(tensors["labels"] == 10, -1, tensors["labels"]))
    network = stage().denoiser
    with torch.no_grad():
        log_snr = stage().process.log_snr(t)
        out = network((tensors["x_t"].double(),), log_snr, network.prepare(cond))
    close(torch.cat([out.levels[0], out.variance[0]], dim=1), tensors["output"])


def test_the_guided_forward_mixes_the_first_three_channels_alone():
    """Theirs is written for eps, ours for x0; a batch is the condition, then no condition."""
    tensors, metadata = reference()
    label, none = tensors["cfg_labels"].tolist()
    assert none == 10 and label != 10 and metadata["cfg_scale"] == "1.5"
    x, t = tensors["cfg_x_t"][:1].double(), (tensors["cfg_t"][:1] + 1).double() / 1000
    strong, weak = (stage().denoise(Cond(labels=torch.tensor([n]))) for n in (label, -1))
    moment = stage().process.moment(t, float(t))
    alpha, sigma = float(moment.alpha), float(moment.sigma)
    with torch.no_grad():
        out = guided(strong, weak, 1.5, channels=slice(3))((x,), moment, None)
        alone = [side((x,), moment, None) for side in (strong, weak)]
    eps, *rest = [(x - alpha * part.x0[0]) / sigma for part in (out, *alone)]
    wanted = tensors["cfg_output"]
    close(eps[0], wanted[0, :4])
    close(eps[0, :3], wanted[1, :3])
    for row in (0, 1):  # the fourth channel and the variances are each row's own
        close(rest[row][0, 3], wanted[row, 3])
        close(alone[row].variance[0][0], wanted[row, 4:])
    assert torch.equal(out.variance[0], alone[0].variance[0])


def test_positions_are_the_ones_that_checkpoints_store():
    table = official()["pos_embed"][0]
    found = column_row_positions(4, 4, table.shape[1], torch.device("cpu"))
    torch.testing.assert_close(found.double(), table, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 15, 48), (1, 16, 24), (16, 48)])
def test_a_table_of_positions_of_another_form_is_refused(shape):
    shapes = {name: tuple(tensor.shape) for name, tensor in official().items()}
    assert dit.side(shapes) == 8
    with pytest.raises(ValueError, match="pos_embed of shape"):
        dit.side({**shapes, "pos_embed": shape})


def test_parameters_count_as_published_without_the_table_of_positions():
    table = official()["pos_embed"].numel()
    count = sum(p.numel() for p in stage().denoiser.parameters())
    assert int(reference()[1]["params"]) == count + table


@pytest.mark.parametrize("part", ["label.weight", "time.0.weight"])
def test_reordered_tensors_keep_every_number(part):
    theirs = {"label.weight": "y_embedder.embedding_table", "time.0.weight": "t_embedder.mlp.0"}
    before, after = official()[f"{theirs[part]}.weight"], rename(official())[part]
    assert not torch.equal(before, after)
    assert torch.equal(before.flatten().sort().values, after.flatten().sort().values)
