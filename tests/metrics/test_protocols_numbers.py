"""Numbers of published protocols: ADM's formulas and torch-fidelity on the same features."""

import numpy as np
import pytest
import torch

from hierdiff.metrics.extra import inception_score_in_order
from hierdiff.metrics.extractors import RandomConv
from hierdiff.metrics.fidelity import FidelityMeter
from hierdiff.metrics.frechet import Statistics, distance
from hierdiff.metrics.neighbours import precision_recall
from hierdiff.metrics.reference import Reference, read_moments, with_features
from hierdiff.metrics.table import check_reference, needs_features
from tests.reference import adm_numpy

WIDTH, SIDE = 12, 8


def pixels(n, seed, low=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, 256, (n, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)


def features(images):
    extractor = RandomConv(width=WIDTH)
    return torch.cat([extractor(chunk) for chunk in images.split(16)]).double().numpy()


@pytest.fixture
def published(tmp_path):
    """A file as ADM's: moments of 200 images, and 60 others."""
    mean, covariance = adm_numpy.moments(features(pixels(200, 0)))
    images = pixels(60, 1).permute(0, 2, 3, 1).numpy()
    path = tmp_path / "VIRTUAL.npz"
    np.savez(path, arr_0=images, mu=mean, sigma=covariance)
    return path


class WithLogits(RandomConv):
    """Its features are logits as well, and a map."""

    @property
    def outputs(self):
        return {name: self.width for name in ("features", "logits", "spatial")}

    def parts(self, images):
        return dict.fromkeys(self.outputs, self.features(images))


def test_a_run_against_a_file_of_adm_has_the_numbers_of_its_evaluator(published):
    """Distance from the moments, precision and recall of all samples from the images."""
    extractor = RandomConv(width=WIDTH)
    reference = read_moments(published, extractor, SIDE)
    assert not len(reference.statistics.kept)
    check_reference("pr_all", reference)  # before anything is computed
    reference = with_features(reference, extractor)
    fakes = pixels(150, 2, low=40)
    meter = FidelityMeter(extractor, {SIDE: reference}, ["fd", "pr_all"])
    for chunk in fakes.split(64):
        meter.add({SIDE: chunk})
    rows = {row.metric: row for row in meter.qualities() if row.view == "native"}
    fake, real = features(fakes), features(pixels(60, 1))
    stated = adm_numpy.moments(features(pixels(200, 0)))
    expected = adm_numpy.frechet_distance(*adm_numpy.moments(fake), *stated)
    assert rows["FD-RandomConv"].value == pytest.approx(expected, rel=1e-8)
    precision, recall = adm_numpy.precision_recall(real, fake, 3)
    assert (rows["precision"].value, rows["recall"].value) == (precision, recall)
    assert 0 < precision < 1 and 0 < recall < 1
    assert rows["recall"].identity.estimator == "manifold-k3-150x60"
    assert (rows["recall"].n, rows["recall"].n_reference) == (150, 60)


def test_features_of_the_images_in_a_file_are_made_once(published, tmp_path, monkeypatch):
    extractor = RandomConv(width=WIDTH)
    reference = read_moments(published, extractor, SIDE)
    first = with_features(reference, extractor, tmp_path)
    monkeypatch.setattr("hierdiff.metrics.reference.Rows", None)
    again = with_features(reference, extractor, tmp_path)
    assert torch.equal(first.statistics.kept, again.statistics.kept)
    assert again.statistics.n == float("inf") and len(again.statistics.kept) == 60


def test_a_file_without_images_or_with_others_has_no_precision(tmp_path):
    extractor = RandomConv(width=WIDTH)
    moments = {"mu": np.zeros(WIDTH), "sigma": np.eye(WIDTH)}
    for beside in (
        {},
        {"arr_0": np.zeros((4, 16, 16, 3), np.uint8)},
        {"arr_0": np.zeros((4, 8, 8))},
    ):
        np.savez(tmp_path / "moments.npz", **moments, **beside)
        reference = read_moments(tmp_path / "moments.npz", extractor, SIDE)
        with pytest.raises(ValueError, match="'pr_all' compares with features of real images"):
            check_reference("pr_all", reference)
        assert with_features(reference, extractor) is reference


@pytest.mark.parametrize(("n", "size"), [(40, 10), (45, 10), (7, 5000)])
def test_the_inception_score_in_order_is_that_of_adm(n, size):
    logits = 3 * torch.randn(n, 9, generator=torch.Generator().manual_seed(n))
    expected = adm_numpy.inception_score(logits.double().numpy(), size)
    assert inception_score_in_order(logits, size) == pytest.approx(expected, rel=1e-12)
    assert inception_score_in_order(torch.zeros(n, 9), size) == pytest.approx(1)


def test_images_in_order_of_their_class_score_low():
    sorted_classes = 50 * torch.eye(4).repeat_interleave(10, 0)
    assert inception_score_in_order(sorted_classes, 10) == pytest.approx(1)
    assert inception_score_in_order(sorted_classes, 40) == pytest.approx(4)


def test_metrics_of_the_file_of_adm_are_rows_beside_each_other():
    extractor = WithLogits(width=WIDTH)
    real, fakes = pixels(60, 1), pixels(50, 2)
    statistics = Statistics.of(torch.from_numpy(features(real)), keep=60)
    reference = Reference(SIDE, statistics, "r", extractor.identity, {"spatial": statistics})
    meter = FidelityMeter(extractor, {SIDE: reference}, ["fd", "sfid", "is_in_order", "is"])
    meter.add({SIDE: fakes})
    rows = {row.metric: row for row in meter.qualities() if row.view == "native"}
    assert rows["sFD-RandomConv"].value == rows["FD-RandomConv"].value
    assert {row.identity.estimator for row in meter.qualities() if row.metric == "IS"} == {
        "inception-score-5000-in-order",
        "inception-score-10-splits",
    }


def test_torch_fidelity_has_the_same_numbers_of_the_same_features():
    """FID to the printed digits, the Inception score without its shuffling, and precision and
    recall."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    fake, real = (
        torch.from_numpy(features(pixels(n, seed, low))).float()
        for n, seed, low in ((90, 2, 30), (80, 1, 0))
    )
    theirs = fid_statistics_to_metric(
        *(fid_features_to_statistics(x) for x in (fake, real)), verbose=False
    )["frechet_inception_distance"]
    ours = distance(Statistics.of(fake), Statistics.of(real)).value
    assert ours == pytest.approx(float(theirs), rel=1e-5)  # its mean is float32
    logits = 3 * torch.randn(60, 7, generator=torch.Generator().manual_seed(0))
    score = isc_features_to_metric(logits, splits=6, shuffle=False)["inception_score_mean"]
    assert inception_score_in_order(logits, 10) == pytest.approx(float(score), rel=1e-6)
    found = prc_features_to_metric(fake, real, prc_neighborhood=3, verbose=False)
    expected = [found[name] for name in ("precision", "recall")]  # float32
    assert precision_recall(real, fake, 3) == pytest.approx(expected, abs=1e-6)


def test_what_needs_features_is_known_before():
    assert needs_features(["fd", "pr_all"]) and not needs_features(["fd", "sfid", "is"])
