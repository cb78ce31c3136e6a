"""What every test stands on: few threads, a fixed seed, a cache of its own, no deadlines."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
# signals that whoever runs the tests ignores (`nohup`, a job in the background) are sent by tests
for number, usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGTERM, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)
# examples are drawn from the test's own text, so that a failure today is a failure tomorrow, on a
# machine that is busy as well
settings.register_profile(
    "hierdiff", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("hierdiff")

UNTIL = float(os.environ.get("HIERDIFF_TESTS_UNTIL", "inf"))  # seconds since the epoch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sweeps over everything that is registered come last: CI begins slow tests while it has time,
    and of each contract it has tried the hardest case by then."""
    items.sort(key=lambda item: "contracts" in item.path.parts)


def pytest_collection_finish() -> None:
    """What was imported stays, so the garbage collector need not walk through it again and again:
    0.4 s each time, a tenth of all the time of the tests."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A slow test begins while there is time for it; the others are counted as skipped."""
    if time.time() > UNTIL and item.get_closest_marker("slow"):
        pytest.skip("no time left for slow tests")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the cache of whoever runs it; subprocesses inherit the setting."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIERDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
