"""A `latent` method out of published parts: an autoencoder, and a network in its latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.latent.autoencoder import Autoencoder, autoencoders
from baselines.latent.codec import By, LatentStatistics
from hierdiff.config import folder_of_configs, from_yaml
from hierdiff.denoisers import denoisers
from hierdiff.interop.published import Published, Shapes, part_of, shapes_of, within
from hierdiff.registry import Node
from hierdiff.training.format import unpacked
from hierdiff.training.load import config_in
from hierdiff.trust import check_trust

AUTOENCODER, DENOISER = "stages.0.autoencoder", "stages.1.denoiser"
STATISTICS = "stages.1.statistics"
PIXELS = "stages.0.denoiser"  # of a method that diffuses images
MEASURED = ("channel", "tensor", "first_batch")  # statistics that need images
UNTRAINED = {"name": "unet", "width": 8, "multiples": [1], "blocks": 1, "attention": 0, "groups": 4}


@dataclass(frozen=True)
class FirstStage:
    """A published autoencoder.

    node: of the autoencoder. weights: under our names. statistics: of its latents as published, a
    scale or "none"; "channel" where nothing is said of them.
    """

    node: Node
    weights: Mapping[str, Tensor]
    statistics: By = "channel"

    @property
    def network(self) -> Autoencoder:
        """The autoencoder with its weights, which are not copied.

        Raises:
            ValueError: where its tensors have other names or shapes.
        """
        with torch.device("meta"):
            network = autoencoders.build(self.node)
        own = shapes_of(network.state_dict())
        given = shapes_of(self.weights)
        for name in sorted(own.keys() | given.keys()):
            if own.get(name) != given.get(name):
                raise ValueError(
                    f"the file has {given.get(name, 'nothing')} for {name} of the autoencoder (a "
                    f"name of ours), which has {own.get(name, 'nothing')}: it is not whole, or of "
                    f"another layout"
                )
        network.load_state_dict(dict(self.weights), assign=True)
        return network

    def codec(self, statistics: By) -> dict[str, Any]:
        """Its node as the codec of a method."""
        node = {"name": "autoencoder", "autoencoder": dict(self.node), "statistics": statistics}
        node["perceptual"] = {"name": "lpips"}  # what all of them were trained with
        if self.node.get("regulariser", {}).get("name") == "vq":
            node["loss"] = {"reduction": "mean", "learnt_variance": False}
        return node


@dataclass(frozen=True)
class Network:
    """A published network that denoises states: latents, or images where there is no autoencoder.

    node: of the denoiser. weights: under our names. channels: of the state. schedule, process,
    prediction, sampling: of the release, as options of a method. scale: by which the release
    multiplies latents, "none" for none. classes, text_width, text_length: of what it reads. text:
    node of its text encoder. objective: further options of the loss.
    """

    node: Node
    weights: Mapping[str, Tensor]
    channels: int
    schedule: Node
    sampling: Node
    prediction: str = "eps"
    process: str = "variance_preserving"
    scale: By = "none"
    classes: int = 0
    text_width: int = 0
    text_length: int = 0
    text: Node | None = None
    objective: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def method(self, name: str, side: int) -> dict[str, Any]:
        """Options of a method, whose images have this side."""
        return {
            "name": name,
            "resolutions": [side],
            "denoiser": dict(self.node),
            "schedule": dict(self.schedule),
            "process": self.process,
            "objective": {
                "parameterization": {"prediction": self.prediction},
                "loss_space": self.prediction,
                **self.objective,
            },
            "sampling": dict(self.sampling),
        }

    def facts(self, channels: int) -> dict[str, int]:
        """Of the data, with the channels of its images."""
        return {
            "channels": channels,
            "classes": self.classes,
            "text_width": self.text_width,
            "text_length": self.text_length if self.text_width else 0,
        }


def channels_of(shapes: Shapes, variance: bool = False) -> int:
    """Channels of the state that a U-Net of latent diffusion denoises; variance: it may give one.

    Raises:
        ValueError: for one that completes or enlarges images.
    """
    channels, reads = shapes["out.2.weight"][0], shapes["input_blocks.0.0.weight"][1]
    if channels != reads and not (variance and channels == 2 * reads):
        raise ValueError(
            f"the U-Net takes {reads} channels and gives {channels}: it completes or enlarges "
            f"images, which are not among the conditions of the networks that are read"
        )
    return reads


def sampler(name: str, **changed: Any) -> dict[str, Any]:
    """The options of a file in `hierdiff/configs/sampler/`, some of them changed."""
    return {**from_yaml(Path(folder_of_configs()) / "sampler" / f"{name}.yaml"), **changed}


def alone(first: FirstStage, side: int) -> Published:
    """An autoencoder, for `method.codec.checkpoint=`: beside it a small untrained network.

    side: of its training images.
    """
    channels = first.node.get("channels", 3)
    network = first.network
    meta = next(network.parameters()).is_meta
    with torch.random.fork_rng([]), torch.device("meta" if meta else "cpu"):
        torch.manual_seed(0)
        latents = {"channels": network.latent_channels}
        untrained = denoisers.build(UNTRAINED, offered=latents).state_dict()
    return Published(
        method={
            "name": "latent",
            "resolutions": [side],
            "codec": first.codec(first.statistics),
            "denoiser": UNTRAINED,
            "share": 0,
        },
        facts={"channels": channels, "classes": 0, "text_width": 0, "text_length": 0},
        weights=_stage(first)
        | within(DENOISER, untrained)
        | _statistics(network, first.statistics),
    )


def together(first: FirstStage, network: Network, side: int, scale: By | None = None) -> Published:
    """A latent method. side: of the latents. scale: by which latents are multiplied, None for what
    the autoencoder's file says, else the release of the network.

    Raises:
        ValueError: where the latents have other channels than the network reads.
    """
    autoencoder = first.network
    if autoencoder.latent_channels != network.channels:
        raise ValueError(
            f"the network denoises {network.channels} channels, and the latents of the autoencoder "
            f"have {autoencoder.latent_channels}: give the one that it was trained with"
        )
    stated = None if first.statistics in MEASURED else first.statistics
    statistics = scale or stated or network.scale
    method = network.method("latent", side * autoencoder.factor)
    return Published(
        method=method | {"codec": first.codec(statistics)},
        facts=network.facts(first.node.get("channels", 3)),
        weights=_stage(first)
        | within(DENOISER, network.weights)
        | _statistics(autoencoder, statistics),
        text=network.text,
        notes=network.notes,
    )


def of_images(network: Network, side: int) -> Published:
    """A method of the images themselves; side: of these."""
    return Published(
        method=network.method("end_to_end", side),
        facts=network.facts(network.channels),
        weights=within(PIXELS, network.weights),
        text=network.text,
        notes=network.notes,
    )


def ours(path: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and config in a file of ours.

    Raises:
        ValueError: where it has no config of a method.
        FileNotFoundError: where there is no file.
        PermissionError: where it names code to import.
    """
    tensors, facts = unpacked(Path(path))
    config = config_in(facts, Path(path))
    check_trust(config, (), Path(path))
    return tensors, config


def first_stage_in(path: str | None, network: str) -> FirstStage:
    """The autoencoder in a file of ours; network: the reader that needs it, for errors.

    Raises:
        ValueError: where none is given, or the file has none.
        FileNotFoundError: where there is no file.
        PermissionError: where it names code to import.
    """
    if path is None:
        raise ValueError(
            f"a {network} network denoises the latents of an autoencoder, which is another file: "
            f"convert that first, then give what came out as autoencoder=FILE"
        )
    tensors, config = ours(path)
    weights = part_of(AUTOENCODER, tensors)
    codec = config["method"].get("codec")
    if not weights or not isinstance(codec, Mapping):
        raise ValueError(
            f"autoencoder={path} holds no autoencoder: give the weights of a latent run, or what "
            f"hierdiff.convert made of a published one"
        )
    node = {"channels": config["facts"].get("channels", 3), **codec["autoencoder"]}
    return FirstStage(node, weights, codec.get("statistics", "channel"))


def _stage(first: FirstStage) -> dict[str, Tensor]:
    flags = {"imagenet": torch.tensor(True), "log_variance.value": torch.zeros(())}
    return within(AUTOENCODER, first.weights) | within("stages.0", flags)


def _statistics(network: Autoencoder, by: By) -> dict[str, Tensor]:
    """Of latents, with the mark of the autoencoder; without where images are needed for them."""
    statistics = LatentStatistics(network.latent_channels, by)
    if by not in MEASURED:
        statistics.set(1.0 if isinstance(by, str) else 1 / by, network)
    return within(STATISTICS, statistics.state_dict())
