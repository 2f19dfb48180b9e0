"""Report a difference as text, for terminals and the logs of continuous integration."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Literal, NamedTuple

from plots.annotations import Quantity, counted, percent_text
from plots.arguments import check_mapping, described
from plots.differences import compare_graphs, line_into
from plots.differences.alignment import is_auto_numbered
from plots.differences.difference import (
    MODEL,
    ChangedCall,
    Difference,
    Move,
    Rewiring,
    TieChange,
    flops_of,
)
from plots.graph import Graph, Node
from plots.hierarchy import enclosing_block, find_namespaces, numbered, stem_and_number, with_number
from plots.skips import skip_paths

_WIDTH = 100
_MAX_NAMES = 4


def difference_text(difference: Difference) -> str:
    """Return a summary of a difference, then its added, removed, moved and changed calls by block.

    Equal differences of several numbered blocks are listed once:

        a -> b: 1 call added, 12 changed
        parameters 124,438,272 -> 124,439,808 (+1,536, < 0.1 %)

        decoder
          + final_norm (LayerNormalization), 1,536 parameters
        decoder.block_0 ... block_11 (12 x)
          ~ feedforward.up: activation gelu -> relu

    Signs of calls: "+" added, "-" removed, ">" moved (another path, or another place in the data
    flow), "~" changed or rewired, "=" weights shared in one graph only, "." reshaped (only shapes
    or the number of parameters differ, because the inputs do).
    """
    if not isinstance(difference, Difference):
        raise TypeError(
            f"difference_text takes the result of compare_graphs, not {described(difference)}"
        )
    before, after = difference.before, difference.after
    if difference.is_empty:
        size = f"{len(after.calls):,} calls, {after.parameters:,} parameters"
        return f"{before.name} -> {after.name}: no difference ({size})"
    lines = [f"{before.name} -> {after.name}: {counts_text(difference)}", sizes_text(difference)]
    return "\n".join([*lines, "", *_sections(_lines(difference))])


def comparison_table(graphs: Mapping[str, Graph]) -> str:
    """Return a table of graphs with their sizes and the number of differences from the first.

    Raises:
        ValueError: if no graph is given, or one of them is folded.
    """
    from rich.console import Console
    from rich.table import Table

    check_mapping(graphs, "comparison_table", "graphs", "title -> graph")
    first, *_ = given = list(graphs.values())
    against = ("" if g is first else counts_text(compare_graphs(first, g)) for g in given)
    columns = {
        "": list(graphs),
        "calls": [f"{len(graph.calls):,}" for graph in given],
        "parameters": [f"{graph.parameters:,}" for graph in given],
        "operations": [flops.total_text("FLOP") if flops else "" for flops in map(flops_of, given)],
        "skip paths": [f"{len(skip_paths(graph)):,}" for graph in given],
        "against the first": list(against),
    }
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    table = Table(box=None, pad_edge=False)
    for name in columns:
        justify: Literal["left", "right"] = "left" if name in ("", "against the first") else "right"
        table.add_column(name, justify=justify, no_wrap=True)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    console = Console(width=10_000, color_system=None, markup=False, emoji=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def counts(difference: Difference) -> dict[str, int]:
    """Return the number of differences of every kind that occurs.

    All kinds count calls, each call once, except the last two: outputs of the model, and sets of
    calls that share weights.
    """
    reshaped = sum(call.is_reshaped for call in difference.changed)
    kinds = {
        "added": len(difference.added),
        "removed": len(difference.removed),
        "moved": len(difference.moved),
        "changed": len(difference.changed) - reshaped,
        "reshaped": reshaped,
        "rewired": len({wire.after for wire in difference.rewired} - {MODEL}),
        "output rewired": sum(wire.after == MODEL for wire in difference.rewired),
        "tie changed": len(difference.ties),
    }
    return {kind: count for kind, count in kinds.items() if count}


def counts_text(difference: Difference) -> str:
    """Return the counts as text: "1 call added, 4 moved, 12 changed, 2 outputs rewired"."""
    if difference.is_empty:
        return "no difference"
    (kind, count), *others = counts(difference).items()
    first = count_text(kind if " " in kind else f"call {kind}", count)
    return ", ".join([first, *(count_text(*other) for other in others)])


def count_text(kind: str, count: int) -> str:
    """Return one of the `counts` as text: "4 moved", "2 outputs rewired"."""
    noun, _, done = kind.rpartition(" ")
    return f"{counted(count, noun)} {done}" if noun else f"{count:,} {done}"


def sizes_text(difference: Difference) -> str:
    """Return the number of parameters, and of operations if known, before and after."""
    old, new = difference.parameters
    text = f"parameters {new:,}"
    if old != new:
        text = f"parameters {old:,} -> {new:,} ({new - old:+,}{_share(old, new)})"
    if difference.flops is None:
        return text
    return f"{text}\noperations {_operations_text(*difference.flops)}"


def weights_text(node: Node) -> str:
    """Return the number of weights, at the first call of a layer: "192 parameters"; else ""."""
    return f"{node.parameters:,} parameters" if node.owns_weights else ""


def _operations_text(old: Quantity, new: Quantity) -> str:
    """Return the operations before and after, and their difference if it is known."""
    texts = [quantity.total_text("FLOP") for quantity in (old, new)]
    if old == new:
        return texts[1]
    text = " -> ".join(texts)
    # Other letters may stand for the same axes, and lower bounds have no difference.
    if old.letters != new.letters or old.missing or new.missing:
        return text
    change = (new - old).text("FLOP")
    sign = "" if change.startswith("-") else "+"
    share = _share(*old.values(), *new.values()) if len(old) == len(new) == 1 else ""
    return f"{text} ({sign}{change}{share})"


def _share(old: float, new: float) -> str:
    if not old:
        return ""
    text = percent_text(abs(new - old) / old)
    return f", {text}" if text.startswith("<") else f", {'+' if new > old else '-'}{text}"


class Words:
    """Names and descriptions of calls of two graphs, as seen from their blocks.

    A side is 0 for the graph before and 1 for the one after. The block of a call is the numbered
    namespace around it (`decoder.block_3`), or else its namespace. Names within blocks contain no
    block numbers, so descriptions of equal blocks are equal.

    Attributes:
        whole_blocks: For each side: numbered block with no call in the other graph -> its calls.
    """

    def __init__(self, difference: Difference) -> None:
        self._graphs = difference.before, difference.after
        self._blocks = tuple(
            {i: enclosing_block(name) or name for i, name in find_namespaces(graph).items()}
            for graph in self._graphs
        )
        alone = difference.removed, difference.added
        self.whole_blocks = tuple(self._whole(side, set(alone[side])) for side in (0, 1))

    def _whole(self, side: int, alone: set[str]) -> dict[str, list[str]]:
        members: dict[str, list[str]] = defaultdict(list)
        for node_id, block in self._blocks[side].items():
            members[block].append(node_id)
        named = ((block, ids) for block, ids in members.items() if numbered(block))
        return {block: ids for block, ids in named if len(ids) > 1 and alone.issuperset(ids)}

    def block(self, side: int, node_id: str) -> str:
        """Return the block of a call, or ""."""
        return self._blocks[side].get(node_id, "")

    def inside(self, side: int, node_id: str) -> str:
        """Return a call's name within its block."""
        return self.seen_from(self.block(side, node_id), side, node_id)

    def seen_from(self, block: str, side: int, node_id: str) -> str:
        """Return a call's name relative to a block: "feedforward.norm of the previous block"."""
        own = self.block(side, node_id)
        (stem, number), (own_stem, own_number) = stem_and_number(block), stem_and_number(own)
        if is_auto_numbered(node_id):  # counted in the whole graph, so different in equal blocks
            name = node_id.rpartition(".")[2]
            if own_number >= 0:
                name = self._graphs[side].node(node_id).class_name
        elif node_id.startswith(f"{own}."):
            name = node_id.removeprefix(f"{own}.")
        else:
            return node_id
        if own == block:
            return name
        if own_stem == stem and abs(own_number - number) == 1:
            which = "next" if own_number > number else "previous"
            kind = own_stem.rpartition(".")[2].rstrip("_@#") or "block"
            return f"{name} of the {which} {kind}"
        return f"{own}.{name}" if own else name

    def described(self, side: int, node_id: str) -> str:
        """Return a call with class and weights: "norm (LayerNormalization), 192 parameters".

        An unnamed call with several inputs is described by them: "add#1 (Add) of d and i".
        """
        graph = self._graphs[side]
        node = graph.node(node_id)
        name = self.inside(side, node_id)
        text = name if name == node.class_name else f"{name} ({node.class_name})"
        sources = {edge.source: None for edge in graph.incoming[node_id] if not edge.implicit}
        if is_auto_numbered(node_id) and len(sources) > 1:
            block = self.block(side, node_id)
            text += f" of {' and '.join(self.seen_from(block, side, source) for source in sources)}"
        return ", ".join(filter(None, [text, weights_text(node)]))

    def was(self, move: Move) -> list[str]:
        """Return the old path and the old place of a moved call: "encoder.norm", "after add"."""
        was = [self._starred(move.before, move.after)] if move.renamed else []
        return [*was, f"after {self._source(0, move.before)}"] if move.displaced else was

    def moved(self, move: Move) -> list[str]:
        """Return where a call was and is: "was encoder.norm", "after add, was after norm"."""
        texts = [f"was {was}" for was in self.was(move)]
        if move.displaced:
            texts[-1] = f"after {self._source(1, move.after)}, {texts[-1]}"
        return texts

    def changed(self, call: ChangedCall) -> list[str]:
        """Return the changes of a call: "units 11 -> 13"."""
        return [f"{change.name} {change.old} -> {change.new}" for change in call.changes]

    def tied(self, tie: TieChange) -> str:
        """Return which calls share weights, or no longer do, and with which others."""
        calls, others = (
            ", ".join(self.seen_from("", int(tie.tied), call) for call in ids)
            for ids in (tie.calls, tie.others)
        )
        if not others:
            return f"{calls} {'share' if tie.tied else 'no longer share'} their weights"
        share = "shares its" if len(tie.calls) == 1 else "share their"
        return f"{calls} {'now' if tie.tied else 'no longer'} {share} weights with {others}"

    def rewired(self, rewiring: Rewiring) -> str:
        """Return the new input of a call: "takes norm, not residual (inputs)"."""
        block = self.block(1, rewiring.after)
        old, new = (
            None if edge is None else self.seen_from(block, side, edge.source)
            for side, edge in enumerate((rewiring.old, rewiring.new))
        )
        port = next(edge.port for edge in (rewiring.new, rewiring.old) if edge is not None)
        if rewiring.after == MODEL:
            return f"{port} of the model is {new or 'none'}, was {old or 'none'}"
        if new is None:
            return f"no longer takes {old} ({port})"
        return f"takes {new}{f', not {old}' if old else ' too'} ({port})"

    def _source(self, side: int, node_id: str) -> str:
        """Return the source of a call with one input."""
        source = line_into(self._graphs[side], node_id).source
        return self.seen_from(self.block(side, node_id), side, source)

    def _starred(self, before: str, after: str) -> str:
        """Return a call's old path, with a star for the block number if that is unchanged."""
        block, now = self.block(0, before), self.block(1, after)
        if block == now:
            return self.inside(0, before)
        (stem, number), (_, new_number) = stem_and_number(block), stem_and_number(now)
        if number == new_number >= 0 and before.startswith(block):
            return f"{stem}*{before.removeprefix(block)}"
        return before


# Lines


class _Line(NamedTuple):
    """A line of text about a block."""

    block: str
    text: str


def _sections(lines: Iterable[_Line]) -> Iterator[str]:
    """Yield the lines under the names of their blocks; equal lines of numbered blocks once."""
    blocks_with: dict[tuple[str, str, int], list[int]] = {}
    times: Counter[_Line] = Counter()
    for line in lines:
        times[line] += 1
        stem, number = stem_and_number(line.block)
        blocks_with.setdefault((stem, line.text, times[line]), []).append(number)
    sections: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for (stem, text, _), numbers in blocks_with.items():
        sections.setdefault((stem, tuple(sorted(numbers))), []).append(text)
    for (stem, same), texts in sections.items():
        if title := _title(stem, same):
            yield title
        yield from (f"  {text}" if title else text for text in texts)


def _title(stem: str, numbers: tuple[int, ...]) -> str:
    """Return the names of numbered blocks: "decoder.block_0 ... block_11 (12 x)"."""
    if numbers == (-1,):
        return stem
    short = stem.rpartition(".")[2]
    named: list[str] = []
    for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [with_number(short, number) for _, number in group]
        named += [f"{run[0]} ... {run[-1]}"] if len(run) > 2 else run
    title = stem.removesuffix(short) + ", ".join(named)
    return title if len(numbers) == 1 else f"{title} ({len(numbers)} x)"


def _lines(difference: Difference) -> Iterator[_Line]:
    """Yield all lines, in the order of the calls."""
    words = Words(difference)
    placed = [*_calls(difference, words), *_whole_blocks(difference, words)]
    yield from (line for _, line in sorted(placed, key=lambda place_and_line: place_and_line[0]))
    reshaped: dict[str, dict[str, None]] = defaultdict(dict)
    for call in difference.changed:
        if call.is_reshaped:
            reshaped[words.block(1, call.after)][words.inside(1, call.after)] = None
    for block, members in reshaped.items():
        more = len(members) - _MAX_NAMES
        listed = ", ".join([*members][:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
        yield _Line(block, f". {listed}: reshaped")
    for tie in difference.ties:
        yield _Line("", f"= {words.tied(tie)}")


_Place = tuple[int, int]


def _calls(difference: Difference, words: Words) -> Iterator[tuple[_Place, _Line]]:
    """Yield the lines about single calls, with their places."""
    after, whole = difference.after, words.whole_blocks
    for side, sign, ids in ((1, "+", difference.added), (0, "-", difference.removed)):
        for node_id in ids:
            block = words.block(side, node_id)
            if block not in whole[side]:
                place = (after.index[node_id], -1) if side else difference.removed_from[node_id]
                yield place, _Line(block, f"{sign} {words.described(side, node_id)}")
    texts = [(move.after, ">", words.moved(move)) for move in difference.moved]
    texts += [(c.after, "~", words.changed(c)) for c in difference.changed if not c.is_reshaped]
    texts += [(wire.after, "~", [words.rewired(wire)]) for wire in difference.rewired]
    for node_id, sign, parts in texts:
        text = parts[0] if node_id == MODEL else _joined(words.inside(1, node_id), parts)
        place = (after.index.get(node_id, len(after.nodes)), -1)
        yield place, _Line(words.block(1, node_id), f"{sign} {text}")


def _whole_blocks(difference: Difference, words: Words) -> Iterator[tuple[_Place, _Line]]:
    """Yield the lines about numbered blocks that were added or removed as a whole."""
    for side, sign in ((0, "-"), (1, "+")):
        graph = (difference.before, difference.after)[side]
        for block, ids in words.whole_blocks[side].items():
            layers = {graph.node(i).layer for i in ids} & set(ids)
            parameters = sum(graph.node(layer).parameters for layer in layers)
            text = f"{sign} all of it: {len(ids):,} calls, {parameters:,} parameters"
            place = (graph.index[ids[0]], -1) if side else difference.removed_from[ids[0]]
            yield place, _Line(block, text)


def _joined(name: str, parts: list[str]) -> str:
    """Return the changes of a call, on one line if it is short enough."""
    line = f"{name}: {', '.join(parts)}"
    if len(line) + 4 <= _WIDTH or len(parts) == 1:
        return line
    return f"{name}:" + "".join(f"\n      {part}" for part in parts)
