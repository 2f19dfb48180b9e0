"""Exported models equal the original, in a process without this project."""

import contextlib
import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from kills import copied_before_every_change
from quick import slow_unless
from small_text_models import PAIRS, SIZES, TEXT, byte_tokenizer, text_model

import builders
import functional_models as fm
from functional_models import export
from functional_models.cli import main
from functional_models.graph_tokenizers import BytePairEncoder, GraphDecoder, graph_encoder
from functional_models.keras_hub_tokenizer import KerasHubTokenizer

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="export requires TensorFlow"
)

TEXTS = ("the quick brown fox", "três", "日本 ß 🎉  x")  # of unequal lengths

SERVE = """
import json, sys
import tensorflow as tf
from pathlib import Path

def answers(folder, texts):
    serve = tf.saved_model.load(folder).signatures["serving_default"]
    return [text.decode() for text in serve(text=tf.constant(texts))["text"].numpy()]

folder, *texts = sys.argv[1:]
found = {}
for part in sorted(Path(folder).iterdir(), key=lambda part: "sentence_piece" in part.name):
    if "sentence_piece" in part.name:
        import tensorflow_text
    found[part.name] = answers(str(part), texts)
ours = ("keras_hub", "functional_models", "builders")
print(json.dumps([found, [name for name in ours if name in sys.modules]]))
"""


def tokenizer(kind, **options):
    return fm.train_tokenizer(kind, [" ".join(pair) for pair in PAIRS] + [TEXT], 300, **options)


def spec(kind, **changes):
    sizes = {**SIZES, "vocabulary_size": 307, "max_sequence_length": 61, **changes}
    return builders.TransformerSpec(kind=kind, **sizes)


def small_models():
    keras.utils.set_random_seed(3)
    byte_pair, word_piece = tokenizer("byte_pair"), tokenizer("word_piece", lowercase=True)
    language, translation = spec("decoder_only"), spec("encoder_decoder")
    return {
        "byte_pair": fm.CausalLM(language.replace(attention_window=5), byte_pair),
        "word_piece": fm.CausalLM(language.replace(positions="sinusoidal"), word_piece),
        "byte_pair_to_word_piece": fm.Translator(translation, byte_pair, word_piece),
        "sentence_piece": fm.Translator(translation, tokenizer("sentence_piece")),
    }


def python_texts(model):
    texts = list(TEXTS)
    return (
        model.generate(texts, "greedy") if model.kind == "decoder_only" else model.translate(texts)
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return a byte language model and its loaded signatures."""
    lm = text_model("decoder_only")
    folder = lm.export(tmp_path_factory.mktemp("exported") / "lm", max_new_tokens=4)
    loaded = tf.saved_model.load(str(folder))
    return lm, loaded.signatures


def served(signatures, texts):
    found = signatures["serving_default"](text=tf.constant(texts, tf.string))["text"]
    return [text.decode() for text in found.numpy()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        ("byte_pair",),
        pytest.param(
            ("word_piece", "byte_pair_to_word_piece", "sentence_piece"), marks=pytest.mark.slow
        ),
    ],
    ids=["one", "others"],
)
def test_a_process_without_this_project_returns_the_same_texts(tmp_path, names):
    models = {name: model for name, model in small_models().items() if name in names}
    for name, model in models.items():
        model.export(tmp_path / name)
    run = subprocess.run(
        [sys.executable, "-c", SERVE, str(tmp_path), *TEXTS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found, imported = json.loads(run.stdout.splitlines()[-1])
    assert imported == []
    assert found == {name: python_texts(model) for name, model in models.items()}


def test_a_batch_may_have_no_rows(exported):
    assert served(exported[1], []) == []


@pytest.mark.slow
def test_max_new_tokens_limits_both_signatures(exported):
    lm, signatures = exported
    texts = ["a", "lazy dog", "été"]
    expected = lm.generate(texts, "greedy", max_new_tokens=4, scores=True)
    assert served(signatures, texts) == [new.text for new in expected]

    padded = np.full((3, 11), -1, "int32")  # padding may exceed every row
    for row, ids in enumerate(lm.tokenizer.encode(texts)):
        padded[row, : len(ids)] = ids
    found = signatures["tokens"](tokens=tf.constant(padded))["tokens"].numpy()
    for row, new in zip(found, expected, strict=True):
        assert row[row >= 0].tolist() == new.tokens.tolist()


@pytest.mark.slow
def test_generation_stops_at_the_end_token(exported, tmp_path):
    lm, signatures = exported
    prompt = tf.constant([[97]])
    first = int(signatures["tokens"](tokens=prompt)["tokens"][0, 0])
    ending = fm.CausalLM(lm.spec, dataclasses.replace(lm.tokenizer, end_id=first))
    ending.model.set_weights(lm.model.get_weights())
    signatures = tf.saved_model.load(str(ending.export(tmp_path / "lm"))).signatures
    assert served(signatures, ["a"]) == [""]
    (tokens,) = signatures["tokens"](tokens=prompt)["tokens"].numpy()
    assert tokens[0] == first
    assert (tokens[1:] == -1).all()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", ""], "no tokens"),
        (["x" * 16], "more than 15 tokens"),
        (["a\x00b"], "are padding"),
    ],
)
def test_texts_without_tokens_or_room_raise(exported, texts, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        served(exported[1], texts)


@pytest.mark.parametrize("tokens", [[[97, -1, 98]], [[97, 256]], [[-2]]])
def test_invalid_tokens_raise(exported, tokens):
    with pytest.raises(tf.errors.InvalidArgumentError):
        exported[1]["tokens"](tokens=tf.constant(tokens))


def test_invalid_utf_8_becomes_replacement_characters(exported):
    assert served(exported[1], [b"a\xff"]) == served(exported[1], ["a\ufffd"])


@pytest.mark.slow
def test_draws_differ_between_calls_and_restart_with_every_load(tmp_path):
    lm = text_model("decoder_only")
    folder = lm.export(tmp_path / "lm", sampler="top_p", p=0.99, seed=5, repetition_penalty=1.1)
    runs = []
    for _ in range(2):
        signatures = tf.saved_model.load(str(folder)).signatures
        runs.append([served(signatures, ["a b", "c"]) for _ in range(2)])
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[0][1]
    assert json.loads((folder / "export.json").read_text())["sampler"] == "top_p"


WORDS = (
    "a",
    "b c",
    " ",
    "'s",
    "don't",
    "12345",
    "é日本",
    "!?",
    "\r\n",
    "\t",
    "\u00a0 ",
    "İß",
    "##x",
)


def random_texts(count, seed=0):
    random = np.random.default_rng(seed)
    return ["".join(random.choice(WORDS, random.integers(1, 13))) for _ in range(count)]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("kind", "lowercase"),
    slow_unless(
        lambda kind, lowercase: lowercase or kind == "sentence_piece",
        itertools.product(("byte", "byte_pair", "word_piece", "sentence_piece"), (False, True)),
    ),
)
def test_graph_tokenizers_equal_python_tokenizers(kind, lowercase):
    texts = [*random_texts(211), "x" * 101, "long" * 300]
    if kind == "sentence_piece":  # implementations differ in ties and in leading spaces
        texts = [*TEXTS, *(text for pair in PAIRS for text in pair)]
    ours = byte_tokenizer(lowercase=lowercase)
    if kind != "byte":
        ours = fm.train_tokenizer(kind, texts, 400, lowercase=lowercase)
    text, ids = tf.TensorSpec([None], tf.string), tf.TensorSpec([None, None], tf.int32)
    encoder, decoder = graph_encoder(ours), GraphDecoder(ours)
    encode = tf.function(lambda text: encoder(text), input_signature=[text], autograph=False)
    decode = tf.function(lambda ids: decoder(ids), input_signature=[ids], autograph=False)

    expected = [ids.tolist() for ids in ours.encode(texts)]
    assert encode(texts).to_list() == expected

    rows = expected
    if kind != "sentence_piece":  # any ids, as a model may generate: invalid UTF-8, starts, ends
        random = np.random.default_rng(1)
        sizes = random.integers(0, 9, 307)
        rows = expected + [random.integers(0, ours.vocabulary_size, n).tolist() for n in sizes]
    found = decode(tf.ragged.constant(rows, tf.int32).to_tensor(-1)).numpy()
    assert [text.decode() for text in found] == ours.decode(rows)


def test_byte_pair_words_are_split_as_by_the_expression_with_lookahead():
    import tokenizers

    from functional_models.tokenizer_training import _BYTE_PAIR_SPLIT

    expression = tokenizers.Regex(_BYTE_PAIR_SPLIT)
    cut = tokenizers.pre_tokenizers.Split(expression, behavior="isolated")
    encoder = BytePairEncoder(tokenizer("byte_pair"))
    texts = random_texts(503)
    for text, marked in zip(texts, encoder._cut(tf.constant(texts)).numpy(), strict=True):
        words = [word.decode() for word in marked.split(b"\xff") if word]
        assert words == [word for word, _ in cut.pre_tokenize_str(text)]


def test_unsplittable_tokens_are_single_tokens():
    import keras_hub

    inner = tokenizer("byte_pair").keras_tokenizer
    special = ["<|end|>", "<|end|>x"]
    vocabulary = dict(inner.vocabulary)
    for token in special:
        vocabulary[token] = len(vocabulary)
    inner = keras_hub.tokenizers.BytePairTokenizer(
        vocabulary, inner.merges, unsplittable_tokens=special
    )
    ours = KerasHubTokenizer("byte_pair", len(vocabulary), 0, 1, 2, inner)
    texts = ["the<|end|> fox<|end|>x y", "<|end|>"]
    assert graph_encoder(ours)(texts).to_list() == [ids.tolist() for ids in ours.encode(texts)]


def failing_save(*args, **options):
    raise OSError("the disk is full")


@pytest.mark.slow
def test_a_failed_export_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    lm = text_model("decoder_only")
    folder = tmp_path / "new" / "lm"
    with monkeypatch.context() as patch:
        patch.setattr(tf.saved_model, "save", failing_save)
        with pytest.raises(OSError, match="disk is full"):
            lm.export(folder)
        assert list(folder.parent.iterdir()) == []
        folder.mkdir()
        (folder / "export.json").write_text('{"kind": "old", "files": ["export.json"]}')
        with pytest.raises(OSError, match="disk is full"):
            lm.export(folder, overwrite=True)
    assert [path.name for path in folder.iterdir()] == ["export.json"]
    with pytest.raises(FileExistsError, match=r"holds an exported model .* overwrite=True"):
        lm.export(folder)
    lm.export(folder, overwrite=True)
    assert json.loads((folder / "export.json").read_text())["kind"] == "decoder_only"
    assert [path.name for path in folder.parent.iterdir()] == ["lm"]


@pytest.mark.parametrize("exchanges", [True, False])
def test_an_export_that_is_killed_anywhere_leaves_one(tmp_path, monkeypatch, exchanges):
    """Without an exchange of two names at once, the next export restores the old folder."""
    target = tmp_path / "place" / "lm"
    target.mkdir(parents=True)
    if not exchanges:
        monkeypatch.setattr(export, "_exchange", lambda *given: False)
    write(target, "old")
    with (
        copied_before_every_change(tmp_path / "place", tmp_path / "copies") as copies,
        export._replaced_folder(target, overwrite=True) as scratch,
    ):
        write(scratch, "new")
    seen = set()
    for copy in copies:
        if exchanges:
            seen.add((copy / "lm" / "text").read_text())
        with (
            contextlib.suppress(KeyboardInterrupt),
            export._replaced_folder(copy / "lm", overwrite=True),
        ):
            raise KeyboardInterrupt
        seen.add((copy / "lm" / "text").read_text())
        assert [path.name for path in copy.iterdir()] == ["lm"]
    assert seen == {"old", "new"}
    assert (target / "text").read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["lm"]


def write(folder, text):
    (folder / "text").write_text(text)
    (folder / "export.json").write_text('{"kind": "x", "files": ["export.json", "text"]}')


def test_an_export_is_refused_while_another_one_writes_the_folder(tmp_path):
    with export._replaced_folder(tmp_path / "lm", overwrite=False) as scratch:
        write(scratch, "first")
        with (
            pytest.raises(BlockingIOError, match="is being written by process"),
            export._replaced_folder(tmp_path / "lm", overwrite=False),
        ):
            pass
        with export._replaced_folder(tmp_path / "lm2", overwrite=False) as other:
            write(other, "second")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lm", "lm2"]


def test_content_that_appears_while_an_export_is_written_is_kept(tmp_path):
    def write_late():
        with export._replaced_folder(tmp_path / "lm", overwrite=True) as scratch:
            write(scratch, "new")
            (tmp_path / "lm").mkdir()
            (tmp_path / "lm" / "model.json").write_text("mine")

    with pytest.raises(FileExistsError, match=r"such as model\.json"):
        write_late()
    assert (tmp_path / "lm" / "model.json").read_text() == "mine"


def test_errors_of_tensorflow_while_writing_are_errors_of_the_system(tmp_path, monkeypatch):
    def full(*args, **options):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", full)
    with pytest.raises(OSError, match="lm cannot be written: No space left on device"):
        text_model("decoder_only").export(tmp_path / "lm")


def test_content_that_no_export_wrote_is_not_replaced(tmp_path):
    lm = text_model("decoder_only")
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match="is a file; give the path of a folder"):
        lm.export(tmp_path / "precious.txt")
    for manifest in (None, "not JSON", "{}", '{"kind": "decoder_only", "files": ["export.json"]}'):
        if manifest is not None:
            (tmp_path / "export.json").write_text(manifest)
        with pytest.raises(FileExistsError, match="has content that no earlier export wrote"):
            lm.export(tmp_path, overwrite=True)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_other_backends_raise_with_the_command_to_use(tmp_path, monkeypatch):
    lm = text_model("decoder_only")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="KERAS_BACKEND=tensorflow"):
        lm.export(tmp_path / "lm")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "beam"}, "token by token"),
        ({"sampler": "best"}, "unknown sampler"),
        ({"max_new_tokens": 19}, "max_new_tokens=19"),
    ],
)
def test_bad_options_raise_before_files_are_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        text_model("decoder_only").export(tmp_path / "lm", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_line_exports_a_saved_model(tmp_path, capsys):
    translator = text_model("encoder_decoder")
    translator.save(tmp_path / "model")
    target = str(tmp_path / "exported")
    command = ["export", str(tmp_path / "model"), "--to", target, "--max-new-tokens", "3"]
    assert main(command) == 0
    assert "README.txt" in capsys.readouterr().out
    signatures = tf.saved_model.load(target).signatures
    texts = ["um dois", "", "três", " \x1c\u3000"]
    assert served(signatures, texts) == translator.translate(texts, max_new_tokens=3)
    assert "the translation of each text" in (Path(target) / "README.txt").read_text()
