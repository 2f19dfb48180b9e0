"""What the C library does with memory that is freed."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of malloc.h
_GIBIBYTE = 1 << 30


def keep_freed_memory() -> bool:
    """Have freed memory kept for the next step of training, not given back to the system.

    A step on a CPU allocates and frees the same large arrays again and again. By default the C
    library of Linux maps each from the system anew, which then fills every page with zeros: where
    that is slow, as in some virtual machines, it takes longer than the arithmetic. It has to be
    called before TensorFlow is imported; afterwards hardly a page was saved.

    Returns:
        Whether the C library could be told so. Only glibc can; elsewhere nothing is done.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError):  # TypeError from Windows, where there is no default library
        return False
    settings = (
        (_MMAP_THRESHOLD, _GIBIBYTE),
        (_TRIM_THRESHOLD, 2 * _GIBIBYTE - 1),  # the largest that the argument's type can hold
        (_TOP_PAD, _GIBIBYTE // 16),
    )
    told = [mallopt(parameter, value) == 1 for parameter, value in settings]
    return all(told)
