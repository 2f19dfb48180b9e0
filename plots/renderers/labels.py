"""The words on the box of a call and on the frame around a block, for all renderers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from plots.graph import Graph, Node
from plots.hierarchy import find_namespaces
from plots.traversal import once_per_graph

_NUMBER = re.compile(r"(#\d+)?(@(?P<call>\d+))?$")
_MOST_NAMES = 0.8  # share of the names that start with a prefix for it to be left out
_FEW_NAMES = 5  # names from which a prefix is recognised

_SHARED_COLOURS = ("#007A5A", "#A8457E", "#0061A3", "#8A6100", "#5B3FA8", "#3A7A93")
"""Dark variants of the Okabe-Ito palette, for text."""


def title_of(node: Node, graph: Graph) -> str:
    """Return the name of a call without numbers that only make ids unique, or else its class."""
    title = node.shown_name
    if node.kind == "group":
        title = _NUMBER.sub("", node.label) or node.label
    return title.removeprefix(_common_prefix(graph)) or title


def class_of(node: Node) -> str:
    """Return the class of a call, with the class of the layer that it wraps: "Bidirectional LSTM".

    An empty text for groups.
    """
    if node.kind == "group":
        return ""
    inner = _wrapped(node.config)
    return f"{node.class_name} {inner[0]}" if inner else node.class_name


def frame_title(namespace: str, graph: Graph) -> str:
    """Return the title of the frame around a namespace.

    The frame around a later call of a shared model says which call it is.
    """
    part = namespace.rpartition(".")[2]
    found = _NUMBER.search(part)
    title = part[: found.start()] if found else part
    title = title.removeprefix(_common_prefix(graph)) or title or part
    times = _calls_of_frames(graph)[_shared_name(namespace)]
    around = namespace.removesuffix(part).removesuffix(".")
    is_outermost = times > _calls_of_frames(graph)[_shared_name(around)]
    return f"{title} (shared × {times})" if times > 1 and is_outermost else title


def shared_of(node: Node, graph: Graph) -> tuple[str, str] | None:
    """Return ("shared × 2", colour) if other calls use the weights of a call; else None.

    All calls with the same weights have the same colour. Calls inside a model that is itself called
    several times are left out: the frame around it says so.
    """
    if node.kind == "group":
        times = _calls_of_frames(graph)[_shared_name(node.id)]
        return (f"shared × {times}", _SHARED_COLOURS[0]) if times > 1 else None
    calls = graph.ties.get(node.layer, ())
    if len(calls) < 2 or not (node.parameters or node.shared_parameters):
        return None
    namespaces = _namespaces(graph)
    frames = {namespaces[call] for call in calls}
    if len({_shared_name(frame) for frame in frames}) == 1 < len(frames):
        return None
    place = list(graph.ties).index(node.layer)
    return f"shared × {len(calls)}", _SHARED_COLOURS[place % len(_SHARED_COLOURS)]


def details_of(node: Node, with_activation: bool = True) -> str:
    """Return the numbers that matter in the configuration of a layer: "64 × 3×3, stride 2, same".

    Known keys of a configuration are read, whatever the class, so layers of other packages have
    details as well. Defaults of Keras are left out.
    """
    if node.kind not in ("layer", "operation"):
        return ""
    config = dict(node.config)
    inner = _wrapped(config)
    if inner:
        config = inner[1] | {"merge_mode": config.get("merge_mode")}
    parts = [text for text in (rule(config) for rule in _RULES) if text]
    if with_activation:
        parts += [_activation(config)] if _activation(config) else []
    return ", ".join(parts)


def _wrapped(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return class and configuration of the layer that a layer wraps, such as `Bidirectional`."""
    inner = config.get("layer")
    if not isinstance(inner, Mapping) or not isinstance(inner.get("config"), Mapping):
        return None
    return str(inner.get("class_name", "")).rpartition(">")[2], dict(inner["config"])


def _activation(config: Mapping[str, Any]) -> str:
    """Return the activation of a layer, without "linear", and without that of an RNN by default."""
    found = config.get("activation")
    if isinstance(found, Mapping):
        inner = found.get("config")
        found = inner if isinstance(inner, str) else found.get("class_name")
    name = str(found).rpartition(">")[2] if found else ""
    is_default = name == "linear" or (name == "tanh" and "recurrent_activation" in config)
    return "" if is_default else name


def _times(value: Any) -> str:
    """Return sizes as text: "3×3" for [3, 3]."""
    sizes = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return "×".join("?" if size is None else _number(size) for size in sizes)


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_all(value: Any, number: int) -> bool:
    return value == number or (
        isinstance(value, Sequence) and all(size == number for size in value)
    )


def _kernel(config: Mapping[str, Any]) -> str:
    kernel, filters = config.get("kernel_size"), config.get("filters")
    parts = [f"{_number(filters)} filters"] * _is_size(filters) + [_times(kernel)] * bool(kernel)
    return " ".join(parts)


def _pool(config: Mapping[str, Any]) -> str:
    return _times(config["pool_size"]) if config.get("pool_size") else ""


def _strides(config: Mapping[str, Any]) -> str:
    strides = config.get("strides")
    if not strides or (config.get("kernel_size") and _is_all(strides, 1)):
        return ""
    if strides == config.get("pool_size"):
        return ""
    sizes = {str(size) for size in strides} if isinstance(strides, Sequence) else {str(strides)}
    return f"stride {sizes.pop() if len(sizes) == 1 else _times(strides)}"


def _dilation(config: Mapping[str, Any]) -> str:
    dilation = config.get("dilation_rate")
    return f"dilation {_times(dilation)}" if dilation and not _is_all(dilation, 1) else ""


def _groups(config: Mapping[str, Any]) -> str:
    groups = config.get("groups")
    return f"{_number(groups)} groups" if _is_size(groups) and groups != 1 else ""


def _padding(config: Mapping[str, Any]) -> str:
    padding = config.get("padding")
    if isinstance(padding, str):
        return padding if padding != "valid" else ""
    sides = padding if padding is not None else config.get("cropping")
    if not isinstance(sides, Sequence):
        return ""
    name = "padding" if padding is not None else "cropping"
    pairs = [str(p[0]) if _is_pair(p) and p[0] == p[1] else _sides(p) for p in sides]
    return f"{name} {pairs[0] if len(set(pairs)) == 1 else '×'.join(pairs)}"


def _is_pair(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) == 2


def _sides(value: Any) -> str:
    return f"({'+'.join(map(str, value))})" if isinstance(value, Sequence) else str(value)


def _units(config: Mapping[str, Any]) -> str:
    shape = config.get("output_shape") if "equation" in config else None
    if shape is not None:  # of an EinsumDense
        sizes = shape if isinstance(shape, Sequence) else [shape]
        return " × ".join(_number(size) for size in sizes if size is not None)
    return f"{_number(config['units'])} units" if _is_size(config.get("units")) else ""


def _heads(config: Mapping[str, Any]) -> str:
    heads = config.get("num_heads", config.get("num_query_heads"))
    if not _is_size(heads):
        return ""
    few = config.get("num_key_value_heads")
    text = f"{_number(heads)} heads"
    if _is_size(few) and few != heads:
        text = f"{_number(heads)} query heads, {_number(few)} key-value heads"
    width = config.get("key_dim", config.get("head_dim"))
    return f"{text} × {_number(width)}" if _is_size(width) else text


def _table(config: Mapping[str, Any]) -> str:
    rows = next((config[k] for k in _ROWS if _is_size(config.get(k))), None)
    width = next((config[k] for k in _WIDTHS if _is_size(config.get(k))), None)
    return " × ".join(_number(size) for size in (rows, width) if size is not None)


_ROWS = ("input_dim", "vocabulary_size", "max_length", "sequence_length")
_WIDTHS = ("output_dim", "dim", "embedding_dim")


def _named(key: str, name: str, ignored: Any = 0) -> Callable[[Mapping[str, Any]], str]:
    def rule(config: Mapping[str, Any]) -> str:
        value = config.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or value == ignored:
            return ""
        return f"{name} {_number(value)}"

    return rule


def _other(
    key: str, before: str, ignored: Sequence[Any] = ()
) -> Callable[[Mapping[str, Any]], str]:
    def rule(config: Mapping[str, Any]) -> str:
        value = config.get(key)
        return f"{before}{_times(value)}" if value is not None and value not in ignored else ""

    return rule


_RULES: tuple[Callable[[Mapping[str, Any]], str], ...] = (
    _kernel,
    _pool,
    _strides,
    _dilation,
    _groups,
    _padding,
    _named("depth_multiplier", "multiplier", 1),
    _units,
    _heads,
    _table,
    _named("hidden_dim", "width"),
    _named("intermediate_dim", "inner"),
    _named("mlp_dim", "inner"),
    _other("patch_size", "patch "),
    _named("rate", "rate"),
    _named("stddev", "stddev"),
    _other("target_shape", ""),
    _other("size", "×"),
    _other("interpolation", "", ("nearest",)),
    _named("factor", "×"),
    _named("negative_slope", "slope"),
    _named("max_value", "at most"),
    _other("merge_mode", "", ("concat",)),
)


@once_per_graph
def _common_prefix(graph: Graph) -> str:
    """Return the prefix that nearly all names of layers start with, such as "convnext_tiny_"."""
    names = [
        node.name.rpartition(".")[2].rpartition("/")[2]
        for node in graph.nodes
        if node.kind in ("layer", "model") and node.has_own_name
    ]
    counts = Counter(
        name[: match.end()] for name in names for match in re.finditer(r"_(?=[A-Za-z])", name)
    )
    enough = max(_MOST_NAMES * len(names), _FEW_NAMES)
    frequent = [prefix for prefix, number in counts.items() if number >= enough]
    return max(frequent, key=len, default="")


@once_per_graph
def _namespaces(graph: Graph) -> dict[str, str]:
    return find_namespaces(graph)


@once_per_graph
def _calls_of_frames(graph: Graph) -> Counter[str]:
    """Return the number of frames for every shared model: name without the number of the call."""
    return Counter(_shared_name(frame) for frame in set(_all_frames(graph)))


def _all_frames(graph: Graph) -> list[str]:
    frames = [node.id for node in graph.nodes if node.kind == "group"]
    for namespace in _namespaces(graph).values():
        parts = namespace.split(".")
        frames += [".".join(parts[: end + 1]) for end in range(len(parts))] if namespace else []
    return frames


def _shared_name(namespace: str) -> str:
    return re.sub(r"@\d+(?=\.|$)", "", namespace)
