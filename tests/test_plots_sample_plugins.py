"""An installed package adds a graph plugin and a renderer.

`sample_plugins/` is installed and used by a new process, which does not need Keras.
"""

import csv
import json
from pathlib import Path

import pytest
from installed_packages import ROOT, install, run_python

import plots
from plots.conformance import sample_graphs

USE = """
import json, sys, warnings
from pathlib import Path

import plots
from plots.conformance import check_plugin, check_renderer

folder = Path(sys.argv[1])
graph = plots.Graph.from_json((folder / "graph.json").read_text("utf-8"))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    listed = {name: plugin.summary for name, plugin in plots.list_plugins().items()}
    formats = {name: renderer.summary for name, renderer in plots.list_renderers().items()}
    steps = ["skip_paths", ("fan_in", {"factor": 3})]
    plots.draw(graph, folder / "graph.csv", plugins=steps)
    plots.draw(graph, folder / "graph.svg", plugins=steps)
refused = {}
for name, call in {
    "plugin": lambda: plots.apply_plugins(graph, ["fan_inn"]),
    "broken": lambda: plots.draw(graph, folder / "broken.svg", plugins=["fails", "fan_in"]),
    "option": lambda: plots.apply_plugins(graph, [("fan_in", {"colour": "red"})]),
    "format": lambda: plots.draw(graph, folder / "graph.bmp"),
    "renderer": lambda: plots.draw(graph, folder / "graph.csv", renderer="cvs"),
}.items():
    try:
        call()
    except ValueError as error:
        refused[name] = str(error)
check_plugin("fan_in", sample_graphs := plots.conformance.sample_graphs(large=False))
check_renderer("csv", sample_graphs)
found = {"listed": listed, "formats": formats, "refused": refused}
found["warnings"] = [str(warning.message) for warning in caught]
found["keras_was_needed"] = "keras" in sys.modules
(folder / "found.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the output of a process that has the package installed."""
    folder = tmp_path_factory.mktemp("sample_plugins")
    (folder / "graph.json").write_text(sample_graphs()["a residual stream"].to_json(), "utf-8")
    run_python(USE, folder, path=(ROOT, install("sample_plugins", folder)))
    return folder


def found_in(used: Path) -> dict:
    return json.loads((used / "found.json").read_text("utf-8"))


def test_plugins_of_an_installed_package_are_listed_with_the_built_in_ones(used: Path) -> None:
    found = found_in(used)
    assert found["listed"]["fan_in"] == "Number of tensors that every call takes."
    assert found["formats"]["csv"] == "One row per call, for spreadsheets."
    assert set(found["listed"]) >= set(plots.list_plugins())
    assert set(found["formats"]) >= set(plots.list_renderers())
    assert not found["keras_was_needed"]


def test_its_plugin_and_its_renderer_are_used_by_name(used: Path) -> None:
    head, *rows = csv.reader((used / "graph.csv").read_text("utf-8").splitlines())
    assert head == ["call", "class", "parameters", "tensors taken"]
    taken = {row[0]: row[3] for row in rows}
    assert taken["tokens"] == "0"
    assert taken["logits"] == "3"
    assert taken["decoder.block_1.attention.residual"] == "6"


def test_a_plugin_that_cannot_be_imported_is_skipped_with_a_warning(used: Path) -> None:
    [missing] = found_in(used)["warnings"]
    assert "the entry point 'missing' of the group 'functional_models.graph_plugins'" in missing
    assert "ModuleNotFoundError: No module named 'fan_in.no_such_module'" in missing
    assert ">6<" in (used / "graph.svg").read_text("utf-8")


def test_a_plugin_that_fails_is_an_error_and_no_picture_is_written(used: Path) -> None:
    assert "the graph plugin 'fails' failed: KeyError" in found_in(used)["refused"]["broken"]
    assert not (used / "broken.svg").exists()


def test_unknown_names_raise_an_error_with_the_known_ones(used: Path) -> None:
    refused = found_in(used)["refused"]
    assert "no graph plugin 'fan_inn'. Did you mean 'fan_in'?" in refused["plugin"]
    assert "skip_paths" in refused["plugin"]
    assert "'fan_in' has no option 'colour'; it has factor" in refused["option"]
    assert "'.bmp' names no known format. Known are .csv, .dot" in refused["format"]
    assert "no graph renderer 'cvs'. Did you mean 'csv'?" in refused["renderer"]
    assert "mermaid" in refused["renderer"]
