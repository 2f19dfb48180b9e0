"""Memory: what cannot fit is refused before it is allocated, and what was left is found later."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_memory() -> float:
    """Return the bytes of memory that a process can use; infinite where that is unknown."""
    sizes = [float("inf")]
    with suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in map(Path, _CGROUP_LIMITS):  # of a container
        with suppress(OSError, ValueError):  # "max" is not a limit
            sizes.append(int(path.read_text()))
    return min(sizes)


@contextmanager
def paused_collection() -> Iterator[None]:
    """Pause garbage collection; also a decorator.

    A layer is a thousand small objects that live on. While a hundred blocks are made of them, each
    full collection would visit those of all blocks before, and half a million of the backend.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def check_memory(needed: float, what: str, advice: str) -> None:
    """Check that a lower bound of the memory that something needs fits into this machine.

    Raises:
        ValueError: it does not, and there is no accelerator with memory of its own.
    """
    if needed <= (there := machine_memory()):
        return
    import keras

    if keras.distribution.list_devices("gpu") or keras.distribution.list_devices("tpu"):
        return
    raise ValueError(
        f"{what} of at least {needed / 1e9:,.1f} GB do not fit into the memory of this machine, "
        f"{there / 1e9:,.1f} GB; {advice}"
    )
