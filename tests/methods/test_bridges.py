"""What a bridge alone makes possible: whose state a refiner continues, and which calls an
embedding prior saves. `tests.house` runs these, bands and clips through the benchmark."""

import torch
from torch import nn

from hierdiff.codec import Pyramid
from hierdiff.denoisers import Denoiser, Prediction
from hierdiff.denoisers.protocol import Reads
from hierdiff.methods import Bridged, Diffusion, Method, Request, Sampling
from hierdiff.objective import ScoreMatching
from hierdiff.parameterization import Parameterization
from hierdiff.process import processes
from tests import tiny
from tests.house.embedding import Colour, Embedded
from tests.house.test_refiner import Takeover

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
        "facts": {**FACTS, "low_channels": network.reads.low_channels},
        **more,
    }


def works(method):
    """Both stages learn, and every part that is counted runs; the images."""
    batch = tiny.batch("class", side=8)
    for stage in method.stages:
        loss = stage(batch, stage.draw(batch, tiny.noise())).total
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in stage.parameters())
    last, calls = method.stages[-1], []
    hooks = [tiny.count_evaluations(part.denoiser, calls) for part in last.chain]
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


def test_an_embedding_prior_is_a_stage_whose_sample_conditions_the_next():
    prior = Diffusion(**parts(Colour((8,)), Net(3)))
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
