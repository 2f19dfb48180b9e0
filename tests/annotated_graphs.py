"""A small decoder with something of all that is shown: an overlay, a finding, a picture."""

import base64
from dataclasses import replace

import keras
import plots_models

import plots
from plots import Note, Overlay
from plots.skips import mark_skip_paths

BLOCKS = 3
ATTENTION = "decoder.block_0.self_attention"
PIXEL = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\10\0\0\0\0:~\x9bU\0\0\0\nIDATx\x9cc`\0\0\0\2\0\1H"
    b"\xaf\xa4q\0\0\0\0IEND\xaeB`\x82"
).decode()


def graph_of(model: keras.Model) -> plots.Graph:
    return mark_skip_paths(plots.read_graph(model))


def annotated_decoder() -> plots.Graph:
    """Three pre-norm blocks, with an overlay, a finding and a picture."""
    graph = graph_of(plots_models.decoder_only("pre", BLOCKS))
    weights = {n.id: {"": float(n.parameters)} for n in graph.nodes if n.parameters}
    overlay = Overlay("parameters", "weights", "", weights, whole={"": float(graph.parameters)})
    finding = Note(
        "finding", ("decoder.block_1.feedforward.up",), "It is <b>too</b> wide.", "page 7"
    )
    return replace(
        graph, overlays=(overlay,), notes=(finding,), pictures={f"{ATTENTION}.query": PIXEL}
    )
