"""The experiments of published numbers, from end to end on tiny files of the same layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks import single
from benchmarks.settings import settings_of
from hierdiff import convert as convert_command
from hierdiff.interop.mdm import INNER
from hierdiff.prepared import prepare
from tests.baselines.latent import test_readers as latent
from tests.interop.published import OPTIONS, released, weights_of
from tests.test_configs import group, whole

CLASSES = 10
QUICK = (
    *("budget=smoke", "trainer.progress=false", "trainer.accelerator=cpu", "measure.samples=8"),
    *("measure.batch=8", "measure.extractor={name: random_conv}", "measure.metrics=[fd]"),
    *("sampler.steps=2", "data.cache=cache", "data.reading.workers=0"),
)
NAMES = group("experiment/reproduce")


@pytest.mark.parametrize("name", NAMES)
def test_without_its_files_it_names_them_and_where_they_come_from(name: str):
    """In one sentence, before the data are looked for."""
    options = whole(f"experiment=reproduce/{name}")
    with pytest.raises(FileNotFoundError) as caught:
        prepare(options)
    said = str(caught.value)
    checkpoint = options["method"]["checkpoint"]
    for file in [checkpoint] if isinstance(checkpoint, str) else checkpoint:
        assert f"no checkpoint {file}" in said or f"no {file}" in said
    assert "https://" in said and "docs/checkpoints.md" in said and "\n" not in said


@pytest.mark.parametrize(
    ("name", "steps", "guidance", "samples", "labels"),
    [
        ("dit_xl_2_256", 250, 1.5, 50000, "random"),
        ("sit_xl_2", 250, 1.5, 50000, "random"),
        ("ldm_4", 250, 1.5, 50000, "balanced"),
        ("adm_64_256", 250, 1.0, 50000, "random"),
        ("mdm_256", 50, 7.5, 30000, "test"),
        ("mdm_64", 50, 7.5, 30000, "test"),
    ],
)
def test_the_recipe_is_stated_in_full(name, steps, guidance, samples, labels):
    options = whole(f"experiment=reproduce/{name}")
    sampler, measure = options["sampler"], options["measure"]
    assert (sampler["steps"], sampler["guidance"]) == (steps, guidance)
    assert (measure["samples"], measure["labels"], measure["seeds"]) == (samples, labels, [0])
    assert measure["extractor"]["name"] == "inception" and options["method"]["share"] == 0
    assert options["trainer"]["precision"] == "32-true"


# -- tiny files ------------------------------------------------------------------------------------


def ours(path: Path, name: str, *words: str) -> str:
    """The file that `python -m hierdiff.convert` makes of another."""
    out = path.parent / f"{name}-ours.safetensors"
    convert_command.main([str(path), *words, "-o", str(out)])
    return str(out)


def options_of(name: str, **changed: Any) -> list[str]:
    return [f"{key}={value}" for key, value in {**OPTIONS[name], **changed}.items()]


def transformer(folder: Path, reader: str) -> str:
    first = ours(latent.released(folder, "kl_autoencoder"), "vae", "resolution=32")
    path = latent.released(folder, "dit")
    return ours(path, reader, "heads=4", f"autoencoder={first}", "--as", reader)


def whole_latent_diffusion(folder: Path) -> str:
    table = torch.randn(CLASSES + 1, 24, generator=torch.Generator().manual_seed(0))
    path = folder / "model.safetensors"
    save_file(latent.whole(**{"cond_stage_model.embedding.weight": table}), path)
    return ours(path, "ldm_4", "heads=1", "resolution=16", "null_class=true")


def cascade(folder: Path) -> str:
    base = ours(released(folder, "adm_tiny"), "base", *options_of("adm_tiny", resolution=8))
    path = released(folder, "adm_upsampler_tiny")
    return f"[{base},{ours(path, 'upsampler', *options_of('adm_upsampler_tiny'))}]"


def nested(folder: Path) -> str:
    return ours(released(folder, "mdm_two_level"), "mdm", *options_of("mdm_two_level"))


def flat(folder: Path) -> str:
    table = weights_of("mdm_two_level")
    inner = {name.removeprefix(INNER): part for name, part in table.items() if INNER in name}
    save_file(inner, folder / "low.safetensors")
    return ours(folder / "low.safetensors", "low", *options_of("mdm_two_level"))


TEXT = ["data.text={name: vocabulary, width: 24, length: 5}"]
TINY: dict[str, tuple[Callable[[Path], str], int, list[str]]] = {
    "dit_xl_2_256": (lambda folder: transformer(folder, "dit"), 32, []),
    "sit_xl_2": (lambda folder: transformer(folder, "sit"), 32, []),
    "ldm_4": (whole_latent_diffusion, 16, []),
    "adm_64_256": (cascade, 16, []),
    "mdm_256": (nested, 16, TEXT),
    "mdm_64": (flat, 8, TEXT),
}


def pictures(folder: Path) -> Path:
    """Four pictures of each class, with a caption each."""
    generator = np.random.default_rng(0)
    for i in range(4 * CLASSES):
        place = folder / "images" / f"{i % CLASSES:02d}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{i}.png")
        (place / f"{i}.txt").write_text(f"picture {i}")
    return folder / "images"


def test_each_has_a_tiny_file():
    assert sorted(TINY) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_it_runs_from_a_file_to_a_record_that_says_how_it_departs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, side, more = TINY[name]
    options = whole(
        *(f"experiment=reproduce/{name}", f"checkpoint={make(tmp_path)}"),
        *(f"data.root={pictures(tmp_path)}", f"data.resolution={side}", *QUICK, *more),
    )
    options["measure"]["references"] = {}  # the training images
    record = single.make(settings_of({**options, "folder": str(tmp_path / "run")}))
    assert record.training["steps"] == 0 and record.method == "published"
    assert any("trained elsewhere" in note for note in record.training["notes"])
    rows = {one.metric: one for one in record.quality if (one.level, one.view) == (side, "native")}
    assert rows["FD-RandomConv"].value is not None
    evaluation = record.provenance.get("evaluation") or {}
    said = " ".join(evaluation.get("departures", ()))
    assert name == "mdm_64" or f"8 of {options['protocol']['samples']:,} samples" in said
