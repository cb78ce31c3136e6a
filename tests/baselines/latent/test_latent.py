"""The two stages of latent diffusion: their losses, what they keep, and what is refused."""

import shutil
from pathlib import Path

import pytest
import torch

from baselines.latent.codec import AutoencoderCodec, Statistics, mark_of
from baselines.latent.stage import Losses
from hierdiff.batch import Batch
from hierdiff.codec import Codec, Pyramid
from hierdiff.method import methods
from hierdiff.noise import given
from hierdiff.training import load_method, train
from tests import tiny
from tests.training.runs import config, images, recipe

NET = {"name": "unet", "width": 8, "multiples": [1], "blocks": 1, "attention": 0, "groups": 4}
AUTOENCODER = {"width": 8, "multiples": [1, 2], "blocks": 1, "groups": 4, "latent_channels": 2}
LATENT_FACTS = {"channels": 3, "classes": 4}


def node(regulariser="kl", **codec):
    options = {
        "name": "autoencoder",
        "autoencoder": {**AUTOENCODER, "regulariser": {"name": regulariser}},
        "perceptual": {"name": "none"},
        "discriminator": {"width": 4, "layers": 1},
        "loss": {"start": 0.5},
    }
    return {
        "name": "latent",
        "resolutions": [8],
        "denoiser": NET,
        "codec": {**options, **codec},
        "sampling": {"steps": 2, "threshold": {"name": "none"}},
    }


def built(seed=0, **options):
    torch.manual_seed(seed)
    return methods.build(node(**options), offered=LATENT_FACTS)


def trained(folder: Path, cascade=None, steps=6):
    cascade = cascade or node()
    data = images()
    kept = config(cascade, data_sha256=data.sha256)
    torch.manual_seed(1)
    method = methods.build(cascade, offered=LATENT_FACTS)
    options = recipe(steps=steps, checkpoint_every=2, keep=20, batch_size=4)
    return train(method, data, folder, options, config=kept)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run that nobody changes."""
    return trained(tmp_path_factory.mktemp("whole"))


def test_with_the_identity_it_is_end_to_end():
    made = []
    for name, extra in (("latent", {"codec": {"name": "identity"}}), ("end_to_end", {})):
        options = {"resolutions": [8], "denoiser": NET, "sampling": {"steps": 2}, **extra}
        torch.manual_seed(0)
        method = methods.build({"name": name, **options}, offered=tiny.facts("class"))
        tiny.randomised(method)
        (stage,) = method.stages
        batch = tiny.batch("class", side=8)
        loss = stage(batch, stage.draw(batch, tiny.noise())).total
        made.append((loss, method.sample(2, noise=tiny.noise())[8]))
    assert torch.equal(made[0][0], made[1][0]) and torch.equal(made[0][1], made[1][1])


# -- statistics ----------------------------------------------------------------------------------


def test_statistics_are_those_of_samples_of_the_posterior():
    """Var z = Var mu + E sigma^2; log-variances of 0 and ln 4, means of two values."""
    network = built().stages[0].autoencoder
    mean = torch.tensor([[1.0, 3.0], [3.0, -1.0]])[:, :, None, None].expand(2, 2, 4, 4)
    logvar = torch.log(torch.tensor([1.0, 4.0]))[None, :, None, None].expand(2, 2, 4, 4)
    by_channel, by_tensor = Statistics(2), Statistics(2, "tensor")
    for statistics in (by_channel, by_tensor):
        statistics.measure(torch.cat([mean, logvar], 1).split(1), network)
    assert by_channel.mean.flatten().tolist() == [2, 1]
    torch.testing.assert_close(by_channel.std.flatten() ** 2, torch.tensor([2.0, 8.0]))
    assert by_tensor.mean.flatten().tolist() == [1.5, 1.5]
    total = (1 + 4) / 2 + torch.tensor([1.0, 3.0, 3.0, -1.0]).var(correction=0)
    torch.testing.assert_close(by_tensor.std.flatten() ** 2, total.expand(2))


def test_latents_of_the_training_set_have_unit_spread(whole):
    method, _ = load_method(whole.weights)
    data = images()
    x = data.batch(torch.arange(20)).images
    noise = torch.randn(50, 20, 2, 4, 4)
    flipped = torch.cat([x, x.flip(-1)])  # both were encoded
    codec = method.stages[1].codec
    z = torch.cat([codec.encode(flipped, given([torch.cat([n, n])]))[0] for n in noise])
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(2), atol=0.05, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(2), atol=0.05, rtol=0)


def test_missing_and_stale_statistics_are_errors(whole):
    method = built()
    with pytest.raises(ValueError, match="statistics were never measured: train"):
        method.sample(1, noise=tiny.noise())
    method.stages[1].untrained()  # for timing
    assert method.sample(1, noise=tiny.noise())[8].shape == (1, 3, 8, 8)
    method, _ = load_method(whole.weights)
    method.sample(1, noise=tiny.noise())
    with torch.no_grad():
        method.stages[0].autoencoder.last_layer.weight.mul_(1.01)
    with pytest.raises(ValueError, match="those of another autoencoder"):
        method.sample(1, noise=tiny.noise())


def test_the_mark_tells_autoencoders_apart():
    marks = [mark_of(built(seed).stages[0].autoencoder) for seed in (0, 0, 1)]
    assert torch.equal(marks[0], marks[1]) and not torch.allclose(marks[0], marks[2])


# -- losses --------------------------------------------------------------------------------------


def loss_of(stage, turn, step, x=None, eps=None):
    batch = Batch(x if x is not None else tiny.batch("", side=8).images)
    return stage(batch, stage.draw(batch, tiny.noise()) if eps is None else eps, turn, step)


def test_the_reconstruction_loss_is_a_likelihood_summed_over_an_example():
    """(|x - x'|) / exp(s) + s for each element, and the divergence at its weight."""
    stage = built(loss={"regulariser": 0.5}).stages[0]
    stage.log_variance.value.data.fill_(0.3)
    stage.steps = 10
    batch = Batch(tiny.batch("", side=8).images)
    eps = stage.draw(batch, tiny.noise())
    made = stage.autoencoder(batch.images, eps)
    pixel = (batch.images - made.images).abs()
    wanted = (pixel / torch.tensor(0.3).exp() + 0.3).flatten(1).sum(1).mean()
    divergence = stage.autoencoder.regulariser.divergence(made.moments).flatten(1).sum(1).mean()
    torch.testing.assert_close(stage(batch, eps).total, wanted + 0.5 * divergence)


def test_the_mean_reduction_divides_by_the_elements():
    options = {"regulariser": 0, "start": 1}
    stages = [built(loss={"reduction": r, **options}).stages[0] for r in ("sum", "mean")]
    for stage in stages:
        stage.steps = 10
    losses = [loss_of(stage, "autoencoder", 0).total for stage in stages]
    torch.testing.assert_close(losses[0], losses[1] * 3 * 8 * 8)


@pytest.mark.parametrize(("start", "first"), [(0.5, 5), (0, 0), (7, 7)])
def test_the_discriminator_starts_at_a_share_of_the_steps_or_at_a_step(start, first):
    stage = built(loss={"start": start}).stages[0]
    stage.steps = 10
    for step in range(10):
        loss = loss_of(stage, "discriminator", step)
        loss.total.backward()
        moved = max(float(p.grad.abs().max()) for p in stage.discriminator.parameters())
        assert (moved > 0) == (step >= first)
        stage.discriminator.zero_grad()
        logs = loss_of(stage, "autoencoder", step).logs
        assert ("adversarial/weight" in logs) == (step >= first)
        assert all(torch.isfinite(value) for value in logs.values())


def test_each_turn_moves_its_own_parameters(tmp_path: Path):
    stage = built().stages[0]
    first, second = stage.turns
    made, judged = ({id(p) for p in turn.module.parameters()} for turn in (first, second))
    assert not made & judged and len(made | judged) == len(list(stage.parameters()))


def test_a_sheet_shows_originals_beside_their_reconstructions():
    stage = built().stages[0]
    batch = tiny.batch("", side=8)
    shown = stage.preview(batch.cond, batch, tiny.noise())[8]
    assert torch.equal(shown[0], batch.images[0]) and torch.equal(shown[2], batch.images[1])
    torch.testing.assert_close(shown[1], stage.reconstructed(batch.images)[0])


# -- runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("regulariser", ["kl", "vq"])
def test_both_stages_train_and_the_latents_are_sampled(tmp_path: Path, regulariser):
    summary = trained(tmp_path, node(regulariser))
    assert summary.steps == 12
    method, _ = load_method(summary.weights)
    assert method.sample(2, noise=tiny.noise())[8].abs().max() <= 1


@pytest.mark.parametrize("kept", [2, 4, 6, 8])
def test_a_run_that_was_cut_in_either_stage_ends_with_the_same_weights(tmp_path, whole, kept):
    shutil.copytree(whole.folder, tmp_path / "cut")
    for path in (tmp_path / "cut" / "checkpoints").iterdir():
        if int(path.stem.split("_")[1]) > kept:
            path.unlink()
    (tmp_path / "cut" / "weights.safetensors").unlink()
    again = trained(tmp_path / "cut")
    assert again.resumed_at == kept
    assert again.weights.read_bytes() == whole.weights.read_bytes()
    log = (tmp_path / "cut" / "log.jsonl").read_bytes()
    assert log == (whole.folder / "log.jsonl").read_bytes()


def test_an_autoencoder_is_trained_once_and_used_again(tmp_path: Path, whole):
    first = whole
    before, _ = load_method(first.weights)
    second = trained(tmp_path / "second", node(checkpoint=str(first.weights)))
    after, _ = load_method(second.weights)
    assert second.steps == 6
    state = after.stages[0].state_dict()
    for name, tensor in before.stages[0].state_dict().items():
        assert torch.equal(tensor, state[name])
    other = {**AUTOENCODER, "latent_channels": 3}
    with pytest.raises(ValueError, match="'autoencoder'.*differs in its network"):
        trained(tmp_path / "third", node(checkpoint=str(first.weights), autoencoder=other))


class Halved(Codec):
    """A codec of one's own: nothing to train."""

    def __init__(self, *, resolution: int, channels: int = 3):
        self.inside = Pyramid([resolution], channels)

    def encode(self, images, noise=None):
        return tuple(level / 2 for level in self.inside.encode(images))

    def decode(self, levels):
        return self.inside.decode(tuple(level * 2 for level in levels))

    def shapes(self):
        return self.inside.shapes()

    def tail(self, n):
        return self


def test_a_codec_of_ones_own_comes_by_its_path():
    method = methods.build(
        {**node(), "codec": {"name": f"{__name__}:Halved"}}, offered=LATENT_FACTS
    )
    assert len(method.stages) == 1
    assert method.sample(1, noise=tiny.noise())[8].shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"autoencoder": {**AUTOENCODER, "multiples": [1, 1, 1, 1, 1]}},
            "8 is not a multiple of 16",
        ),
        ({"autoencoder": {**AUTOENCODER, "chanels": 3}}, "did you mean 'channels'"),
        ({"discriminator": {"layers": 3}}, "image side 8 is too small for this discriminator"),
        ({"statistics": "pixel"}, "statistics by 'pixel': choose channel or tensor"),
        ({"loss": {"reduction": "men"}}, "unknown reduction 'men', did you mean 'mean'"),
        ({"loss": {"adversarial": -1}}, "loss.adversarial=-1"),
        ({"perceptual": {"name": "lpip"}}, "did you mean 'lpips'"),
    ],
)
def test_what_cannot_work_is_refused_at_build(options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        built(**options)


def test_missing_perceptual_weights_end_a_run_before_its_first_step(tmp_path: Path):
    wanted = node(perceptual={"name": "lpips"})
    with pytest.raises(FileNotFoundError, match="lpips needs weights"):
        trained(tmp_path, wanted)
    assert not (tmp_path / "checkpoints").exists()
    methods.build(wanted, offered=LATENT_FACTS)  # who samples does not need them


def test_a_patch_that_does_not_divide_the_latents_is_refused_before_compute():
    dit = {"name": "dit", "width": 16, "depth": 1, "heads": 2, "patch": 3}
    with pytest.raises(ValueError, match="patch"):
        methods.build({**node(), "denoiser": dit}, offered=LATENT_FACTS)


def test_a_denoiser_of_other_channels_is_refused_before_compute():
    with pytest.raises(ValueError, match="channels"):
        methods.build({**node(), "denoiser": {**NET, "channels": 3}}, offered=LATENT_FACTS)


def test_losses_are_checked():
    assert Losses().reduction == "sum"
    assert isinstance(built().stages[1].codec, AutoencoderCodec)
