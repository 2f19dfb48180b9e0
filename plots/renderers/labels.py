"""The words on the box of a call and on the frame around a block, for all renderers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from plots.graph import Graph, Node
from plots.hierarchy import find_namespaces
from plots.renderers import constant_text
from plots.traversal import once_per_graph

Config = Mapping[str, Any]

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


def details_of(
    node: Node, graph: Graph, with_activation: bool = True, with_operands: bool = True
) -> str:
    """Return the numbers that matter in the configuration of a layer: "64 × 3×3, stride 2, same".

    Known keys of a configuration are read, whatever the class, so layers of other packages have
    details as well. Defaults of Keras are left out, and numbers that differ between the blocks that
    a folded one stands for: a note says their range.
    """
    if node.kind not in ("layer", "operation"):
        return ""
    inner = _wrapped(node.config)
    varying = _varying(node, graph)
    given = inner[1] if inner else node.config
    config = {key: value for key, value in given.items() if key not in varying}
    parts = [rule(config) for rule in _RULES]
    parts += [operand_of(node, graph)] if with_operands else []
    parts += [_activation(config)] if with_activation else []
    merged = node.config.get("merge_mode", "concat")
    parts += [str(merged)] if merged not in ("concat", None) else []
    return ", ".join(part for part in parts if part)


def operand_of(node: Node, graph: Graph) -> str:
    """Return the constant operand of an operation with its sign: "× 0.5", "2 − x"; or ""."""
    sign = _SIGNS.get(node.class_name, "") if node.kind == "operation" else ""
    ports = {"x1", "x2"} - _varying(node, graph)
    constant = next((c for c in node.constants if c.port in ports), None)
    if not sign or constant is None:
        return ""
    value = constant.value
    has_number = isinstance(value, int | float) and not isinstance(value, bool)
    text = _number(value) if has_number else constant_text(constant)
    return f"{text} {sign} x" if constant.port == "x1" and sign in "−/" else f"{sign} {text}"


_SIGNS = {
    "Add": "+",
    "Divide": "/",
    "Maximum": "at least",
    "Minimum": "at most",
    "Multiply": "×",
    "Subtract": "−",
    "TrueDivide": "/",
}
"""Operation of two operands -> its sign, or words before a constant operand."""


def _varying(node: Node, graph: Graph) -> set[str]:
    """Return the numbers that differ between the blocks that a folded one stands for."""
    notes = graph.notes_about.get(node.id, ())
    texts = (note.text.split("; ") for note in notes if note.kind == "varies")
    return {words.partition(" ")[0] for text in texts for words in text}


def _wrapped(config: Config) -> tuple[str, dict[str, Any]] | None:
    """Return class and configuration of the layer that a layer wraps, such as `Bidirectional`."""
    inner = config.get("layer", config.get("cell"))
    if not isinstance(inner, Mapping) or not isinstance(inner.get("config"), Mapping):
        return None
    return str(inner.get("class_name", "")).rpartition(">")[2], dict(inner["config"])


def _activation(config: Config) -> str:
    """Return the activation of a layer, without "linear", and without that of an RNN by default."""
    found = config.get("activation")
    if isinstance(found, Mapping):
        inner = found.get("config")
        found = inner if isinstance(inner, str) else found.get("class_name")
    name = str(found).rpartition(">")[2] if found else ""
    is_default = name == "linear" or (name == "tanh" and "recurrent_activation" in config)
    return "" if is_default else name


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _counted(number: int, noun: str) -> str:
    return f"{_number(number)} {noun}{'s' * (number != 1)}"


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _sizes(value: Any) -> str:
    """Return sizes as text, "3×3" for [3, 3]; an empty text for everything else."""
    sizes = [value] if _is_size(value) else value
    if not isinstance(sizes, list | tuple) or not all(n is None or _is_size(n) for n in sizes):
        return ""
    return "×".join("?" if size is None else _number(size) for size in sizes)


def _same(text: str) -> str:
    """Return "2" for "2×2", and other sizes unchanged."""
    return text.partition("×")[0] if len(set(text.split("×"))) == 1 else text


def _window(config: Config) -> str:
    """Return filters and kernel of a convolution, or the window of a pooling layer."""
    filters, kernel = config.get("filters"), _sizes(config.get("kernel_size"))
    pool = _sizes(config.get("pool_size"))
    parts = [_counted(filters, "filter")] if isinstance(filters, int) else []
    parts += [kernel if "×" in kernel else f"kernel {kernel}"] if kernel else []
    parts += [pool if "×" in pool else f"pool {pool}"] if pool else []
    return " ".join(parts)


def _strides(config: Config) -> str:
    strides, window = _sizes(config.get("strides")), _sizes(config.get("pool_size"))
    is_default = strides == window if window else _same(strides) == "1"
    return "" if is_default or not strides else f"stride {_same(strides)}"


def _dilation(config: Config) -> str:
    dilation = _sizes(config.get("dilation_rate"))
    return f"dilation {_same(dilation)}" if dilation and _same(dilation) != "1" else ""


def _padding(config: Config) -> str:
    """Return the padding or cropping of a layer, unless it is "valid"."""
    padding = config.get("padding")
    if isinstance(padding, str):
        return "" if padding == "valid" else padding
    name = "padding" if padding is not None else "cropping"
    sides = config.get(name)
    if isinstance(sides, list | tuple) and any(isinstance(side, list | tuple) for side in sides):
        texts = [_same(_sizes(side)).replace("×", "+") for side in sides]
    else:
        texts = [_same(_sizes(sides)).replace("×", "+")]
    if not all(texts):
        return ""
    return f"{name} {texts[0] if len(set(texts)) == 1 else ' × '.join(texts)}"


def _units(config: Config) -> str:
    if "equation" in config:  # of an EinsumDense
        return _sizes(config.get("output_shape")).removeprefix("?×").replace("×", " × ")
    return _counted(config["units"], "unit") if _is_size(config.get("units")) else ""


def _experts(config: Config) -> str:
    experts, top = config.get("num_experts", config.get("experts")), config.get("top_k")
    texts = [_counted(experts, "expert")] if _is_size(experts) else []
    if top is not None and _is_size(top):
        texts.append(f"top {_number(top)}")
    return ", ".join(texts)


def _heads(config: Config) -> str:
    heads = config.get("num_heads", config.get("num_query_heads"))
    if not _is_size(heads):
        return ""
    few = config.get("num_key_value_heads")
    text = _counted(heads, "head")
    if _is_size(few) and few != heads:
        text = f"{_number(heads)} query heads, {_sizes(few)} key-value heads"
    width = config.get("key_dim", config.get("head_dim"))
    return f"{text} × {_sizes(width)}" if _is_size(width) else text


def _table(config: Config) -> str:
    """Return rows and columns of the table of an embedding."""
    rows, columns = (
        next((config[key] for key in keys if _is_size(config.get(key))), None)
        for keys in (("input_dim", "vocabulary_size", "max_length"), ("output_dim", "dim"))
    )
    return f"{_sizes(rows)} × {_sizes(columns)}" if rows is not None and columns else ""


def _resampling(config: Config) -> str:
    size, method = _sizes(config.get("size")), config.get("interpolation")
    if not size:
        return ""
    return f"× {size}" + (f", {method}" if isinstance(method, str) and method != "nearest" else "")


def _shape(config: Config) -> str:
    shape = config.get("target_shape")
    return _sizes(shape).replace("-1", "?") if isinstance(shape, list | tuple) else ""


def _word(key: str) -> Callable[[Config], str]:
    """Return a rule for a number with one word before it; its default is left out."""
    default = 1 if key in ("groups", "depth_multiplier", "scale") else 0

    def rule(config: Config) -> str:
        value = config.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or value == default:
            return ""
        return f"{_WORDS[key]} {_number(value)}"

    return rule


_WORDS = {
    "groups": "groups",
    "depth_multiplier": "multiplier",
    "hidden_dim": "width",
    "intermediate_dim": "inner",
    "mlp_dim": "inner",
    "rate": "rate",
    "stddev": "stddev",
    "factor": "×",
    "scale": "×",
    "offset": "+",
    "negative_slope": "slope",
    "max_value": "at most",
    "n": "×",
}
"""Key of a configuration -> the word before its number."""

_RULES: tuple[Callable[[Config], str], ...] = (
    _window,
    _strides,
    _dilation,
    _padding,
    _experts,
    _units,
    _heads,
    _table,
    _resampling,
    _shape,
    *map(_word, _WORDS),
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
