"""Costs of the calls of a model: the plugins `parameters`, `flops` and `memory`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from plots.annotations import Note, Overlay, Quantity
from plots.axes import UNKNOWN, Axis, GraphAxes, axes_of
from plots.costs import (  # noqa: F401 - they register their rules
    attention_rules,
    product_rules,
    recurrent_rules,
)
from plots.costs.flop_rules import MeasuredCall, count, flops_of
from plots.graph import Graph, Node, Tensor, bytes_of
from plots.registry import graph_plugin

LARGEST_SIZE = 2**63 - 1
"""Of an axis: backends count the elements of a tensor as int64."""

DEFAULT_LENGTH = 1024
DEFAULT_SIZES = {"b": 1, "D": 224, "H": 224, "W": 224}
"""Free sizes for shares and colours; all other letters are lengths."""

_COUNT_FIRST = "count first, then fold"


@graph_plugin("parameters")
def parameters(graph: Graph) -> Graph:
    """Number of weights of every layer, and its share; of a shared one at its first call.

    Weights of several layers count at the layer that is called first.
    """
    values = {node.id: Quantity(node.parameters) for node in graph.nodes if node.owns_weights}
    overlay = Overlay("parameters", "parameters", "", values, Quantity(graph.parameters))
    return _with_overlays(graph, [overlay], {})


@graph_plugin("memory")
def memory(graph: Graph, sizes: Mapping[str, int] | None = None) -> Graph:
    """Bytes of the weights of every layer, and of the activations that every call returns.

    Two overlays, because they add up differently:

    * `weight_memory`: the weights, each in its own dtype, at the call where `parameters` counts
      them. Gradients and the state of an optimizer (two numbers per weight for AdamW) are not
      counted.
    * `activation_memory`: every tensor that a call returns, as a polynomial in the free sizes. The
      backward pass may need their sum; less where a framework recomputes, fuses or returns a view,
      more where a call keeps tensors inside (the scores of an attention in one node). Inference
      holds only tensors that are still needed. Tensors inside a closed model or composite layer,
      and those of text, are not counted, so that the sum is "at least".

    Args:
        graph: The graph.
        sizes: As for `flops`.

    Raises:
        ValueError: as from `flops`.
    """
    graph.check_whole(_COUNT_FIRST)
    axes = axes_of(graph)
    weights = {node.id: Quantity(node.weight_bytes) for node in graph.nodes if node.owns_weights}
    activations = {}
    for node in graph.calls:
        tensors = ((t, axes.outputs[node.id, number]) for number, t in enumerate(node.outputs))
        returned = sum((_bytes(tensor, found) for tensor, found in tensors), Quantity())
        inside = [node.class_name] if node.opens_with or node.kind == "model" else []
        activations[node.id] = returned.without(*(f"calls inside {name}" for name in inside))
    overlays = [
        Overlay("weight_memory", "weights", "B", weights),
        Overlay("activation_memory", "activations", "B", activations),
    ]
    return _with_overlays(graph, overlays, _chosen_sizes(axes, sizes))


@graph_plugin("flops")
def flops(graph: Graph, sizes: Mapping[str, int] | None = None) -> Graph:
    """Floating-point operations of every call in one forward pass, as a function of free sizes.

    Counts matrix products and convolutions, 2 FLOPs per multiply-add (Kaplan et al. 2020, section
    2.1), and no elementwise operations. Training takes about three times as many. Layers declare
    their products (see `plots.layers`); `plots.costs.flop_rules` has rules for those of Keras
    and KerasHub. Other calls, such as a layer of your own, get a note of the kind "uncounted";
    their FLOPs and all totals with them are "at least".

    Args:
        graph: The graph.
        sizes: Free sizes by letter, for shares and colours. Defaults are 1 for b, 224 for D, H and
            W, and for lengths the given t, else 1024.

    Raises:
        ValueError: if a letter is not a free axis of the model, a size is not a positive int, or
            the graph is folded.
    """
    graph.check_whole(_COUNT_FIRST)
    axes = axes_of(graph)
    counted: dict[str, Quantity] = {}
    uncounted: dict[tuple[str, str, str], list[str]] = {}
    for node in graph.calls:
        if node.kind == "input":
            continue
        incoming = graph.incoming[node.id]
        inputs = {edge.port: axes.edges[edge.id] for edge in incoming}
        outputs = tuple(axes.outputs[node.id, number] for number in range(len(node.outputs)))
        tensors = (*(edge.tensor for edge in incoming), *node.outputs)
        has_floats = any("float" in tensor.dtype for tensor in tensors)
        operations = flops_of(MeasuredCall(node, inputs, outputs, has_floats))
        for part in sorted(operations.missing):
            uncounted.setdefault((node.class_name, part, _advice(node)), []).append(node.id)
        if operations:
            counted[node.id] = operations
    overlay = Overlay("flops", "FLOPs", "FLOP", counted)
    notes = [_uncounted(*what, ids) for what, ids in uncounted.items()]
    graph = _with_overlays(graph, [overlay], _chosen_sizes(axes, sizes))
    others = [note for note in graph.notes if note.kind != "uncounted"]
    return replace(graph, notes=(*others, *notes))


def _uncounted(class_name: str, part: str, advice: str, ids: list[str]) -> Note:
    if part == class_name:
        text = f"FLOPs of {class_name} are not counted: {advice}"
    elif part.startswith("activation "):
        text = f"FLOPs of {class_name} are counted without its {part}, which is not registered"
    elif not part.startswith("parts of "):
        text = f"FLOPs of {class_name} are counted without its {part}, which no rule counts"
    else:
        text = (
            f"FLOPs of {class_name} are counted in part: it has weights that its rule does not "
            "know, such as those of LoRA in a layer inside"
        )
    return Note("uncounted", tuple(ids), text)


_CALLS_A_FUNCTION = frozenset(
    """
    AssociativeScan Cond ForiLoop JVP Lambda Map Scan Switch VectorizedMap WhileLoop
    """.split()  # noqa: SIM905
)


def _advice(node: Node) -> str:
    """Return how the FLOPs of a call without a rule can be counted."""
    opens = f"read the model with {node.opens_with}=True" if node.opens_with else ""
    if node.kind == "model" and opens:
        return opens
    if node.class_name in _CALLS_A_FUNCTION:
        return "it calls a function, whose operations are not in the graph"
    ways = [f"{opens}, if its call runs on symbolic tensors"] if opens else []
    ways += ["declare its products in graph_declaration"] if node.kind == "layer" else []
    return ", or ".join([*ways, "add a rule to plots.costs.flop_rules.FLOP_RULES"])


def _bytes(tensor: Tensor, axes: Iterable[Axis]) -> Quantity:
    """Return the bytes of a tensor; those of text are unknown."""
    if tensor.dtype == "string":
        return Quantity(missing=["text"])
    return bytes_of(tensor.dtype) * count(axes)


def _chosen_sizes(axes: GraphAxes, sizes: Mapping[str, int] | None) -> dict[str, int]:
    """Return the size of every free letter.

    Raises:
        ValueError: if one is given for a letter that is not free, or is not a positive int.
    """
    free = [letter for letter, size in axes.letters.items() if size is None]
    if not isinstance(sizes, Mapping | None):
        raise ValueError(f"sizes is {sizes!r}; it must be letters with their sizes, such as t=128")
    given = dict(sizes or {})
    for letter, size in given.items():
        if letter not in free:
            raise ValueError(
                f"sizes has {letter!r}, but free axes of this model are "
                f"{', '.join(map(repr, free)) or 'none'}"
            )
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"the size of {letter!r} is {size!r}; it must be an int, 1 or more")
        if size > LARGEST_SIZE:
            raise ValueError(f"the size of {letter!r} must be at most {LARGEST_SIZE:,}")
    length = given.get("t", DEFAULT_LENGTH)
    return {letter: DEFAULT_SIZES.get(letter, length) for letter in free} | given


def _with_overlays(graph: Graph, overlays: list[Overlay], sizes: Mapping[str, int]) -> Graph:
    """Return the graph with these overlays in the place of others with the same names.

    Adds the sum as the whole, if there is none, and the sizes of the letters in it.
    """
    names = {overlay.name for overlay in overlays}
    added = [overlay for overlay in graph.overlays if overlay.name not in names]
    for overlay in overlays:
        values = {place: _bounded(value) for place, value in overlay.values.items()}
        whole = overlay.whole or sum(values.values(), Quantity())
        chosen = {letter: size for letter, size in sizes.items() if letter in whole.letters}
        title = f"{overlay.title}, at least" if whole.missing else overlay.title
        added.append(replace(overlay, title=title, whole=whole, values=values, sizes=chosen))
    return replace(graph, overlays=tuple(added))


def _bounded(quantity: Quantity) -> Quantity:
    """Return a quantity as a lower bound if it has sizes that nothing is known of."""
    return quantity.without("unknown sizes") if UNKNOWN in quantity.letters else quantity
