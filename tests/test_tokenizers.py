"""Tokenizers: lossless encoding, special ids, and errors."""

from pathlib import Path

import keras_hub
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from python_process import run_python
from trained_tokenizers import TEXTS

from functional_models.tokenizer_files import TOKENIZER_KINDS
from functional_models.tokenizer_training import train_tokenizer
from functional_models.tokenizers import as_tokenizer, load_tokenizer

LOSSLESS = ("byte", "byte_pair", "sentence_piece")


def test_special_ids_are_distinct_and_padding_is_0(tokenizer):
    ids = (tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id)
    assert tokenizer.pad_id == 0
    assert len(set(ids)) == 3
    assert all(0 <= i < tokenizer.vocabulary_size for i in ids)


def test_encoding_returns_int32_vectors_without_special_ids(tokenizer):
    sequences = tokenizer.encode([*TEXTS[:3], ""])
    assert [ids.dtype for ids in sequences] == [np.int32] * 4
    assert [ids.ndim for ids in sequences] == [1] * 4
    assert len(sequences[3]) == 0
    special = (tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id)
    for ids in sequences[:3]:
        assert not np.isin(ids, special).any()
        assert 0 <= ids.min() <= ids.max() < tokenizer.vocabulary_size


def test_start_and_end_enclose_the_text(tokenizer):
    (bare,) = tokenizer.encode(TEXTS[:1])
    (full,) = tokenizer.encode(TEXTS[:1], start=True, end=True)
    assert full.tolist() == [tokenizer.start_id, *bare.tolist(), tokenizer.end_id]


def test_encoding_a_batch_equals_encoding_one_by_one(tokenizer):
    for ids, text in zip(tokenizer.encode(TEXTS[:4]), TEXTS, strict=False):
        np.testing.assert_array_equal(ids, tokenizer.encode([text])[0])


def test_decoding_drops_padding_and_everything_after_the_first_end(tokenizer):
    first, second = tokenizer.encode(TEXTS[:2])
    padded = [
        tokenizer.start_id,
        *first,
        tokenizer.end_id,
        *second,
        tokenizer.end_id,
        tokenizer.pad_id,
    ]
    left_padded = [tokenizer.pad_id, tokenizer.pad_id, *first]
    expected = tokenizer.decode([first])
    assert tokenizer.decode([padded]) == expected
    assert tokenizer.decode([left_padded]) == expected


def test_decoding_accepts_lists_and_arrays(tokenizer):
    ids = tokenizer.encode(TEXTS[:1])[0]
    expected = tokenizer.decode([ids]) * 2
    assert tokenizer.decode(np.stack([ids, ids])) == expected
    assert tokenizer.decode([ids.tolist(), ids.astype(np.int64)]) == expected
    assert tokenizer.decode([[], [tokenizer.end_id]]) == ["", ""]
    assert tokenizer.decode([]) == []
    assert tokenizer.encode([]) == []


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_kinds_restore_text(tokenizers, kind):
    texts = [*TEXTS[:4], " two  spaces\tand\r\na line ", "日本語 😀 é\u0301 \u00a0", "\n\n", " "]
    assert tokenizers[kind].decode(tokenizers[kind].encode(texts, start=True, end=True)) == texts


def test_sentence_pieces_restore_text_in_which_spaces_are_rare():
    text = "日本語文章" * 2000 + " と"
    tokenizer = train_tokenizer("sentence_piece", [text], 300)
    assert tokenizer.decode(tokenizer.encode([text])) == [text]


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\x00\x02\x03")))
def test_bytes_restore_any_text_without_reserved_characters(tokenizers, text):
    tokenizer = tokenizers["byte"]
    (ids,) = tokenizer.encode([text])
    assert ids.tolist() == list(text.encode("utf-8"))
    assert tokenizer.decode([ids]) == [text]


@given(text=st.text(st.characters(codec="utf-8")))
@settings(max_examples=300)
def test_byte_pairs_restore_any_text(tokenizers, text):
    tokenizer = tokenizers["byte_pair"]
    assert tokenizer.decode(tokenizer.encode([text])) == [text]


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\u2581")))
def test_sentence_pieces_restore_any_text_without_u_2581(tokenizers, text):
    tokenizer = tokenizers["sentence_piece"]
    assert tokenizer.decode(tokenizer.encode([text])) == [text]


@given(ids=st.lists(st.integers(0, 255)))
def test_any_ids_can_be_decoded(tokenizers, ids):
    for tokenizer in tokenizers.values():
        kept = [i % tokenizer.vocabulary_size for i in ids]
        (text,) = tokenizer.decode([kept])
        text.encode("utf-8")  # encodable: no lone surrogate


def test_invalid_utf_8_becomes_the_replacement_character(tokenizers):
    half = list("é".encode())[:1]
    assert tokenizers["byte"].decode([[*b"caf", *half]]) == ["caf\ufffd"]


@pytest.mark.parametrize("kind", LOSSLESS)
def test_special_tokens_in_text_are_text(tokenizers, kind):
    texts = ["[END] of [PAD] and [START]", "</s><s><pad>"]
    sequences = tokenizers[kind].encode(texts)
    assert all(tokenizers[kind].end_id not in ids for ids in sequences)
    assert tokenizers[kind].decode(sequences) == texts


def test_word_pieces_are_joined_with_single_spaces(tokenizers):
    tokenizer = tokenizers["word_piece"]
    assert tokenizer.decode(tokenizer.encode(["The  price,\nand not 1.234"])) == [
        "The price , and not 1 . 234"
    ]


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_lowercasing_applies_to_training_and_to_encoding(kind):
    tokenizer = train_tokenizer(kind, TEXTS, None if kind == "byte" else 400, lowercase=True)
    assert tokenizer.decode(tokenizer.encode(["THE PRICE É"])) == ["the price é"]


@pytest.mark.parametrize("kind", TOKENIZER_KINDS[1:])
def test_vocabularies_do_not_exceed_the_size(kind, tokenizers):
    assert tokenizers[kind].vocabulary_size <= 400
    assert train_tokenizer(kind, ["so little text"] * 2, 5000).vocabulary_size < 400


def test_byte_pairs_of_a_text_without_repetition_raise():
    with pytest.raises(ValueError, match="byte_pair has nothing to merge"):
        train_tokenizer("byte_pair", ["abc"], 300)


def test_training_is_deterministic(tmp_path, tokenizer):
    again = train_tokenizer(tokenizer.kind, iter(TEXTS), None if tokenizer.kind == "byte" else 400)
    tokenizer.save(tmp_path / "a")
    again.save(tmp_path / "b")
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}


def test_an_unknown_kind_raises_with_those_allowed():
    with pytest.raises(ValueError, match="'words'; allowed: byte, word_piece"):
        train_tokenizer("words", TEXTS)


@pytest.mark.parametrize("kind", TOKENIZER_KINDS[1:])
@pytest.mark.parametrize("texts", [[], ["", " \n"]])
def test_training_on_no_text_raises(kind, texts):
    with pytest.raises(ValueError, match="no text"):
        train_tokenizer(kind, texts, 300)


@pytest.mark.parametrize("kind", TOKENIZER_KINDS[1:])
@pytest.mark.parametrize("size", [0, -5, 7])
def test_a_vocabulary_that_is_too_small_raises(kind, size):
    with pytest.raises(ValueError, match=f"vocabulary_size.*{size}"):
        train_tokenizer(kind, TEXTS, size)


@pytest.mark.parametrize("kind", TOKENIZER_KINDS[1:])
def test_the_vocabulary_size_in_the_error_is_the_smallest(kind):
    with pytest.raises(ValueError, match="at least") as caught:
        train_tokenizer(kind, TEXTS, 7)
    smallest = int(str(caught.value).split("at least ")[1].split()[0])
    tokenizer = train_tokenizer(kind, TEXTS, smallest)
    decoded = tokenizer.decode(tokenizer.encode(TEXTS))
    assert not any("[UNK]" in text for text in decoded)
    with pytest.raises(ValueError, match="at least"):
        train_tokenizer(kind, TEXTS, smallest - 1)


def test_a_byte_tokenizer_has_256_ids():
    assert train_tokenizer("byte", []).vocabulary_size == 256
    assert train_tokenizer("byte", [], 256).vocabulary_size == 256
    with pytest.raises(ValueError, match="has 256 ids, got vocabulary_size=300"):
        train_tokenizer("byte", TEXTS, 300)
    with pytest.raises(ValueError, match="vocabulary_size=-5: must be an integer, 1 or more"):
        train_tokenizer("byte", TEXTS, -5)


@pytest.mark.parametrize("bad", [-1, 10**6])
def test_ids_outside_the_vocabulary_raise(tokenizer, bad):
    with pytest.raises(ValueError, match=f"{bad} is outside the vocabulary"):
        tokenizer.decode([[5, bad]])


@pytest.mark.parametrize("sequences", [[3, 4], [[0.5]], [["a"]]])
def test_sequences_that_are_not_ids_raise(tokenizer, sequences):
    with pytest.raises(ValueError, match="integer ids"):
        tokenizer.decode(sequences)


@pytest.mark.parametrize("control", ["\x00", "\x02", "\x03"])
def test_reserved_characters_in_text_raise_for_bytes(tokenizers, control):
    with pytest.raises(ValueError, match=rf"text 1 has .*U\+000{ord(control)} at character 2"):
        tokenizers["byte"].encode(["fine", f"ab{control}c"])


def test_invalid_texts_raise(tokenizer):
    with pytest.raises(ValueError, match=r"write \[text\]"):
        tokenizer.encode("a single text")
    with pytest.raises(ValueError, match="text 0 is of type int"):
        tokenizer.encode([3])
    with pytest.raises(ValueError, match=r"lone surrogate, U\+D800, at character 1"):
        tokenizer.encode(["a\ud800"])
    with pytest.raises(ValueError, match=r"in place of the byte 0xe9, which is not UTF-8"):
        tokenizer.encode([b"caf\xe9".decode(errors="surrogateescape")])


@pytest.mark.parametrize("given", [3, None, Path("a.txt"), {"a": 1}, {"a"}])
def test_what_is_no_list_of_texts_raises(tokenizers, given):
    for take in (tokenizers["byte"].encode, lambda texts: train_tokenizer("byte_pair", texts)):
        with pytest.raises(TypeError, match=f"a list of texts, given {type(given).__name__}"):
            take(given)


def test_swapped_and_wrong_arguments_raise(tokenizers):
    with pytest.raises(TypeError, match=r"given list; the arguments are train_tokenizer\(kind, te"):
        train_tokenizer(TEXTS, "byte_pair")
    with pytest.raises(TypeError, match="decode takes sequences of ids, given int"):
        tokenizers["byte"].decode(3)
    for take in (load_tokenizer, tokenizers["byte"].save):
        with pytest.raises(TypeError, match="must be given as a path, not as int"):
            take(3)


def test_a_tokenizer_is_not_wrapped(tokenizer):
    assert as_tokenizer(tokenizer) is tokenizer


def test_special_ids_of_a_trained_vocabulary_are_found(tokenizer):
    wrapped = as_tokenizer(tokenizer.keras_tokenizer)
    for field in ("kind", "vocabulary_size", "pad_id", "start_id", "end_id"):
        assert getattr(wrapped, field) == getattr(tokenizer, field)


def test_special_ids_of_a_bert_tokenizer_are_found(tmp_path):
    vocabulary = ["[UNK]", "the", "fox", "[CLS]", "[SEP]", "[MASK]", "[PAD]"]
    wrapped = as_tokenizer(keras_hub.tokenizers.BertTokenizer(vocabulary))
    assert (wrapped.pad_id, wrapped.start_id, wrapped.end_id) == (6, 3, 4)
    wrapped.save(tmp_path)
    assert load_tokenizer(tmp_path).decode([[3, 1, 2, 4, 6]]) == ["the fox"]


def test_gpt_2_has_the_same_id_for_start_end_and_padding(tmp_path):
    vocabulary = {"!": 0, "h": 1, "i": 2, "hi": 3, "<|endoftext|>": 4}
    wrapped = as_tokenizer(keras_hub.tokenizers.GPT2Tokenizer(vocabulary, ["h i"]))
    assert (wrapped.pad_id, wrapped.start_id, wrapped.end_id) == (4, 4, 4)
    wrapped.save(tmp_path)
    for tokenizer in (wrapped, load_tokenizer(tmp_path)):
        (ids,) = tokenizer.encode(["hi!"], start=True, end=True)
        assert ids.tolist() == [4, 3, 0, 4]
        assert tokenizer.decode([ids]) == ["hi!"]


def test_another_type_raises():
    with pytest.raises(TypeError, match="got str"):
        as_tokenizer("gpt2")


def test_tokenizers_that_pad_or_have_no_end_token_raise():
    vocabulary = ["[UNK]", "[PAD]", "a"]
    with pytest.raises(ValueError, match="without sequence_length"):
        as_tokenizer(keras_hub.tokenizers.WordPieceTokenizer(vocabulary, sequence_length=5))
    with pytest.raises(ValueError, match="has no end token"):
        as_tokenizer(keras_hub.tokenizers.WordPieceTokenizer(vocabulary))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["byte", "sentence_piece", "byte_pair"])
def test_tokenizers_do_not_need_tensorflow(kind, tmp_path):
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('tensorflow', 'tensorflow_text')))  # not importable\n"
        "from functional_models.tokenizer_training import train_tokenizer\n"
        "from functional_models.tokenizers import load_tokenizer\n"
        f"t = train_tokenizer({kind!r}, ['one two three'] * 9, {None if kind == 'byte' else 280})\n"
        f"t.save({str(tmp_path)!r})\n"
        f"t = load_tokenizer({str(tmp_path)!r})\n"
        "assert t.decode(t.encode(['one two'])) == ['one two']\n"
    )
    run_python(code, KERAS_BACKEND="jax")
