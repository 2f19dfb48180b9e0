"""Commands on graphs, run in this process."""

import keras
import pytest

import plots
from functional_models.cli import main

SMALL = ["--kind", "decoder_only", "--set", "num_layers=3", "--set", "vocabulary_size=13"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a pre-norm block without a final norm, as `.keras` and as JSON."""
    folder = tmp_path_factory.mktemp("models")
    x = keras.Input((5, 7), name="x")
    y = keras.layers.LayerNormalization(name="norm")(x)
    y = keras.layers.MultiHeadAttention(3, 11, name="attention")(y, y)
    y = keras.layers.Add(name="merge")([x, y])
    model = keras.Model(x, keras.layers.Dense(2, name="out")(y))
    model.save(folder / "block.keras")
    (folder / "block.json").write_text(plots.read_graph(model).to_json(), encoding="utf-8")
    return folder


def test_plugins_lists_every_plugin_and_every_format(capsys):
    assert main(["plugins"]) == 0
    printed = capsys.readouterr().out
    for plugin in plots.list_plugins().values():
        assert plugin.name in printed
        assert plugin.summary in printed
    for renderer in plots.list_renderers().values():
        assert ", ".join(renderer.suffixes) in printed


@pytest.mark.parametrize("model", ["block.keras", "block.json"])
def test_a_file_is_drawn_with_plugins(folder, tmp_path, capsys, model):
    to = tmp_path / "block.txt"
    plugin = "flops:sizes=null"
    arguments = ["plot", str(folder / model), "--plugin", "parameters", "--plugin", plugin]
    assert main([*arguments, "--to", str(to)]) == 0
    assert capsys.readouterr().out == f"{to}: 1 skip path\n"
    written = to.read_text("utf-8")
    graph = plots.read_graph(keras.saving.load_model(folder / "block.keras"))
    assert plots.list_plugins()["parameters"](graph).overlay("parameters").text("out") in written


def test_depth_folds_a_variant(tmp_path):
    sizes = {}
    for depth in ("1", "3"):
        to = tmp_path / f"{depth}.json"
        command = ["plot", "pre_norm_learned", *SMALL, "--depth", depth, "--to", str(to)]
        assert main(command) == 0
        graph = plots.Graph.from_json(to.read_text("utf-8"))
        sizes[depth] = len(graph.nodes)
        assert graph.repeats == {"decoder.block_0": 3}
    assert sizes["1"] < sizes["3"]


def test_diagnose_exits_with_code_1_if_it_reports_mistakes(folder, capsys):
    assert main(["diagnose", str(folder / "block.keras")]) == 1
    assert "final norm" in capsys.readouterr().out
    assert main(["diagnose", "pre_norm_learned", *SMALL]) == 0
    assert "Nothing looks wrong" in capsys.readouterr().out


def test_a_plugin_option_can_be_a_mapping(tmp_path):
    to = tmp_path / "model.json"
    sizes = "flops:sizes=t=7,sizes=b=3"
    assert main(["plot", "pre_norm_learned", *SMALL, "--plugin", sizes, "--to", str(to)]) == 0
    assert plots.Graph.from_json(to.read_text("utf-8")).overlay("flops").sizes == {"b": 3, "t": 7}


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plot", "gpt2_small", "--plugin", "flop"], "Did you mean 'flops'?"),
        (["plot", "gpt2_small", "--plugin", "fold:2"], "must be OPTION=VALUE"),
        (["plot", "gpt2_small", "--plugin", "fold:size=2"], "it has depth, blocks"),
        (["plot", "gpt2_small", "--to", "a.bmp"], "names no known format"),
        (["plot", "gpt2_small", "--to", "a.json", "--shapes"], "'json' cannot show shapes"),
        (["plot", "gpt2_smal"], "gpt2_small"),
        (["diagnose", __file__], "is not a model"),
    ],
)
def test_bad_arguments_exit_with_code_2_and_one_line(
    arguments, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_model_is_read_once_and_skip_paths_are_counted_before_folding(
    tmp_path, capsys, monkeypatch
):
    read, graphs = plots.read_graph, []

    def read_and_kept(*arguments, **options):
        graphs.append(read(*arguments, **options))
        return graphs[-1]

    for module in (plots.reading, plots.pictures):
        monkeypatch.setattr(module, "read_graph", read_and_kept)
    to = tmp_path / "model.txt"
    assert main(["plot", "pre_norm_learned", *SMALL, "--depth", "1", "--to", str(to)]) == 0
    [graph] = graphs
    assert capsys.readouterr().out == f"{to}: {len(plots.skip_paths(graph))} skip paths\n"
    assert len(plots.skip_paths(graph)) == 2 * 3


def test_a_path_does_not_decide_what_a_model_is(tmp_path, capsys):
    x = keras.Input((5,), dtype="int32")
    y = keras.layers.Embedding(11, 6)(x)
    y = keras.layers.Add()([y, keras.layers.MultiHeadAttention(2, 3)(y, y)])
    model = keras.Model(x, keras.layers.Dense(7)(keras.layers.LayerNormalization()(y)))
    told = []
    for folder in ("lm", "tagger"):
        (tmp_path / folder).mkdir()
        model.save(tmp_path / folder / "model.keras")
        assert main(["diagnose", str(tmp_path / folder / "model.keras")]) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
