"""The blocks of a model as formulas: `x + self_attention(norm(x))`."""

from __future__ import annotations

from collections.abc import Mapping

from plots.annotations import SkipPath
from plots.arguments import takes_graphs
from plots.folding.outline import outline
from plots.graph import Graph, Node
from plots.hierarchy import enclosing_block
from plots.layers import is_identity_like, is_norm

STREAM = "x"


@takes_graphs
def block_formulas(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Return what one block of each stack computes, a formula for each step of the stream.

    In a formula, `x` is the residual stream before the step. A sublayer has its name in the
    outline; a value that does not come from the stream, such as the memory of an encoder, has that
    of its part of the model.

    Returns:
        The formulas by block, in the order of the graph; empty for a model without skip paths.
    """
    figure = outline(graph)
    formulas: dict[str, dict[str, str]] = {}  # block -> merge -> formula
    for path in figure.skip_paths:
        of_block = formulas.setdefault(enclosing_block(figure.node(path.target).namespace), {})
        known = dict.fromkeys(path.line[:-1], STREAM)
        # Sublayers side by side: the second one reads the stream before the first merge too.
        known |= {merge: of_block.pop(merge) for merge in path.through if merge in of_block}
        of_block[path.target] = _formula(figure, path, known)
    return {block: tuple(found.values()) for block, found in formulas.items()}


def _formula(figure: Graph, path: SkipPath, known: Mapping[str, str]) -> str:
    """Return the formula of a skip path: the stream plus its branch, and a norm of both."""
    taken = dict.fromkeys(edge.source for edge in figure.incoming[path.target])
    # The stream comes first, whichever way round they are added.
    before = sorted(taken, key=lambda node_id: node_id not in known)
    total = " + ".join(_expression(figure, path, node_id, known) for node_id in before)
    return f"norm({total})" if path.norm_on_stream else total


def _expression(figure: Graph, path: SkipPath, node_id: str, known: Mapping[str, str]) -> str:
    """Return a value as an expression of the stream."""
    if node_id in known:
        return known[node_id]
    node = figure.node(node_id)
    if node_id not in path.bypassed:
        return node.namespace.partition(".")[0] or node.shown_name
    before = dict.fromkeys(edge.source for edge in figure.incoming[node_id] if not edge.implicit)
    # The stream comes first in every call too: attention(x, memory).
    ordered = sorted(before, key=lambda source: source not in (*known, *path.bypassed))
    parts = [_expression(figure, path, source, known) for source in ordered]
    if is_identity_like(node) and len(parts) == 1:
        return parts[0]
    return f"{_name(node)}({', '.join(parts)})"


def _name(node: Node) -> str:
    return "norm" if is_norm(node) else node.shown_name
