"""Published files by commands alone: converted, and sampled from given noise.

Trajectories of the official codes are in tests/test_given.py; those here are diffusers' own, and
those that NumPy makes of the published networks by their authors' samplers (tests/reference).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file

from hierdiff.denoisers.layers import FlowClock
from hierdiff.noise import per_example, seed_of
from hierdiff.sampled import make
from hierdiff.training import load_method
from tests.baselines.latent import test_readers as latent
from tests.benchmarks import test_reproduce as tiny
from tests.interop import test_published_sampling as ours
from tests.interop.published import released, tensors_of
from tests.interop.test_published_sampling import theirs
from tests.test_sample_entry import options

pytestmark = pytest.mark.slow

Array = np.ndarray
LABELS = np.array([3, 8])
SCALED = np.cumprod(1 - np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2)  # betas of `whole`


def commanded(folder: Path, file: str, start: dict[str, Array], **more: Any) -> dict[str, Array]:
    """What `python -m hierdiff.sample given=FILE samples=float` writes, by level."""
    given = folder / "start.safetensors"
    save_arrays(start, given)
    common = {"checkpoint": file, "out": str(folder / "out"), "device": "cpu", "trust": []}
    make(options(**common, **{"given": str(given), "samples": "float", **more}))
    return {path.stem: np.load(path) for path in (folder / "out").glob("*.npy")}


def draws(first: Array) -> Iterator[Array]:
    """What the command draws after the given noise: of each image from its own seed."""
    source = per_example([seed_of(0, "sample", i) for i in range(len(first))])
    source(first.shape)  # of the start, which the file replaces
    while True:
        yield source(first.shape).double().numpy()


def adm(folder: Path, x: Array) -> tuple[str, Array, int]:
    """Ancestral steps with the learned variance."""
    words = tiny.options_of("adm_tiny")
    file = tiny.ours(released(folder, "adm_tiny"), "adm", *words)
    model = ours.Guided(ours.adm(), 1.0, None)
    states = theirs.ancestral(model, x, ours.ALPHA_SQUARED, ours.EIGHT, draws(x), clip=True)
    return file, states[-1], 8


def dit(folder: Path, x: Array) -> tuple[str, Array, int]:
    """The same in latents, guided by 1.5 in three of four channels."""
    model = ours.Guided(ours.transformer(), 1.5, 3)
    states = theirs.ancestral(model, x, ours.ALPHA_SQUARED, ours.EIGHT, draws(x))
    return tiny.transformer(folder, "dit"), states[-1], 8


def sit(folder: Path, x: Array) -> tuple[str, Array, int]:
    """Its SDE; what the network gives is image minus noise."""
    model = ours.Guided(ours.transformer(FlowClock()), 1.5, 3)

    def velocity(x: Array, time: float) -> Array:
        log_snr = 2 * (np.log(time) - np.log1p(-time)) if time > 0 else -np.inf
        return model.at(x, float(np.clip(log_snr, -30, 30)))[0]

    states = theirs.euler_maruyama(velocity, x, 8, draws(x), "sigma", 1.0, "mean")
    return tiny.transformer(folder, "sit"), states[-1], 8


def ldm(folder: Path, x: Array) -> tuple[str, Array, int]:
    """DDIM with eta 1 on the leading grid, from states of text."""
    path = folder / "model.safetensors"
    save_file(latent.whole(), path)
    file = tiny.ours(path, "ldm", "heads=1", "resolution=16", "text_length=3")
    steps = list(range(1, 1000, 100))
    kept = SCALED[steps]
    earlier = np.append(SCALED[0], kept[:-1])
    model = ours.Guided(ours.unet(), 1.0, None)
    return file, theirs.ddim(model, x, kept, earlier, steps, draws(x), eta=1.0)[-1], 10


CASES: dict[str, tuple[Callable[[Path, Array], tuple[str, Array, int]], int, int]] = {
    "adm": (adm, 3, 16),
    "dit": (dit, 4, 8),
    "sit": (sit, 4, 8),
    "ldm": (ldm, 3, 8),
}


@pytest.mark.parametrize("name", CASES)
def test_a_trajectory_of_a_published_network_is_made_by_commands(tmp_path: Path, name: str):
    """From a file in the official layout to images, within 1e-4 of the largest number."""
    make_both, channels, side = CASES[name]
    first = ours.noises((2, channels, side, side), 1)[0].numpy()
    file, state, steps = make_both(tmp_path, first)
    stage = load_method(file)[0].stages[-1]
    start = {f"noise/{stage.resolutions[0]}": first.astype(np.float32), "labels": LABELS}
    if name == "ldm":
        text = tensors_of("ldm_unet_tiny")["context"].numpy()
        mask = np.ones(text.shape[:2], np.float32)
        start = {**start, "tokens": text, "mask": mask}
        del start["labels"]
    (found,) = commanded(tmp_path, file, start, steps=steps).values()
    with torch.no_grad():
        (wanted,) = stage.codec.decode((torch.from_numpy(state).float(),)).values()
    assert np.abs(found - wanted.numpy()).max() <= 1e-4 * float(wanted.abs().max())


def test_the_trajectory_of_diffusers_is_made_by_commands(tmp_path: Path):
    """Five steps of its DDIMScheduler, from its noise."""
    weights, tensors, about = latent.reference("diffusers_unet")
    folder = tmp_path / "pipeline"
    latent.part(folder / "unet", weights, json.loads(about["config"]))
    scheduler = json.loads(about["scheduler"])
    latent.part(folder / "scheduler", {}, scheduler, "scheduler_config.json")
    start = {"noise/8": tensors["noise"].numpy()}
    found = commanded(tmp_path, tiny.ours(folder, "unet"), start, steps=5)["8"]
    assert np.abs(found - tensors["ddim5"].numpy()).max() <= 1e-4
