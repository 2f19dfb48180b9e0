"""Rules on the shortcuts of residual blocks: of the branch, or of the first block for all."""

from __future__ import annotations

from collections.abc import Iterator

from plots.annotations import Note
from plots.attentions import attentions_with_masks
from plots.diagnosis.merge_rules import sums_of_two
from plots.diagnosis.norm_rules import CHANNEL_NORMS
from plots.diagnosis.projections import past_dropouts
from plots.diagnosis.rules import diagnosis_rule, finding, finding_rule, named, remark
from plots.graph import Edge, Graph, Node
from plots.layers import is_attention, is_linear_projection
from plots.traversal import data_flow

_RESIDUAL = "He et al. 2016, Deep Residual Learning for Image Recognition, section 3.2"
_IDENTITY = "He et al. 2016, Identity Mappings in Deep Residual Networks, section 2"


@finding_rule(
    "A shortcut that begins at the branch: {places} adds the output of a branch and a projection "
    "of it by {others}, so that the input of the block is lost, and nothing leads past the branch. "
    "Project the input of the block: Conv2D(filters, 1)(x).",
    _RESIDUAL,
)
def shortcut_of_the_branch(graph: Graph) -> Iterator[tuple[str, str]]:
    """A block adds the output of its branch and a projection of that same output.

    Both are linear in the last layer of the branch, so that the sum is one projection more, and
    the input of the block is lost.
    """
    flow = data_flow(graph)
    for node, edges in sums_of_two(graph):
        for branch, shortcut in (edges, edges[::-1]):
            projection = _projection(graph, shortcut)
            if projection is None or not graph.incoming[projection.id]:
                continue
            taken = graph.incoming[projection.id][0]
            last = _projection(graph, branch, is_branch=True)
            is_same = (taken.source, taken.output) == (branch.source, branch.output)
            if not is_same or last is None or not (last.trainable and projection.trainable):
                continue
            before = map(graph.node, flow.ancestors(last.id))
            if any(node.parameters for node in before):  # else it is a stem
                yield node.id, projection.id


def _projection(graph: Graph, edge: Edge, is_branch: bool = False) -> Node | None:
    """Return the linear projection that a tensor is computed by, up to dropouts and channel norms.

    `is_branch` says that others take it as well.
    """
    node = past_dropouts(graph, edge, only=not is_branch)
    while node is not None and node.is_a(CHANNEL_NORMS):
        edges = graph.incoming[node.id]
        node = past_dropouts(graph, edges[0], only=True) if len(edges) == 1 else None
    return node if node is not None and is_linear_projection(node) else None


@diagnosis_rule("shortcut_of_the_first_block")
def shortcut_of_the_first_block(graph: Graph) -> Iterator[Note]:
    """All sublayers in series add the same early tensor, so that no skip path leads past them."""
    flow = data_flow(graph)
    attended = {attention.output for attention in attentions_with_masks(graph)[0]}
    merges: dict[tuple[str, int], list[tuple[str, str]]] = {}  # shortcut -> (merge, its branch)
    for node, edges in sums_of_two(graph):
        for shortcut, branch in (edges, edges[::-1]):
            end = past_dropouts(graph, branch)
            is_sublayer = end is not None and (
                is_linear_projection(end)
                or end.id in attended
                or is_attention(end)
                or end.operation == "Multiply"
            )
            depends = flow.depends(branch.source, on=shortcut.source)
            depends = depends and shortcut.tensor.shape == branch.tensor.shape
            if is_sublayer and depends and flow.depends_on_input(shortcut.source):
                key = shortcut.source, shortcut.output
                merges.setdefault(key, []).append((node.id, branch.source))
    for (source, _), pairs in merges.items():
        chain = pairs[:1]
        for pair in pairs[1:]:
            if flow.depends(pair[1], on=chain[-1][0]):
                chain.append(pair)
        if len(chain) < 3:
            continue
        ids = [merge for merge, _ in chain]
        inside = {*flow.ancestors(chain[-1][1])} | {end for _, end in chain}
        ends = [i for _, end in chain for i in (end, *(e.source for e in graph.incoming[end]))]
        is_shared = any(graph.node(i).layer in graph.ties for i in ends)
        if not is_shared:
            yield (remark if attended.isdisjoint(inside) else finding)(
                [*ids, source],
                f"The same shortcut at each of {len(ids)} sublayers: {named(graph, ids)} add "
                f"{named(graph, [source])}, from before the first of them, and not their own "
                "input, so that no skip path leads past any but the first, and what the others "
                "add is lost to all but the next. Add the input of each: x = x + f(x).",
                _IDENTITY,
            )
