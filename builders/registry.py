"""The two registries: components (the values that spec fields take) and variants (named specs).

Others add to both by decorator, or from an installed package by an entry point in the group
`functional_models.components` or `functional_models.variants` that names a module to import.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from builders.spec import TransformerSpec

F = TypeVar("F", bound=Callable[..., Any])

# What ships, by field: the module that registers it and the values. Kept as data, so that a spec
# can be checked, and variants listed, without importing Keras.
_SHIPPED: dict[str, tuple[str, tuple[str, ...]]] = {
    "norm_placement": ("builders.blocks", ("post", "pre", "sandwich", "parallel", "none")),
    "norm": ("builders.norms", ("layer", "rms")),
    "positions": (
        "builders.positions",
        (
            "learned",
            "sinusoidal",
            "sinusoidal_concat",
            "rotary",
            "alibi",
            "relative",
            "none",
        ),
    ),
    "rotary_scaling": ("builders.rotary", ("none", "linear", "llama3", "yarn")),
    "feedforward": ("builders.feedforward", ("mlp", "glu")),
    "activation": (
        "builders.feedforward",
        ("relu", "gelu", "gelu_tanh", "silu", "relu_squared"),
    ),
    "attention": ("builders.attention", ("graph", "layer")),
    "initializer": (
        "builders.initializers",
        ("glorot_uniform", "normal", "depth_scaled", "t5"),
    ),
}
_components: dict[tuple[str, str], Callable[..., Any]] = {}


@dataclass(frozen=True)
class Variant:
    """A named spec and where it comes from.

    Attributes:
        name: as given to `variant` and to the `build_*` functions.
        kinds: the kinds that it can be built as; the first is the default.
        source: the paper (with table or section) or the code that it follows.
        parameters: how many parameters the source says that it has; "" where it says nothing.
        summary: one line on what is special.
        make: gives the spec.
    """

    name: str
    kinds: tuple[str, ...]
    source: str
    parameters: str
    summary: str
    make: Callable[[], TransformerSpec]


_variants: dict[str, Variant] = {}


def register_component(field: str, value: str) -> Callable[[F], F]:
    """Decorate the function that a spec field stands for when it has `value`.

    Args:
        field: `norm_placement`, `norm`, `positions`, `rotary_scaling`, `feedforward`,
            `activation`, `attention` or `initializer`; what ships in the module of each shows
            what is called, and with what.
        value: the new value that the field may take.

    Raises:
        ValueError: the field takes no components, or the value is taken by another function.
    """
    if field not in _SHIPPED:
        raise ValueError(unknown_name("component field", field, _SHIPPED))

    def register(function: F) -> F:
        known = _components.setdefault((field, value), function)
        if (known.__module__, known.__qualname__) != (function.__module__, function.__qualname__):
            raise ValueError(
                f"{field}={value!r} is registered already, by {known.__module__}."
                f"{known.__qualname__}; choose another value"
            )
        _components[field, value] = function  # the same function again: its module was reloaded
        return function

    return register


def component_names(field: str) -> tuple[str, ...]:
    """Return the values that a component field may take: what ships, then what others added."""
    _load_entry_points("functional_models.components")
    shipped = _SHIPPED[field][1]
    return shipped + tuple(v for f, v in _components if f == field and v not in shipped)


def component(field: str, value: str) -> Callable[..., Any]:
    """Return the function registered for `value` of a spec field."""
    module, shipped = _SHIPPED[field]
    if value in shipped:
        import_module(module)
    return _components[field, value]


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
        ValueError: the name is taken by another function.
    """

    def register(make: Callable[[], TransformerSpec]) -> Callable[[], TransformerSpec]:
        called = name or make.__name__
        known = _variants.get(called)
        if known is not None and known.make.__module__ != make.__module__:
            raise ValueError(
                f"variant {called!r} is registered already, by {known.make.__module__}; "
                "choose another name"
            )
        _variants[called] = Variant(called, kinds, source, parameters, summary, make)
        return make

    return register


def list_variants(kind: str | None = None) -> list[str]:
    """Return the names of all variants, or of those that can be built as `kind`."""
    _load_variants()
    return [name for name, row in _variants.items() if kind is None or kind in row.kinds]


def variant_info(name: str) -> Variant:
    """Return the registry row of a variant: source, published parameter count, summary.

    Raises:
        ValueError: no such variant; the message lists what there is.
    """
    _load_variants()
    if name not in _variants:
        raise ValueError(unknown_name("variant", name, _variants))
    return _variants[name]


def variant(name: str, **changes: Any) -> TransformerSpec:
    """Return the spec of a variant, with `changes` made to its fields.

    Raises:
        ValueError: no such variant or field, a value that is not allowed, or a kind that the
            variant cannot be built as.
    """
    row = variant_info(name)
    kind = changes.get("kind", row.kinds[0])
    if kind not in row.kinds:
        raise ValueError(unknown_name(f"kind of variant {name}", kind, row.kinds))
    return row.make().replace(**changes)


def unknown_name(what: str, given: Any, allowed: Iterable[str]) -> str:
    """Return the message for a name that is not among the allowed ones."""
    names = list(allowed)
    lowered = {name.lower(): name for name in names}  # 'SiLU' is close to 'silu'
    close = difflib.get_close_matches(str(given).lower(), lowered, n=1)
    hint = f" (did you mean {lowered[close[0]]!r}?)" if close else ""
    return f"unknown {what} {given!r}{hint}; allowed: {', '.join(names)}"


_loaded_groups: set[str] = set()


def _load_variants() -> None:
    import_module("builders.variants")
    import_module("builders.published")
    _load_entry_points("functional_models.variants")


def _load_entry_points(group: str) -> None:
    """Import what installed packages add; a broken one is reported and skipped."""
    if group in _loaded_groups:
        return
    _loaded_groups.add(group)
    for point in entry_points(group=group):
        try:
            point.load()
        except Exception as error:
            warnings.warn(
                f"{group}: {point.name} ({point.value}) could not be loaded and is left out: "
                f"{type(error).__name__}: {error}",
                stacklevel=2,
            )
