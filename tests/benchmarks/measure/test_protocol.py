"""What a protocol states, how a run departs from it, and which files it lacks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from benchmarks.measure.protocol import check_files, departures
from benchmarks.settings import Protocol, group_of, settings_of
from benchmarks.tables.notes import protocols
from hierdiff.command import plain_config
from hierdiff.metrics.extractors import RandomConv
from hierdiff.metrics.frechet import Statistics
from hierdiff.metrics.reference import Reference
from hierdiff.metrics.table import METRICS
from tests.benchmarks.rows import record
from tests.test_configs import CONFIGS, group

NAMES = group("protocol")


def settings(*words):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        names = [f"{name}=x" for name in ("folder", "name", "label", "budget_name")]
        cfg = compose("benchmark", [*words, *names, "recipe_name=null"])
    return settings_of({k: v for k, v in plain_config(cfg).items() if k != "hydra"})


class Inception(RandomConv):
    name = "inception"

    def __init__(self):
        super().__init__(width=4)
        self.weights = "6726825d"


def reference(name, n=float("inf")):
    statistics = Statistics.stated(torch.zeros(4).double(), torch.eye(4).double(), n)
    return Reference(256, statistics, name, "e")


ADM = reference("VIRTUAL_imagenet256_labeled.npz@0123456789ab")


@pytest.mark.parametrize("name", NAMES)
def test_every_protocol_sets_the_options_that_it_states(name):
    made = settings(f"protocol={name}", "budget=smoke")
    protocol, measure = made.protocol, made.measure
    assert protocol.name == name and set(protocol.metrics) <= set(METRICS)
    assert measure.samples == protocol.samples and measure.labels == protocol.labels
    assert measure.metrics == protocol.metrics and measure.seeds == (0,)
    assert protocol.extractor.startswith(measure.extractor["name"])
    files = {} if protocol.reference in ("train", "captions") else {256: protocol.reference}
    assert list(measure.references.values()) == list(files.values())


def test_a_run_as_stated_departs_from_nothing():
    made = settings("protocol=fid50k_imagenet_256")
    assert departures(made.protocol, made.measure, 256, Inception(), ADM) == []


def test_every_other_condition_is_a_departure():
    made = settings(
        "protocol=fid50k_imagenet_256", "measure.samples=512", "measure.seeds=[0,1]",
        "measure.labels=test", "measure.metrics=[fd,is_in_order]",
    )  # fmt: skip
    other = RandomConv(width=4)
    assert departures(made.protocol, made.measure, 32, other, reference("a1b2", 1513)) == [
        "512 of 50,000 samples",
        "mean of 2 draws instead of one",
        "test labels instead of random",
        "32 px instead of 256 px",
        "extractor random_conv instead of inception",
        "the training images instead of VIRTUAL_imagenet256_labeled.npz",
        "without sfid, pr_all",
    ]


def test_weights_and_references_are_told_apart():
    made = settings("protocol=fid50k_imagenet_256")
    one = Inception()
    one.weights = "0000aaaa"
    assert departures(made.protocol, made.measure, 256, one, reference("own.npz@00")) == [
        "weights 0000aaaa of inception instead of 6726825d",
        "reference own.npz instead of VIRTUAL_imagenet256_labeled.npz",
    ]
    made = settings("protocol=fid50k_cifar10_train")
    found = [
        departures(made.protocol, made.measure, 32, Inception(), one)
        for one in (reference("a1", 50000), reference("a1", 40000), ADM)
    ]
    assert found == [
        [],
        ["40,000 instead of 50,000 real images"],
        ["reference VIRTUAL_imagenet256_labeled.npz instead of the training images"],
    ]


def test_absent_files_are_named_with_their_source_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HIERDIFF_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    made = settings("protocol=fid50k_imagenet_256")
    with pytest.raises(FileNotFoundError) as error:
        check_files(made.protocol, made.measure.extractor, made.measure.references)
    text = str(error.value)
    assert "weights-inception-2015-12-05-6726825d.pth (https://github.com/toshas/" in text
    assert "VIRTUAL_imagenet256_labeled.npz (https://openaipublic.blob" in text
    assert str(tmp_path) in text and "\n" not in text
    for name in ("weights-inception-2015-12-05-6726825d.pth", "VIRTUAL_imagenet256_labeled.npz"):
        np.save(tmp_path / "x.npy", np.zeros(1))
        (tmp_path / "x.npy").rename(tmp_path / name)
    check_files(made.protocol, made.measure.extractor, made.measure.references)


def test_an_option_that_a_protocol_does_not_have_is_refused():
    made = settings("protocol=fid50k_imagenet_256")
    node = {**made.to_config()["protocol"], "smaples": 3}
    with pytest.raises(ValueError, match="smaples"):
        group_of(Protocol, node, "protocol")
    assert "protocol" not in settings().to_config()


def test_a_table_says_the_protocol_and_what_departs_from_it():
    one = record("mdm")
    name = "fid50k_imagenet_256"

    def with_departures(found):
        evaluation = {"evaluation": {"protocol": name, "departures": found}}
        return replace(one, provenance={**one.provenance, **evaluation})

    rows = {"a": with_departures([]), "b": with_departures(["512 of 50,000 samples"]), "c": one}
    assert list(protocols(rows)) == [
        f"a: protocol {name}",
        f"b: protocol {name}, from which it departs: 512 of 50,000 samples",
    ]
