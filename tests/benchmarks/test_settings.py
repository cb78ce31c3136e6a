"""Settings are one frozen object, and the config that they are made of comes back from them."""

from __future__ import annotations

import copy
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ready as readiness
from benchmarks.ready import ready
from benchmarks.settings import Match, settings_of
from hierdiff.methods import methods
from hierdiff.prepared import prepare, with_weights
from tests.benchmarks.test_ready import config_of


def config(*words: str) -> dict[str, Any]:
    whole = config_of(Path("x"), *words)
    for name in ("recipe_name", "checkpoint", "of", "steps"):
        if whole[name] is None:  # it is left out, as in records from before there were any
            del whole[name]
    return whole


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["method=cascaded", "analysis=exposure_bias"],
        ["method=latent", "match.flops=1e12", "measure.references={32: a.npz}"],
        ["label=3", "data.resolution=32", "measure.resolutions=[32,[8,16,16]]"],
    ],
)
def test_the_config_comes_back_value_for_value(words):
    whole = config(*words)
    settings = settings_of(whole)
    assert settings.to_config() == whole
    assert settings_of(settings.to_config()) == settings


def test_nothing_in_settings_can_be_changed():
    whole = config()
    settings = settings_of(whole)
    before = copy.deepcopy(whole)
    whole["method"]["name"] = whole["measure"]["extractor"]["name"] = "other"
    settings.to_config()["trainer"]["steps"] = 7
    assert settings.to_config() == before
    with pytest.raises(FrozenInstanceError):
        settings.seed = 1
    with pytest.raises(FrozenInstanceError):
        settings.measure.samples = 1
    with pytest.raises(TypeError):
        settings.trainer["steps"] = 7
    with pytest.raises(TypeError):
        settings.measure.seeds[0] = 7


def test_what_is_settled_stands_in_another_object():
    settings = settings_of(config())
    new = settings.sampled_by({"steps": 5})
    assert new.sampler["steps"] == 5 and new.sampler["rule"] == settings.sampler["rule"]
    assert settings == settings_of(config()) and settings.sampled_by({}) == settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measure": 3}, "measure=3: measure takes a mapping"),
        ({"cost": {}}, "cost needs the option 'batches'"),
        ({"match": {"flop": 1}}, "match has no option 'flop', did you mean 'flops'"),
        ({"data": None}, "data=null: choose one by its name"),
        ({"denoiser": "unet"}, "denoiser='unet': denoiser takes a mapping"),
        ({"seed": 1.5}, "seed=1.5: seed takes a whole number"),
        ({"analysis": {"samples": 8, "log_snrs": [1]}}, "analysis.name=null"),
    ],
)
def test_what_cannot_be_a_setting_is_refused_by_its_path(change, message):
    with pytest.raises(ValueError, match=message):
        settings_of({**config(), **change})


def test_only_budgets_that_are_given_are_amounts():
    assert Match(flops=2, latency=0.5).amounts() == {"flops": 2.0, "latency": 0.5}


def test_a_run_is_prepared_once_and_its_weights_are_those_of_its_seed(tmp_path, monkeypatch):
    """A budget decides steps without a second look at data and parts."""
    calls = []

    def counted(*args, **options):
        calls.append(args)
        return prepare(*args, **options)

    monkeypatch.setattr(readiness, "prepare", counted)
    job = ready(settings_of(config_of(tmp_path / "run", "match.images=800")))
    assert len(calls) == 1
    assert job.settings.trainer["steps"] == job.run.recipe.steps == job.plan.steps == 100
    asked_anew = prepare(job.settings.to_config())
    assert job.run.config == asked_anew.config and job.run.recipe == asked_anew.recipe
    ours, theirs = with_weights(job.run).method.state_dict(), asked_anew.method.state_dict()
    assert ours.keys() == theirs.keys() and all((ours[key] == theirs[key]).all() for key in ours)
    assert methods.named(job.run.config["method"]) is methods.named(asked_anew.config["method"])
