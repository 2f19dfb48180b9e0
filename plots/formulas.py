"""The blocks of a model as formulas: `x + self_attention(norm(x))`."""

from __future__ import annotations

from collections.abc import Mapping

from plots.annotations import SkipPath
from plots.arguments import takes_graphs
from plots.folding.outline import outline
from plots.graph import Graph, Node
from plots.hierarchy import enclosing_block
from plots.layers import is_identity_like, is_norm, merge_sign

STREAM = "x"


@takes_graphs
def block_formulas(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Return what one block of each stack computes, a formula for each step of the stream.

    In a formula, `x` is the residual stream before the step, `shortcut(x)` its projection, and
    `gated(x)` its product with a gate. A
    sublayer has its name in the outline. The memory of another stack has the name of that stack;
    what else a sublayer takes, such as positions, is left out.

    Returns:
        The formulas by block, in the order of the graph; empty for a model without skip paths.
    """
    figure = outline(graph)
    formulas: dict[str, dict[str, str]] = {}  # block -> merge -> formula
    for path in figure.skip_paths:
        of_block = formulas.setdefault(enclosing_block(figure.node(path.target).namespace), {})
        unchanged = f"shortcut({STREAM})" if path.projected else STREAM
        unchanged = f"gated({STREAM})" if path.gated else unchanged
        known = {path.source: STREAM, **dict.fromkeys(path.through, unchanged)}
        # Sublayers side by side: the second one reads the stream before the first merge too.
        known |= {merge: of_block.pop(merge) for merge in path.through if merge in of_block}
        of_block[path.target] = _formula(figure, path, known)
    return {block: tuple(found.values()) for block, found in formulas.items()}


def _formula(figure: Graph, path: SkipPath, known: Mapping[str, str]) -> str:
    """Return the formula of a skip path: the stream plus its branch, and a norm of both."""
    merge = figure.node(path.target)
    taken = list(dict.fromkeys(edge.source for edge in figure.incoming[merge.id]))
    sign = merge_sign(merge) or "+"  # also the sum of a stack
    if sign != "−":  # the stream comes first, whichever way round they are added
        taken.sort(key=lambda node_id: node_id not in known)
    terms = [_expression(figure, path, node_id, known) for node_id in taken]
    if sign == "+":
        terms = [term for node_id in taken for term in _addends(figure, path, node_id, known)]
    total = f" {sign} ".join(terms) if sign != "mean" else f"mean({', '.join(terms)})"
    return f"norm({total})" if path.norm_on_stream else total


def _addends(figure: Graph, path: SkipPath, node_id: str, known: Mapping[str, str]) -> list[str]:
    """Return the terms of a sum on the branch, such as that of sublayers side by side."""
    if node_id in known or not _is_sum(figure, node_id):
        return [_expression(figure, path, node_id, known)]
    taken = dict.fromkeys(edge.source for edge in figure.incoming[node_id])
    return [term for source in taken for term in _addends(figure, path, source, known)]


def _is_sum(figure: Graph, node_id: str) -> bool:
    taken = {edge.source for edge in figure.incoming[node_id]}
    return merge_sign(figure.node(node_id)) == "+" and len(taken) > 1


def _expression(figure: Graph, path: SkipPath, node_id: str, known: Mapping[str, str]) -> str:
    """Return a value as an expression of the stream."""
    if node_id in known:
        return known[node_id]
    node = figure.node(node_id)
    before = dict.fromkeys(edge.source for edge in figure.incoming[node_id] if not edge.implicit)
    stream = [source for source in before if source in known or source in path.bypassed]
    parts = [_expression(figure, path, source, known) for source in stream]
    parts += [_memory(figure, path, source) for source in before if source not in stream]
    parts = [part for part in parts if part]
    if is_identity_like(node) and len(parts) == 1:
        return parts[0]
    if _is_sum(figure, node_id):
        return f"({' + '.join(_addends(figure, path, node_id, known))})"
    return f"{_name(node)}({', '.join(parts)})"


def _memory(figure: Graph, path: SkipPath, node_id: str) -> str:
    """Return the stack that a value comes from, or "" for the one of the skip path."""
    stack, own = (figure.node(i).namespace.partition(".")[0] for i in (node_id, path.target))
    return "" if stack == own else stack


def _name(node: Node) -> str:
    return "norm" if is_norm(node) else node.shown_name
