"""Describe a model in plain words, and find what looks wrong in it.

    plots.findings(graph)                        # faults, with places and references
    print(plots.diagnosis_text(graph))           # a description, the findings and the remarks
    plots.draw(model, "model.svg", plugins=["skip_paths", "diagnose"], depth=2)

A finding is a mistake. A remark is about something that is often a mistake, and that a good model
may mean. A diagnosis is a list of rules, each a function from a graph to findings and remarks.
Other packages add theirs:

    @plots.diagnosis_rule("dropout_before_logits")
    def dropout_before_logits(graph: plots.Graph) -> Iterator[plots.Note]:
        '''A dropout right before the logits.'''
        ...

Rules use the graph only, and do not guess the computation inside a layer.
"""

from __future__ import annotations

import textwrap
from dataclasses import replace

from plots.annotations import Note, counted
from plots.diagnosis import (  # noqa: F401 - they register their rules
    attention_rules,
    convolution_rules,
    cross_attention_rules,
    embedding_rules,
    gate_rules,
    gradient_rules,
    head_rules,
    input_rules,
    linear_rules,
    loss_rules,
    mask_rules,
    merge_rules,
    modulation_rules,
    norm_rules,
    number_rules,
    padding_value_rules,
    placement_rules,
    pooling_rules,
    position_rules,
    recurrent_rules,
    reshape_rules,
    score_mask_rules,
    score_rules,
    sharing_rules,
    shortcut_rules,
    skip_path_rules,
    token_rules,
    triangle_rules,
    weighting_rules,
)
from plots.diagnosis.closed import closed_layers
from plots.diagnosis.description import description_of
from plots.diagnosis.parts_in_words import classes_in_words
from plots.diagnosis.rules import diagnosis_rule, named, notes_of_all_rules
from plots.diagnosis.running import takes_models
from plots.graph import Graph
from plots.registry import graph_plugin
from plots.skips import skip_paths
from plots.traversal import without_unused_weights

__all__ = ["diagnose", "diagnosis_rule", "diagnosis_text", "findings"]

_WIDTH = 88
_FINE = "Nothing looks wrong in what the graph shows."


@takes_models
@graph_plugin("diagnose")
def diagnose(graph: Graph) -> Graph:
    """Description, findings and remarks on attention, norms, skip paths, masks, gradients, losses.

    Adds a note of the kind "description" about the whole graph, one of the kind "finding" for each
    mistake, and one of the kind "remark" for what is often a mistake and may be meant. A graph that
    has them already is returned unchanged, so that it can be folded after it was diagnosed.

    Raises:
        ValueError: if it has none and is folded.
    """
    if _is_diagnosed(graph):
        return graph
    marked = _with_skip_paths(graph)
    described = Note("description", (), description_of(marked))
    return replace(graph, notes=(*graph.notes, described, *notes_of_all_rules(marked)))


def _is_diagnosed(graph: Graph) -> bool:
    return any(note.kind == "description" for note in graph.notes)


def _with_skip_paths(graph: Graph) -> Graph:
    graph.check_whole("diagnose first, then fold")
    calls = without_unused_weights(graph)
    return replace(calls, skip_paths=graph.skip_paths or skip_paths(calls))


@takes_models
def findings(graph: Graph) -> tuple[Note, ...]:
    """Return the mistakes in a graph, each with its places, the reason, and a reference."""
    notes = graph.notes
    if not _is_diagnosed(graph):
        notes = (*notes, *notes_of_all_rules(_with_skip_paths(graph)))
    return tuple(note for note in notes if note.kind == "finding")


@takes_models
def diagnosis_text(graph: Graph) -> str:
    """Return the diagnosis as text for a terminal: description, findings, then remarks.

    At the end it names the layers that the graph does not open, if there are any, with the reason
    where `read_graph` was asked to open them.
    """
    notes = diagnose(graph).notes
    by_kind = {
        kind: [note for note in notes if note.kind == kind] for kind in ("finding", "remark")
    }
    parts = [_wrap(note.text) for note in notes if note.kind == "description"]
    for kind, found in by_kind.items():
        if found:
            what = " that may be meant" if kind == "remark" else ""
            parts.append(f"{counted(len(found), kind)}{what}:")
        elif kind == "finding":
            parts.append(_FINE if not by_kind["remark"] else "No findings.")
        for number, note in enumerate(found, start=1):
            indent = " " * len(mark := f"{number}. ")
            where = _wrap(f"Where: {named(graph, note.about, most=5)}", indent)
            see = _wrap(f"See: {note.reference}", indent)
            parts.append("\n".join([_wrap(note.text, mark), where, see]))
    reasons = [note for note in graph.notes if note.kind == "closed"]
    parts += [_wrap(note.text) for note in reasons]
    explained = {node_id for note in reasons for node_id in note.about}
    closed = [node for node in closed_layers(graph) if node.id not in explained]
    openable = [node for node in closed if node.opens_with]
    if openable:
        parts.append(
            _wrap(
                f"{counted(len(openable), 'layer')} that the graph does not open: "
                f"{classes_in_words(openable)}. read_graph(model, open_nested=True, "
                "open_layers=True), on the command line --open-layers, opens those that are made "
                "of layers."
            )
        )
    if others := [node for node in closed if not node.opens_with]:
        what = f"{counted(len(others), 'layer')} without layers inside, of an unknown class"
        parts.append(_wrap(f"{what}, which the graph does not open: {classes_in_words(others)}."))
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
