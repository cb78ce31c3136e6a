"""The main job: bad input is refused before compute, a good run leaves what it promises."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from benchmarks import external, phases, ready, single
from benchmarks.measure import kept, quality
from benchmarks.naming import folder_name
from benchmarks.ready import check_measure, check_method
from benchmarks.report.parts import slug_of
from benchmarks.settings import Analysis, Curve, Measure, settings_of
from benchmarks.sweep.finished import Unlike, data_digest, finished_record, inputs_of, record_in
from hierdiff import training
from hierdiff.command import plain_config, quoted
from hierdiff.config import folder_of_configs
from hierdiff.metrics.extractors import INCEPTION_FILE, extractors
from hierdiff.prepared import prepare
from hierdiff.results.record import Record
from hierdiff.training import train
from tests.benchmarks import rows
from tests.test_registry import announce

QUICK = (
    *("budget=smoke", "trainer.steps=2", "trainer.progress=false", "measure.samples=8"),
    *("measure.batch=8", "cost.batches=[8]", "cost.repeats=1", "sampler.steps=2"),
    "measure.extractor={name: random_conv}",
)


def prepared(*overrides: str):
    GlobalHydra.instance().clear()
    with initialize_config_dir(folder_of_configs(), version_base="1.3"):
        cfg = compose("benchmark", overrides=list(overrides))
        return prepare(
            {k: plain_config(cfg[k]) for k in ("data", "denoiser", "sampler", "method", "trainer")}
        )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["denoiser.name=nested_unett"],
            "unknown denoiser 'nested_unett', did you mean 'nested_unet'",
        ),
        (["+denoiser.chanels=3"], "no option 'chanels', did you mean 'channels'"),
        (["data.name=criters"], "unknown dataset 'criters', did you mean 'critters'"),
        (["method.name=mdn"], "unknown method 'mdn', did you mean 'mdm'"),
        (["sampler.rule.name=ddimm"], "unknown sampler 'ddimm', did you mean 'ddim'"),
        (["+method.objective.loss_spase=v"], "no option 'loss_spase', did you mean 'loss_space'"),
        (["method.resolutions=[16,32]"], "not in order"),
        (["method.resolutions=[32,12]"], "12 does not divide 32"),
        (["method.resolutions=[48,16]"], "48"),
        (["data.resolution=24"], "does not divide"),
        (["method.growth=[0.5,0.4]"], "growth"),
        (["method.fractions=[1,0.5]"], "fractions"),
        (["method.resolutions=[32]"], "nest one network for each"),
        (["trainer.precision=fp8"], "trainer.precision='fp8'"),
        (["trainer.steps=0"], "trainer.steps=0"),
        (["denoiser.groups=5"], "5 groups do not divide"),
        (["denoiser.inner.heads=5"], "5 heads do not divide"),
        (["denoiser=custom", "denoiser.name=os:system"], "not a subclass of Denoiser"),
    ],
)
def test_bad_input_is_one_clear_message(overrides, message):
    with pytest.raises(ValueError) as error:
        prepared(*overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_is_named_after_the_options_that_make_another_run():
    told = ["method=mdm", "data=elpv", "analysis=exposure_bias", "analysis.log_snrs=[1,2]"]
    assert folder_name("mdm-elpv", told) == "mdm-elpv"
    more = ["trainer.steps=5", "+denoiser.groups=4", "trainer.lr=1e-3"]
    named = "mdm-elpv+denoiser.groups-4+trainer.lr-1e-3+trainer.steps-5"
    assert folder_name("mdm-elpv", told + more) == named


ODD_OPTIONS = (
    ["method.growth=[0.25]"],
    ["method.growth=[0.2,5]"],
    ["method.growth=0.2-5"],
    ["method.growth=-1"],
    ["method.growth=1"],
    ["method.growth='1'"],
    ["codec@method.codec=identity"],
    ["measure.extractor={name: inception, weights: /a b/ü.pth}"],
    ["a=1", "b=2"],
    ["a=1+b-2"],
    ["data.root=/data/$HOME/`x`;rm"],
    ["data.root=" + "日本" * 200],
    ["data.root=" + "日本" * 201],
    *([f"data.root={'x' * 300}{i}"] for i in range(3)),
)


def test_names_of_folders_need_no_quotes_are_short_and_differ_where_options_do():
    names = [folder_name("mdm", options) for options in ODD_OPTIONS]
    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch(r"[\w.+-]+", name) and len(name.encode()) <= 200
        word = f"checkpoint=runs/{name}/weights.safetensors"
        parsed = OverridesParser.create().parse_override(quoted(word))
        assert parsed.value() == word.partition("=")[2]
    assert folder_name("mdm", ["method.growth=[0.25]"]).startswith("mdm+method.growth-0.25+")


@pytest.mark.parametrize("label", ["матрёшка", "模型", "हिन्दी", "cafe\N{COMBINING ACUTE ACCENT}"])
def test_a_folder_keeps_the_letters_of_a_label(label):
    kept = unicodedata.normalize("NFC", label)
    assert folder_name(f"{label}-critters", []) == f"{kept}-critters"
    long, apart = (
        folder_name(unicodedata.normalize(form, label) * 60, []) for form in ("NFC", "NFD")
    )
    assert long == apart and len(long.encode()) <= 200
    assert slug_of(f"{label} 32.5 px", []) == f"{kept}-32-5-px"


def test_the_default_folder_is_named_so():
    GlobalHydra.instance().clear()
    words = ["method=mdm", "budget=smoke", "denoiser.width=48", "method.fractions=[0.5,1]"]
    with initialize_config_dir(folder_of_configs(), version_base="1.3"):
        cfg = compose("benchmark", overrides=words, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        folder = cfg.folder
    name = "runs/mdm-critters-smoke+denoiser.width-48+method.fractions-0.5-1+"
    assert re.fullmatch(re.escape(name) + "[0-9a-f]{8}", folder)


def test_precision_is_settled_before_anything_is_kept():
    assert prepared("trainer.precision=auto").config["trainer"]["precision"] in (
        "32-true",
        "bf16-mixed",
    )


def bench(*options: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benchmarks.run", *QUICK, *options]
    environment = {**os.environ, "JAXTYPING_DISABLE": "1", **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_an_absent_inception_file_ends_the_run_before_compute(tmp_path):
    ended = bench("measure.extractor={name: inception}", f"folder={tmp_path / 'run'}")
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1
    assert "weights-inception-2015-12-05-6726825d.pth" in ended.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not (tmp_path / "run" / "record.json").exists()


@pytest.mark.parametrize(
    ("overrides", "levels", "message"),
    [
        ([], [1], "take a cascade"),
        (["method=cascaded"], [20], "log_snr 20 is outside"),
        (["method=cascaded", "method.stages.0.share=0"], [1], "stage 16 is sampled before it is"),
    ],
)
def test_what_cannot_be_analysed_or_sampled_is_refused_before_compute(overrides, levels, message):
    method = prepared(*overrides).method
    with pytest.raises(ValueError, match=message):
        check_method(method, Analysis("exposure_bias", 8, levels))


def measure(**options: Any) -> Measure:
    """Little, with a random network."""
    usual = {"extractor": {"name": "random_conv"}, "metrics": ["fd"], "samples": 8, "seeds": [0]}
    usual |= {"resolutions": [32, 16], "batch": 8, "curve": Curve(0, [], 0), "references": {}}
    usual |= {"labels": "test", "pack": 8, "scale": True}
    return Measure(**{**usual, "perceptual": {"name": "none"}, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": []}, "measure.seeds=.*: name one or more"),
        ({"seeds": [1, 1]}, "measure.seeds=.*each once"),
        ({"metrics": ["fdd"]}, "unknown metric 'fdd', did you mean 'fd'"),
        ({"metrics": ["dc"], "samples": 5}, "'dc' of 5 images: measure at least 6"),
        ({"references": {32: "nowhere.npz"}}, "nowhere.npz is no file"),
        ({"references": {8: "nowhere.npz"}}, r"reference files for \[8\] px, where nothing is"),
        ({"curve": Curve(4, ["dc"], 0)}, "'dc' of 4 images: measure at least 6"),
        ({"metrics": ["atributes"]}, "unknown metric 'atributes', did you mean 'attributes'"),
        ({"metrics": ["attributes", "attributes"]}, "attributes is named twice"),
        ({"metrics": ["attributes"], "resolutions": [4]}, "'attributes': at 4 px"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_compute(options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check_measure(measure(**options), prepared())


def test_moments_alone_are_refused_where_features_are_compared(tmp_path):
    """Before training, not after it."""
    extractor = extractors.build({"name": "random_conv"})
    path, d = tmp_path / "moments.npz", extractor.width
    np.savez(path, mu=np.zeros(d), sigma=np.eye(d))
    check_measure(measure(references={32: path}), prepared())
    with pytest.raises(ValueError, match="'kd' compares with features of real images"):
        check_measure(measure(references={32: path}, metrics=["fd", "kd"]), prepared())


def test_captions_that_the_data_lacks_are_refused_before_compute(monkeypatch):
    monkeypatch.setattr(ready, "check_metrics", lambda *given, **more: None)  # CLIP is not here
    made = prepared()
    test = replace(made.data.part("test"), captions=None)
    bare = replace(made, data=replace(made.data, captions=None))
    assert test.captions is None
    with pytest.raises(ValueError, match="needs captions, which critters has none of"):
        check_measure(measure(metrics=["clip_score"], resolutions=[32]), bare)


OPTIONS = {
    "seed": 0,
    "folder": "a",
    "trainer": {"precision": "auto", "steps": 10, "progress": True},
    "sampler": {"steps": 5},
    "match": {"flops": None, "latency": None},
    "measure": {"metrics": ["fd", "auto"], "references": {32: "x.npz"}},
    "dry_run": False,
}


def changed(key: str, value: object) -> dict[str, Any]:
    options = copy.deepcopy(OPTIONS)
    *path, last = key.split(".")
    node = options
    for name in path:
        node = node.setdefault(name, {})
    node[last] = value
    return options


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("folder", "b"),
        ("trainer.progress", False),
        ("trainer.precision", "32-true"),
        ("measure.metrics", ["fd", "attributes"]),
        ("measure.metrics", ["fd"]),
    ],
)
def test_what_a_run_settled_is_no_other_run(tmp_path, key, value):
    record = rows.record("a", config=changed(key, value))
    record.write(tmp_path)
    record_in(OPTIONS, tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("trainer.steps", 11),
        ("sampler.steps", 4),
        ("match.flops", 1e12),
        ("measure.metrics", ["fd", "kd", "attributes"]),
        ("measure.references", {32: "y.npz"}),
        ("measure.new", 3),
    ],
)
def test_a_finished_run_is_no_answer_to_other_options(tmp_path, key, value):
    rows.record("a", config=changed(key, value)).write(tmp_path)
    where = key if not isinstance(value, dict) else f"{key}.32"
    with pytest.raises(Unlike, match=rf"made with {where}=.*, now it is .*: remove it, or"):
        record_in(OPTIONS, tmp_path)


@pytest.mark.parametrize("name", ["keep", "progress", "cache", "root", "log_every", "folder"])
@pytest.mark.parametrize("place", ["denoiser", "method.codec.inner", "measure.extractor"])
def test_an_option_is_passed_over_by_its_whole_path_alone(tmp_path, place, name):
    rows.record("a", config=changed(f"{place}.{name}", 1)).write(tmp_path)
    with pytest.raises(Unlike, match=rf"made with {place}.{name}=1, now it is None"):
        record_in(OPTIONS, tmp_path)


@pytest.fixture
def made_of(tmp_path, monkeypatch):
    """Options of a run that is made from one thing of every kind, and its record."""
    monkeypatch.setenv("HIERDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HIERDIFF_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.syspath_prepend(tmp_path)
    for place in ("codec", "stage", "reference", "lpips", "weights/" + INCEPTION_FILE):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text("old")
    for name in ("my_net_of_run", "my_plugin_of_run"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit")
    announce(tmp_path, "my_plugin_of_run")
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5" / "config.json").write_text("old")
    for name in ("images/a", "images/b", "others/a"):
        (tmp_path / name).mkdir(parents=True)
        for i in range(6):
            pixels = np.full((8, 8, 3), 20 * i, np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    options = {
        **OPTIONS,
        "data": {
            "name": "folder",
            "root": str(tmp_path / "images"),
            "test_root": str(tmp_path / "others"),
            "resolution": 8,
        },
        "text": {"encoder": {"weights": str(tmp_path / "t5")}},
        "denoiser": {"name": "unet", "inner": {"name": "my_net_of_run:Net"}},
        "method": {
            "codec": {
                "checkpoint": str(tmp_path / "codec"),
                "perceptual": {"name": "lpips", "weights": str(tmp_path / "lpips")},
            },
            "stages": [{}, {"weights": str(tmp_path / "stage")}],
        },
        "measure": {
            "metrics": ["fd"],
            "extractor": {"name": "inception"},
            "references": {32: str(tmp_path / "reference")},
        },
    }
    data = data_digest(options["data"])
    provenance = {"inputs": inputs_of(options, data), "git": {"commit": "another"}}
    rows.record("a", config=options, provenance=provenance).write(tmp_path / "run")
    return options, tmp_path


def test_the_same_inputs_and_another_commit_are_the_same_run(made_of):
    options, folder = made_of
    assert finished_record(options, folder / "run") is not None
    for option, name in (("root", "images"), ("test_root", "others")):
        (folder / name).rename(folder / f"moved_{name}")
        options["data"][option] = str(folder / f"moved_{name}")
    assert finished_record(options, folder / "run") is not None


@pytest.mark.parametrize(
    ("place", "key"),
    [
        ("codec", "method.codec.checkpoint"),
        ("lpips", "method.codec.perceptual.weights"),
        ("stage", "method.stages.1.weights"),
        ("reference", "measure.references.32"),
        ("weights/" + INCEPTION_FILE, f"{INCEPTION_FILE} for measure.extractor"),
        ("t5/config.json", "text.encoder.weights"),
        ("my_net_of_run.py", "source of my_net_of_run"),
        ("my_plugin_of_run.py", "source of my_plugin_of_run"),
    ],
)
def test_a_finished_run_is_no_answer_after_a_change_of_what_it_was_made_from(made_of, place, key):
    options, folder = made_of
    (folder / place).write_text("new")
    with pytest.raises(Unlike, match=rf"run/record.json was made from another .*{key}"):
        finished_record(options, folder / "run")


@pytest.mark.parametrize("what", ["pixels", "added", "class"])
def test_a_finished_run_is_no_answer_to_other_images(made_of, what):
    options, folder = made_of
    image = folder / "images" / "a" / "3.png"
    if what == "pixels":
        Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(image)
    elif what == "added":
        shutil.copy(image, folder / "images" / "a" / "9.png")
    else:
        image.rename(folder / "images" / "b" / "9.png")
    with pytest.raises(Unlike, match=r"another content of data \(.*images\)"):
        finished_record(options, folder / "run")


def test_a_record_that_does_not_say_what_it_was_made_from_warns(tmp_path, caplog):
    """As those before this version."""
    rows.record("a", config=OPTIONS).write(tmp_path)
    assert finished_record(OPTIONS, tmp_path) is not None
    assert "does not say from what it was made" in caplog.text


def test_steps_that_a_budget_decides_are_no_other_run(tmp_path):
    budget = {"flops": 1e12, "latency": 0.5}
    made = changed("match", budget)
    made["trainer"]["steps"], made["sampler"]["steps"] = 77, 7
    rows.record("a", config=made).write(tmp_path)
    record_in(changed("match", budget), tmp_path)


def test_what_an_older_record_does_not_say_is_what_its_run_did(tmp_path):
    rows.record("a", config=changed("folder", "a")).write(tmp_path)
    now = changed("folder", "a")
    now["trainer"] |= {"recompute": False, "matmul": "highest", "loggers": []}
    now["measure"] |= {"labels": "test", "scale": True, "pack": 16}
    reading = {"decoded": True, "crop": "center", "filter": "area", "workers": None}
    now["data"] = {
        **now.get("data", {}),
        "reading": {**reading, "broken": "skip", "uncaptioned": "empty"},
    }
    record_in(now, tmp_path)
    for part, option, value in (
        ("trainer", "recompute", True),
        ("measure", "labels", "random"),
        ("data", "reading", {**now["data"]["reading"], "crop": "adm_random"}),
    ):
        other = {**now, part: {**now[part], option: value}}
        with pytest.raises(Unlike, match=rf"{part}\.{option}"):
            record_in(other, tmp_path)


def test_parts_of_data_without_a_law_are_refused_before_compute():
    made = prepared()
    lawless = replace(made, data=replace(made.data, law=None))
    wanted = measure(metrics=["fd", "attributes"])
    check_measure(wanted, made)
    with pytest.raises(
        ValueError, match="this data states none: leave it out of measure.metrics"
    ) as error:
        check_measure(wanted, lawless)
    assert "\n" not in str(error.value)


METHODS = ("mdm", "cascaded", "rin")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with one run of each of `METHODS`, and what the last one printed."""
    folder, printed = tmp_path_factory.mktemp("runs"), ""
    for method in METHODS:
        ended = bench(f"method={method}", f"folder={folder / method}")
        assert ended.returncode == 0, ended.stderr
        printed = ended.stdout
    return folder, printed


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_run_leaves_record_pictures_curve_and_weights(method, runs):
    folder = runs[0] / method
    record = Record.read(folder)
    assert not record.edited and record.name == method and not record.analysis
    views = {(row.resolution, row.view) for row in record.quality}
    assert {(32, "native"), (16, "pooled")} <= views
    assert ((16, "native") in views) == (method != "rin")
    for row in record.cost:
        assert row.train_failure is None and row.sample_failure is None
        whole = row.flops_per_call * row.evaluations
        assert row.flops_per_image == whole > 0 or method == "cascaded"
    for kind in ("real", "gaussian"):
        assert {row.resolution for row in record.scale[kind]} == {32, 16}
    for name in ("samples.png", "loss.png", "log.jsonl", "config.yaml", "weights.safetensors"):
        assert (folder / name).stat().st_size > 0


@pytest.mark.slow
def test_a_chain_costs_what_its_stages_cost(runs):
    low, high = sorted(Record.read(runs[0] / "cascaded").cost, key=lambda row: row.resolution)
    steps = low.evaluations
    assert high.evaluations == 2 * steps
    assert high.flops_per_image == low.flops_per_image + steps * high.flops_per_call
    assert high.parameters > low.parameters


@pytest.mark.slow
def test_runs_of_one_data_set_and_budget_end_in_one_table(runs):
    assert all(f" {method} " in runs[1] for method in METHODS)


@pytest.mark.slow
def test_a_finished_run_is_not_measured_again(runs):
    again = bench("method=mdm", f"folder={runs[0] / 'mdm'}")
    assert again.returncode == 0 and "remove it to measure again" in again.stderr


@pytest.mark.slow
def test_exposure_bias_joins_the_record_of_a_run(runs):
    folder = runs[0] / "cascaded"
    options = ("analysis=exposure_bias", "analysis.samples=8", "analysis.log_snrs=[5]")
    ended = bench("method=cascaded", f"folder={folder}", *options)
    assert ended.returncode == 0, ended.stderr
    found = Record.read(folder).analysis["exposure_bias"]
    assert len(found["rows"]) == 4 and found["level"] == {"16to32": 4}
    assert (folder / "exposure_bias.png").stat().st_size > 1000
    assert "gap 16to32" in ended.stdout


@pytest.mark.slow
def test_a_record_is_json_that_anybody_reads(runs):
    content = json.loads((runs[0] / "rin" / "record.json").read_text())
    assert content["provenance"]["packages"]["torch"] and content["provenance"]["config_hash"]
    assert content["training"]["spent"]["images"] == 3 * 2 * 8  # its share of the steps is 3


def composed(folder, *more: str) -> dict[str, Any]:
    """Options of a quick run in this process."""
    GlobalHydra.instance().clear()
    told = (
        "label=mdm",
        "budget_name=smoke",
        "recipe_name=null",
        "name=mdm",
        f"folder={folder}",
        "cost.batches=[1]",
    )
    with initialize_config_dir(folder_of_configs(), version_base="1.3"):
        return plain_config(compose("benchmark", overrides=[*QUICK, *told, *more]))


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_a_failure_row_with_stage_step_and_level(
    tmp_path, monkeypatch, value
):
    def spoilt(method, *given, **more):
        summary = train(method, *given, **more)
        for parameter in method.parameters():
            parameter.data.fill_(value)
        return summary

    monkeypatch.setattr(training, "train", spoilt)
    with pytest.raises(FloatingPointError):
        single.make(settings_of(composed(tmp_path)))
    record = Record.read(tmp_path)
    assert "stage 32x16 are not finite" in record.failure
    assert "step 1 of 2" in record.failure and "level 0 (3 x 32 x 32)" in record.failure
    assert not record.quality and not (tmp_path / "samples.png").exists()


@pytest.mark.slow
def test_a_run_killed_in_measuring_goes_on_and_ends_as_one_that_was_not(tmp_path, monkeypatch):
    """Killed at the second block of one seed, the first of the other, and at the second snapshot of
    the curve."""
    more = ("measure.samples=20", "measure.batch=8", "measure.seeds=[0,1]")
    more = (*more, "measure.curve.samples=8", "measure.curve.metrics=[fd]")
    more = (*more, "trainer.steps=4", "trainer.snapshots=2")
    monkeypatch.setattr(phases, "costs", lambda *given: [])
    whole = single.make(settings_of(composed(tmp_path / "whole", *more)))

    calls, extract = [], quality.Meter.extract

    def counted(self, levels, numbers):
        calls.append(numbers)
        if len(calls) in deadly:
            raise KeyboardInterrupt
        return extract(self, levels, numbers)

    monkeypatch.setattr(quality.Meter, "extract", counted)
    folder, deadly = tmp_path / "killed", (2, 4, 8)  # two of each seed; the scale is cached
    for _ in deadly:
        with pytest.raises(KeyboardInterrupt):
            single.make(settings_of(composed(folder, *more)))
        assert (folder / kept.FILE).exists() and not (folder / "record.json").exists()
    again = single.make(settings_of(composed(folder, *more)))
    assert again.quality == whole.quality
    assert [row.value for row in again.curves] == [row.value for row in whole.curves]
    assert not (folder / kept.FILE).exists()
    for name in ("samples.png", "film.png", "neighbours.png"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_more_samples_than_test_images_are_drawn_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(phases, "costs", lambda *given: [])
    part = prepared().data.part("test")
    cheap = ("measure.extractor={name: random_conv}", "measure.metrics=[fd]")
    options = composed(tmp_path, f"measure.samples={len(part) + 8}", *cheap)
    record = single.make(settings_of(options))
    assert {row.n for row in record.quality if row.metric.startswith("FD")} == {len(part) + 8}
    assert {row.n for row in record.scale["real"]} == {len(part)}
    assert f"rows=permuted({len(part)})" in str(record.quality[0].identity)
    assert record.provenance["rows"]["n"] == len(part)
    single.show(record, tmp_path)


@pytest.mark.slow
def test_samples_that_stay_are_measured_again_with_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(phases, "costs", lambda *given: [])
    words = ("samples=npz", "measure.seeds=[0]", "measure.metrics=[fd,kd]")
    record = single.make(settings_of(composed(tmp_path / "run", *words)))
    GlobalHydra.instance().clear()
    with initialize_config_dir(folder_of_configs(), version_base="1.3"):
        words = (
            *(f"images={tmp_path / 'run' / 'samples' / 'seed0' / '32.npz'}", "label=again"),
            *(f"folder={tmp_path / 'again'}", "data=critters", "conditions=test"),
            *("measure.extractor={name: random_conv}", "measure.metrics=[fd,kd]"),
            "measure.batch=8",
        )
        again = external.evaluate(
            external.external_settings(plain_config(compose("evaluate", overrides=list(words))))
        )
    assert len(again.quality) == 2 * 2 * 2 - 2  # the finest in both views, the other pooled
    assert set(again.quality) <= set(record.quality)
