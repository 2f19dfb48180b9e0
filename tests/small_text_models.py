"""Small text models of both kinds, and text for them that a few steps can learn from."""

from typing import Any

import keras

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


def text_corpus() -> TextCorpus:
    return TextCorpus("foxes", (TEXT,), ("a lazy dog jumps over the quick brown fox",))


def parallel_corpus() -> ParallelCorpus:
    return ParallelCorpus("words", tuple(PAIRS[7:]), tuple(PAIRS[:3]), tuple(PAIRS[3:7]))


def corpus(kind: str) -> Any:
    return text_corpus() if kind == "decoder_only" else parallel_corpus()


def byte_tokenizer(**options: Any) -> fm.Tokenizer:
    return fm.train_tokenizer("byte", [], **options)


def text_model(kind: str, seed: int = 0, **changes: Any) -> Any:
    """A `CausalLM` or a `Translator` on bytes, with weights and dropout of a seed."""
    keras.utils.set_random_seed(seed)
    spec = builders.TransformerSpec(kind=kind, **{**SIZES, **changes})
    cls = fm.CausalLM if kind == "decoder_only" else fm.Translator
    return cls(spec, byte_tokenizer())
