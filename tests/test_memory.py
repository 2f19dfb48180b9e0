"""Freed memory is kept for the next step, and weights that do not fit are refused."""

import platform
import subprocess
import sys
from contextlib import ExitStack

import keras
import pytest
from small_models import small_spec

import builders
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


SCOPES = {
    # initialize_variables of nested stateless scopes, outermost first -> are weights allocated
    (): True,
    (True,): True,  # where it ends
    (False,): False,
    (False, True): False,
    (True, False): True,
}


@pytest.mark.parametrize(("scopes", "are_allocated"), SCOPES.items(), ids=map(str, SCOPES))
def test_weights_are_refused_only_where_they_would_be_allocated(scopes, are_allocated, monkeypatch):
    def build(vocabulary_size, memory):
        monkeypatch.setattr("builders.memory.machine_memory", lambda: memory)
        monkeypatch.setattr(keras.distribution, "list_devices", lambda kind: [])
        with ExitStack() as stack:
            for initialize in scopes:
                stack.enter_context(keras.StatelessScope(initialize_variables=initialize))
            return builders.build(small_spec(kind="decoder_only"), vocabulary_size=vocabulary_size)

    from keras.src.backend.common import global_state

    monkeypatch.setitem(vars(global_state.GLOBAL_STATE_TRACKER), "uninitialized_variables", [])
    model = build(vocabulary_size=11, memory=1e9)
    assert all((weight._value is not None) is are_allocated for weight in model.weights)
    if are_allocated:
        with pytest.raises(ValueError, match=r"weights of at least 0\.0 GB do not fit"):
            build(vocabulary_size=13, memory=100)
    else:
        assert build(vocabulary_size=13, memory=100).count_params()
    assert builders.build(small_spec(kind="decoder_only"), abstract=True).count_params()
