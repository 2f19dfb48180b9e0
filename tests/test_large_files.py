"""Long texts are read, tokenized and batched in pieces, with the same result as whole."""

import gzip
import itertools
import os
import pickle
import random
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_text_models import text_model

from functional_models import chunks, token_cache
from functional_models.batches import TokenBatches
from functional_models.corpora import TextCorpus, load_parallel_corpus, load_text_corpus, stored
from functional_models.corpora.corpus import ParallelCorpus, fingerprint
from functional_models.corpora.stored import (
    StoredPairs,
    StoredTexts,
    in_pieces,
    stored_pairs,
    stored_texts,
)
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


def test_stored_pairs_are_tokenized_once_by_each_two_tokenizers(tokenizers, monkeypatch):
    byte, other = tokenizers["byte"], train_tokenizer("byte", [])
    kept = stored_pairs(itertools.pairwise(TEXTS))
    same, two = byte.encode_pairs(kept, byte), byte.encode_pairs(kept, tokenizers["byte_pair"])
    for found, targets in ((same, byte), (two, tokenizers["byte_pair"])):
        again = byte.encode_pairs([*kept], targets)
        assert [[ids.tolist() for ids in pair] for pair in found] == [
            [ids.tolist() for ids in pair] for pair in again
        ]
    monkeypatch.setattr(type(byte), "_chunks", None)  # tokenizing again would fail
    assert byte.encode_pairs(kept, byte) is same
    assert byte.encode_pairs(kept, tokenizers["byte_pair"]) is two
    for source, target in ((other, byte), (byte, other)):
        with pytest.raises(TypeError):
            source.encode_pairs(kept, target)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_the_fingerprint_of_a_mapped_stream_keeps_none_of_it_in_memory(tmp_path):
    tokens = (np.arange(32 << 20, dtype="uint32") * 2654435761 >> 20).astype("uint16")
    np.save(tmp_path / "tokens.npy", tokens)
    mapped = np.load(tmp_path / "tokens.npy", mmap_mode="r")

    def pages_of_files() -> int:
        return int(Path("/proc/self/statm").read_text().split()[2])

    before = pages_of_files()
    found = TokenBatches(mapped, block=7, batch_size=3).fingerprint()
    assert pages_of_files() - before < (tokens.nbytes >> 12) // 8
    assert found == TokenBatches(tokens, block=7, batch_size=3).fingerprint()
    changed = np.load(tmp_path / "tokens.npy", mmap_mode="c")  # in memory alone
    changed[0] = tokens[0] + 1
    assert TokenBatches(changed, block=7, batch_size=3).fingerprint() != found
    assert changed[0] == tokens[0] + 1


@pytest.fixture
def kept_on_disk(tmp_path, monkeypatch):
    """The folder of kept tokens, for texts of any length."""
    monkeypatch.setattr(token_cache, "LONG", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches" / "functional_models" / "tokens"


@pytest.mark.parametrize("kind", KINDS)
def test_another_process_reads_the_tokens_of_a_long_text_again(
    tokenizers, kind, kept_on_disk, monkeypatch, capsys
):
    tokenizer = tokenizers[kind]
    first = tokenizer.encode_together(stored_texts(in_pieces(TEXTS)), end=True, progress=True)
    np.testing.assert_array_equal(first, np.concatenate(tokenizer.encode(TEXTS, end=True)))
    (file,) = kept_on_disk.iterdir()
    assert f"{len(first):,} tokens, kept for the next run in {file}\n" in capsys.readouterr().err

    monkeypatch.setattr(type(tokenizer), "_chunks", None)  # tokenizing again would fail
    again = tokenizer.encode_together(stored_texts(in_pieces(TEXTS)), end=True, progress=True)
    np.testing.assert_array_equal(again, first)
    assert f"{len(first):,} tokens, read again from {file}\n" in capsys.readouterr().err
    other = train_tokenizer("byte", []) if kind != "byte" else tokenizers["byte_pair"]
    monkeypatch.setattr(type(other), "_chunks", None)
    for texts, end, by in (
        (TEXTS, False, tokenizer),
        (TEXTS[1:], True, tokenizer),
        (["".join(TEXTS)], True, tokenizer),  # the same characters
        (TEXTS, True, other),
    ):
        with pytest.raises(TypeError):
            by.encode_together(stored_texts(in_pieces(texts)), end=end)
    assert [*kept_on_disk.iterdir()] == [file]  # what failed has left nothing


def test_tokens_that_no_run_has_read_for_a_month_are_removed(tokenizers, kept_on_disk):
    byte = tokenizers["byte"]
    byte.encode_together(stored_texts(in_pieces(TEXTS)))
    (old,) = kept_on_disk.iterdir()
    os.utime(old, (0, time.time() - 29 * 24 * 3600))
    byte.encode_together(stored_texts(in_pieces(TEXTS[1:])))
    assert len([*kept_on_disk.iterdir()]) == 2
    os.utime(old, (0, time.time() - 31 * 24 * 3600))
    byte.encode_together(stored_texts(in_pieces(TEXTS)))  # reads them
    byte.encode_together(stored_texts(in_pieces(TEXTS[2:])))
    assert old.exists()
    os.utime(old, (0, time.time() - 31 * 24 * 3600))
    byte.encode_together(stored_texts(in_pieces(TEXTS[3:])))
    assert not old.exists()


def test_tokens_are_in_a_temporary_file_where_none_can_be_kept(
    tokenizers, kept_on_disk, monkeypatch
):
    byte, expected = tokenizers["byte"], tokenizers["byte"].encode_together(TEXTS)

    def check() -> None:
        found = byte.encode_together(stored_texts(in_pieces(TEXTS)))
        np.testing.assert_array_equal(found, expected)

    kept_on_disk.parent.parent.mkdir()
    kept_on_disk.parent.write_text("a file")
    check()
    kept_on_disk.parent.unlink()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=17))
    check()
    assert [*kept_on_disk.iterdir()] == []
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept_on_disk.parent.parent))
    check()  # short
    assert [*kept_on_disk.iterdir()] == []


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
