"""`functional-models diff` and `plot`: exit codes, sources of models, and errors."""

import keras
import pytest
from keras import layers
from python_process import run_python

import plots
from functional_models.cli import main
from functional_models.graph_commands import read_model_or_graph

SMALL = ["--kind", "decoder_only", "--set", "num_layers=2", "--set", "vocabulary_size=97"]


class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x


def dense(units):
    x = keras.Input((3,), name="x")
    return keras.Model(x, layers.Dense(units, name="a")(x))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with valid and invalid files of models and graphs."""
    folder = tmp_path_factory.mktemp("graphs")
    for units in (5, 7):
        dense(units).save(folder / f"{units}.keras")
        graph = plots.read_graph(dense(units))
        (folder / f"{units}.json").write_text(graph.to_json(), encoding="utf-8")
    x = keras.Input((3,), name="x")
    keras.Model(x, Doubled()(x)).save(folder / "unknown.keras")
    (folder / "text.keras").write_text("no zip file")
    (folder / "other.json").write_text("{}")
    (folder / "notes.txt").write_text("no model")
    (folder / "nothing").mkdir()
    return folder


def run(folder, *arguments):
    return main(["diff", *(argument.replace("{}", str(folder)) for argument in arguments)])


def test_equal_models_exit_with_code_0(folder, capsys):
    assert run(folder, "{}/5.keras", "{}/5.json") == 0
    assert "no difference (2 calls, 20 parameters)" in capsys.readouterr().out


def test_different_models_exit_with_code_1_and_print_the_differences(folder, capsys):
    assert run(folder, "{}/5.json", "{}/7.keras") == 1
    printed = capsys.readouterr().out
    assert printed.startswith(f"{folder}/5.json -> {folder}/7.keras: 1 call changed\n")
    assert "~ a: units 5 -> 7" in printed


def test_variants_are_compared_by_name(capsys):
    assert main(["diff", "post_norm_learned", "pre_norm_learned", *SMALL]) == 1
    printed = capsys.readouterr().out
    assert "decoder.block_0, block_1 (2 x)\n  > feedforward.norm: after" in printed
    assert main(["diff", "pre_norm_learned", "pre_norm_learned", *SMALL]) == 0


def test_several_models_are_compared_in_a_table(folder, capsys):
    assert run(folder, "{}/5.json", "{}/5.keras", "{}/7.json") == 1
    table = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    assert [row.split()[0] for row in table[1:]] == ["1", "2", "3"]
    assert table[2].endswith("no difference")
    assert table[3].endswith("1 call changed")


def test_the_difference_is_drawn(folder, tmp_path, capsys):
    picture = tmp_path / "diff.svg"
    assert run(folder, "{}/5.json", "{}/7.json", "--to", str(picture), "--changes-only") == 1
    assert str(picture) in capsys.readouterr().out
    assert "units 5 → 7" in picture.read_text(encoding="utf-8")


def test_a_graph_in_a_file_is_drawn(folder, tmp_path, capsys):
    picture = tmp_path / "model.svg"
    assert main(["plot", str(folder / "5.json"), "--to", str(picture), "--shapes"]) == 0
    assert "0 skip paths" in capsys.readouterr().out
    assert "(None, 5)" in picture.read_text(encoding="utf-8")


def test_the_graph_of_a_model_folder_is_read_without_weights(tmp_path):
    import builders
    from functional_models.model_folder import ModelFolder, write_model_folder

    sizes = {"num_layers": 1, "vocabulary_size": 97, "hidden_dim": 6, "num_heads": 2}
    spec = builders.variant("pre_norm_learned", kind="decoder_only", intermediate_dim=7, **sizes)
    write_model_folder(tmp_path, ModelFolder(spec, builders.build(spec), {}))
    for weights in tmp_path.glob("weights-*"):
        weights.unlink()
    read = plots.read_graph(read_model_or_graph(str(tmp_path), {}))
    built = plots.read_graph(builders.build(spec, abstract=True))
    assert plots.compare_graphs(read, built).is_empty


BAD = [
    (["{}/none.keras"], "there is no file"),
    (["{}/none.json"], "there is no file"),
    (["{}/none"], "there is no file or folder"),
    (["{}/nothing"], "is not a complete model folder"),
    (["{}/text.keras"], "text.keras is not a .keras file"),
    (["{}/unknown.keras"], "unknown.keras cannot be loaded: TypeError: Could not locate class"),
    (["{}/other.json"], "other.json: not a graph"),
    (["{}/notes.txt"], "notes.txt is not a model: give a variant, a model folder, a .keras file"),
    (["gpt2_smal"], "did you mean 'gpt2_small'"),
    (["{}/5.json", "{}/5.json", "--to", "x.svg"], "--to draws two models, and 3 were given"),
    (["{}/5.json", "--to", "x.bmp"], "'.bmp' names no known format"),
    (["{}/7.json", "--to", "x.svg", "--depth", "-1"], "depth is -1; it must be a number of levels"),
    (["{}/7.json", "--depth", "2"], "apply to the picture: also give --to FILE"),
    (["{}/7.keras", "--set", "num_layers=2"], "has no spec, so num_layers cannot be changed"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_errors_exit_with_code_2_and_one_line(
    folder, capsys, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert run(folder, "{}/5.json", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_graphs_in_files_are_compared_without_keras(folder):
    code = (
        "import sys\n"
        "from functional_models.cli import main\n"
        f"assert main(['diff', {str(folder / '5.json')!r}, {str(folder / '7.json')!r}]) == 1\n"
        "assert 'keras' not in sys.modules\n"
    )
    run_python(code)


@keras.saving.register_keras_serializable()
class Wrapped(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(units, name="inner")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)

    def get_config(self):
        return super().get_config() | {"units": self.inner.units}


def test_open_layers_compares_nested_layers(tmp_path, capsys):
    for units in (5, 7):
        x = keras.Input((3,), name="x")
        keras.Model(x, Wrapped(units, name="block")(x)).save(tmp_path / f"{units}.keras")
    for open_layers in (False, True):
        options = ["--open-layers"] * open_layers
        assert run(tmp_path, "{}/5.keras", "{}/7.keras", *options) == 1
        assert ("inner" in capsys.readouterr().out) == open_layers
