"""Weights of opened models and layers that no call takes, as nodes without inputs and outputs."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import chain, count
from typing import Any

from plots.annotations import Note, counted
from plots.graph import Node
from plots.reading.ids import is_auto_named, snake_case
from plots.reading.keras_values import (
    WeightCounter,
    without_generated_numbers,
)

_MOST_NAMES = 4

Opened = tuple[Any, tuple[str, ...]]
"""An opened model or layer, and the ids of the opened ones around its calls, outermost first."""


def nodes_of_unused_weights(
    opened: Iterable[Opened], counter: WeightCounter, taken: Container[str]
) -> list[Node]:
    """Return a node for every opened model or layer with weights that no call takes.

    A weight counts at the innermost one that has it, so that the parameters of all nodes add up to
    those of the model.

    Args:
        opened: The opened models and layers.
        counter: Has counted the weights of all calls.
        taken: Ids that are in use.
    """
    found = []
    for operation, around in sorted(opened, key=lambda each: -len(each[1])):
        weights, sizes = counter.count_rest(operation)
        if not weights:
            continue
        names = _names_of(operation)
        namespace = around[-1] if around else ""
        stem = f"{namespace}.unused_weights".lstrip(".")
        ids = chain([stem], (f"{stem}@{number}" for number in count(2)))
        node_id = next(name for name in ids if name not in taken)
        shapes = [f"{names[id(w)]} {tuple(int(n) for n in w.shape)}" for w in weights]
        found.append(
            Node(
                id=node_id,
                name=node_id,
                kind="weights",
                class_name="Weights",
                bases=(),
                namespace=namespace,
                layer=node_id,
                outputs=(),
                trainable=operation.trainable,
                config={"weights": shapes},
                opened=around,
                **sizes,
            )
        )
    return found


def with_unused_weights(nodes: Iterable[Node], unused: Sequence[Node]) -> list[Node]:
    """Return the nodes, with each one of `unused` behind the calls of its model or layer."""
    found = list(nodes)
    for node in unused:
        depth = len(node.opened)
        inside = [k for k, other in enumerate(found) if other.opened[:depth] == node.opened]
        found.insert(max(inside, default=len(found) - 1) + 1, node)
    return found


def notes_on_unused_weights(unused: Iterable[Node]) -> tuple[Note, ...]:
    """Return a note on each node of unused weights, which names them."""
    notes = []
    for node in unused:
        names = node.config["weights"]
        shown = ", ".join(names if len(names) <= _MOST_NAMES else names[: _MOST_NAMES - 1])
        more = f" and {len(names) - _MOST_NAMES + 1} more" if len(names) > _MOST_NAMES else ""
        text = f"{counted(len(names), 'weight')} that no call takes: {shown}{more}"
        notes.append(Note("unused", (node.id,), text))
    return tuple(notes)


def _names_of(operation: Any, around: str = "") -> Mapping[int, str]:
    """Return the name of every weight by its id, behind those of the layers that have it."""
    names: dict[int, str] = {}
    for part in operation._flatten_layers(include_self=False, recursive=False):
        name = snake_case(type(part).__name__) if is_auto_named(part) else part.name
        names = {**_names_of(part, f"{around}{name}."), **names}
    own = {id(w): f"{around}{without_generated_numbers(w.name)}" for w in operation.weights}
    return {**own, **names}
