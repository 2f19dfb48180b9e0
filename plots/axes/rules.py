"""Rules that map axes of inputs to axes of outputs, from a declaration or the class of a layer.

A layer of yours declares its signature (see `plots.layers`). For classes that cannot,
`AXIS_RULES["TheirLayer"] = rule` adds a function that takes a `Call` and unites axes in
`call.axes`. Subclasses use the rule of their base class; see `unknown` for classes without one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from string import ascii_lowercase, ascii_uppercase
from typing import Any

from plots.axes.unions import AxisId, Call, CallWithAxes, SomeAxis
from plots.declarations import axis_labels, declared_tensors, product_labels
from plots.layers import (
    DOT_PRODUCT_ATTENTION,
    ClassRules,
    Declaration,
    is_reversed_embedding,
)

Rule = Callable[[Call], None]
Labels = Sequence[str]

AXIS_RULES = ClassRules[Rule]()
"""Class name -> rule."""

axis_rule = AXIS_RULES.register

TRANSFORMER_BLOCKS: set[str] = {
    "BloomDecoder",
    "FNetEncoder",
    "Gemma3DecoderBlock",
    "GemmaDecoderBlock",
    "GPTNeoXDecoder",
    "LlamaTransformerDecoder",
    "MistralTransformerDecoder",
    "T5TransformerLayer",
    "TransformerDecoder",
    "TransformerEncoder",
    "ViTEncoder",
}
"""Layers of KerasHub that are whole blocks around a residual stream."""


def follow(call: Call) -> None:
    """Unite the axes of a call, as its layer declares or by a rule of its class."""
    declaration = call.node.declaration
    try:
        if declaration is not None and declaration.outputs:
            follow_declaration(call, declaration)
        else:
            (AXIS_RULES.of(call.node) or unknown)(call)
    except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError):
        unknown(call)  # another class with a known name and other arguments


def follow_declaration(call: Call, declaration: Declaration) -> None:
    """Unite axes with the same letter of a declared signature.

    Letters of sizes vote for the letters of their axes, and t and s are lengths of an attention.
    """
    declared = declared_tensors(declaration, call.inputs, call.outputs)
    given = [(port, axis_labels(text, len(axes)), axes) for port, text, axes in declared]
    axes = _unite_declared(call, given)
    for letter, factors in declaration.products_of_sizes.items():
        if letter in axes:  # or it is of no tensor outside of the layer
            call.axes.derive_size(axes[letter], (1, tuple(axes[factor] for factor in factors)))
    for letter, usual in ("k", "n"), ("u", "h"):  # key/value heads, and the width of a value
        if letter in axes and usual in axes and call.size(axes[letter]) == call.size(axes[usual]):
            call.axes.unite(axes[letter], axes[usual])
    call.axes.roles += [(letter, axes[letter]) for letter in "dnkhfvDHW" if letter in axes]
    if "t" in axes and "s" in axes:
        call.axes.attends.append((axes["t"], axes["s"]))
    tensors = [{*labels} for port, labels, _ in given if port]
    for left, right, result in product_labels(declaration, axes):
        if {*right} not in tensors:
            _project(call, axes, left, right, result)
        elif {*left} not in tensors:
            _project(call, axes, right, left, result)
        else:
            _multiply(call, axes, left, right, result)
        tensors.append({*result})


def _unite_declared(
    call: Call, tensors: Sequence[tuple[str, Labels, tuple[AxisId, ...]]]
) -> dict[str, AxisId]:
    """Unite axes with the same letter, and return them by letter; see `declared_tensors`."""
    places: dict[str, list[AxisId]] = {"1": [call.axes.new(1)]}
    axes: dict[str, AxisId] = {}
    for port, labels, tensor in tensors:
        for label, axis in zip(labels, tensor, strict=True):
            if port:
                places.setdefault(label, []).append(axis)
                continue
            if label not in places and call.size(axis) is not None:
                call.weight_axis(f"declared {label}", axis)
            call.axes.broadcast(places.setdefault(label, []), axis)
            places[label] = [axes.setdefault(label, axis)]
    for label, given in places.items():
        if label not in axes:  # only of inputs
            wide = [axis for axis in given if call.size(axis) != 1] or given
            axes[label] = wide[0]
            call.axes.unite_all(wide, wide[1:])
    return axes


def _as_if_declared(declaration: Declaration, call: Call) -> None:
    """Follow the declaration of a class that cannot declare."""
    ports = {port: declaration.inputs[port] for port in call.inputs}  # KeyError: another class
    follow_declaration(call, replace(declaration, inputs=ports))


_MASKED_HEAD = Declaration({"inputs": "btd", "mask_positions": "bm"}, ("bmv",))
AXIS_RULES["DotProductAttention"] = partial(_as_if_declared, DOT_PRODUCT_ATTENTION)
AXIS_RULES["MaskedLMHead"] = partial(_as_if_declared, _MASKED_HEAD)


# Without a rule ---------------------------------------------------------------------------------


def unknown(call: Call) -> None:
    """Unite the axes that are likely the same in a call without a rule.

    An operation whose inputs broadcast to the shape of its output is elementwise; one with `axis`
    and `keepdims` is a reduction. Any other call keeps the axes of its first input that have the
    same size at the same place, if there are as many. A mask has the batch and the length of the
    tensor that it is named after.
    """
    if not call.inputs:
        return
    config = call.node.config
    if call.node.kind == "operation" and {"axis", "keepdims"} <= set(config):
        return reduced(call, config["axis"], bool(config["keepdims"]))
    if call.node.kind == "operation" and _broadcasts(call):
        return elementwise(call)
    for output in call.outputs:
        if len(output) == len(call.first):
            for a, b in zip(call.first, output, strict=True):
                # A free size may be 1, as that of positions that are the same in every row.
                if call.size(a) == call.size(b) or (call.size(a), call.size(b)) == (1, None):
                    call.axes.unite(a, b)
        elif output and call.first:
            call.axes.broadcast([call.first[0]], output[0])
    _masks(call)


def _broadcasts(call: Call) -> bool:
    ranks = [len(axes) for axes in call.inputs.values()]
    return max(ranks) == len(call.output) and all(
        call.size(a) in (1, None, call.size(b)) or call.size(b) is None
        for axes in call.inputs.values()
        for a, b in zip(reversed(axes), reversed(call.output), strict=False)
    )


def _masks(call: Call) -> None:
    """Unite the axes of masks with those of the inputs that their names begin with."""
    streams = {port: axes for port, axes in call.inputs.items() if "mask" not in port}
    for port, axes in call.inputs.items():
        if "mask" in port and len(axes) > 1:
            stem = port.partition("mask")[0].removesuffix("padding_").removesuffix("attention_")
            named = [axes for name, axes in streams.items() if stem and name.startswith(stem)]
            stream = named[0] if named else call.first
            call.axes.stretch(axes[0], stream[0])
            # The second axis is a length only in (b, t, d), and a free size is not a known one.
            if len(stream) == 3 and call.size(axes[-1]) == call.size(stream[1]):
                call.axes.stretch(axes[-1], stream[1])
    for port, axes in streams.items():
        if port.startswith("encoder") and len(axes) == len(call.first) == 3:
            call.axes.unite(axes[0], call.first[0])
            call.axes.attends.append((call.first[1], axes[1]))


@axis_rule("Add", "Average", "Maximum", "Minimum", "Multiply", "Softmax", "Subtract")
def elementwise(call: Call, inner: int = 0) -> None:
    """Unite inputs of any ranks with the output, aligned at the last, but not the `inner` last."""
    for output in call.outputs:
        for place in range(1 + inner, len(output) + 1):
            given = [axes[-place] for axes in call.inputs.values() if len(axes) >= place]
            if given:
                call.axes.broadcast(given, output[-place])


def reduced(call: Call, axis: Any, keepdims: bool) -> None:
    """Unite the axes that a reduction over `axis` keeps; None reduces all of them."""
    rank = len(call.first)
    listed = range(rank) if axis is None else [axis] if isinstance(axis, int) else axis
    gone = {place % rank for place in listed}
    kept = [(i, a) for i, a in enumerate(call.first) if keepdims or i not in gone]
    for output in call.outputs:
        for (i, a), b in zip(kept, output, strict=True):
            if i not in gone:
                call.axes.unite(a, b)


# Products with weights and with each other ------------------------------------------------------


Equation = tuple[str, list[tuple[SomeAxis, ...] | None]]
EQUATIONS = ClassRules[Callable[[CallWithAxes[Any]], Equation[Any]]]()
"""Class name -> function that returns the equation of a call."""


def equation_of(call: CallWithAxes[SomeAxis]) -> Equation[SomeAxis]:
    """Return the einsum equation of a product, and its operands; None for kernels and constants."""
    return (EQUATIONS.of(call.node) or _dense)(call)


@EQUATIONS.register("Dense")
def _dense(call: CallWithAxes[SomeAxis]) -> Equation[SomeAxis]:
    return "...d,df->...f", [call.first, None]


@EQUATIONS.register("EinsumDense")
def _einsum_dense(call: CallWithAxes[SomeAxis]) -> Equation[SomeAxis]:
    return call.node.config["equation"], [call.first, None]


@EQUATIONS.register("Einsum")
def _einsum(call: CallWithAxes[SomeAxis]) -> Equation[SomeAxis]:
    subscripts = call.node.config["subscripts"]
    operands = range(subscripts.split("->")[0].count(",") + 1)
    return subscripts, [call.inputs.get(str(place)) for place in operands]


@EQUATIONS.register("Dot")
def _dot_layer(call: CallWithAxes[SomeAxis]) -> Equation[SomeAxis]:
    left, right = call.inputs["inputs.0"], call.inputs["inputs.1"]
    axes = call.node.config["axes"]
    i, j = [axes, axes] if isinstance(axes, int) else axes
    given, other = [*ascii_lowercase[: len(left)]], [*ascii_uppercase[: len(right)]]
    other[0], other[j] = given[0], given[i]
    result = [label for label in [*given, *other[1:]] if label != given[i]]
    return f"{''.join(given)},{''.join(other)}->{''.join(result)}", [left, right]


@axis_rule(*EQUATIONS)
def _follow_equation(call: Call) -> None:
    """Unite axes with the same label, and note the product."""
    equation, operands = equation_of(call)
    labels, pairs = call.match(equation, operands)
    axes: dict[str, AxisId] = {}
    for label, axis in pairs:
        call.axes.unite(axes.setdefault(label, axis), axis)
    if None not in operands and len(operands) == 2:
        _multiply(call, axes, *labels)
    elif call.node.kind == "layer":
        _project(call, axes, *labels)


def _project(
    call: Call, axes: Mapping[str, AxisId], operand: Labels, kernel: Labels, result: Labels
) -> None:
    """Note a product with weights: a projection to one axis, or to those of heads."""
    for label in kernel:
        if label in axes:
            call.weight_axis(f"kernel {label}", axes[label])
    new = [axes[label] for label in result if label not in operand and label in axes]
    summed = [axes[label] for label in operand if label not in result and label in axes]
    if len(new) == 1 and len(summed) == 1:
        call.axes.projections.append((summed[0], new[0]))
    elif len(new) > 1:
        call.axes.splits.append(tuple(new))


def _multiply(
    call: Call, axes: Mapping[str, AxisId], left: Labels, right: Labels, result: Labels
) -> None:
    """Note a product of two tensors."""
    left, right = ([label for label in labels if label in axes] for labels in (left, right))
    both = tuple(axes[label] for label in left if label in right and label in result)
    summed = [axes[label] for label in left if label in right and label not in result]
    rows = [axes[label] for label in left if label not in right]
    columns = [axes[label] for label in right if label not in left]
    call.axes.products.append((both, (*summed, *rows, *columns)))


@axis_rule("Matmul")
def _matmul(call: Call) -> None:
    left, right = call.inputs.get("x1"), call.inputs.get("x2")
    given = [axes for axes in (left, right) if axes is not None]
    # A constant vector shows only in the rank of the output, which is one less.
    if any(len(axes) < 2 or len(axes) > len(call.output) for axes in given):
        raise ValueError("a vector in a product has no rule")
    elementwise(call, inner=2)
    if left is not None:
        call.axes.unite(left[-2], call.output[-2])
    if right is not None:
        call.axes.unite(right[-1], call.output[-1])
    if left is not None and right is not None:
        call.axes.unite(left[-1], right[-2])
        batch = {f"...{place}": axis for place, axis in enumerate(call.output[:-2])}
        axes = batch | {"i": left[-2], "j": left[-1], "k": right[-1]}
        _multiply(call, axes, [*batch, "i", "j"], [*batch, "j", "k"], [*batch, "i", "k"])


@axis_rule("Embedding", "TokenAndPositionEmbedding")
def _embedding(call: Call) -> None:
    if is_reversed_embedding(call.node):
        call.axes.unite_all(call.first[:-1], call.output[:-1])
        call.weight_axis("embeddings out", call.first[-1])
        call.axes.roles.append(("v", call.weight_axis("embeddings in", call.output[-1])))
        return
    call.axes.unite_all(call.first, call.output[:-1])
    call.weight_axis("embeddings out", call.output[-1])


@axis_rule("Bidirectional", "RNN")
def _recurrent(call: Call) -> None:
    inner = call.node.config.get("layer", {}).get("config", call.node.config)
    batch, length, _ = call.first
    for output in call.outputs:
        call.axes.unite(batch, output[0])
    if inner["return_sequences"]:
        call.axes.unite(length, call.output[1])
    for mask in (axes for port, axes in call.inputs.items() if port == "mask"):
        call.axes.unite_all(mask, (batch, length))
    call.weight_axis("units", call.output[-1])


@axis_rule("TimeDistributed")
def _time_distributed(call: Call) -> None:
    call.axes.unite_all(call.first[:2], call.output[:2])


# Attention, and whole blocks -------------------------------------------------------------------


@axis_rule("GroupedQueryAttention", "MultiHeadAttention")
def _attention_layer(call: Call) -> None:
    query, value = call.inputs["query"], call.inputs["value"]
    key = call.inputs.get("key", value)
    for other in (key, value):
        call.axes.unite(query[0], other[0])
    call.axes.unite_all(key[1:-1], value[1:-1])
    call.axes.unite_all(query[:-1], call.output[:-1])
    call.weight_axis("output out", call.output[-1])
    if len(query) == len(key) == 3:
        lengths = (query[1], key[1])
        for scores in call.outputs[1:2]:
            if len(scores) == 4:
                call.axes.unite_all((query[0], scores[1], *lengths), scores)
        _mask_of_attention(call, query[0], *lengths)


def _mask_of_attention(call: Call, b: AxisId, t: AxisId, s: AxisId) -> None:
    for port, axes in call.inputs.items():
        if port == "attention_mask" and len(axes) > 2:
            for given, axis in zip((axes[0], *axes[-2:]), (b, t, s), strict=True):
                call.axes.stretch(given, axis)
        elif port.endswith("mask") and len(axes) == 2:
            call.axes.unite_all(axes, (b, t if port == "query_mask" else s))


@axis_rule("AdditiveAttention", "Attention")
def _single_head(call: Call) -> None:
    query, value = call.inputs["inputs.0"], call.inputs["inputs.1"]
    key = call.inputs.get("inputs.2", value)
    call.axes.unite_all(key[:-1], value[:-1])
    call.axes.unite_all((query[0], query[-1]), (key[0], key[-1]))
    call.axes.unite_all(call.output, (*query[:-1], value[-1]))
    call.axes.products.append(((), (*query, *value, *key)))
    for port, length in (("mask.0", query[1]), ("mask.1", key[1])):
        if port in call.inputs:
            call.axes.unite_all(call.inputs[port], (query[0], length))


@axis_rule(*TRANSFORMER_BLOCKS)
def _block(call: Call) -> None:
    unknown(call)
    call.axes.roles.append(("d", call.output[-1]))
