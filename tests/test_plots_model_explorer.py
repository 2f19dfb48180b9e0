"""Graphs as JSON for Model Explorer."""

import json
from dataclasses import replace

import plots_models
import pytest

import plots
from plots.conformance import sample_graphs
from plots.hierarchy import find_namespaces
from plots.renderers import STREAM_COLOUR
from plots.skips import mark_skip_paths

# Fields of the dataclasses in graph_builder.py and node_data_builder.py of ai-edge-model-explorer
# 0.1.34, as far as they are used here: name -> type, or what is inside.
TEXT, NUMBER = str, (int, float)
NODE_IDS = {"type": TEXT, "nodeIds": [TEXT]}
KEY_VALUE = {"key": TEXT, "value": (TEXT, NODE_IDS)}
METADATA = {"id": TEXT, "attrs": [KEY_VALUE]}
EDGE = {"sourceNodeId": TEXT, "sourceNodeOutputId": TEXT, "targetNodeInputId": TEXT}
OVERLAY = {
    "name": TEXT,
    "edgeColor": TEXT,
    "edgeWidth": int,
    "edges": [{"sourceNodeId": TEXT, "targetNodeId": TEXT, "label": TEXT}],
}
NODE = {
    "id": TEXT,
    "label": TEXT,
    "namespace": TEXT,
    "attrs": [KEY_VALUE],
    "incomingEdges": [EDGE],
    "inputsMetadata": [METADATA],
    "outputsMetadata": [METADATA],
    "style": {"backgroundColor": TEXT, "borderColor": TEXT},
}
COLLECTION = {
    "label": TEXT,
    "graphs": [
        {
            "id": TEXT,
            "nodes": [NODE],
            "groupNodeAttributes": dict,
            "tasksData": {
                "edgeOverlaysDataListLeftPane": [
                    {"name": TEXT, "type": TEXT, "overlays": [OVERLAY]}
                ]
            },
        }
    ],
}


def fits(value, schema):
    """Return whether JSON has only fields of the schema, each of its type."""
    if isinstance(schema, dict):
        return isinstance(value, dict) and all(
            key in schema and fits(item, schema[key]) for key, item in value.items()
        )
    if isinstance(schema, list):
        return isinstance(value, list) and all(fits(item, schema[0]) for item in value)
    if isinstance(schema, tuple):
        return any(fits(value, one) for one in schema)
    return isinstance(value, schema)


def graph_in(text):
    return json.loads(text)["graphs"][0]


def said(node):
    return {entry["key"]: entry["value"] for entry in node["attrs"]}


@pytest.fixture(scope="module")
def graph():
    return mark_skip_paths(plots.read_graph(plots_models.encoder_decoder("pre", blocks=2)))


@pytest.fixture(scope="module")
def nodes(graph):
    return {node["id"]: node for node in graph_in(plots.to_model_explorer(graph))["nodes"]}


@pytest.mark.parametrize("sample", sample_graphs(large=False).values(), ids=lambda g: g.name)
def test_only_fields_of_the_format_are_written(sample):
    document = json.loads(plots.to_model_explorer(sample))
    assert fits(document, COLLECTION)
    assert set(document) == {"label", "graphs"}  # required by its loader of .json files


def test_every_call_has_its_namespace_and_its_edges_in_order(graph, nodes):
    namespaces = find_namespaces(graph)
    assert list(nodes) == [node.id for node in graph.nodes]
    for node_id, node in nodes.items():
        assert node["namespace"] == namespaces[node_id].replace(".", "/")
        assert [edge["sourceNodeId"] for edge in node["incomingEdges"]] == [
            edge.source for edge in graph.incoming[node_id]
        ]
        tags = [
            entry["value"]
            for item in node["inputsMetadata"]
            for entry in item["attrs"]
            if entry["key"] == "__tensor_tag"
        ]
        assert tags == [edge.port for edge in graph.incoming[node_id]]
    query = nodes["decoder.block_0.self_attention.query"]
    assert query["label"] == "query"
    assert said(query)["class"] == "EinsumDense"
    assert said(query)["equation"] == "bsd,dnh->bsnh"
    assert query["outputsMetadata"] == [
        {"id": "0", "attrs": [{"key": "tensor_shape", "value": "float32[?, ?, 3, 5]"}]}
    ]


def test_the_stream_is_an_edge_overlay_that_counts_bypassed_calls(graph):
    document = graph_in(plots.to_model_explorer(graph))
    (data,) = document["tasksData"]["edgeOverlaysDataListLeftPane"]
    assert data["type"] == "edge_overlays"
    (overlay,) = data["overlays"]
    assert overlay["edgeColor"] == STREAM_COLOUR
    pairs = {(edge["sourceNodeId"], edge["targetNodeId"]): edge for edge in overlay["edges"]}
    assert set(pairs) == set(graph.stream)
    merge = "decoder.block_1.feedforward.residual"
    path = next(path for path in graph.skip_paths if path.target == merge)
    assert pairs[path.source, merge]["label"] == "past 4 calls"  # norm, up, down, dropout


def test_calls_that_share_weights_refer_to_each_other():
    sample = sample_graphs(large=False)["a shared layer"]
    nodes = {n["id"]: n for n in graph_in(plots.to_model_explorer(sample))["nodes"]}
    key = "shares weights with"
    assert said(nodes["twice"])[key] == {"type": "node_ids", "nodeIds": ["twice@2"]}
    assert said(nodes["twice@2"])[key] == {"type": "node_ids", "nodeIds": ["twice"]}
    assert key not in said(nodes["both"])


def test_repeats_are_attributes_of_the_namespace(graph):
    folded = graph_in(plots.to_model_explorer(plots.fold(graph)))
    assert folded["groupNodeAttributes"]["decoder/block_0"] == {"repeats": "× 2"}


def test_overlays_are_files_of_node_data(graph, tmp_path):
    counted = {node.id: {"b": 2.0 * node.parameters} for node in graph.nodes if node.parameters}
    overlays = (
        plots.Overlay("flops", "operations", "FLOP", counted, {"b": 1e6}, sizes={"b": 3}),
        plots.Overlay("on edges", "RMS", "", {graph.edges[0].id: {"": 7.0}}),
    )
    annotated = replace(graph, name="a/b pair", overlays=overlays)
    paths = plots.model_explorer_files(annotated, tmp_path / "made")
    assert [path.name for path in paths] == [
        "a_b_pair.model_explorer.json",
        "a_b_pair.flops.node_data.json",
    ]  # values of edges are at the inputs of their calls
    document = graph_in(paths[0].read_text("utf-8"))
    data = json.loads(paths[1].read_text("utf-8"))
    assert list(data) == [document["id"]]
    results = data[document["id"]]["results"]
    assert {key: result["value"] for key, result in results.items()} == {
        node.id: 6 * node.parameters for node in graph.nodes if node.parameters
    }
    colours = {result["value"]: result["bgColor"] for result in results.values()}
    assert {result["bgColor"] for result in results.values()} == set(colours.values())
    assert colours[min(colours)] != colours[max(colours)]
    first = next(n for n in document["nodes"] if n["id"] == graph.edges[0].target)
    assert {"key": "RMS", "value": "7"} in first["inputsMetadata"][0]["attrs"]


def test_the_longest_suffix_selects_the_format(graph, tmp_path):
    for name in ("graph.model_explorer.json", "graph.json"):
        plots.draw(graph, tmp_path / name, plugins=())
    assert (tmp_path / "graph.model_explorer.json").read_text("utf-8") == plots.to_model_explorer(
        graph
    )
    assert (tmp_path / "graph.json").read_text("utf-8") == graph.to_json()
