"""What holds for every registered sampler and time grid."""

from itertools import pairwise

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hierdiff.exact import Joint
from hierdiff.guidance import Denoised, guided
from hierdiff.noise import from_generator
from hierdiff.process import VariancePreserving, processes
from hierdiff.samplers import grids, integrate, samplers
from hierdiff.schedules import Cosine, Shifted

PROCESS = VariancePreserving([Shifted(Cosine(), 4, 2, 1.0), Cosine()])
NAMES = samplers.names()


def noise(seed=0, dtype=torch.float64):
    return from_generator(torch.Generator().manual_seed(seed), dtype=dtype)


def start(rows=3, dtype=torch.float64):
    draw = noise(5, dtype)
    return draw((rows, 1, 4, 4)), draw((rows, 1, 2, 2))


class Watched:
    """The exact denoiser, noting the times it is called at and handing on a count as carry."""

    def __init__(self, process=PROCESS):
        self.joint, self.times, self.carries = Joint(process), [], []

    def __call__(self, x, t, carry=None):
        self.times.append(t.time)
        self.carries.append(carry)
        x0 = tuple(level.to(x[i].dtype) for i, level in enumerate(self.exact(x, t)))
        return Denoised(x0, (carry or 0) + 1)

    def exact(self, x, t):
        return self.joint(tuple(level.double() for level in x), t).x0


def run(name, denoise, steps=6, x=None, process=PROCESS, seed=0, **kwargs):
    x = start() if x is None else x
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    rule = samplers.build({"name": name})
    return integrate(rule, denoise, process, x, times, noise(seed, x[0].dtype), **kwargs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_dtype_and_finiteness_are_kept(name, dtype):
    x = start(dtype=dtype)
    end = run(name, Watched(), x=x)
    assert [level.shape for level in end] == [level.shape for level in x]
    assert all(level.dtype == dtype and torch.isfinite(level).all() for level in end)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("end", [0.0, 0.1])
@pytest.mark.parametrize("steps", [1, 6])
def test_a_network_is_called_as_often_as_stated_and_never_at_zero(name, end, steps):
    """`calls_per_step` times a step, once in that to t = 0, at times within the step."""
    denoise, rule = Watched(), samplers.build({"name": name})
    times = torch.linspace(1, end, steps + 1, dtype=torch.float64)
    integrate(rule, denoise, PROCESS, start(), times, noise())
    saved = 0 if end else rule.calls_per_step - 1
    assert len(denoise.times) == steps * rule.calls_per_step - saved
    assert min(denoise.times) > 0 and denoise.times[0] == 1
    calls = iter(denoise.times)
    for t, s in pairwise(times.tolist()):
        now = [next(calls) for _ in range(rule.calls_per_step if s else 1)]
        assert now[0] == t and all(s <= time <= t for time in now)


@pytest.mark.parametrize("name", NAMES)
def test_the_carry_goes_from_call_to_call(name):
    denoise = Watched()
    run(name, denoise, carry=10)
    assert denoise.carries == list(range(10, 10 + len(denoise.carries)))


@pytest.mark.parametrize("name", NAMES)
def test_coefficients_are_computed_once_for_each_time(name, monkeypatch):
    """7 times of 2 levels: 14 calls of a schedule."""
    calls = []
    ours = Cosine.__call__
    monkeypatch.setattr(Cosine, "__call__", lambda self, t: calls.append(t) or ours(self, t))
    run(name, lambda x, t, carry: Denoised(x))
    assert len(calls) == 14


class Reads(TorchDispatchMode):
    """Counts what reads a tensor back to the host."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
def test_no_rule_reads_a_tensor_back(name):
    """The times, once before the first step, and whether all was finite, once after the last."""
    counts = []
    for steps in (3, 9):
        with Reads() as reads:
            run(name, guided(lambda x, t, c: Denoised(x), lambda x, t, c: Denoised(x), 2.0,
                             interval=(0.2, 0.8)), steps=steps)  # fmt: skip
        counts.append(reads.count)
    assert counts == [1, 1]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_noise_gives_the_same_end(name):
    first, again = run(name, Watched(), seed=4), run(name, Watched(), seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_watch_sees_every_state_and_the_last_one_is_returned(name):
    seen = []
    end = run(name, Watched(), watch=lambda i, s, x: seen.append((i, s, x)))
    assert [i for i, _, _ in seen] == list(range(6))
    assert seen[-1][1] == 0 and all(s > 0 for _, s, _ in seen[:-1])
    assert all(torch.equal(a, b) for a, b in zip(end, seen[-1][2], strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("process", processes.names())
def test_a_known_image_is_found_from_any_process(name, process):
    """A denoiser that always answers c ends in c, whatever the state and the rule."""
    built = processes.build(
        {"name": process, "schedules": [Cosine(log_snr_min=-8, log_snr_max=30)] * 2}
    )
    answer = tuple(torch.full_like(level, 0.3) for level in start())
    end = run(name, lambda x, t, carry: Denoised(answer), process=built)
    torch.testing.assert_close(end, answer, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_law_of_the_end_comes_near_that_of_the_data(name):
    """Second moment of the finest level, 512 samples, 4.5 standard errors and 2 % of bias."""
    process = VariancePreserving([Shifted(Cosine(), 4, 2, 1.0), Cosine()])
    joint = Joint(process)
    times = torch.linspace(1, 0, 101, dtype=torch.float64)
    end, _ = integrate(samplers.build({"name": name}), joint, process, start(512), times, noise(9))
    wanted = joint.clean[:16, :16]
    found = end.flatten(1).square().sum(1)
    error = (2 * wanted.square().sum() / 512).sqrt()
    assert abs(found.mean() - wanted.trace()) < 4.5 * error + 0.02 * wanted.trace()


@pytest.mark.parametrize("times", [[1.0, 1.0, 0.0], [0.5, 0.7], [1.2, 0.0], [0.5, -0.1]])
def test_times_that_do_not_fall_within_the_unit_interval_are_refused(times):
    with pytest.raises(ValueError, match="times must fall within"):
        integrate(
            samplers.build({"name": "ddim"}),
            Watched(),
            PROCESS,
            start(),
            torch.tensor(times, dtype=torch.float64),
            noise(),
        )


@pytest.mark.parametrize("name", grids.names())
@pytest.mark.parametrize("steps", [1, 2, 10, 250])
def test_a_grid_falls_from_at_most_one_to_zero_in_as_many_steps_as_asked(name, steps):
    times = grids.build({"name": name})(steps, PROCESS)
    assert times.dtype == torch.float64 and len(times) == steps + 1
    assert float(times[0]) <= 1 and float(times[-1]) == 0
    assert (times.diff() < 0).all()


@pytest.mark.parametrize(
    ("steps", "first"), [(10, 910), (25, 962), (50, 981), (100, 991), (250, 997), (1000, 1000)]
)
def test_the_official_grid_starts_below_the_end_of_its_table(steps, first):
    times = grids.build({"name": "mdm"})(steps, PROCESS)
    assert float(times[0]) == first / 1000
