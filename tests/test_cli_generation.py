"""The commands `generate` and `translate`."""

import io

import pytest
from command_line import run

import functional_models as fm

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


@pytest.mark.slow
def test_generate_prints_text_with_or_without_the_prompt(files, shell_models, capsys):
    lm = shell_models[str(files / "lm")]
    texts = lm.generate(["fox", "a dog"], "greedy", max_new_tokens=5)
    assert run(["generate", "{lm}", "fox", "a dog", *GREEDY], files) == 0
    assert capsys.readouterr().out == f"fox{texts[0]}\na dog{texts[1]}\n"
    assert run(["generate", "{lm}", "fox", "a dog", *GREEDY, "--no-echo"], files) == 0
    assert capsys.readouterr().out == f"{texts[0]}\n{texts[1]}\n"


@pytest.mark.slow
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


def give_stdin(monkeypatch, content):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.slow
def test_translate_reads_stdin_without_sentences(files, shell_models, capsys, monkeypatch):
    give_stdin(monkeypatch, "um dois\r\n\r\n \t\r\ntrês".encode())
    assert run(["translate", "{translator}", "--max-new-tokens", "5"], files) == 0
    translator = shell_models[str(files / "translator")]
    texts = translator.translate(["um dois", "três"], max_new_tokens=5)
    assert capsys.readouterr().out == f"{texts[0]}\n\n\n{texts[1]}\n"


def test_translate_names_the_line_that_is_not_utf_8(files, capsys, monkeypatch):
    give_stdin(monkeypatch, b"um\ndois\ntr\xeas\n")
    assert run(["translate", "{translator}"], files) == 2
    error = capsys.readouterr().err
    assert "standard input is not UTF-8: byte 0xea at offset 10, line 3" in error
    assert error.count("\n") == 1
