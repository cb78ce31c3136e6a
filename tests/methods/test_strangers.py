"""A method of a class that nobody knows goes through training, samples, record, costs, tables and
report; what it does not have (a sampler, a trajectory) is left out."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from benchmarks import single
from benchmarks.ready import ready
from benchmarks.report.__main__ import main as report
from benchmarks.settings import Settings, settings_of
from benchmarks.tables.table import tabulate
from hierdiff.command import plain_config
from hierdiff.config import folder_of_configs
from hierdiff.methods import Request, methods
from hierdiff.results.record import Record
from hierdiff.training import load_method
from tests import tiny
from tests.methods.strangers import Adversarial, Autoregressive

QUICK = (
    *("budget=smoke", "data.resolution=8", "trainer.steps=4", "trainer.progress=false"),
    *("trainer.snapshots=1", "measure.samples=8", "measure.seeds=[0]", "measure.batch=8"),
    *("measure.resolutions=[8,4]", "measure.extractor={name: random_conv}", "measure.metrics=[fd]"),
    *("measure.curve={samples: 8, metrics: [fd], loss: 8}", "cost.batches=[2]", "method=custom"),
)


def composed(folder, cls, *more: str) -> Settings:
    GlobalHydra.instance().clear()
    name = f"{cls.__module__}:{cls.__name__}"
    own = (
        f"method.name={name}",
        "label=mine",
        "budget_name=smoke",
        "recipe_name=null",
        "name=x",
        f"folder={folder}",
    )
    with initialize_config_dir(folder_of_configs(), version_base="1.3"):
        return settings_of(plain_config(compose("benchmark", overrides=[*QUICK, *own, *more])))


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "calls"), [(Adversarial, 1), (Autoregressive, 64)])
def test_a_method_of_no_known_class_has_a_full_record_costs_and_a_report(cls, calls, tmp_path):
    folder = tmp_path / "runs" / "mine"
    single.show_plan(composed(folder, cls, "dry_run=true"))
    assert not folder.exists()
    record = single.make(composed(folder, cls))
    assert record.failure is None
    views = {(row.resolution, row.view): row.value for row in record.quality}
    assert set(views) >= {(8, "native"), (4, "pooled")} and all(v > 0 for v in views.values())
    (cost,) = record.cost
    assert cost.train_failure is None and cost.sample_failure is None
    assert cost.evaluations == calls
    assert cost.flops_per_image == calls * cost.flops_per_call > 0
    assert cost.train_images_per_s > 0 and cost.latency_s > 0
    assert {row.metric for row in record.curves} >= {"validation loss"}
    assert record.training["spent"]["flops"] > 0
    assert (folder / "film.png").exists() == (cls is Autoregressive)
    assert not (folder / "reconstructions.png").exists()
    again = Record.read(folder)
    assert again.quality == record.quality and not again.edited
    assert tabulate([again], preset="all").rows[0] == "mine"
    report([str(tmp_path / "runs"), "-o", str(tmp_path / "report")])
    assert "mine" in (tmp_path / "report" / "index.html").read_text()
    method, _ = load_method(folder / "weights.safetensors", ["tests"])
    images = method.sample(Request(3, noise=tiny.noise()))
    assert images[8].shape == (3, 3, 8, 8) and float(images[8].abs().max()) <= 1


def test_a_budget_of_sampling_is_refused_to_a_method_without_a_sampler(tmp_path):
    with pytest.raises(ValueError, match="match.flops_per_image=1e[+]09: .* has no sampling.steps"):
        ready(composed(tmp_path, Adversarial, "match.flops_per_image=1e9"))


def test_it_is_registered_by_name_as_any_other(monkeypatch):
    monkeypatch.setattr(methods, "_entries", dict(methods._entries))
    methods.register("adversarial")(Adversarial)
    method = methods.build({"name": "adversarial", "resolutions": [8]}, offered=tiny.facts("class"))
    assert "adversarial" in methods
    labels = [tiny.cond("class", 4), tiny.cond("class", 4).map(lambda x: x.flip(0))]
    made = [method.sample(Request(4, cond, noise=tiny.noise()))[8] for cond in labels]
    assert not torch.equal(*made)
    with pytest.raises(ValueError, match="one go"):
        method.at(8).run(Request(1, noise=tiny.noise()), stop=0.5)
    with pytest.raises(ValueError, match="all of its resolutions at once"):
        method.at(8).tail(1)
