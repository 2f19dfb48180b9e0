"""The variant registry: named specs, each with its source.

Others add to it by decorator, or from an installed package by an entry point in the group
`functional_models.variants` that names a module to import.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from builders.components import is_same_definition, load_entry_points, origin
from builders.errors import unknown_name
from builders.spec import TransformerSpec

_ENTRY_POINTS = "functional_models.variants"


@dataclass(frozen=True)
class Variant:
    """A named spec and its source.

    Attributes:
        name: as given to `variant` and to the `build_*` functions.
        kinds: the kinds that it can be built as; the first is the default.
        source: the paper (with table or section) or the code that it follows.
        parameters: the parameter count that the source states; "" if it states none.
        summary: one line on what distinguishes it.
        make: returns the spec.
    """

    name: str
    kinds: tuple[str, ...]
    source: str
    parameters: str
    summary: str
    make: Callable[[], TransformerSpec]


_variants: dict[str, Variant] = {}


def register_variant(
    *,
    kinds: tuple[str, ...],
    source: str,
    summary: str,
    parameters: str = "",
    name: str | None = None,
) -> Callable[[Callable[[], TransformerSpec]], Callable[[], TransformerSpec]]:
    """Decorate a function without arguments that returns the spec of a variant.

    Args:
        kinds, source, summary, parameters: as in `Variant`.
        name: of the variant; `None`: the function's.

    Raises:
        ValueError: another function is registered under the name, or a function without a name
            is registered without `name`.
    """

    def register(make: Callable[[], TransformerSpec]) -> Callable[[], TransformerSpec]:
        key = name or getattr(make, "__name__", None)
        if key is None:
            raise ValueError(
                f"register_variant(name=None) takes the name of a function, and "
                f"{type(make).__name__} objects have none; give name="
            )
        known = _variants.get(key)
        if known is not None and not is_same_definition(known.make, make):
            raise ValueError(
                f"variant {key!r} is registered already, by {origin(known.make)}; "
                "choose another name"
            )
        _variants[key] = Variant(key, kinds, source, parameters, summary, make)
        return make

    return register


def list_variants(kind: str | None = None) -> list[str]:
    """Return the names of all variants, or of those that can be built as `kind`."""
    load_entry_points(_ENTRY_POINTS)
    return [name for name, row in _variants.items() if kind is None or kind in row.kinds]


def variant_info(name: str) -> Variant:
    """Return the registry row of a variant: source, published parameter count, summary.

    Raises:
        ValueError: no such variant; the message lists those that exist.
    """
    load_entry_points(_ENTRY_POINTS)
    if name not in _variants:
        raise ValueError(unknown_name("variant", name, _variants))
    return _variants[name]


def variant(name: str, **changes: Any) -> TransformerSpec:
    """Return the spec of a variant, with `changes` to its fields.

    Raises:
        ValueError: no such variant or field, a value that is not allowed, or a kind that the
            variant cannot be built as.
    """
    row = variant_info(name)
    kind = changes.get("kind", row.kinds[0])
    if kind not in row.kinds:
        raise ValueError(unknown_name(f"kind of variant {name}", kind, row.kinds))
    return row.make().replace(**changes)
