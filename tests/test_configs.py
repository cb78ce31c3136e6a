"""Every file of `configs/` composes and builds, on the `meta` device where it is a network."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from benchmarks import run  # noqa: F401  (registers what configs refer to)
from benchmarks.settings import settings_of
from hierdiff.command import plain_config
from hierdiff.config import folder_of_configs
from hierdiff.denoisers import denoisers
from hierdiff.methods import Sampling, methods
from hierdiff.metrics.extractors import extractors
from hierdiff.prepared import definite, method_node, prepare
from hierdiff.registry import build
from hierdiff.samplers.ddim import DDIM
from hierdiff.training import Recipe
from hierdiff.training.published import FILES

CONFIGS = Path(folder_of_configs())
FACTS = {"channels": 3, "classes": 7, "text_width": 16, "text_length": 5}
OFFICIAL = {"mdm_64": 461_359_107, "mdm_256": 476_613_958, "mdm_1024": 480_970_057}
PARTS = ("data", "denoiser", "sampler", "method", "trainer", "measure")
CUSTOM = {"custom": ["denoiser.name=unet"], "nested_custom": ["denoiser.inner.name=unet"]}
OWN_METHOD = {"custom": ["method.name=end_to_end", "denoiser=small"]}


def group(name: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / name).glob("*.yaml"))


def without_files(name: str) -> list[str]:
    """As `group`, but for methods that are made of files, and what their sampler leaves to them."""
    return [one for one in group(name) if one not in FILES]


def composed(*overrides: str, name: str = "benchmark", parts: Sequence[str] = PARTS) -> dict:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(name, overrides=list(overrides))
        return {key: plain_config(cfg[key]) for key in parts if key in cfg}


@pytest.mark.parametrize("name", group("denoiser"))
def test_every_denoiser_builds(name):
    node = composed(f"denoiser={name}", *CUSTOM.get(name, []))["denoiser"]
    with torch.device("meta"):
        assert denoisers.build(node, offered=FACTS).levels >= 1


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_sizes_count_as_published(name):
    node = composed(f"denoiser={name}")["denoiser"]
    with torch.device("meta"):
        network = denoisers.build(node, offered={"channels": 3, "text_width": 2048})
    assert sum(p.numel() for p in network.parameters()) == OFFICIAL[name]


@pytest.mark.parametrize("name", without_files("method"))
def test_every_method_builds_with_its_own_denoiser(name):
    node = method_node(composed(f"method={name}", *OWN_METHOD.get(name, [])))
    with torch.device("meta"):
        assert methods.build(node, offered=FACTS).resolutions[0] == 32


@pytest.mark.parametrize("name", without_files("sampler"))
def test_every_sampler_builds(name):
    build(Sampling, composed(f"sampler={name}")["sampler"])


@pytest.mark.parametrize("name", group("budget"))
def test_every_budget_is_a_recipe(name):
    recipe = build(Recipe, definite(composed(f"budget={name}")["trainer"]))
    assert recipe.steps > 0 and recipe.warmup <= recipe.steps


@pytest.mark.parametrize("name", group("data"))
def test_every_dataset_is_composed(name):
    options = [] if name in ("critters", "elpv", "fluent_emoji") else ["data.root=images"]
    assert composed(f"data={name}", *options)["data"]["name"]


@pytest.mark.parametrize("name", group("experiment"))
def test_every_experiment_builds(name):
    cfg = composed(f"experiment={name}")
    with torch.device("meta"):
        methods.build(method_node(cfg), offered=FACTS)


def test_the_extractor_of_the_benchmark_is_registered():
    assert composed()["measure"]["extractor"]["name"] in extractors.names()


def whole(*overrides: str) -> dict:
    """The config of a run."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        names = ("label=x", "budget_name=smoke", "recipe_name=x", "name=x", "folder=x")
        return plain_config(compose("benchmark", overrides=[*names, *overrides]))


def refusal(*overrides: str) -> str:
    """What a run says to overrides, before it makes anything."""
    options = whole(*overrides)
    with pytest.raises(ValueError) as caught:
        settings_of(options)
        prepare(options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("word", "rule"),
    [
        ("+sampler.grid.start=5", "a number from 0 to 1"),
        ("sampler.steps=2.5", "a whole number from 1 to 1000000"),
        ("sampler.guidance=null", "a number, or a list of"),
        ("sampler.guidance=nan", "a number, or a list of"),
        ("sampler.threshold=null", "a mapping"),
        ("measure.batch=0", "a whole number, 1 or more"),
        ("measure.samples=8.5", "a whole number, 2 or more"),
        ("measure.seeds=0", "a list of one or more whole numbers"),
        ("measure.curve.samples=many", "a whole number, 0 or more"),
        ("+measure.references.a=3", "a mapping"),
        ("match.flops=-1", "a number above 0, or null"),
        ("cost.batches=[1,2.5]", "a list of one or more whole numbers of 1 or more"),
        ("trainer.ema=16", "a list of one or more numbers"),
        ("trainer.betas=0.9", "a list of two numbers"),
        ("trainer.batch_size=8.0", "a whole number, 1 or more"),
        ("trainer.lr=abc", "a number, 0 or more"),
        ("trainer.steps=2.5", "a whole number, 1 or more"),
        ("trainer.compile=1", "true or false"),
        ("trainer.lr_schedule=linar", "did you mean 'linear'?"),
        ("seed=null", "a whole number"),
        ("seed=1.5", "a whole number"),
        ("part=trian", "one of train, test, all"),
        ("method.growth=0.5", "a list of numbers from 0 to 1"),
        ("method.objective.drop=2", "a number from 0 to 1"),
        ("method.resolutions=[16,8.0]", "a list of one or more whole numbers"),
        ("denoiser.inner.heads=2.0", "a whole number, 1 or more"),
        ("denoiser.multiples=[1,x]", "a list of one or more numbers above 0"),
        ("data.flip=yes_please", "true or false"),
    ],
)
def test_a_value_that_an_option_cannot_have_is_refused_by_its_path_before_compute(word, rule):
    said = refusal(*([f"+{word}"] if word.startswith("data.flip") else [word]))
    path = word.lstrip("+").partition("=")[0].removesuffix(".a")
    assert said.startswith(f"{path}=") and rule in said and "\n" not in said


@pytest.mark.parametrize("group", ["measure", "match", "cost"])
@pytest.mark.parametrize("value", [None, 3, "fast", [1]])
def test_a_group_that_is_no_mapping_is_refused(group, value):
    with pytest.raises(ValueError, match=rf"^{group}=.*: {group} takes a mapping"):
        settings_of({**whole(), group: value})


@pytest.mark.parametrize("name", group("budget"))
def test_every_option_of_a_benchmark_s_groups_is_known(name):
    config = whole(f"budget={name}", "analysis=exposure_bias")
    for name in ("checkpoint", "of", "steps"):  # of methods of files, left out elsewhere
        assert config.pop(name) is None
    assert settings_of(config).to_config() == config


@pytest.mark.parametrize(("side", "scale"), [(32, 1.0), (64, 1.0), (16, 0.5)])
def test_the_input_scale_of_chen_is_one_number_in_schedule_network_and_sampler(side, scale):
    given = [] if side >= 32 else [f"method.schedule.scale={scale}"]
    cfg = composed("method=chen", f"data.resolution={side}", *given)
    assert cfg["method"]["schedule"]["scale"] == scale
    assert cfg["method"]["objective"]["parameterization"]["image_scale"] == scale
    assert cfg["method"]["objective"]["parameterization"]["input_scale"] == "population"
    assert cfg["sampler"]["grid"]["schedule"]["scale"] == scale
    rule = {"name": "ancestral", "variance": "large", "image_scale": scale}
    assert cfg["sampler"]["rule"] == rule


@pytest.mark.parametrize("side", ["128", "[16,32]", "wide"])
def test_the_input_scale_of_chen_is_asked_for_where_no_released_config_has_one(side):
    with pytest.raises(Exception, match=r"for 32, 64 px alone: set method.schedule.scale"):
        composed("method=chen", f"data.resolution={side}")


@pytest.mark.parametrize(
    ("name", "distance", "end", "statistics", "start", "eta", "steps"),
    [
        ("ldm_imagenet", "square", 1.42303975e-4, "none", 250001, 1, 200),
        ("ldm_churches", "absolute", 6.68665174e-4, "first_batch", 50001, 0, 400),
    ],
)
def test_experiments_of_ldm_are_as_released(name, distance, end, statistics, start, eta, steps):
    """The last entry of alpha^2, the loss, the statistics and the autoencoder's own recipe."""
    cfg = composed(f"experiment={name}")
    with torch.device("meta"):
        first, second = methods.build(method_node(cfg), offered=FACTS).stages
    alpha, _ = second.process.alpha_sigma(torch.tensor([1.0], dtype=torch.float64))
    assert float(alpha) ** 2 == pytest.approx(end, rel=1e-8)
    objective = second.objective
    assert (objective.distance, objective.parameterization.prediction) == (distance, "eps")
    assert (objective.time.steps, second.statistics.by) == (1000, statistics)
    assert second.codec.shapes() == ((4, 32, 32),)
    assert (first.loss.start, first.loss.learnt_variance) == (start, False)
    assert list(first.trainer["betas"]) == [0.5, 0.9]
    assert first.turns[0].lr == first.turns[1].lr
    first.loss.check(first.autoencoder.regulariser)
    sampling = build(Sampling, cfg["sampler"])
    assert (sampling.rule, sampling.steps) == (DDIM(eta), steps)
    assert type(sampling.grid).__name__ == "LeadingGrid"


@pytest.mark.parametrize("layout", [name for name in group("autoencoder") if "vq" in name])
def test_a_layout_with_a_codebook_takes_the_codec_of_one(layout):
    option = f"autoencoder@method.codec.autoencoder={layout}"
    for codec, right in (("vq", True), ("autoencoder", False)):
        cfg = composed("method=latent", f"codec@method.codec={codec}", option)
        with torch.device("meta"):
            stage = methods.build({**method_node(cfg), "resolutions": [256]}, offered=FACTS).stages[
                0
            ]
        if right:
            stage.loss.check(stage.autoencoder.regulariser)
        else:
            with pytest.raises(ValueError, match="codec@method.codec=vq"):
                stage.check()
