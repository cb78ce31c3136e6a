"""Random configurations: one that is accepted trains a step and samples finite images, one that is
refused is refused in one sentence, before anything is computed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from hierdiff.batch import Batch
from hierdiff.data import conditions  # noqa: F401  (the package registers)
from hierdiff.methods import Method, Request, methods
from hierdiff.noise import from_generator
from tests import tiny

EXAMPLES, CHUNK = 500, 25
ROWS = 3
Node = dict[str, Any]


class Dice(random.Random):
    """`odd` chooses, at its rate, among what does not fit. Half of the examples have none of it."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.rate = self.choice([0, 0, 0.02, 0.04])

    def odd(self, usual: Sequence[Any], unfit: Sequence[Any]) -> Any:
        return self.choice(unfit if self.random() < self.rate else usual)

    def chance(self, share: float) -> bool:
        return self.random() < share


def drawn(number: int) -> tuple[Node, Node]:
    """A method and the facts of the data that it is built for."""
    rng = Dice(number)
    name = rng.choice(["mdm", "mdm", "end_to_end", "cascaded", "latent"])
    finest = rng.odd([8, 16, 16, 32], [12, 15, 20])
    ratios = {"mdm": rng.choice([[2], [2], [4], [2, 2], []]), "cascaded": rng.choice([[2], [4]])}
    resolutions = [finest]
    for ratio in ratios.get(name, []):
        resolutions.append(max(1, resolutions[-1] // ratio))
    facts = {
        "channels": rng.choice([3, 3, 1]),
        "classes": rng.choice([0, 3]),
        "text_width": (width := rng.choice([0, 0, 6])),
        "text_length": 4 if width else 0,
    }
    if rng.chance(0.15):
        facts["scalars"] = ["scale"]
    if rng.chance(0.2):
        facts["vectors"] = {"image": 5}
    node: Node = {
        "name": name,
        "resolutions": resolutions,
        "denoiser": denoiser(rng, resolutions if name == "mdm" else resolutions[:1], facts),
        "schedule": schedule(rng),
        "process": rng.choice(["variance_preserving"] * 3 + ["flow", "variance_exploding"]),
        "objective": objective(rng, resolutions if name == "mdm" else resolutions[:1]),
        "sampling": sampling(rng, len(resolutions) if name == "mdm" else 1),
        "reference": rng.choice([None, None, 8, 16]),
    }
    if name == "mdm":
        node["shift"] = rng.choice([0, 1, 2.0, -1])
        node["growth"] = rng.odd([[], [0.25] * (len(resolutions) - 1)], [[0.25], [0.5, 0.6], 0.5])
        node["fractions"] = rng.odd(
            [None, None, [0.5] * (len(resolutions) - 1) + [1]], [[1, 0.5], [0, 1]]
        )
    if name == "latent":
        node["codec"] = codec(rng)
    if name == "cascaded":
        node["bridge"] = bridge(rng)
        node["stages"] = rng.choice([None, None, [{}, stage(rng, finest)]])
    return node, facts


def denoiser(rng: Dice, sides: list[int], facts: Node) -> Node:
    ratio = sides[0] // sides[1] if len(sides) > 1 else 0
    node = network(rng, ratio, variance=len(sides) == 1)
    if ratio:
        node["inner"] = denoiser(rng, sides[1:], facts)
    else:
        name = rng.odd(["scale"], ["crop"])
        if facts.get("scalars"):
            node["scalars"] = rng.choice([{name: 64}, [name]])
        if facts.get("vectors"):
            node["vectors"] = rng.odd([{"image": 5}], [{"image": 4}, {"picture": 5}])
    if rng.chance(rng.rate):
        node[rng.choice(["classes", "text_width", "low_channels"])] = rng.choice([2, 3])
    return node


def network(rng: Dice, ratio: int = 0, *, variance: bool = True) -> Node:
    """ratio: of its side and that of the network inside, 0 for none."""
    name = "nested_unet" if ratio else rng.choice(NETWORKS)
    width, groups = rng.odd([8, 8, 16], [12, 6]), rng.odd([1, 2, 4], [5, 16])
    heads = rng.odd([1, 2, 4], [3])
    resample_first = name != "uvit" and rng.chance(0.25)
    n = ratio.bit_length() - 1 + (not resample_first) if ratio else rng.choice([1, 2, 2])
    n = rng.odd([n], [n + 1, max(1, n - 1), 5])
    some: Node = {"name": name}
    if name in ("unet", "nested_unet", "efficient_unet", "uvit", "ldm_unet"):
        some |= {
            "width": width,
            "multiples": [rng.odd([1, 1, 2, 1.5], [0.3]) for _ in range(n)],
            "groups": groups,
            "heads": heads,
            "dropout": rng.choice([0.0, 0.0, 0.1]),
        }
    if name in ("unet", "nested_unet", "efficient_unet"):
        some |= {
            "blocks": rng.odd([1, 1, [1] * n, [0] * (n - 1) + [1]], [[1] * (n + 1), 1.0, 0]),
            "attention": rng.odd([0, 0, 1, [0] * (n - 1) + [1]], [[1] * (n + 1)]),
            "resample_first": resample_first,
            "self_attention": rng.chance(0.8),
            "middle": rng.chance(0.7),
            "ffn": rng.chance(0.5),
            "mask_text": rng.chance(0.5),
            "text_hidden": rng.choice([None, None, 8]),
            "time_width": rng.odd([None, None, 16], [20]),
        }
    if name == "uvit":
        some["blocks"], some["depth"] = rng.odd([1], [0]), rng.choice([0, 1, 1])
        patch = {"name": "patch", "factor": rng.odd([1, 2], [3])}
        some["stem"] = rng.choice([None, None, patch, {"name": "wavelet"}])
    if name == "ldm_unet":
        some |= {
            "blocks": rng.choice([0, 1, 1]),
            "attention": rng.choice([0, 1, [0] * (n - 1) + [1]]),
            "head_width": rng.choice([None, None, 4]),
            "transformer": rng.odd([True], [False]),
            "class_token": rng.chance(0.3),
            "mask_text": rng.chance(0.3),
            "context": rng.choice([None, None, 8]),
            "scale_shift": rng.chance(0.5),
            "resample_blocks": rng.chance(0.5),
            "learned_variance": variance and rng.chance(0.25),
        }
    if name == "dit":
        some |= {"width": width, "depth": rng.choice([0, 1, 1]), "heads": heads}
        some |= {"patch": rng.odd([1, 2, 2, 4], [3]), "mlp_ratio": rng.odd([4, 2.0], [0.01])}
        some["learned_variance"] = rng.chance(0.4) if variance else rng.odd([False], [True])
    if name == "rin":
        some |= {"width": width, "latents": rng.odd([4, 8], [2]), "depth": rng.choice([0, 1])}
        some |= {"blocks": 1, "heads": heads, "patch": rng.odd([1, 2, 2], [3])}
        some |= {"latent_width": rng.odd([None, 16], [12]), "resolution": rng.choice([8, 16])}
    if rng.chance(0.15):
        steps = {"name": "steps", "schedule": schedule(rng)}
        some["clock"] = rng.odd([{"name": "gamma"}, {"name": "log_snr"}], [steps])
    return some


NETWORKS = ("unet", "unet", "efficient_unet", "uvit", "ldm_unet", "dit", "dit", "rin")


def schedule(rng: Dice, depth: int = 0) -> Node:
    """One of them, or a few around each other."""
    simple = [
        {"name": "cosine"},
        {"name": "cosine"},
        {"name": "cosine", "log_snr_min": rng.odd([-10, -15.0], [20])},
        {"name": "sigmoid", "tau": rng.odd([1.0, 0.5], [0])},
        {"name": "gamma_cosine", "start": rng.choice([0, 0.2]), "tau": rng.choice([1, 2])},
        {"name": "gamma_linear"},
        {"name": "linear_flow"},
        {"name": "power", "sigma_max": rng.choice([80, 5.0])},
        {"name": "squared_cosine", "steps": rng.choice([1000, 100])},
        {"name": "linear_beta", "steps": rng.odd([1000], [20])},
        {"name": "scaled_linear_beta"},
    ]
    if depth < 2 and rng.chance(0.35):
        base = schedule(rng, depth + 1)
        return rng.choice(
            [
                {"name": "limited", "base": base, "log_snr_min": rng.odd([-20.7, -5], [60])},
                {"name": "shifted", "base": base, "resolution": 32, "reference": 16},
                {"name": "input_scaled", "base": base, "scale": rng.odd([0.6, 1], [0])},
                {"name": "interpolated", "noisy": base, "clean": schedule(rng, depth + 1)},
            ]
        )
    return rng.choice(simple)


def objective(rng: Dice, levels: list[int]) -> Node:
    kinds = ["v", "v", "x0", "eps", "u", "edm"]
    weights = ["constant", "constant", "snr", "truncated_snr", "min_snr", "sigmoid", "edm"]
    node: Node = {
        "parameterization": {
            "prediction": rng.odd(["v", "v", "x0", "u", "edm"], ["eps"]),
            "input_scale": rng.choice(["none", "none", "data", "sample", ["none"] * len(levels)]),
        },
        "loss_space": rng.choice(kinds),
        "weight": {"name": rng.choice(weights)},
        "time": {"name": rng.choice(["uniform", "uniform", "logit_normal", "edm"])},
        "stratified": rng.chance(0.7),
        "drop": rng.odd([0, 0.1, 0.1, 1], [1.5, {"label": 0.1, "caption": 0.5}]),
    }
    if rng.chance(0.2):
        node["level_weights"] = [1.0] * rng.odd([len(levels)], [2, 4])
    if len(levels) == 1 and rng.chance(0.1):
        node["multiscale"] = rng.odd([[levels[0]], [levels[0], 4]], [[4, 2]])
    if rng.chance(rng.rate):
        node["multiscale"] = [levels[0]]
        node["self_conditioning"] = rng.choice([0.5, 1, 2])
    if rng.chance(0.02):
        node["vlb"] = rng.odd([1, 0.001], [-1])
    return node


def sampling(rng: Dice, levels: int) -> Node:
    rules = [
        {"name": "dpmpp_2m"},
        {"name": "ddim"},
        {"name": "ddim", "eta": 1},
        {"name": "euler"},
        {"name": "heun"},
        {"name": "ancestral", "variance": rng.odd(["small", "large"], ["learned", "none"])},
    ]
    grids = [
        *[{"name": "uniform"}] * 3,
        {"name": "uniform", "start": rng.odd([0.9], [5])},
        {"name": "karras", "sigma_max": rng.choice([80, 10])},
        {"name": "mdm", "table": rng.odd([1000], [1])},
        {"name": "schedule"},
    ]
    thresholds = [
        {"name": "static"},
        {"name": "none"},
        {"name": "dynamic", "quantile": rng.odd([0.9], [3])},
    ]
    node = {
        "rule": rng.choice(rules),
        "grid": rng.choice(grids),
        "steps": rng.odd([2, 2, 2, 1, 3], [2.5, 0]),
        "guidance": rng.odd([1.0, 1, 2.0, 0, [2.0] * levels], [[1, 2, 3, 4], None]),
        "threshold": rng.choice(thresholds),
    }
    if rng.chance(0.2):
        node["interval"] = rng.odd([[0.2, 0.8], [0, 1]], [[0.8, 0.2], [0.5]])
    if rng.chance(0.2):
        node["channels"] = rng.odd([1], [0, 3])
    return node


def codec(rng: Dice) -> Node:
    autoencoder = {
        "width": 8,
        "multiples": rng.choice([[1, 1], [1, 2], [1, 1, 1]]),
        "blocks": 1,
        "groups": rng.odd([4, 8], [3]),
        "latent_channels": rng.choice([1, 3]),
        "attention_at": rng.odd([[], []], [[8], [5]]),
        "regulariser": rng.choice([{"name": "kl"}, {"name": "vq", "codes": 16}]),
    }
    perceptual = {"name": "none"}
    made = {"name": "autoencoder", "autoencoder": autoencoder, "perceptual": perceptual}
    made["discriminator"] = rng.choice(
        [None, None, {"width": 8, "layers": rng.odd([1], [2, 3, 4])}]
    )
    made["statistics"] = rng.choice(["channel", "tensor"])
    return rng.choice([None, {"name": "identity"}, made, made])


def bridge(rng: Dice) -> Node | None:
    node: Node = {
        "name": "augmented",
        "log_snr_range": rng.odd([[-5, 15], [-2.0, 10]], [None, [3, 1]]),
        "log_snr": rng.odd([3, 4.0], [30]),
        "noise_at": rng.choice(["low", "high"]),
        "resize": rng.choice(["bilinear", "bicubic", "nearest"]),
        "truncated": rng.odd([False], [True]),
        "blur": rng.odd([None, [0.4, 0.6]], [[0.6]]),
    }
    return rng.choice([None, node, node])


def stage(rng: Dice, side: int) -> Node:
    return rng.choice(
        [
            {"crop": rng.odd([side // 2, side], [6, 0])},
            {"share": 0.5, "objective": {"loss_space": "v"}},
            {"denoiser": network(rng)},
            {"bridge": {"level": 2}, "sampling": {"steps": 1}},
        ]
    )


def batch(facts: Node, side: int) -> Batch:
    kind = ("class " if facts["classes"] else "") + ("text" if facts["text_width"] else "")
    cond = tiny.cond(kind, ROWS)
    if facts.get("scalars"):
        cond = replace(cond, scalars={"scale": torch.tensor([20.0, 64.0, 200.0])})
    if facts.get("vectors"):
        generator = torch.Generator().manual_seed(4)
        cond = replace(cond, vectors={"image": torch.randn(ROWS, 5, generator=generator)})
    generator = torch.Generator().manual_seed(3)
    shape = (ROWS, facts["channels"], side, side)
    return Batch(torch.rand(shape, generator=generator) * 2 - 1, cond)


def noise():
    return from_generator(torch.Generator().manual_seed(0))


def built(node: Node, facts: Node) -> Method:
    """As `hierdiff.prepared.prepare` does."""
    torch.manual_seed(0)
    method = methods.build(node, offered=facts, at="method")
    method.check_facts(facts)
    return method


def run(method: Method, facts: Node) -> None:
    """A step of every stage, and samples."""
    images = batch(facts, method.resolutions[0])
    for stage in method.stages:
        stage.start_untrained()
        inputs = stage.prepare_batch(images)
        for turn in stage.turns:
            loss = stage(inputs, stage.draw(inputs, noise()), turn.name, 0)
            assert torch.isfinite(loss.total), f"loss {float(loss.total)}"
            assert all(torch.isfinite(value).all() for value in loss.logs.values()), loss.logs
            parameters = [p for p in turn.module.parameters() if p.requires_grad]
            found = torch.autograd.grad(loss.total, parameters, allow_unused=True)
            gradients = [g for g in found if g is not None]
            assert gradients and all(torch.isfinite(g).all() for g in gradients), "gradient"
            assert any(g.abs().max() > 0 for g in gradients), "no gradient"
        with torch.no_grad():
            for parameter in stage.parameters():
                shape = parameter.shape
                generator = torch.Generator().manual_seed(1)
                parameter += 0.02 * torch.randn(shape, generator=generator)
        stage.start_untrained()
    samples = method.sample(Request(ROWS, images.cond, noise=noise()))
    assert set(samples) == set(method.resolutions)
    for side, level in samples.items():
        assert level.shape == (ROWS, facts["channels"], side, side)
        assert torch.isfinite(level).all(), f"samples at {side}"


def sentence(error: Exception) -> str | None:
    """What is wrong with an error as a message, None where nothing is."""
    text = str(error)
    if not isinstance(error, ValueError):
        return f"{type(error).__name__}: {text[:200]}"
    if "\n" in text or not 20 < len(text) < 400:
        return f"{len(text)} characters: {text[:500]}"
    return None


def outcome(number: int) -> tuple[str, str | None]:
    """("accepted" | "refused", what went wrong) of one example."""
    node, facts = drawn(number)
    try:
        method = built(node, facts)
    except Exception as error:
        return "refused", sentence(error)
    try:
        run(method, facts)
    except Exception as error:
        return "accepted", f"{type(error).__name__}: {str(error)[:300]}"
    return "accepted", None


@pytest.mark.parametrize("start", range(0, 50, CHUNK))
def test_some_configurations_are_refused_in_a_sentence_or_train_and_sample(start):
    check(range(start, start + CHUNK))


@pytest.mark.trial
@pytest.mark.parametrize("start", range(50, EXAMPLES, CHUNK))
def test_any_configuration_is_refused_in_a_sentence_or_trains_and_samples(start):
    check(range(start, start + CHUNK))


@pytest.mark.trial
def test_a_good_part_of_the_configurations_is_accepted():
    kinds = []
    for number in range(EXAMPLES):
        node, facts = drawn(number)
        try:
            built(node, facts)
        except ValueError:
            kinds.append(0)
        else:
            kinds.append(1)
    assert sum(kinds) >= 0.4 * EXAMPLES


def check(numbers: range) -> None:
    found = {number: outcome(number) for number in numbers}
    wrong = {number: (kind, error) for number, (kind, error) in found.items() if error is not None}
    assert not wrong, "\n".join(f"{n}: {kind}, {error}" for n, (kind, error) in wrong.items())
