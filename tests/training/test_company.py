"""Weights of a stage go with what they were trained beside: the autoencoder, the text encoder."""

from pathlib import Path

import pytest

from hierdiff.methods import on_shapes
from hierdiff.training import check_run
from hierdiff.training.format import save_weights, unpacked
from hierdiff.training.load import check_company
from tests import tiny
from tests.baselines.latent import test_latent as latent
from tests.training.runs import config, images, recipe

TEACHER = {"name": "progressive_distillation", "steps": 4}
GIVEN = {  # how weights of a run come in
    "teacher": lambda file: {"objective": {**TEACHER, "teacher": file}},
    "start": lambda file: {"denoiser": {**latent.NET, "weights": file}},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return latent.trained(tmp_path_factory.mktemp("whole"), latent.node(discriminator=None)).weights


def with_other_autoencoder(file: Path, folder: Path) -> Path:
    """The same run with one number of its autoencoder changed."""
    tensors, facts = unpacked(file)
    name = next(name for name in tensors if name.endswith("decoder.first.weight"))
    tensors[name].view(-1)[0] += 1e-3
    save_weights(folder / "other.safetensors", tensors, facts["config"])
    return folder / "other.safetensors"


def check(folder: Path, options: dict, checkpoint: Path | None = None):
    codec = {} if checkpoint is None else {"checkpoint": str(checkpoint)}
    node = {**latent.node(discriminator=None, **codec), **options}
    node["sampling"] = {"rule": {"name": "ddim"}, "steps": 4, "threshold": {"name": "none"}}
    kept = config(node, data_sha256=images().sha256)
    check_run(on_shapes(node, offered=latent.LATENT_FACTS), folder, recipe(), kept)


@pytest.mark.slow
@pytest.mark.parametrize("way", GIVEN)
def test_a_latent_network_is_used_beside_its_own_autoencoder_alone(tmp_path, whole, way):
    options = GIVEN[way](str(whole))
    check(tmp_path, options, whole)
    other = with_other_autoencoder(whole, tmp_path)
    with pytest.raises(ValueError, match=r"'latent' of .* belongs to the autoencoder in that file"):
        check(tmp_path, options, other)
    with pytest.raises(ValueError, match=r"one that is trained first: set method.codec.checkpoint"):
        check(tmp_path, options)
    check(tmp_path, GIVEN[way](str(other)), other)


def test_a_network_that_reads_text_is_used_with_its_own_encoder_alone(tmp_path):
    def checked(kind: str, *encoders: str | None):
        stage = tiny.method("end_to_end", kind).stages[0]
        here, there = ({"text_identity": one} for one in encoders)
        check_company(tmp_path / "run", stage, here, there)

    with pytest.raises(ValueError, match=r"reads text encoded by minilm-2, here by minilm-1: give"):
        checked("text", "minilm-1", "minilm-2")
    checked("text", "minilm-1", "minilm-1")
    checked("text", "minilm-1", None)  # of an older file
    checked("class", "minilm-1", "minilm-2")
