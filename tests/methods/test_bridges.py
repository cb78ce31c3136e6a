"""What a bridge alone makes possible: a refiner, an embedding prior, bands, more frames of one
side. Each trains, samples and costs as every method does."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from hierdiff.batch import Cond
from hierdiff.codec import Codec, Pyramid
from hierdiff.denoisers import Denoiser, Prediction
from hierdiff.denoisers.protocol import Reads
from hierdiff.levels import Named
from hierdiff.methods import Bridge, Bridged, Diffusion, Handover, Method, Request, Sampling
from hierdiff.objective import ScoreMatching
from hierdiff.parameterization import Parameterization
from hierdiff.process import processes
from tests import tiny

VP = processes.build({"name": "variance_preserving", "schedules": [{"name": "cosine"}]})
SAMPLING = Sampling(steps=10, guidance=2.0, interval=(0.0, 1.0))
FACTS = {"channels": 3, "classes": tiny.CLASSES}


class Net(Denoiser):
    """Linear in the pixels, label, log-SNR and whatever else it reads, for any number of sides."""

    def __init__(self, channels, low=0, vectors=()):
        super().__init__()
        self.pixel = nn.Linear(channels + low, channels)
        self.label = nn.Embedding(tiny.CLASSES + 1, channels)
        self.level = nn.Linear(1, channels)
        self.vectors = nn.ModuleDict({k: nn.Linear(w, channels) for k, w in dict(vectors).items()})
        self.reads = Reads(tiny.CLASSES, low_channels=low, vectors=dict(vectors))

    def forward(self, x_t, log_snr, cond, carry=None, added=None):
        x = x_t[0] if not self.reads.low_channels else torch.cat([x_t[0], cond.low], 1)
        out = self.pixel(x.movedim(1, -1)).movedim(-1, 1)
        told = self.label(cond.labels + 1) + self.level(log_snr[:, :1] / 10)
        told = told + sum(part(cond.vectors[name]) for name, part in self.vectors.items())
        return Prediction((out + told.reshape(*told.shape, *[1] * (x.ndim - 2)),))


def parts(codec, network, **more):
    return {
        "codec": codec,
        "process": VP,
        "objective": ScoreMatching(Parameterization("v")),
        "denoiser": network,
        "sampling": SAMPLING,
        "resolutions": codec.resolutions,
        "facts": {**FACTS, "low_channels": network.reads.low_channels},
        **more,
    }


def works(method, batch=None):
    """Both stages learn, and every part that is counted runs; the images."""
    batch = batch or tiny.batch("class", side=8)
    for stage in method.stages:
        loss = stage(batch, stage.draw(batch, tiny.noise())).total
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in stage.parameters())
    last, calls = method.stages[-1], []
    hooks = [part.denoiser.register_forward_hook(lambda *_: calls.append(1)) for part in last.chain]
    finest = [method.resolutions[0]]
    images = method.sample(
        Request(2, tiny.cond("class", 2), noise=tiny.noise(), resolutions=finest)
    )
    assert len(calls) == last.evaluations and list(images) == finest
    for hook in hooks:
        hook.remove()
    for part in last.parts():
        part.prepare(1, tiny.noise())()
    return images[finest[0]]


@dataclass(frozen=True)
class Takeover(Bridge):
    """The state at a time, as it stands: the next stage goes on from there."""

    time: float = 0.3

    def stop(self, log_snr):
        return self.time

    def __call__(self, x, here, crossing, cond):
        return Handover(cond, x, self.time)


def test_a_refiner_takes_over_at_a_time_with_guidance():
    base = Diffusion(**parts(Pyramid([8]), Net(3)))
    refiner = Bridged(bridge=Takeover(), previous=base, **parts(Pyramid([8]), Net(3)))
    method = Method([8], [base, refiner])
    made = works(method)
    assert refiner.evaluations == 2 * (8 + 3)  # above 0.3, from it on; twice by guidance
    same = Bridged(bridge=Takeover(), previous=base, **parts(Pyramid([8]), base.denoiser))
    request = Request(2, tiny.cond("class", 2), noise=tiny.noise())
    state = base.run(request, stop=0.3)
    whole = same.run(Request(2, tiny.cond("class", 2), noise=tiny.noise()))
    tail = base.run(Request(2, tiny.cond("class", 2), noise=tiny.noise(5)), state, start_t=0.3)
    assert torch.equal(whole[0], tail[0]) and not torch.equal(whole[0], made)


class Colour(Codec):
    """An embedding: the mean colour of an image, a vector and no picture."""

    resolutions = ()

    def encode(self, images):
        return (images.flatten(2).mean(2),)

    def decode(self, levels):
        return {}

    def shapes(self):
        return ((3,),)

    def tail(self, n):
        return self


class Embedded(Bridge):
    gives = frozenset({"colour"})

    def __call__(self, x, here, crossing, cond):
        return Handover(Cond(cond.labels, vectors={**cond.vectors, "colour": x[0]}))


def test_an_embedding_prior_is_a_stage_whose_sample_conditions_the_next():
    prior = Diffusion(**parts(Colour(), Net(3), resolutions=(8,)))
    decoder = Bridged(
        bridge=Embedded(), previous=prior, **parts(Pyramid([8]), Net(3, vectors={"colour": 3}))
    )
    method = Method([8], [prior, decoder])
    method.check_facts(FACTS)
    works(method)
    assert method.at(8) is decoder and not prior.makes_images and decoder.evaluations == 40
    request = Request(2, tiny.cond("class", 2), noise=tiny.noise())
    red, blue = (
        decoder.follow(Request(2, request.cond, noise=tiny.noise()), (torch.eye(3)[[i, i]],))[8]
        for i in (0, 2)
    )
    assert not torch.equal(red, blue)


class Haar(Codec):
    """One level of the Haar wavelet: the low band of 3 channels at half the side, or the three
    detail bands; details are decoded with the low band beside them."""

    def __init__(self, low):
        self.low, self.resolutions = low, (Named("low", 4),) if low else (8,)

    def encode(self, images):
        blocks = F.pixel_unshuffle(images, 2).unflatten(1, (3, 4))
        bands = torch.einsum("bcphw,qp->bcqhw", blocks, self.basis(images)).movedim(2, 1) / 2
        return (bands[:, 0] if self.low else bands[:, 1:].flatten(1, 2),)

    def decode(self, levels):
        if self.low:
            return {self.resolutions[0]: levels[0]}
        details, *low = levels
        low = low[0] if low else torch.zeros_like(details[:, :3])
        bands = torch.cat([low[:, None], details.unflatten(1, (3, 3))], 1)
        blocks = torch.einsum("bqchw,qp->bcphw", bands, self.basis(details)) / 2
        return {8: F.pixel_shuffle(blocks.flatten(1, 2), 2)}

    @staticmethod
    def basis(like):
        signs = [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
        return torch.tensor(signs).to(like)

    def shapes(self):
        return ((3 if self.low else 9, 4, 4),)

    def tail(self, n):
        return self


class Beside(Bridge):
    """The low band is seen by the network, and decoded with its details."""

    def __call__(self, x, here, crossing, cond):
        return Handover(Cond(cond.labels, low=x[0]), beside=x)


def test_details_are_made_beside_the_low_band_that_another_stage_makes():
    low = Diffusion(**parts(Haar(True), Net(3)))
    details = Bridged(bridge=Beside(), previous=low, **parts(Haar(False), Net(9, low=3)))
    image = tiny.batch("class", side=8).images
    whole = (*details.encode(image), *low.encode(image))
    torch.testing.assert_close(Haar(False).decode(whole)[8], image)
    works(Method([8], [low, details]))
    made = Method([8, "low"], [low, details]).sample(Request(2, noise=tiny.noise()))
    assert list(made) == [8, "low"]
    torch.testing.assert_close(low.encode(made[8])[0], made["low"])


class Frames(Codec):
    """Every k-th frame of 8, at one side."""

    def __init__(self, count):
        self.count, self.resolutions = count, ((count, 8, 8),)

    def encode(self, images):
        return (images[:, :, :: 8 // self.count],)

    def decode(self, levels):
        return {self.resolutions[0]: levels[0]}

    def shapes(self):
        return ((3, self.count, 8, 8),)

    def tail(self, n):
        return self


class Between(Bridge):
    """Each frame twice."""

    def __call__(self, x, here, crossing, cond):
        return Handover(Cond(cond.labels, low=x[0].repeat_interleave(2, dim=2)))


def test_a_cascade_goes_from_4_to_8_frames_at_one_side():
    few = Diffusion(**parts(Frames(4), Net(3)))
    many = Bridged(bridge=Between(), previous=few, **parts(Frames(8), Net(3, low=3)))
    clips = torch.rand(4, 3, 8, 8, 8) * 2 - 1
    batch = type(tiny.batch("class"))(clips, tiny.cond("class", 4))
    method = Method([(8, 8, 8), (4, 8, 8)], [few, many])
    assert works(method, batch).shape == (2, 3, 8, 8, 8)
    assert list(method.sample(Request(1, noise=tiny.noise()))) == [(8, 8, 8), (4, 8, 8)]
    assert many.name == "4x8x8to8x8x8"
