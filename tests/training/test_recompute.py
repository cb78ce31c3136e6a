"""Activations computed again in the backward pass: equal numbers, less memory."""

import pytest
import torch
from torch import nn

from hierdiff.denoisers import denoisers
from hierdiff.denoisers.recompute import recompute
from tests import tiny

NAMES = ["unet", "nested_unet", "dit", "uvit", "ldm_unet", "rin"]


def gradients(network: nn.Module, depth: int) -> list[torch.Tensor]:
    x, log_snr = tiny.state(depth, 2)
    torch.manual_seed(0)  # of dropout
    out = network.train()(x, log_snr, network.prepare(tiny.cond("class", 2)))
    loss = sum(level.square().sum() for level in out.levels)
    return list(torch.autograd.grad(loss, list(network.parameters()), allow_unused=True))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_equal_bit_for_bit(name):
    depth = 2 if name == "nested_unet" else 1
    node = tiny.denoiser_node(name, depth)
    node |= {"dropout": 0.5} if denoisers.takes(node, "dropout") else {}
    network = tiny.randomised(denoisers.build(node, offered=tiny.facts("class")))
    kept = gradients(network, depth)
    recompute(network)
    recompute(network)  # as where two stages share a network
    assert network.units
    torch.testing.assert_close(gradients(network, depth), kept, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_fewer_bytes_are_kept_for_the_backward_pass(name):
    def kept(network: nn.Module) -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        weights = sum(p.untyped_storage().nbytes() for p in network.parameters())
        x, log_snr = tiny.state(1, 2)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(x, log_snr, network.prepare(tiny.cond("class", 2)))
        return sum(sizes.values()) - weights

    network = tiny.denoiser(name, "class")
    before = kept(network)
    recompute(network)
    assert kept(network) < before
