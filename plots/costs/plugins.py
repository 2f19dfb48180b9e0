"""What the calls of a model cost: the plugins `parameters`, `flops` and `memory`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import plots.costs.flop_rules_of_attention  # noqa: F401 - registers its rules
from plots.annotations import Note, Overlay, Quantity, product_of, total_of
from plots.axes.shapes import UNKNOWN, Axes, axes_of
from plots.costs.flop_rules import MeasuredCall, count, flops_of
from plots.dtypes import bytes_of
from plots.graph import Graph, Node
from plots.registry import graph_plugin

DEFAULT_LENGTH = 1024
DEFAULT_SIZES = {"b": 1, "D": 224, "H": 224, "W": 224}
"""At which free sizes shares and colours are taken; other letters are lengths."""

_COUNT_FIRST = "count first, then fold"


@graph_plugin("parameters")
def parameters(graph: Graph) -> Graph:
    """Number of weights of every layer, and its share; of a shared one at its first call.

    A weight that several layers have is one of the layer that is called first.
    """
    values = {node.id: {"": node.parameters} for node in _owners(graph)}
    overlay = Overlay("parameters", "parameters", "", values, {"": graph.parameters})
    return _with_overlays(graph, [overlay])


@graph_plugin("memory")
def memory(graph: Graph, sizes: Mapping[str, int] | None = None) -> Graph:
    """Bytes of the weights of every layer, and of the activations that every call gives out.

    Two overlays, because they add up differently:

    * `weight_memory`: the weights, each in its own dtype, where `parameters` counts it. Gradients
      and what an optimizer keeps (of AdamW two numbers for each weight) are not counted.
    * `activation_memory`: every tensor that a call gives out, as a polynomial in the free sizes.
      The sum is what the backward pass of training may need; less where a framework recomputes,
      fuses, or gives out a view, more for what a call keeps inside (the scores of an attention that
      is one node). When nothing is trained, only what is still to be used is there at a time.

    Args:
        graph: The graph.
        sizes: As for `flops`.

    Raises:
        ValueError: as from `flops`.
    """
    graph.check_whole(_COUNT_FIRST)
    axes = axes_of(graph)
    weights = {node.id: {"": node.weight_bytes} for node in _owners(graph)}
    activations = {node.id: _bytes_given_out(node, axes) for node in graph.nodes}
    return _with_overlays(
        graph,
        [
            Overlay("weight_memory", "weights", "B", weights, total_of(weights.values())),
            _sized(
                Overlay("activation_memory", "activations", "B", activations),
                _chosen_sizes(axes, sizes),
            ),
        ],
    )


@graph_plugin("flops")
def flops(graph: Graph, sizes: Mapping[str, int] | None = None) -> Graph:
    """Floating-point operations of every call in one forward pass, as a function of free sizes.

    Counted are products of matrices and convolutions, two operations per multiplication and
    addition (Kaplan et al. 2020, section 2.1), and nothing that works element by element;
    `plots.costs.flop_rules` has the rules by class. Training takes about three times as many. A
    call of a class without a rule that has weights, or is a layer that takes several tensors of
    floats, gets a note of the kind "uncounted", and the title says that the numbers are at least
    that large.

    Args:
        graph: The graph.
        sizes: Sizes of free axes, by letter, at which shares and colours are taken. What is not
            there is 1 for b, 224 for D, H and W, and for lengths the t that is given, else 1024.

    Raises:
        ValueError: if a letter is none of a free axis of the model, a size is no positive int, or
            the graph is folded already.
    """
    graph.check_whole(_COUNT_FIRST)
    axes = axes_of(graph)
    counted: dict[str, Quantity] = {}
    uncounted: dict[tuple[str, str], list[str]] = {}
    for node in graph.nodes:
        if node.kind == "input":
            continue
        operations = flops_of(_measured(graph, node, axes))
        if operations is None:
            uncounted.setdefault((node.kind, node.class_name), []).append(node.id)
        elif operations:
            counted[node.id] = operations
    incomplete = uncounted or any(UNKNOWN in m.split() for q in counted.values() for m in q)
    title = "FLOPs, at least" if incomplete else "FLOPs"
    overlay = Overlay("flops", title, "FLOP", counted)
    notes = [_uncounted(*what, ids) for what, ids in uncounted.items()]
    graph = _with_overlays(graph, [_sized(overlay, _chosen_sizes(axes, sizes))])
    others = [note for note in graph.notes if note.kind != "uncounted"]
    return replace(graph, notes=(*others, *notes))


def _measured(graph: Graph, node: Node, axes: Axes) -> MeasuredCall:
    incoming = graph.incoming[node.id]
    inputs = {edge.port: axes.edges[edge.id] for edge in incoming}
    outputs = tuple(axes.outputs[node.id, number] for number in range(len(node.outputs)))
    floats = frozenset(edge.port for edge in incoming if "float" in edge.tensor.dtype)
    return MeasuredCall(node, inputs, outputs, floats)


def _uncounted(kind: str, class_name: str, ids: list[str]) -> Note:
    advice = {
        "model": "read the model with open_nested=True",
        "layer": "read the model with open_layers=True if it is made of layers, or add a rule to "
        "plots.costs.flop_rules.FLOP_RULES",
    }.get(kind, "add a rule to plots.costs.flop_rules.FLOP_RULES")
    return Note("uncounted", tuple(ids), f"FLOPs of {class_name} are not counted: {advice}")


def _owners(graph: Graph) -> Iterable[Node]:
    return (node for node in graph.nodes if node.owns_weights)


def _bytes_given_out(node: Node, axes: Axes) -> Quantity:
    return total_of(
        product_of({"": bytes_of(tensor.dtype)}, count(axes.outputs[node.id, number]))
        for number, tensor in enumerate(node.outputs)
    )


def _chosen_sizes(axes: Axes, sizes: Mapping[str, int] | None) -> dict[str, int]:
    """The size of every free letter.

    Raises:
        ValueError: if one is given for a letter that is not free, or is no positive int.
    """
    free = [letter for letter, size in axes.letters.items() if size is None]
    given = dict(sizes or {})
    for letter, size in given.items():
        if letter not in free:
            raise ValueError(
                f"sizes has {letter!r}, but free axes of this model are "
                f"{', '.join(map(repr, free)) or 'none'}"
            )
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"the size of {letter!r} is {size!r}; it must be an int, 1 or more")
    length = given.get("t", DEFAULT_LENGTH)
    return {letter: DEFAULT_SIZES.get(letter, length) for letter in free} | given


def _sized(overlay: Overlay, sizes: Mapping[str, int]) -> Overlay:
    """The overlay with its sum as the whole, and the sizes of the letters in it."""
    whole = total_of(overlay.values.values())
    letters = {letter for monomial in whole for letter in monomial.split()}
    return replace(
        overlay, whole=whole, sizes={a: size for a, size in sizes.items() if a in letters}
    )


def _with_overlays(graph: Graph, overlays: list[Overlay]) -> Graph:
    """The graph with these overlays in the place of those with the same names."""
    names = {overlay.name for overlay in overlays}
    kept = [overlay for overlay in graph.overlays if overlay.name not in names]
    return replace(graph, overlays=(*kept, *overlays))
