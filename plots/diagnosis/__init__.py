"""Say in plain words what a model is, and what looks wrong in it.

    plots.findings(graph)                        # what looks wrong, with places and references
    print(plots.diagnosis_text(graph))           # the same for a terminal, and what the model is
    plots.draw(model, "model.svg", plugins=["skip_paths", "diagnose"], depth=2)

What is asked is a list of rules, each a small function from a graph to findings. Others add theirs:

    @plots.diagnosis_rule("dropout_before_logits")
    def dropout_before_logits(graph: plots.Graph) -> Iterator[plots.Note]:
        '''A dropout right before the logits.'''
        ...

Rules speak of what the graph shows. What happens inside a layer, they do not guess at; and where a
good model may well do the same, they keep silent.
"""

from __future__ import annotations

import textwrap
from dataclasses import replace

from plots.annotations import Note, counted
from plots.diagnosis import (  # noqa: F401 - registers the rules
    causality_rules,
    norm_rules,
    padding_rules,
    skip_rules,
    training_rules,
)
from plots.diagnosis.description import classes_in_words, closed_layers, description
from plots.diagnosis.rules import diagnosis_rule, named, notes_of_all_rules
from plots.graph import Graph
from plots.registry import graph_plugin
from plots.skips import skip_paths

__all__ = ["diagnose", "diagnosis_rule", "diagnosis_text", "findings"]

_WIDTH = 88
_FINE = "Nothing looks wrong in what the graph shows."


@graph_plugin("diagnose")
def diagnose(graph: Graph) -> Graph:
    """What the model is, and what looks wrong in it: norms, skip paths, masks, gradients, the loss.

    Adds a note of the kind "description" about the whole graph, and one of the kind "finding" for
    everything that looks wrong. A graph that has them already is given back as it is, so that it
    can be folded first and asked later.

    Raises:
        ValueError: if it has none and is folded.
    """
    if any(note.kind == "description" for note in graph.notes):
        return graph
    graph.check_whole("diagnose first, then fold")
    marked = replace(graph, skip_paths=graph.skip_paths or skip_paths(graph))
    said = Note("description", (), description(marked))
    return replace(graph, notes=(*graph.notes, said, *notes_of_all_rules(marked)))


def findings(graph: Graph) -> tuple[Note, ...]:
    """What looks wrong in a graph: for each finding the places, the reason, and a reference."""
    return tuple(note for note in diagnose(graph).notes if note.kind == "finding")


def diagnosis_text(graph: Graph) -> str:
    """What `diagnose` says, for a terminal: what the model is, then what looks wrong in it.

    At the end, which layers may hold more than the graph shows, if there are any.
    """
    notes = diagnose(graph).notes
    wrong = [note for note in notes if note.kind == "finding"]
    said = [_wrapped(note.text) for note in notes if note.kind == "description"]
    said.append(f"{counted(len(wrong), 'finding')}:" if wrong else _FINE)
    for number, note in enumerate(wrong, start=1):
        indent = " " * len(mark := f"{number}. ")
        where = _wrapped(f"Where: {named(graph, note.about, most=5)}", indent)
        see = _wrapped(f"See: {note.reference}", indent)
        said.append("\n".join([_wrapped(note.text, mark), where, see]))
    if closed := closed_layers(graph):
        said.append(
            _wrapped(
                f"{counted(len(closed), 'layer')} that the graph does not look into: "
                f"{classes_in_words(closed)}. read_graph(model, open_nested=True, "
                "open_layers=True), on the command line --open-layers, opens those that are made "
                "of layers."
            )
        )
    return "\n\n".join(said)


def _wrapped(text: str, mark: str = "") -> str:
    """Lines of a paragraph, the first one after a mark and the others below its text."""
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=mark,
        subsequent_indent=" " * len(mark),
        break_long_words=False,
        break_on_hyphens=False,
    )
