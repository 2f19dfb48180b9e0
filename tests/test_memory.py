"""Freed memory is kept for the next step."""

import platform
import subprocess
import sys

import pytest

from functional_models.memory import keep_freed_memory

IS_GLIBC = platform.libc_ver()[0] == "glibc"
COUNT_FAULTS = """
import ctypes, resource, sys
from functional_models.memory import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = libc.free.argtypes = [ctypes.c_size_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
size = 67 * 1024 * 1024

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        array = libc.malloc(size)
        libc.memset(array, 1, size)
        libc.free(array)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

default = faults(11)
keep_freed_memory()
faults(1)
print(default, faults(11))
"""


@pytest.mark.skipif(not IS_GLIBC, reason="requires glibc")
def test_freed_memory_is_reused_without_page_faults() -> None:
    command = [sys.executable, "-c", COUNT_FAULTS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    default, kept = map(int, done.stdout.split())
    assert kept * 10 < default


def test_it_returns_whether_the_settings_were_applied() -> None:
    assert keep_freed_memory() is IS_GLIBC
