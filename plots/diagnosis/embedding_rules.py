"""Rules on tables of vectors: shared by tokens and positions, doubled, or too short."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from plots.annotations import Note
from plots.diagnosis.merge_rules import terms_of
from plots.diagnosis.rules import diagnosis_rule, finding, named
from plots.graph import Graph, Node
from plots.layers import is_additive_merge, is_identity_like, is_reversed_embedding
from plots.shape_values import value_of
from plots.traversal import data_flow, once_per_graph

_BERT = "Devlin et al. 2019, BERT, section 3 and figure 2"
_EMBEDDING = "Keras API, keras.layers.Embedding: input_dim is the largest index + 1"
_REMAINDERS = ("FloorMod", "Mod", "Remainder")


@diagnosis_rule("one_table_for_tokens_and_positions")
def one_table_for_tokens_and_positions(graph: Graph) -> Iterator[Note]:
    """One table is looked up by tokens, and by positions as well."""
    flow = data_flow(graph)
    calls: dict[str, dict[bool, list[str]]] = {}
    for node in _lookups(graph).values():
        given = graph.incoming[node.id][0]
        by_value = flow.depends_on_input(given.source)
        if by_value or _counts(value_of(graph, flow, given.source, given.output)):
            calls.setdefault(node.layer, {}).setdefault(by_value, []).append(node.id)
    for own in calls.values():
        if len(own) == 2:
            yield finding(
                [*own[True], *own[False]],
                f"One table for tokens and positions: {named(graph, own[True])} looks up tokens, "
                f"and {named(graph, own[False])} with the same weights looks up positions, so that "
                "position 3 has the vector of token 3. Make a table of positions of its own.",
                _BERT,
            )


def _counts(ids: Any) -> bool:
    """Return whether ids differ along a sequence, unlike that of a token put before each one."""
    return ids is not None and ids.ndim > 1 and bool((ids[:, 1:] != ids[:, :-1]).any())


@diagnosis_rule("two_tables_with_the_same_ids")
def two_tables_with_the_same_ids(graph: Graph) -> Iterator[Note]:
    """The vectors of two tables with the same ids are added, which is one table.

    A pretrained table that is frozen, beside one that is trained, is not.
    """
    for node in graph.nodes:
        if not is_additive_merge(node):
            continue
        ids: dict[tuple[str, int], list[Node]] = {}
        for term, _ in terms_of(graph, node):
            table = _lookups(graph).get(term)
            if table is not None and table.trainable:
                given = graph.incoming[table.id][0]
                ids.setdefault((given.source, given.output), []).append(table)
        for tables in ids.values():
            if len({table.layer for table in tables}) > 1:
                places = [table.id for table in tables]
                yield finding(
                    [*places, node.id],
                    f"Two tables with the same ids: {named(graph, places)} are looked up by the "
                    f"same ids and added at {named(graph, [node.id])}, which one table can do. If "
                    "one is for positions, look it up by positions: "
                    "ops.cumsum(ops.ones_like(ids), axis=1) - 1.",
                    _BERT,
                )


@diagnosis_rule("too_few_rows")
def too_few_rows(graph: Graph) -> Iterator[Note]:
    """A table has fewer rows than there are positions."""
    flow = data_flow(graph)
    for node in _lookups(graph).values():
        rows, given = node.config.get("input_dim"), graph.incoming[node.id][0]
        if isinstance(rows, int) and None not in given.tensor.shape[1:]:
            ids = value_of(graph, flow, given.source, given.output)
            if ids is not None and ids.size and ids.max() >= rows:
                yield finding(
                    [node.id],
                    f"Too few rows: {named(graph, [node.id])} has {rows} rows, and is looked up at "
                    f"{int(ids.max())}. Backends return zeros or other rows there, or fail. Take "
                    f"input_dim={int(ids.max()) + 1}.",
                    _EMBEDDING,
                )


@diagnosis_rule("ids_beyond_the_table")
def ids_beyond_the_table(graph: Graph) -> Iterator[Note]:
    """A table has fewer rows than there are ids that a model computes or looks up."""
    for node in _lookups(graph).values():
        rows, given = node.config.get("input_dim"), graph.incoming[node.id][0]
        found = _range_of(graph, given.source)
        if isinstance(rows, int) and found is not None and found[1] >= rows:
            yield finding(
                [node.id],
                f"Ids beyond the table: {named(graph, [node.id])} has {rows} rows, and "
                f"{named(graph, [given.source])} returns ids up to {found[1]}. Backends return "
                f"zeros or other rows there, or fail. Take input_dim={found[1] + 1}.",
                _EMBEDDING,
            )


def _range_of(graph: Graph, node_id: str) -> tuple[int, int] | None:
    """Return the smallest and the largest integer that a call may return; None if unknown."""
    node, edges = graph.node(node_id), graph.incoming[node_id]
    numbers = [c.value for c in node.constants if type(c.value) is int]
    if node.is_a({"Hashing"}) and type(bins := node.config.get("num_bins")) is int:
        return 0, bins - 1
    if node.operation in _REMAINDERS and len(edges) == len(numbers) == 1:
        is_divisor = any(c.port == "x2" and c.value == numbers[0] for c in node.constants)
        return (0, numbers[0] - 1) if is_divisor and numbers[0] > 0 else None
    if node.operation == "Where":
        values = [_range_of(graph, edge.source) for edge in edges if edge.port != "condition"]
        known = [own for own in values if own is not None] + [(n, n) for n in numbers]
        is_known = len(known) == len(values) + len(numbers) and bool(known)
        return (min(n for n, _ in known), max(n for _, n in known)) if is_known else None
    is_sum = is_additive_merge(node) and len(numbers) == 1
    is_limit = node.operation in ("Maximum", "Minimum") and len(numbers) == 1
    # Of other calls nothing is known, and what they take may be a whole network.
    if len(edges) != 1 or not (is_identity_like(node) or is_sum or is_limit):
        return None
    taken = _range_of(graph, edges[0].source)
    if taken is None or is_identity_like(node):
        return taken
    low, high = taken
    if is_sum:
        return low + numbers[0], high + numbers[0]
    if node.operation == "Minimum":
        return min(low, numbers[0]), min(high, numbers[0])
    return max(low, numbers[0]), max(high, numbers[0])


@once_per_graph
def _lookups(graph: Graph) -> dict[str, Node]:
    """Return the calls of `Embedding` that look up ids, by their own."""
    return {
        node.id: node
        for node in graph.of_class({"Embedding"})
        if graph.incoming[node.id] and not is_reversed_embedding(node) and node.kind == "layer"
    }
