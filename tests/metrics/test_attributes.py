"""Parts of images against their law: known answers, the floor, views, streams, what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hierdiff.data.critters.law import LAW
from hierdiff.data.law import Law, uniform
from hierdiff.metrics.attributes import (
    AttributeMeter,
    Counts,
    check_attributes,
    hindrance,
    variation_floor,
)
from hierdiff.metrics.classifier import classifier_of
from hierdiff.metrics.extractors import RandomConv
from hierdiff.metrics.fidelity import FidelityMeter
from hierdiff.metrics.identity import PROTOCOL, Identity
from hierdiff.metrics.quality import Place
from hierdiff.metrics.reference import levels_of
from tests.metrics.parts import TOY, Painted, painted
from tests.metrics.sets import RESOLUTIONS, images, kept

COIN = Law("coin", {"side": (0.5, 0.5)})
LAWFUL = [(0, 0, 0), (1, 2, 0), (0, 1, 2), (1, 2, 1)]  # exactly as frequent as the toy law says


def counted(law, **codes):
    return Counts.of(law, {name: torch.tensor(values) for name, values in codes.items()})


def rows(*batches, wanted=None, resolutions=RESOLUTIONS):
    meter = AttributeMeter(TOY, resolutions, Painted())
    for batch in batches:
        meter.add(batch, wanted)
    return {(q.resolution, q.view, q.metric): q for q in meter.qualities()}


def test_total_variation_of_the_law_itself_is_zero_and_of_disjoint_frequencies_one():
    assert counted(COIN, side=[0, 1, 1, 0]).variations == {"side": 0}
    assert counted(Law("l", {"side": (1.0, 0.0)}), side=[1, 1]).variations == {"side": 1}


def test_total_variation_of_three_to_one_from_a_fair_coin_is_a_quarter():
    assert counted(COIN, side=[1, 0, 1, 1]).variations == {"side": 0.25}


def test_tv_parts_is_the_mean_over_attributes():
    assert rows({16: painted(LAWFUL)})[16, "native", "TV parts"].value == 0
    found = rows({16: painted([(0, 2, 0)] * 5)})[16, "native", "TV parts"]
    assert found.value == pytest.approx((0.5 + 0.5 + 0.5) / 3) and found.better == "low"


def test_the_floor_of_few_draws_is_counted_by_hand():
    assert variation_floor(COIN, 1) == pytest.approx(1 / 2)
    assert variation_floor(COIN, 2) == pytest.approx(1 / 4)  # half of the pairs differ
    assert variation_floor(Law("sure", {"side": (1.0, 0.0)}), 7) == 0
    both = Law("both", {"side": (0.5, 0.5), "sure": (1.0, 0.0)})
    assert variation_floor(both, 2) == pytest.approx(1 / 8)


@pytest.mark.parametrize("n", [1, 7, 60, 512])
def test_the_floor_is_the_mean_over_simulated_draws(n):
    generator = np.random.default_rng(0)
    draws = []
    for p in TOY.frequencies.values():
        seen = generator.multinomial(n, p, size=20_000) / n
        draws.append(np.abs(seen - p).sum(1) / 2)
    found = np.mean(draws, axis=0)
    error = 4 * found.std() / 20_000**0.5
    assert abs(variation_floor(TOY, n) - found.mean()) < error + 1e-12


@given(n=st.integers(1, 100_000), codes=st.integers(1, 30))
def test_the_floor_lies_between_zero_and_one_and_falls_with_more_draws(n, codes):
    law = Law("l", {"part": uniform(codes)})
    assert 0 <= variation_floor(law, 4 * n) <= variation_floor(law, n) <= 1


def test_a_row_has_the_floor_of_its_number_of_images():
    found = rows({16: painted(LAWFUL)}, {16: painted(LAWFUL)})
    assert found[16, "native", "TV parts"].floor == variation_floor(TOY, 8)
    assert found[16, "native", "TV parts"].n == 8


def test_impossible_pairs_are_the_share_of_images_that_have_one():
    possible = [(0, 1, 0), (1, 1, 1), (0, 0, 2)]
    assert rows({16: painted(possible)})[16, "native", "impossible pairs"].value == 0
    mixed = [*possible, (0, 0, 1), (1, 2, 2)]
    found = rows({16: painted(mixed)})[16, "native", "impossible pairs"]
    assert found.value == pytest.approx(2 / 5) and found.better == "low"


def test_a_law_without_impossible_pairs_has_no_row_of_them():
    meter = AttributeMeter(Law("toy", TOY.frequencies), RESOLUTIONS, Painted())
    meter.add({16: painted(LAWFUL)})
    assert {q.metric for q in meter.qualities()} == {"TV parts"}


def test_attribute_accuracy_is_the_share_of_what_conditions_said():
    made = painted([(0, 0, 0), (1, 2, 0), (0, 1, 2), (1, 2, 1)])
    wanted = {"shape": torch.tensor([0, 0, 0, -1]), "hat": torch.tensor([1, 2, -1, -1])}
    found = rows({16: made}, wanted=wanted)[16, "native", "attribute accuracy"]
    assert found.value == pytest.approx(3 / 5)  # shapes yes, no, yes; hats no, yes
    assert found.n == 3 and found.better == "high"
    assert found.identity.estimator == "accuracy-shape+hat"
    own = rows({16: made}, wanted=wanted)
    assert own[16, "native", "shape accuracy"].value == pytest.approx(2 / 3)
    hats = own[16, "native", "hat accuracy"]
    assert (hats.value, hats.n, hats.better) == (1 / 2, 2, "high")
    one = rows({16: made}, wanted={"shape": wanted["shape"]})
    assert {metric for *_, metric in one if "accuracy" in metric} == {"attribute accuracy"}


@pytest.mark.parametrize("wanted", [None, {}, {"hat": torch.full((4,), -1)}])
def test_where_nothing_was_conditioned_there_is_no_accuracy(wanted):
    found = rows({16: painted(LAWFUL)}, wanted=wanted)
    assert {metric for *_, metric in found} == {"TV parts", "impossible pairs"}


def test_single_attributes_can_be_looked_at():
    meter = AttributeMeter(TOY, RESOLUTIONS, Painted())
    wanted = {"shape": torch.tensor([0, 1, 1, 0])}
    meter.add({16: painted([(0, 0, 0), (0, 0, 0), (1, 0, 0), (0, 0, 0)])}, wanted)
    seen = meter.counts[Place(16, None, "native")]
    assert seen.variations == {"shape": 0.25, "hat": 0.75, "colour": 0.5}
    assert seen.accuracies == {"shape": 0.75}


def test_each_view_is_of_its_own_images():
    fine, coarse = painted([(0, 2, 0)] * 4), painted([(1, 2, 1)] * 4, side=8)
    found = rows({16: fine, 8: coarse}, wanted={"shape": torch.zeros(4, dtype=torch.int64)})

    def accuracy(side, view):
        return found[side, view, "attribute accuracy"].value

    assert accuracy(16, "native") == accuracy(16, "pooled") == accuracy(8, "pooled") == 1
    assert accuracy(8, "native") == 0


@pytest.mark.parametrize("levels", [(16, 8), (16,), (8,)])
def test_the_views_are_those_of_the_fidelity_meter(levels):
    batch = {side: painted(LAWFUL, side) for side in levels}
    extractor = RandomConv(width=3)
    other = FidelityMeter(extractor, kept([images()], extractor))
    other.add(batch)
    views = [(q.resolution, q.view) for q in other.qualities()]
    meter = AttributeMeter(TOY, RESOLUTIONS, Painted())
    meter.add(batch)
    found = [(q.resolution, q.view) for q in meter.qualities() if q.metric == "TV parts"]
    assert found == views


def test_a_stream_in_chunks_is_one_pass():
    made = painted(LAWFUL * 5 + [(0, 0, 1)])
    wanted = torch.arange(21) % 2
    whole, chunks = (AttributeMeter(TOY, RESOLUTIONS, Painted()) for _ in range(2))
    whole.add(levels_of(made, RESOLUTIONS), {"shape": wanted})
    for some, codes in zip(made.split(8), wanted.split(8), strict=True):
        chunks.add(levels_of(some, RESOLUTIONS), {"shape": codes})
    assert chunks.qualities() == whole.qualities()


def test_the_identity_names_everything_that_changes_the_number():
    found = rows({16: painted(LAWFUL)})[16, "native", "TV parts"]
    assert found.identity == Identity(
        *("painted@00000000", "native", "uint8-round"),
        n=4,
        reference=f"law-{TOY.hash}",
        protocol=PROTOCOL,
        estimator="total-variation-mean-of-3",
    )
    assert found.n_reference is None and found.route is None


def test_a_level_that_is_not_measured_is_refused():
    with pytest.raises(ValueError, match=r"images at 32 px where \[16, 8\] are measured"):
        rows({32: painted(LAWFUL, 32)})


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"tail": torch.zeros(4, dtype=torch.int64)}, "'tail', which is no attribute of 'toy'"),
        (
            {"hat": torch.tensor([0, 1, 2, 3])},
            "from 0 to 3: give one of 0 to 2 for each image, or -1",
        ),
        ({"hat": torch.tensor([0, 1, 2, -2])}, "from -2 to 2"),
    ],
)
def test_codes_that_are_not_of_the_law_are_refused(wanted, message):
    with pytest.raises(ValueError, match=message):
        rows({16: painted(LAWFUL)}, wanted=wanted)


@pytest.mark.parametrize(
    ("law", "resolutions", "message"),
    [
        (None, [32], "with the law of the data, and this data states none"),
        (TOY, [32], "no classifier of the parts of 'toy' comes with the package"),
        (LAW, [32, 4], "at 4 px: the classifier of parts knows 8 px and more"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(law, resolutions, message):
    reason = hindrance(law, resolutions)
    assert message in reason and "\n" not in reason
    with pytest.raises(ValueError, match=f"{message}.*: leave it out of measure.metrics"):
        check_attributes(law, resolutions)


def test_a_law_that_the_classifier_does_not_know_is_refused():
    frequencies = dict(LAW.frequencies)
    frequencies["cheeks"] = uniform(4)
    with pytest.raises(ValueError, match="was trained for the law .* make it again"):
        classifier_of(Law("critters", frequencies))


def test_critters_can_be_measured():
    assert hindrance(LAW, [64, 8]) is None
    check_attributes(LAW, [64, 8])
