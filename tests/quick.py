"""What `make test` leaves to `make test-all`: most members of long lists of like cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def slow_unless(quick: Callable[..., bool], cases: Iterable[Any]) -> list[Any]:
    """The cases, as parameters; those for which `quick(case)` is false are marked as slow.

    A case of several parameters is a tuple, and `quick` takes each by itself.
    """
    marked = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        marks = () if quick(*values) else (pytest.mark.slow,)
        marked.append(pytest.param(*values, marks=marks))
    return marked
