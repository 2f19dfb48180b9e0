"""Rules of a diagnosis: functions from a graph to findings and remarks, and their registry."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from plots.annotations import Note
from plots.graph import Graph, Node
from plots.hierarchy import find_namespaces

Rule = Callable[[Graph], Iterable[Note]]
_Rule = TypeVar("_Rule", bound=Rule)
Find = Callable[[Graph], Iterable[str] | Iterable[tuple[str, str]]]
"""A function from a graph to ids of calls, or to pairs of a call and another call of the note."""

_RULES: dict[str, Rule] = {}


def diagnosis_rule(name: str) -> Callable[[_Rule], _Rule]:
    """Decorator that registers a function as a rule of `diagnose`, and returns it unchanged.

    The function takes a graph whose skip paths are marked (`Graph.skip_paths`), and returns notes:
    of the kind "finding" for mistakes, of the kind "remark" for what may be meant. Each has the ids
    that it is about, the reason and what to do in a few plain sentences, and a reference.

    Raises:
        ValueError: if the name is taken.
    """

    def register(rule: _Rule) -> _Rule:
        if name in _RULES:
            raise ValueError(
                f"a diagnosis rule named {name!r} is registered already; take another name"
            )
        _RULES[name] = rule
        return rule

    return register


def finding_rule(text: str, reference: str) -> Callable[[Find], Rule]:
    """Decorator that registers a rule with one finding, about all calls that a function returns.

    In the text, `{places}` are the names of the calls and `{others}` those of the second calls of
    pairs; `{places:take}` is "a takes" or "a and b take". The rule has the name of the function,
    and no finding if it returns no call.
    """
    return _rule_of_one_note(finding, text, reference)


def remark_rule(text: str, reference: str) -> Callable[[Find], Rule]:
    """Decorator that registers a rule with one remark; see `finding_rule`."""
    return _rule_of_one_note(remark, text, reference)


def _rule_of_one_note(
    note: Callable[[Iterable[str], str, str], Note], text: str, reference: str
) -> Callable[[Find], Rule]:
    def register(find: Find) -> Rule:
        @functools.wraps(find)
        def rule(graph: Graph) -> list[Note]:
            pairs = dict((found, "") if isinstance(found, str) else found for found in find(graph))
            places, others = [*pairs], [*dict.fromkeys(filter(None, pairs.values()))]
            names = {"places": _Names(graph, places), "others": _Names(graph, others)}
            return [note([*places, *others], text.format(**names), reference)] if pairs else []

        return diagnosis_rule(find.__name__)(rule)

    return register


class _Names(NamedTuple):
    """Names of calls in a text, with a verb if one follows, as in "{places:take}"."""

    graph: Graph
    places: Sequence[str]

    def __format__(self, verb: str) -> str:
        return doing(self.graph, self.places, verb) if verb else named(self.graph, self.places)


def notes_of_all_rules(graph: Graph) -> Iterator[Note]:
    """Yield the findings and remarks of all rules in a graph whose skip paths are marked.

    A rule that raises is named in a warning and skipped.
    """
    for name, rule in _RULES.items():
        try:
            found = list(rule(graph))
        except Exception as error:  # a rule of another package may raise anything
            warnings.warn(
                f"the diagnosis rule {name!r} was skipped, because it failed: "
                f"{type(error).__name__}: {error}",
                stacklevel=3,
            )
        else:
            yield from found


def finding(about: Iterable[str], text: str, reference: str) -> Note:
    """Return a note about a mistake in some places."""
    return Note("finding", tuple(dict.fromkeys(about)), text, reference)


def remark(about: Iterable[str], text: str, reference: str) -> Note:
    """Return a note about something that is often a mistake, and that a good model may mean."""
    return Note("remark", tuple(dict.fromkeys(about)), text, reference)


def named(graph: Graph, places: Sequence[str], most: int = 2) -> str:
    """Return the names of some calls; of one without its own name: "add#3 in decoder.block_0"."""
    shown = places[:most]
    unnamed = [place for place in shown if not graph.node(place).has_own_name]
    around = find_namespaces(graph) if unnamed else {}
    words = [
        f"{place} in {around[place]}" if place in unnamed and around[place] else place
        for place in shown
    ]
    return listed([*words, *places[most:]], most)


def doing(graph: Graph, places: Sequence[str], verb: str) -> str:
    """Return the names of some calls and what they do: "a takes", "a and b take"."""
    one = {"have": "has", "multiply": "multiplies"}.get(verb, f"{verb}s")
    return f"{named(graph, places)} {one if len(places) == 1 else verb}"


def listed(words: Sequence[str], most: int = 2) -> str:
    """Return words as text: "a", "a and b", "a, b and c", "a, b and 22 more"."""
    more = len(words) - most
    parts = [*words[:most], f"{more} more"] if more > 0 else [*words]
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def taken_by(graph: Graph, node: Node) -> tuple[object, ...]:
    """Return the tensors and constants that a call takes, to compare it with other calls."""
    edges = [(e.port, e.source, e.output, e.implicit) for e in graph.incoming[node.id]]
    return (*edges, *((c.port, repr(c)) for c in node.constants))
