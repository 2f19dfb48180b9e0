"""Mark cases as slow: `make test` skips them, `make test-all` runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def slow_unless(quick: Callable[..., bool], cases: Iterable[Any]) -> list[Any]:
    """Return the cases as pytest parameters, marked slow where `quick(*case)` is false.

    A case with several parameters is a tuple.
    """
    marked = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        marks = () if quick(*values) else (pytest.mark.slow,)
        marked.append(pytest.param(*values, marks=marks))
    return marked
