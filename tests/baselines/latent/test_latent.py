"""The two stages of latent diffusion: their losses, what they keep, and what is refused."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baselines.latent.codec import LatentStatistics
from baselines.latent.stage import LatentDiffusion, Losses
from hierdiff.batch import Batch
from hierdiff.codec import Codec, Pyramid, codecs
from hierdiff.methods import Bridged, Method, Request, Sampling, methods
from hierdiff.methods.diffusion import diffusion
from hierdiff.objective import ScoreMatching
from hierdiff.objective.times import Window
from hierdiff.schedules import Cosine
from hierdiff.training import load_method, train
from hierdiff.training.published import completed
from hierdiff.training.step import optimizer_for
from tests import tiny
from tests.house.test_refiner import START, Takeover
from tests.training.runs import config, images, recipe

NET = {"name": "unet", "width": 8, "multiples": [1], "blocks": 1, "attention": 0, "groups": 4}
AUTOENCODER = {"width": 8, "multiples": [1, 2], "blocks": 1, "groups": 4, "latent_channels": 2}
LATENT_FACTS = {"channels": 3, "classes": 4}


CODEBOOK = {"reduction": "mean", "learnt_variance": False}  # of a loss, as released


def node(regulariser="kl", **codec):
    options = {
        "name": "autoencoder",
        "autoencoder": {**AUTOENCODER, "regulariser": {"name": regulariser}},
        "perceptual": {"name": "none"},
        "discriminator": {"width": 4, "layers": 1},
        "loss": {"start": 0.5},
    }
    if regulariser == "vq":
        options["loss"] = {**options["loss"], **CODEBOOK}
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


def trained(folder: Path, cascade=None, steps=6, data=None, **more):
    cascade = cascade or node()
    data = data or images()
    kept = config(cascade, data_sha256=data.sha256)
    torch.manual_seed(1)
    method = methods.build(cascade, offered=LATENT_FACTS)
    options = recipe(steps=steps, checkpoint_every=2, keep=20, batch_size=4, **more)
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
        made.append((loss, method.sample(Request(2, noise=tiny.noise()))[8]))
    assert torch.equal(made[0][0], made[1][0]) and torch.equal(made[0][1], made[1][1])


# -- statistics ----------------------------------------------------------------------------------


def test_statistics_are_those_of_samples_of_the_posterior():
    """Var z = Var mu + E sigma^2; log-variances of 0 and ln 4, means of two values."""
    network = built().stages[0].autoencoder
    mean = torch.tensor([[1.0, 3.0], [3.0, -1.0]])[:, :, None, None].expand(2, 2, 4, 4)
    logvar = torch.log(torch.tensor([1.0, 4.0]))[None, :, None, None].expand(2, 2, 4, 4)
    by_channel, by_tensor = LatentStatistics(2), LatentStatistics(2, "tensor")
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
    moments = codec.moments(flipped)
    z = torch.cat([codec.normalised(moments, torch.cat([n, n]))[0] for n in noise])
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(2), atol=0.05, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(2), atol=0.05, rtol=0)


class Latents:
    """Moments of two images of two channels: means 1 3 3 -1, log-variances 0 and ln 4."""

    def __init__(self):
        mean = torch.tensor([[1.0, 3.0], [3.0, -1.0]])[:, :, None, None].expand(2, 2, 4, 4)
        logvar = torch.log(torch.tensor([1.0, 4.0]))[None, :, None, None].expand(2, 2, 4, 4)
        self.moments = torch.cat([mean, logvar], 1)

    def chunks(self):
        return self.moments.split(1)

    def first(self):
        return self.moments


@pytest.mark.parametrize(
    ("by", "std"),
    [
        ("first_batch", math.sqrt(2.75 + 2.5)),  # Var mu about their mean 1.5, and E sigma^2
        ("none", 1.0),
        (0.18215, 5.489980785),  # published scale of the f8 autoencoder: 1 / 5.49
    ],
)
def test_published_statistics_are_a_scale_and_no_mean(by, std):
    network = built().stages[0].autoencoder
    statistics = LatentStatistics(2, by)
    statistics.find(Latents(), network)
    assert statistics.mean.flatten().tolist() == [0, 0]
    assert statistics.std.flatten().tolist() == pytest.approx([std, std])
    statistics.check(network)


def test_a_run_with_published_statistics_keeps_them_in_its_weights(tmp_path: Path):
    summary = trained(tmp_path, node(statistics=0.5), steps=2)
    method, _ = load_method(summary.weights)
    codec = method.stages[1].codec
    moments = codec.moments(images().batch(torch.arange(2)).images)
    (z,) = codec.normalised(moments, None)
    torch.testing.assert_close(z, 0.5 * codec.network.regulariser.mode(moments))


@pytest.mark.parametrize("by", [0, -1.0, True])
def test_unknown_statistics_are_refused(by):
    with pytest.raises(ValueError, match="choose channel, tensor, first_batch, none or a scale"):
        LatentStatistics(2, by)


def test_missing_and_stale_statistics_are_errors(whole):
    method = built()
    with pytest.raises(ValueError, match="statistics were never measured: train"):
        method.sample(Request(1, noise=tiny.noise()))
    method.stages[1].start_untrained()  # for timing
    assert method.sample(Request(1, noise=tiny.noise()))[8].shape == (1, 3, 8, 8)
    method, _ = load_method(whole.weights)
    method.sample(Request(1, noise=tiny.noise()))
    with torch.no_grad():
        method.stages[0].autoencoder.last_layer.weight.mul_(1.01)
    with pytest.raises(ValueError, match="those of another autoencoder"):
        method.sample(Request(1, noise=tiny.noise()))


def test_samples_after_the_first_do_not_read_the_weights_again(whole, monkeypatch):
    method, _ = load_method(whole.weights)
    stage, calls = method.stages[1], []
    network = stage.codec.network
    found = network.fingerprint
    monkeypatch.setattr(network, "fingerprint", lambda: calls.append(1) or found())
    for _ in range(3):
        stage.hand_over(Request(1, noise=tiny.noise()))
    assert len(calls) == 1
    with torch.no_grad():
        network.last_layer.bias[0] *= -1
    with pytest.raises(ValueError, match="those of another autoencoder"):
        stage.hand_over(Request(1, noise=tiny.noise()))


def test_statistics_hold_in_another_dtype(whole):
    method, _ = load_method(whole.weights)
    method.to(torch.float64).stages[1].codec.check()


# -- losses --------------------------------------------------------------------------------------


def loss_of(stage, turn, step, x=None, eps=None):
    batch = Batch(x if x is not None else tiny.batch("", side=8).images)
    return stage(batch, stage.draw(batch, tiny.noise()) if eps is None else eps, turn, step)


@pytest.mark.parametrize(("name", "weight"), [("kl", 1e-6), ("vq", 1.0)])
def test_a_regulariser_has_its_published_weight(name, weight):
    own = built(regulariser=name)
    given = built(regulariser=name, loss={**node(name)["codec"]["loss"], "regulariser": weight})
    losses = [loss_of(method.stages[0], "autoencoder", 0).total for method in (own, given)]
    assert torch.equal(*losses)


def test_adam_sees_the_gradient_of_the_codes():
    """Clipped to a norm of 1 it is far above Adam's epsilon, also with the released 0.25."""
    released = {"name": "vq", "codes": 64, "commitment": 1, "codebook": 0.25}
    stage = built(autoencoder={**AUTOENCODER, "regulariser": released}).stages[0]
    loss_of(stage, "autoencoder", 0).total.backward()
    moved = [p for p in stage.turns[0].module.parameters() if p.grad is not None]
    torch.nn.utils.clip_grad_norm_(moved, 1.0)
    pull = stage.autoencoder.regulariser.codes.weight.grad.abs()
    assert pull[pull > 0].median() > 1e3 * 1e-8


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


@pytest.mark.parametrize(("start", "first"), [(0.5, 5), (0, 0), (7, 7), (1, 10)])
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


@pytest.mark.parametrize("turn", ["autoencoder", "discriminator"])
def test_each_turn_moves_its_own_parameters(turn):
    stage = built(loss={"start": 0}).stages[0]
    stage.steps = 10
    (player,) = (one for one in stage.turns if one.name == turn)
    before = {name: p.detach().clone() for name, p in stage.named_parameters()}
    loss_of(stage, turn, 0).total.backward()
    torch.optim.AdamW(player.module.parameters()).step()
    moved = {name for name, p in stage.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if (turn == "discriminator") == ("discr" in name)}


@pytest.mark.parametrize(
    "loss", [{}, {"reduction": "mean"}, {"learnt_variance": False}, {"reduction": "sum"}]
)
def test_a_codebook_is_not_trained_by_the_recipe_of_kl(loss):
    stage = built(regulariser="vq", loss=loss).stages[0]
    for begin in (stage.check, lambda: stage.start(None, None)):
        with pytest.raises(ValueError, match=r"hardly counts: choose mean and false, or codec@"):
            begin()
    built(regulariser="vq", loss=CODEBOOK).stages[0].check()
    built(loss=loss).stages[0].check()


def test_a_codebook_of_another_run_may_have_any_loss(tmp_path: Path):
    """It is not trained: a method of converted weights says nothing of a loss."""
    stage = built(regulariser="vq", loss={}, checkpoint="weights").stages[0]
    assert stage.start(None, "data") == "data"


def test_the_loss_of_a_codebook_is_that_of_vqgan():
    """Mean |x - x'| + weight (beta mean |sg[z] - q|^2 + mean |z - sg[q]|^2)."""
    options = {"name": "vq", "codes": 64, "commitment": 1, "codebook": 0.25}
    loss = {**CODEBOOK, "regulariser": 0.7, "start": 1}
    stage = built(autoencoder={**AUTOENCODER, "regulariser": options}, loss=loss).stages[0]
    stage.steps = 10
    x = tiny.batch("", side=8).images
    z = stage.autoencoder.encode(x)
    q = stage.autoencoder.regulariser.quantised(z)
    pixel = (x - stage.autoencoder.decode(z)).abs().mean()
    wanted = pixel + 0.7 * 1.25 * ((z - q) ** 2).mean()
    torch.testing.assert_close(loss_of(stage, "autoencoder", 0, x).total, wanted)
    assert not [p for p in stage.log_variance.parameters() if p.requires_grad]


def test_betas_of_an_autoencoder_are_those_of_its_two_turns_alone():
    given, own = recipe(betas=[0.8, 0.95]), [0.5, 0.9]
    autoencoder, diffusion = built(trainer={"betas": own}).stages
    assert len(autoencoder.turns) == 2
    for stage, wanted in ((autoencoder, own), (diffusion, [0.8, 0.95])):
        for turn in stage.turns:
            groups = optimizer_for(turn, given.of(stage)).param_groups
            assert all(list(group["betas"]) == wanted for group in groups)


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
    assert method.sample(Request(2, noise=tiny.noise()))[8].abs().max() <= 1


class Refiner(Bridged, LatentDiffusion):
    """Continues in the latents of the stage before."""


@pytest.mark.slow
def test_a_refiner_takes_over_in_the_latents(tmp_path: Path):
    codec = codecs.build(node()["codec"], offered={"resolution": 8, "channels": 3})
    shared = {"codec": codec, "schedules": [Cosine()], "denoiser": NET, "facts": LATENT_FACTS}
    shared |= {"process": "variance_preserving", "sampling": Sampling(steps=4)}
    early, late = ScoreMatching(time=Window(low=START)), ScoreMatching(time=Window(high=START))
    base = diffusion(stage=LatentDiffusion, objective=early, **shared)
    after = {"stage": Refiner, "bridge": Takeover(), "previous": base}
    refiner = diffusion(objective=late, **after, **shared)
    batch = Batch(tiny.batch("", side=8).images)
    torch.testing.assert_close(base.state(refiner.prepare_batch(batch)), base.encode(batch.images))
    assert torch.equal(base.state(batch)[0], base.encode(batch.images)[0])
    method, data = Method([8], [codec.stage, base, refiner]), images()
    before = [parameter.clone() for parameter in refiner.denoiser.parameters()]
    train(method, data, tmp_path, recipe(steps=6), config=config(node(), data_sha256=data.sha256))
    changed = zip(before, refiner.denoiser.parameters(), strict=True)
    assert not all(torch.equal(old, new) for old, new in changed)
    assert refiner.evaluations == 3 + 2  # above t = 0.3, and from it on
    assert method.sample(Request(2, noise=tiny.noise()))[8].abs().max() <= 1


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


@pytest.mark.parametrize("change", [{"latent_channels": 3}, {"groups": 2}, {"attention_at": [4]}])
def test_an_autoencoder_of_another_layout_is_refused(tmp_path: Path, whole, change):
    wanted = node(checkpoint=str(whole.weights), autoencoder={**AUTOENCODER, **change})
    with pytest.raises(ValueError, match=r"'autoencoder'.*widths \[8, 8, 16\].*here") as refused:
        trained(tmp_path, wanted)
    assert len(str(refused.value)) < 900 and not (tmp_path / "checkpoints").exists()


def test_a_stage_takes_the_state_of_another_that_comes_without_its_discriminator():
    one, other = (built(seed).stages[0] for seed in (0, 1))
    state = one.state_dict()
    kept = {name: part.clone() for name, part in other.discriminator.state_dict().items()}
    other.load_state_dict(state)
    assert all(torch.equal(part, state[name]) for name, part in other.state_dict().items())
    own = other.discriminator.state_dict()
    assert kept and all(torch.equal(own[name], part) for name, part in kept.items())


@pytest.mark.slow
def test_a_latent_run_is_distilled_with_its_autoencoder(tmp_path: Path, whole):
    node = completed({"name": "distilled", "of": str(whole.weights), "steps": [1]})
    method = methods.build(node, offered=images().facts)
    summary = train(method, images(), tmp_path, recipe(steps=2), config=config(node))
    assert summary.stage_steps == (0, 0, 2)
    teacher = load_method(whole.weights)[0].state_dict()
    found = method.state_dict()
    assert all(
        torch.equal(found[name], part) for name, part in teacher.items() if "discr" not in name
    )
    assert set(method.sample(Request(1, noise=tiny.noise()))) == set(method.resolutions)


@pytest.mark.slow
def test_an_autoencoder_comes_without_its_discriminator(tmp_path: Path, whole):
    wanted = node(checkpoint=str(whole.weights), discriminator=None)
    assert trained(tmp_path / "a", wanted).steps == 6
    alone = trained(tmp_path / "b", node(discriminator=None))
    assert trained(tmp_path / "c", node(checkpoint=str(alone.weights))).steps == 6


def test_dropout_is_none_where_latents_are_made_and_read(tmp_path: Path):
    dropping = built(autoencoder={**AUTOENCODER, "dropout": 0.9})
    method, x = built(autoencoder=AUTOENCODER), tiny.batch("", side=8).images
    made = [
        m.train().stages[1].codec.decode(m.stages[1].codec.encode(x)) for m in (dropping, method)
    ]
    assert torch.equal(made[0][8], made[1][8])


IMAGENET = "ImageNet"


@pytest.mark.slow
@pytest.mark.parametrize("saw", [True, False])
def test_the_note_of_a_row_tells_what_its_autoencoder_was_trained_on(tmp_path: Path, saw):
    """Through a chain of runs, whatever these would train on themselves."""
    perceptual = [{"name": "none"}, {"name": "efficientnet_lite0"}]
    last = trained(tmp_path / "first", node(perceptual=perceptual[saw]), steps=2)
    for name in ("second", "third"):
        options = {"perceptual": perceptual[not saw], "checkpoint": str(last.weights)}
        last = trained(tmp_path / name, node(**options), steps=2)
        stage = load_method(last.weights)[0].stages[0]
        assert any(IMAGENET in note for note in stage.notes) == saw
        assert any("another run" in note for note in stage.notes)


def test_an_autoencoder_of_other_images_has_its_latents_measured_anew(tmp_path: Path, whole):
    dark = replace(images(), images=images().images // 8)
    found = trained(tmp_path, node(checkpoint=str(whole.weights)), data=dark)
    method, _ = load_method(found.weights)
    codec, first = method.stages[1].codec, load_method(whole.weights)[0].stages[1].codec
    x = dark.batch(torch.arange(20)).images
    z = torch.cat([codec.encode(x)[0], codec.encode(x.flip(-1))[0]])
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(2), atol=0.05, rtol=0)
    assert not torch.allclose(codec.statistics.mean, first.statistics.mean, atol=0.01)


def test_a_run_does_not_go_on_with_other_images(tmp_path: Path, whole):
    shutil.copytree(whole.folder, tmp_path / "run")
    dark = replace(images(), images=images().images // 8)
    with pytest.raises(ValueError, match="was written with other images.*another run"):
        trained(tmp_path / "run", data=dark)


@pytest.mark.slow
def test_double_precision_has_a_perceptual_network_too(tmp_path: Path):
    wanted = node(perceptual={"name": "efficientnet_lite0", "side": 32})
    summary = trained(tmp_path, wanted, steps=2, precision="64-true")
    load_method(summary.weights)[0].stages[1].codec.check()  # read in single precision


class Halved(Codec):
    """A codec of one's own: nothing to train."""

    def __init__(self, *, resolution: int, channels: int = 3):
        self.inside = Pyramid([resolution], channels)
        self.resolutions = self.inside.resolutions

    def encode(self, images):
        return tuple(level / 2 for level in self.inside.encode(images))

    def decode(self, levels):
        return self.inside.decode(tuple(level * 2 for level in levels))

    def shapes(self):
        return self.inside.shapes()

    def tail(self, n):
        return self


def double(tensor):
    return tensor.double() if tensor.is_floating_point() else tensor


class Networked(Halved):
    """One that computes with a network, in a halved pyramid."""

    def __init__(self, *, resolution: int, channels: int = 3):
        super().__init__(resolution=resolution, channels=channels)
        self.network = torch.nn.Sequential(
            torch.nn.Conv2d(channels, channels, 1), torch.nn.Dropout()
        )

    def encode(self, images):
        return super().encode(self.network(images))


def test_the_network_of_a_codec_follows_its_stage_and_is_frozen(tmp_path: Path):
    wanted = {**node(), "codec": {"name": f"{__name__}:Networked"}}
    method = methods.build(wanted, offered=LATENT_FACTS).to(torch.float64).train()
    (stage,), batch = method.stages, images().batch(torch.arange(4)).map(double)
    weight = stage.codec.network[0].weight
    assert weight.dtype == torch.float64 and not stage.codec.network.training
    draws = stage.draw(batch, lambda shape: tiny.noise()(shape).double())
    stage(batch, draws).total.backward()
    assert weight.grad is None and next(stage.denoiser.parameters()).grad is not None
    summary = trained(tmp_path, wanted, steps=2)  # nothing but the weights rebuilds a random one
    first, second = (load_method(summary.weights, ["tests"])[0].stages[0].codec for _ in range(2))
    assert torch.equal(first.network[0].weight, second.network[0].weight)


def test_a_codec_of_ones_own_comes_by_its_path():
    method = methods.build(
        {**node(), "codec": {"name": f"{__name__}:Halved"}}, offered=LATENT_FACTS
    )
    assert len(method.stages) == 1
    assert method.sample(Request(1, noise=tiny.noise()))[8].shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"autoencoder": {**AUTOENCODER, "multiples": [1, 1, 1, 1, 1]}},
            "8 is not a multiple of 16",
        ),
        ({"autoencoder": {**AUTOENCODER, "chanels": 3}}, "did you mean 'channels'"),
        ({"discriminator": {"layers": 3}}, "image side 8 is too small for this discriminator"),
        ({"statistics": "pixel"}, "statistics takes one of channel, tensor"),
        ({"loss": {"reduction": "men"}}, "reduction takes one of sum, mean, did you mean 'mean'"),
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


@pytest.mark.parametrize(
    "name", ["perceptual", "regulariser", "adversarial", "start", "discriminator_lr"]
)
def test_no_weight_of_a_loss_is_negative(name):
    with pytest.raises(ValueError, match=f"loss.{name}=-0.5: {name} takes a number, 0 or more"):
        Losses(**{name: -0.5})
