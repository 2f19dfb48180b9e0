"""`CausalLM` and `Translator` check their input."""

import dataclasses
import re
from pathlib import Path

import keras_hub
import numpy as np
import pytest
from small_text_models import SIZES, TEXT, TWO_BEST, byte_tokenizer, text_corpus

import builders
import functional_models as fm

SPEC = builders.TransformerSpec(kind="decoder_only", **SIZES)
PAIR_SPEC = SPEC.replace(kind="encoder_decoder")


def test_a_spec_of_another_kind_raises():
    with pytest.raises(ValueError, match=r"CausalLM takes .*replace\(kind='decoder_only'\)"):
        fm.CausalLM(PAIR_SPEC, byte_tokenizer())
    with pytest.raises(ValueError, match=r"Translator takes .*replace\(kind='encoder_decoder'\)"):
        fm.Translator(SPEC, byte_tokenizer())


def test_a_vocabulary_smaller_than_the_tokenizer_raises():
    with pytest.raises(ValueError, match=r"tokenizer has 256 tokens; .*vocabulary_size=256"):
        fm.CausalLM(SPEC.replace(vocabulary_size=255), byte_tokenizer())
    with pytest.raises(ValueError, match=r"source_tokenizer has 256 tokens"):
        fm.Translator(PAIR_SPEC.replace(source_vocabulary_size=31), byte_tokenizer())


@pytest.mark.parametrize("spec", [None, 3, {"kind": "decoder_only"}])
def test_another_type_of_spec_raises(spec):
    with pytest.raises(TypeError, match="takes a TransformerSpec or the name of a variant"):
        fm.CausalLM(spec, byte_tokenizer())


def test_another_type_of_tokenizer_raises():
    with pytest.raises(TypeError, match="got str"):
        fm.CausalLM(SPEC, "byte")


def test_padding_other_than_the_tokenizer_raises():
    tokenizer = dataclasses.replace(byte_tokenizer(), pad_id=4)
    with pytest.raises(ValueError, match=r"pads with 4; use spec\.replace\(pad_token_id=4\)"):
        fm.Translator(PAIR_SPEC, byte_tokenizer(), tokenizer)
    with pytest.raises(ValueError, match="pads with 4"):
        fm.CausalLM(SPEC, tokenizer)
    fm.CausalLM(SPEC.replace(pad_token_id=None), tokenizer)  # packed text has no padding


def test_a_named_variant_gets_vocabulary_and_padding_of_the_tokenizer(monkeypatch):
    monkeypatch.setattr(builders, "build", lambda spec: None)
    tokenizer = dataclasses.replace(byte_tokenizer(), pad_id=4)
    spec = fm.Translator("post_norm_learned", tokenizer).spec
    assert (spec.kind, spec.vocabulary_size, spec.source_vocabulary_size, spec.pad_token_id) == (
        "encoder_decoder",
        256,
        256,
        4,
    )


def test_a_target_tokenizer_that_pads_with_its_end_token_raises():
    tokenizer = dataclasses.replace(byte_tokenizer(), end_id=0)
    with pytest.raises(ValueError, match="pads with id 0, which is also its start or end token"):
        fm.Translator(PAIR_SPEC, byte_tokenizer(), tokenizer)


def test_keras_hub_tokenizers_are_accepted(tmp_path):
    lm = fm.CausalLM(SPEC, keras_hub.tokenizers.ByteTokenizer())
    lm.save(tmp_path)
    assert fm.load(tmp_path).tokenizer.encode(["é"])[0].tolist() == [0xC3, 0xA9]


BAD_LM_INPUT = [
    (("",), {}, ValueError, "the training text has 0 tokens, fewer than a block of 19"),
    (("short",), {}, ValueError, "has 5 tokens, .*=4 in its spec"),
    (([],), {}, ValueError, "there is no text"),
    ((TEXT, "short"), {}, ValueError, "the validation text has 5 tokens"),
    (([3, 4],), {}, ValueError, "text 0 is of type int"),
    ((np.full(99, 256),), {}, ValueError, "token id 256, allowed: 0 to 255"),
    ((np.full(99, -1),), {}, ValueError, "token id -1"),
    ((np.zeros((9, 9), int),), {}, ValueError, r"must be integers of shape"),
    ((np.zeros(99),), {}, ValueError, r"must be integers of shape"),
    ((TEXT,), {"block": 20}, ValueError, "block=20: must be an integer, 1 to 19"),
    ((TEXT,), {"block": 0}, ValueError, "block=0"),
    ((TEXT,), {"stepz": 3}, ValueError, r"unknown recipe field 'stepz' \(did you mean 'steps'"),
    ((TEXT,), {"steps": -1}, ValueError, "steps=-1: must be 1 or more"),
    ((TEXT,), {"recipe": 500}, TypeError, "expected a Recipe, given 500"),
    ((TEXT,), {"sample_prompt": ""}, ValueError, "has no tokens"),
    ((TEXT,), {"sample_prompt": "x" * 19}, ValueError, "shorten the prompt to at most 18 tokens"),
    (("a\0b" * 99,), {}, ValueError, r"control character U\+0000"),
    (("\ud800" * 99,), {}, ValueError, "surrogate"),
]


@pytest.mark.parametrize(("given", "options", "error", "message"), BAD_LM_INPUT)
def test_bad_training_text_raises(fresh, given, options, error, message):
    with pytest.raises(error, match=message):
        fresh["decoder_only"].fit(*given, progress=False, **options)


BAD_PAIR_INPUT = [
    (([],), {}, ValueError, "there are no sentence pairs"),
    (([("um", "one"), ("", "two")],), {}, ValueError, "pair number 2"),
    (([("um", "one"), ("dois",)],), {}, ValueError, r"pair number 2 is \('dois',\)"),
    ((["um", "one"],), {}, ValueError, "pair number 1 is 'um'"),
    (("um\tone",), {}, TypeError, "given one text"),
    (([(1, 2)],), {}, ValueError, "text 0 is of type int"),
    (([("um " * 7, "one")],), {}, ValueError, "1 source sentences have more than 19 tokens"),
    (([("um", "one " * 5)],), {}, ValueError, "1 target sentences have more than 19 tokens"),
    (([("um", "one")],), {"sample_sources": [""]}, ValueError, "source sentence 1 is empty"),
    (([("um", "one")], [("um", "")[:1]]), {}, ValueError, "pair number 1"),
]


@pytest.mark.parametrize(("given", "options", "error", "message"), BAD_PAIR_INPUT)
def test_bad_training_pairs_raise(fresh, given, options, error, message):
    with pytest.raises(error, match=message):
        fresh["encoder_decoder"].fit(*given, progress=False, **options)


def test_a_corpus_in_place_of_text_raises(fresh):
    with pytest.raises(TypeError, match=r"give its \.train or its \.validation"):
        fresh["decoder_only"].evaluate(text_corpus())


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("", {}, "prompt '' has no tokens"),
        (["fox", ""], {}, "prompt '' has no tokens"),
        (
            "x" * 19,
            {},
            "has 19 tokens and max_sequence_length is 19; shorten the prompt to at most 18",
        ),
        ("fox", {"max_new_tokens": 17}, "use a max_new_tokens of at most 16"),
        ("fox", {"max_new_tokens": 0}, "max_new_tokens=0: must be an integer"),
        ("fox", {"max_new_tokens": 2.5}, "max_new_tokens=2.5"),
        ("fox", {"sampler": "nucleus"}, "unknown sampler 'nucleus' (did you mean 'top_p'?)"),
        ("fox", {"temperature": 0}, "temperature=0: must be above 0"),
        ("fox", {"temperature": -0.5}, "temperature=-0.5"),
        ("fox", {"temperature": float("nan")}, "temperature=nan"),
        ("fox", {"sampler": "beam", "num_beams": 257}, "num_beams=257: must be an integer, 1"),
        ("fox", {"sampler": "beam", "num_return_sequences": 5}, "must not be above num_beams=4"),
        ("fox", {"stop_tokens": "ab"}, "stop token 'ab' is 2 tokens of this tokenizer"),
        ("fox", {"stop_tokens": [256]}, "stop token=256: must be an integer, 0 to 255"),
        ("fox", {"stop_tokens": [True]}, "stop token=True"),
        ([3], {}, "text 0 is of type int"),
        (b"fox", {}, "text 0 is of type bytes"),
        (["fox", b"dog"], {}, "text 1 is of type bytes"),
        (["fox", "a\udc00"], {}, "text 1 has a lone surrogate, U+DC00"),
    ],
)
def test_bad_prompts_and_options_raise(fresh, prompt, options, message):
    for stream in (False, True):  # streams raise at the call, not at the first piece
        with pytest.raises(ValueError, match=re.escape(message)):
            fresh["decoder_only"].generate(prompt, stream=stream, **options)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("x" * 20, {}, "more than 19 tokens"),
        ([" ", "um", "x" * 20], {}, "the first is number 3, the longest has 20"),
        ("um", {"max_new_tokens": 19}, "max_new_tokens=19: must be an integer, 1 to 18"),
        ("um", {"batch_tokens": 0}, "batch_tokens=0"),
        (b"um", {}, "text 0 is of type bytes"),
        ("\ud800", {}, "lone surrogate"),
        ("um", {"sampler": "beam", "num_beams": 257}, "num_beams=257"),
        (
            "um",
            {"sampler": "beam", **TWO_BEST, "return_attention": True},
            "returns a single translation",
        ),
        ("um", {"sampler": "nucleus"}, "unknown sampler"),
    ],
)
def test_bad_sources_and_options_raise(fresh, source, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        fresh["encoder_decoder"].translate(source, **options)


@pytest.mark.parametrize("given", [3, None, Path("a.txt"), {"fox": 1}, {"fox"}])
def test_another_type_than_text_raises(fresh, given):
    lm, translator = fresh["decoder_only"], fresh["encoder_decoder"]
    wrong = f"given {type(given).__name__}"
    calls = (lm.generate, lm.evaluate, lm.fit, lm.tokens, translator.translate)
    for take in (*calls, lambda texts: lm.generate(texts, stream=True)):
        with pytest.raises(TypeError, match=f"a text or a list of texts, {wrong}"):
            take(given)
    for take in (translator.fit, translator.evaluate):
        with pytest.raises(TypeError, match=rf"\(source, target\) pairs, {wrong}"):
            take(given)


@pytest.mark.parametrize("given", [3, None, [3]])
def test_another_type_than_a_path_or_a_variant_raises(fresh, given):
    for take in (fm.load, fm.CausalLM.load, fresh["decoder_only"].save):
        with pytest.raises(TypeError, match=f"given as a path, not as {type(given).__name__}"):
            take(given)
    for load in (fm.load_text_corpus, fm.load_parallel_corpus):
        with pytest.raises(TypeError, match=r"a path, not as int|the path of a file"):
            load(given)
    with pytest.raises(TypeError, match="compare takes variants and specs, given"):
        fm.compare(given)


def test_rules_of_tokens_are_checked(tmp_path):
    lm = fm.CausalLM(SPEC, byte_tokenizer())
    with pytest.raises(ValueError, match=r"encoder_no_repeat_ngram_size=3: a language model has"):
        lm.generate("fox", "greedy", encoder_no_repeat_ngram_size=3)
    with pytest.raises(ValueError, match="no_repeat_ngram_size=0: must be an integer, 1 or more"):
        lm.generate("fox", "greedy", no_repeat_ngram_size=0)
    with pytest.raises(ValueError, match="min_new_tokens=-1: must be an integer, 0 or more"):
        lm.generate("fox", "greedy", min_new_tokens=-1)
    with pytest.raises(ValueError, match=r"encoder_repetition_penalty=0.0: must be above 0"):
        lm.generate("fox", "greedy", encoder_repetition_penalty=0.0)
    with pytest.raises(
        ValueError, match=r"TokenRules\(min_new_tokens=2.*is not part of an exported"
    ):
        lm.export(tmp_path / "lm", min_new_tokens=2)
