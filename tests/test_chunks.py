"""Long texts are encoded and learned from in chunks, with the same result as whole."""

import random

import pytest

from functional_models import chunks
from functional_models.chunks import training_chunks, training_sample
from functional_models.corpora.stored import in_pieces
from functional_models.tokenizer_training import LONGEST_RUN, train_tokenizer

WORDS = [
    "alpha",
    "beta",
    "gammas",
    "1,234.5",
    "don't",
    "naïve",
    "日本。語",
    "— x",
    "\n",
    "e.g.",
    "  ",
]
KINDS = ("byte", "byte_pair", "sentence_piece", "word_piece")


def prose(number, separator=" "):
    return separator.join(random.Random(7).choices(WORDS, k=number))


@pytest.fixture(scope="module")
def tokenizers():
    texts = [prose(200), prose(50, "\n"), "ACGTTGCA" * 9]
    return {k: train_tokenizer(k, texts, None if k == "byte" else 400) for k in KINDS}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", 61)
    monkeypatch.setattr(chunks, "_BATCH", 257)


def encode(tokenize, texts, cut_words):
    rows = [[] for _ in texts]
    for number, ids in chunks.encode_in_chunks(tokenize, in_pieces(texts), cut_words):
        rows[number].extend(ids.tolist())
    return rows


class Lengths:
    """Tokenizes with a KerasHub tokenizer, and keeps the length of the longest text."""

    def __init__(self, tokenize):
        self.tokenize, self.longest = tokenize, 0

    def __call__(self, texts):
        self.longest = max(self.longest, *map(len, texts))
        return self.tokenize(texts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text", [prose(300), *(prose(90, s) for s in ("\n", "\n\n", "。", "\u3000"))]
)
def test_chunks_have_the_tokens_of_the_whole_text(tokenizers, kind, text):
    keras_tokenizer = tokenizers[kind].keras_tokenizer
    (whole,) = keras_tokenizer.tokenize([text])
    tokenize = Lengths(keras_tokenizer.tokenize)
    (ids,) = encode(tokenize, [text], cut_words=False)
    assert ids == list(whole)
    if kind != "word_piece" or "\u3000" not in text:  # which is part of its words
        assert tokenize.longest < len(text) / 2


@pytest.mark.parametrize("kind", ["byte", "byte_pair"])
def test_long_runs_are_cut_and_restored(tokenizers, kind):
    runs = [
        "".join(random.Random(3).choices(letters, k=997)) for letters in ("ACGT", "日本語é", "<=>")
    ]
    tokenize = Lengths(tokenizers[kind].keras_tokenizer.tokenize)
    ids = encode(tokenize, runs, cut_words=True)
    assert tokenize.longest <= 2 * chunks.CHUNK
    assert tokenizers[kind].decode(ids) == runs


def test_texts_of_one_batch_and_of_several_are_in_order(tokenizers):
    texts = ["", "a", prose(100), "", "b", prose(40, "\n")]
    tokenizer = tokenizers["byte_pair"]
    found = tokenizer.encode(texts)
    assert [ids.tolist() for ids in found] == [
        list(tokenizer.keras_tokenizer.tokenize([text])[0]) for text in texts
    ]


def test_a_run_of_letters_is_learned_from_in_parts(monkeypatch):
    monkeypatch.undo()
    run = "".join(random.Random(1).choices("ACGT", k=150 * LONGEST_RUN))
    parts = [run[i : i + LONGEST_RUN] for i in range(0, len(run), LONGEST_RUN)]
    one, two = (train_tokenizer("byte_pair", texts, 290).file_content for texts in ([run], parts))
    assert one == two


def test_word_pieces_of_a_run_of_letters_raise():
    with pytest.raises(ValueError, match="words of at most 50 characters, and this text has none"):
        train_tokenizer("word_piece", ["ACGT" * 200], 300)


@pytest.mark.parametrize("text", [prose(90), "x" * 500, "", "a b"])
def test_training_chunks_are_the_text(text):
    found = list(training_chunks([text]))
    assert "".join(found) == text
    assert all(len(chunk) <= 2 * chunks.CHUNK for chunk in found)


def test_a_sample_is_spread_evenly():
    texts = [str(i % 10) * 61 for i in range(1000)]
    assert training_sample(texts, 61_000) == texts
    sample = training_sample(texts, 6_100)
    assert sum(map(len, sample)) == 6_100
    positions = [i for i, text in enumerate(texts) if any(text is chosen for chosen in sample)]
    assert positions == list(range(9, 1000, 10))
