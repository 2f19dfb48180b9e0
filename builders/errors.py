"""Messages of the errors that users meet: what was given, what is allowed and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def unknown_name(what: str, given: Any, allowed: Iterable[str]) -> str:
    """Return the message for a name that is not among the allowed ones, with the closest one."""
    names = list(allowed)
    lowered = {name.lower(): name for name in names}  # 'SiLU' is close to 'silu'
    close = difflib.get_close_matches(str(given).lower(), lowered, n=1)
    hint = f" (did you mean {lowered[close[0]]!r}?)" if close else ""
    return f"unknown {what} {given!r}{hint}; allowed: {', '.join(names)}"


def invalid_value(name: str, value: Any, allowed: str, advice: str = "") -> ValueError:
    """Return the error for a value that is not allowed, with what is allowed and what to do."""
    return ValueError(f"{name}={value!r}: must be {allowed}" + (f"; {advice}" if advice else ""))
