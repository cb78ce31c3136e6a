"""The `Denoiser` protocol that every network follows, and the one-level classes to subclass.

A denoiser whose constructor names `low_channels` can be an upsampler: it reads `cond.low`, a
low-resolution image resized to the network's own side, beside the noisy image, and embeds its
log-SNR, `cond.scalars["augmentation"]` (clean if missing), like that of the noisy image.

A nestable denoiser also takes `added` (enters after its first convolution or patch embedding) and
gives `features` (leave before its head), both with `nest_width` channels at its own side. Nested
networks are called, and their parts are never used. All built-in networks are nestable; a one-level
network that is not is wrapped in `Joined`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from typing_extensions import override

from hierdiff.batch import CAPTION, LABEL, LOW, Cond
from hierdiff.denoisers.layers import Clock, LogSNRClock
from hierdiff.levels import Levels
from hierdiff.registry import Later, Node, Registry

CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}  # by number of sides
LOG_SNR_LIMIT = 30.0  # networks receive log-SNRs within +-30


class Prediction(NamedTuple):
    """One prediction for each level, in the shapes of the state.

    carry: a tree of batch-first tensors for the next step of a sampler. variance: learned
    interpolation in [-1, 1] for each level. losses: {name: (b,)}, added to the objective.
    features: for an outer network, b nest_width *sides. edges: logits of guesses where the clean
    image has edges, each at its own sides. logs: numbers for the training log.
    """

    levels: Levels
    carry: Any = None
    variance: Levels | None = None
    losses: dict[str, Tensor] | None = None
    features: Tensor | None = None
    edges: tuple[Float[Tensor, "b 1 h w"], ...] = ()
    logs: Mapping[str, Float[Tensor, ""]] | None = None


class Routes(NamedTuple):
    """The experts that one call chooses, in each block that has some; 0 where there is only one.

    time, words: of the noise level and of each word, None where words choose none. seen: True at
    words. painted: for each block the share of the words that each expert paints at each place.
    """

    time: Int[Tensor, "b blocks"]
    words: Int[Tensor, "b blocks l"] | None = None
    seen: Bool[Tensor, "b l"] | None = None
    painted: tuple[Float[Tensor, "b k i j"], ...] = ()

    def of(self, rows: Tensor) -> Routes:
        """Those of some rows, on the CPU."""
        return pytree.tree_map_only(Tensor, lambda part: part[rows].cpu(), self)


class PredictionError(ValueError):
    """A network's result is not a prediction of its input."""


@dataclass(frozen=True)
class Reads:
    """The conditions that a network reads.

    classes: number of classes, text_width: width of tokens, low_channels: channels of the
    low-resolution image, each 0 for none. scalars: names. vectors: {name: width}.

    Raises:
        ValueError: where a scalar and a vector have the same name.
    """

    classes: int = 0
    text_width: int = 0
    low_channels: int = 0
    scalars: frozenset[str] = frozenset()
    vectors: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if both := sorted(self.scalars & set(self.vectors)):
            raise ValueError(
                f"{both[0]!r} is the name of a scalar and of a vector: rename one, a condition is "
                f"known by its name"
            )

    @property
    def names(self) -> frozenset[str]:
        """Names of the conditions, as in `Cond.names`."""
        sizes = {LABEL: self.classes, CAPTION: self.text_width, LOW: self.low_channels}
        own = {name for name, size in sizes.items() if size}
        return frozenset(own | self.scalars | set(self.vectors))

    def __or__(self, other: Reads) -> Reads:
        """The conditions that two networks of one method read together.

        Raises:
            ValueError: where they read a vector of one name at two widths.
        """
        for name in self.vectors.keys() & other.vectors.keys():
            if self.vectors[name] != other.vectors[name]:
                raise ValueError(
                    f"the vector {name!r} is read at a width of {self.vectors[name]} and of "
                    f"{other.vectors[name]}: give all networks that of the data"
                )
        return Reads(
            max(self.classes, other.classes),
            max(self.text_width, other.text_width),
            max(self.low_channels, other.low_channels),
            self.scalars | other.scalars,
            {**self.vectors, **other.vectors},
        )

    def check(self, facts: Mapping[str, Any]) -> None:
        """Checks that data and method have the conditions that are read.

        facts: classes and text_width of the data, low_channels of the method.

        Raises:
            ValueError: where one differs, or a low-resolution image is not read.
        """
        for name in ("classes", "text_width", "low_channels"):
            own, fact = getattr(self, name), facts.get(name, 0)
            if own and own != fact:
                raise ValueError(
                    f"the denoiser is made for {name}={own}, and is given {fact}: leave `{name}` "
                    f"out, it is a fact of the data or of the method"
                )
        if facts.get("low_channels", 0) and not self.low_channels:
            raise ValueError(
                "the denoiser of an upsampler has low_channels=0 and so does not see the "
                "low-resolution image: leave `low_channels` out"
            )


class Denoiser(nn.Module, ABC):
    """A network over `levels` levels, finest first."""

    levels: int = 1
    nest_width: int | None = None  # channels of `added` and `features`; None: not nestable
    time_width: int | None = None  # of `Cond.embedding`, which the networks of a nest share
    notes: tuple[str, ...] = ()  # what a reader of its row in a table must know
    weights: str | None = None  # file that it starts from; the trainer reads it
    fresh: tuple[str, ...] = ()  # in the names of tensors that such a file may lack
    carries: bool = False  # whether a call reads the last `Prediction.carry`; None starts at zero
    learns_variance: bool = False  # whether it returns `Prediction.variance`
    experts: Mapping[str, int] = {}  # how many its time ("time") and a word ("words") choose from
    guesses_edges: bool = False  # whether it returns `Prediction.edges` in training
    channels: int | None = None  # of the state; None: any
    rank: int | tuple[int, ...] | None = None  # sides of the state: 2 for h w, 3 for f h w, or some
    # of these; None: any
    multiple: int = 1  # must divide every side of an image, and of the frames of a clip
    reads: Reads | None = None  # None: not declared, and it receives all conditions
    clocks: tuple[Clock | None, ...] = ()  # of its levels; None for a level without one

    def check(self, shapes: Sequence[Sequence[int]]) -> None:
        """Checks, before compute, that states of these shapes fit.

        shapes: channels and sides of each level, finest first; a nested network passes those of the
        coarser levels on to its inner one.

        Raises:
            ValueError: where channels, number of sides or sides do not fit.
        """
        channels, *sides = shapes[0]
        if self.channels is not None and self.channels != channels:
            raise ValueError(
                f"{type(self).__name__} is made for {self.channels} channels and the state has "
                f"{channels}: leave `channels` out, it is a fact of the data or of the codec"
            )
        ranks = (self.rank,) if isinstance(self.rank, int) else self.rank
        if ranks is not None and len(sides) not in ranks:
            raise ValueError(
                f"{type(self).__name__} takes states of {' or '.join(map(str, ranks))} sides and "
                f"this one has "
                f"{len(sides)}, {tuple(sides)}: choose a network of {len(sides)} dimensions"
            )
        self.check_sides(sides)

    def check_sides(self, sides: Sequence[int]) -> None:
        """Checks that the network can divide the sides of a state.

        Raises:
            ValueError: where they are not multiples of `multiple`.
        """
        if any(side % self.multiple for side in sides[-2:]):
            raise ValueError(
                f"sides {tuple(sides)} are not multiples of {self.multiple}, what "
                f"{type(self).__name__} divides them by: choose another resolution, or a network "
                f"that divides less (patch, multiples)"
            )

    @abstractmethod
    def forward(
        self,
        x_t: Levels,
        log_snr: Float[Tensor, "b levels"],
        cond: Cond,
        carry: Any = None,
        added: Tensor | None = None,
    ) -> Prediction:
        """The prediction for noisy levels.

        x_t: scaled noisy levels, finest first. log_snr: of each level, within +-30. cond: the
        result of `prepare`. carry: that of the previous call, None at the first. added: features of
        an outer network, b nest_width *sides.
        """

    def prepare(self, cond: Cond) -> Cond:
        """Conditions with all that is computed once for a trajectory; `forward` receives them."""
        return cond

    @property
    def units(self) -> tuple[nn.Module, ...]:
        """Its blocks, in the order of their calls: what is sharded, and recomputed, one by one.

        Those of inner networks are among them. Each is called as a module. Empty: the network is
        one piece.
        """
        return ()

    @property
    def early(self) -> tuple[nn.Module, ...]:
        """Modules inside of units that `prepare` calls, before the units are called."""
        return ()

    def routes(self, x_t: Levels, log_snr: Float[Tensor, "b levels"], cond: Cond) -> Routes:
        """The experts that a call with these arguments chooses, of a network that has some."""
        raise NotImplementedError(f"{type(self).__name__} has no experts")

    @property
    def idle(self) -> int:
        """Parameters of its own that one call for one image does not use, such as those of experts
        that were not chosen; those of inner networks are not among them."""
        return 0

    def tail(self, n: int) -> Denoiser:
        """The network of the n coarsest levels: the same object, not a copy.

        Raises:
            ValueError: where it has none for n levels.
        """
        if n != self.levels:
            raise ValueError(f"{type(self).__name__} has {self.levels} level(s), not {n}")
        return self


class OneLevelDenoiser(Denoiser):
    """The class that nearly every drop-in network subclasses: write `denoise`.

    A network for one number of sides, 2 for h w or 3 for f h w, sets `rank`.
    """

    @abstractmethod
    def denoise(
        self, x: Float[Tensor, "b c *sides"], log_snr: Float[Tensor, " b"], cond: Cond
    ) -> Float[Tensor, "b c *sides"]:
        """The prediction for a noisy image x, in its shape; log_snr is within +-30."""

    @override
    def forward(
        self,
        x_t: Levels,
        log_snr: Float[Tensor, "b levels"],
        cond: Cond,
        carry: Any = None,
        added: Tensor | None = None,
    ) -> Prediction:
        return Prediction((self.denoise(single_level(self, x_t), log_snr[:, 0], cond),))


class Backbone(Denoiser):
    """A one-level network that is nested by its width: write `outputs`.

    `added` and `features` have `nest_width` channels at the image's own side. A network whose
    tokens are patches splits the width of a token over the pixels of its patch (`split_width`),
    without loss. If `learns_variance`, as many channels for the variance follow the prediction.
    """

    @abstractmethod
    def outputs(
        self,
        x: Float[Tensor, "b c *sides"],
        log_snr: Float[Tensor, " b"],
        cond: Cond,
        added: Float[Tensor, "b n *sides"] | None,
    ) -> tuple[Float[Tensor, "b k *sides"], Float[Tensor, "b n *sides"] | None]:
        """The prediction, and the last features before the head.

        x: noisy image, log_snr: within +-30, cond: prepared. added: features of an outer network,
        to be added to the first ones; without it the features may be None.
        """

    @override
    def forward(
        self,
        x_t: Levels,
        log_snr: Float[Tensor, "b levels"],
        cond: Cond,
        carry: Any = None,
        added: Tensor | None = None,
    ) -> Prediction:
        x = single_level(self, x_t)
        self.check_sides(x.shape[2:])
        out, features = self.outputs(x, log_snr[:, 0], cond, added)
        if not self.learns_variance:
            return Prediction((out,), features=features)
        level, variance = out.chunk(2, dim=1)
        return Prediction((level,), variance=(variance,), features=features)


def single_level(denoiser: Denoiser, x_t: Levels) -> Tensor:
    """The level of a state that has only one.

    Raises:
        ValueError: where it has more, naming the class of `denoiser`.
    """
    if len(x_t) != 1:
        raise ValueError(
            f"{type(denoiser).__name__} denoises one level, got {len(x_t)}: "
            f"nest it as the `inner` of a nested_unet"
        )
    return x_t[0]


def split_width(width: int, patch: int) -> int | None:
    """Channels of a pixel if the `width` channels of a token are split over its patch^2 pixels.

    As `F.pixel_shuffle` does; None where patch^2 does not divide the width.
    """
    return None if width % patch**2 else width // patch**2


def predict(
    denoiser: Denoiser,
    x_t: Levels,
    log_snr: Float[Tensor, "b levels"],
    cond: Cond,
    carry: Any = None,
) -> Prediction:
    """The checked prediction of a denoiser.

    x_t: scaled noisy levels, log_snr: of each level, within +-30, cond: prepared.

    Raises:
        PredictionError: where it returns anything but a floating-point tensor of the shape of each
            level, which broadcasting would let pass for a prediction.
    """
    out = denoiser(x_t, log_snr, cond, carry)
    name = type(getattr(denoiser, "denoiser", denoiser)).__name__
    if not isinstance(out, Prediction) or not isinstance(out.levels, tuple):
        raise PredictionError(f"{name} gives a {type(out).__name__}: give Prediction((level, ...))")
    if len(out.levels) != len(x_t):
        raise PredictionError(
            f"{name} predicts {len(out.levels)} of {len(x_t)} levels: give each once"
        )
    for level, x in zip(out.levels, x_t, strict=True):
        if not isinstance(level, Tensor):
            raise PredictionError(
                f"{name} gives a {type(level).__name__} for a state of {tuple(x.shape)}: give a "
                f"tensor of that shape"
            )
        if level.shape != x.shape or not level.is_floating_point():
            raise PredictionError(
                f"{name} gives {tuple(level.shape)} in {str(level.dtype).removeprefix('torch.')} "
                f"for a state of {tuple(x.shape)}: give floating-point numbers of that shape"
            )
    if denoiser.learns_variance and out.variance is None:
        raise PredictionError(f"{name} says that it learns a variance and gives none: give one")
    return out


class Wrapper(Denoiser):
    """A denoiser around another one, with its facts and checks; a subclass writes the call."""

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser = denoiser
        self.carries, self.learns_variance = denoiser.carries, denoiser.learns_variance
        self.guesses_edges = denoiser.guesses_edges
        self.reads, self.clocks = denoiser.reads, denoiser.clocks
        self.time_width, self.notes = denoiser.time_width, denoiser.notes

    @override
    def check(self, shapes: Sequence[Sequence[int]]) -> None:
        self.denoiser.check(shapes)

    @override
    def prepare(self, cond: Cond) -> Cond:
        return self.denoiser.prepare(cond)

    @property
    @override
    def units(self) -> tuple[nn.Module, ...]:
        return self.denoiser.units

    @property
    @override
    def early(self) -> tuple[nn.Module, ...]:
        return self.denoiser.early


class Joined(Wrapper):
    """A one-level denoiser without features as the innermost network of a nested one.

    The outer network's zero-initialised adapters lead to and from image channels: `added` is added
    to the noisy image, and the features are the prediction.
    """

    def __init__(self, denoiser: Denoiser, channels: int):
        super().__init__(denoiser)
        self.nest_width = channels
        self.notes += (
            f"the innermost network, {type(denoiser).__name__}, gives no features: it is nested "
            f"through its {channels} image channels",
        )

    @override
    def forward(
        self,
        x_t: Levels,
        log_snr: Float[Tensor, "b levels"],
        cond: Cond,
        carry: Any = None,
        added: Tensor | None = None,
    ) -> Prediction:
        x = x_t[0] if added is None else x_t[0] + added
        out = predict(self.denoiser, (x,), log_snr, cond, carry)
        return out._replace(features=out.levels[0])


class Hinted(Wrapper):
    """A denoiser without `low_channels` as an upsampler.

    A convolution (3 along each of `rank` sides) of the low-resolution image, with its log_snr as a
    further channel, is added to the noisy image.
    """

    def __init__(self, denoiser: Denoiser, channels: int, low_channels: int, rank: int = 2):
        super().__init__(denoiser)
        self.low_channels = low_channels
        self.reads = denoiser.reads and denoiser.reads | Reads(low_channels=low_channels)
        self.hint = CONVOLUTIONS[rank](low_channels + 1, channels, 3, padding=1)

    @override
    def forward(
        self,
        x_t: Levels,
        log_snr: Float[Tensor, "b levels"],
        cond: Cond,
        carry: Any = None,
        added: Tensor | None = None,
    ) -> Prediction:
        x, channels = x_t[0], x_t[0].shape[1]
        low = with_low(x, cond, self.low_channels)[:, channels:]
        plane = augmentation_of(cond, log_snr[:, 0]).to(low) / LOG_SNR_LIMIT
        plane = plane.reshape(-1, *[1] * (low.ndim - 1)).expand(-1, 1, *low.shape[2:])
        hint = self.hint(torch.cat([low, plane], dim=1))
        return self.denoiser((x_t[0] + hint,), log_snr, cond, carry)


def with_low(x: Float[Tensor, "b c *sides"], cond: Cond, low_channels: int) -> Tensor:
    """The noisy image and the low-resolution one, joined along channels.

    x itself where `low_channels` is 0. If `cond.low` has more rows than x, its first are used.

    Raises:
        ValueError: where `cond.low` is missing or has other channels or sides.
    """
    if not low_channels:
        return x
    shape = (low_channels, *x.shape[2:])
    if cond.low is None or cond.low.shape[1:] != shape:
        other = "none" if cond.low is None else f"one of {tuple(cond.low.shape[1:])}"
        raise ValueError(
            f"this denoiser sees a low-resolution image of {shape} (channels, then sides) "
            f"and was given {other}: give it as cond.low, resized to the noisy image's side"
        )
    return torch.cat([x, cond.low[: len(x)]], dim=1)


def labels_of(cond: Cond, classes: int) -> Int[Tensor, " b"]:
    """The class of each example, 0 to classes - 1 or -1 for none.

    Raises:
        ValueError: without labels.
    """
    if cond.labels is None:
        raise ValueError(
            f"this denoiser knows {classes} classes and was given no labels: "
            f"give one for each example, -1 for none"
        )
    return cond.labels


def caption_of(cond: Cond) -> tuple[Float[Tensor, "b l d"], Bool[Tensor, "b l"]]:
    """Token states and their mask, True at words.

    Raises:
        ValueError: where one is missing.
    """
    if cond.tokens is None or cond.mask is None:
        raise ValueError(
            "this denoiser reads text and was given none: give tokens with their mask, "
            "an empty mask for no caption"
        )
    return cond.tokens, cond.mask


def augmentation_of(cond: Cond, like: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """The log-SNR of the low-resolution image, within +-30, for the rows of `like`.

    30 (clean) where there is no scalar `augmentation`.
    """
    scalar = cond.scalars.get("augmentation")
    if scalar is None:
        return torch.full_like(like, LOG_SNR_LIMIT)
    log_snr = scalar[: len(like)].to(like)
    return log_snr.clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)


def conditioned(
    time: Float[Tensor, "b w"],
    log_snr: Float[Tensor, " b"],
    cond: Cond,
    scalars: nn.Module,
    augmentation: nn.Module | None,
) -> Float[Tensor, "b w"]:
    """The vector of the time plus those of scalars, of the augmentation of an upsampler's input and
    of class and text as `prepare` embedded them, of which the first rows are for these times."""
    vector = scalars(time, cond)
    if augmentation is not None:
        vector = vector + augmentation(LogSNRClock()(augmentation_of(cond, log_snr)))
    return vector if cond.embedding is None else vector + cond.embedding[: len(log_snr)]


denoisers: Registry[Denoiser] = Registry("denoiser", Denoiser)


def build_denoiser(node: Later[Denoiser], facts: Node) -> Denoiser:
    """The denoiser of a node, or the denoiser itself.

    facts: of the data and of the state (channels, sides). If they have `low_channels`, the result
    is an upsampler, if need be by wrapping the network in `Hinted`.

    Raises:
        ValueError: for a node that does not fit, and for a network of several levels that reads no
            low-resolution image.
    """
    low = facts.get("low_channels", 0)
    network = denoisers.build(node, offered=facts)
    if not low or isinstance(node, Denoiser) or denoisers.takes(node, "low_channels"):
        return network
    if network.levels != 1:
        raise ValueError(
            f"{type(network).__name__} of {network.levels} levels takes no low-resolution image: "
            f"give a denoiser of one level, or one whose constructor names low_channels"
        )
    rank = len(facts["sides"]) if "sides" in facts else 2
    return Hinted(network, facts["channels"], low, rank)
