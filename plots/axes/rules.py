"""How the axes of what calls take become the axes of what they give out, by class.

A class that derives from one of these counts as well; for a class without a rule see `unknown`.
Add your own: `plots.axes.rules.AXIS_RULES["MyLayer"] = rule`, a function that takes a `Call` and
says in `call.axes` which axes are the same; a layer of yours declares it (see `plots.declaration`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from plots.axes.unions import AxisId, Call
from plots.declaration import (
    Declaration,
    Equation,
    axis_labels,
    parse_equation,
    product_labels,
)
from plots.operation_kinds import is_reversed_embedding

Rule = Callable[[Call], None]
Labels = Sequence[str]

AXIS_RULES: dict[str, Rule] = {}
"""Class name -> rule."""


def follow(call: Call) -> None:
    """Unite the axes of a call, as its layer declares or by a rule of its class."""
    declaration, names = call.node.declaration, (call.node.class_name, *call.node.bases)
    try:
        if declaration is not None and declaration.outputs:
            return follow_declaration(call, declaration)
        for rule in (AXIS_RULES[name] for name in names if name in AXIS_RULES):
            return rule(call)
    except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError):
        pass  # a foreign class with a name that is known here, but with other arguments
    unknown(call)


def axis_rule(*class_names: str) -> Callable[[Rule], Rule]:
    """Decorator that makes a function the rule of these classes."""

    def register(rule: Rule) -> Rule:
        AXIS_RULES.update(dict.fromkeys(class_names, rule))
        return rule

    return register


# Declared ---------------------------------------------------------------------------------------


def follow_declaration(call: Call, declaration: Declaration) -> None:
    """Unite axes with the same letter of a declared signature, and note what the letters mean.

    Letters of sizes (d, n, k, h, f, v, D, H, W) vote for the letters of their axes, and t and s are
    lengths that attend to each other. Its products are those of `_note_product`.
    """
    axes = _unite_declared(call, declaration)
    if "n" in axes and "k" in axes and call.size(axes["n"]) == call.size(axes["k"]):
        call.axes.same(axes["n"], axes["k"])
    call.axes.roles += [(letter, axes[letter]) for letter in "dnkhfvDHW" if letter in axes]
    if "t" in axes and "s" in axes:
        call.axes.attends.append((axes["t"], axes["s"]))
    tensors = [set(axes_text) for axes_text in declaration.inputs.values()]
    covered = sum(label.startswith("...") for label in axes)
    for left, right, result in product_labels(declaration, covered):
        for operand, kernel in ((left, right), (right, left)):
            if {*kernel} - {"."} not in tensors:
                _project(call, axes, operand, kernel, result)
                break
        else:
            _multiply(call, axes, left, right, result)
        tensors.append({*result})


def _unite_declared(call: Call, declaration: Declaration) -> dict[str, AxisId]:
    """Unite axes with the same letter, and return them by letter."""
    places: dict[str, list[AxisId]] = {"1": [call.axes.new(1)]}
    for port, text in declaration.inputs.items():
        operand = call.inputs.get(port, ())
        labels = axis_labels(text, len(operand)) if port in call.inputs else ()
        for label, axis in zip(labels, operand, strict=True):
            places.setdefault(label, []).append(axis)
    axes: dict[str, AxisId] = {}
    for text, output in zip(declaration.outputs, call.outputs, strict=True):
        for label, axis in zip(axis_labels(text, len(output)), output, strict=True):
            if label not in places and call.size(axis) is not None:
                call.weight_axis(f"declared {label}", axis)
            call.axes.broadcast(places.setdefault(label, []), axis)
            places[label] = [axes.setdefault(label, axis)]
    for label, given in places.items():
        if label not in axes:  # only of arguments
            wide = [axis for axis in given if call.size(axis) != 1] or given
            axes[label] = wide[0]
            call.axes.all_same(wide, wide[1:])
    return axes


# Without a rule ---------------------------------------------------------------------------------


def unknown(call: Call) -> None:
    """What is likely of a class without a rule.

    An operation whose output has the shape that its inputs broadcast to works element by element;
    one with `axis` and `keepdims` sums over axes, or the like. Of all else the first input keeps
    the axes that are of the same size at the same place, if there are as many; a mask has the batch
    and the length of what it is named after.
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
                # Free may mean of size 1: of positions that are the same for every row.
                if call.size(a) == call.size(b) or (call.size(a), call.size(b)) == (1, None):
                    call.axes.same(a, b)
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
    """Masks have the length of the sequence that they are named after: "encoder_padding_mask"."""
    streams = {port: axes for port, axes in call.inputs.items() if "mask" not in port}
    for port, axes in call.inputs.items():
        if "mask" in port and len(axes) > 1:
            stem = port.partition("mask")[0].removesuffix("padding_").removesuffix("attention_")
            named = [axes for name, axes in streams.items() if stem and name.startswith(stem)]
            stream = named[0] if named else call.first
            call.axes.stretch(axes[0], stream[0])
            # Only of (b, t, d) the second axis is a length, and a free size is no known one.
            if len(stream) == 3 and call.size(axes[-1]) == call.size(stream[1]):
                call.axes.stretch(axes[-1], stream[1])
    for port, axes in streams.items():
        if port.startswith("encoder") and len(axes) == len(call.first) == 3:
            call.axes.same(axes[0], call.first[0])
            call.axes.attends.append((call.first[1], axes[1]))


# Element by element, and sums over axes ---------------------------------------------------------


@axis_rule("Add", "Average", "Maximum", "Minimum", "Multiply", "Softmax", "Subtract")
def elementwise(call: Call) -> None:
    """Inputs of any ranks, broadcast to the output from their last axes on."""
    for output in call.outputs:
        for place in range(1, len(output) + 1):
            given = [axes[-place] for axes in call.inputs.values() if len(axes) >= place]
            if given:
                call.axes.broadcast(given, output[-place])


def reduced(call: Call, axis: Any, keepdims: bool) -> None:
    """A sum over some axes, or the like; all axes if `axis` is None."""
    rank = len(call.first)
    listed = range(rank) if axis is None else [axis] if isinstance(axis, int) else axis
    gone = {place % rank for place in listed}
    kept = [(i, a) for i, a in enumerate(call.first) if keepdims or i not in gone]
    for output in call.outputs:
        for (i, a), b in zip(kept, output, strict=True):
            if i not in gone:
                call.axes.same(a, b)


# Products with weights and with each other ------------------------------------------------------


@axis_rule("Dense")
def _dense(call: Call) -> None:
    call.axes.all_same(call.first[:-1], call.output[:-1])
    _projects(call, call.first[-1], call.output[-1])


def _projects(call: Call, given: AxisId, result: AxisId) -> None:
    call.weight_axis("kernel in", given)
    call.weight_axis("kernel out", result)
    call.axes.projections.append((given, result))


@axis_rule("EinsumDense")
def _einsum_dense(call: Call) -> None:
    ranks = [len(call.first), None]
    equation = parse_equation(call.node.config["equation"], ranks, len(call.output))
    (given, kernel), result = equation
    axes = _unite(call, equation, [call.first, None])
    _project(call, axes, given, kernel, result)


def _project(
    call: Call, axes: Mapping[str, AxisId], operand: Labels, kernel: Labels, result: Labels
) -> None:
    """Note a product of a tensor with weights: a projection, or one to the axes of heads."""
    for label in kernel:
        if label in axes:
            call.weight_axis(f"kernel {label}", axes[label])
    new = [axes[label] for label in result if label not in operand and label in axes]
    summed = [axes[label] for label in operand if label not in result and label in axes]
    if len(new) == 1 and len(summed) == 1:
        call.axes.projections.append((summed[0], new[0]))
    elif len(new) > 1:
        call.axes.splits.append(tuple(new))


@axis_rule("Einsum")
def _einsum(call: Call) -> None:
    ports = call.node.config["subscripts"].split("->")[0].split(",")
    operands = [call.inputs.get(str(number)) for number in range(len(ports))]
    equation = parse_equation(
        call.node.config["subscripts"],
        [None if axes is None else len(axes) for axes in operands],
        len(call.output),
    )
    axes = _unite(call, equation, operands)
    if len(operands) == 2 and None not in operands:
        (left, right), result = equation
        _multiply(call, axes, left, right, result)


def _multiply(
    call: Call, axes: Mapping[str, AxisId], left: Labels, right: Labels, result: Labels
) -> None:
    """Note a product of two tensors."""
    left, right = ([label for label in labels if label in axes] for labels in (left, right))
    both = [axes[label] for label in left if label in right and label in result]
    summed = [axes[label] for label in left if label in right and label not in result]
    rows = [axes[label] for label in left if label not in right]
    columns = [axes[label] for label in right if label not in left]
    _multiplied(call, both, summed, rows, columns)


def _unite(
    call: Call, equation: Equation, operands: list[tuple[AxisId, ...] | None]
) -> dict[str, AxisId]:
    """Make axes with the same letter of an equation one, and give them back by letter."""
    axes: dict[str, AxisId] = {}
    given, result = equation
    for labels, operand in zip([*given, result], [*operands, call.output], strict=True):
        for label, axis in zip(labels, operand, strict=True) if operand is not None else ():
            call.axes.same(axes.setdefault(label, axis), axis)
    return axes


def _multiplied(
    call: Call,
    both: list[AxisId],
    summed: list[AxisId],
    rows: list[AxisId],
    columns: list[AxisId],
) -> None:
    """Note down a product of two tensors; one over the width of heads makes attention scores."""
    call.axes.multiplied += [*both, *summed, *rows, *columns]
    call.axes.products.append((tuple(both), (*summed, *rows, *columns)))
    heads = {(a, b) for split in call.axes.splits for a in split for b in split if a != b}
    found = {(call.axes.find(a), call.axes.find(b)) for a, b in heads}
    if any((call.axes.find(a), call.axes.find(b)) in found for a in both for b in summed):
        call.axes.attends += [(t, s) for t in rows for s in columns]


@axis_rule("Matmul")
def _matmul(call: Call) -> None:
    left, right = call.inputs.get("x1"), call.inputs.get("x2")
    given = [axes for axes in (left, right) if axes is not None]
    # Of a constant only the output tells that it is a vector: it has an axis less.
    if any(len(axes) < 2 or len(axes) > len(call.output) for axes in given):
        raise ValueError("a vector in a product has no rule")
    batch = [axes[:-2] for axes in given]
    for place in range(1, len(call.output) - 1):
        here = [axes[-place] for axes in batch if len(axes) >= place]
        if here:
            call.axes.broadcast(here, call.output[-2 - place])
    if left is not None:
        call.axes.same(left[-2], call.output[-2])
    if right is not None:
        call.axes.same(right[-1], call.output[-1])
    if left is not None and right is not None:
        call.axes.same(left[-1], right[-2])
        _multiplied(call, list(call.output[:-2]), [left[-1]], [left[-2]], [right[-1]])


@axis_rule("Dot")
def _dot_layer(call: Call) -> None:
    left, right = (call.inputs[f"inputs.{number}"] for number in range(2))
    axes = call.node.config["axes"]
    i, j = [axes, axes] if isinstance(axes, int) else axes
    i, j = i % len(left), j % len(right)
    call.axes.same(left[i], right[j])
    rows = [axis for place, axis in enumerate(left) if place not in (0, i)]
    columns = [axis for place, axis in enumerate(right) if place not in (0, j)]
    call.axes.all_same([left[0], *rows, *columns], call.output)
    _multiplied(call, [left[0]], [left[i]], rows, columns)


@axis_rule("Embedding", "TokenAndPositionEmbedding")
def _embedding(call: Call) -> None:
    if is_reversed_embedding(call.node):
        call.axes.all_same(call.first[:-1], call.output[:-1])
        call.weight_axis("embeddings out", call.first[-1])
        call.axes.roles.append(("v", call.weight_axis("embeddings in", call.output[-1])))
        return
    call.axes.all_same(call.first, call.output[:-1])
    call.weight_axis("embeddings out", call.output[-1])


# Recurrence -------------------------------------------------------------------------------------


@axis_rule("Bidirectional", "RNN")
def _recurrent(call: Call) -> None:
    inner = call.node.config.get("layer", {}).get("config", call.node.config)
    batch, length, _ = call.first
    for output in call.outputs:
        call.axes.same(batch, output[0])
    if inner["return_sequences"]:
        call.axes.same(length, call.output[1])
    for mask in (axes for port, axes in call.inputs.items() if port == "mask"):
        call.axes.all_same(mask, (batch, length))
    call.weight_axis("units", call.output[-1])


@axis_rule("TimeDistributed")
def _time_distributed(call: Call) -> None:
    call.axes.all_same(call.first[:2], call.output[:2])
