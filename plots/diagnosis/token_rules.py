"""Rules on class tokens: a head that reads another position than that of the token."""

from __future__ import annotations

from collections.abc import Iterator

from plots.annotations import Note
from plots.attentions import attentions_with_masks
from plots.diagnosis.recurrent_rules import step_of
from plots.diagnosis.rules import diagnosis_rule, doing, finding, named
from plots.graph import Graph, Node
from plots.positions import is_trained
from plots.traversal import Reachability, data_flow

_MOVE_POSITIONS = frozenset({"Flip", "Roll", "Take", "TakeAlongAxis"})
_VIT = "Dosovitskiy et al. 2021, An Image is Worth 16x16 Words, section 3.1"


@diagnosis_rule("token_that_no_head_reads")
def token_that_no_head_reads(graph: Graph) -> Iterator[Note]:
    """A class token is joined at one end of a sequence, and the outputs read the other end."""
    flow = data_flow(graph)
    attentions = attentions_with_masks(graph)[0]
    if not attentions:
        return
    tokens = {n.id: end for n in graph.nodes if (end := _end_of_token(graph, flow, n)) is not None}
    steps = {node.id: step for node in graph.nodes if (step := step_of(node)) in (0, -1)}
    until_read = data_flow(graph, stop=lambda node: node.id in steps)
    for join, end in tokens.items():
        after = until_read.descendants(join)
        reads = [node_id for node_id in after if node_id in steps]
        is_read_alone = reads and not any(o in after and o not in reads for o, _ in graph.outputs)
        others = [token for token in tokens if token != join]
        is_one_of_many = any(flow.depends(o, on=join) or flow.depends(join, on=o) for o in others)
        of_ids = any(_embeds(graph, node_id) for node_id in flow.ancestors(join))
        attends = any(flow.depends(a.id, on=join) for a in attentions)
        misses = all(steps[read] != end for read in reads)
        is_moved = any(graph.node(node_id).is_a(_MOVE_POSITIONS) for node_id in after)
        if is_read_alone and misses and attends and not (is_one_of_many or of_ids or is_moved):
            first, last = ("first", "last") if end == 0 else ("last", "first")
            index = "0" if end == 0 else "-1"
            yield finding(
                [join, *reads],
                f"The head does not read the class token: {named(graph, [join])} puts a trained "
                f"vector in the {first} position, and {doing(graph, reads, 'take')} the {last} "
                f"one, which is that of a patch or step. Take position {index}: y[:, {index}].",
                _VIT,
            )


def _end_of_token(graph: Graph, flow: Reachability, node: Node) -> int | None:
    """Return where a call puts one trained vector beside a sequence: 0, -1, or None if it does not.

    The other tensors that it joins depend on an input.
    """
    axis, shape = node.config.get("axis", -1), node.outputs[0].shape
    if not node.is_a({"Concatenate"}) or len(shape) != 3 or axis not in (1, -2):
        return None
    operands: list[tuple[str, bool]] = []
    for edge in flow.incoming[node.id]:
        before = [graph.node(i) for i in (edge.source, *flow.ancestors(edge.source))]
        is_token = edge.tensor.shape[1] == 1 and any(map(is_trained, before))
        is_fixed = not flow.depends_on_input(edge.source)
        if is_fixed and not is_token:
            return None
        operands.append((edge.port, is_fixed))
    for constant in node.constants:
        if constant.shape is not None:
            if constant.shape[-2:-1] != (1,) or constant.digest is not None or constant.pattern:
                return None
            operands.append((constant.port, True))
    ends = [is_token for _, is_token in sorted(operands, key=lambda operand: _number(operand[0]))]
    if ends.count(True) != 1 or len(ends) < 2 or ends[0] == ends[-1]:
        return None
    return 0 if ends[0] else -1


def _number(port: str) -> int:
    """Return the number at the end of the name of an argument: 1 for "xs.1"."""
    digits = port.rpartition(".")[2]
    return int(digits) if digits.isdigit() else 0


def _embeds(graph: Graph, node_id: str) -> bool:
    """Return whether a call looks up ids, whose first one may be a token for classes."""
    starts = (edge.source for edge in graph.incoming[node_id] if "float" not in edge.tensor.dtype)
    is_lookup = graph.node(node_id).is_a({"Embedding"})
    return is_lookup and any(graph.node(start).kind == "input" for start in starts)
