"""The command line: its output, and a single line with exit code 2 for bad input."""

import builtins
import contextlib
import importlib.metadata
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_text_models import PAIRS, TEXT, text_model

import builders
import functional_models as fm
from builders.fields import rule_of
from builders.spec import fields_by_group
from functional_models.cli import main

ROOT = Path(__file__).parent.parent
TINY = ["--set", "num_layers=1", "--set", "hidden_dim=6", "--set", "num_heads=2"]
TINY += ["--set", "intermediate_dim=7", "--set", "max_sequence_length=19", "--tokenizer", "byte"]
SHORT = ["--steps", "2", "--report-every", "2", "--batch-size", "3"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a folder with valid and invalid text files and model folders."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "text.txt").write_text(TEXT)
    (folder / "short.txt").write_text("short")
    (folder / "empty.txt").write_text("")
    (folder / "latin.txt").write_bytes("não".encode("latin-1"))
    (folder / "pairs.tsv").write_text("".join(f"{s}\t{t}\n" for s, t in PAIRS))
    (folder / "three.pt").write_text("um\ndois\ntrês\n")
    (folder / "two.en").write_text("one\ntwo\n")
    lm, translator = text_model("decoder_only"), text_model("encoder_decoder")
    lm.save(folder / "lm")
    translator.save(folder / "translator")
    lm.save(folder / "newer")
    manifest = json.loads((folder / "newer" / "model.json").read_text())
    (folder / "newer" / "model.json").write_text(json.dumps({**manifest, "format": 2}))
    lm.save(folder / "half")
    for path in (folder / "half").glob("weights-*"):
        path.unlink()
    (folder / "nothing").mkdir()
    for name in ("pipe.keras", "pipe.json"):
        os.mkfifo(folder / name)
    return folder


def run(arguments, files):
    """Run a command in this process; names in braces become paths of files."""
    return main([re.sub(r"\{(.+)\}", lambda m: str(files / m[1]), a) for a in arguments])


TRAIN = ["train", "--to", "{out}", *TINY, *SHORT]
BAD = [
    (["inspect", "gpt3"], "unknown variant 'gpt3'"),
    (["plot", "gpt3"], "unknown variant 'gpt3'"),
    (["plot", "nowhere"], "nor is there a file or folder nowhere"),
    (["compare", "gpt3"], "unknown variant 'gpt3'"),
    (["train", "--to", "{out}", "--variant", "gpt3"], "unknown variant 'gpt3'"),
    (
        ["train", "--to", "{out}", *TINY, "--data", "{text.txt}", "--vocabulary-size", "-5"],
        "vocabulary_size=-5: must be an integer, 1 or more",
    ),
    (
        ["train", "--to", "{out}", *TINY, "--data", "{text.txt}", "--vocabulary-size", "300"],
        "a byte tokenizer has 256 ids",
    ),
    (["inspect", "gpt2_small", "--set", "width=3"], "unknown spec field 'width'"),
    (["inspect", "gpt2_small", "--set", "positions=spiral"], "unknown positions 'spiral'"),
    (["inspect", "gpt2_small", "--set", "num_layers"], "must be FIELD=VALUE"),
    (["inspect", "gpt2_small", "--set", "=3"], "must be FIELD=VALUE"),
    (["inspect", "gpt2"], "(did you mean 'gpt2_small', 'gpt2_medium', 'gpt2_large' or 'gpt2_xl'?)"),
    (["inspect", "gpt2_small", "--set", "num_layers=two"], "num_layers='two': must be a positive"),
    (["inspect", "gpt2_small", "--set", "dropout=NaN"], "dropout=nan: must be a probability"),
    (["inspect", "gpt2_small", "--set", "num_heads=7"], "a multiple of num_heads=7"),
    (["inspect", "{nothing}"], "has no model.json"),
    (["inspect", "{nothing/model}"], "no file or folder"),
    (["inspect", "{text.txt}"], "text.txt is no model: give a variant or a model folder"),
    (["inspect", "nowhere"], "nor is there a file or folder nowhere"),
    (["plot", "{text.txt}"], "text.txt is no model: give a variant, a model folder, a .keras"),
    (["import", "{nothing}", "--to", "{out}"], "nothing has no config.json; give the name of a"),
    (["compare", "--to", "{text.txt}", "--data", "{pairs.tsv}", *TINY], "is a file; give the"),
    ([*TRAIN, "--data", "{nowhere.txt}"], "there is no file"),
    ([*TRAIN, "--data", "{empty.txt}"], "empty.txt has no text"),
    ([*TRAIN, "--data", "{latin.txt}"], "latin.txt is not UTF-8: byte 0xe3 at offset 1"),
    ([*TRAIN, "--data", "{three.pt}", "{two.en}"], "has 3 lines and"),
    ([*TRAIN, "--data", "a", "b", "c"], "--data was given 3 files"),
    ([*TRAIN, "--data", "{short.txt}"], "tokens, fewer than a block of 19"),
    ([*TRAIN, "--data", "{text.txt}", "--steps", "0"], "steps=0: must be 1 or more"),
    ([*TRAIN, "--data", "{text.txt}", "--schedule", "linear"], "schedule='linear'"),
    ([*TRAIN, "--data", "{text.txt}", "--learning-rate", "nan"], "learning_rate=nan"),
    ([*TRAIN, "--data", "{text.txt}", "--sample", "x" * 30], "prompt 'xxx"),
    (["train", "--to", "{text.txt}", *TINY, "--data", "{text.txt}"], "is a file; give the path"),
    (["evaluate", "{nowhere}"], "there is no model folder"),
    (["evaluate", "{half}", "--data", "{text.txt}"], "is incomplete"),
    (["generate", "{nothing}", "fox"], "has no model.json"),
    (["generate", "{newer}", "fox"], "has format 2, this version reads format 1"),
    (["generate", "{translator}", "fox"], "use functional-models translate"),
    (["generate", "{lm}", ""], "prompt '' has no tokens"),
    (["generate", "{lm}", "x" * 20], "has 20 tokens and max_sequence_length is 19"),
    (["generate", "{lm}", "fox", "--temperature", "0"], "temperature=0.0: must be above 0"),
    (["generate", "{lm}", "fox", "--sampler", "beam", "--stream"], "compares whole sequences"),
    (["generate", "{lm}", "", "--stream"], "prompt '' has no tokens"),
    (["generate", "{lm}", "fox", "--stream", "--scores"], "omit --scores"),
    (["generate", "{lm}", "fox", "--stop", "ab"], "stop token 'ab' is 2 tokens"),
    (["generate", "{lm}", "fox", "--min-p", "1"], "min_p=1.0: must be at least 0 and below 1"),
    (["generate", "{lm}", "fox", "--k", "3"], "--k is an option of top_k and contrastive, and the"),
    (["generate", "{lm}", "fox", "--seed", "1e26"], "seed=100000000000000000000000000: must be"),
    ([*TRAIN, "--data", "{text.txt}", "--seed", "1e26"], "seed=100000000000000000000000000: must"),
    (["train", "--to", "{out}", "--kind", "encoder_only"], "not encoders; give one of these kinds"),
    (["compare", "--to", "{out}", "--kind", "encoder_only"], "compare trains language models"),
    (["compare", "gpt1", "gpt1", "--to", "{out}"], "gpt1 was given twice"),
    (
        ["generate", "{lm}", "fox", "--sampler", "contrastive", "--alpha", "2"],
        "alpha=2.0: must be 0 to 1",
    ),
    (
        ["translate", "{translator}", "um", "--num-return-sequences", "2"],
        "num_return_sequences=2: must be 1 with sampler 'greedy'",
    ),
    (
        ["translate", "{translator}", "um", "--repetition-penalty", "0"],
        "repetition_penalty=0.0: must be above 0",
    ),
    (
        ["translate", "{translator}", "um", "--sampler", "beam", "--length-penalty", "-1"],
        "length_penalty=-1.0: must be 0 to 10",
    ),
    (["translate", "{lm}", "um"], "use functional-models generate"),
    (["translate", "{translator}", "x" * 20], "more than 19 tokens"),
    (["plot", "{nowhere.keras}"], "no file"),
    (["plot", "{pipe.keras}"], "pipe.keras is a pipe; give the path of a file"),
    (["diagnose", "{pipe.json}"], "pipe.json is a pipe; give the path of a file"),
    (["diff", "{lm}", "{pipe.json}"], "pipe.json is a pipe; give the path of a file"),
    (["inspect", "/dev/zero"], "/dev/zero is no model"),
    (["inspect", "gpt1", "--set", "num_layers=99999999999"], "a positive int of at most 10,000"),
    (["inspect", "gpt1", "--set", "dropout=" + "[" * 9999], "dropout='[[[["),
    ([*TRAIN, "--data", "{text.txt}", "--batch-size", "99999999999"], "reduce batch_size"),
    (
        [*TRAIN, "--set", "vocabulary_size=9999999", "--set", "hidden_dim=4000000"],
        "weights of at least",
    ),
    (["train", "--to", "", *TINY], "the name of the folder is empty"),
    (["train", "--to", "{lm}", *TINY, "--data", "{text.txt}"], "lm holds a model (model.json);"),
    (["train", "--to", "{lm/x}", *TINY, "--data", "{text.txt}"], "lies inside the model folder"),
    (["import", "{nothing}", "--to", "{lm}"], "(--overwrite)"),
    (["compare", "--to", "{lm}", "--data", "{pairs.tsv}", *TINY], "lm holds a model (model.json)"),
    (["compare", "--to", " ", "--data", "{pairs.tsv}", *TINY], "the name of the folder is empty"),
    (["export", "{lm}", "--to", "{lm}"], "has content that no earlier export wrote"),
    (["plot", "{lm}", "--to", "{lm/model.json}"], "is not a picture of this kind"),
    (["translate", "{translator}", "um", "--p", "0.5"], "--p is an option of top_p, and the sampl"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a)[:60] for a, _ in BAD])
def test_bad_input_exits_with_code_2_and_one_line(files, capsys, arguments, message):
    assert run(arguments, files) == 2
    printed, error = capsys.readouterr()
    assert error.startswith("functional-models: ")
    assert arguments[0] == "train" or not printed
    assert message in error
    assert error.count("\n") == 1
    assert not (files / "out" / "model.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["train"],
        ["inspect", "gpt2_small", "--dtype", "float8"],
        ["generate", "{lm}", "fox", "--sampler", "nucleus"],
        ["train", "--to", "x", "--steps", "many"],
        ["train", "--to", "x", "--seed", "3.5"],
        ["train", "--to", "x", "--learning-rate", "3e"],
        ["train", "--to", "x", "--tokenizer", "letters"],
    ],
)
def test_an_invalid_command_line_exits_with_code_2_and_one_line(files, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        run(arguments, files)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("functional-models")
    assert re.search(r"; see functional-models( \w+)? --help\n$", error)
    assert error.count("\n") == 1


def test_without_a_command_the_help_is_printed(capsys):
    assert main([]) == 2
    printed, error = capsys.readouterr()
    assert not printed
    assert "train a model on text" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--verson"], "unknown option '--verson' (did you mean '--version'?)"),
        (["insepct", "gpt2_small"], "unknown choice 'insepct' (did you mean 'inspect'?); allowed"),
        (["inspect", "gpt2_small", "--laers"], "unknown option '--laers' (did you mean '--layers'"),
        (["inspect", "gpt2_small", "gpt1"], "unexpected argument 'gpt1'"),
        (["variants", "--kind", "decoder"], "unknown choice 'decoder' (did you mean 'decoder_o"),
        (["inspect", "gpt2_small", "--num-layers", "3"], "write --set num_layers=VALUE"),
        (["inspect", "gpt2_small", "--set", "dropout=.1", "num_layers=3"], "write --set num_layer"),
        (["generate", "lm", "x", "--top-p", "0.9"], "unknown option '--top-p' (did you mean '--p'"),
        (["train", "--data", "book.txt"], "required: --to, e.g. functional-models train --data"),
    ],
)
def test_a_misspelt_name_on_the_command_line_gets_the_closest_one(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    is_of_command = arguments[0] in error.partition(":")[0]
    assert is_of_command == (arguments[0] not in ("insepct", "--verson"))


def test_a_recipe_is_checked_before_the_data_is_loaded(files, capsys):
    assert run([*TRAIN, "--data", "{nowhere.txt}", "--steps", "0"], files) == 2
    assert "steps=0" in capsys.readouterr().err


def test_fields_lists_every_field_with_its_default_and_documentation(capsys):
    assert main(["fields"]) == 0
    printed = capsys.readouterr().out
    for title, group in fields_by_group().items():
        assert re.search(rf"^{title}:$", printed, re.M)
        for field in group:
            assert re.search(rf"^  {field.name}, .+\n      \S", printed, re.M)
            assert rule_of(field).doc in " ".join(printed.split())
    for line in ("num_heads, required", "head_dim, derived by default", "dropout, default: 0.0"):
        assert f"  {line}\n" in printed


@pytest.mark.parametrize("place", [0, 2])
def test_debug_raises_the_error(files, place):
    arguments = ["inspect", "gpt3"]
    arguments.insert(place, "--debug")
    with pytest.raises(ValueError, match="unknown variant 'gpt3'"):
        run(arguments, files)


def test_variants_lists_every_variant_with_its_summary(capsys):
    assert main(["variants"]) == 0
    printed = capsys.readouterr().out
    for name in builders.list_variants():
        assert re.search(
            rf"^{name} .*{re.escape(builders.variant_info(name).summary)}$", printed, re.M
        )
    assert main(["variants", "--kind", "decoder_only", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed] == builders.list_variants("decoder_only")


def test_inspect_accepts_a_model_folder(files, capsys):
    assert run(["inspect", "{translator}"], files) == 0
    printed = capsys.readouterr().out
    model = text_model("encoder_decoder").model
    assert re.search(rf"^parameters +{model.count_params():,}$", printed, re.M)


GREEDY = ["--sampler", "greedy", "--max-new-tokens", "5"]
BEAM = ["--sampler", "beam", "--num-beams", "3", "--num-return-sequences", "2"]
BEAM += ["--length-penalty", "0.5", "--max-new-tokens", "5"]


@pytest.fixture(scope="module")
def loaded(files):
    """Return the models of the folders by path, for `shell_models`."""
    return {str(files / name): fm.load(files / name) for name in ("lm", "translator")}


@pytest.fixture
def shell_models(loaded, monkeypatch):
    """Make commands use models that are already loaded."""
    monkeypatch.setattr("functional_models.loading.load", loaded.__getitem__)
    return loaded


def test_generate_prints_text_with_or_without_the_prompt(files, shell_models, capsys):
    lm = shell_models[str(files / "lm")]
    texts = lm.generate(["fox", "a dog"], "greedy", max_new_tokens=5)
    assert run(["generate", "{lm}", "fox", "a dog", *GREEDY], files) == 0
    assert capsys.readouterr().out == f"fox{texts[0]}\na dog{texts[1]}\n"
    assert run(["generate", "{lm}", "fox", "a dog", *GREEDY, "--no-echo"], files) == 0
    assert capsys.readouterr().out == f"{texts[0]}\n{texts[1]}\n"


def test_generate_streams_the_same_text_piece_by_piece(files, shell_models, capsys, monkeypatch):
    for prompts in (["fox"], ["fox", "a dog"]):
        assert run(["generate", "{lm}", *prompts, *GREEDY], files) == 0
        plain = capsys.readouterr().out
        assert run(["generate", "{lm}", *prompts, *GREEDY, "--stream"], files) == 0
        assert capsys.readouterr().out == plain

    printed = []
    monkeypatch.setattr(fm.CausalLM, "generate", lambda *given, **options: iter(["fo", "x", "es"]))
    monkeypatch.setattr(
        "builtins.print", lambda *given, **options: printed.append((given, options))
    )
    assert run(["generate", "{lm}", "fox", "--stream"], files) == 0
    at_once = {"end": "", "flush": True}
    expected = [((piece,), at_once) for piece in ("fo", "x", "es")]
    assert printed == [*expected, ((), {})]  # ends with a newline


def test_generate_stops_at_a_stop_token(files, shell_models, capsys):
    lm = shell_models[str(files / "lm")]
    tokens = lm.generate("fox", "greedy", max_new_tokens=5, scores=True).tokens
    free = lm.generate("fox", "greedy", max_new_tokens=5)
    stop = next(c for c in free if c.isascii() and c.isprintable())
    end = tokens.tolist().index(ord(stop))
    assert (
        run(["generate", "{lm}", "fox", *GREEDY, "--stop", "\N{SOH}", "--stop", stop], files) == 0
    )
    assert capsys.readouterr().out == f"fox{lm.tokenizer.decode([tokens[:end]])[0]}\n"


@pytest.mark.slow
def test_generate_prints_scores_and_the_n_best(files, shell_models, capsys):
    lm = shell_models[str(files / "lm")]
    assert run(["generate", "{lm}", "fox", *GREEDY, "--scores"], files) == 0
    found = lm.generate("fox", "greedy", max_new_tokens=5, scores=True, echo=True)
    assert capsys.readouterr().out == f"{found.log_probability:.4f}\t{found.text}\n"
    assert run(["generate", "{lm}", "fox", *BEAM, "--scores"], files) == 0
    options = {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5}
    found = lm.generate("fox", "beam", max_new_tokens=5, scores=True, echo=True, **options)
    expected = [f"{one.log_probability:.4f}\t{one.text}\n" for one in found]
    assert capsys.readouterr().out == "".join(expected)
    assert len(expected) == 2


def test_sentences_may_follow_options(files, monkeypatch, capsys):
    monkeypatch.setattr(fm.Translator, "translate", lambda _, sentences, **options: sentences)
    arguments = ["translate", "{translator}", "um", "--sampler", "greedy", "dois", "três"]
    assert run(arguments, files) == 0
    assert capsys.readouterr().out == "um\ndois\ntrês\n"


SAMPLED = ["--min-p", "0.1", "--repetition-penalty", "1.5", "--temperature", "0.5"]


@pytest.mark.parametrize(
    ("command", "method"),
    [("generate", "CausalLM.generate"), ("translate", "Translator.translate")],
)
def test_sampler_options_are_passed_on(files, shell_models, monkeypatch, command, method):
    given = {}
    cls, name = method.split(".")
    monkeypatch.setattr(getattr(fm, cls), name, lambda *_, **options: given.update(options) or [])
    model = "{lm}" if command == "generate" else "{translator}"
    assert run([command, model, "fox", *BEAM, *SAMPLED, "--seed", "4"], files) == 0
    expected = {
        "sampler": "beam",
        "max_new_tokens": 5,
        "temperature": 0.5,
        "num_beams": 3,
        "length_penalty": 0.5,
        "num_return_sequences": 2,
        "repetition_penalty": 1.5,
        "min_p": 0.1,
        "seed": 4,
    }
    assert expected.items() <= given.items()


@pytest.mark.slow
def test_translate_prints_the_n_best_of_each_sentence(files, shell_models, capsys):
    assert run(["translate", "{translator}", "um", "dois", *BEAM], files) == 0
    options = {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5}
    translator = shell_models[str(files / "translator")]
    found = translator.translate(["um", "dois"], "beam", max_new_tokens=5, **options)
    printed = capsys.readouterr()
    assert printed.out == "".join(f"{text}\n" for texts in found for text in texts)
    assert not printed.err  # no progress bar without a terminal
    assert [len(texts) for texts in found] == [2, 2]


def test_a_model_is_trained_evaluated_and_used_from_the_shell(files, tmp_path, capsys):
    to = str(tmp_path / "model")
    data = ["--data", str(files / "text.txt")]
    assert main(["train", "--to", to, *TINY, *SHORT, *data, "--dtype", "float32"]) == 0
    printed = capsys.readouterr().out
    assert "step      2/2" in printed
    assert f" generate {to}" in printed
    assert main(["evaluate", to, *data]) == 0
    found = dict(line.split() for line in capsys.readouterr().out.splitlines())
    expected = fm.load(to).evaluate([TEXT])
    assert found.keys() == expected.keys()
    assert found["tokens"] == str(len(TEXT))  # the whole file and the end token
    np.testing.assert_allclose(float(found["loss"]), expected["loss"], atol=1e-4)
    options = ["--sampler", "greedy", "--max-new-tokens", "5"]
    assert main(["generate", to, "fox", *options]) == 0
    text = fm.load(to).generate("fox", "greedy", max_new_tokens=5)
    assert capsys.readouterr().out == f"fox{text}\n"


@pytest.mark.slow
def give_stdin(monkeypatch, content):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_translate_reads_stdin_without_sentences(files, capsys, monkeypatch):
    give_stdin(monkeypatch, "um dois\r\n\r\n \t\r\ntrês".encode())
    assert run(["translate", "{translator}", "--max-new-tokens", "5"], files) == 0
    texts = fm.load(files / "translator").translate(["um dois", "três"], max_new_tokens=5)
    assert capsys.readouterr().out == f"{texts[0]}\n\n\n{texts[1]}\n"


def test_translate_names_the_line_that_is_not_utf_8(files, capsys, monkeypatch):
    give_stdin(monkeypatch, b"um\ndois\ntr\xeas\n")
    assert run(["translate", "{translator}"], files) == 2
    error = capsys.readouterr().err
    assert "standard input is not UTF-8: byte 0xea at offset 10, line 3" in error
    assert error.count("\n") == 1


def test_a_model_folder_is_drawn(files, tmp_path, capsys):
    assert run(["plot", "{translator}", "--to", str(tmp_path / "a.svg")], files) == 0
    assert "5 skip paths" in capsys.readouterr().out
    assert "<svg" in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_ctrl_c_prints_how_to_resume(files, tmp_path, capsys, monkeypatch, has_checkpoint):
    def stop(*given, **options):
        if has_checkpoint:
            (tmp_path / "checkpoint.npz").write_bytes(b"")
        raise KeyboardInterrupt

    monkeypatch.setattr(fm.CausalLM, "fit", stop)
    arguments = ["train", "--to", str(tmp_path), *TINY, *SHORT, "--data", "{text.txt}"]
    assert run(arguments, files) == 130
    error = capsys.readouterr().err
    assert ("the same command resumes from it" in error) == has_checkpoint
    assert (f"nothing was written to {tmp_path} yet" in error) != has_checkpoint


@pytest.mark.parametrize("is_written", [False, True])
def test_ctrl_c_says_whether_a_command_has_written(tmp_path, capsys, monkeypatch, is_written):
    to = tmp_path / "model"
    to.mkdir()
    (to / "old").write_text("")
    os.utime(to / "old", (1, 1))
    os.utime(to, (1, 1))

    def stop(*given, **options):
        if is_written:
            (to / "new").write_text("")
        raise KeyboardInterrupt

    monkeypatch.setattr("functional_models.cli.import_keras", stop)
    assert main(["import", "somewhere", "--to", str(to)]) == 130
    error = capsys.readouterr().err
    assert "checkpoint" not in error
    assert ("nothing was written" in error) != is_written
    assert ("may be incomplete" in error) == is_written


@pytest.mark.parametrize("later_error", [None, SystemError])
def test_ctrl_c_stops_training_even_if_a_library_swallows_it(
    files, tmp_path, monkeypatch, later_error
):
    def swallow(*given, **options):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        if later_error is not None:
            raise later_error
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            time.sleep(0.01)

    monkeypatch.setattr(fm.CausalLM, "fit", swallow)
    monkeypatch.setattr("functional_models.cli_errors.StopSignals.seconds", 0.1)
    arguments = ["train", "--to", str(tmp_path), *TINY, *SHORT, "--data", "{text.txt}"]
    assert run(arguments, files) == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_quiet_prints_nothing_but_errors(files, tmp_path, capsys):
    command = ["plot", "pre_norm_learned", "--depth", "0", "--to", str(tmp_path / "a.dot")]
    assert main([*command, "--quiet"]) == 0
    assert (tmp_path / "a.dot").exists()
    assert capsys.readouterr() == ("", "")
    assert main(["plot", "gpt3", "--quiet"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_version_prints_the_versions_without_importing_keras(capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr("builtins.__import__", _without("keras", builtins.__import__))
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    lines = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["functional-models"] == fm.__version__
    assert lines["keras"] == importlib.metadata.version("keras")
    assert lines["jax"] == importlib.metadata.version("jax") + ", the backend"


def _without(name, real):
    def imported(module, *given, **options):
        assert module != name
        return real(module, *given, **options)

    return imported


# In a separate process


def shell(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, **options
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["variants"], ["inspect", "gpt3_175b"]]
)
def test_commands_without_a_model_import_no_backend(arguments):
    code = f"""
import sys
from functional_models.cli import main
from functional_models.cli_errors import report
try:
    main({arguments})
except SystemExit:
    pass
heavy = {{"keras", "keras_hub", "tensorflow", "jax", "torch", "matplotlib"}} & sys.modules.keys()
sys.exit(f"imported {{heavy}}" if heavy else 0)
"""
    found = shell("-c", code)
    assert found.returncode == 0, found.stderr
    assert found.stdout


def test_errors_in_the_shell_are_one_line_or_a_traceback_with_debug(files):
    command = ["-m", "functional_models", "generate", str(files / "nothing"), "fox"]
    found = shell(*command)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    found = shell(*command, "--debug")
    assert found.returncode == 1
    assert "Traceback" in found.stderr


@pytest.mark.slow
def test_of_two_trainings_into_one_folder_the_second_is_refused(files, tmp_path):
    to = tmp_path / "model"
    command = [sys.executable, "-m", "functional_models", "train", "--to", str(to), *TINY]
    command += ["--data", str(files / "text.txt"), "--batch-size", "3", "--report-every", "50"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    options = {"cwd": ROOT, "env": environment, "stderr": subprocess.PIPE, "text": True}
    command += ["--steps", "1000000"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, **options) as first:
        deadline = time.monotonic() + 300
        while not (to / "model.json").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        second = subprocess.run(command, stdout=subprocess.DEVNULL, **options)
        first.terminate()
        _, error = first.communicate(timeout=120)
    assert first.returncode == 143, error
    assert second.returncode == 2
    assert f"is being written by process {first.pid} on" in second.stderr
    assert second.stderr.count("\n") == 1
    assert fm.load(to).evaluate(TEXT)["loss"] > 0
    assert not [path for path in to.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_training_resumes_after_ctrl_c_in_the_shell(files, tmp_path):
    to = tmp_path / "model"
    command = ["-m", "functional_models", "train", "--to", str(to), *TINY]
    command += ["--data", str(files / "text.txt"), "--batch-size", "3"]
    command += ["--steps", "3000", "--report-every", "100"]
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        deadline = time.monotonic() + 300
        while not (to / "checkpoint.npz").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert b"Traceback" not in error
    assert fm.load(to).evaluate(TEXT)["loss"] > 0
    with np.load(to / "checkpoint.npz") as saved:
        rows = json.loads(str(saved["state"]))["rows"]
    found = shell(*command)
    assert found.returncode == 0, found.stderr
    steps = [int(n.replace(",", "")) for n in re.findall(r"^step +([\d,]+)/", found.stdout, re.M)]
    assert steps == list(range(int(rows[-1]["step"]) + 100, 3001, 100))


def test_tensorboard_is_asked_for_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("functional_models.cli.find_spec", lambda name: None)
    assert main(["train", "--to", str(tmp_path / "model"), "--tensorboard"]) == 2
    assert capsys.readouterr().err.endswith("needs TensorBoard: pip install tensorboard\n")
    assert not list(tmp_path.iterdir())
