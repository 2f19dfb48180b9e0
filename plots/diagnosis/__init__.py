"""Describe a model in plain words, and find what looks wrong in it.

    plots.findings(graph)                        # faults, with places and references
    print(plots.diagnosis_text(graph))           # a description and the findings, as text
    plots.draw(model, "model.svg", plugins=["skip_paths", "diagnose"], depth=2)

A diagnosis is a list of rules, each a function from a graph to findings. Other packages add theirs:

    @plots.diagnosis_rule("dropout_before_logits")
    def dropout_before_logits(graph: plots.Graph) -> Iterator[plots.Note]:
        '''A dropout right before the logits.'''
        ...

Rules use the graph only. They do not guess the computation inside a layer, and they do not report
choices that a good model may make on purpose.
"""

from __future__ import annotations

import textwrap
from dataclasses import replace

from plots.annotations import Note, counted
from plots.arguments import takes_graphs
from plots.diagnosis import mask_rules, signal_rules  # noqa: F401 - they register rules
from plots.diagnosis.closed import closed_layers
from plots.diagnosis.description import classes_in_words, description_of
from plots.diagnosis.rules import diagnosis_rule, named, notes_of_all_rules
from plots.graph import Graph
from plots.registry import graph_plugin
from plots.skips import skip_paths

__all__ = ["diagnose", "diagnosis_rule", "diagnosis_text", "findings"]

_WIDTH = 88
_FINE = "Nothing looks wrong in what the graph shows."


@graph_plugin("diagnose")
def diagnose(graph: Graph) -> Graph:
    """Description of the model, and findings on its norms, skip paths, masks, gradients and losses.

    Adds a note of the kind "description" about the whole graph, and one of the kind "finding" for
    each fault. A graph that has them already is returned unchanged, so that it can be folded after
    it was diagnosed.

    Raises:
        ValueError: if it has none and is folded.
    """
    if any(note.kind == "description" for note in graph.notes):
        return graph
    graph.check_whole("diagnose first, then fold")
    marked = replace(graph, skip_paths=graph.skip_paths or skip_paths(graph))
    described = Note("description", (), description_of(marked))
    return replace(graph, notes=(*graph.notes, described, *notes_of_all_rules(marked)))


@takes_graphs
def findings(graph: Graph) -> tuple[Note, ...]:
    """Return what looks wrong in a graph, each with its places, the reason, and a reference."""
    return tuple(note for note in diagnose(graph).notes if note.kind == "finding")


@takes_graphs
def diagnosis_text(graph: Graph) -> str:
    """Return the diagnosis as text for a terminal: a description of the model, then the findings.

    At the end it names the layers that the graph does not open, if there are any, with the reason
    where `read_graph` was asked to open them.
    """
    notes = diagnose(graph).notes
    wrong = [note for note in notes if note.kind == "finding"]
    parts = [_wrap(note.text) for note in notes if note.kind == "description"]
    parts.append(f"{counted(len(wrong), 'finding')}:" if wrong else _FINE)
    for number, note in enumerate(wrong, start=1):
        indent = " " * len(mark := f"{number}. ")
        where = _wrap(f"Where: {named(graph, note.about, most=5)}", indent)
        see = _wrap(f"See: {note.reference}", indent)
        parts.append("\n".join([_wrap(note.text, mark), where, see]))
    reasons = [note for note in graph.notes if note.kind == "closed"]
    parts += [_wrap(note.text) for note in reasons]
    explained = {node_id for note in reasons for node_id in note.about}
    if closed := [node for node in closed_layers(graph) if node.id not in explained]:
        parts.append(
            _wrap(
                f"{counted(len(closed), 'layer')} that the graph does not open: "
                f"{classes_in_words(closed)}. read_graph(model, open_nested=True, "
                "open_layers=True), on the command line --open-layers, opens those that are made "
                "of layers."
            )
        )
    return "\n\n".join(parts)


def _wrap(text: str, mark: str = "") -> str:
    """Wrap a paragraph, with a mark before its first line and the others below the text."""
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=mark,
        subsequent_indent=" " * len(mark),
        break_long_words=False,
        break_on_hyphens=False,
    )
