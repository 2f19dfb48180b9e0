"""`CausalLM` and `Translator`: texts, streams, scores and attention weights."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_models import logits_of
from small_text_models import (
    PAIRS,
    TEXT,
    TWO_BEST,
    byte_tokenizer,
    model_that_writes,
    text_model,
    trained_translator,
)

import functional_models as fm
from functional_models.corpora import TextCorpus
from functional_models.generation import Generator
from functional_models.text_outputs import TextPieces

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def translator():
    return trained_translator()


# Texts


@pytest.mark.slow
def test_exact_match_is_the_share_of_correct_greedy_translations(translator):
    found = translator.evaluate(PAIRS, batch_size=11)
    texts = translator.translate([source for source, _ in PAIRS])
    right = [text == target for text, (_, target) in zip(texts, PAIRS, strict=True)]
    assert 0 < np.mean(right) < 1  # otherwise the test is trivial
    np.testing.assert_allclose(found["exact_match"], np.mean(right), atol=1e-6)


@pytest.mark.slow
def test_translations_are_in_the_order_of_the_sources(translator):
    sources = [source for source, _ in PAIRS[:8]]
    texts = translator.translate(sources)
    assert len(set(texts)) > 3
    assert translator.translate(sources[::-1]) == texts[::-1]
    assert translator.translate(sources, batch_tokens=99) == texts
    assert translator.translate(sources[3]) == texts[3]
    assert translator.translate([]) == []


@pytest.mark.slow
def test_blank_sources_have_blank_translations(fresh):
    translator = fresh["encoder_decoder"]
    sources = [source for source, _ in PAIRS[:8]]
    texts = translator.translate(sources)
    assert "" not in texts
    mixed = translator.translate(["", *sources[:5], " \t\u3000", *sources[5:], "\n"])
    assert mixed == ["", *texts[:5], "", *texts[5:], ""]
    assert translator.translate(" ") == ""
    (scored,) = translator.translate([""], scores=True)
    assert (scored.text, len(scored.tokens), scored.log_probability) == ("", 0, 0)
    assert translator.translate(["", " "], "beam", **TWO_BEST) == [["", ""]] * 2
    text, maps = translator.translate("", return_attention=True)
    assert (text, maps.source, maps.scores) == ("", (), {})
    with pytest.raises(ValueError, match="source sentence 1 is empty"):
        translator.attention_maps(" ")


def test_continuations_exclude_the_prompt_and_respect_the_limit(fresh):
    lm = fresh["decoder_only"]
    texts = lm.generate(["fox", "dog and"], "greedy", max_new_tokens=5)
    assert len(texts) == 2
    assert lm.generate("fox", "greedy", max_new_tokens=5) == texts[0]
    sampler = lm._generator.sampler("greedy")
    ((tokens,),) = lm._generator(lm.tokenizer.encode(["fox"]), sampler, max_new_tokens=5)
    assert texts[0] == lm.tokenizer.decode([tokens])[0]
    assert len(tokens) <= 5
    assert lm.generate([]) == []
    assert list(lm.generate([], stream=True)) == []


def test_without_a_limit_continuations_fill_max_sequence_length(fresh, monkeypatch):
    lm = fresh["decoder_only"]
    asked = []

    def note(self, prompts, sampler, *, max_new_tokens, source=None, stop_ids=()):
        asked.append(max_new_tokens)
        return [[prompt] for prompt in prompts]

    monkeypatch.setattr(Generator, "__call__", note)
    lm.generate(["fox", "dog and"])
    assert asked == [19 - 7]


def test_documents_end_with_the_end_token(fresh):
    lm = fresh["decoder_only"]
    end = lm.tokenizer.end_id
    assert lm.tokens(["ab", "c"]).tolist() == [97, 98, end, 99, end]
    assert lm.tokens("ab").tolist() == [97, 98]
    given = np.array([3, 4, 5])
    assert lm.tokens(given) is given


# Streams, stop tokens, echoes

STORY = "é€😀 costs 3€; ünï😀"


@pytest.fixture(scope="module")
def storyteller():
    """Return a byte model that continues with `STORY`, whose characters have 1 to 4 bytes."""
    tokens = list(STORY.encode())
    return model_that_writes(tokens, byte_tokenizer(), max_sequence_length=len(tokens) + 3)


@pytest.mark.slow
def test_characters_of_several_bytes_are_not_split_in_streams(storyteller):
    for prompt in ("é", "é€"):
        whole = storyteller.generate(prompt, "greedy")
        assert prompt + whole == STORY
        assert storyteller.generate(prompt, "greedy", echo=True) == STORY
        pieces = list(storyteller.generate(prompt, "greedy", stream=True))
        assert "".join(pieces) == whole
        assert "\ufffd" not in "".join(pieces)
        assert len(pieces) > 1


@pytest.mark.slow
def test_streams_of_several_texts_start_with_echoed_prompts(storyteller):
    prompts = ["é€", "abcdefghij", "x"]
    for options in ({"sampler": "greedy"}, {"sampler": "random", "temperature": 3.0, "seed": 7}):
        for echo in (False, True):
            texts = storyteller.generate(prompts, echo=echo, **options)
            pieces = list(storyteller.generate(prompts, echo=echo, stream=True, **options))
            assert ["".join(row) for row in zip(*pieces, strict=True)] == texts
            assert len(pieces) > 1 + echo
            assert not echo or pieces[0] == prompts


def test_pieces_of_a_growing_text_are_final():
    for data in (STORY.encode(), b"a\xff\xfe b\xe2\x82", b"\xf0\x9f\x98 \xc3"):
        growing, sent = TextPieces(), ""
        for length in range(1, len(data) + 1):
            sent += growing.grown(data[:length].decode("utf-8", "replace"))
            assert data.decode("utf-8", "replace").startswith(sent)
        assert sent + growing.rest() == data.decode("utf-8", "replace")


def test_streams_with_scores_or_beam_search_raise(fresh):
    with pytest.raises(ValueError, match="scores=True needs stream=False"):
        fresh["decoder_only"].generate("fox", stream=True, scores=True)
    with pytest.raises(ValueError, match="compares whole sequences"):
        fresh["decoder_only"].generate("fox", "beam", stream=True)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("stop", [";", ord(";"), ["!", ";"], [np.int64(59)]])
def test_stop_tokens_end_a_text_and_are_not_part_of_it(storyteller, stop):
    options = {"sampler": "greedy", "stop_tokens": stop}
    expected = STORY[1 : STORY.index(";")]
    assert storyteller.generate("é", **options) == expected
    assert "".join(storyteller.generate("é", stream=True, **options)) == expected
    found = storyteller.generate("é", scores=True, **options)
    assert found.text == expected
    assert found.tokens[-1] == ord(";")


@pytest.mark.slow
def test_max_new_tokens_is_exact(storyteller):
    for number in (1, 2, 7):
        found = storyteller.generate("é", "greedy", max_new_tokens=number, scores=True)
        assert found.tokens.tolist() == list(STORY.encode()[2 : 2 + number])
    longest = "x" * (storyteller.spec.max_sequence_length - 1)
    assert len(storyteller.generate(longest, "greedy", scores=True).tokens) == 1


@pytest.mark.slow
def test_penalties_are_options_of_generate(storyteller, fresh):
    likeliest = storyteller.generate("é", "greedy")
    hot = {"sampler": "random", "temperature": 20.0, "seed": 0}
    assert storyteller.generate("é", **hot) != likeliest
    assert storyteller.generate("é", **hot, min_p=0.9) == likeliest
    options = {"sampler": "greedy", "max_new_tokens": 15, "scores": True}
    plain = fresh["decoder_only"].generate("fox", **options).tokens
    varied = fresh["decoder_only"].generate("fox", **options, repetition_penalty=9.0).tokens
    assert len(set(varied.tolist())) > len(set(plain.tolist()))


@pytest.mark.slow
def test_prompt_and_continuation_concatenate_to_the_decoded_text():
    tokenizer = fm.train_tokenizer("word_piece", [TEXT], vocabulary_size=99)
    text = "the quick brown fox jumps over the lazy dog"
    lm = model_that_writes(tokenizer.encode([text])[0].tolist(), tokenizer)
    for prompt in ("the", "the quick brown", text[:-3]):
        rest = lm.generate(prompt, "greedy")
        assert prompt.rstrip() + rest == text
        assert lm.generate(prompt, "greedy", echo=True) == prompt + rest
        assert "".join(lm.generate(prompt, "greedy", stream=True)) == rest
    odd = "THE   quick"  # the tokenizer would decode it differently; an echo is verbatim
    assert lm.generate(odd, "greedy", echo=True).startswith(odd)


# Scores


@pytest.mark.slow
def test_scores_of_several_sequences_are_sorted(fresh):
    lm = fresh["decoder_only"]
    one = lm.generate("fox", "greedy", max_new_tokens=5, scores=True, echo=True)
    assert one.text == lm.generate("fox", "greedy", max_new_tokens=5, echo=True)
    np.testing.assert_allclose(one.log_probability, one.log_probabilities.sum(), rtol=1e-5)
    rows = lm.generate(["fox", "a"], "beam", max_new_tokens=5, scores=True, **TWO_BEST)
    for row, prompt in zip(rows, ["fox", "a"], strict=True):
        assert len(row) == 2
        assert row[0].log_probability > row[1].log_probability
        for found in row:
            tokens = np.concatenate([lm.tokenizer.encode([prompt])[0], found.tokens])
            x = logits_of(lm.model, tokens[None].astype("int32"))[0].astype("float64")
            x = x[len(prompt) - 1 : -1]
            log_p = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
            expected = log_p[np.arange(len(found.tokens)), found.tokens]
            np.testing.assert_allclose(found.log_probabilities, expected, atol=1e-4)
    texts = lm.generate(["fox", "a"], "beam", max_new_tokens=5, **TWO_BEST)
    assert texts == [[found.text for found in row] for row in rows]


@pytest.mark.slow
def test_scores_of_translations_equal_the_forward_pass(translator):
    sources = ["um dois", "sete oito nove"]
    for source, found in zip(sources, translator.translate(sources, scores=True), strict=True):
        start = translator.target_tokenizer.start_id
        target = np.array([[start, *found.tokens]], "int32")
        inputs = {"source": np.array([list(source.encode())], "int32"), "target": target[:, :-1]}
        x = logits_of(translator.model, inputs)[0].astype("float64")
        log_p = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
        expected = log_p[np.arange(len(found.tokens)), found.tokens]
        np.testing.assert_allclose(found.log_probabilities, expected, atol=1e-4)
        assert (x.argmax(axis=-1) == found.tokens).all()
        assert found.text == translator.translate(source)


@pytest.mark.slow
def test_batched_translations_equal_single_translations(translator):
    rng = np.random.default_rng(0)
    words = sorted({source for source, _ in PAIRS} | {"um", "x", "sete sete sete oito"})
    sources = [words[i] for i in rng.integers(0, len(words), 30)]
    sources[3], sources[17], sources[20] = "sete sete sete oito", "x", "sete oito nove dez"
    together = translator.translate(sources, batch_tokens=150)
    assert together == [translator.translate(source) for source in sources]
    assert together == translator.translate(sources)
    assert len(set(together)) > 5


# Attention weights


def check_maps(maps, names):
    assert set(maps.scores) == set(names)
    for name, scores in maps.scores.items():
        rows, columns = maps.labels(name)
        assert scores.shape == (2, len(rows), len(columns))
        assert scores.dtype == "float32"
        np.testing.assert_allclose(scores.sum(axis=-1), 1, atol=1e-5)
        if name == "decoder.block_0.self_attention":
            assert (np.triu(scores, 1) == 0).all()


PAIR_MAPS = ["encoder.block_0.self_attention", "decoder.block_0.self_attention"]
PAIR_MAPS += ["decoder.block_0.cross_attention"]


def test_attention_maps_of_a_text_have_its_tokens(fresh):
    lm = fresh["decoder_only"]
    for _ in range(2):  # the function is not replaced by a module of that name
        maps = lm.attention_maps("fox")
    check_maps(maps, ["decoder.block_0.self_attention"])
    assert (maps.target, maps.source) == (("f", "o", "x"), ())
    with pytest.raises(ValueError, match="give no target"):
        lm.attention_maps("fox", "dog")
    with pytest.raises(ValueError, match="has no tokens"):
        lm.attention_maps("")
    with pytest.raises(ValueError, match="shorten the prompt to at most 19 tokens"):
        lm.attention_maps("x" * 20)
    check_maps(lm.attention_maps("x" * 19), ["decoder.block_0.self_attention"])


@pytest.mark.slow
def test_attention_maps_of_a_translation_have_the_tokens_of_both(translator):
    text, maps = translator.translate("um dois", return_attention=True)
    assert text == translator.translate("um dois")
    check_maps(maps, PAIR_MAPS)
    assert maps.source == tuple("um dois")
    assert maps.target[0] == "<start>"
    assert "".join(maps.target[1:]).removesuffix("<end>") == text
    own = translator.attention_maps("um dois")
    assert own.target == maps.target
    given = translator.attention_maps("um", "3d4")
    check_maps(given, PAIR_MAPS)
    assert given.target == ("<start>", "3", "d", "4")
    several = translator.translate(["um", "dois"], return_attention=True, scores=True)
    assert [found.text for found, _ in several] == translator.translate(["um", "dois"])
    with pytest.raises(ValueError, match="source sentence 1 is empty"):
        translator.attention_maps("", "3d4")


# Changed weights


@pytest.mark.slow
def test_generation_uses_changed_weights():
    lm = text_model("decoder_only", dropout=0.0)
    before = lm.generate("the ", "greedy", max_new_tokens=9, scores=True)
    rng = np.random.default_rng(3)
    for weight in lm.model.weights:
        weight.assign(weight + 0.3 * rng.normal(size=weight.shape))
    after = lm.generate("the ", "greedy", max_new_tokens=9, scores=True)
    tokens = np.concatenate([lm.tokenizer.encode(["the "])[0], after.tokens])
    assert (logits_of(lm.model, tokens[None])[0, 3:-1].argmax(axis=-1) == after.tokens).all()
    assert after.text != before.text


@pytest.mark.slow
def test_a_corpus_without_held_out_text_trains_without_validation():
    lm = text_model("decoder_only")
    rows = lm.fit(TextCorpus("one", (TEXT,), ()), steps=1, batch_size=3, progress=False)
    assert [row["step"] for row in rows] == [1]
    assert "val_loss" not in rows[0]


# Other backends

EVERYTHING = """
import sys; sys.path.insert(0, sys.argv[1] + "/tests")
import numpy as np
import functional_models as fm
from small_text_models import KINDS, PAIRS, corpus, text_model
for kind in KINDS:
    folder = sys.argv[2] + "/" + kind
    model = text_model(kind)
    rows = model.fit(corpus(kind), steps=3, report_every=2, batch_size=5, folder=folder,
                     progress=False)
    assert [row["step"] for row in rows] == [2, 3], rows
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    loaded = fm.load(folder)
    held_out = corpus(kind).validation
    first, second = model.evaluate(held_out, batch_size=5), loaded.evaluate(held_out, batch_size=5)
    assert abs(first["loss"] - second["loss"]) < 1e-5
    assert abs(first["loss"] - min(row["val_loss"] for row in rows)) < 1e-5
    write = "generate" if kind == "decoder_only" else "translate"
    for name in ("greedy", "random", "top_k", "beam", "contrastive"):
        texts = [getattr(m, write)(["um", "dois"], name, seed=3, max_new_tokens=5)
                 for m in (model, loaded, model)]
        assert texts[0] == texts[1] == texts[2], (name, texts)
        if name in ("random", "top_k") and kind == "decoder_only":
            pieces = model.generate(["um", "dois"], name, seed=3, max_new_tokens=5, stream=True)
            assert ["".join(row) for row in zip(*pieces)] == texts[0]
    assert np.isfinite(getattr(model, write)("um", "greedy", scores=True).log_probability)
    assert model.attention_maps("um").scores
    again = text_model(kind, seed=7)
    assert again.fit(corpus(kind), steps=3, report_every=2, batch_size=5, folder=folder,
                     progress=False) == rows
print("tensorflow" in sys.modules and __import__("keras").backend.backend() or "fine")
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_everything_works_on_other_backends(backend, tmp_path):
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    found = subprocess.run(
        [sys.executable, "-c", EVERYTHING, str(ROOT), str(tmp_path)],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert found.returncode == 0, found.stderr[-3000:]
