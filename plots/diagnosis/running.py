"""A diagnosis that also runs the model: what is shown by running overrides what structure shows."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from plots.annotations import Note
from plots.arguments import collection_paused
from plots.graph import Graph
from plots.layers import is_function
from plots.registry import find_plugin

if TYPE_CHECKING:
    import keras

    from plots.checking import Trial
    from plots.checking.results import Check

Function = TypeVar("Function", bound=Callable[..., Any])

_SUPERSEDED = {  # reference of a rule on structure -> the property that running decides
    "attention is all you need, sections 3.1 and 3.2.3": "causality",
    "understanding_masking_and_padding": "padding",
}


def takes_models(function: Function) -> Function:
    """Return a function of a graph that also takes a model, which is then run and diagnosed."""
    name = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def read_and_call(*args: Any, **kwargs: Any) -> Any:
        if args and not isinstance(args[0], Graph):
            args = (diagnose_model(args[0]), *args[1:])
        elif name in kwargs and not isinstance(kwargs[name], Graph):
            kwargs[name] = diagnose_model(kwargs[name])
        with collection_paused():
            return function(*args, **kwargs)

    return read_and_call  # type: ignore[return-value]


def diagnose_model(model: keras.Model, open_layers: bool = False) -> Graph:
    """Return the graph of a model with the notes of its diagnosis and of `plots.check`.

    Where running decides a property, the findings of rules on structure about it are left out. A
    model without weights, or with inputs of an unknown kind, is not run, and a note says so.

    Args:
        model: The model.
        open_layers: As for `plots.read_graph`; nested models are opened.
    """
    from plots.checking import Trial, run_checks
    from plots.reading import graph_of

    diagnose = find_plugin("diagnose").function
    try:
        trial = Trial.of(model)
        graph = graph_of(model, open_layers) if open_layers else _with_functions(trial.graph, model)
        found = run_checks(trial, _positions_in_words(graph))
    except ValueError as error:
        graph = graph_of(model, open_layers)
        diagnosed = diagnose(graph)
        text = f"Nothing was run: {error}."
        return replace(diagnosed, notes=_merged(diagnosed.notes, (Note("description", (), text),)))
    seen = [
        Note("sees", (node_id,), own.kind)
        for node_id, own in found.seen.items()
        if node_id in graph.index
    ]
    seen += [Note("fixed", (node_id,), "") for node_id in _without_noise(graph, trial)]
    diagnosed = diagnose(replace(graph, notes=(*graph.notes, *seen)))
    rules = [note for note in diagnosed.notes if note not in seen]
    kept = [note for note in rules if not _is_superseded(note, found.checks)]
    findings = [note for note in kept if note.kind == "finding"]
    blocked = {i for n in findings if "gradient" in n.text for i in _with_layers(graph, n.about)}
    equal = {i for n in findings if "same tensor" in n.text for i in n.about}
    mistaken = {i for n in findings for i in n.about}
    said = [
        check.note
        for check in found.checks
        if check.note.kind != "description"
        # Structure says the same.
        and not (check.property == "dead weights" and not blocked.isdisjoint(check.note.about))
        and not (check.property == "sharing" and equal.issuperset(check.note.about))
        and not (check.property == "effects" and not mistaken.isdisjoint(check.note.about))
    ]
    text = found.text
    notes = [Note("description", (), text)] if text else []
    placed = [replace(note, about=_places(graph, note.about)) for note in said]
    return replace(diagnosed, notes=_merged(kept, [*notes, *placed]))


def _with_layers(graph: Graph, about: Iterable[str]) -> Iterator[str]:
    """Yield ids of calls, and of the opened layers around them."""
    for place in about:
        yield from (place, *graph.node(place).opened)


def _without_noise(graph: Graph, trial: Trial) -> Iterator[str]:
    """Yield the calls inside of models and functions that return the same numbers with any seed."""
    if "values" not in vars(trial):
        return
    random = {node_id for node_id, _ in trial.random}
    known = trial.graph.index.keys()
    for node in graph.nodes:
        around = [place for place in (*node.opened, node.id) if place in known]
        if node.opened and around and random.isdisjoint(around):
            yield node.id


def _with_functions(graph: Graph, model: keras.Model) -> Graph:
    """Return the graph with the calls inside functions, such as `Lambda`, that rules look for."""
    from plots.reading import read_calls

    if not any(map(is_function, graph.nodes)):
        return graph
    return read_calls(model, open_nested=True, open_functions=True)[0]


def _positions_in_words(graph: Graph) -> str:
    """Return the positions that the structure of a model shows: "learned positions", or ""."""
    notes = find_plugin("diagnose").function(graph).notes
    descriptions = (note.text for note in notes if note.kind == "description")
    found = re.search(r"; ((?!no )[\w ]+ positions)", next(descriptions, ""))
    return found[1] if found else ""


def _merged(rules: Iterable[Note], checks: Sequence[Note]) -> tuple[Note, ...]:
    """Return the notes of rules and of checks: descriptions first, then those of checks."""
    rules = list(rules)
    first = [note for note in rules if note.kind in ("description", "closed")]
    rest = [note for note in rules if note not in first]
    said = [note for note in checks if note.kind == "description"]
    return tuple(dict.fromkeys([*first, *said, *checks, *rest]))


def _is_superseded(note: Note, checks: Sequence[Check]) -> bool:
    """Return whether running decides what a finding or remark on structure says."""
    for part, name in _SUPERSEDED.items():
        if note.kind in ("finding", "remark") and part in note.reference.lower():
            own = [check for check in checks if check.property == name]
            if any(check.note.kind in ("finding", note.kind) for check in own):
                return True
            return bool(own) and all(
                check.verdict in ("causal", "itself", "ignored") for check in own
            )
    return False


def _places(graph: Graph, about: Iterable[str]) -> tuple[str, ...]:
    """Return ids of a graph without opened layers as those of one in which they may be open."""
    found: list[str] = []
    for place in about:
        if place in graph.index:
            found.append(place)
        else:
            found += [node.id for node in graph.nodes if node.id.startswith(f"{place}.")][:1]
    return tuple(dict.fromkeys(found))
