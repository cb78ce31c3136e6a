"""Perceptual distances: zero for equal images, growing with damage, frozen, weights from files."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hierdiff.metrics import perceptual as module
from hierdiff.metrics.perceptual import LPIPS, EfficientNetPyramid, Perceptual, perceptuals


@pytest.fixture(scope="module")
def lite0() -> Perceptual:
    return perceptuals.build({"name": "efficientnet_lite0"})


@pytest.fixture
def vgg(tmp_path, monkeypatch):
    """An LPIPS of few widths, and the files it is read from."""
    monkeypatch.setattr(module, "WIDTHS", ((4, 4), (5, 5), (6, 6, 6)))
    monkeypatch.setattr(module, "TAPPED", (4, 5, 6))
    network = module._VGG16()
    paths = tmp_path / "vgg.safetensors", tmp_path / "lin.pth"
    save_file(network.state_dict(), paths[0])
    torch.save(
        {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate((4, 5, 6))},
        paths[1],
    )
    return paths


def smooth(n=2, channels=3, side=32) -> torch.Tensor:
    """Images of a few colours with edges, in [-1, 1]."""
    coarse = torch.rand(n, channels, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return nn.functional.interpolate(coarse, size=(side, side), mode="nearest")


def noisy(images: torch.Tensor, sigma: float) -> torch.Tensor:
    return images + sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))


def test_each_says_whether_it_knows_imagenet():
    stated = {"none": False, "efficientnet_lite0": True, "lpips": True}
    assert set(stated) <= set(perceptuals.names())
    assert {name: perceptuals.get(name).uses_imagenet for name in stated} == stated


def test_none_is_zero():
    part = perceptuals.build({"name": "none"})
    assert torch.equal(part(smooth(), -smooth()), torch.zeros(2))


def test_equal_images_are_at_distance_zero_and_noise_takes_them_away(lite0):
    x = smooth()
    with torch.no_grad():
        found = torch.stack([lite0(x, noisy(x, s)) for s in (0, 0.03, 0.1, 0.3, 1)])
    assert torch.equal(found[0], torch.zeros(2))
    assert (found.diff(dim=0) > 0).all() and (found <= 4).all()


def test_the_distance_is_symmetric_and_of_one_example(lite0):
    x = smooth()
    y = noisy(x, 0.2)
    with torch.no_grad():
        torch.testing.assert_close(lite0(x, y), lite0(y, x))
        torch.testing.assert_close(lite0(x, y)[:1], lite0(x[:1], y[:1]), rtol=1e-4, atol=1e-6)


def test_grey_is_three_equal_channels(lite0):
    x = smooth(channels=1)
    y = noisy(x, 0.2)
    with torch.no_grad():
        torch.testing.assert_close(
            lite0(x, y), lite0(x.expand(-1, 3, -1, -1), y.expand(-1, 3, -1, -1))
        )
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        lite0(x.expand(-1, 2, -1, -1), y.expand(-1, 2, -1, -1))


def test_the_gradient_reaches_the_reconstruction_and_no_weight(lite0):
    x = smooth()
    for start in (x.clone(), noisy(x, 0.2)):  # also where both are equal
        start.requires_grad_()
        (grad,) = torch.autograd.grad(lite0(x, start).sum(), start)
        assert torch.isfinite(grad).all()
    assert (grad.abs().sum((1, 2, 3)) > 0).all()


def test_small_images_are_enlarged_to_the_stated_side_and_large_ones_kept(lite0):
    with torch.no_grad():
        small, large = (lite0.features(smooth(1, side=side)) for side in (32, 96))
    assert [level.shape[1] for level in small] == [16, 24, 40, 112, 320]
    assert [level.shape[2] for level in small] == [32, 16, 8, 4, 2]
    assert [level.shape[2] for level in large] == [48, 24, 12, 6, 3]


def test_frozen_weights_are_no_part_of_the_module_but_follow_it():
    part = EfficientNetPyramid().train()
    assert not list(part.parameters()) and not part.state_dict()
    (network,) = part._frozen
    assert not network.training
    x = smooth().double()
    with torch.no_grad():
        assert part.double()(x, noisy(x, 0.1).double()).dtype == torch.float64
    with torch.device("meta"):  # a file is a file
        again = EfficientNetPyramid()
    assert {p.device.type for p in again._frozen[0].parameters()} == {"cpu"}
    assert again.identity == part.identity == "efficientnet_lite0@57934424"


def test_features_of_zero_have_a_finite_gradient():
    x = torch.zeros(1, 3, 2, 2, requires_grad=True)
    (grad,) = torch.autograd.grad(module._squares([x], [torch.ones(1, 3, 2, 2)])[0].sum(), x)
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("vgg", [None, "nowhere/vgg.pth"])
def test_lpips_without_weights_says_which_file_and_what_else(vgg):
    with pytest.raises(FileNotFoundError, match="vgg16-397923af.*or use efficientnet_lite0"):
        LPIPS(vgg=vgg)


def test_lpips_reads_its_files_and_sees_damage(vgg):
    part = LPIPS(vgg=vgg[0], linear=vgg[1])
    assert not list(part.parameters()) and not part.state_dict()
    x = smooth()
    assert torch.equal(part(x, x), torch.zeros(2)) and (part(x, noisy(x, 0.3)) > 0).all()
    assert part.double()(x.double(), -x.double()).dtype == torch.float64


def test_a_file_of_other_weights_is_refused(vgg):
    with pytest.raises(ValueError, match="has nothing under lin0.model.1.weight"):
        LPIPS(vgg=vgg[0], linear=vgg[0])


@pytest.mark.slow
def test_lpips_is_that_of_torchmetrics(tmp_path):
    """The same random VGG16 in both, and the linear weights that torchmetrics brings."""
    from torchmetrics.functional.image.lpips import _LPIPS

    state = module._VGG16().state_dict()
    save_file(state, tmp_path / "vgg.safetensors")
    theirs = _LPIPS(net="vgg", pnet_rand=True, use_dropout=True).eval()
    for key, value in theirs.net.state_dict().items():  # slice2.5.weight: layer 5
        value.copy_(state["features." + key.partition(".")[2]])
    ours, x = LPIPS(vgg=tmp_path / "vgg.safetensors"), smooth(side=48)
    with torch.no_grad():
        wanted = theirs(x, noisy(x, 0.3)).flatten()
        torch.testing.assert_close(ours(x, noisy(x, 0.3)), wanted, rtol=1e-4, atol=1e-7)
