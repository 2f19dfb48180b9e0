"""Notes on folded blocks: the numbers that change from block to block, and blocks that deviate."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from plots.annotations import Note, Overlay, shape_text
from plots.differences.difference import changed_entries
from plots.folding.signatures import Block, Path, Run, Signature
from plots.folding.stacks import Stack
from plots.graph import Node

_SEVERAL = 3
"""So many calls are counted in a note, and not named."""


def range_notes(blocks: Sequence[Block], overlays: Sequence[Overlay], what: str) -> Iterator[Note]:
    """Yield notes on the numbers in which blocks differ that one stands for: "rate 0.03–0.18".

    Args:
        blocks: The blocks; only the first one may have more calls than the others.
        overlays: The quantities that diagrams show.
        what: The blocks in words, such as "3 passes".
    """
    first, *others = blocks
    size = len(blocks[-1].nodes)
    calls_with: dict[str, list[str]] = {}
    for place, node in enumerate(first.nodes[:size]):
        alike = [block.signature[place].numbers for block in others]
        for number, (path, value) in enumerate(first.signature[place].numbers):
            values = [value, *(numbers[number][1] for numbers in alike)]
            if len(set(values)) > 1:
                text = f"{_key(path)} {_range(values)}"
                calls_with.setdefault(text, []).append(node.id)
    if extra := [node.id for node in first.nodes[size:]]:
        calls_with[f"in the first of {what} only"] = extra
    last = [block.nodes[size - 1] for block in blocks]
    if last[0].outputs != last[-1].outputs:
        axes = zip(*(node.outputs[0].shape for node in last), strict=True)
        shape = ", ".join("None" if None in sizes else _range(sizes) for sizes in axes)
        calls_with[f"returns ({shape})"] = [last[0].id]
    counts = [overlay.values for overlay in overlays if overlay.combine == "sum"]
    own = [[values.get(node.id) for values in counts for node in b.nodes[:size]] for b in blocks]
    if any(values != own[0] for values in own) or (counts and extra):
        calls_with[f"counts are means of the {what}"] = [node.id for node in first.nodes]
    for text, ids in calls_with.items():
        yield Note("varies", tuple(dict.fromkeys(ids)), text)


def alternations(pattern: Sequence[Block]) -> Iterator[Note]:
    """Yield a note on each block of a repeating pattern, as each has a number of its own."""
    for block in pattern:
        others = [other.name for other in pattern if other is not block]
        if others:
            text = f"alternates with {' and '.join(others)}"
            yield Note("varies", (block.nodes[0].id,), text)


def _key(path: Path) -> str:
    """Return the name of a number: "rate" for its place ("layer", "config", "rate")."""
    names = [part for part in path if not part.isdigit()]
    return names[-1] if names else "value"


def _range(values: Sequence[float]) -> str:
    """Return the smallest and the largest of some numbers, or how the first one differs."""
    first, *others = (f"{v:.3g}" if isinstance(v, float) else f"{v}" for v in values)
    if len(others) > 1 and len(set(others)) == 1 != len({first, *others}):
        return f"{first}, then {others[0]}"
    low, high = (values.index(end(values)) for end in (min, max))
    shown = [first, *others]
    return "\N{EN DASH}".join(dict.fromkeys((shown[low], shown[high])))


def deviations(stack: Stack, blocks: int) -> Iterator[Note]:
    """Yield a note on every block that differs from a neighbour that is at least as frequent.

    A block that has several calls which the other lacks, and the other way round, is of another
    kind: the picture shows it, and counts of calls would say nothing.

    Args:
        stack: The stack.
        blocks: Number of blocks, or of periods of a pattern, that are kept of every run.
    """
    if not stack.is_uniform:
        return
    kept: list[tuple[Block, Run]] = []
    for run in stack.runs:
        start, period, times = run
        end = start + min(blocks, times) * period
        kept += [(block, run) for block in stack.blocks[start:end]]
    noted = set()
    for (before, run_before), (block, run) in pairwise(kept):
        odd, usual, repeated = (
            (before, block, run) if run_before[2] < run[2] else (block, before, run_before)
        )
        goes_on = run == run_before and run[1] == 1
        if not goes_on and odd.signature != usual.signature and odd.name not in noted:
            noted.add(odd.name)
            start, period, times = repeated
            place = (stack.blocks.index(usual) - start) % period
            alike = stack.blocks[start + place : start + period * times : period]
            # The first block of a run may have a shortcut that the others lack.
            like = alike[-1] if len(usual.nodes) > len(alike[-1].nodes) else usual
            if min(n.total() for n in _calls_of_one(like, odd)) < _SEVERAL:
                text = f"{odd.name} differs from {usual.name}: {_difference(like, odd, alike)}"
                yield Note("deviates", tuple(node.id for node in odd.nodes), text)


def _difference(before: Block, after: Block, alike: Sequence[Block]) -> str:
    """Return the first difference of two blocks in words.

    Args:
        before: A block of a run.
        after: Another block.
        alike: All blocks of the run. What varies in it is named only if nothing else differs.
    """
    if len(before.nodes) != len(after.nodes):
        return _other_calls(before, after)
    varying = ""
    for place, (old, new, was, node) in enumerate(
        zip(before.signature, after.signature, before.nodes, after.nodes, strict=True)
    ):
        name = node.shown_name
        if was.class_name != node.class_name:
            return f"{_with_class(node)} in place of {_with_class(was)}"
        for key, change in _other_settings(was, node):
            if all(block.nodes[place].config.get(key) == was.config.get(key) for block in alike):
                return change
            varying = varying or change
        if was.outputs != node.outputs:
            return f"{name} returns {_shapes(node)}, not {_shapes(was)}"
        if was.parameters != node.parameters:
            return f"{name} has {node.parameters:,} parameters, not {was.parameters:,}"
        if was.constants != node.constants:
            return f"{name} takes other constants"
        if connected := _other_inputs(old, new):
            return f"{name} {connected}"
    return varying or "its calls are connected differently"


def _other_calls(before: Block, after: Block) -> str:
    """Return which calls only one of two blocks has, and what differs first in the others."""
    only_after, only_before = _calls_of_one(before, after)
    calls = {
        verb: " and ".join(n.elements()) if n.total() < _SEVERAL else f"{n.total()} calls"
        for verb, n in {"also has": only_after, "lacks": only_before}.items()
    }
    text = "it " + " and ".join(f"{verb} {some}" for verb, some in calls.items() if some)
    names, others = (Counter(n.shown_name for n in block.nodes) for block in (before, after))
    by_name = {node.shown_name: node for node in before.nodes}
    changes = (
        change
        for node in after.nodes
        if names[node.shown_name] == others[node.shown_name] == 1
        for _, change in _other_settings(by_name[node.shown_name], node)
    )
    first = next(changes, "")
    return f"{text}, and {first}" if first else text


def _calls_of_one(before: Block, after: Block) -> tuple[Counter[str], Counter[str]]:
    """Return the names of the calls that only the second block has, and only the first."""
    names, others = (Counter(n.shown_name for n in block.nodes) for block in (before, after))
    return others - names, names - others


def _other_settings(was: Node, node: Node) -> Iterator[tuple[str, str]]:
    """Yield the entries of the configuration that differ, by name, and the change in words."""
    for key, old, new in changed_entries(was.config, node.config):
        if key != "seed":
            yield key, f"{key} of {node.shown_name} is {_in_words(new)}, not {_in_words(old)}"


def _in_words(value: str) -> str:
    """Return the text of a value as labels have it: "2×2" of a list of sizes."""
    is_sizes = re.fullmatch(r"\[\d+(, \d+)*\]", value)
    return value.strip("[]").replace(", ", "×") if is_sizes else value


def _shapes(node: Node) -> str:
    """Return the shapes of the outputs of a call as in a picture."""
    return " and ".join(shape_text(tensor.shape) for tensor in node.outputs)


def _other_inputs(old: Signature, new: Signature) -> str:
    """Return in words how a call takes other inputs than before, or ""."""
    if old.ports != new.ports:
        also, lacks = (
            Counter(new.ports) - Counter(old.ports),
            Counter(old.ports) - Counter(new.ports),
        )
        verb, ports = ("also takes", also) if also else ("does not take", lacks)
        which = " and ".join(ports) if len(ports) < 3 else f"{ports.total()} inputs"
        return f"{verb} {which}"
    for source, other in zip(old.sources, new.sources, strict=False):
        if source != other and "outside" in (source[0], other[0]):
            here, there = (
                what
                if where == "outside"
                else f"from {'inside' if where == 'inside' else 'before'} the block"
                for where, what in (other, source)
            )
            return f"takes {here}, not {there}"
    return ""


def _with_class(node: Node) -> str:
    return f"{node.label} ({node.class_name})" if node.has_own_name else node.class_name
