"""Sampling seeds, their mean and spread, and the scale that is kept."""

import logging
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.conditions import EvaluationConditions, example_caption
from benchmarks.measure import scale as scales
from benchmarks.measure.quality import average_seeds, settle_metrics
from benchmarks.measure.samples import Draw, blocks, real_images
from benchmarks.measure.scale import real_references, scale_rows
from benchmarks.measure.stream import Gauge
from hierdiff.data.critters.law import LAW
from hierdiff.data.law import Law
from hierdiff.data.order import evaluation_rows
from hierdiff.methods import Method
from hierdiff.metrics.attributes import AttributeMeter
from hierdiff.metrics.extractors import RandomConv
from hierdiff.metrics.fidelity import FidelityMeter
from hierdiff.metrics.identity import Identity
from hierdiff.metrics.quality import Quality
from hierdiff.metrics.reference import levels_of, references, write_moments
from tests import tiny
from tests.benchmarks.measured import quality
from tests.training.runs import images as noises

METRICS = ["fd", "kd", "pr", "dc", "mind", "nearest", "consistency"]
SIDES = (8, 4)


class Noise(Method):
    """Shows its noise, times a weight."""

    def __init__(self, weight=1.0):
        super().__init__((8,), ())
        self.weight = nn.Parameter(torch.tensor(weight))

    def sample(self, request):
        return {8: request.noise((request.n, 3, 8, 8)).clamp(-3, 3) / 3 * self.weight.detach()}


@pytest.fixture
def data():
    return noises(80)


@pytest.fixture
def extractor():
    return RandomConv(width=12)


def drawn(data, seed, n=20, batch=8, method=None, pack=4, labels="test"):
    conditions = EvaluationConditions(data, labels, seed)
    draw = Draw(method or Noise(), conditions, seed, "32-true", pack)
    return torch.cat([draw(numbers)[8] for numbers in blocks(n, batch, pack)])


def test_a_seed_draws_other_noise_for_every_image(data):
    first, second = drawn(data, 0), drawn(data, 1)
    assert len(first) == 20
    everything = torch.cat([first, second]).flatten(1)
    assert len(everything.unique(dim=0)) == 40


def test_one_seed_gives_the_same_images_whatever_the_batch(data):
    assert torch.equal(drawn(data, 3, n=70, batch=8), drawn(data, 3, n=70, batch=40))
    assert torch.equal(drawn(data, 3, n=20)[:11], drawn(data, 3, n=11))


def test_a_network_is_called_with_the_same_numbers_of_images_whatever_the_batch(data):
    """Because float kernels round by the number of images in a call."""
    calls = {}

    class Watched(Noise):
        def sample(self, request):
            calls[batch, n].append(request.n)
            return super().sample(request)

    for batch, n in ((1, 33), (48, 33), (48, 40)):
        calls[batch, n] = []
        drawn(data, 0, n=n, batch=batch, method=Watched())
        assert set(calls[batch, n]) == {4}
    assert len(calls[1, 33]) == len(calls[48, 33]) == 9


def test_blocks_are_whole_packs_and_whole_batches_of_features():
    assert blocks(70, 1) == [
        range(0, 16),
        range(16, 32),
        range(32, 48),
        range(48, 64),
        range(64, 70),
    ]
    assert blocks(70, 40, 12) == [range(0, 48), range(48, 70)]
    assert blocks(70, 40, 12, start=48) == [range(48, 70)]
    for wrong in ((0, 4, 4), (4, 0, 4), (4, 4, 0)):
        with pytest.raises(ValueError, match="take at least 1 each"):
            blocks(*wrong)


class Classes(Noise):
    """Shows the class of an image."""

    def sample(self, request):
        classes = request.cond.labels.float()[:, None, None, None]
        return {8: (classes / 127.5 - 1).expand(request.n, 3, 8, 8)}


def test_classes_are_balanced_or_random_if_that_is_wanted(data):
    count = len(data.class_names)

    def classes(labels, seed=0, n=40):
        return drawn(data, seed, n=n, method=Classes(), labels=labels)[:, 0, 0, 0]

    balanced = classes("balanced", n=3 * count)
    assert torch.equal(balanced.bincount(), torch.full((count,), 3))
    assert torch.equal(balanced, classes("balanced", seed=1, n=3 * count))
    random = classes("random", n=600)
    assert random.max() == count - 1 and random.min() == 0
    deviation = (600 / count * (1 - 1 / count)) ** 0.5
    assert (random.bincount() - 600 / count).abs().max() < 5 * deviation
    assert torch.equal(classes("random", n=30), random[:30])
    assert not torch.equal(classes("random", seed=1, n=30), random[:30])
    assert EvaluationConditions(data, "random").rule == f"labels=random({count})"
    with pytest.raises(ValueError, match="has no classes, take measure.labels=test"):
        EvaluationConditions(replace(data, class_names=(), labels=None), "balanced")


def test_methods_share_the_noise_of_an_image(data):
    whole, half = drawn(data, 0), drawn(data, 0, method=Noise(0.5))
    inner = (whole > 0) & (whole < 255)
    expected = (whole.float() / 127.5 - 1) / 2
    found = half.float() / 127.5 - 1
    assert float((found - expected)[inner].abs().max()) < 1.01 / 127.5


def test_registered_methods_draw_by_seed(data):
    method = tiny.method("mdm", "unconditional")
    conditions = EvaluationConditions(data)
    one, two = (Draw(method, conditions, seed, "32-true", 2)(range(2)) for seed in (0, 1))
    assert set(one) == {16, 8} and all(image.dtype == torch.uint8 for image in one.values())
    assert not torch.equal(one[16], two[16]) and not torch.equal(one[8], two[8])


def stream(seed, n=24):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return [levels_of(chunk, SIDES) for chunk in images.split(10)]


def refs(data, extractor):
    batches = [torch.from_numpy(data.images.copy())]
    return references(batches, extractor, SIDES, data=data.sha256, split="train")


def test_the_value_is_the_mean_over_seeds_with_all_values_and_their_deviation(data, extractor):
    reference = refs(data, extractor)
    rows = quality((stream(seed) for seed in (1, 2, 3)), extractor, reference, METRICS)
    alone = [quality([stream(seed)], extractor, reference, METRICS) for seed in (1, 2, 3)]
    for row, *single in zip(rows, *alone, strict=True):
        values = [one.value for one in single]
        assert row.values == tuple(values) and row.value == statistics.fmean(values)
        assert row.spread == pytest.approx(np.std(values, ddof=1))
        assert {row.identity} == {one.identity for one in single}
        assert single[0].spread is None and single[0].values == (values[0],)
    fd = next(row for row in rows if row.metric == "FD-RandomConv")
    assert fd.floor == alone[0][0].floor > 0 and fd.spread > 0


def test_one_seed_gives_what_the_meter_gives(data, extractor):
    reference = refs(data, extractor)
    meter = FidelityMeter(extractor, reference)
    for levels in stream(1):
        meter.add(levels)
    rows = quality([stream(1)], extractor, reference)
    assert [row.value for row in rows] == [row.value for row in meter.qualities()]


def test_seeds_with_other_numbers_of_images_are_no_repeats(data, extractor):
    with pytest.raises(ValueError, match="seeds disagree"):
        quality([stream(1), stream(2, n=20)], extractor, refs(data, extractor))


def test_captions_are_those_of_the_conditions_and_go_round(data, extractor, monkeypatch):
    heard = []

    def listen(self, levels, captions=None):
        heard.append(captions)
        return {}

    monkeypatch.setattr(FidelityMeter, "extract", listen)
    few = replace(data.select(np.arange(3)), captions=("a", "b", "c"))
    quality([stream(0)], extractor, {}, conditions=few)
    assert [len(said) for said in heard] == [10, 10, 4]
    rows = evaluation_rows(3, range(24)).tolist()
    assert [one for said in heard for one in said] == ["abc"[row] for row in rows]
    assert example_caption(few) == "abc"[rows[0]] and example_caption(data) == ""


def test_samples_have_the_conditions_of_the_rows_and_may_be_more(data):
    """Each image shows its label."""

    class Labels(Noise):
        def sample(self, request):
            shade = request.cond.labels[:, None, None, None] / 127.5 - 1
            return {8: shade.expand(request.n, 3, 8, 8)}

    few = data.select(np.arange(3))
    made = drawn(few, 0, n=8, batch=3, method=Labels())[:, 0, 0, 0].tolist()
    rows = evaluation_rows(3, range(8))
    assert made == few.labels[rows.numpy()].tolist()
    assert drawn(few, 0, n=5, batch=5, method=Labels())[:, 0, 0, 0].tolist() == made[:5]


def test_real_images_are_those_of_the_conditions_and_none_comes_twice(data):
    found = real_images(data, 500)
    assert len(found) == 80 and len(found.flatten(1).unique(dim=0)) == 80
    rows = evaluation_rows(80, range(7)).numpy()
    assert torch.equal(real_images(data, 7), torch.from_numpy(data.images[rows]))


def test_the_identity_says_under_which_rows_images_were_made(data, extractor):
    (row, *_) = quality([stream(1)], extractor, refs(data, extractor), conditions=data)
    assert " : N=24 : rows=permuted(80) : ref=" in str(row.identity)


def test_more_samples_than_test_images_are_measured_beside_all_of_those(data, extractor, tmp_path):
    """The Gaussian is as many as the samples; real images say that they are fewer."""
    reference, test = refs(data, extractor), data.part("test")
    found = scale_rows(data, Gauge(extractor, reference), 100, seed=0, folder=tmp_path)
    counts = {kind: {row.n for row in rows} for kind, rows in found.items()}
    assert counts == {"real": {len(test)}, "gaussian": {100}}
    real, gaussian = found["real"][0].identity, found["gaussian"][0].identity
    assert real != gaussian and (real.apart_from_count() == gaussian.apart_from_count())


def scale(data, extractor, folder, metrics=METRICS, seed=0):
    gauge = Gauge(extractor, refs(data, extractor))
    return scale_rows(data, gauge, 10, seed=seed, folder=folder, metrics=metrics)


def test_the_scale_has_the_metrics_of_the_rows_but_those_within_a_method(data, extractor, tmp_path):
    found = scale(data, extractor, tmp_path)
    for kind in ("real", "gaussian"):
        metrics = {row.metric for row in found[kind]}
        assert "consistency" not in metrics and len(metrics) == 8
        assert {row.view for row in found[kind]} == {"pooled"}
        assert {row.resolution for row in found[kind]} == {8, 4}
        assert all(row.spread is None for row in found[kind])


def test_a_damaged_scale_is_measured_again(data, extractor, tmp_path, caplog):
    first = scale(data, extractor, tmp_path, metrics=["fd"])
    (path,) = tmp_path.iterdir()
    whole = path.read_text()
    value = repr(first["real"][0].value)
    for content in (whole.replace(value, f"1{value}"), whole[:-20], "[]", '{"real": []}'):
        path.write_text(content)
        assert scale(data, extractor, tmp_path, metrics=["fd"]) == first
    assert caplog.text.count("measured again") == 4


def test_the_scale_is_kept_for_its_metrics(data, extractor, tmp_path, monkeypatch):
    first = scale(data, extractor, tmp_path)
    few = scale(data, extractor, tmp_path, metrics=["fd"])
    assert {row.metric for row in few["real"]} == {"FD-RandomConv"}
    assert len(list(tmp_path.iterdir())) == 2

    def again(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(Gauge, "rows", again)
    assert scale(data, extractor, tmp_path) == first
    for change in ({"seed": 1}, {"metrics": ["kd", "fd"]}):
        with pytest.raises(AssertionError, match="measured again"):
            scale(data, extractor, tmp_path, **change)
    monkeypatch.setattr(scales, "PROTOCOL", scales.PROTOCOL + 1)
    with pytest.raises(AssertionError, match="measured again"):
        scale(data, extractor, tmp_path)


def test_half_a_file_of_the_scale_is_measured_again(data, extractor, tmp_path):
    first = scale(data, extractor, tmp_path, metrics=["fd"])
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text()[:-20])
    assert scale(data, extractor, tmp_path, metrics=["fd"]) == first


def test_a_foreign_file_stands_in_for_the_training_images(data, extractor, tmp_path):
    own = real_references(data, extractor, SIDES, tmp_path)
    write_moments(tmp_path / "theirs.npz", own[8], {})
    found = real_references(data, extractor, SIDES, tmp_path, given={8: tmp_path / "theirs.npz"})
    assert list(found) == [8, 4] and found[4].hash == own[4].hash
    assert found[8].hash.startswith("theirs.npz@")
    with pytest.raises(ValueError, match="reference files for \\[16\\] px"):
        real_references(data, extractor, SIDES, tmp_path, given={16: "x.npz"})


def test_of_no_seed_there_is_no_row():
    assert quality([], RandomConv(width=12), {}) == []
    one = Quality(8, "native", "FD", 2.0, Identity("i"))
    assert average_seeds([one]) == replace(one, values=(2.0,))


PARTS = {"TV parts", "impossible pairs", "attribute accuracy"}


@pytest.fixture
def lawful(data):
    """Noise that claims to be critters, with random parts; the bodies are its classes."""
    generator = np.random.default_rng(0)
    codes = {name: generator.integers(0, k, len(data)) for name, k in LAW.sizes.items()}
    return replace(data, law=LAW, attributes=codes, labels=codes["body"])


def test_parts_are_measured_beside_the_other_metrics_of_the_same_stream(lawful, extractor):
    reference = refs(lawful, extractor)
    rows = quality([stream(1)], extractor, reference, ["fd", "attributes", "kd"], conditions=lawful)
    alone = quality([stream(1)], extractor, reference, ["fd", "kd"])
    others = [row for row in rows if row.metric not in PARTS]
    same = Identity("")  # but for the rows
    assert [replace(row, identity=same) for row in others] == [
        replace(row, identity=same) for row in alone
    ]
    views = {(row.resolution, row.view) for row in alone}
    for metric in PARTS:
        found = [row for row in rows if row.metric == metric]
        assert {(row.resolution, row.view) for row in found} == views
    meter = AttributeMeter(LAW, SIDES, rows="rows=permuted(80)")
    for levels, first in zip(stream(1), (0, 10, 20), strict=True):
        count = len(levels[8])
        meter.add(levels, EvaluationConditions(lawful).parts(range(first, first + count)))
    expected = [(q.metric, q.value, q.identity) for q in meter.qualities()]
    told = [(r.metric, r.value, r.identity) for r in rows if r.metric in PARTS]
    assert told == expected


def test_an_image_is_wanted_as_the_test_example_under_whose_conditions_it_is(lawful):
    wanted = EvaluationConditions(lawful).parts(range(75, 85))
    assert list(wanted) == ["body"]
    rows = evaluation_rows(80, range(75, 85))
    assert wanted["body"].tolist() == lawful.attributes["body"][rows.numpy()].tolist()
    conditions = lawful.batch(rows).cond
    assert torch.equal(wanted["body"], conditions.labels)


def test_parts_without_data_that_has_a_law_are_refused(data, extractor):
    for conditions in (None, data):
        with pytest.raises(ValueError, match="'attributes' needs data with a law"):
            quality(
                [stream(1)], extractor, refs(data, extractor), ["attributes"], conditions=conditions
            )


def test_auto_becomes_the_metric_of_parts_where_it_can_be_measured(lawful, caplog):
    with caplog.at_level(logging.INFO):
        assert settle_metrics(["fd", "auto"], lawful.law, [16, 8]) == ["fd", "attributes"]
        assert settle_metrics(["fd", "kd"], lawful.law, [4]) == ["fd", "kd"]
    assert not caplog.text


@pytest.mark.parametrize(
    ("law", "sides", "reason"),
    [
        (None, [16, 8], "this data states none"),
        (Law("mine", {"part": (1.0,)}), [16, 8], "no classifier of the parts of 'mine'"),
        (LAW, [8, 4], "at 4 px"),
    ],
)
def test_auto_that_cannot_be_measured_is_left_out_and_the_log_says_why(law, sides, reason, caplog):
    with caplog.at_level(logging.INFO):
        assert settle_metrics(["fd", "auto"], law, sides) == ["fd"]
    assert reason in caplog.text and caplog.text.count("\n") == 1


def test_the_scale_has_the_parts_of_real_images_and_of_the_gaussian(lawful, extractor, tmp_path):
    found = scale(lawful, extractor, tmp_path, metrics=["fd", "attributes"])
    for kind in ("real", "gaussian"):
        assert {row.metric for row in found[kind]} == {"FD-RandomConv", *PARTS}
        assert {row.view for row in found[kind]} == {"pooled"}
    unconditional = replace(lawful, labels=None)
    other = scale(unconditional, extractor, tmp_path, metrics=["fd", "attributes"])
    assert {row.metric for row in other["real"]} == {"FD-RandomConv", *PARTS} - {
        "attribute accuracy"
    }
