"""Words for what is different between two graphs, and for its calls seen from their boxes."""

from __future__ import annotations

from plots.differences.alignment import is_auto_numbered
from plots.differences.difference import MODEL, ChangedCall, Difference, Move, Rewiring, TieChange
from plots.differences.wiring import line_into
from plots.graph import Node
from plots.hierarchy import boxes, enclosing_block, numbered


def stem_and_number(box: str) -> tuple[str, int]:
    """A numbered box without its number, and the number; -1 where there is none."""
    return numbered(box) or (box, -1)


def weights_text(node: Node) -> str:
    """How many weights a call has, said at the first call of its layer: "192 parameters", or ""."""
    return f"{node.parameters:,} parameters" if node.owns_weights else ""


class Words:
    """What calls of two graphs are called, and what is said about them.

    A side is 0 for the graph before and 1 for the one after. A call's box is the numbered one that
    it lies in (`decoder.block_3`), or else the innermost one. Names within boxes hold no numbers of
    boxes, so that what is said of equal blocks is equal.

    Attributes:
        whole_boxes: For both sides, numbered boxes of which no call is in both graphs -> their
            calls.
    """

    def __init__(self, difference: Difference) -> None:
        self._graphs = difference.before, difference.after
        self._boxes = tuple(
            {i: enclosing_block(namespace) or namespace for i, namespace in boxes(graph).items()}
            for graph in self._graphs
        )
        alone = difference.removed, difference.added
        self.whole_boxes = tuple(self._whole(side, set(alone[side])) for side in (0, 1))

    def _whole(self, side: int, alone: set[str]) -> dict[str, list[str]]:
        members: dict[str, list[str]] = {}
        for node_id, box in self._boxes[side].items():
            members.setdefault(box, []).append(node_id)
        return {
            box: ids
            for box, ids in members.items()
            if numbered(box) and len(ids) > 1 and alone.issuperset(ids)
        }

    def box(self, side: int, node_id: str) -> str:
        """The box of a call; "" for what lies in none."""
        return self._boxes[side].get(node_id, "")

    def inside(self, side: int, node_id: str) -> str:
        """A call's name within its box."""
        return self.seen_from(self.box(side, node_id), side, node_id)

    def seen_from(self, box: str, side: int, node_id: str) -> str:
        """A call's name as it is said in a box: "feedforward.norm of the previous block"."""
        own = self.box(side, node_id)
        (stem, number), (own_stem, own_number) = stem_and_number(box), stem_and_number(own)
        if is_auto_numbered(node_id):  # through the whole graph, so differently in equal boxes
            name = node_id.rpartition(".")[2]
            if own_number >= 0:
                name = self._graphs[side].node(node_id).class_name
        elif node_id.startswith(f"{own}."):
            name = node_id.removeprefix(f"{own}.")
        else:
            return node_id
        if own == box:
            return name
        if own_stem == stem and abs(own_number - number) == 1:
            which = "next" if own_number > number else "previous"
            return f"{name} of the {which} {own_stem.rpartition('.')[2].rstrip('_@#') or 'box'}"
        return f"{own}.{name}" if own else name

    def described(self, side: int, node_id: str) -> str:
        """A call with its class and its weights: "norm (LayerNormalization), 192 parameters".

        What nobody named is told by what it takes, if that is several: "add#1 (Add) of d and i".
        """
        graph = self._graphs[side]
        node = graph.node(node_id)
        name = self.inside(side, node_id)
        text = name if name == node.class_name else f"{name} ({node.class_name})"
        sources = {edge.source: None for edge in graph.incoming[node_id] if not edge.implicit}
        if is_auto_numbered(node_id) and len(sources) > 1:
            box = self.box(side, node_id)
            text += f" of {' and '.join(self.seen_from(box, side, source) for source in sources)}"
        return ", ".join(filter(None, [text, weights_text(node)]))

    def was(self, move: Move) -> list[str]:
        """What a moved call was called, and behind what it stood: "encoder.norm", "after add"."""
        was = [self._starred(move.before, move.after)] if move.renamed else []
        return [*was, f"after {self._source(0, move.before)}"] if move.displaced else was

    def moved(self, move: Move) -> list[str]:
        """Where a call was and where it is: "was encoder.norm", "after add, was after norm"."""
        said = [f"was {was}" for was in self.was(move)]
        if move.displaced:
            said[-1] = f"after {self._source(1, move.after)}, {said[-1]}"
        return said

    def changed(self, call: ChangedCall) -> list[str]:
        """What is different about a call: "units 11 -> 13"."""
        return [f"{change.name} {change.old} -> {change.new}" for change in call.changes]

    def tied(self, tie: TieChange) -> str:
        """Which calls share weights, or no longer do, and with which others."""
        calls, others = (
            ", ".join(self.seen_from("", int(tie.tied), call) for call in ids)
            for ids in (tie.calls, tie.others)
        )
        if not others:
            return f"{calls} {'share' if tie.tied else 'no longer share'} their weights"
        share = "shares its" if len(tie.calls) == 1 else "share their"
        return f"{calls} {'now' if tie.tied else 'no longer'} {share} weights with {others}"

    def rewired(self, rewiring: Rewiring) -> str:
        """What a call takes now: "takes norm, not residual (inputs)"."""
        box = self.box(1, rewiring.after)
        old, new = (
            None if edge is None else self.seen_from(box, side, edge.source)
            for side, edge in enumerate((rewiring.old, rewiring.new))
        )
        port = next(edge.port for edge in (rewiring.new, rewiring.old) if edge is not None)
        if rewiring.after == MODEL:
            return f"{port} of the model is {new or 'none'}, was {old or 'none'}"
        if new is None:
            return f"no longer takes {old} ({port})"
        return f"takes {new}{f', not {old}' if old else ' too'} ({port})"

    def _source(self, side: int, node_id: str) -> str:
        """What a call that lies on a line takes from."""
        source = line_into(self._graphs[side], node_id).source
        return self.seen_from(self.box(side, node_id), side, source)

    def _starred(self, before: str, after: str) -> str:
        """A call's former path; where its box keeps its number, a star stands for the number."""
        box, now = self.box(0, before), self.box(1, after)
        if box == now:
            return self.inside(0, before)
        (stem, number), (_, today) = stem_and_number(box), stem_and_number(now)
        if number == today >= 0 and before.startswith(box):
            return f"{stem}*{before.removeprefix(box)}"
        return before
