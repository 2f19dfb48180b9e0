"""Tasks of the training runs: spec, training and held-out batches; and the result of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

import builders

if TYPE_CHECKING:
    from functional_models.batches import Batches

WIDTH, BLOCKS = 64, 6
BATCH = 16
"""Sequences of a batch of bytes."""
PAIRS_PER_BATCH = 32
LENGTH = 64
"""Bytes of a sequence."""
BYTES = 256
VOCABULARY = 500
"""Tokens of the translation, which source and target share."""


@dataclass(frozen=True)
class Task:
    """A task with the spec that claims change.

    Attributes:
        name: for reports.
        spec: the spec.
        batch_size: sequences or pairs of a batch.
        training: returns the batches of a seed, which decides their order.
        held_out: returns the batches to evaluate on.
    """

    name: str
    spec: builders.TransformerSpec
    batch_size: int
    training: Callable[[int], Batches]
    held_out: Callable[[], Batches]


@dataclass(frozen=True)
class Run:
    """The result of a run.

    Attributes:
        loss: on held-out data, in nats per token; ln v, that of equal probabilities, if the run
            diverged or ended above it.
        steps: of the reports.
        losses: training losses since the report before.
        variances: variance of the stream after the last block, before and after the training.
    """

    loss: float
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    variances: tuple[float, float]


@cache
def _bytes() -> tuple[np.ndarray, np.ndarray]:
    """Return the bytes of the docstrings of the standard library: training, and some held out."""
    from functional_models.corpora import load_text_corpus
    from functional_models.tokenizer_training import train_tokenizer

    corpus, tokenizer = load_text_corpus(progress=False), train_tokenizer("byte", [])
    train, held_out = (
        np.asarray(tokenizer.encode_together(text, end=True))
        for text in (corpus.train, corpus.validation)
    )
    return train, held_out[: 16 * BATCH * LENGTH + 1]


def _byte_batches(part: int, seed: int = 0) -> Batches:
    from functional_models.batches import TokenBatches

    return TokenBatches(_bytes()[part], block=LENGTH, batch_size=BATCH, seed=seed)


LANGUAGE_MODEL = Task(
    "language model",
    builders.TransformerSpec(
        vocabulary_size=BYTES,
        num_layers=BLOCKS,
        hidden_dim=WIDTH,
        num_heads=4,
        activation="relu",
        max_sequence_length=LENGTH,
        pad_token_id=None,
    ),
    BATCH,
    lambda seed: _byte_batches(0, seed),
    lambda: _byte_batches(1),
)


@cache
def _pairs() -> tuple[Batches, Batches]:
    """Return the batches of the embedded translation corpus: training, and 512 pairs held out."""
    from functional_models.batches import PairBatches
    from functional_models.corpora import load_parallel_corpus
    from functional_models.tokenizer_training import shared_tokenizer

    corpus = load_parallel_corpus(progress=False)
    tokenizer = shared_tokenizer(corpus, "byte_pair", VOCABULARY, progress=False)
    train, held_out = (
        PairBatches(
            tokenizer.encode_pairs(pairs, tokenizer, progress=False),
            pad_id=tokenizer.pad_id,
            batch_size=PAIRS_PER_BATCH,
        )
        for pairs in (corpus.train, corpus.validation[:512])
    )
    return train, held_out


def _pair_batches(seed: int) -> Batches:
    from functional_models.batches import PairBatches

    known = _pairs()[0]
    assert isinstance(known, PairBatches)
    size = PAIRS_PER_BATCH
    return PairBatches(known.pairs, pad_id=known.pad_id, batch_size=size, seed=seed)


TRANSLATION = Task(
    "translation",
    builders.TransformerSpec(
        kind="encoder_decoder",
        vocabulary_size=VOCABULARY,
        num_layers=BLOCKS,
        hidden_dim=WIDTH,
        num_heads=4,
        activation="relu",
        positions="sinusoidal",
        scale_embeddings=True,
    ),
    PAIRS_PER_BATCH,
    _pair_batches,
    lambda: _pairs()[1],
)
