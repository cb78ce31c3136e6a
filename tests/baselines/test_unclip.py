"""unCLIP: directions and guess, the priors, the best of two, and the decoder's conditions."""

import math
from dataclasses import replace

import pytest
import torch

from baselines.unclip.embedding import NAME, Directions, EmbeddedData, batches
from baselines.unclip.method import EmbeddingPrior, ExtraTokens
from baselines.unclip.networks import priors
from baselines.unclip.variations import between, decoded, prior_of
from hierdiff.batch import Batch, Cond
from hierdiff.methods import Request, methods
from hierdiff.noise import per_example
from hierdiff.objective import ProgressiveDistillation
from hierdiff.training.bounds import tensors_of
from hierdiff.training.format import save_weights
from hierdiff.training.published import completed
from tests import tiny
from tests.training import runs


def test_directions_keep_the_leading_variance_at_a_mean_of_one():
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([3.0, 2.0, 1e-3, 1e-3])
    features = 5 + scales * torch.randn(4000, 4, generator=generator)
    directions = Directions(4, 2, 0)
    kept = directions.fit(features, torch.zeros(4000, 0))
    state = directions(features)
    torch.testing.assert_close(state.mean(0), torch.zeros(2), atol=1e-3, rtol=0)
    assert math.isclose(float(state.var(0).mean()), 1, rel_tol=1e-3) and kept > 0.99999
    assert math.isclose(float(state.var(0)[0] / state.var(0)[1]), 9 / 4, rel_tol=0.1)


def test_the_guess_is_the_regression_of_the_state_on_the_conditions():
    generator = torch.Generator().manual_seed(0)
    conditions = torch.randn(4000, 3, generator=generator)
    conditions -= conditions.mean(0)
    weights = torch.randn(3, 2, generator=generator)
    directions = Directions(2, 2, 3)
    directions.fit(conditions @ weights, conditions)
    guess = conditions @ directions.guess
    state = directions(conditions @ weights)
    assert float((guess - state).norm() / state.norm()) < 0.05  # the ridge's share


def test_a_width_above_that_of_the_network_is_refused():
    with pytest.raises(ValueError, match="width 9 from a network of 4 features"):
        Directions(4, 9, 0)


def prior(name, **options):
    facts = {"classes": 3, "text_width": 6, "text_length": 4, "channels": 5}
    return tiny.randomised(priors.build({"name": name, **options}, offered=facts))


@pytest.mark.parametrize("name", priors.names())
@torch.no_grad()
def test_a_prior_reads_every_condition_and_no_padding(name):
    network = prior(name, width=16)
    x, log_snr, cond = torch.randn(3, 5), torch.zeros(3), tiny.cond("class and text", 3)
    plain = network.denoise(x, log_snr, cond)
    assert plain.shape == x.shape
    for other in (
        network.denoise(x + 1, log_snr, cond),
        network.denoise(x, log_snr + 1, cond),
        network.denoise(x, log_snr, replace(cond, labels=(cond.labels + 2) % 4 - 1)),
        network.denoise(x, log_snr, replace(cond, tokens=cond.tokens + 1)),
    ):
        assert float((other - plain).abs().amax(1).min()) > 1e-5
    padded = replace(cond, tokens=torch.where(cond.mask[..., None], cond.tokens, 7.0))
    torch.testing.assert_close(network.denoise(x, log_snr, padded), plain)


@torch.no_grad()
def test_the_transformer_is_causal():
    """A word does not see those after it, so without depth beyond one the query alone reads all."""
    block = tiny.randomised(prior("transformer", width=16, depth=1).blocks[0])
    x = torch.randn(1, 4, 16)
    seen = torch.ones(1, 1, 4, 4, dtype=torch.bool).tril()
    changed = x.clone()
    changed[:, 2] = torch.randn(16)
    difference = (block(changed, seen) - block(x, seen)).abs().amax(2)[0]
    assert float(difference[:2].max()) == 0 and float(difference[2:].min()) > 1e-4


WIDTH = tiny.SMALL["width"]  # of the embedding


def unclip(kind="class and text", **options):
    return tiny.randomised(tiny.method("unclip", kind, **options))


def test_two_candidates_are_at_least_as_near_to_the_guess_as_one():
    one, two = (unclip(candidates=n).stages[0] for n in (1, 2))
    two.load_state_dict(one.state_dict())
    for stage in (one, two):
        stage.directions.guess.normal_(generator=torch.Generator().manual_seed(1))
    cond = tiny.cond("class and text", 8)
    scores = []
    for stage in (one, two):
        request = Request(8, cond, noise=per_example(range(8)))
        (state,), _ = stage.hand_over(request)
        guess = stage._described(cond, 8) @ stage.directions.guess
        scores.append((state * guess).sum(1))
    gain = scores[1] - scores[0]
    assert float(gain.min()) >= -1e-4 and float(gain.max()) > 1e-3


def test_the_decoder_drops_the_embedding_and_the_caption_at_rates_of_their_own():
    decoder = unclip().stages[1]
    drop = decoder.objective.drop
    assert drop == {NAME: 0.1, "caption": 0.5, "label": 0.5}


def test_extra_tokens_follow_the_words():
    decoder = unclip(tokens=3).stages[1].denoiser
    assert isinstance(decoder, ExtraTokens)
    cond = replace(tiny.cond("class and text", 2), vectors={NAME: torch.randn(2, WIDTH)})
    seen = {}
    decoder.denoiser.prepare = lambda cond: seen.setdefault("cond", cond)
    decoder.prepare(cond)
    tokens, mask = seen["cond"].tokens, seen["cond"].mask
    assert tokens.shape == (2, tiny.LENGTH + 3, tiny.WIDTH) and bool(mask[:, -3:].all())
    torch.testing.assert_close(tokens[:, : tiny.LENGTH], cond.tokens)
    assert torch.equal(mask[:, : tiny.LENGTH], cond.mask)


class Pictures:
    flip = True

    def __init__(self):
        generator = torch.Generator().manual_seed(3)
        self.images = torch.rand(6, 3, 16, 16, generator=generator) * 2 - 1

    def __len__(self):
        return 6

    def batch(self, index, flip=None):
        images = self.images[index]
        if flip is not None:
            images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        return Batch(images, Cond(labels=index % 3))


def test_training_data_holds_the_embeddings_of_images_and_of_mirrored_ones():
    stage = unclip("class", width=4).stages[0]
    data = stage.start(None, Pictures())
    assert isinstance(data, EmbeddedData) and data.flip and len(data) == 6
    flips = torch.tensor([False, True, False])
    batch = data.batch(torch.tensor([0, 2, 5]), flips)
    (state,) = stage.encode(batch.images)
    torch.testing.assert_close(batch.cond.vectors[NAME], state, rtol=1e-4, atol=1e-4)
    assert sum(len(b) for b in batches(Pictures(), most=4)) == 4


def test_a_student_of_a_prior_keeps_the_directions_of_its_teacher():
    teacher = unclip("class", width=4, embedding={"name": "random_conv"}).stages[0]
    before = teacher.directions.basis.clone()
    objective = ProgressiveDistillation(teacher.objective.parameterization, steps=2)
    student = teacher.pupil(objective, teacher.sampling, name="student")
    data = student.start(teacher, Pictures())
    assert torch.equal(teacher.directions.basis, before)
    batch = data.batch(torch.arange(6))
    torch.testing.assert_close(batch.cond.vectors[NAME], student.encode(batch.images)[0])


def test_a_prior_that_is_trained_on_elsewhere_keeps_the_directions_that_its_network_knows(
    tmp_path, monkeypatch
):
    node = tiny.method_node("unclip", (8,), width=4, embedding={"name": "random_conv"})
    teacher, seen = tiny.randomised(runs.built(node)), []
    teacher.stages[0].directions.basis.normal_()
    save_weights(tmp_path / "weights.safetensors", tensors_of(teacher), runs.config(node))
    node = completed({"name": "published", "checkpoint": str(tmp_path), "share": 0.5})
    inputs = EmbeddingPrior.inputs

    def watched(self, batch, draws):
        seen.append(batch.cond.vectors[NAME] - self.encode(batch.images)[0])
        return inputs(self, batch, draws)

    monkeypatch.setattr(EmbeddingPrior, "inputs", watched)
    runs.run(tmp_path / "again", node, steps=2, checkpoint_every=0, sheet_images=1)
    assert len(seen) == 1 and float(seen[0].abs().max()) < 1e-3


def test_images_between_two_start_and_end_at_them_and_keep_their_norm():
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    path = between(a, b, 5)
    torch.testing.assert_close(path[[0, -1]], torch.stack([a, b]))
    torch.testing.assert_close(path.norm(dim=1), torch.full((5,), 2.0))
    torch.testing.assert_close(path[2], torch.full((2,), math.sqrt(2)))
    torch.testing.assert_close(between(a, a, 3), a.expand(3, -1))


def test_images_follow_from_an_embedding_through_all_stages():
    method = unclip("unconditional")
    prior_of(method)
    z = torch.randn(1, WIDTH).expand(2, -1)
    request = Request(2, noise=per_example([0, 1]))
    (images,) = decoded(method, z, request).values()
    assert images.shape == (2, 3, 16, 16)
    assert not torch.equal(images[0], images[1])  # the noise varies
    (other,) = decoded(method, -z, Request(2, noise=per_example([0, 1]))).values()
    assert not torch.equal(other, images)
    with pytest.raises(ValueError, match="first stage is .*take a run of method=unclip"):
        prior_of(tiny.method("end_to_end"))


def test_the_published_prior_has_about_a_billion_parameters():
    """Width 2048 and 24 blocks, with 768 features of CLIP and 77 words of 1024; "1B" in print."""
    facts = {"channels": 768, "text_width": 1024, "text_length": 77}
    node = {"name": "transformer", "width": 2048, "depth": 24, "heads": 32}
    with torch.device("meta"):
        network = priors.build(node, offered=facts)
    assert sum(p.numel() for p in network.parameters()) == 1_221_364_480


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="3 stages of unclip with 1 resolutions"):
        methods.build({**tiny.method_node("unclip"), "resolutions": [16], "stages": [{}, {}, {}]})
    with pytest.raises(ValueError, match="reads no text"):
        network = tiny.denoiser("unet")
        ExtraTokens(network, 4, 8, 0)


def test_what_prior_and_decoder_mean_includes_the_embedding_network():
    """Of two widths of features the directions make states of the same shape."""
    one, other = (
        tiny.method("unclip", embedding={"name": "random_conv", "width": width}).stages
        for width in (16, 24)
    )
    assert one[0].identity != other[0].identity and one[1].identity != other[1].identity
    assert one[2].identity == other[2].identity
