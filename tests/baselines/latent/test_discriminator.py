"""The discriminator: size, patches, losses; and the weight of its loss."""

import pytest
import torch
from torch import nn

from baselines.latent.autoencoder import ConvolutionalAutoencoder
from baselines.latent.discriminator import PatchGAN, adaptive_weight, generator_loss, hinge


def small(**options) -> PatchGAN:
    torch.manual_seed(0)
    return PatchGAN(width=4, **options).eval().double()


def test_it_has_the_published_parameters():
    with torch.device("meta"):
        assert sum(p.numel() for p in PatchGAN().parameters()) == 2_765_633


@pytest.mark.parametrize(("side", "logits"), [(256, 30), (128, 14), (64, 6), (32, 2), (24, 1)])
def test_sides_have_their_published_logits(side, logits):
    with torch.device("meta"):
        found = PatchGAN().eval()(torch.empty(1, 3, side, side))
    assert found.shape == (1, 1, logits, logits)


@pytest.mark.parametrize(("layers", "pixels"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_a_patch(layers, pixels):
    x = torch.randn(1, 3, 128, 128, dtype=torch.float64, requires_grad=True)
    logits = small(layers=layers)(x)
    middle = logits.shape[-1] // 2
    (grad,) = torch.autograd.grad(logits[0, 0, middle, middle], x)
    seen = (grad[0].abs().sum(0) > 0).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [pixels, pixels]


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match="side 16 is too small .* needs 24: .* fewer `layers`"):
        small()(torch.zeros(1, 3, 16, 16, dtype=torch.float64))
    assert small(layers=2)(torch.zeros(1, 3, 16, 16, dtype=torch.float64)).shape[-1] == 2


def test_weights_start_as_released():
    torch.manual_seed(0)
    network = PatchGAN()
    for part in network.main:
        if isinstance(part, nn.Conv2d) and part.weight.numel() > 5000:
            assert abs(part.weight.std() - 0.02) < 1e-3
        if isinstance(part, nn.BatchNorm2d):
            assert abs(part.weight.mean() - 1) < 0.01 and abs(part.weight.std() - 0.02) < 0.005
            assert not part.bias.any()


def test_hinge_has_its_known_values():
    logits = torch.ones(2, 1, 3, 3)

    def at(real: float, fake: float) -> float:
        return hinge(logits * real, logits * fake).item()

    assert at(0.5, -0.5) == 0.5
    assert at(0, 0) == 1 and at(1, -1) == 0 and at(7, -9) == 0 and at(-1, 2) == 2.5


def test_the_generator_wants_high_logits():
    assert generator_loss(torch.full((2, 1, 3, 3), 0.5)).item() == -0.5


def trained():
    """Reconstruction, both losses, and the layer, of a small autoencoder."""
    torch.manual_seed(0)
    network = ConvolutionalAutoencoder(
        width=8, multiples=[1, 2], blocks=1, groups=4, resolution=32
    ).double()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    out = network(x)
    return out, (x - out.images).abs().mean(), generator_loss(small()(out.images)), network


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_the_weight_is_that_of_gradients_at_the_last_weight(scale):
    out, nll, g_loss, network = trained()
    nll = scale * nll
    found = adaptive_weight(nll, g_loss, out.images, out.last_input, network.last_layer)
    weight = network.last_layer.weight
    lengths = [
        torch.autograd.grad(loss, weight, retain_graph=True)[0].norm() for loss in (nll, g_loss)
    ]
    torch.testing.assert_close(found, lengths[0] / (lengths[1] + 1e-4))
    assert not found.requires_grad


def test_the_weight_leaves_both_losses_to_train():
    out, nll, g_loss, network = trained()
    weight = adaptive_weight(nll, g_loss, out.images, out.last_input, network.last_layer)
    (nll + weight * g_loss).backward()
    assert all(p.grad is not None for p in network.last_layer.parameters())


def test_the_weight_is_at_most_ten_thousand_and_finite_without_an_adversary():
    out, nll, g_loss, network = trained()
    rest = (out.images, out.last_input, network.last_layer)
    (at_weight,) = torch.autograd.grad(nll, network.last_layer.weight, retain_graph=True)
    assert adaptive_weight(1e9 * nll, 0 * g_loss, *rest) == 1e4
    found = adaptive_weight(1e-3 * nll, 0 * g_loss, *rest)
    torch.testing.assert_close(found, 1e-3 * at_weight.norm() / 1e-4)
    assert adaptive_weight(0 * nll, g_loss, *rest) == 0


def test_the_weight_of_a_low_precision_pass_is_float32():
    out, nll, g_loss, network = trained()
    low = out.last_input.detach().bfloat16().requires_grad_()
    layer = network.last_layer.bfloat16()
    images = layer(low)
    found = adaptive_weight(images.square().mean(), images.mean(), images, low, layer)
    assert found.dtype == torch.float32 and torch.isfinite(found)
