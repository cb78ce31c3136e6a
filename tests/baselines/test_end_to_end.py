"""The end-to-end baseline: one level, the schedule shifted by its resolution."""

import math

import pytest
import torch

from tests import tiny


def log_snr(t=0.4, **options):
    method = tiny.method("end_to_end", resolutions=(16,), **options)
    return float(method.stages[0].process.log_snr(torch.tensor([t], dtype=torch.float64)))


@pytest.mark.parametrize(
    ("reference", "shift"), [(16, 0), (8, -2 * math.log(2)), (32, math.log(4))]
)
def test_the_schedule_is_shifted_by_twice_the_logarithm_of_the_side_ratio(reference, shift):
    assert log_snr(reference=reference) - log_snr() == pytest.approx(shift)


def test_input_scaling_is_that_shift_with_a_normalised_input():
    """Chen: b = reference / resolution, and x_t over its own standard deviation."""
    scaled = {"name": "input_scaled", "base": {"name": "cosine"}, "scale": 0.5}
    assert log_snr(schedule=scaled) == pytest.approx(log_snr(reference=8))


def test_an_interpolated_schedule_comes_as_a_node():
    def shifted(reference):
        return {"name": "shifted", "base": {"name": "cosine"}, "resolution": 256, **reference}

    node = {
        "name": "interpolated",
        "noisy": shifted({"reference": 32}),
        "clean": shifted({"reference": 256}),
    }
    assert log_snr(0.25, schedule=node) == pytest.approx(0.721462477, rel=1e-8)


def test_it_has_one_stage_that_takes_the_whole_budget():
    method = tiny.method("end_to_end")
    assert [stage.share for stage in method.stages] == [1.0]
    assert method.at(16) is method.stages[0]
    with pytest.raises(ValueError, match=r"no images at 8: choose one of \[16\], and pool"):
        method.at(8)
