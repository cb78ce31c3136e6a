"""Makes the classifier of critters' parts: `python -m hierdiff.metrics.make_classifier [FILE.npz]`.

Draws 40,000 creatures from seeds that are in no data set, trains one network on them and on their
block means, measures it on the 2,048 that ship, and writes weights and accuracies into the package.
It prints the sha256 that `classifier.py` has to state. FILE keeps the drawing for the next time.
The drawing takes some minutes and needs what `hierdiff.data.critters.make` needs; the training
takes about an hour on one core.

A half of the training images is disturbed, as generated images are: noise, blur, a shift of
brightness, of up to a few grey levels.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from rich.progress import track
from safetensors.torch import save
from torch import Tensor

from hierdiff.data.critters.law import LAW
from hierdiff.data.critters.make import PINS, draw
from hierdiff.files.arrays import read_npz, write_npz
from hierdiff.files.atomic import write
from hierdiff.metrics.classifier import (
    SIDES,
    PartClassifier,
    PartNetwork,
    network_input,
    stored_tensors,
    weights_path,
)
from hierdiff.metrics.reference import feature_batches, pooled
from hierdiff.metrics.weights import sha256
from hierdiff.noise import generator_of

Codes = Mapping[str, Int[Tensor, " n"]]
CHUNK = 500  # images drawn at a time


@dataclass(frozen=True)
class Training:
    """The training's settings, stored with the weights.

    shares: of a batch at each of `SIDES`. disturbed: share of disturbed images. noise: largest
    standard deviation, brightness: deviation of a channel's shift, contrast: of its factor, all on
    a scale of 0..1.
    """

    first_seed: int = 10_000
    images: int = 40_000
    passes: int = 20
    batch: int = 128
    shares: tuple[float, ...] = (0.35, 0.3, 0.25, 0.1)
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    width: int = 32
    disturbed: float = 0.5
    noise: float = 0.05
    brightness: float = 0.01
    contrast: float = 0.03
    seed: int = 0


def disturb(
    images: UInt8[Tensor, "b 3 s s"], how: Training, generator: torch.Generator
) -> UInt8[Tensor, "b 3 s s"]:
    """A share of the images with noise, blur and a shift of brightness, rounded again."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def uniform() -> Tensor:
        return torch.rand(len(images), 1, 1, 1, generator=generator)

    x, n = images / 255, len(images)
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    smooth = torch.outer(kernel, kernel).expand(3, 1, 3, 3)
    soft = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), smooth, groups=3)
    y = torch.lerp(x, soft, uniform())
    y = (y - 0.5) * (1 + how.contrast * normal(n, 1, 1, 1)) + 0.5
    y = y + how.brightness * normal(n, 3, 1, 1) + how.noise * uniform() * normal(*x.shape)
    y = torch.where(uniform() < how.disturbed, y, x)
    return (y.clamp(0, 1) * 255).round().to(torch.uint8)


def batches(
    images: UInt8[Tensor, "n 3 64 64"], how: Training, generator: torch.Generator
) -> Iterator[tuple[Float[Tensor, "b 3 64 64"], Int[Tensor, " b"]]]:
    """Network inputs and the rows that they show; every pass has its own order."""
    counts = [round(share * how.batch) for share in how.shares]
    for _ in range(how.passes):
        order = torch.randperm(len(images), generator=generator)
        for rows in order[: len(order) // how.batch * how.batch].split(how.batch):
            parts = zip(images[rows].split(counts), SIDES, strict=True)
            reduced = [disturb(pooled(part, side), how, generator) for part, side in parts]
            yield torch.cat([network_input(part) for part in reduced]), rows


def train_classifier(
    images: UInt8[Tensor, "n 3 64 64"], codes: Codes, how: Training
) -> PartNetwork:
    """Trains one network; a cross entropy for each attribute, bfloat16 under autocast."""
    sizes = list(LAW.sizes.values())
    torch.manual_seed(how.seed)
    network = PartNetwork(sum(sizes), how.width).to(memory_format=torch.channels_last)
    steps = len(images) // how.batch * how.passes
    optimizer = torch.optim.AdamW(
        network.parameters(), how.learning_rate, weight_decay=how.weight_decay
    )
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, how.learning_rate, total_steps=steps, pct_start=0.1
    )
    targets = torch.stack([codes[name] for name in LAW.sizes], dim=1)
    drawn = batches(images, how, generator_of(how.seed, "classifier"))
    for x, rows in track(drawn, "training", steps):
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(x.to(memory_format=torch.channels_last))
        heads = zip(logits.float().split(sizes, dim=1), targets[rows].unbind(1), strict=True)
        loss = sum(F.cross_entropy(head, code) for head, code in heads)
        assert isinstance(loss, Tensor)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return network.eval()


def accuracies(
    classifier: PartClassifier,
    images: UInt8[Tensor, "n 3 64 64"],
    codes: Codes,
    sides: Sequence[int] = SIDES,
) -> dict[str, dict[str, float]]:
    """Share of images with the right code, by side and attribute: 0 to 1."""
    shares = {}
    for side in sides:
        logits = list(feature_batches(classifier, pooled(images, side)))
        right = {
            name: torch.cat([part[name].argmax(1) for part in logits]).cpu() == codes[name]
            for name in classifier.sizes
        }
        shares[str(side)] = {
            name: round(float(hit.float().mean()), 6) for name, hit in right.items()
        }
    return shares


def shipped_images() -> tuple[UInt8[Tensor, "n 3 64 64"], Codes]:
    """The 2,048 images of the data set, in the order of their seeds."""
    place_of = files("hierdiff.data.critters") / "critters.npz"
    with place_of.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return _tensors(arrays)


def fresh_images(how: Training, kept: Path | None) -> tuple[UInt8[Tensor, "n 3 64 64"], Codes]:
    """Draws the training images, or reads them from the file of an earlier drawing."""
    if kept is not None and kept.exists():
        return _tensors(read_npz(kept, limit=2**40))
    seeds = range(how.first_seed, how.first_seed + how.images)
    some = [seeds[first : first + CHUNK] for first in range(0, len(seeds), CHUNK)]
    drawn = [draw(chunk) for chunk in track(some, "drawing")]
    arrays = {name: np.concatenate([codes[name] for _, codes, _ in drawn]) for name in LAW.sizes}
    arrays["pixels"] = np.concatenate([pixels for pixels, _, _ in drawn])
    if kept is not None:
        write_npz(kept, arrays)
    return _tensors(arrays)


def _tensors(arrays: Mapping[str, np.ndarray]) -> tuple[Tensor, Codes]:
    pixels = torch.from_numpy(arrays["pixels"]).permute(0, 3, 1, 2)
    return pixels, {name: torch.from_numpy(arrays[name].astype(np.int64)) for name in LAW.sizes}


def write_classifier(
    network: PartNetwork, how: Training, path: Path
) -> dict[str, dict[str, float]]:
    """Writes weights in half precision with settings and accuracies; returns the accuracies.

    Raises:
        ValueError: where weights overflow in half precision.
    """
    state = {name: tensor.half().contiguous() for name, tensor in stored_tensors(network).items()}
    if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
        raise ValueError("weights are not finite in half precision: train with a lower rate")
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)
    classifier = PartClassifier(
        network, LAW.sizes, name=LAW.name, law=LAW.hash, weights="", accuracy={}
    )
    about: dict[str, Any] = {
        "name": LAW.name,
        "law": LAW.hash,
        "sizes": LAW.sizes,
        "width": how.width,
        "accuracy": accuracies(classifier, *shipped_images()),
        "training": {**asdict(how), "sides": SIDES, "drawn_with": PINS},
    }
    write(path, save(state, {name: json.dumps(value) for name, value in about.items()}))
    return about["accuracy"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws, trains, writes and prints accuracies; arguments: the file of the drawing, if any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("drawing", nargs="?", type=Path, metavar="FILE.npz")
    chosen, how = parser.parse_args(arguments), Training()
    images, codes = fresh_images(how, chosen.drawing)
    path = weights_path(LAW.name)
    shares = write_classifier(train_classifier(images, codes, how), how, path)
    print(f"{'':<15}" + "".join(f"{side:>6} px" for side in shares))
    for name in LAW.sizes:
        print(f"{name:<15}" + "".join(f"{100 * shares[side][name]:8.2f}%" for side in shares))
    print(f"{path} ({path.stat().st_size / 1e6:.2f} MB), sha256 {sha256(path)}")


if __name__ == "__main__":
    main()
