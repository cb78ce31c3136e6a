"""The embedding of an image: a frozen network, its leading directions, and a guess from conditions.

A stage's state is the embedding less its mean, in the directions of largest variance, over one
number that makes the mean variance 1 (unCLIP, arXiv 2204.06125, multiplies by 17.2, and reduces by
PCA for its autoregressive prior alone).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.batch import Batch, Cond
from hierdiff.codec import Codec
from hierdiff.denoisers.layers import mean_word
from hierdiff.images import to_uint8
from hierdiff.levels import Levels
from hierdiff.metrics.extractors import Extractor, extractors
from hierdiff.registry import Node
from hierdiff.resolution import Name, Named, Resolution

NAME = "image_embedding"  # of the vector in the conditions
EMBEDDED = 64  # images embedded at once
FITTED = 8192  # images that mean, directions and guess are fitted to at most
RIDGE = 1e-2  # of the guess, over the mean square of a condition


@functools.lru_cache(maxsize=4)
def _network(node: str) -> Extractor:
    with torch.device("cpu"):  # a method may be built on the meta device
        return extractors.build(json.loads(node))


def network_of(node: Node) -> Extractor:
    """The frozen network of a node, such as {name: efficientnet_lite0}; built once for all."""
    return _network(json.dumps(dict(node), sort_keys=True))


class Directions(nn.Module):
    """What is fitted to a training set: mean, directions and scale of the features, and the guess.

    Before `fit` the state is the first features as they are, and the guess is zero. features: width
    of the network's output; width: of the state; conditions: width of `described`.
    """

    mean: Tensor
    basis: Tensor
    guess: Tensor

    def __init__(self, features: int, width: int, conditions: int):
        super().__init__()
        if width > features:
            raise ValueError(
                f"an embedding of width {width} from a network of {features} features: choose "
                f"method.width up to {features}"
            )
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("basis", torch.eye(features)[:, :width].contiguous())
        self.register_buffer("guess", torch.zeros(conditions, width))

    @override
    def forward(self, features: Float[Tensor, "b f"]) -> Float[Tensor, "b d"]:
        return (features.to(self.basis) - self.mean) @ self.basis

    @torch.no_grad()
    def fit(self, features: Float[Tensor, "n f"], conditions: Float[Tensor, "n k"]) -> float:
        """Sets all three; the share of the variance that the state keeps, 0 to 1.

        The guess is the ridge regression of the state on the conditions.
        """
        features = features.double()
        mean = features.mean(0)
        values, vectors = torch.linalg.eigh((features - mean).T @ (features - mean) / len(features))
        width = self.basis.shape[1]
        leading, basis = values[-width:].flip(0), vectors[:, -width:].flip(1)
        signs = basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()
        basis = basis * signs / leading.mean().clamp(min=1e-12).sqrt()
        self.mean.copy_(mean)
        self.basis.copy_(basis)
        if conditions.shape[1]:
            x = conditions.double()
            square = x.T @ x / len(x)
            square.diagonal().add_(RIDGE * float(square.diagonal().mean()) + 1e-12)
            target = x.T @ ((features - mean) @ basis) / len(x)
            self.guess.copy_(torch.linalg.solve(square, target))
        return float(leading.sum() / values.sum())


class EmbeddingCodec(Codec):
    """The embedding as the state of a stage; `decode` gives no image.

    resolution: that the images are described as having. node: of the network. conditions: width of
    `described`.
    """

    makes_images = False

    def __init__(self, node: Node, width: int, conditions: int, resolution: Resolution):
        self.node, self.width = node, width
        self.resolutions = (Named("embedding", resolution),)
        self.directions = Directions(network_of(node).width, width, conditions)

    @property
    @override
    def identity(self) -> str:
        return f"{super().identity} of {network_of(self.node).identity}"

    def features(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """What the network gives for images in [-1, 1], without gradient, on their device."""
        network = network_of(self.node)
        if images.is_meta:  # where work is counted: extractors cannot run on shapes alone
            return images.new_empty(len(images), network.width)
        if next(network.parameters(), images).device != images.device:
            network.to(images.device)
        with torch.no_grad():
            return network(to_uint8(images))

    @override
    def encode(self, images: Float[Tensor, "b c *sides"]) -> Levels:
        return (self.directions(self.features(images)),)

    @override
    def decode(self, levels: Levels) -> dict[Name, Tensor]:
        return {}

    @override
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.width,),)

    @override
    def names(self) -> tuple[str, ...]:
        return (str(self.resolutions[0]),)

    @override
    def tail(self, n: int) -> Codec:
        if n != 1:
            raise ValueError(f"an embedding is one level, not {n}")
        return self


def described(cond: Cond, text_width: int, classes: int, n: int) -> Float[Tensor, "b k"]:
    """The conditions as one vector: the mean word and the class as 0 and 1; zeros for "none"."""
    parts = []
    if text_width:
        assert cond.tokens is not None and cond.mask is not None
        parts.append(mean_word(cond.tokens, cond.mask).float())
    if classes:
        assert cond.labels is not None
        parts.append(F.one_hot(cond.labels + 1, classes + 1)[:, 1:].float())
    return torch.cat(parts, 1) if parts else torch.zeros(n, 0)


@dataclass(frozen=True)
class EmbeddedData:
    """Images with their embeddings as the vector `image_embedding`, computed once.

    views: n d, of the images as they are and, where the data may be mirrored, mirrored.
    """

    data: Any
    views: tuple[Float[Tensor, "n d"], ...]

    @property
    def flip(self) -> bool:
        """Whether there are embeddings of mirrored images."""
        return len(self.views) > 1

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, index: Int[Tensor, " b"], flip: Bool[Tensor, " b"] | None = None) -> Batch:
        """As `ImageData.batch`, without crops."""
        vectors = self.views[0][index]
        if flip is not None:
            vectors = torch.where(flip[:, None], self.views[1][index], vectors)
        return with_embedding(self.data.batch(index, flip), vectors)


def with_embedding(batch: Batch, vectors: Float[Tensor, "b d"]) -> Batch:
    """The batch with the embeddings of its images."""
    cond = replace(batch.cond, vectors={**batch.cond.vectors, NAME: vectors})
    return replace(batch, cond=cond)


def batches(data: Any, mirrored: bool = False, most: int | None = None) -> Iterator[Batch]:
    """All examples in order, or `most` of them evenly spread."""
    n = len(data)
    rows = torch.arange(n) if most is None or n <= most else torch.arange(most) * n // most
    for some in rows.split(EMBEDDED):
        yield data.batch(some, torch.full((len(some),), True) if mirrored else None)
