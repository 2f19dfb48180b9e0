"""Names complete, objects say what they are, and a wrong argument gets the right advice."""

import importlib
import os
import pydoc
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from small_text_models import text_model

import builders
import functional_models as fm
import plots
from builders.errors import similar_names
from functional_models.checks import check_is_text
from functional_models.corpora import ParallelCorpus, TextCorpus

ROOT = Path(__file__).parent.parent

# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("package", [fm, builders, plots])
def test_every_public_name_completes_exists_and_is_documented(package):
    assert set(package.__all__) <= set(dir(package))
    text = pydoc.plain(pydoc.render_doc(package))
    for name in package.__all__:
        value = getattr(package, name)
        assert value.__doc__, name
        assert re.search(rf"^ +(class )?{name}\b", text, re.M), name


@pytest.mark.parametrize("package", [fm, builders, plots])
def test_only_public_names_and_modules_complete(package):
    others = {name for name in dir(package) if not name.startswith("__")} - set(package.__all__)
    for name in others:
        assert getattr(package, name).__name__ in (name, f"{package.__name__}.{name}")
    assert {"__doc__", "__name__", *package.__all__} <= set(dir(package))
    assert others.isdisjoint({"Any", "TYPE_CHECKING", "sys", "import_module", "ModuleType"})


@pytest.mark.parametrize(
    ("package", "given", "meant"),
    [
        (fm, "CausalLm", "CausalLM"),
        (fm, "load_tokeniser", "load_tokenizer"),
        (fm, "plot", "plots"),
        (builders, "build_decoder", "build_decoder_only"),
        (builders, "transformer_spec", "TransformerSpec"),
        (plots, "drow", "draw"),
        (plots, "Skip_paths", "skip_paths"),
    ],
)
def test_a_misspelt_attribute_names_the_similar_public_one(package, given, meant):
    message = f"module '{package.__name__}' has no attribute '{given}'; did you mean '{meant}'?"
    with pytest.raises(AttributeError, match=re.escape(message)):
        getattr(package, given)
    assert not hasattr(package, "__no_such_name__")


@pytest.mark.parametrize("package", [fm, builders, plots])
def test_a_misspelt_attribute_gets_python_s_suggestion(package):
    with pytest.raises(AttributeError) as caught:
        package.no_such_name  # noqa: B018
    assert caught.value.name == "no_such_name"  # Python compares it with `dir(obj)`
    assert caught.value.obj is package


def test_the_packages_have_names_that_do_not_collide():
    from functional_models.plots import draw

    assert draw is plots.draw
    assert fm.plots is plots
    assert fm.builders is builders
    curves = importlib.import_module("functional_models.plots.figures.curves")
    assert curves is importlib.import_module("plots.figures.curves")
    assert curves.__spec__.name == curves.__name__ == "plots.figures.curves"


def run(code, folder, *arguments):
    return subprocess.run(
        [sys.executable, *arguments, *(["-c", code] if code else [])],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ["plots.py", "builders/__init__.py"])
def test_a_file_with_the_name_of_a_package_is_reported_and_not_imported(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("raise SystemExit('imported')")
    done = run("", tmp_path, "-m", "functional_models", "variants", "--kind", "encoder_only")
    assert done.returncode == 0, done.stderr
    assert "bert_base" in done.stdout
    assert done.stderr.count("\n") == 1
    package = name.partition(".")[0].partition("/")[0]
    place = tmp_path / name.removesuffix("/__init__.py")
    assert done.stderr.startswith(f"functional-models: {place} has the name of {package}, ")
    code = "import functional_models.plots.skips as a, plots.skips as b; print(a is b)"
    done = run(code, tmp_path)
    assert done.stdout == "True\n", done.stderr
    assert f"{place} has the name of {package}" in done.stderr
    (tmp_path / name).write_text("")
    done = run(f"import {package}, functional_models", tmp_path)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: functional_models needs its package {package}, and ")
    assert str(place) in last


def test_a_folder_of_files_with_the_name_of_a_package_is_not_reported(tmp_path):
    (tmp_path / "plots").mkdir()
    done = run("import functional_models.plots as p; print(p.draw.__name__)", tmp_path)
    assert (done.stdout, done.stderr) == ("draw\n", "")


# --- imports ---------------------------------------------------------------------------------

FAKE = """
import os, sys, types
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
class Fake(MetaPathFinder, Loader):
    def find_spec(self, name, path, target=None):
        return ModuleSpec(name, self) if name == "tensorflow" else None
    def exec_module(self, module):
        os.write(2, b"I0000 00:00:1.2 3 port.cc:153] a notice\\n")
        os.write(2, b"E0000 00:00:1.2 3 port.cc:154] an error\\n")
        print("a message", file=sys.stderr)
        {then}
sys.meta_path.insert(0, Fake())
import builders, tensorflow
print(os.environ["TF_CPP_MIN_LOG_LEVEL"])
"""


@pytest.mark.parametrize(
    ("given", "then", "left_out"),
    [(None, "pass", True), ("0", "pass", False), ("2", "1 / 0", True)],
)
def test_notices_of_tensorflow_are_left_out_and_errors_are_not(given, then, left_out):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    environment |= {} if given is None else {"TF_CPP_MIN_LOG_LEVEL": given}
    command = [sys.executable, "-c", FAKE.format(then=then)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert "an error" in done.stderr
    assert "a message" in done.stderr
    assert ("a notice" not in done.stderr) == left_out
    if then == "pass":
        assert done.stdout.strip() == given or (given is None and done.stdout.strip() in "23")
    else:
        assert "ZeroDivisionError" in done.stderr


def test_a_crash_while_notices_are_left_out_is_reported():
    done = run(FAKE.format(then="os.abort()"), ROOT)
    assert done.returncode < 0
    assert "Fatal Python error: Aborted" in done.stderr
    assert "exec_module" in done.stderr


def test_the_program_returns_the_code_of_the_command_and_skips_the_last_collection(monkeypatch):
    done = []
    monkeypatch.setattr("functional_models.cli.main", lambda: done.append("main") or 7)
    monkeypatch.setattr("gc.freeze", lambda: done.append("freeze"))
    assert importlib.import_module("functional_models.__main__").run() == 7
    assert done == ["main", "freeze"]


# --- what objects say ------------------------------------------------------------------------


def test_a_text_model_says_what_it_is(tmp_path):
    lm, translator = text_model("decoder_only"), text_model("encoder_decoder")
    assert repr(lm).startswith("<CausalLM: pre norm, learned positions, 1 block of width ")
    assert f"{lm.model.count_params():,} parameters; byte Tokenizer of 256 tokens" in repr(lm)
    assert keras.backend.backend() in repr(lm)
    assert re.match(r"<Translator: .* \d \+ \d blocks of width", repr(translator))
    assert str(tmp_path) not in repr(lm)
    lm.save(tmp_path)
    assert repr(lm).endswith(f"; {tmp_path}>")
    assert repr(fm.load(tmp_path)) == repr(lm) == repr(fm.CausalLM.load(tmp_path))
    shown = lm._repr_html_()
    assert "<svg" in shown
    assert "&lt;CausalLM: " in shown


def test_a_model_of_a_variant_is_named_after_it(monkeypatch):
    from functional_models.descriptions import spec_line

    spec = builders.variant("post_norm_learned", vocabulary_size=31, pad_token_id=3)
    assert spec_line(spec) == "post_norm_learned, 2 + 2 blocks of width 96"
    assert spec_line(spec.replace(num_layers=1)).startswith("post norm, learned positions, ")


SHORT = [
    TextCorpus("a book", ("x" * 12345, "y"), ()),
    ParallelCorpus("pairs", (("a", "b"),) * 999, (), ()),
    fm.train_tokenizer("byte", []),
    fm.AttentionMaps(("a",), (), {"decoder": np.zeros((2, 99, 99))}),
    fm.InverseSquareRoot(0.5, 7),
    fm.TokenCrossEntropy(label_smoothing=0.1),
    fm.make_sampler("beam", repetition_penalty=1.5, min_p=0.1),
    fm.make_sampler("beam", num_beams=7),
    plots.AttentionMap("self", np.zeros((1, 2, 99, 99))),
]


@pytest.mark.parametrize("thing", SHORT, ids=lambda thing: type(thing).__name__)
def test_what_is_printed_is_short_and_has_no_address(thing):
    text = repr(thing)
    public = fm.Tokenizer if isinstance(thing, fm.Tokenizer) else type(thing)
    assert public.__name__ in text
    assert len(text) < 200
    assert " at 0x" not in text


def test_what_is_printed_has_the_content():
    corpus, pairs, *_ = map(repr, SHORT)
    assert corpus == (
        "<TextCorpus 'a book': 2 documents (12,346 characters) of training, "
        "0 documents (0 characters) of validation, 0 documents (0 characters) of test>"
    )
    assert "999 pairs of training, 0 pairs of validation" in pairs
    assert repr(SHORT[4]) == "InverseSquareRoot(peak=0.5, warmup_steps=7)"


def test_a_difference_is_printed_by_its_numbers(mlp):
    graph = plots.read_graph(mlp)
    same = plots.compare_graphs(graph, graph)
    assert repr(same) == f"<Difference of {graph.name!r} and {graph.name!r}: none>"


# --- similar names ---------------------------------------------------------------------------

NAMES = ["gpt1", "gpt2_small", "gpt2_xl", "gpt3_small", "opt_125m", "llama3_8b", "llama3.2_1b"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("gpt2", ["gpt2_small", "gpt2_xl"]),
        ("GPT-2", ["gpt2_small", "gpt2_xl"]),
        ("gpt2 small", ["gpt2_small"]),
        ("gtp2_small", ["gpt2_small"]),
        ("llama", ["llama3_8b", "llama3.2_1b"]),
        ("125m", ["opt_125m"]),
        ("transformer", []),
        ("", []),
        (None, []),
    ],
)
def test_the_beginning_of_a_name_comes_before_its_spelling(given, expected):
    assert similar_names(given, NAMES) == expected


@pytest.mark.parametrize(
    ("field", "meant"),
    [("d_model", "hidden_dim"), ("n_layer", "num_layers"), ("vocab_size", "vocabulary_size")],
)
def test_the_terms_of_other_libraries_are_known(field, meant):
    for make in (builders.TransformerSpec, builders.variant("gpt2_small").replace):
        with pytest.raises(ValueError, match=rf"'{field}' \(did you mean '{meant}'\?\)"):
            make(**{field: 3})


# --- arguments in each other's place ---------------------------------------------------------


@pytest.fixture(scope="module")
def mlp():
    x = keras.Input((5,), name="x")
    return keras.Model(x, keras.layers.Dense(3, name="dense")(x), name="mlp")


TAKE_GRAPHS = [
    plots.skip_paths,
    plots.axes_of,
    plots.fold_blocks,
    plots.to_text,
    plots.to_html,
    lambda model: plots.apply_plugins(model, ["flops"]),
    lambda model: plots.compare_graphs(plots.Graph("empty", (), (), (), (), 0, 0), model),
    *(plugin.function for plugin in plots.list_plugins().values()),
    *(renderer.function for renderer in plots.list_renderers().values()),
]


@pytest.mark.parametrize("function", TAKE_GRAPHS)
def test_a_model_in_place_of_a_graph_is_refused_with_the_remedy(function, mlp):
    with pytest.raises(TypeError, match=r"takes a Graph, and \w+ is .*plots\.read_graph\(model\)"):
        function(mlp)


def test_an_object_that_holds_a_model_is_taken_as_the_model(tmp_path, mlp):
    holder = SimpleNamespace(model=mlp)
    assert plots.read_graph(holder) == plots.read_graph(mlp)
    plots.draw(holder, tmp_path / "a.txt")
    plots.draw(mlp, tmp_path / "b.txt")
    assert (tmp_path / "a.txt").read_text() == (tmp_path / "b.txt").read_text()
    assert plots.random_inputs(holder).keys() == plots.random_inputs(mlp).keys()
    with pytest.raises(ValueError, match="the model 'mlp' has neither skip paths nor"):
        plots.depth_profile(holder)
    assert plots.call_values(holder).keys() == plots.call_values(mlp).keys()
    assert plots.attention_maps(holder) == {}
    with pytest.raises(TypeError, match="but got a types"):
        plots.read_graph(SimpleNamespace(model=3))


WRONG = [
    (lambda m: plots.draw("a.svg", m), "given as a path, not as Functional"),
    (lambda m: plots.plot_model("a.svg", m), "given as a path, not as Functional"),
    (lambda m: plots.plot_side_by_side([m, m]), "takes a mapping title -> model, given list"),
    (lambda m: plots.parameter_bars(m), "takes a mapping component -> number of parameters, g"),
    (
        lambda m: plots.parameter_bars(plots.read_graph(m)),
        "node.parameters for node in graph.nodes",
    ),
    (
        lambda m: plots.loss_curves([{"loss": 1}]),
        "takes a mapping name of the run -> .*, given list",
    ),
    (lambda m: plots.loss_curves({"a": [1]}), "run 'a' takes a mapping .*, given list"),
    (lambda m: plots.position_encodings(m), "takes a mapping name -> array .*, given Functional"),
    (lambda m: plots.comparison_table([m]), "takes a mapping title -> graph, given list"),
    (lambda m: plots.difference_text(plots.read_graph(m)), "takes the result of compare_graphs"),
    (
        lambda m: plots.read_graph(plots.read_graph(m)),
        "Graph, which is what a model is read into",
    ),
    (lambda m: plots.read_graph(m.layers[1]), "put it into a model first"),
    (
        lambda m: plots.attention_heads({"a": plots.AttentionMap("self", np.zeros((1, 2, 3, 3)))}),
        r"give one of 1 attentions, e\.g\. scores\['a'\]\.weights\[0\]",
    ),
    (
        lambda m: plots.attention_heads(fm.AttentionMaps((), (), {"a": np.zeros((2, 3, 3))})),
        r"maps\.scores\[name\]",
    ),
    (
        lambda m: builders.count_parameters(m),
        "takes a TransformerSpec or the name of a var",
    ),
    (lambda m: builders.count_memory("gpt1"), r"give count_parameters\(spec\)\.total"),
    (lambda m: builders.build_probe(m, "gpt1"), r"for a variant give builders\.variant\(name\)"),
    (
        lambda m: fm.compare([m], TextCorpus("a", ("b",), ("c",))),
        "compare takes variants and",
    ),
    (lambda m: fm.load_parallel_corpus([("a", "b")]), "must be given as a path, not as tuple"),
    (
        lambda m: fm.train_tokenizer("byte_pair", TextCorpus("a", (), ())),
        "TextCorpus; give its t",
    ),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_an_argument_of_another_type_gets_advice(mlp, call, message):
    with pytest.raises(TypeError, match=message):
        call(mlp)


def test_costs_are_counted_of_variants_by_name():
    spec = builders.variant("gpt2_small")
    assert builders.count_parameters("gpt2_small") == builders.count_parameters(spec)
    assert builders.count_flops("gpt2_small", 7) == builders.count_flops(spec, 7)


@pytest.mark.parametrize("data", ["book.txt", "no_such.book.txt", "embedded", "tfds:wmt", ["a.md"]])
def test_the_name_of_a_file_is_no_text(fresh, data):
    named = data[0] if isinstance(data, list) else data
    for function in (fresh["decoder_only"].fit, fresh["decoder_only"].evaluate):
        with pytest.raises(ValueError, match=rf"takes text; load it: .*\('{named}'\)"):
            function(data)
    with pytest.raises(ValueError, match="load_text_corpus"):
        fm.train_tokenizer("byte_pair", data)


def test_the_name_of_any_file_that_exists_is_no_text(fresh, tmp_path, monkeypatch):
    (tmp_path / "Moby Dick").write_text("Call me Ishmael.")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"load_text_corpus\('Moby Dick'\)"):
        fresh["decoder_only"].fit("Moby Dick")
    with pytest.raises(
        TypeError, match=r"a list of texts, given .*; load .*load_text_corpus\('Moby Dick'"
    ):
        fresh["decoder_only"].fit(Path("Moby Dick"))
    check_is_text("Call me Ishmael.txt or so", "a model")
    check_is_text("Call me Ishmael.", "a model")


def test_an_option_that_no_method_has_names_the_method(fresh):
    with pytest.raises(TypeError, match=r"^generate: .*'temprature' \(did you mean 'temperature'"):
        fresh["decoder_only"].generate("x", temprature=3)
    with pytest.raises(TypeError, match=r"^translate: .*'max_tokens' \(did you mean 'max_new_tok"):
        fresh["encoder_decoder"].translate("x", max_tokens=3)
    with pytest.raises(ValueError, match="k is an option of top_k and top_p and contrastive, and"):
        fresh["decoder_only"].generate("x", "random", k=3)
