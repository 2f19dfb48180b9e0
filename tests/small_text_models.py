"""Small text models of both kinds, and text that they learn in a few steps."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import keras
import numpy as np

import builders
import functional_models as fm
from functional_models.corpora import ParallelCorpus, TextCorpus

SIZES: dict[str, Any] = {
    "vocabulary_size": 256,
    "num_layers": 1,
    "hidden_dim": 14,
    "num_heads": 2,
    "intermediate_dim": 23,
    "max_sequence_length": 19,
    "dropout": 0.1,
}
KINDS = ("decoder_only", "encoder_decoder")

TEXT = "the quick brown fox jumps over the lazy dog; " * 11
WORDS = ["um", "dois", "três", "quatro", "cinco", "seis", "sete", "oito", "nove", "dez", "onze"]
PAIRS = [(f"{a} {b}", f"{len(a)}{b[0]}{len(b)}") for a in WORDS for b in WORDS[:5]]
TWO_BEST = {"num_beams": 3, "num_return_sequences": 2}


def text_corpus() -> TextCorpus:
    return TextCorpus("foxes", (TEXT,), ("a lazy dog jumps over the quick brown fox",))


def parallel_corpus() -> ParallelCorpus:
    return ParallelCorpus("words", tuple(PAIRS[7:]), tuple(PAIRS[:3]), tuple(PAIRS[3:7]))


def corpus(kind: str) -> Any:
    return text_corpus() if kind == "decoder_only" else parallel_corpus()


def byte_tokenizer(**options: Any) -> fm.Tokenizer:
    return fm.train_tokenizer("byte", [], **options)


def text_model(kind: str, seed: int = 0, **changes: Any) -> Any:
    """Return a `CausalLM` or a `Translator` on bytes, with seeded weights and dropout."""
    keras.utils.set_random_seed(seed)
    spec = builders.TransformerSpec(kind=kind, **{**SIZES, **changes})
    cls = fm.CausalLM if kind == "decoder_only" else fm.Translator
    return cls(spec, byte_tokenizer())


@cache
def trained_translator() -> Any:
    """Return a translator that is trained until some of its translations are correct."""
    model = text_model("encoder_decoder", dropout=0.0, hidden_dim=26, num_heads=2)
    model.fit(
        PAIRS,
        steps=50,
        report_every=50,
        batch_size=11,
        learning_rate=0.02,
        warmup_steps=10,
        progress=False,
    )
    return model


def model_that_writes(
    tokens: Sequence[int], tokenizer: fm.Tokenizer, max_sequence_length: int = 29
) -> fm.CausalLM:
    """Return a `CausalLM` that generates the given token at each position, then the end token.

    The output does not depend on the prompt: the position embedding is one-hot, the blocks add
    nothing, and the logits are a table of positions.
    """
    spec = builders.TransformerSpec(
        **{
            **SIZES,
            "vocabulary_size": tokenizer.vocabulary_size,
            "pad_token_id": tokenizer.pad_id,
            "hidden_dim": 2 * (max_sequence_length // 2 + 1),
            "max_sequence_length": max_sequence_length,
            "dropout": 0.0,
        }
    )
    lm = fm.CausalLM(spec, tokenizer)
    values = {weight.path: np.zeros(weight.shape) for weight in lm.model.weights}
    np.fill_diagonal(values["decoder.position_embedding/embeddings"], 1.0)
    values["decoder.final_norm/gamma"][:] = 1.0
    following = np.full(max_sequence_length, tokenizer.end_id)
    following[: len(tokens) - 1] = tokens[1:]
    values["logits/kernel"][np.arange(max_sequence_length), following] = 9.0
    for weight in lm.model.weights:
        weight.assign(values[weight.path])
    return lm
