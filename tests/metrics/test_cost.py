"""Operations are counted exactly; times and memory say how they were taken."""

import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import flop_counter

from hierdiff.metrics import cost
from hierdiff.metrics.cost import flops, parameters, time_call
from hierdiff.metrics.timing import timing

B, H, S, D = 2, 3, 16, 8


def attention(device="cpu", grad=False):
    q, k, v = (torch.randn(B, H, S, D, device=device, requires_grad=grad) for _ in range(3))
    return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_costs_4_b_h_s2_d(device):
    assert flops(lambda: attention(device)) == 4 * B * H * S * S * D


def test_attention_is_counted_by_a_torch_without_a_formula_of_its_own(monkeypatch):
    aten = torch.ops.aten
    rest = dict(flop_counter.flop_registry)
    rest.pop(aten._scaled_dot_product_flash_attention_for_cpu, None)
    rest.pop(aten._scaled_dot_product_flash_attention_for_cpu_backward, None)
    monkeypatch.setattr(flop_counter, "flop_registry", rest)
    monkeypatch.setattr(cost, "flop_registry", rest)
    forward = 4 * B * H * S * S * D
    assert flops(attention) == forward
    # the backward pass has four products and repeats the first one
    assert flops(lambda: attention(grad=True).sum().backward()) == forward + forward * 5 // 2


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_multiply_add_is_two_operations(device):
    conv = nn.Conv2d(4, 6, 3, padding=1, groups=2, device=device)
    x = torch.randn(5, 4, 7, 7, device=device)
    assert flops(lambda: conv(x)) == 2 * 5 * 6 * 7 * 7 * (4 // 2) * 9
    linear = nn.Linear(11, 13, device=device)
    y = torch.randn(3, 11, device=device)
    assert flops(lambda: linear(y)) == 2 * 3 * 11 * 13


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_forward_and_backward_cost_three_times_forward(device):
    linear = nn.Linear(11, 13, device=device)
    x = torch.randn(3, 11, device=device, requires_grad=True)
    assert flops(lambda: linear(x).sum().backward()) == 3 * 2 * 3 * 11 * 13


def test_operations_are_counted_without_gradients_too():
    with torch.no_grad():
        assert flops(attention) == 4 * B * H * S * S * D
    with torch.inference_mode():
        assert flops(attention) == 4 * B * H * S * S * D


def test_a_shared_parameter_counts_once():
    shared = nn.Linear(3, 3, bias=False)
    assert parameters(nn.ModuleList([shared, nn.Sequential(shared)])) == 9


def test_median_and_spread_of_known_times():
    found = timing([5.0, 1.0, 3.0, 2.0, 4.0], warmup=1)
    assert (found.median, found.iqr, found.minimum, found.repeats) == (3.0, 2.0, 1.0, 5)
    assert found.unsteady
    assert not timing([1.0, 1.05, 1.1], warmup=0).unsteady


def test_a_single_repeat_has_no_spread_rather_than_none_at_all():
    found = timing([1.0], warmup=0)
    assert found.iqr is None and found.unsteady


def test_warm_up_calls_are_made_and_not_timed():
    calls = []

    def fn():
        calls.append(None)
        time.sleep(0.2 if len(calls) == 1 else 0.002)

    found = time_call(fn, warmup=1, repeats=5)
    assert len(calls) == 6 and found.repeats == 5 and found.warmup == 1
    assert 0.002 <= found.minimum <= found.median < 0.2
    assert found.load is not None


ALLOCATES = """
import torch
from hierdiff.metrics.cost import MIB, MemoryMeter
meter = MemoryMeter("cpu")
before = meter.peak()
torch.ones(int(before.host - before.host_baseline + 64) * MIB // 4)
after = meter.peak()
assert after.host >= before.host + 50, (before, after)
assert after.allocated is None and after.reserved is None
"""


def test_the_host_peak_sees_an_allocation_that_is_gone_again():
    """In a process of its own: this one has memory at hand that other tests gave back."""
    subprocess.run([sys.executable, "-c", ALLOCATES], check=True)


def test_the_fallback_agrees_with_the_kernel():
    assert cost._rusage_peak() == pytest.approx(cost._status("VmHWM"), rel=0.05)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 TB"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_lack_of_memory_is_told_from_other_errors(error, is_one):
    assert cost.is_out_of_memory(error) == is_one


def test_the_host_says_in_these_words_that_memory_ran_out():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**55, dtype=torch.uint8)
    assert cost.is_out_of_memory(error.value)


class Counter:
    """In place of pynvml: a card that has used 10 J more at each look, in mJ."""

    def __init__(self):
        self.looks, self.asked = 0, None

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):
        self.asked = uuid
        return "card"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        self.looks += 1
        return 1_000_000 + 10_000 * self.looks


def test_energy_is_that_of_one_call_over_a_long_window(monkeypatch):
    counter, calls = Counter(), []
    monkeypatch.setitem(sys.modules, "pynvml", counter)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    card = type("Card", (), {"uuid": "1234"})()
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)

    def fn():
        calls.append(time.sleep(0.01))

    joules = cost.energy_of(fn, "cuda", at_least=0.05)
    assert joules == pytest.approx(10 / len(calls)) and len(calls) >= 2
    assert counter.asked == "GPU-1234"


def test_energy_is_not_measured_where_nothing_counts_it(monkeypatch):
    assert cost.energy_of(lambda: None, "cpu") is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    assert cost.energy_of(lambda: None, "cuda") is None
