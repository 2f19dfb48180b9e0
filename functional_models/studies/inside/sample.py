"""Held-out tokens that all runs of a study are measured on, and classes of tokens by frequency."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from functional_models.batches import Batch, PairBatches, teacher_forcing
from functional_models.corpora import Corpus, ParallelCorpus
from functional_models.corpora.stored import in_pieces
from functional_models.tokenizers import Tokenizer

TOKENS = 512
"""Tokens that are measured, at most, unless a row has more; fewer with a vocabulary above 131,072.

A model of the demo takes a quarter more time for twice as many."""

_LOGITS = 2**26

CLASSES = 10

_PAIRS = 2000
_CHARACTERS = 500_000
"""Pairs, and characters of text, whose tokens are counted for the classes."""


@dataclass(frozen=True)
class Sample:
    """Held-out tokens with their labels, and classes of tokens.

    Attributes:
        batch: Inputs, labels and weights (b, t).
        classes: The class of each token of the vocabulary, int (v,); see `token_classes`.
        pad_token_id: The padding of sources.
    """

    batch: Batch
    classes: np.ndarray
    pad_token_id: int


def make_sample(corpus: Corpus, tokenizer: Tokenizer, longest: int) -> Sample:
    """Return the sample of a corpus, which is the same for all runs of a study.

    Args:
        corpus: Its test split is used, or else its validation split.
        tokenizer: Of text, or of sources and targets.
        longest: The length of a block of text.

    Raises:
        ValueError: the text is shorter than a block.
    """
    tokens = min(TOKENS, _LOGITS // tokenizer.vocabulary_size)
    batch = held_out_batch(corpus, tokenizer, longest, tokens)
    return Sample(batch, token_classes(corpus, tokenizer), tokenizer.pad_id)


def held_out_batch(corpus: Corpus, tokenizer: Tokenizer, longest: int, tokens: int) -> Batch:
    """Return held-out text or pairs as one batch: inputs, labels and weights (b, t).

    Args:
        corpus, tokenizer, longest: As of `make_sample`.
        tokens: The size of the batch, b t, at most, unless one row has more.
    """
    held_out: Any = corpus.test or corpus.validation
    if isinstance(corpus, ParallelCorpus):
        return _batch_of_pairs(held_out, tokenizer, tokens)
    text = [*_beginning(held_out, 64 * (tokens + longest))]
    stream = tokenizer.encode_together(text, end=True)
    blocks = min((len(stream) - 1) // longest, max(tokens // longest, 1))
    if blocks < 1:
        raise ValueError(
            f"the held-out text has {len(stream)} tokens, less than a block of {longest}"
        )
    rows = np.stack([stream[n * longest : (n + 1) * longest + 1] for n in range(blocks)])
    return teacher_forcing(rows.astype("int32"), None)


def _batch_of_pairs(pairs: Sequence[tuple[str, str]], tokenizer: Tokenizer, tokens: int) -> Batch:
    encoded = tokenizer.encode_pairs(_spread(pairs, tokens // 8), tokenizer)
    length = max(max(len(source), len(target) - 1) for source, target in encoded)
    rows = _spread(encoded, max(tokens // length, 1))
    batches = PairBatches(rows, pad_id=tokenizer.pad_id, batch_size=len(rows))  # of one shape
    return next(batches.eval_batches())


def _spread(items: Sequence[Any], number: int) -> list[Any]:
    """Return a number of items, evenly spread, or all if there are fewer."""
    number = min(number, len(items))
    return [items[index * len(items) // number] for index in range(number)]


def _beginning(texts: Iterable[str], characters: int) -> Iterable[str]:
    """Yield the first texts, of which the last one may be cut."""
    for pieces in in_pieces(texts):
        text = "".join(itertools.islice(pieces, characters // 100_000 + 1))[:characters]
        characters -= len(text)
        if text:
            yield text
        if characters <= 0:
            return


def token_classes(corpus: Corpus, tokenizer: Tokenizer) -> np.ndarray:
    """Return the class of each token by its frequency, int (v,): 0 for the most frequent, to 9.

    Tokens are sorted by their frequency in the training data, and divided into classes that each
    make up about a tenth of it (Kunstner et al. 2024). A token that is more than a tenth
    has a class of its own, and some classes are then empty. Of large corpora, a sample is counted.
    """
    if isinstance(corpus, ParallelCorpus):
        pairs = tokenizer.encode_pairs(_spread(corpus.train, _PAIRS), tokenizer)
        counted = np.concatenate([target[1:] for _, target in pairs])  # without the start token
    else:
        counted = tokenizer.encode_together([*_beginning(corpus.train, _CHARACTERS)], end=True)
    counts = np.bincount(counted, minlength=tokenizer.vocabulary_size).astype("float64")
    order = np.argsort(-counts, kind="stable")
    share = counts[order] / counts.sum()
    middle = np.cumsum(share) - share / 2
    classes = np.empty(len(counts), "int64")
    classes[order] = np.minimum(middle * CLASSES, CLASSES - 1).astype("int64")
    return classes
