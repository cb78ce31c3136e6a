"""A generator: a stage that makes images. What a harness asks of any method stands here."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from hierdiff.batch import UNCONDITIONAL, Batch, Cond
from hierdiff.guidance import Scale
from hierdiff.levels import Levels, Name, pyramid, resolution_of, sides_of
from hierdiff.methods.bridge import Bridge
from hierdiff.methods.sampling import Sampling
from hierdiff.methods.stage import Images, Stage
from hierdiff.noise import Noise
from hierdiff.samplers.integrate import Watch


@dataclass(frozen=True)
class Request:
    """What to sample.

    n: number of images. cond: their conditions, a row for each; what is missing counts as none.
    noise: standard normals of a shape. steps, guidance: of every stage, None for each stage's own.
    watch: called after every sampler step of every stage. resolutions: names of the levels whose
    images are wanted, None for all; network calls that lead to others alone are left out.
    """

    n: int
    cond: Cond = UNCONDITIONAL
    _: KW_ONLY
    noise: Noise
    steps: int | None = None
    guidance: Scale | None = None
    watch: Watch | None = None
    resolutions: Sequence[Name] | None = None

    def wants(self, name: Name) -> bool:
        return self.resolutions is None or name in self.resolutions


class Part(NamedTuple):
    """A piece of the work behind every image, to be timed and counted.

    prepare: (n, noise) to a function that does it once for n images. calls: how often that is done
    for one image. is_evaluation: does it call the network that makes the sample.
    """

    name: str
    prepare: Callable[[int, Noise], Callable[[], object]]
    calls: int
    is_evaluation: bool = True


class Generator(Stage):
    """A stage that makes images. A subclass writes the loss and `sample`; the rest has defaults,
    which hold for a generator that makes its images in one go.

    sampling: how it is sampled, None where it has no such options. makes_images: False where it
    makes what another stage needs (an embedding) and nothing to be looked at. lossy: do images come
    back changed from `decode(encode(images))`.
    """

    sampling: Sampling | None = None
    makes_images: bool = True
    lossy: bool = False

    @abstractmethod
    def sample(self, request: Request) -> Images:
        """n images in [-1, 1] at every resolution of this stage, and at those of the stages before
        it that the request wants."""

    def run(
        self,
        request: Request,
        start: Levels | None = None,
        start_t: float = 1.0,
        stop: float = 0.0,
    ) -> Levels:
        """The state at time `stop` of a trajectory from the state `start` at `start_t`; from noise
        if there is none. Nothing is computed below `stop`.

        Error: ValueError where there is no such trajectory.
        """
        if start is not None or (start_t, stop) != (1.0, 0.0):
            raise ValueError(f"stage {self.name} makes its images in one go, from 1 to 0")
        images = self.sample(replace(request, resolutions=None))
        return tuple(images[name] for name in self.resolutions)

    def hand_over(self, request: Request, stop: float = 0.0) -> tuple[Levels, Images]:
        """The state at `stop`, and the images that the request wants of this and earlier stages."""
        x = self.run(request, stop=stop)
        return x, dict(zip(self.resolutions, x, strict=True))

    def follow(self, request: Request, x: Levels, log_snr: float | None = None) -> Images:
        """Images of this stage from a given state of the one before it, clean ones of real images
        for example. log_snr: to which the bridge noises it, None for the bridge's own."""
        raise ValueError(f"stage {self.name} stands on no other")

    @property
    def previous(self) -> Generator | None:
        """The stage whose samples it is given."""
        return None

    @property
    def bridge(self) -> Bridge | None:
        """What brings them here."""
        return None

    @property
    def chain(self) -> tuple[Generator, ...]:
        """The stages that one of its samples goes through, itself the last."""
        return (self,)

    def shapes(self) -> Sequence[tuple[int, ...]]:
        """Shape of each level of its state without the batch."""
        return [(self.facts.get("channels", 3), *sides_of(name)) for name in self.resolutions]

    def encode(self, images: Float[Tensor, "b c *sides"]) -> Levels:
        """The clean state of real images."""
        return pyramid(images, [resolution_of(name) for name in self.resolutions])

    def decode(self, x: Levels) -> Images:
        """Images of a state; none where it has none."""
        return dict(zip(self.resolutions, x, strict=True))

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """What this stage needs in sampling: its parameters are counted."""
        return (self,)

    def parts(self, stop: float = 0.0) -> tuple[Part, ...]:
        """The work behind one image at its finest resolution, or behind its state at `stop`, that
        of earlier stages first."""

        def prepare(n: int, noise: Noise) -> Callable[[], object]:
            request = Request(n, noise=noise)
            return lambda: self.sample(request)

        return (Part(f"stage {self.name}", prepare, 1),)

    @property
    def evaluations(self) -> int:
        """Network calls for one image at its finest resolution; where guidance acts there are two
        at a time."""
        return sum(part.calls for part in self.parts() if part.is_evaluation)

    def tail(self, n: int) -> Generator:
        """The generator of the n coarsest resolutions alone, holding the same objects. Error:
        ValueError where they do not stand alone."""
        raise ValueError(f"stage {self.name} makes all of its resolutions at once, not {n} of them")

    @override
    def preview(self, cond: Cond, batch: Batch, noise: Noise) -> Images:
        return self.sample(Request(len(batch), cond, noise=noise))
