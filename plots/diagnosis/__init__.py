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

import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from plots.annotations import NormPlace, Note, SkipPath, counted, number_text
from plots.attentions import Attention, Masked, attentions_with_masks
from plots.costs.flop_rules import is_known
from plots.diagnosis import (  # noqa: F401 - they register their rules
    attention_rules,
    cross_attention_rules,
    head_rules,
    mask_rules,
    merge_rules,
    norm_rules,
    score_mask_rules,
)
from plots.diagnosis.rules import diagnosis_rule, listed, named, notes_of_all_rules
from plots.diagnosis.running import takes_models
from plots.diagnosis.signal_rules import meets_a_norm
from plots.graph import Graph, Node
from plots.layers import ATTENTION_LAYERS, is_additive_merge, is_norm
from plots.registry import graph_plugin
from plots.skips import residual_streams, skip_paths, stream_roots
from plots.traversal import Reachability

__all__ = ["diagnose", "diagnosis_rule", "diagnosis_text", "findings"]

_WIDTH = 88
_FINE = "Nothing looks wrong in what the graph shows."
_CLOSED_TRANSFORMER = re.compile(r"(?!.*(Patch|Position)).*(Transformer|Encoder|Decoder)")
_PLACES: dict[NormPlace, str] = {
    "branch_start": "first on the branch",
    "branch_end": "last on the branch",
    "stream": "on the stream",
}
_POSITIONS = {  # words in the name of a call or its class
    "rotary": r"rotary|rope\b",
    "sinusoidal": r"sinusoid|sine_?position",
    "ALiBi": r"alibi",
    "relative": r"relative",
}
_POSITION_ROLES = {
    f"{kind.lower()}_positions": kind
    for kind in ("rotary", "sinusoidal", "ALiBi", "relative", "learned")
}


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
    if any(note.kind == "description" for note in graph.notes):
        return graph
    graph.check_whole("diagnose first, then fold")
    marked = replace(graph, skip_paths=graph.skip_paths or skip_paths(graph))
    described = Note("description", (), _description(marked))
    return replace(graph, notes=(*graph.notes, described, *notes_of_all_rules(marked)))


@takes_models
def findings(graph: Graph) -> tuple[Note, ...]:
    """Return the mistakes in a graph, each with its places, the reason, and a reference."""
    return tuple(note for note in diagnose(graph).notes if note.kind == "finding")


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
    if closed := [node for node in _closed_layers(graph) if node.id not in explained]:
        parts.append(
            _wrap(
                f"{counted(len(closed), 'layer')} that the graph does not open: "
                f"{_classes_in_words(closed)}. read_graph(model, open_nested=True, "
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


def _description(graph: Graph) -> str:
    """Return one sentence about a model: "Pre-norm Transformer decoder: 12 blocks with ..."."""
    attentions, flow, masked = attentions_with_masks(graph)
    closed = _closed_layers(graph)
    transformers = [node for node in closed if _CLOSED_TRANSFORMER.match(node.class_name)]
    has_blocks = any(attention.is_self for attention in attentions) or bool(graph.skip_paths)
    convolutions = [
        path
        for path in graph.skip_paths
        if any("Conv2D" in graph.node(node_id).class_name for node_id in path.bypassed)
    ]
    if attentions and has_blocks and len(attentions) >= len(convolutions):
        text = _of_transformer(graph, attentions, masked, flow)
    elif transformers:
        text = _of_closed_layers(graph, transformers, flow)
    elif graph.skip_paths:
        text = _of_residual_network(graph, len(attentions))
    else:
        layers = len({node.layer for node in graph.nodes if node.parameters})
        has = f"with {counted(len(attentions), 'attention')} and no" if attentions else "without"
        text = f"Network {has} skip paths{' that the graph shows' if closed else ''}: "
        text += f"{counted(layers, 'layer')} with weights"
        text += f", {len(closed)} of them closed ({_classes_in_words(closed)})" if closed else ""
    return f"{text}; {number_text(graph.parameters)} parameters."


def _of_transformer(
    graph: Graph,
    attentions: Sequence[Attention],
    masked: Mapping[str, Masked],
    flow: Reachability,
) -> str:
    crosses = [attention for attention in attentions if not attention.is_self]
    parts: dict[str, list[Attention]] = {"encoder": [], "decoder": [], "": []}
    streams = stream_roots(graph)
    decoding = frozenset[str]().union(*(streams.get(c.output, frozenset()) for c in crosses))
    for attention in attentions:
        if attention.is_self:
            causal = masked[attention.id].causal
            is_with_cross = not decoding.isdisjoint(streams.get(attention.output, ()))
            part = "encoder" if crosses or causal is False else ""  # "" if the graph does not tell
            parts["decoder" if causal or is_with_cross else part].append(attention)
    if not any(parts.values()):
        parts["decoder"] = crosses
    elif not crosses and parts["decoder"]:  # one stack, though not all of it may be masked
        parts = {"decoder": [attention for attention in attentions if attention.is_self]}
    parts = {part: own for part, own in parts.items() if own}
    paths = [path for stream in residual_streams(graph) for path in stream.paths]
    title = f"{_norms_in_words(paths)}Transformer {'-'.join(part for part in parts if part)}"
    blocks = (
        counted(len(own), f"{part} block" if part and len(parts) > 1 else "block")
        for part, own in parts.items()
    )
    residual = counted(len(paths), "residual path") if paths else "no skip paths"
    clauses = [
        f"{' and '.join(blocks)} with {residual}{_final_norm_in_words(graph)}",
        _attentions_in_words(parts, masked, bool(crosses)),
        _positions_in_words(graph, flow),
    ]
    return f"{title.strip()}: {'; '.join(clauses)}"


def _norms_in_words(paths: Sequence[SkipPath]) -> str:
    """Return how sublayers are normalised, without paths inside of one, such as an adapter's."""
    inside = {node_id for path in paths for node_id in path.bypassed}
    outer = [path for path in paths if path.target not in inside]
    if not outer:
        return ""
    placements = {path.placement for path in outer}
    if all("branch_start" in path.norms for path in outer):
        return "Sandwich-norm " if placements == {"sandwich"} else "Pre-norm "
    if len(placements) > 1:
        return "Mixed-norm "
    names = {"post": "Post-norm ", "branch_end": "Res-post-norm "}
    return names.get(placements.pop(), "Norm-free ")


def _final_norm_in_words(graph: Graph) -> str:
    ends = [stream.paths[-1] for stream in residual_streams(graph) if stream.has_token_norms(graph)]
    pre = [path.target for path in ends if "branch_start" in path.norms]
    return ", final norm" if pre and all(meets_a_norm(graph, end) for end in pre) else ""


def _attentions_in_words(
    parts: Mapping[str, Sequence[Attention]], masked: Mapping[str, Masked], crosses: bool
) -> str:
    kinds = []
    for part, own in parts.items():
        seen = {masked[a.id].causal for a in own if a.is_self}
        if seen:
            causal = "causal " if seen == {True} else ""
            directions = " in both directions" if seen == {False} else ""
            where = f" in the {part}" if part and len(parts) > 1 else ""
            kinds.append(f"{causal}self-attention{directions}{where}")
    return ", ".join(kinds + ["cross-attention"] * crosses)


def _positions_in_words(graph: Graph, flow: Reachability) -> str:
    found: dict[str, None] = {}
    for node in graph.nodes:
        name = f"{node.class_name} {node.label}".lower()
        named = [word for word, pattern in _POSITIONS.items() if re.search(pattern, name)]
        named = [_POSITION_ROLES[node.role]] if node.role in _POSITION_ROLES else named
        tables = [constant.pattern for constant in node.constants if is_additive_merge(node)]
        if named or "sinusoids" in tables:
            found[named[0] if named else "sinusoidal"] = None
        elif node.parameters and (
            "position" in name or (node.is_a({"Embedding"}) and not flow.depends_on_input(node.id))
        ):
            found["learned"] = None
    return f"{' and '.join(found)} positions" if found else "no positions that the graph shows"


def _of_closed_layers(graph: Graph, closed: Sequence[Node], flow: Reachability) -> str:
    kinds = [k for k in ("Encoder", "Decoder") if any(k in node.class_name for node in closed)]
    first = {node.config.get("normalize_first") for node in closed}
    norms = "Pre-norm " if first == {True} else "Post-norm " if first == {False} else ""
    title = f"{norms}Transformer {'-'.join(kinds).lower()}".strip()
    layers = f"{counted(len(closed), 'closed layer')} ({_classes_in_words(closed)})"
    positions = _positions_in_words(graph, flow)
    return f"{title}: {layers}, which the graph does not open; {positions}"


def _of_residual_network(graph: Graph, attentions: int) -> str:
    paths = graph.skip_paths
    projected = sum(path.projected for path in paths)
    text = counted(len(paths), "residual path")
    text += f", {projected} of them projected" if projected else ""
    text += f", {counted(attentions, 'attention')}" if attentions else ""
    norms = Counter(node.class_name for node in graph.nodes if is_norm(node)).most_common(1)
    places = Counter(place for path in paths for place in path.norms).most_common(1)
    if norms:
        usual = places and 2 * places[0][1] > len(paths)
        text += f"; {norms[0][0]}" + (f" {_PLACES[places[0][0]]}" if usual else "")
    return f"Residual network: {text}"


def _closed_layers(graph: Graph) -> list[Node]:
    """Return the first calls of layers and models that the graph does not open.

    Those are models, layers named after a whole Transformer or a part of it, and layers with
    weights of an unknown class.
    """
    return [
        node
        for node in graph.nodes
        if node.layer == node.id
        and node.kind in ("layer", "model")
        and (
            node.kind == "model"
            or _CLOSED_TRANSFORMER.match(node.class_name)
            or (node.parameters and not is_known(node) and not node.is_a(ATTENTION_LAYERS))
        )
    ]


def _classes_in_words(nodes: Sequence[Node]) -> str:
    """Return the classes of some calls, each once: "TransformerEncoder and TransformerDecoder"."""
    return listed(list(dict.fromkeys(node.class_name for node in nodes)), most=4)
