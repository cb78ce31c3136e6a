"""The local network: its receptive field is what the option says, to the pixel."""

import pytest
import torch

from hierdiff.batch import Cond
from hierdiff.denoisers import denoisers
from tests import tiny


def build(receptive, layers=8, **facts):
    node = {"name": "local", "receptive": receptive, "layers": layers, "width": 8}
    return tiny.randomised(denoisers.build(node, offered={"channels": 3, **facts}))


def seen(network, x, low=None):
    """Which pixels of x, and of the low image, the prediction in the middle depends on."""
    inputs = [one.requires_grad_() for one in (x, low) if one is not None]
    cond = network.prepare(Cond(low=low))
    out = network((x,), torch.zeros(1, 1), cond).levels[0]
    middle = [side // 2 for side in x.shape[2:]]
    grads = torch.autograd.grad(out[..., middle[0], middle[1]].abs().sum(), inputs)
    return [grad.abs().sum((0, 1)) > 0 for grad in grads]


@pytest.mark.parametrize("receptive", [1, 3, 5, 9, 13, 17])
def test_gradients_reach_the_field_and_nothing_outside_of_it(receptive):
    torch.manual_seed(0)
    network, side = build(receptive, low_channels=3), 21
    reached = seen(network, torch.randn(1, 3, side, side), torch.randn(1, 3, side, side))
    apart = (torch.arange(side) - side // 2).abs() <= receptive // 2
    inside = apart[:, None] & apart
    assert all(torch.equal(one, inside) for one in reached)


def test_a_field_of_twice_the_side_is_no_bound():
    torch.manual_seed(0)
    network = build(2 * 5 - 1)
    x = torch.randn(1, 3, 5, 5, requires_grad=True)
    out = network((x,), torch.zeros(1, 1), network.prepare(Cond())).levels[0]
    for row, column in ((0, 0), (4, 0), (2, 3)):
        (grad,) = torch.autograd.grad(out[..., row, column].sum(), x, retain_graph=True)
        assert (grad.abs().sum((0, 1)) > 0).all()


def test_wide_convolutions_are_spread_over_the_layers_and_the_depth_stays():
    kernels = [block.conv.kernel_size[0] for block in build(9, layers=12).blocks]
    assert kernels == [1, 1, 3] * 4
    assert [block.conv.kernel_size[0] for block in build(1, layers=2).blocks] == [1, 1]


def test_away_from_the_borders_it_moves_with_the_image():
    torch.manual_seed(0)
    network, x = build(5), torch.randn(1, 3, 12, 12)
    cond = network.prepare(Cond())
    one, other = (network((y,), torch.zeros(1, 1), cond).levels[0] for y in (x, x.roll(1, -1)))
    torch.testing.assert_close(one[..., 3:8], other[..., 4:9])


@pytest.mark.parametrize(
    ("receptive", "layers", "message"),
    [
        (8, 8, "receptive=8: a field around a pixel is odd, take 7 or 9"),
        (19, 8, "receptive=19 of 8 layers: .* take layers=9, or a field of up to 17"),
        (0, 8, "receptive=0: receptive takes a whole number, 1 or more"),
    ],
)
def test_impossible_fields_are_refused_with_the_way_out(receptive, layers, message):
    with pytest.raises(ValueError, match=message):
        build(receptive, layers)


def test_the_size_of_the_released_network():
    """21 convolutions of 64 channels have 214,144 parameters there, of gray images and a field of
    13; here the convolutions are as wide, and the maps of the noise level are most of the rest."""
    node = {"name": "local", "receptive": 13, "layers": 20, "width": 64}
    with torch.device("meta"):
        network = denoisers.build(node, offered={"channels": 3, "low_channels": 1})
    convolutions = [part for part in network.modules() if isinstance(part, torch.nn.Conv2d)]
    count = sum(part.weight.numel() for part in convolutions)
    assert count == 4 * 64 + 6 * 9 * 64**2 + 14 * 64**2 + 64 * 3
    assert sum(part.numel() for part in network.parameters()) == 1_136_003
