"""unCLIP: the stages and the method (Ramesh et al., arXiv 2204.06125)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from baselines.cascaded import (
    build_stage,
    check_options,
    common_options,
    merged,
    parts_of,
)
from baselines.unclip.embedding import (
    FITTED,
    NAME,
    EmbeddedData,
    EmbeddingCodec,
    batches,
    described,
    network_of,
    with_embedding,
)
from baselines.unclip.networks import Prior, priors
from hierdiff.batch import Batch, Cond
from hierdiff.codec import Pyramid
from hierdiff.denoisers import Denoiser
from hierdiff.denoisers.protocol import Prediction, Wrapper, build_denoiser
from hierdiff.guidance import Denoise
from hierdiff.levels import Levels
from hierdiff.methods import Diffusion, Method, Request, Sampling, Stage, methods
from hierdiff.methods.bridge import Bridge, Handover
from hierdiff.methods.bridged import Bridged
from hierdiff.methods.diffusion import diffusion
from hierdiff.methods.generator import Part
from hierdiff.methods.stage import Images
from hierdiff.objective import Objective
from hierdiff.options import Count, Natural, Share
from hierdiff.registry import Later, Node
from hierdiff.resolution import Resolutions, Sides, check_resolutions
from hierdiff.schedules import Schedule

log = logging.getLogger(__name__)
OWN = ("unclip's prior or decoder", ("bridge", "crop", "denoiser"))
TEXT = 64  # width of the decoder's extra tokens where the data has no text


class EmbeddingPrior(Diffusion):
    """Diffusion of an embedding given text and class.

    candidates: embeddings drawn for an image, of which the one with the largest dot product with
    the guess from the conditions is taken (section 2.2 draws two, and multiplies by the embedding
    of the text).
    """

    codec: EmbeddingCodec

    def __init__(self, *, candidates: int, **parts: Any):
        super().__init__(**parts)
        self.name, self.candidates = "prior", candidates
        self.directions = self.codec.directions  # of its state
        self._embedded: tuple[Any, Any] | None = None  # data, and the same with embeddings

    @torch.no_grad()
    @override
    def start(self, previous: Stage | None, data: Any) -> Any:
        """Fits the directions to the training images, and embeds all of them once.

        Those of weights and of a teacher stay as they are: their networks know no others.
        """
        self._embedded = None
        if self.weights is not None or self.objective.needs_teacher:
            return self.embedded(super().start(previous, data))
        features, conditions = [], []
        for batch in batches(data, most=FITTED):
            features.append(self.codec.features(batch.images.to(self.device)).cpu())
            conditions.append(self._described(batch.cond, len(batch)))
        every = torch.cat(features)
        kept = self.directions.fit(every, torch.cat(conditions))
        log.info("stage prior  embeddings keep %.1f %% of the variance of features", 100 * kept)
        whole = every if len(every) == len(data) else None
        return self.embedded(super().start(previous, data), whole)

    @torch.no_grad()
    def embedded(self, data: Any, features: Float[Tensor, "n f"] | None = None) -> Any:
        """The data with embeddings; where images are cropped anew each time, the data itself.

        features: of all images as they are, where they are known.
        """
        if getattr(data, "crops", False):
            return data
        if self._embedded is None or self._embedded[0] is not data:
            known = None if features is None else self.directions(features.to(self.device)).cpu()
            views = [self._encoded(data, False) if known is None else known]
            if getattr(data, "flip", False):
                views.append(self._encoded(data, True))
            self._embedded = (data, EmbeddedData(data, tuple(views)))
        return self._embedded[1]

    def _encoded(self, data: Any, mirrored: bool) -> Tensor:
        found = (self.encode(batch.images.to(self.device)) for batch in batches(data, mirrored))
        return torch.cat([z.cpu() for (z,) in found])

    @override
    def prepare_batch(self, batch: Batch) -> Batch:
        return with_embedding(batch, self.encode(batch.images)[0])

    @property
    @override
    def encoder(self) -> nn.Module:
        return network_of(self.codec.node)

    @torch.no_grad()
    @override
    def state(self, batch: Batch) -> Levels:
        known = batch.cond.vectors.get(NAME)
        return self.encode(batch.images) if known is None else (known,)

    @override
    def inputs(self, batch: Batch, draws: Any) -> tuple[Levels, Cond, Any]:
        vectors = {name: v for name, v in batch.cond.vectors.items() if name != NAME}
        return self.state(batch), replace(batch.cond, vectors=vectors), draws

    @override
    def finish(
        self, request: Request, opening: Handover, stop: float = 0.0
    ) -> tuple[Levels, Images]:
        """The best of `candidates` states; only the first is watched."""
        (best,), images = super().finish(request, opening, stop)
        guess = self._described(opening.cond, request.n).to(best) @ self.directions.guess.to(best)
        for _ in range(self.candidates - 1):
            (other,), _ = super().finish(replace(request, watch=None), opening, stop)
            better = ((other - best) * guess).sum(1, keepdim=True) > 0
            best = torch.where(better, other, best)
        return (best,), images

    @override
    def parts(self, stop: float = 0.0) -> tuple[Part, ...]:
        return tuple(
            part._replace(calls=part.calls * self.candidates) for part in super().parts(stop)
        )

    def _described(self, cond: Cond, n: int) -> Float[Tensor, "b k"]:
        return described(cond, self.facts["text_width"], self.facts["classes"], n)


@dataclass(frozen=True)
class Embedded(Bridge):
    """The embedding becomes a condition."""

    gives = frozenset({NAME})

    @override
    def __call__(self, x: Levels, here: float, crossing: Any, cond: Cond) -> Handover:
        return Handover(replace(cond, vectors={**cond.vectors, NAME: x[0]}))


class ExtraTokens(Wrapper):
    """A network whose text is followed by tokens made of the embedding (section 2.1: four).

    tokens: how many; width: of the embedding; text_width: of the data, 0 for none, where these
    tokens are all that the network reads.
    """

    def __init__(self, network: Denoiser, tokens: int, width: int, text_width: int):
        super().__init__(network)
        reads = network.reads
        if reads is None or not reads.text_width:
            raise ValueError(
                f"{type(network).__name__} reads no text, and the embedding is to enter as "
                f"{tokens} tokens of it: leave out text_width, or set method.tokens=0"
            )
        self.reads = replace(reads, text_width=text_width, vectors={**reads.vectors, NAME: width})
        self.count, self.text_width = tokens, text_width
        self.tokens = nn.Linear(width, tokens * reads.text_width)
        self.channels, self.rank, self.multiple = network.channels, network.rank, network.multiple

    @override
    def prepare(self, cond: Cond) -> Cond:
        extra = self.tokens(cond.vectors[NAME]).unflatten(1, (self.count, -1))
        mask = torch.ones(extra.shape[:2], dtype=torch.bool, device=extra.device)
        if cond.tokens is not None and cond.mask is not None and self.text_width:
            extra = torch.cat([cond.tokens.to(extra), extra], 1)
            mask = torch.cat([cond.mask, mask], 1)
        return self.denoiser.prepare(replace(cond, tokens=extra, mask=mask))

    @override
    def forward(
        self,
        x_t: Levels,
        log_snr: Float[Tensor, "b levels"],
        cond: Cond,
        carry: Any = None,
        added: Tensor | None = None,
    ) -> Prediction:
        return self.denoiser(x_t, log_snr, cond, carry)


class Decoder(Bridged):
    """Diffusion of an image given the embedding, the class and perhaps the caption.

    Guidance drops all of them. In a model without class and text it is off, as everywhere.
    """

    def __init__(self, *, sampling: Sampling, facts: Mapping[str, int], **parts: Any):
        self.guides = bool(facts["classes"] or facts["text_width"])
        sampling = sampling if self.guides else replace(sampling, guidance=1.0)
        super().__init__(sampling=sampling, facts=facts, **parts)
        self.name = "decoder"

    @property
    @override
    def identity(self) -> str:
        return f"{super().identity}, {self.previous.identity}"

    @override
    def start(self, previous: Stage | None, data: Any) -> Any:
        return cast(EmbeddingPrior, self.previous).embedded(super().start(previous, data))

    @override
    def prepare_batch(self, batch: Batch) -> Batch:
        return self.previous.prepare_batch(batch)

    @property
    @override
    def encoder(self) -> nn.Module | None:
        return self.previous.encoder

    @override
    def denoise_for(self, request: Request, cond: Cond) -> Denoise:
        plain = request if self.guides else replace(request, guidance=1.0)
        return super().denoise_for(plain, cond)


@methods.register("unclip")
class Unclip(Method):
    """A prior of the embedding, a decoder at the coarsest resolution, and upsamplers.

    resolutions: finest first. prior: the prior's network, {name: transformer | mlp, ...}.
    denoiser: of the decoder; upsampler: of each further stage, None for `denoiser`. embedding: the
    frozen network, {name: clip, weights: FOLDER}, or one that ships. width: of the embedding.
    candidates: embeddings drawn for an image. tokens: extra ones for the decoder, 0 for none.
    embedding_drop, text_drop: rates of the decoder; text_drop is that of the class too. The prior
    drops by `objective.drop`. stages: what differs, prior first, as in `Cascaded`. bridge: of the
    upsamplers. channels, classes, text_width, text_length: of the data.
    """

    def __init__(
        self,
        *,
        resolutions: Resolutions,
        denoiser: Later[Denoiser],
        upsampler: Later[Denoiser] | None = None,
        prior: Later[Prior] | None = None,
        embedding: Node | None = None,
        width: Count = 64,
        candidates: Count = 2,
        tokens: Natural = 4,
        embedding_drop: Share = 0.1,
        text_drop: Share = 0.5,
        stages: Sequence[Mapping[str, Any]] | None = None,
        bridge: Later[Bridge] | None = None,
        schedule: Later[Schedule] | None = None,
        reference: Count | Sides | None = None,
        process: str = "variance_preserving",
        objective: Later[Objective] | None = None,
        sampling: Later[Sampling] | None = None,
        batch_size: Count | None = None,
        channels: Count = 3,
        classes: Natural = 0,
        text_width: Natural = 0,
        text_length: Natural = 0,
    ):
        sides = check_resolutions(resolutions)[::-1]
        own = list(stages or [{}] * (len(sides) + 1))
        if len(own) != len(sides) + 1:
            raise ValueError(
                f"{len(own)} stages of unclip with {len(sides)} resolutions: give one for the "
                f"prior, then one for each resolution, coarsest first"
            )
        for place, options in enumerate(own):
            check_options(options, place)
        facts = {"channels": channels, "classes": classes}
        facts |= {"text_width": text_width, "text_length": text_length}
        common = common_options(schedule, reference, process, objective, sampling, batch_size)
        node = dict(embedding or {"name": "efficientnet_lite0"})
        codec = EmbeddingCodec(node, width, text_width + classes, sides[-1])
        first = _prior(prior or {"name": "transformer"}, codec, merged(common, own[0]), facts)
        first.candidates = candidates
        first.notes = (
            *first.notes,
            f"embedding: {width} directions of {network_of(node).base_identity.maker}, whose "
            f"operations are not counted; it flatters distances that use the same network",
        )
        drops = {NAME: embedding_drop}
        drops |= {"caption": text_drop} if text_width else {}
        drops |= {"label": text_drop} if classes else {}
        network = _decoder_network(denoiser, tokens, width, sides[0], facts)
        second = merged(merged(common, {"objective": {"drop": drops}}), own[1])
        built: list[Diffusion] = [first, _decoder(network, sides[0], second, facts, first)]
        for side, options in zip(sides[1:], own[2:], strict=True):
            shared: dict[str, Any] = {**common, "denoiser": upsampler or denoiser}
            shared["bridge"] = bridge or {"name": "augmented"}
            shared = merged(shared, {"objective": {"drop": 0.0}} if _unread(shared) else {})
            built.append(build_stage(side, merged(shared, options), facts, built[-1]))
        super().__init__(sides[::-1], built)


def _unread(options: Node) -> bool:
    """Whether the objective's drop names conditions."""
    objective = options["objective"]
    return isinstance(objective, Mapping) and isinstance(objective.get("drop"), Mapping)


def _prior(
    node: Later[Prior], codec: EmbeddingCodec, options: Node, facts: Mapping[str, int]
) -> EmbeddingPrior:
    clean = {"parameterization": {"prediction": "x0"}, "loss_space": "x0"}
    changed = {"objective": clean, "sampling": {"threshold": {"name": "none"}}}
    options = merged(options, changed)
    parts = parts_of(options, None, *OWN)
    network = priors.build(node, offered={**facts, "channels": codec.width})
    stage: Callable[..., EmbeddingPrior] = EmbeddingPrior
    return cast(
        EmbeddingPrior,
        diffusion(
            codec=codec,
            denoiser=network,
            facts=facts,
            stage=stage,
            candidates=1,
            **parts,
        ),
    )


def _decoder_network(
    node: Later[Denoiser], tokens: int, width: int, side: Any, facts: Mapping[str, int]
) -> Denoiser:
    pyramid = Pyramid([side], facts["channels"])
    _, *sides = pyramid.shapes()[0]
    text_width = facts["text_width"] or (TEXT if tokens else 0)
    offered = {**facts, "sides": tuple(sides), "text_width": text_width, "vectors": {NAME: width}}
    network = build_denoiser(node, offered)
    if not tokens:
        return network
    return ExtraTokens(network, tokens, width, facts["text_width"])


def _decoder(
    network: Denoiser,
    side: Any,
    options: Node,
    facts: Mapping[str, int],
    previous: EmbeddingPrior,
) -> Diffusion:
    parts = parts_of(options, side, *OWN)
    return diffusion(
        codec=Pyramid([side], facts["channels"]),
        denoiser=network,
        facts=facts,
        stage=Decoder,
        bridge=Embedded(),
        previous=previous,
        **parts,
    )
