"""Quality per resolution, view and metric: what is measured of which images, and what is said."""

import logging
from dataclasses import replace

import pytest
import torch

from hierdiff.images import to_float, to_uint8
from hierdiff.levels import framewise, pyramid
from hierdiff.metrics import fidelity, table
from hierdiff.metrics.extra import inception_score
from hierdiff.metrics.extractors import CLIP, Extractor, Haar, RandomConv, SqueezeNet, squeezenet
from hierdiff.metrics.extractors.haar import bands
from hierdiff.metrics.fidelity import FidelityMeter
from hierdiff.metrics.frechet import Statistics, distance, noise_floor
from hierdiff.metrics.identity import PROTOCOL, Identity
from hierdiff.metrics.kernel import cmmd, kernel_distance
from hierdiff.metrics.neighbours import (
    clipped_density_coverage,
    density_coverage,
    nearest,
    nearest_images,
    precision_recall,
)
from hierdiff.metrics.quality import Quality
from hierdiff.metrics.reference import levels_of, pooled, references
from hierdiff.metrics.sliced import mind
from hierdiff.metrics.table import METRICS, check_metrics
from hierdiff.resolution import Named
from tests.metrics.foreign_weights import write_clip, write_squeezenet
from tests.metrics.sets import RESOLUTIONS, images, kept
from tests.reference import frechet_nuclear


@pytest.fixture
def extractor():
    return RandomConv(width=12)


def measure(extractor, refs, *batches):
    return {key[:2]: q for key, q in rows(extractor, refs, ["fd"], *batches).items()}


def rows(extractor, refs, metrics, *batches, captions=None):
    meter = FidelityMeter(extractor, refs, metrics)
    for batch in batches:
        meter.add(batch, captions)
    return {(q.resolution, q.view, q.metric): q for q in meter.qualities()}


def test_references_are_pooled_as_the_training_levels_are():
    real = images()
    for side, level in zip(RESOLUTIONS, pyramid(to_float(real), RESOLUTIONS), strict=True):
        assert torch.equal(pooled(real, side), to_uint8(level))


def test_the_reference_against_itself_is_at_distance_zero_in_every_view(extractor):
    real = images()
    refs = kept([real], extractor)
    found = measure(extractor, refs, *[levels_of(b, RESOLUTIONS) for b in real.split(11)])
    assert set(found) == {(16, "native"), (16, "pooled"), (8, "native"), (8, "pooled")}
    for quality in found.values():
        assert quality.value == pytest.approx(0, abs=1e-6)
        assert quality.floor > 0 and quality.n == quality.n_reference == 40


def test_each_view_measures_its_own_images(extractor):
    real, fine, coarse = images(), images(seed=1, high=200), images(seed=2, low=90)[..., :8, :8]
    found = measure(extractor, kept([real], extractor), {16: fine, 8: coarse})

    def between(x, y):
        return pytest.approx(frechet_nuclear.frechet(extractor(x), extractor(y)), rel=1e-6)

    assert found[16, "native"].value == between(fine, real)
    assert found[16, "pooled"].value == between(fine, real)
    assert found[8, "native"].value == between(coarse, pooled(real, 8))
    assert found[8, "pooled"].value == between(pooled(fine, 8), pooled(real, 8))


def test_a_method_of_one_resolution_is_measured_pooled_below_it(extractor):
    found = measure(extractor, kept([images()], extractor), {16: images(seed=1)})
    assert set(found) == {(16, "native"), (16, "pooled"), (8, "pooled")}


def test_the_identity_names_everything_that_changes_the_number(extractor):
    refs = kept([images()], extractor)
    base = measure(extractor, refs, {16: images(30, seed=1)})[16, "native"]
    assert base.identity == Identity(
        f"random_conv@{extractor.weights}",
        resize="native",
        quantisation="uint8-round",
        n=30,
        reference=refs[16].hash,
        protocol=PROTOCOL,
        estimator="frechet-eigenvalues",
    )
    other = RandomConv(width=12, seed=1)
    changed = [
        measure(extractor, refs, {16: images(31, seed=1)}),
        measure(extractor, kept([images()], extractor, split="train"), {16: images(30)}),
        measure(extractor, kept([images()], extractor, data="cd" * 32), {16: images(30)}),
        measure(other, kept([images()], other), {16: images(30)}),
    ]
    assert len({base.identity, *(m[16, "native"].identity for m in changed)}) == 5


def test_fewer_images_than_dimensions_are_said(extractor, caplog):
    refs = kept([images()], extractor)
    with caplog.at_level(logging.INFO):
        found = measure(extractor, refs, {16: images(10)})
    assert found[16, "native"].route == "factor"
    assert "of 10 images with 12 features is biased" in caplog.text


def test_a_level_without_reference_is_refused(extractor):
    meter = FidelityMeter(extractor, kept([images()], extractor))
    with pytest.raises(ValueError, match="images at 32 px have no reference"):
        meter.add({32: images()[:, :, :1, :1].expand(-1, -1, 32, 32)})


def test_references_of_another_extractor_are_refused(extractor):
    with pytest.raises(ValueError, match="do not fit the extractor"):
        FidelityMeter(RandomConv(width=12, seed=1), kept([images()], extractor))


ALL = ["fd", "fd_infinity", "kd", "pr", "dc", "mind", "nearest", "consistency"]
LABELS = {
    *("FD-RandomConv", "FDinf-RandomConv", "KD-RandomConv", "MIND-RandomConv", "NN-distance"),
    *("precision", "recall", "density", "coverage"),
}


def test_all_metrics_come_from_one_pass_with_their_own_identities(extractor):
    class Counted(RandomConv):
        seen = 0

        def features(self, images):
            Counted.seen += len(images)
            return super().features(images)

    refs = kept([images()], extractor)
    found = rows(
        Counted(width=12), refs, ALL, *[levels_of(b, RESOLUTIONS) for b in images(30, 1).split(9)]
    )
    assert Counted.seen == 3 * 30  # 16 px, 8 px native, 8 px pooled
    for view in ((16, "native"), (16, "pooled"), (8, "pooled")):
        assert {metric for *at, metric in found if tuple(at) == view} == LABELS
    assert {key for key in found if key[2] == "consistency"} == {(8, "native", "consistency")}
    identities = {q.metric: str(q.identity) for key, q in found.items() if key[0] == 8}
    assert (
        len(set(identities.values())) == len(LABELS) + 1 - 2
    )  # P and R, D and C are one estimator
    assert all(" : N=30 : ref=" in identity for identity in identities.values())
    assert "kernel-poly3-unbiased-100x30" in identities["KD-RandomConv"]
    assert "sliced-w2-1000-x3d-30x30" in identities["MIND-RandomConv"]
    assert "manifold-k3-30x30" in identities["recall"]


def test_every_value_is_that_of_the_function_on_the_features(extractor):
    real, fake = images(), images(30, seed=1, high=220)
    refs = kept(real.split(7), extractor)
    found = rows(extractor, refs, ALL, *[{16: b} for b in fake.split(8)])
    x, y = extractor(real), extractor(fake)
    some = Statistics.of(x, 40).sample(30)
    precision, recall = precision_recall(some, y, 3)
    density, coverage = density_coverage(some, y, 5)
    expected = {
        "FD-RandomConv": distance(Statistics.of(y), Statistics.of(x)).value,
        "KD-RandomConv": kernel_distance(x, y),
        "MIND-RandomConv": mind(some, y),
        "NN-distance": float(nearest(y, x)[0].quantile(0.5)),
        **{"precision": precision, "recall": recall, "density": density, "coverage": coverage},
    }
    values = {metric: found[16, "native", metric].value for metric in expected}
    assert values == pytest.approx(expected, rel=1e-5)
    assert {found[16, "native", m].n_reference for m in ("precision", "MIND-RandomConv")} == {30}
    assert {found[16, "native", m].n_reference for m in ("KD-RandomConv", "NN-distance")} == {40}


def test_which_way_is_better_is_said(extractor):
    found = rows(extractor, kept([images()], extractor), ALL, {16: images(30, 1)})
    better = {q.metric: q.better for q in found.values()}
    high = {"precision", "recall", "density", "coverage"}
    assert {m for m, way in better.items() if way == "high"} == high
    assert {m for m, way in better.items() if way is None} == {"NN-distance"}


def test_the_other_metrics_leave_the_frechet_distance_as_it_is(extractor):
    refs = kept([images()], extractor)
    for n in (10, 30):  # both routes
        alone = rows(extractor, refs, ["fd"], {16: images(n, 1)})
        among = rows(extractor, refs, ALL, {16: images(n, 1)})
        key = (16, "pooled", "FD-RandomConv")
        assert alone[key] == among[key]
        assert alone[key].floor == noise_floor(refs[16].spectrum, n, 40)


def test_consistency_is_the_rms_between_the_pooled_finest_image_and_the_level(extractor):
    fine = images(6)
    coarse = pooled(fine, 8).clone()
    found = rows(extractor, kept([images()], extractor), ["consistency"], {16: fine, 8: coarse})
    (key,) = found
    assert key == (8, "native", "consistency") and found[key].value == 0
    moved = torch.where(coarse > 127, coarse - 3, coarse + 3)
    moved[3:] = coarse[3:]
    batches = [{16: fine[i : i + 2], 8: moved[i : i + 2]} for i in (0, 2, 4)]
    found = rows(extractor, kept([images()], extractor), ["consistency"], *batches)[key]
    assert found.value == pytest.approx(1.5) and found.n == 6 and found.n_reference is None


def test_more_images_than_the_cap_are_measured_by_those_that_stay(extractor, monkeypatch):
    capped = {
        name: replace(metric, keeps=min(metric.keeps, 20)) for name, metric in METRICS.items()
    }
    for module in (fidelity, table):
        monkeypatch.setattr(module, "METRICS", capped)
    fake = images(35, seed=1)
    found = rows(extractor, kept([images()], extractor), ALL, *[{16: b} for b in fake.split(5)])
    counted = {metric: found[16, "native", metric].n for metric in LABELS}
    assert counted.pop("FD-RandomConv") == 35 and set(counted.values()) == {20}
    some = Statistics.of(extractor(fake), 20).kept
    value = found[16, "native", "KD-RandomConv"].value
    assert value == pytest.approx(kernel_distance(extractor(images()), some), rel=1e-5)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["fd", "fdd"], "unknown metric 'fdd', did you mean 'fd'"),
        (["is"], "metric 'is' is not for the extractor 'random_conv'.*extractor inception"),
        (["sfid"], "metric 'sfid' is not for .*extractor inception"),
        (["cmmd"], "metric 'cmmd' is not for .*extractor clip"),
        (["clip_score"], "metric 'clip_score' is not for .*extractor clip"),
        (["kd", "fd", "kd"], "metric kd is named twice"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(extractor, names, message):
    with pytest.raises(ValueError, match=message) as error:
        check_metrics(names, extractor)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=message):
        FidelityMeter(extractor, {}, names)


@pytest.mark.parametrize("name", ["fd", "fd_infinity", "kd", "pr", "dc", "mind", "nearest", "is"])
def test_the_least_number_of_images_is_refused_below_and_measured_at(name):
    extractor, least = WithLogits(), METRICS[name].least
    check_metrics([name], extractor, least)
    with pytest.raises(
        ValueError, match=f"{name!r} of {least - 1} images: measure at least {least}"
    ):
        check_metrics([name], extractor, least - 1)
    refs = kept([images()], extractor)
    assert rows(extractor, refs, [name], {16: images(least, seed=1)})
    if least > 1:
        with pytest.raises(ValueError):
            rows(extractor, refs, [name], {16: images(least - 1, seed=1)})


class WithLogits(Extractor):
    """Mean colour as features, two of its numbers as logits, corners as spatial features."""

    name, width, label, weights, resize = "inception", 3, "FID", "0" * 8, "native"
    outputs = {"features": 3, "logits": 2, "spatial": 12}

    def __init__(self):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(()))

    def features(self, images):
        return images.float().mean((2, 3))

    def parts(self, images):
        features = self.features(images)
        corners = images[:, :, :2, :2].flatten(1).float()
        return {"features": features, "logits": features[:, :2], "spatial": corners}


def test_inception_score_and_spatial_distance_use_their_outputs(tmp_path):
    extractor, real, fake = WithLogits(), images(40), images(30, seed=1, high=200)
    kept([real], extractor, tmp_path)
    refs = kept([], extractor, tmp_path)  # both outputs come from their files
    found = rows(extractor, refs, ["fd", "sfid", "is"], *[{16: b} for b in fake.split(8)])
    logits = extractor.parts(fake)["logits"]
    score = found[16, "native", "IS"]
    assert score.value == pytest.approx(inception_score(logits).value, rel=1e-6)
    assert score.better == "high" and "ref=none : protocol=3 : inception-score-10-splits" in str(
        score.identity
    )
    spatial = [extractor.parts(x)["spatial"] for x in (fake, real)]
    assert found[16, "native", "sFID"].value == pytest.approx(
        frechet_nuclear.frechet(*spatial), rel=1e-6
    )
    assert found[16, "native", "FID"].value != found[16, "native", "sFID"].value


@pytest.mark.slow
def test_clip_score_and_cmmd_are_those_of_the_embeddings(tmp_path):
    extractor, real, fake = CLIP(weights=write_clip(tmp_path)), images(12), images(4, seed=1)
    refs, captions = kept([real], extractor), ["a b", "c", "d e f", "g"]
    found = rows(
        extractor, refs, ["cmmd", "clip_score"], {16: fake}, {16: fake.flip(0)}, captions=captions
    )
    x, t = extractor(fake), extractor.embed(captions)
    cosine = torch.cat([(x * t).sum(1), (x.flip(0) * t).sum(1)])
    score = found[16, "native", "CLIP score"]
    assert score.value == pytest.approx(float(100 * cosine.clamp_min(0).mean()), rel=1e-4)
    assert score.n == 8 and score.identity.maker.startswith("clip-vit-32-8-32@")
    both = torch.cat([x, x.flip(0)])
    value = found[16, "native", "CMMD"].value
    assert value == pytest.approx(cmmd(extractor(real), both), rel=1e-4)
    with pytest.raises(ValueError, match="needs their captions, got none"):
        rows(extractor, refs, ["clip_score"], {16: fake})


def test_the_nearest_training_images_are_found_by_their_number(extractor):
    real = images(40)
    refs = kept(real.split(7), extractor)
    distances, rows = nearest_images(real[[31, 4, 17]], extractor, refs[16], k=2)
    assert rows[:, 0].tolist() == [31, 4, 17] and float(distances[:, 0].max()) < 1e-5
    assert (distances[:, 1] > distances[:, 0]).all()
    few = replace(refs[16], statistics=Statistics.of(extractor(real), keep=12))
    assert set(nearest_images(real, extractor, few)[1].flatten().tolist()) == set(
        few.statistics.rows.tolist()
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_an_error_with_its_name(value):
    identity = Identity("i")
    with pytest.raises(FloatingPointError, match=r"FD at 8 px \(native, 9 images\) is"):
        Quality(8, "native", "FD", value, identity, n=9, floor=1.0)
    with pytest.raises(FloatingPointError, match="the noise floor of FD at 8 px"):
        Quality(8, "native", "FD", 1.0, identity, n=9, floor=value)


def clips(n: int, frames: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, frames, 8, 8), generator=generator, dtype=torch.uint8)


def of_clips(*resolutions, metrics=("fd",)) -> FidelityMeter:
    extractor = RandomConv()
    real = references([clips(6, 8, 0)], extractor, resolutions, data="d", split="train")
    return FidelityMeter(extractor, real, metrics)


def test_an_extractor_sees_the_frames_of_clips_and_n_counts_clips():
    meter = of_clips((8, 8, 8), (4, 8, 8), metrics=("fd", "consistency"))
    made = clips(5, 8, 1)
    meter.add({(8, 8, 8): made, (4, 8, 8): pooled(made, (4, 8, 8))})
    rows = {(row.resolution, row.view, row.metric): row for row in meter.qualities()}
    real = references([framewise(clips(6, 8, 0))], RandomConv(), [8], data="d", split="train")
    alone = FidelityMeter(RandomConv(), real)
    alone.add({8: made.movedim(2, 1).flatten(0, 1)})
    fd = rows[(8, 8, 8), "native", "FD-RandomConv"]
    assert fd.value == pytest.approx(alone.qualities()[0].value)
    assert (fd.n, fd.n_reference, fd.floor) == (5, 6, None)
    assert (fd.identity.n, fd.identity.frames) == (5, 8)
    assert rows[(4, 8, 8), "native", "consistency"].value == 0
    fewer = rows[(4, 8, 8), "pooled", "FD-RandomConv"].identity
    assert (fewer.n, fewer.frames) == (5, 4)


@pytest.mark.parametrize("metric", ["kd", "pr", "dc", "nearest", "fd_infinity"])
def test_metrics_of_independent_images_are_refused_for_clips(metric):
    with pytest.raises(ValueError, match=f"metric '{metric}' of clips: .* leave it out"):
        of_clips((8, 8, 8), metrics=(metric,))


def test_levels_of_the_same_sides_are_told_apart_by_name_and_go_on_where_they_stopped():
    meter, images = of_clips((8, 8, 8)), clips(4, 8, 2)
    levels = {(8, 8, 8): images, Named("base", (8, 8, 8)): images.flip(0) // 2}
    again = of_clips((8, 8, 8))
    for start in (0, 2):
        outputs = meter.extract({name: x[start : start + 2] for name, x in levels.items()})
        meter.take(outputs)
        again.take(dict(sorted(outputs.items())))  # as a file has them
    rows = meter.qualities()
    assert rows == again.qualities()
    assert [(row.level, row.view) for row in rows] == [
        ((8, 8, 8), "native"),
        ((8, 8, 8), "pooled"),
        ("base", "native"),
    ]
    assert all(row.resolution == (8, 8, 8) for row in rows)


BESIDE = ["fd", "clipped_dc", "fd_squeezenet", "kd_squeezenet", "haar"]


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Random weights of SqueezeNet where they are looked for."""
    path = write_squeezenet(tmp_path)
    monkeypatch.setattr(squeezenet, "SQUEEZENET_FILE", path.name)
    monkeypatch.setenv("HIERDIFF_WEIGHTS", str(tmp_path))


def joined(metrics=BESIDE):
    extractor = RandomConv(width=12)
    table.join_extractors(extractor, metrics)
    return extractor


@pytest.mark.slow
def test_metrics_of_other_extractors_are_those_of_the_extractor_alone(weights, tmp_path):
    real, fake, extractor = images(), images(30, seed=1, high=220), joined()
    refs = kept(real.split(16), extractor)
    found = rows(extractor, refs, BESIDE, *[levels_of(b, RESOLUTIONS) for b in fake.split(7)])
    other = SqueezeNet()
    x, y = other(real), other(fake)
    density, coverage = clipped_density_coverage(RandomConv(12)(real), RandomConv(12)(fake))
    expected = {
        "FD-SqueezeNet": distance(Statistics.of(y, 30), Statistics.of(x, 40)).value,
        "KD-SqueezeNet": kernel_distance(x, y),
        "clipped density": density,
        "clipped coverage": coverage,
    }
    values = {metric: found[16, "native", metric].value for metric in expected}
    assert values == pytest.approx(expected, rel=1e-4)
    sets = [bands(Haar()(some)) for some in (fake, real[Statistics.of(x, 40).rows])]
    assert found[16, "pooled", "SW-Haar2"].value > 0 and set(sets[0]) == {"2", "4", "8", "Low"}
    own = {q.metric: q.identity for key, q in found.items() if key[:2] == (16, "native")}
    assert own["FD-SqueezeNet"].maker == f"squeezenet@{other.weights}"
    assert own["FD-SqueezeNet"].resize == "bilinear-antialias-227"
    assert own["SW-Haar4"].maker == "haar@3levels0" and own["SW-Haar4"].resize == "native"
    assert (
        own["FD-RandomConv"].maker == own["clipped density"].maker == extractor.base_identity.maker
    )
    assert own["SW-HaarLow"].estimator == "haarlow-relative-64-30x30"
    assert found[16, "native", "KD-SqueezeNet"].better == "low"


def test_the_first_extractor_is_as_it_is_alone_where_others_stand_beside_it(weights):
    real, fake = images(), images(30, seed=1)
    key, alone = (16, "pooled", "FD-RandomConv"), RandomConv(width=12)
    one = rows(alone, kept([real], alone), ["fd"], {16: fake})[key]
    assert one == rows(joined(), kept([real], joined()), BESIDE, {16: fake})[key]


def test_only_the_extractors_that_a_metric_takes_are_run(weights, monkeypatch):
    extractor = joined()
    refs = kept([images()], extractor)
    monkeypatch.setattr(SqueezeNet, "features", None)
    assert rows(extractor, refs, ["fd", "haar"], {16: images(30, 1)})


def test_statistics_of_an_extractor_are_kept_once_wherever_it_stands(weights, tmp_path):
    kept([images()], joined(["fd_squeezenet"]), tmp_path / "kept")
    before = sorted((tmp_path / "kept").iterdir())
    found = kept([], SqueezeNet(), tmp_path / "kept")
    assert len(before) == 4 and sorted((tmp_path / "kept").iterdir()) == before
    assert found[16].statistics.n == 40 and found[16].extractor == SqueezeNet().identity


def test_references_without_the_other_extractor_are_refused():
    refs = kept([images()], RandomConv(width=12))
    with pytest.raises(ValueError, match="'haar' needs haar statistics of real images"):
        FidelityMeter(RandomConv(width=12), refs, ["fd", "haar"])


def test_a_metric_that_repeats_the_first_extractor_and_sides_without_bands_are_refused(weights):
    with pytest.raises(ValueError, match="'fd_squeezenet' is 'fd' of the extractor 'squeezenet'"):
        check_metrics(["fd_squeezenet"], SqueezeNet())
    with pytest.raises(ValueError, match="'haar' at 20 px: it needs sides that are multiples of 8"):
        check_metrics(["haar"], RandomConv(), resolutions=[40, 20])
    check_metrics(["haar"], RandomConv(), resolutions=[40, (4, 8, 16)])


@pytest.mark.slow
def test_other_extractors_go_on_from_what_was_kept(weights):
    extractor = joined()
    refs = kept([images()], extractor)
    first, second = images(30, seed=1).split(15)
    meter = FidelityMeter(extractor, refs, BESIDE)
    again = FidelityMeter(joined(), refs, BESIDE)
    for part in (first, second):
        meter.add({16: part})
        again.take(meter.extract({16: part}))
    assert meter.qualities() == again.qualities()
