"""Settings of the C library for freed memory."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of malloc.h
_GIBIBYTE = 1 << 30

_is_wanted = False


def keep_freed_memory() -> bool:
    """Keep freed memory for the next training step instead of returning it to the system.

    Training steps on a CPU allocate and free the same large arrays repeatedly. By default, glibc
    maps each of them from the system, which fills every page with zeros: on some virtual machines
    this takes longer than the arithmetic. Call it before TensorFlow is imported.

    Returns:
        Whether the settings were applied; only glibc supports them.
    """
    global _is_wanted
    _is_wanted = True
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError):  # TypeError from Windows, where there is no default library
        return False
    settings = (
        (_MMAP_THRESHOLD, _GIBIBYTE),
        (_TRIM_THRESHOLD, 2 * _GIBIBYTE - 1),  # the largest that the argument's type can hold
        (_TOP_PAD, _GIBIBYTE // 16),
    )
    applied = [mallopt(parameter, value) == 1 for parameter, value in settings]
    return all(applied)


def keep_again() -> None:
    """Keep freed memory as before, if a program has asked for it.

    TensorFlow returns it again from when it first reads data from a generator.
    """
    if _is_wanted:
        keep_freed_memory()
