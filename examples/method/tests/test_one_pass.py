"""What a package of one's own should check: it is found by name, learns, and gives images."""

import torch
from one_pass_method import discrepancy

from hierdiff.batch import Batch
from hierdiff.methods import Request, methods
from hierdiff.noise import from_generator, generator_of


def built():
    torch.manual_seed(0)
    return methods.build({"name": "one_pass", "resolutions": [8], "width": 16, "latent": 2})


def test_it_is_known_by_its_name():
    assert "one_pass" in methods


def test_equal_batches_have_no_discrepancy():
    real = torch.randn(8, 12)
    assert discrepancy(real, real.flip(0)).abs() < 1e-6
    assert discrepancy(real + 1, real) > 0.01


def test_it_learns():
    stage = built().stages[0]
    noise = from_generator(generator_of(0))
    batch = Batch(torch.linspace(-1, 1, 16)[:, None, None, None].expand(-1, 3, 8, 8))
    optimizer = torch.optim.Adam(stage.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = stage(batch, stage.draw(batch, noise)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_it_gives_images_in_range():
    (images,) = built().sample(Request(3, noise=from_generator(generator_of(0)))).values()
    assert images.shape == (3, 3, 8, 8)
    assert images.abs().max() <= 1
