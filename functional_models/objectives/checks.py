"""Checks of the fields of objectives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def check_number(name: str, value: Any, accepts: Callable[[float], bool], allowed: str) -> None:
    """Check a field that takes a finite number.

    Raises:
        ValueError: names the field, the value and what is allowed.
    """
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_real or not math.isfinite(value) or not accepts(value):
        raise ValueError(f"{name}={value!r}: must be {allowed}")
