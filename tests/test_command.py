"""How words set options, and the sentence for what cannot be set."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from benchmarks import run  # noqa: F401  (registers what configs refer to)
from hierdiff.command import in_order, plain_config, quoted, with_sentences
from hierdiff.config import folder_of_configs
from hierdiff.prepared import check_chosen


def composed(*words: str, name: str = "benchmark") -> Any:
    GlobalHydra.instance().clear()
    with initialize_config_dir(folder_of_configs(), version_base="1.3"):
        return with_sentences(compose)(name, overrides=list(words))


def value_of(key: str, *words: str) -> Any:
    node: Any = composed(*words)
    for name in key.split("."):
        node = node[int(name) if name.isdecimal() else name]
    return node


@pytest.mark.parametrize("sign", ["", "+", "++"])
@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["trainer.optimizer_options.eps=1e-6"], "trainer.optimizer_options.eps", 1e-6),
        (["trainer.optimizer_options={eps: 1e-6}"], "trainer.optimizer_options.eps", 1e-6),
        (["sampler.interval=[0,0.5]"], "sampler.interval", [0, 0.5]),
        (["denoiser.inner.dropout=0.1"], "denoiser.inner.dropout", 0.1),
        (["data.text.name=vocabulary"], "data.text", {"name": "vocabulary"}),
        (["measure.extractor.weights=FILE"], "measure.extractor.weights", "FILE"),
        (["measure.references.32=FILE"], "measure.references", {32: "FILE"}),
        (["measure.references={32: FILE, 16: B}"], "measure.references", {32: "FILE", 16: "B"}),
        (["method.stages.1.weights=a/b", "method=cascaded"], "method.stages.1.weights", "a/b"),
        (["denoiser.width=5", "denoiser=custom", "denoiser.name=unet"], "denoiser.width", 5),
        (["trainer.steps=5"], "trainer.steps", 5),
        (["measure.curve={loss: 5}"], "measure.curve.loss", 5),
        (["measure.curve={loss: 5}"], "measure.curve.samples", 128),
    ],
)
def test_an_option_is_set_whether_the_files_name_it_or_not(sign, words, key, value):
    assert value_of(key, f"{sign}{words[0]}", *words[1:]) == value


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (
            ["measure.extractor={name: inception, weights: F, allow_download: false}"],
            "measure.extractor",
            {"name": "inception", "weights": "F", "allow_download": False},
        ),
        (["method=chen", "method.schedule={name: linear_flow}"], "method.schedule.name", None),
        (["method=chen", "method.schedule={name: linear_flow}"], "method.schedule", None),
        (["sampler.threshold={name: none}", "sampler=mdm"], "sampler.threshold", {"name": "none"}),
        (["sampler.rule={name: ddim}", "sampler=rin"], "sampler.rule", {"name": "ddim"}),
        (
            ["method=chen", "method={schedule: {base: {name: cosine}}}"],
            "method.schedule",
            {"name": "input_scaled", "scale": 1.0, "base": {"name": "cosine"}},
        ),
        (
            ["method.schedule={name: a, b: 1}", "method.schedule.c=2"],
            "method.schedule",
            {"name": "a", "b": 1, "c": 2},
        ),
        (
            ["method=cascaded", "method.stages.0.denoiser={name: a}"],
            "method.stages.0.denoiser",
            {"name": "a"},
        ),
    ],
)
def test_a_mapping_with_a_name_replaces_the_part_that_was_there(words, key, value):
    if value is None:
        value = "linear_flow" if key.endswith("name") else {"name": "linear_flow"}
    assert value_of(key, *words) == value


def test_words_change_nothing_else():
    before = plain_of()
    after = plain_of("method.schedule={name: linear_flow}", "measure.references.32=x")
    expected = copy.deepcopy(before)
    expected["method"]["schedule"] = {"name": "linear_flow"}
    expected["measure"]["references"] = {32: "x"}
    assert after == expected


def plain_of(*words: str) -> dict[str, Any]:
    cfg = composed(*words)
    return {key: plain_config(cfg[key]) for key in ("method", "measure", "trainer", "data")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["measure.sampels=3"], "measure has no option 'sampels', did you mean 'samples'? options"),
        (["+measure.sampels=3"], "measure has no option 'sampels', did you mean 'samples'?"),
        (["++cost.repeat=3"], "cost has no option 'repeat', did you mean 'repeats'?"),
        (["match.flop=1"], "match has no option 'flop', did you mean 'flops'?"),
        (["measure.curve={sample: 1}"], "measure.curve has no option 'sample', did you mean"),
        (["measure={sampels: 1}"], "measure has no option 'sampels', did you mean 'samples'?"),
        (["methd=mdm"], "there is no option 'methd', did you mean 'method'?"),
        (["+methd=mdm"], "there is no option 'methd', did you mean 'method'?"),
        (["sede=3"], "there is no option 'sede', did you mean 'seed'?"),
        (["shift=3"], "did you mean method.shift?"),
        (["hydra.run.dri=x"], "hydra.run has no option 'dri', did you mean 'dir'?"),
        (["method=cascaded", "method.stages.2.share=1"], "method.stages has 2 entries, of which"),
        (["measure=3"], "set one of them, measure.extractor=..."),
        (["measure=null"], "measure=null: it is a mapping of options"),
        (["analysis.samples=3"], "there is no analysis to set options of: choose one, analysis=NA"),
        (["~measure.samples"], "cannot be left out"),
        (["~method.growht"], "no such option to leave out, did you mean 'growth'?"),
        (["method=mdmm"], "unknown method 'mdmm', did you mean 'mdm'? known: cascaded, chen, "),
        (["denoiser=smal"], "unknown denoiser 'smal', did you mean 'small'? known: adm_128, "),
        (["experiment=captoins"], "unknown experiment 'captoins', did you mean 'captions'?"),
        (["budget=smok"], "unknown budget 'smok', did you mean 'smoke'?"),
        (["hydra/launcher=joblb"], "unknown hydra/launcher 'joblb'"),
        (["codec@method.codec=identity"], "chooses a part that this config does not have"),
        (["cdoec@method.codec=identity"], "there is no group 'cdoec', did you mean 'codec'?"),
        (["seed"], "'seed' cannot be read: write key=value"),
        (["measure.seeds=[1"], "'measure.seeds=[1' cannot be read: write key=value, lists as"),
        (["folder='x"], "cannot be read"),
        (["folder=a=b"], "cannot be read"),
        (["measure={a"], "cannot be read"),
    ],
)
def test_what_cannot_be_set_is_one_sentence_with_the_nearest_name(words, message):
    with pytest.raises(ValueError) as error:
        composed(*words)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_choice_of_a_group_that_a_method_may_have_is_refused():
    """hydra passes over what is missing from an optional group."""
    with pytest.raises(ValueError, match="unknown analysis 'exposure_bais', did you mean 'expos"):
        in_order(["method=cascaded", "analysis=exposure_bais"])
    for word in ("analysis=null", "analysis=steps", "~analysis", "analysis.samples=3"):
        assert in_order([word]) == [word]


def test_what_must_be_given_is_named_by_its_path():
    with pytest.raises(ValueError, match=r"^denoiser.inner.name is missing: give denoiser.inner."):
        plain_config(composed("denoiser=nested_custom").denoiser)
    with pytest.raises(ValueError, match="^checkpoint is missing: give checkpoint=VALUE"):
        plain_config(composed(name="sample"))


@pytest.mark.parametrize(
    ("words", "order"),
    [
        (["method=mdm", "-m", "seed=1,2"], ["-m", "method=mdm", "seed=1,2"]),
        (["--config-dir", "own", "a=1", "b=2"], ["--config-dir", "own", "a=1", "b=2"]),
        (
            ["+experiment=captions", "+denoiser.width=3"],
            ["experiment=captions", "+denoiser.width=3"],
        ),
        ([], []),
    ],
)
def test_flags_may_stand_anywhere(words, order):
    assert in_order(words) == order


@pytest.mark.parametrize(
    ("word", "read"),
    [
        ("label=狐", "label='狐'"),
        ("folder=/home/jörg/photos (1)", "folder='/home/jörg/photos (1)'"),
        ('captions=["a red, owl",狐 狸]', "captions=[\"a red, owl\",'狐 狸']"),
        ("data={root: a&b, name: folder}", "data={root: 'a&b', name: folder}"),
        ("label=a,狐", "label=a,'狐'"),
    ],
)
def test_signs_that_hydra_takes_in_quotes_alone_need_none(word, read):
    assert in_order([word]) == [read]
    assert in_order([read]) == [read]


@pytest.mark.parametrize(
    "word", ["label=a b", "label=a,b", "x=${y}", "a=b=c", "a=it's", "a=[狐", "狐"]
)
def test_a_word_that_is_read_or_cannot_be_stays_as_it_is(word):
    assert quoted(word) == word


@pytest.mark.parametrize("word", ["trainer=[]", "~trainer", "sampler=[]", "~denoiser", "data=[]"])
def test_what_every_run_has_cannot_be_left_out(word):
    with pytest.raises(ValueError, match="every run has one of these, choose it by [a-z]+=NAME"):
        in_order(["method=mdm", word])
    assert in_order(["experiment=[]", "trainer.ema=[]"]) == ["experiment=[]", "trainer.ema=[]"]


@pytest.mark.parametrize("value", ["null", "[16]", "16.5", "true", "abc", "0"])
def test_an_option_that_others_follow_is_named_itself(value):
    cfg = composed("method=mdm", f"data.resolution={value}")
    with pytest.raises(ValueError, match="^data.resolution=.*: resolution takes a whole number"):
        plain_config(cfg["method"])


def test_an_unknown_flag_is_one_sentence():
    with pytest.raises(ValueError, match="--dry-run is a flag of benchmarks.run"):
        in_order(["method=mdm", "--dry-run"])
    with pytest.raises(ValueError, match="unknown flag --dry-rum, did you mean '--dry-run'?"):
        in_order(["method=mdm", "--dry-rum"])


COMMANDS = {
    "hierdiff.train": ["trainr.steps=3"],
    "hierdiff.sample": ["checkpont=x"],
    "benchmarks.run": ["-m", "seed=0,1", "measure.sampels=3"],
    "benchmarks.reference": ["splt=test"],
    "benchmarks.evaluate": ["splt=all"],
    "benchmarks.scaling": ["resolutions=[16", "method=mdm"],
}


@pytest.mark.slow
@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_says_it_in_one_line(module: str, tmp_path: Path):
    def command(*words: str) -> subprocess.CompletedProcess:
        line = [sys.executable, "-m", module, *words]
        return subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)

    ended = command(*COMMANDS[module])
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith("error: ")
    assert "did you mean" in ended.stderr or "cannot be read" in ended.stderr
    assert not list(tmp_path.rglob("*.json"))
    own, hydras, _ = command("--help").stdout.partition("is powered by Hydra")
    assert f"python -m {module} " in own and "python -m hierdiff.list" in own
    assert bool(hydras) == (module != "benchmarks.scaling")


@pytest.mark.parametrize("word", ["checkpoint=a.safetensors", "of=runs/a", "steps=[2,1]"])
def test_an_option_of_one_method_is_refused_beside_another(word):
    name, _, value = word.partition("=")
    with pytest.raises(ValueError, match=f"^{name}=.* is an option of method=.* the method is mdm"):
        composed("method=mdm", word)  # hydra takes it
        check_chosen({"data": {}, "trainer": {}, "method": {"name": "mdm"}, name: value})
