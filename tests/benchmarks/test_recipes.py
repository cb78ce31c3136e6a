"""Every method is ready to run under the shared recipe, and under that of its paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from benchmarks.ready import ready
from benchmarks.settings import settings_of
from hierdiff.command import plain_config
from hierdiff.config import folder_of_configs
from hierdiff.methods import methods
from hierdiff.prepared import definite, method_node
from hierdiff.registry import build
from hierdiff.training import Recipe

CONFIGS = Path(folder_of_configs())
FACTS = {"channels": 3, "classes": 7}
USUAL = ("name=x", "label=x", "folder=x", "budget_name=smoke", "budget=smoke")
OWN = {  # the words of a run under each recipe of a paper
    "chen": ["method=chen"],
    "rin": ["method=rin"],
    "simple_diffusion": ["method=simple_diffusion"],
    "ldm": ["method=latent"],
    "dit": ["method=latent", "denoiser=dit_small"],
    "sit": ["method=sit"],
    "cdm": ["method=cascaded"],
    "mdm": ["method=mdm"],
}
SHARED = [
    *("chen", "cascaded", "end_to_end", "latent", "mdm", "mdm_3", "mdm_control", "rin"),
    *("simple_diffusion", "sit", "mdm_haar", "mdm_laplacian", "mdm_laplacian_staggered"),
    *("mdm_staggered", "local", "sdxl"),
]
RUNS = [
    *(("shared", [f"method={method}"]) for method in SHARED),
    ("shared", ["method=latent", "denoiser=small", "codec@method.codec=identity"]),
    *OWN.items(),
]


def config_of(recipe: str | None, *words: str) -> dict[str, Any]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        own = [] if recipe is None else [f"recipe={recipe}"]
        own += [f"recipe_name={recipe or 'null'}", *USUAL, *words]
        return plain_config(compose("benchmark", overrides=own))


def test_every_recipe_and_every_method_is_tried():
    assert {path.stem for path in (CONFIGS / "recipe").glob("*.yaml")} == {"shared", *OWN}
    names = {path.stem for path in (CONFIGS / "method").glob("*.yaml")}
    # nothing is known of the first three before they have a name or files; the next is of 64 px;
    # two have no one loss and sampler to share; the last are of clips, and else mdm and end_to_end
    others = {"custom", "published", "distilled", "rin_released", "unclip", "r3gan"}
    others |= {"mdm_video", "end_to_end_video"}
    assert names == {*SHARED, *others}


@pytest.mark.parametrize(("recipe", "words"), RUNS)
def test_a_method_builds_under_a_recipe(recipe, words):
    config = config_of(recipe, *words)
    with torch.device("meta"):
        methods.build(method_node(config), offered=FACTS)
    build(Recipe, definite(config["trainer"]))


@pytest.mark.slow  # seconds each
@pytest.mark.parametrize(("recipe", "words"), RUNS)
def test_a_method_is_ready_to_run_under_a_recipe(recipe, words, tmp_path):
    more = ("measure.extractor={name: random_conv}", "measure.metrics=[fd]")
    config = {**config_of(recipe, *words, *more), "folder": str(tmp_path / "run")}
    job = ready(settings_of(config))
    assert job.settings.recipe_name == recipe == job.settings.to_config()["recipe_name"]


def test_under_the_shared_recipe_all_rows_have_one_optimizer_loss_and_sampler():
    configs = [config_of("shared", f"method={method}") for method in SHARED]
    for group in ("trainer", "sampler"):
        parts = [{k: v for k, v in one[group].items() if k != "threshold"} for one in configs]
        assert all(part == parts[0] for part in parts)
    assert configs[0]["sampler"]["rule"] == {"name": "dpmpp_2m"}
    for one in configs:
        objective = one["method"]["objective"]
        assert objective["parameterization"]["prediction"] == "v"
        assert (objective["loss_space"], objective["drop"]) == ("eps", 0.1)
        assert (objective["weight"], objective["time"]) == (
            {"name": "constant"},
            {"name": "uniform"},
        )


@pytest.mark.parametrize(
    ("words", "threshold"),
    [
        (["method=chen"], "static"),
        (["method=sit"], "none"),
        (["method=latent"], "none"),
        (["method=latent", "codec@method.codec=vq"], "none"),
        (["method=latent", "codec@method.codec=identity", "denoiser=small"], "static"),
    ],
)
def test_under_the_shared_recipe_images_are_clipped_and_latents_are_not(words, threshold):
    assert config_of("shared", *words)["sampler"]["threshold"] == {"name": threshold}


@pytest.mark.parametrize("recipe", ["shared", *OWN])
def test_a_recipe_leaves_data_budget_and_the_size_of_networks(recipe):
    words = OWN.get(recipe, ["method=cascaded"])
    with_it, without = config_of(recipe, *words), config_of(None, *words)
    budget = yaml.safe_load((CONFIGS / "budget" / "smoke.yaml").read_text())["trainer"]
    assert {k: with_it["trainer"][k] for k in budget} == {k: without["trainer"][k] for k in budget}
    assert with_it["data"] == without["data"] and with_it["trainer"]["lr"] == 1e-3
    sizes = [
        [
            {k: v for k, v in node.items() if k not in ("clock", "learned_variance")}
            for node in (
                one["denoiser"],
                *(s.get("denoiser", {}) for s in one["method"].get("stages", [])),
            )
        ]
        for one in (with_it, without)
    ]
    assert sizes[0] == sizes[1]


def test_without_a_recipe_a_config_is_as_before():
    config = config_of(None, "method=chen")
    assert "recipe_name" not in settings_of(config).to_config()
    del config["recipe_name"]
    assert settings_of(config).recipe_name is None
