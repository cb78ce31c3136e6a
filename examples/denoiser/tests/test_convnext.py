"""What a package of one's own should check: it is found by name, learns, and can be nested."""

import torch

from hierdiff.batch import Cond
from hierdiff.denoisers import denoisers


def built(**options):
    torch.manual_seed(0)
    return denoisers.build({"name": "convnext", "width": 16, "depth": 1, **options})


def test_it_is_known_by_its_name():
    assert "convnext" in denoisers


def test_it_keeps_the_shape_and_sees_the_class():
    network = built(classes=3)
    for block in network.blocks:  # they start as no change
        torch.nn.init.normal_(block.mlp[2].weight)
    x, log_snr = torch.randn(2, 3, 8, 8), torch.zeros(2)
    first, second, none = (
        network.denoise(x, log_snr, Cond(labels=torch.full((2,), label))) for label in (0, 1, -1)
    )
    assert first.shape == x.shape
    assert not torch.equal(first, second)
    assert not torch.equal(first, none)


def test_it_learns():
    network, x = built(), torch.randn(8, 3, 8, 8)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(50):
        loss = (network.denoise(x, torch.zeros(8), Cond()) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_it_can_be_the_innermost_network():
    inner = {"name": "convnext", "width": 16, "depth": 1}
    node = {"name": "nested_unet", "width": 8, "multiples": [1, 1], "attention": 0, "groups": 4}
    network = denoisers.build({**node, "inner": inner})
    levels = (torch.randn(2, 3, 16, 16), torch.randn(2, 3, 8, 8))
    prediction = network(levels, torch.zeros(2, 2), Cond())
    assert [level.shape for level in prediction.levels] == [level.shape for level in levels]
