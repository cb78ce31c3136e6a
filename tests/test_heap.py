"""Freed memory is kept by the process and not asked of the system again."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from hierdiff.heap import uncollected

CODE = """
import resource
from hierdiff.heap import keep_freed_memory
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(2**26)  # freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
pages()
print(pages())
assert keep_freed_memory()
pages()
print(pages())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is an option of glibc")
def test_memory_that_was_freed_is_not_asked_of_the_system_again():
    root = Path(__file__).parents[1]
    ran = subprocess.run([sys.executable, "-c", CODE], capture_output=True, check=True, cwd=root)
    before, after = map(int, ran.stdout.split())
    assert before > 20 * max(1, after)


def test_garbage_is_looked_for_again_after_an_error():
    with pytest.raises(KeyError), uncollected():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
