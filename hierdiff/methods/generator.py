"""`Generator`: a stage that samples; all that a harness needs to know of a method's stage."""

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
from hierdiff.levels import Levels, pyramid
from hierdiff.methods.bridge import Bridge
from hierdiff.methods.sampling import Sampling
from hierdiff.methods.stage import Images, Stage
from hierdiff.noise import Noise
from hierdiff.resolution import Name, Resolution, plain_of, resolution_of, sides_of
from hierdiff.samplers.integrate import Watch


@dataclass(frozen=True)
class Request:
    """What to sample.

    n: number of images. cond: their conditions, a row for each; a missing condition means "none".
    negative: label and caption of guidance's weak pass, None for "none". noise: source of standard
    normals, called with a shape. steps, guidance: for every stage, None for each stage's own.
    watch: called after every sampler step of every stage, with its state and the levels beside it,
    which `decode` takes. resolutions: names of the levels whose images are returned, None for all;
    network calls that only serve others are left out.
    """

    n: int
    cond: Cond = UNCONDITIONAL
    _: KW_ONLY
    negative: Cond | None = None
    noise: Noise
    steps: int | None = None
    guidance: Scale | None = None
    watch: Watch | None = None
    resolutions: Sequence[Name] | None = None

    def wants(self, name: Name) -> bool:
        """Whether images of that name are to be returned."""
        return self.resolutions is None or name in self.resolutions


DECODER = "decoder"  # name of the part that makes images of a state


class Part(NamedTuple):
    """A piece of the work behind every image, to be timed and counted.

    prepare: (n, noise) -> a function that does this work once for n images. calls: how often it is
    done for one image. is_evaluation: whether it calls the network that is sampled (counts as NFE).
    """

    name: str
    prepare: Callable[[int, Noise], Callable[[], object]]
    calls: int
    is_evaluation: bool = True


class Generator(Stage):
    """A stage that samples. A subclass writes the loss and `sample`; the rest has defaults, which
    hold for a generator that makes its images in one pass.

    sampling: how it is sampled, None without such options. makes_images: False if its output only
    serves another stage (an embedding). lossy: whether `decode(encode(images))` changes images.
    """

    sampling: Sampling | None = None
    makes_images: bool = True
    lossy: bool = False

    @abstractmethod
    def sample(self, request: Request) -> Images:
        """{name: n images in [-1, 1]} of this stage, and of earlier stages if requested.

        Images of this stage are returned at every resolution, whatever the request names.
        """

    def run(
        self,
        request: Request,
        start: Levels | None = None,
        start_t: float = 1.0,
        stop: float = 0.0,
    ) -> Levels:
        """The state at time `stop` of a trajectory from the state `start` at time `start_t`.

        start: levels of the shapes of `shapes()` behind the batch, None for noise at time 1.
        0 <= stop < start_t <= 1, and nothing is computed below `stop`.

        Raises:
            ValueError: where the stage has no such trajectory.
        """
        if start is not None or (start_t, stop) != (1.0, 0.0):
            raise ValueError(f"stage {self.name} makes its images in one go, from 1 to 0")
        images = self.sample(replace(request, resolutions=None))
        return tuple(images[name] for name in self.resolutions)

    def hand_over(self, request: Request, stop: float = 0.0) -> tuple[Levels, Images]:
        """The state at time `stop`, and the requested images of this and earlier stages.

        Behind the state are the levels that stand beside it: the levels that `decode` takes.
        """
        x = self.run(request, stop=stop)
        return x, dict(zip(self.resolutions, x, strict=True))

    def follow(self, request: Request, x: Levels, log_snr: float | None = None) -> Images:
        """Images of this stage from clean levels x of the previous one, such as real images.

        log_snr: to which the bridge noises x, None for the bridge's own.

        Raises:
            ValueError: where the stage has no previous one.
        """
        raise ValueError(f"stage {self.name} stands on no other")

    @property
    def previous(self) -> Generator | None:
        """The stage whose samples this one continues from, None for the first."""
        return None

    @property
    def bridge(self) -> Bridge | None:
        """Turns samples of `previous` into this stage's conditions, None for the first."""
        return None

    @property
    def chain(self) -> tuple[Generator, ...]:
        """The stages that a sample passes through, this one last."""
        return (self,)

    def shapes(self) -> Sequence[tuple[int, ...]]:
        """Shape of each level of its state without the batch: channels, then sides."""
        return [(self.facts.get("channels", 3), *sides_of(name)) for name in self.resolutions]

    def handed_over(self) -> Sequence[tuple[int, ...]]:
        """Shapes of the levels that it hands over, without the batch; by default `shapes()`."""
        return self.shapes()

    def encode(self, images: Float[Tensor, "b c *sides"]) -> Levels:
        """The clean state of real images in [-1, 1]."""
        return pyramid(images, [resolution_of(name) for name in self.resolutions])

    def state(self, batch: Batch) -> Levels:
        """What it would hand over of a batch of images, or of one as its data hold it: clean."""
        return self.encode(batch.images)

    def decode(self, x: Levels) -> Images:
        """{name: images in [-1, 1]} of a clean state and of the levels that stand beside it.

        Empty for a stage that makes no images.
        """
        return dict(zip(self.resolutions, x, strict=True))

    def resized(self, resolution: Resolution, previous: Generator | None = None) -> Generator:
        """This stage with the same weights, for images of other sides.

        previous: the stage before, resized.

        Raises:
            ValueError: where its networks make images of one size alone.
        """
        raise ValueError(
            f"stage {self.name} makes images of one size: leave resolution={plain_of(resolution)} "
            f"out"
        )

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The modules that sampling from this stage needs; their parameters are counted."""
        return (self,)

    def parts(self, stop: float = 0.0) -> tuple[Part, ...]:
        """The work behind one image at the finest resolution, or behind the state at time `stop`.

        Parts of earlier stages come first.
        """

        def prepare(n: int, noise: Noise) -> Callable[[], object]:
            request = Request(n, noise=noise)
            return lambda: self.sample(request)

        return (Part(f"stage {self.name}", prepare, 1),)

    @property
    def evaluations(self) -> int:
        """Network calls (NFE) for one image at its finest resolution; a guided step counts two."""
        return sum(part.calls for part in self.parts() if part.is_evaluation)

    def tail(self, n: int) -> Generator:
        """The generator of the n coarsest resolutions alone, holding the same objects.

        Raises:
            ValueError: where these cannot be sampled alone.
        """
        raise ValueError(f"stage {self.name} makes all of its resolutions at once, not {n} of them")

    @override
    def preview(self, cond: Cond, batch: Batch, noise: Noise) -> Images:
        return self.sample(Request(len(batch), cond, noise=noise))
