"""The variant registry: named specs, each with its source.

Variants are added by decorator, or from an installed package by an entry point in the group
`functional_models.variants` that names a module to import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from builders.components import is_same_definition, load_entry_points, origin
from builders.errors import invalid_value, unknown_name
from builders.spec import KINDS, TransformerSpec

_ENTRY_POINTS = "functional_models.variants"
_LISTED_BY = "`functional-models variants` or builders.list_variants()"


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
        ValueError: unknown kinds, another function is registered under the name, or a function
            without a name is registered without `name`.
    """
    if not isinstance(kinds, tuple) or not kinds or not set(kinds) <= set(KINDS):
        raise invalid_value("kinds", kinds, f"a tuple of some of {', '.join(KINDS)}")

    def register(make: Callable[[], TransformerSpec]) -> Callable[[], TransformerSpec]:
        key = name or getattr(make, "__name__", None)
        if key is None:
            raise ValueError(
                f"register_variant needs name= for a {type(make).__name__}, which has no __name__"
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
    """Return the names of all variants, or of those that can be built as `kind`.

    Raises:
        ValueError: an unknown kind.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(unknown_name("kind", kind, KINDS))
    load_entry_points(_ENTRY_POINTS)
    return [name for name, row in _variants.items() if kind is None or kind in row.kinds]


def variant_info(name: str) -> Variant:
    """Return the registry row of a variant: source, published parameter count, summary.

    Raises:
        ValueError: no such variant; the message names similar ones.
    """
    load_entry_points(_ENTRY_POINTS)
    if name not in _variants:
        raise ValueError(unknown_name("variant", name, _variants, _LISTED_BY))
    return _variants[name]


def variant(name: str, **changes: Any) -> TransformerSpec:
    """Return the spec of a variant, with `changes` to its fields.

    Raises:
        ValueError: no such variant or field, a value that is not allowed, or a kind that the
            variant cannot be built as.
    """
    row = variant_info(name)
    kind = changes.get("kind", row.kinds[0])
    if kind not in KINDS:
        raise ValueError(unknown_name("kind", kind, KINDS))
    if kind not in row.kinds:
        raise ValueError(
            f"variant {name!r} cannot be built as {kind!r}; allowed: {', '.join(row.kinds)} "
            f"(`functional-models variants --kind {kind}` or builders.list_variants({kind!r}) "
            "lists the variants that can)"
        )
    spec = row.make()
    if not isinstance(spec, TransformerSpec):
        raise TypeError(
            f"variant {name!r}: {origin(row.make)} must return a TransformerSpec, "
            f"not {type(spec).__name__}"
        )
    return spec.replace(**{"kind": kind, **changes})


def as_spec(
    function: str, spec: TransformerSpec | str, changes: Mapping[str, Any] = MappingProxyType({})
) -> TransformerSpec:
    """Return a spec, or the spec of the variant with that name, with changed fields.

    Args:
        function: the function that takes it, for errors.
        spec: a spec, or the name of a variant.
        changes: new values of fields.

    Raises:
        TypeError: neither a spec nor a name.
        ValueError: as in `variant`.
    """
    if isinstance(spec, str):
        return variant(spec, **changes)
    if not isinstance(spec, TransformerSpec):
        advice = (
            "; give its attribute spec"
            if isinstance(getattr(spec, "spec", None), TransformerSpec)
            else ""
        )
        raise TypeError(
            f"{function} takes a TransformerSpec or the name of a variant, "
            f"not {type(spec).__name__}{advice}"
        )
    return spec.replace(**changes) if changes else spec
