"""Train tokenizers on text; for the four kinds see `tokenizers`."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from unicodedata import category

from builders.errors import unknown_name
from builders.fields import MOST_TOKENS
from functional_models.checks import check_count, check_is_text
from functional_models.chunks import training_chunks, training_sample
from functional_models.corpora import Corpus, TextCorpus
from functional_models.corpora.stored import Sentences, StoredTexts, count_characters
from functional_models.keras_hub_tokenizer import (
    BYTE_END,
    BYTE_PAD,
    BYTE_SENTINELS,
    BYTE_START,
    END,
    MASK,
    PAD,
    SENTINEL,
    START,
    UNKNOWN,
    KerasHubTokenizer,
)
from functional_models.tokenizer_base import Tokenizer, checked_texts
from functional_models.tokenizer_files import TOKENIZER_KINDS

DEFAULT_VOCABULARY_SIZE = 8000

MOST_CHARACTERS = 10_000_000
"""Number of characters above which a vocabulary is learned from evenly spread parts of the text."""

MOST_WORK = 1_000_000
"""Letters (`sentence_piece`) or parts (`word_piece`) of different words to learn from."""

# What is a word for the trainer of a kind, and the work with each different one. KerasHub splits
# words at punctuation and at Chinese characters, and ignores those of more than 50 characters.
_WORK: dict[str, tuple[str, Callable[[str], int]]] = {
    "sentence_piece": (r"\S+", len),
    "word_piece": (
        r"[^\s!-/:-@\[-`{-~\u2000-\u206f\u3000-\u303f\u3400-\u9fff]+",
        lambda word: len(word) ** 2 // 2 * (len(word) <= 50),
    ),
}

# A longer run of letters, signs or spaces is cut: the time of training grows with the square.
LONGEST_RUN = 256

# Llama 3's expression, which splits text into words before merges are learned. KerasHub splits by
# it before it applies merges, except for 0.32, which takes it for a literal and does not split.
_RUN = f"{{1,{LONGEST_RUN}}}"
_BYTE_PAIR_SPLIT = (
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}{_RUN}|\p{{N}}{{1,3}}|"
    rf" ?[^\s\p{{L}}\p{{N}}]{_RUN}[\r\n]{{0,{LONGEST_RUN}}}|\s{{0,{LONGEST_RUN}}}[\r\n]{_RUN}|"
    rf"\s{_RUN}(?!\S)|\s{_RUN}"
)


def train_tokenizer(
    kind: str,
    texts: Iterable[str],
    vocabulary_size: int | None = None,
    *,
    lowercase: bool = False,
    mask: bool = False,
    sentinels: int = 0,
    progress: bool = True,
) -> Tokenizer:
    """Train a tokenizer on text. Training is deterministic.

    Of more than 10 million characters, evenly spread parts are used, and for `sentence_piece` and
    `word_piece` also of text with so many different words that training would take longer than
    about half a minute.

    Args:
        kind: one of `TOKENIZER_KINDS`.
        texts: training text, as documents, sentences or lines.
        vocabulary_size: maximum number of ids, including special ones; little text can give fewer,
            see `Tokenizer.vocabulary_size`. By default 8000; a `byte` tokenizer always has 256.
        lowercase: lowercase all text, also when encoding.
        mask: add an id for masked tokens, `[MASK]`, which `MaskedLM` needs.
        sentinels: number of ids for removed spans, `<extra_id_0>` and so on, which `SpanCorruption`
            needs. A `byte` tokenizer always has a mask and 12 sentinels: bytes that no text has.
        progress: print a line on stderr if parts of the text are used.

    Raises:
        ValueError: unknown kind; no text; a vocabulary too small for the characters of the text.
        ImportError: `word_piece` without TensorFlow.
    """
    if not isinstance(kind, str):
        raise TypeError(
            f"the kind of a tokenizer is a text, given {type(kind).__name__}; the arguments are "
            "train_tokenizer(kind, texts)"
        )
    if kind not in TOKENIZER_KINDS:
        raise ValueError(unknown_name("tokenizer kind", kind, TOKENIZER_KINDS))
    if vocabulary_size is not None:
        check_count("vocabulary_size", vocabulary_size)
    check_count("sentinels", sentinels, least=0)
    if kind == "byte":
        check_count("sentinels", sentinels, least=0, most=len(BYTE_SENTINELS))
        return _byte_tokenizer(vocabulary_size, lowercase)
    if vocabulary_size is None:
        vocabulary_size = DEFAULT_VOCABULARY_SIZE
    check_is_text(texts, "train_tokenizer")
    if not isinstance(texts, StoredTexts | Sentences):
        texts = [text for text in checked_texts(texts) if text and not text.isspace()]
    total = count_characters(texts)
    texts = list(training_sample(texts, MOST_CHARACTERS))
    if kind in _WORK:
        texts = _with_fewer_words(texts, *_WORK[kind])
    if progress and (number := count_characters(texts)) < total:
        print(
            f"the {kind} vocabulary is learned from {number:,} of {total:,} characters, evenly "
            "spread",
            file=sys.stderr,
            flush=True,
        )
    if lowercase:
        texts = [text.lower() for text in texts]
    if not texts:
        raise ValueError(
            f"there is no text to train a {kind} tokenizer on; give text that is not blank"
        )
    train = {
        "word_piece": _train_word_piece,
        "sentence_piece": _train_sentence_piece,
        "byte_pair": _train_byte_pair,
    }[kind]
    check_count("vocabulary_size", vocabulary_size, most=MOST_TOKENS)
    further = [MASK] * mask + [SENTINEL.format(number) for number in range(sentinels)]
    keras_tokenizer, special_ids = train(texts, vocabulary_size, further)
    size = int(keras_tokenizer.vocabulary_size())
    tokenizer = KerasHubTokenizer(kind, size, *special_ids, keras_tokenizer, lowercase)
    _ = tokenizer.file_content  # raises now, not after a model is trained with it
    return tokenizer


def _with_fewer_words(texts: list[str], word: str, work: Callable[[str], int]) -> list[str]:
    """Return evenly spread parts of texts whose different words are at most `MOST_WORK`."""
    while True:
        words = set().union(*(re.findall(word, text) for text in texts))
        share = MOST_WORK / max(sum(map(work, words)), 1)
        fewer = training_sample(texts, int(share * count_characters(texts)))
        if share > 0.9 or not fewer:
            return texts
        texts = list(fewer)


def shared_tokenizer(
    corpus: Corpus,
    kind: str,
    vocabulary_size: int | None,
    *,
    sides: Sequence[int] = (0, 1),
    **options: Any,
) -> Tokenizer:
    """Train a tokenizer on all training text, source and target together; see `train_tokenizer`.

    `sides` are the texts of pairs that are used, 0 the source and 1 the target.
    """
    texts = corpus.train if isinstance(corpus, TextCorpus) else Sentences(corpus.train, sides)
    return train_tokenizer(kind, texts, vocabulary_size, **options)


def _byte_tokenizer(vocabulary_size: int | None, lowercase: bool) -> Tokenizer:
    import keras_hub

    if vocabulary_size not in (None, 256):
        raise ValueError(
            f"a byte tokenizer has 256 ids, got vocabulary_size={vocabulary_size}; omit it"
        )
    # KerasHub's lowercasing is a case folding that also removes characters.
    keras_tokenizer = keras_hub.tokenizers.ByteTokenizer(lowercase=False)
    ids = (BYTE_PAD, BYTE_START, BYTE_END)
    return KerasHubTokenizer("byte", 256, *ids, keras_tokenizer, lowercase)


def _train_word_piece(
    texts: list[str], vocabulary_size: int, further: list[str]
) -> tuple[Any, tuple[int, int, int]]:
    import keras_hub

    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            "KerasHub trains word_piece vocabularies with TensorFlow: pip install tensorflow "
            "tensorflow-text, or choose another kind: byte, sentence_piece, byte_pair"
        ) from error

    reserved = [PAD, START, END, UNKNOWN, *further]
    characters = set().union(*texts)
    # KerasHub splits at these; other white space, such as U+00A0, is part of words.
    characters -= {c for c in characters if c in " \t\n\r\f" or category(c) in ("Cc", "Cf")}
    if not characters:
        raise ValueError("there is no text to train a word_piece tokenizer on, but control signs")
    # KerasHub keeps each of the 1,000 most frequent characters as the start of a word and ("##a")
    # as a later part, and silently drops pieces that exceed the vocabulary size.
    smallest = len(reserved) + 2 * min(len(characters), 1000)
    if vocabulary_size < smallest:
        raise _too_small("word_piece", vocabulary_size, smallest)
    options = tf.data.Options()
    options.autotune.enabled = False  # it can stall the end of an epoch by seconds
    chunks = [chunk for text in texts for chunk in training_chunks([text])]
    vocabulary = keras_hub.tokenizers.compute_word_piece_vocabulary(
        tf.data.Dataset.from_tensor_slices(chunks).batch(256).with_options(options),
        vocabulary_size,
        reserved_tokens=reserved,
    )
    if len(vocabulary) == len(reserved):
        raise ValueError(
            "word_piece learns from words of at most 50 characters, and this text has none; use "
            "a byte_pair tokenizer"
        )
    tokenizer = keras_hub.tokenizers.WordPieceTokenizer(vocabulary, oov_token=UNKNOWN)
    return tokenizer, (0, 1, 2)


def _train_sentence_piece(
    texts: list[str], vocabulary_size: int, further: list[str]
) -> tuple[Any, tuple[int, int, int]]:
    import keras_hub
    import sentencepiece

    # A space stands before every line, in place of the one at which a long line is cut.
    lines = (
        chunk.removeprefix(" ") if number else chunk
        for text in texts
        for line in text.split("\n")
        if line.strip()
        for number, chunk in enumerate(training_chunks([line]))
    )
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=model,
            model_type="unigram",
            vocab_size=vocabulary_size,
            hard_vocab_limit=False,  # little text can give fewer pieces
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            control_symbols=further,  # ids that no text is encoded as
            # Without normalization, and with bytes for rare characters, encoding is lossless.
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            byte_fallback=True,
            required_chars="▁",  # a space; as bytes, it would be decoded as this character
            split_digits=True,
            max_sentence_length=1 << 24,
            num_threads=1,  # the result does not depend on the machine
            minloglevel=2,
        )
    except RuntimeError as error:
        required = re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error))
        if required is None:
            raise ValueError(f"sentencepiece could not train on this text: {error}") from error
        raise _too_small("sentence_piece", vocabulary_size, int(required[1])) from error
    tokenizer = keras_hub.tokenizers.SentencePieceTokenizer(proto=model.getvalue())
    return tokenizer, (0, 2, 3)


def _train_byte_pair(
    texts: list[str], vocabulary_size: int, further: list[str]
) -> tuple[Any, tuple[int, int, int]]:
    import keras_hub
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    special = [PAD, START, END, *further]
    smallest = len(special) + 256 + 1  # KerasHub requires at least one merge
    if vocabulary_size < smallest:
        raise _too_small("byte_pair", vocabulary_size, smallest)
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_BYTE_PAIR_SPLIT), behavior="isolated"),
            # One token per digit: such numbers are much easier to learn.
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=2,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    chunks = (chunk for text in texts for chunk in training_chunks([text]))
    trained.train_from_iterator(chunks, trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    if not merges:
        raise ValueError(
            "no pair of characters occurs twice in the training text, so that byte_pair has "
            "nothing to merge; give more text, or use a byte tokenizer"
        )
    vocabulary = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
    # Special tokens are not `unsplittable_tokens`, so that "[END]" in a text is encoded as text.
    tokenizer = keras_hub.tokenizers.BytePairTokenizer(vocabulary, merges)
    return tokenizer, (vocabulary[PAD], vocabulary[START], vocabulary[END])


def _too_small(kind: str, given: int, smallest: int) -> ValueError:
    return ValueError(
        f"vocabulary_size={given} is too small for a {kind} tokenizer of this text; it needs at "
        f"least {smallest} (special ids, and every character or byte)"
    )
