"""C that is compiled here: kept whole, for this machine, and done without where it cannot be."""

import ctypes
import logging
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hierdiff import native
from hierdiff.results.provenance import machine

try:
    native._compiler()
except OSError:
    pytest.skip("there is no C compiler", allow_module_level=True)

CODE = """
int sum(const int *numbers, int n, int threads) {
  int total = ADDED;
#pragma omp parallel for num_threads(threads) reduction(+ : total)
  for (int i = 0; i < n; i++) total += numbers[i];
  return total;
}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HIERDIFF_CACHE", str(tmp_path / "cache"))
    native.library.cache_clear()
    native._say.cache_clear()
    yield tmp_path / "cache" / "native"
    native.library.cache_clear()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "sum.c"
    path.write_text(CODE)
    return path


def total(library: ctypes.CDLL | None, threads: int = 1) -> int:
    assert library is not None
    return library.sum((ctypes.c_int * 4)(1, 2, 3, 4), 4, threads)


def test_code_is_compiled_once_and_loaded_from_the_cache(source, cache, monkeypatch):
    assert total(native.library(source, "ADDED=5")) == 15
    assert machine()["compiled"]["sum.c"]  # and the record says so
    native.library.cache_clear()
    monkeypatch.setattr(native, "_compile", None)
    assert total(native.library(source, "ADDED=5")) == 15
    assert sorted(path.suffix for path in cache.iterdir()) == [".seal", ".so"]


def test_other_macros_texts_and_machines_have_their_own_file(source, cache, monkeypatch):
    for added in (5, 6):
        assert total(native.library(source, f"ADDED={added}")) == 10 + added
    source.write_text(CODE.replace("ADDED", "ADDED + 1"))
    native.library.cache_clear()
    assert total(native.library(source, "ADDED=5")) == 16
    monkeypatch.setattr(native, "_processor", lambda: "another one")
    native.library.cache_clear()
    assert total(native.library(source, "ADDED=5")) == 16
    assert len(list(cache.glob("*.so"))) == 4


def mapped() -> set[str]:
    """Libraries that this process has loaded."""
    return {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not say")
def test_threads_are_those_of_torch(source):
    before = mapped()
    assert total(native.library(source, "ADDED=0"), threads=2) == 10
    assert [path for path in mapped() - before if "omp" in Path(path).name] == []


@pytest.mark.parametrize("left", [0, 100])
def test_a_file_cut_short_is_compiled_again(source, cache, left):
    total(native.library(source, "ADDED=5"))
    (path,) = cache.glob("*.so")
    content = path.read_bytes()
    path.unlink()  # and not written over, since it is mapped
    path.write_bytes(content[:left])
    native.library.cache_clear()
    assert total(native.library(source, "ADDED=5")) == 15
    assert path.read_bytes() == content


def test_many_may_compile_at_once(source, cache):
    compiler, flags = native._compiler(), (*native.FLAGS, "-DADDED=5")
    with ThreadPoolExecutor(4) as pool:
        made = set(pool.map(lambda _: native._built(source, *compiler, flags), range(4)))
    assert total(ctypes.CDLL(str(made.pop()))) == 15
    assert not made
    assert sorted(path.suffix for path in cache.iterdir()) == [".seal", ".so"]


def said(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == native.__name__]


@pytest.mark.parametrize("compiler", ["", "there-is-none"])
def test_without_a_compiler_the_log_says_so_once(source, caplog, monkeypatch, compiler):
    monkeypatch.setenv("CC", compiler)
    caplog.set_level(logging.INFO)
    for added in (1, 2):
        assert native.library(source, f"ADDED={added}") is None
    (line,) = said(caplog)
    assert "sum.c" in line and "no C compiler" in line and compiler in line


def test_the_log_has_what_a_failing_compiler_says(source, caplog, cache):
    caplog.set_level(logging.INFO)
    assert native.library(source) is None  # ADDED has no value
    (line,) = said(caplog)
    assert "ADDED" in line
    assert not list(cache.glob("*.so"))


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root writes anywhere")
def test_a_cache_that_cannot_be_written_to_is_done_without(source, caplog, cache):
    caplog.set_level(logging.INFO)
    cache.parent.mkdir()
    cache.parent.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert native.library(source, "ADDED=5") is None
    assert len(said(caplog)) == 1


def test_functions_that_the_process_lacks_are_done_without(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = tmp_path / "lacks.c"
    path.write_text("int nowhere(void); int f(void) { return nowhere(); }")
    assert native.library(path) is None
    assert "nowhere" in said(caplog)[0]
