"""Mappings that cannot be modified, for a field of a frozen spec."""

from __future__ import annotations

from typing import Any, NoReturn


class Overrides(dict[str, Any]):
    """Changed fields of a block, which cannot be modified and can be hashed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return Overrides, (dict(self),)

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("the overrides of a spec cannot be changed; use spec.replace")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse
