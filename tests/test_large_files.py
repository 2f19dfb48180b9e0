"""Long texts are read, tokenized and batched in pieces, with the same result as whole."""

import gzip
import pickle
import random

import numpy as np
import pytest
from small_text_models import text_model

from functional_models import chunks
from functional_models.corpora import TextCorpus, load_parallel_corpus, load_text_corpus, stored
from functional_models.corpora.corpus import ParallelCorpus, fingerprint
from functional_models.corpora.stored import StoredPairs, StoredTexts, in_pieces, stored_texts
from functional_models.keras_hub_tokenizer import lowercase_pieces
from functional_models.reading import Reading
from functional_models.tokenizer_training import shared_tokenizer, train_tokenizer

KINDS = ("byte", "byte_pair", "sentence_piece", "word_piece")
WORDS = [
    "alpha",
    "naïve",
    "日本。語",
    "😀 x",
    "1,234.5",
    "don't",
    "  ",
    "a\r\nb",
    "\r",
    "\x0c",
    "ΟΔΟΣ",
]


def prose(number, separator):
    return separator.join(random.Random(5).choices(WORDS, k=number))


TEXTS = [prose(300, " "), prose(90, "\n"), prose(90, "\r"), "ACGT" * 211 + " x", "y"]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 61)
    monkeypatch.setattr(chunks, "_BATCH", 257)
    monkeypatch.setattr(stored, "_PIECE", 7)  # cuts characters of several bytes
    monkeypatch.setattr("functional_models.corpora.decoding.BLOCK", 997)


@pytest.fixture(scope="module")
def tokenizers():
    return {k: train_tokenizer(k, TEXTS, None if k == "byte" else 400) for k in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_stored_texts_have_the_tokens_of_texts_in_memory(tokenizers, kind, monkeypatch):
    tokenizer = tokenizers[kind]
    kept = stored_texts(in_pieces(TEXTS))
    tokens = tokenizer.encode_together(kept, end=True)
    assert isinstance(tokens, np.memmap)
    assert tokens.itemsize == (1 if tokenizer.vocabulary_size <= 256 else 2)
    monkeypatch.setattr(stored, "_PIECE", 1 << 20)
    parts = tokenizer.encode(TEXTS, end=True)
    np.testing.assert_array_equal(tokens, np.concatenate(parts))
    np.testing.assert_array_equal(tokenizer.encode_together(TEXTS[0]), parts[0][:-1])


def test_stored_texts_are_tokenized_once_by_each_tokenizer(tokenizers, monkeypatch):
    byte, other = tokenizers["byte"], train_tokenizer("byte", [])
    kept = stored_texts(in_pieces(TEXTS))
    with_ends, without = byte.encode_together(kept, end=True), byte.encode_together(kept)
    assert len(with_ends) == len(without) + len(TEXTS)
    monkeypatch.setattr(type(byte), "_chunks", None)  # tokenizing again would fail
    assert byte.encode_together(kept, end=True) is with_ends
    assert byte.encode_together(kept) is without
    with pytest.raises(TypeError):
        other.encode_together(kept)
    with pytest.raises(TypeError):
        byte.encode_together(stored_texts(in_pieces(TEXTS)))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["a.txt", "a.gz"])
def test_files_are_split_as_their_text_is(tmp_path, text, name):
    content = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name == "a.gz" else content)
    corpus = load_text_corpus(tmp_path / name, validation_fraction=0.3)
    cut = int(len(text) * (1 - 0.3))
    in_memory = TextCorpus(name, (text[:cut],) if text[:cut] else (), (text[cut:],))
    assert corpus == in_memory
    assert fingerprint(corpus) == fingerprint(in_memory)
    assert repr(corpus) == repr(in_memory)


def test_stored_texts_are_a_sequence_of_texts():
    kept = stored_texts(in_pieces([*TEXTS, " \n", ""]))
    assert kept.not_blank() == tuple(TEXTS)
    assert (kept[-3], kept[1:3], kept[::2][1]) == (TEXTS[-1], tuple(TEXTS[1:3]), TEXTS[2])
    assert isinstance(kept[1:3], StoredTexts)
    assert pickle.loads(pickle.dumps(kept)) == (*TEXTS, " \n", "")
    assert kept[:1] + kept[1:2] == tuple(TEXTS[:2])
    with pytest.raises(IndexError):
        kept[7]


def test_errors_of_bytes_beyond_the_first_block_name_their_place(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("é\n".encode() * 700 + b"caf\xe9 !")
    with pytest.raises(ValueError, match=r"byte 0xe9 at offset 2103, line 701 .* other characters"):
        load_text_corpus(path)
    path.write_bytes("é\n".encode() * 700 + b"\xc3")
    with pytest.raises(ValueError, match=r"cut off: copy it again, or remove the last 1 bytes"):
        load_text_corpus(path)
    path.write_bytes(b"The quick brown fox " * 100 + b"\0")
    with pytest.raises(ValueError, match=r"control characters \(0x00 at offset 2000\)"):
        load_text_corpus(path)
    path.write_bytes("abc".encode("utf-16") * 700)
    with pytest.raises(ValueError, match="is UTF-16, not UTF-8"):
        load_text_corpus(path)


def test_a_reserved_byte_in_a_later_piece_is_named(tokenizers):
    kept = stored_texts(in_pieces(["a", "x" * 100 + "\x02"]))
    with pytest.raises(ValueError, match=r"text 1 has .* U\+0002 at character 100,"):
        tokenizers["byte"].encode_together(kept)


@pytest.mark.parametrize("text", ["ΟΔΟΣ ΟΔΟΣ\nΣΑΣ. Σ İI", "ΣΑΣ" * 9 + " ΣΑΣ", ""])
def test_pieces_are_lowercased_as_the_whole_text(text):
    for size in range(4, 12):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        if " " in text[:size]:
            assert "".join(lowercase_pieces(pieces)) == text.lower()
    assert "".join(lowercase_pieces([text])) == text.lower()


def test_training_on_a_file_equals_training_on_its_text(tmp_path):
    (tmp_path / "a.txt").write_text(prose(900, " "), newline="")
    corpus = load_text_corpus(tmp_path / "a.txt")
    in_memory = TextCorpus("a.txt", tuple(corpus.train), tuple(corpus.validation))
    tokenizers = [shared_tokenizer(c, "byte_pair", 300) for c in (corpus, in_memory)]
    assert tokenizers[0].file_content == tokenizers[1].file_content
    lm = text_model("decoder_only")
    one, two = (lm._batches(c.train, "text", 5, 3, 1, False) for c in (corpus, in_memory))
    assert one.fingerprint() == two.fingerprint()
    for step in (0, 1, one.steps_per_epoch):
        for a, b in zip(one.batch(step), two.batch(step), strict=True):
            np.testing.assert_array_equal(a, b)
    assert lm.evaluate(corpus.validation) == lm.evaluate(in_memory.validation)
    assert lm.tokens(corpus.train).dtype == np.int32


def test_pairs_of_files_equal_pairs_in_memory(tmp_path):
    rows = [(f"olá {i % 37} é", f"hello {i} ü") for i in range(211)]
    (tmp_path / "a.tsv").write_text("\r".join(map("\t".join, rows)), newline="")
    corpus = load_parallel_corpus(tmp_path / "a.tsv")
    assert isinstance(corpus.train, StoredPairs)
    splits = [tuple(split) for split in (corpus.train, corpus.validation, corpus.test)]
    assert sorted(sum(splits, ())) == sorted(rows)
    in_memory = ParallelCorpus("a.tsv", *splits)
    assert corpus == in_memory
    assert fingerprint(corpus) == fingerprint(in_memory)
    kinds = [shared_tokenizer(c, "byte_pair", 290).file_content for c in (corpus, in_memory)]
    assert kinds[0] == kinds[1]
    tr = text_model("encoder_decoder")
    one, two = (tr._batches(c.train, 7, 1, False) for c in (corpus, in_memory))
    assert one.fingerprint() == two.fingerprint()
    sources = tr.source_tokenizer.encode_sources([source for source, _ in corpus.train])
    targets = tr.target_tokenizer.encode([t for _, t in corpus.train], start=True, end=True)
    for (source, target), *expected in zip(one.pairs, sources, targets, strict=True):
        assert [source.tolist(), target.tolist()] == [ids.tolist() for ids in expected]


def test_a_sample_of_stored_texts_is_that_of_texts_in_memory(monkeypatch, capsys):
    monkeypatch.setattr("functional_models.tokenizer_training.MOST_CHARACTERS", 1500)
    kept = stored_texts(in_pieces(TEXTS))
    one, two = (train_tokenizer("byte_pair", texts, 270) for texts in (kept, TEXTS))
    assert one.file_content == two.file_content
    assert f"of {sum(map(len, TEXTS)):,} characters, evenly spread" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "letters"), [("sentence_piece", 9), ("word_piece", 36)])
def test_a_vocabulary_is_learned_from_a_part_of_too_many_words(monkeypatch, capsys, kind, letters):
    words = [
        f"{number:09d}".translate(str.maketrans("0123456789", "abcdefghij"))
        for number in range(0, 99_000, 99)
    ]
    monkeypatch.setattr("functional_models.tokenizer_training.MOST_WORK", 250 * letters)
    train_tokenizer(kind, [" ".join(words)] * 2, 300)
    line = capsys.readouterr().err
    used = int(line.split("learned from ")[1].split()[0].replace(",", ""))
    assert 0.4 * 2500 <= used <= 1.3 * 2 * 2500
    train_tokenizer(kind, ["the same words " * 700], 300)
    assert "evenly" not in capsys.readouterr().err


def test_reading_shows_lines_at_growing_intervals(capsys):
    seconds = [0.0]
    with Reading("tokenizing", 40, "characters", clock=lambda: seconds[0]) as reading:
        for _ in reading.counted_pieces("a" * 40):
            seconds[0] += 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "tokenizing: 10 of 40 characters | 30 s left"
    assert lines[1:] == ["tokenizing: 30 of 40 characters | 10 s left"]


def test_a_line_names_the_unit_that_is_counted(capsys):
    seconds = [0.0]
    with Reading("tokenizing", 17, "pairs", clock=lambda: seconds[0]) as reading:
        for _ in reading.counted(range(17)):
            seconds[0] += 1
    assert capsys.readouterr().err == "tokenizing: 10 of 17 pairs | 7 s left\n"
