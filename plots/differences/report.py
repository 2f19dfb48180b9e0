"""A difference between graphs in words, for terminals and the logs of continuous integration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from plots.annotations import Quantity, counted, percent_text
from plots.differences.compare import compare_graphs
from plots.differences.difference import MODEL, Difference, flops_of
from plots.differences.words import Words, stem_and_number
from plots.graph import Graph
from plots.hierarchy import with_number
from plots.skips import skip_paths

_WIDTH = 100
_MOST_NAMES = 4


def difference_text(difference: Difference) -> str:
    """A difference in words: a summary, then box by box what was added, removed, moved or changed.

    What is the same in several numbered boxes is said once:

        a -> b: 1 call added, 12 changed
        parameters 124,438,272 -> 124,439,808 (+1,536, < 0.1 %)

        decoder
          + final_norm (LayerNormalization), 1,536 parameters
        decoder.block_0 ... block_11 (12 x)
          ~ feedforward.up: activation gelu -> relu

    Calls are signed "+" where added, "-" where removed, ">" where moved (to another path, or to
    another place in the flow of data), "~" where changed or wired in another way, "=" where they
    share weights or no longer do, and "." where reshaped: set up as before, but with other shapes
    or another number of weights, because of what goes in.
    """
    before, after = difference.before, difference.after
    if difference.is_empty:
        size = f"{len(after.nodes):,} calls, {after.parameters:,} parameters"
        return f"{before.name} -> {after.name}: no difference ({size})"
    lines = [f"{before.name} -> {after.name}: {counts_text(difference)}", sizes_text(difference)]
    return "\n".join([*lines, "", *_sections(_lines(difference))])


def comparison_table(graphs: Mapping[str, Graph]) -> str:
    """A table of several graphs: their size, and in how much each differs from the first.

    Raises:
        ValueError: if no graph was given, or one of them is folded.
    """
    if not graphs:
        raise ValueError("no graphs were given: comparison_table needs a mapping title -> graph")
    first = next(iter(graphs.values()))
    rows = [["", "calls", "parameters", "operations", "skip paths", "against the first"]]
    for title, graph in graphs.items():
        flops = flops_of(graph)
        operations = "" if flops is None else flops.text("FLOP")
        sizes = [f"{len(graph.nodes):,}", f"{graph.parameters:,}", operations]
        difference = "" if graph is first else counts_text(compare_graphs(first, graph))
        rows.append([title, *sizes, f"{len(skip_paths(graph)):,}", difference])
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    left = (0, len(columns) - 1)  # names and words to the left, numbers to the right
    lines = []
    for row in zip(*columns, strict=True):
        cells = [
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def counts(difference: Difference) -> dict[str, int]:
    """How much is different in which way; ways that there are not are left out.

    The first ways count calls, each once, and the last two what is none: outputs of the model, and
    sets of calls that share weights.
    """
    reshaped = sum(call.is_reshaped for call in difference.changed)
    ways = {
        "added": len(difference.added),
        "removed": len(difference.removed),
        "moved": len(difference.moved),
        "changed": len(difference.changed) - reshaped,
        "reshaped": reshaped,
        "rewired": len({wire.after for wire in difference.rewired} - {MODEL}),
        "output rewired": sum(wire.after == MODEL for wire in difference.rewired),
        "tie changed": len(difference.ties),
    }
    return {way: count for way, count in ways.items() if count}


def counts_text(difference: Difference) -> str:
    """How much is different: "1 call added, 4 moved, 12 changed, 2 outputs rewired"."""
    if difference.is_empty:
        return "no difference"
    (way, count), *others = counts(difference).items()
    first = way_text(way if " " in way else f"call {way}", count)
    return ", ".join([first, *(way_text(*other) for other in others)])


def way_text(way: str, count: int) -> str:
    """One of the `counts` in words: "4 moved", "2 outputs rewired"."""
    noun, _, done = way.rpartition(" ")
    return f"{counted(count, noun)} {done}" if noun else f"{count:,} {done}"


def sizes_text(difference: Difference) -> str:
    """The number of weights, and that of operations where they can be counted, before and after."""
    old, new = difference.parameters
    text = f"parameters {new:,}"
    if old != new:
        text = f"parameters {old:,} -> {new:,} ({new - old:+,}{_share(old, new)})"
    if difference.flops is None:
        return text
    return f"{text}\noperations {_operations_text(*difference.flops)}"


def _operations_text(old: Quantity, new: Quantity) -> str:
    """Operations before and after, and what has come or gone where both have the same letters."""
    texts = [quantity.text("FLOP") for quantity in (old, new)]
    if old == new:
        return texts[1]
    text = " -> ".join(texts)
    if old.letters != new.letters:
        return text  # other letters may stand for the same axes
    change = (new - old).text("FLOP")
    sign = "" if change.startswith("-") else "+"
    share = _share(*old.values(), *new.values()) if len(old) == len(new) == 1 else ""
    return f"{text} ({sign}{change}{share})"


def _share(old: float, new: float) -> str:
    if not old:
        return ""
    text = percent_text(abs(new - old) / old)
    return f", {text}" if text.startswith("<") else f", {'+' if new > old else '-'}{text}"


@dataclass(frozen=True, slots=True)
class _Line:
    """One thing to say about what is in a box."""

    box: str
    text: str


def _sections(lines: Iterable[_Line]) -> Iterator[str]:
    """The lines under the names of their boxes; equal lines of numbered boxes once."""
    boxes_with: dict[tuple[str, str, int], list[int]] = {}
    times: dict[_Line, int] = {}
    for line in lines:
        times[line] = times.get(line, 0) + 1
        stem, number = stem_and_number(line.box)
        boxes_with.setdefault((stem, line.text, times[line]), []).append(number)
    sections: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for (stem, text, _), numbers in boxes_with.items():
        sections.setdefault((stem, tuple(sorted(numbers))), []).append(text)
    for (stem, same), texts in sections.items():
        if title := _title(stem, same):
            yield title
        yield from (f"  {text}" if title else text for text in texts)


def _title(stem: str, numbers: tuple[int, ...]) -> str:
    """Words of numbered boxes: "decoder.block_0 ... block_11 (12 x)"."""
    if numbers == (-1,):
        return stem
    short = stem.rpartition(".")[2]
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    named = []
    for run in runs:
        ends = [with_number(short, number) for number in run]
        named += [f"{ends[0]} ... {ends[-1]}"] if len(run) > 2 else ends
    title = stem.removesuffix(short) + ", ".join(named)
    return title if len(numbers) == 1 else f"{title} ({len(numbers)} x)"


def _lines(difference: Difference) -> Iterator[_Line]:
    """All that is to be said, in the order of the calls."""
    words = Words(difference)
    placed = [*_calls(difference, words), *_whole_boxes(difference, words)]
    yield from (line for _, line in sorted(placed, key=lambda place_and_line: place_and_line[0]))
    reshaped: dict[str, dict[str, None]] = {}
    for call in difference.changed:
        if call.is_reshaped:
            members = reshaped.setdefault(words.box(1, call.after), {})
            members[words.inside(1, call.after)] = None
    for box, members in reshaped.items():
        more = len(members) - _MOST_NAMES
        listed = ", ".join([*members][:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
        yield _Line(box, f". {listed}: reshaped")
    for tie in difference.ties:
        yield _Line("", f"= {words.tied(tie)}")


_Place = tuple[int, int]


def _calls(difference: Difference, words: Words) -> Iterator[tuple[_Place, _Line]]:
    """What is to be said about single calls, with their places."""
    after, whole = difference.after, words.whole_boxes
    for side, sign, ids in ((1, "+", difference.added), (0, "-", difference.removed)):
        for node_id in ids:
            box = words.box(side, node_id)
            if box not in whole[side]:
                place = (
                    difference.removed_from[node_id] if side == 0 else (after.index[node_id], -1)
                )
                yield place, _Line(box, f"{sign} {words.described(side, node_id)}")
    texts = [(move.after, ">", words.moved(move)) for move in difference.moved]
    for call in difference.changed:
        if not call.is_reshaped:
            texts.append((call.after, "~", words.changed(call)))
    texts += [(wire.after, "~", [words.rewired(wire)]) for wire in difference.rewired]
    for node_id, sign, parts in texts:
        text = parts[0] if node_id == MODEL else _joined(words.inside(1, node_id), parts)
        place = (after.index.get(node_id, len(after.nodes)), -1)
        yield place, _Line(words.box(1, node_id), f"{sign} {text}")


def _whole_boxes(difference: Difference, words: Words) -> Iterator[tuple[_Place, _Line]]:
    """Numbered boxes of which everything was added or removed."""
    for side, sign in ((0, "-"), (1, "+")):
        graph = (difference.before, difference.after)[side]
        for box, ids in words.whole_boxes[side].items():
            layers = {graph.node(i).layer for i in ids} & set(ids)
            parameters = sum(graph.node(layer).parameters for layer in layers)
            text = f"{sign} all of it: {len(ids):,} calls, {parameters:,} parameters"
            place = (graph.index[ids[0]], -1) if side else difference.removed_from[ids[0]]
            yield place, _Line(box, text)


def _joined(name: str, parts: list[str]) -> str:
    """What has changed of a call, on one line if it is not too long."""
    line = f"{name}: {', '.join(parts)}"
    if len(line) + 4 <= _WIDTH or len(parts) == 1:
        return line
    return f"{name}:" + "".join(f"\n      {part}" for part in parts)
