"""What the calls of a model cost: the plugins `parameters`, `flops` and `memory`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from plots.annotations import Note, Overlay, Quantity
from plots.axes import UNKNOWN, GraphAxes, axes_of
from plots.costs.flop_rules import MeasuredCall, count, flops_of
from plots.graph import Graph, bytes_of
from plots.registry import OptionError, graph_plugin

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
      holds only tensors that are still needed.

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
    for node in graph.nodes:
        tensors = ((t, axes.outputs[node.id, number]) for number, t in enumerate(node.outputs))
        each = (bytes_of(tensor.dtype) * count(found) for tensor, found in tensors)
        activations[node.id] = sum(each, Quantity())
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
    and KerasHub. A call without either that has weights, or is a layer of several floating-point
    inputs, gets a note of the kind "uncounted", and the title says "at least".

    Args:
        graph: The graph.
        sizes: Free sizes by letter, for shares and colours. Defaults are 1 for b, 224 for D, H and
            W, and for lengths the given t, else 1024.

    Raises:
        ValueError: if a letter is no free axis of the model, a size is no positive int, or the
            graph is folded.
    """
    graph.check_whole(_COUNT_FIRST)
    axes = axes_of(graph)
    counted: dict[str, Quantity] = {}
    uncounted: dict[tuple[str, str], list[str]] = {}
    for node in graph.nodes:
        if node.kind == "input":
            continue
        incoming = graph.incoming[node.id]
        inputs = {edge.port: axes.edges[edge.id] for edge in incoming}
        outputs = tuple(axes.outputs[node.id, number] for number in range(len(node.outputs)))
        floats = frozenset(edge.port for edge in incoming if "float" in edge.tensor.dtype)
        operations = flops_of(MeasuredCall(node, inputs, outputs, floats))
        if operations is None:
            uncounted.setdefault((node.kind, node.class_name), []).append(node.id)
        elif operations:
            counted[node.id] = operations
    incomplete = uncounted or any(UNKNOWN in quantity.letters for quantity in counted.values())
    title = "FLOPs, at least" if incomplete else "FLOPs"
    overlay = Overlay("flops", title, "FLOP", counted)
    notes = [_uncounted(*what, ids) for what, ids in uncounted.items()]
    graph = _with_overlays(graph, [overlay], _chosen_sizes(axes, sizes))
    others = [note for note in graph.notes if note.kind != "uncounted"]
    return replace(graph, notes=(*others, *notes))


def _uncounted(kind: str, class_name: str, ids: list[str]) -> Note:
    add_rule = "add a rule to plots.costs.flop_rules.FLOP_RULES"
    advice = {
        "model": "read the model with open_nested=True",
        "layer": "read the model with open_layers=True if it is made of layers, declare its "
        f"products in graph_declaration, or {add_rule}",
    }.get(kind, add_rule)
    return Note("uncounted", tuple(ids), f"FLOPs of {class_name} are not counted: {advice}")


def _chosen_sizes(axes: GraphAxes, sizes: Mapping[str, int] | None) -> dict[str, int]:
    """Return the size of every free letter.

    Raises:
        ValueError: if one is given for a letter that is not free, or is no positive int.
    """
    free = [letter for letter, size in axes.letters.items() if size is None]
    given = dict(sizes or {})
    for letter, size in given.items():
        if letter not in free:
            raise OptionError(
                f"sizes has {letter!r}, but free axes of this model are "
                f"{', '.join(map(repr, free)) or 'none'}"
            )
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise OptionError(f"the size of {letter!r} is {size!r}; it must be an int, 1 or more")
    length = given.get("t", DEFAULT_LENGTH)
    return {letter: DEFAULT_SIZES.get(letter, length) for letter in free} | given


def _with_overlays(graph: Graph, overlays: list[Overlay], sizes: Mapping[str, int]) -> Graph:
    """Return the graph with these overlays in the place of others with the same names.

    Adds the sum as the whole, if there is none, and the sizes of the letters in it.
    """
    names = {overlay.name for overlay in overlays}
    added = [overlay for overlay in graph.overlays if overlay.name not in names]
    for overlay in overlays:
        whole = overlay.whole or sum(overlay.values.values(), Quantity())
        chosen = {letter: size for letter, size in sizes.items() if letter in whole.letters}
        added.append(replace(overlay, whole=whole, sizes=chosen))
    return replace(graph, overlays=tuple(added))
