"""Our schedules against the slow ones of schedules_numpy.py."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hierdiff.schedules import schedules
from tests.reference import schedules_numpy as slow


@pytest.mark.parametrize("name", ["linear_beta", "scaled_linear_beta", "squared_cosine"])
def test_tables_are_the_running_product_of_their_betas(name):
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    wanted = torch.tensor(slow.table(name)[1:], dtype=torch.float64)
    found = torch.sigmoid(schedules.build({"name": name})(t))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=0)


@given(t=st.floats(0.001, 0.999), high=st.floats(2, 20), low=st.floats(-20, -2))
def test_cosine_for_any_limits(t, high, low):
    node = {"name": "cosine", "log_snr_min": low, "log_snr_max": high}
    found = schedules.build(node)(torch.tensor([t], dtype=torch.float64))
    assert float(found) == pytest.approx(slow.cosine(t, low, high), rel=1e-9, abs=1e-9)


@given(
    t=st.floats(0.01, 0.99), start=st.floats(-4, 1), width=st.floats(1, 5), tau=st.floats(0.4, 2)
)
def test_sigmoid_for_any_piece(t, start, width, tau):
    node = {"name": "sigmoid", "start": start, "end": start + width, "tau": tau}
    found = torch.sigmoid(schedules.build(node)(torch.tensor([t], dtype=torch.float64)))
    wanted = slow.chen_sigmoid(t, start, start + width, tau)
    assert float(found) == pytest.approx(wanted, rel=1e-7, abs=1e-9)
