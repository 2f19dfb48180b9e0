"""The differences between two graphs as data, and those between two calls."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from plots.annotations import Quantity
from plots.graph import Constant, Edge, Graph, Node, Tensor
from plots.registry import list_plugins

Aspect = Literal["class", "config", "constant", "place", "trainable", "shape", "parameters"]
"""Changed property of a call; "place" is the position of an input among the inputs."""

MODEL = ""
"""Used as the id of the call that receives the outputs of the model."""

_BOOKKEEPING = ("build_config", "compile_config", "module", "shared_object_id")
"""Keys of a serialised Keras object that do not describe it."""

_MAX_LETTERS = 60
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two calls.

    Attributes:
        aspect: The changed property.
        name: Its name: "units" of the configuration, "x2" of the constants, "output".
        old: The old value as text.
        new: The new value as text.
    """

    aspect: Aspect
    name: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class ChangedCall:
    """A call that is in both graphs, with changes.

    Attributes:
        before: Its id in the first graph.
        after: Its id in the second.
        changes: The changes.
    """

    before: str
    after: str
    changes: tuple[Change, ...]

    @property
    def is_reshaped(self) -> bool:
        """Whether only shapes or the number of parameters differ, because its inputs do."""
        return all(change.aspect in ("shape", "parameters") for change in self.changes)


@dataclass(frozen=True, slots=True)
class Move:
    """A call that is in both graphs, under another path or at another place.

    Attributes:
        before: Its id in the first graph.
        after: Its id in the second.
        renamed: Whether its path differs.
        displaced: Whether its place in the data flow differs, such as a norm that moves from
            before a sublayer to after it.
    """

    before: str
    after: str
    renamed: bool
    displaced: bool


@dataclass(frozen=True, slots=True)
class Rewiring:
    """A call in both graphs with another input, where all calls involved are in both graphs.

    Attributes:
        before: Id of the call in the first graph; `MODEL` for an output of the model.
        after: Its id in the second.
        old: The old input, or None.
        new: The new input, or None.
    """

    before: str
    after: str
    old: Edge | None
    new: Edge | None


@dataclass(frozen=True, slots=True)
class TieChange:
    """Calls in both graphs that share weights in one of them only.

    Attributes:
        calls: Their ids in the graph in which they share weights.
        tied: Whether that is the second graph.
        others: Ids in that graph of further calls with the same weights, which share them with each
            other in both graphs.
    """

    calls: tuple[str, ...]
    tied: bool
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """The differences between two graphs.

    Consequences of a difference are not listed: a call that receives the output of an added call is
    not rewired, nor is one next to a moved call.

    Attributes:
        before: The first graph.
        after: The second.
        pairs: (id before, id after) of the calls that are in both, in the order of `after`.
        added: Ids of the calls that are in `after` only.
        removed: Ids of the calls that are in `before` only.
        moved: Calls under another path or at another place.
        changed: Calls with another class, configuration, constants, shapes or parameter count.
        rewired: Calls with another input.
        ties: Weights that are shared in one graph only.
    """

    before: Graph
    after: Graph
    pairs: tuple[tuple[str, str], ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    moved: tuple[Move, ...]
    changed: tuple[ChangedCall, ...]
    rewired: tuple[Rewiring, ...]
    ties: tuple[TieChange, ...]

    def __repr__(self) -> str:
        found = {
            name: len(getattr(self, name))
            for name in ("added", "removed", "moved", "changed", "rewired", "ties")
        }
        parts = ", ".join(f"{number} {name}" for name, number in found.items() if number)
        return f"<Difference of {self.before.name!r} and {self.after.name!r}: {parts or 'none'}>"

    @property
    def is_empty(self) -> bool:
        """Whether `compare_graphs` found no difference."""
        parts = (self.added, self.removed, self.moved, self.changed, self.rewired, self.ties)
        return not any(parts)

    @property
    def parameters(self) -> tuple[int, int]:
        """Number of parameters before and after."""
        return self.before.parameters, self.after.parameters

    @cached_property
    def removed_from(self) -> Mapping[str, tuple[int, int]]:
        """Sort keys of removed calls: id -> (index in `after` of the pair before it, index)."""
        back = dict(self.pairs)
        removed_from, latest = {}, -1
        for number, node in enumerate(self.before.nodes):
            if node.id in back:
                latest = self.after.index[back[node.id]]
            else:
                removed_from[node.id] = latest, number
        return removed_from

    @cached_property
    def flops(self) -> tuple[Quantity, Quantity] | None:
        """Floating-point operations before and after; None without the plugin "flops"."""
        before, after = flops_of(self.before), flops_of(self.after)
        return None if before is None or after is None else (before, after)


def flops_of(graph: Graph) -> Quantity | None:
    """Return the floating-point operations of a model; None without the plugin "flops"."""
    plugin = list_plugins().get("flops")
    overlays = plugin(graph).overlays if plugin else ()
    return next((overlay.whole for overlay in overlays if overlay.name == "flops"), None)


# Changes of a call


def call_changes(
    old: Node, new: Node, input_ranks: tuple[Mapping[str, int], Mapping[str, int]]
) -> Iterator[Change]:
    """Yield the changes from one call to the other; initializers come last.

    Args:
        old: The call before.
        new: The call after.
        input_ranks: For each graph: id of an input that is in both -> its position among those.
    """
    if old.class_name != new.class_name:
        yield Change("class", "class", old.class_name, new.class_name)
    entries: dict[bool, list[Change]] = {False: [], True: []}  # True: of initial weights only
    for name, *values in changed_entries(old.config, new.config):
        in_both = name in old.config and name in new.config
        if name != "trainable" and (old.class_name == new.class_name or in_both):
            entries[name.endswith("_initializer")].append(Change("config", name, *values))
    yield from entries[False]
    constants = {c.port: c for c in old.constants}, {c.port: c for c in new.constants}
    for port in dict.fromkeys((*constants[0], *constants[1])):
        before, after = constants[0].get(port), constants[1].get(port)
        if old.class_name != new.class_name and None in (before, after):
            continue  # the other class has no such argument
        if not _are_equal(before, after):
            texts = _constant_text(before), _constant_text(after)
            if texts[0] == texts[1]:  # only the values differ
                texts = _constant_text(before, values=True), _constant_text(after, values=True)
            yield Change("constant", port, *texts)
    ranks = input_ranks[0].get(old.id), input_ranks[1].get(new.id)
    if ranks[0] != ranks[1]:
        yield Change("place", "place among the inputs", str(ranks[0]), str(ranks[1]))
    if old.trainable != new.trainable:
        yield Change("trainable", "trainable", str(old.trainable), str(new.trainable))
    if old.outputs != new.outputs:
        dtypes = [tensor.dtype for tensor in old.outputs] != [t.dtype for t in new.outputs]
        same = _common_axes(old.outputs, new.outputs)
        texts = _outputs_text(old.outputs, dtypes, same), _outputs_text(new.outputs, dtypes, same)
        yield Change("shape", "output", *texts)
    if old.parameters != new.parameters and new.layer == new.id:  # once, not at every call
        yield Change("parameters", "parameters", f"{old.parameters:,}", f"{new.parameters:,}")
    yield from entries[True]


def _are_equal(old: Constant | None, new: Constant | None) -> bool:
    """Return whether two constants are equal, as far as their values are known."""
    if old is None or new is None or None not in (old.digest, new.digest):
        return old == new
    return replace(old, digest=None) == replace(new, digest=None)


def _constant_text(constant: Constant | None, values: bool = False) -> str:
    """Return a constant as text: "float32 (3, 5) sinusoids"; with its digest if `values`."""
    if constant is None:
        return "nothing"
    if constant.value is not None or constant.shape is None:
        return _value_text(constant.value)
    shape = ", ".join(str(size) for size in constant.shape)
    text = f"{constant.dtype} ({shape}) {constant.pattern}".strip()
    return f"{text}, values {constant.digest}" if values else text


def _common_axes(old: tuple[Tensor, ...], new: tuple[Tensor, ...]) -> int:
    """Return the number of leading axes to omit because their sizes are equal."""
    if len(old) != 1 or len(new) != 1 or len(old[0].shape) != len(new[0].shape):
        return 0
    pairs = zip(old[0].shape, new[0].shape, strict=True)
    same = next((axis for axis, (before, after) in enumerate(pairs) if before != after), 0)
    return same if same > 1 else 0


def _outputs_text(outputs: tuple[Tensor, ...], dtypes: bool, same: int) -> str:
    texts = []
    for tensor in outputs:
        sizes = ["..."] * bool(same) + [str(size) for size in tensor.shape[same:]]
        texts.append(f"({', '.join(sizes)})" + (f" {tensor.dtype}" if dtypes else ""))
    return ", ".join(texts)


# Configurations


def without_names(config: Any) -> Any:
    """Return a configuration without the names of inner layers, which Keras may generate."""
    if isinstance(config, Mapping):
        inner = config["config"] if _is_object(config) else None
        if isinstance(inner, Mapping) and inner.keys() == {"name"}:
            return inner["name"]  # a dtype policy; some layers store just its name
        dropped = set(_BOOKKEEPING) if _is_object(config) else set()
        if "trainable" in config:  # of a layer
            dropped.add("name")
        return {key: without_names(item) for key, item in config.items() if key not in dropped}
    return [without_names(item) for item in config] if isinstance(config, list | tuple) else config


def changed_entries(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """Yield the entries that differ, as (name, old text, new text).

    A missing entry counts as None, because newer releases of Keras write more entries.
    """
    if before == after:
        return
    old, new = without_names(before), without_names(after)
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            texts = _value_texts(old.get(name), new.get(name))
            differ = texts[0] != texts[1]  # else shortened or rounded
            yield name, *(texts if differ else (repr(old.get(name)), repr(new.get(name))))


def _value_texts(old: Any, new: Any) -> tuple[str, str]:
    """Return two different values as texts; of objects of one class only arguments that differ."""
    if _is_object(old) and _is_object(new) and _class_of(old) == _class_of(new):
        one, other = old["config"], new["config"]
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            names = sorted({*one, *other})
            differ = [n for n in names if one.get(n, _ABSENT) != other.get(n, _ABSENT)]
            return _call_text(old, differ), _call_text(new, differ)
    return _value_text(old), _value_text(new)


def _value_text(value: Any) -> str:
    """Return a value on one short line."""
    if _is_object(value):
        config = value["config"]
        return _call_text(value, sorted(config) if isinstance(config, dict) else [])
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    text = re.sub(r"\s+", " ", text)
    return text if len(text) <= _MAX_LETTERS else text[: _MAX_LETTERS - 3] + "..."


def _call_text(serialised: Mapping[str, Any], arguments: list[str]) -> str:
    """Return a serialised object as its constructor call: "RandomNormal(stddev=0.02)"."""
    values = {argument: serialised["config"].get(argument) for argument in arguments}
    given = [f"{name}={_value_text(value)}" for name, value in values.items() if value is not None]
    name = _class_of(serialised).rpartition(">")[2]
    return f"{name}({', '.join(given)})" if given else name


def _is_object(value: Any) -> bool:
    """Return whether a value is a serialised Keras object, with class and configuration."""
    return isinstance(value, Mapping) and {"class_name", "config"} <= value.keys()


def _class_of(serialised: Mapping[str, Any]) -> str:
    """Return the class with the package that registered it: "my_package>swish"."""
    registered, inner = serialised.get("registered_name"), serialised["config"]
    if isinstance(inner, str) and registered in (None, "function"):
        return inner  # a function, such as a custom activation
    return str(registered or serialised["class_name"])
