"""The blocks of a Transformer, counted by what its sublayers do with positions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Literal, NamedTuple

from plots.annotations import SkipPath
from plots.attention_parts import Attention
from plots.diagnosis.activations import activation_of
from plots.graph import Graph, Node
from plots.layers import (
    CONVOLUTIONS,
    is_identity_like,
    is_norm,
    is_recurrent,
    is_signed_merge,
)
from plots.softmaxes import ELEMENTWISE
from plots.streams import Stream

Mixing = Literal["attention", "mixing", "pointwise", "unknown"]


class Blocks(NamedTuple):
    """The blocks of a stack.

    Attributes:
        number: How many there are; None if the graph does not show it.
        attending: How many of them have a self-attention.
    """

    number: int | None
    attending: int


def blocks_of(graph: Graph, streams: Sequence[Stream], own: Sequence[Attention]) -> Blocks:
    """Return the blocks of the stack that has these attentions.

    Each self-attention is in a block of its own, with the other sublayers around it, of which a
    Conformer has three; those that follow each other, along other axes, are in one. Where other
    sublayers stand in the places of attentions, as in a hybrid of attention and linear recurrences
    (Jamba, Qwen3-Next), each that mixes positions makes a block with the pointwise one behind it.
    """
    number = sum(attention.is_self for attention in own) or len(own)
    outputs = {attention.output for attention in own}
    paths = [p for s in streams if not outputs.isdisjoint(s.bypassed) for p in s.paths]
    kinds = [_mixing(graph, path, outputs) for path in paths]
    selves = {attention.output for attention in own if attention.is_self}
    number -= _in_a_row(kinds, [not selves.isdisjoint(path.bypassed) for path in paths])
    first, second = kinds[::2], kinds[1::2]
    alternates = len(first) == len(second) and "pointwise" not in first
    if not alternates or set(second) != {"pointwise"} or set(first) == {"attention"}:
        return Blocks(number, number)
    attending = first.count("attention")
    return Blocks(None if "unknown" in first else len(first), attending)


def _in_a_row(kinds: Sequence[Mixing], attends: Sequence[bool]) -> int:
    """Return how many self-attentions directly follow another one, as often in each block.

    As in blocks that attend along rows, then along columns, before a feed-forward.
    """
    runs = [len([*run]) for attending, run in groupby(attends) if attending]
    is_regular = "pointwise" in kinds and len(runs) > 1 and len({*runs}) == 1
    return sum(runs) - len(runs) if is_regular else 0


def _mixing(graph: Graph, path: SkipPath, attended: set[str]) -> Mixing:
    """Return what the branch of a skip path does with positions."""
    if not attended.isdisjoint(path.bypassed):
        return "attention"
    nodes = [graph.node(node_id) for node_id in path.bypassed]
    if any(map(_mixes_positions, nodes)):
        return "mixing"
    return "pointwise" if all(map(_is_pointwise, nodes)) else "unknown"


def _mixes_positions(node: Node) -> bool:
    """Return whether a call surely computes a position from others as well."""
    if is_recurrent(node) or node.operation == "Cumsum":
        return True
    if node.is_a(CONVOLUTIONS | {"DepthwiseConv1D", "SeparableConv1D"}):
        return max(node.config.get("kernel_size", (1,))) > 1
    return _sums_positions(node)


def _sums_positions(node: Node) -> bool:
    """Return whether a layer declares a product that sums over as many positions as it returns."""
    declared = node.declaration
    if declared is None or not declared.outputs or len(declared.outputs[0]) < 2:
        return False
    position = declared.outputs[0][1]
    lengths = {position, *(a for a, size in declared.sizes.items() if size == position)}
    for equation in declared.products or ():
        operands, _, result = equation.partition("->")
        left, _, right = operands.partition(",")
        if lengths & {*left} & {*right} - {*result}:
            return True
    return False


def _is_pointwise(node: Node) -> bool:
    """Return whether a call surely computes each position from the same one of its inputs."""
    if len(node.outputs) != 1 or len(node.outputs[0].shape) < 3:
        return False
    if node.is_a(CONVOLUTIONS):
        return max(node.config.get("kernel_size", (2,))) == 1
    if node.is_a({"EinsumDense"}):
        operands, _, result = str(node.config.get("equation", "")).partition("->")
        given, _, kernel = operands.partition(",")
        keeps_place = given[:2] == result[:2] and given[1:2].isalpha()
        return keeps_place and given[1] not in kernel
    is_token_norm = is_norm(node) and node.config.get("axis", -1) in (-1, [-1])
    is_function = bool(activation_of(node)) and activation_of(node) != "softmax"
    is_sum = is_signed_merge(node) or node.operation in ELEMENTWISE
    is_plain = is_identity_like(node) or node.is_a({"Dense"})
    return is_plain or is_token_norm or is_function or is_sum
