"""Train, generate, compare and draw Transformers that are explicit Keras Functional graphs.

    import builders, functional_models as fm

    corpus = fm.load_text_corpus("embedded")
    tokenizer = fm.train_tokenizer("byte_pair", corpus.train, vocabulary_size=2000)
    lm = fm.CausalLM("pre_norm_learned", tokenizer)
    lm.fit(corpus, steps=500)
    lm.generate("Return the ")

Submodules are imported when a name is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from functional_models.causal_lm import CausalLM
    from functional_models.comparison import compare
    from functional_models.conversion import from_keras_hub, to_keras_hub
    from functional_models.corpora import (
        ParallelCorpus,
        TextCorpus,
        load_parallel_corpus,
        load_text_corpus,
    )
    from functional_models.loading import load
    from functional_models.losses import ExactMatch, Perplexity, TokenCrossEntropy
    from functional_models.recipe import Recipe
    from functional_models.samplers import make_sampler
    from functional_models.schedules import InverseSquareRoot
    from functional_models.text_encoder import TextEncoder
    from functional_models.text_model import AttentionMaps, Generated, attention_maps
    from functional_models.tokenizer_training import train_tokenizer
    from functional_models.tokenizers import Tokenizer, load_tokenizer
    from functional_models.translator import Translator

_HOMES = {
    "AttentionMaps": "text_model",
    "CausalLM": "causal_lm",
    "ExactMatch": "losses",
    "Generated": "text_model",
    "InverseSquareRoot": "schedules",
    "ParallelCorpus": "corpora",
    "Perplexity": "losses",
    "Recipe": "recipe",
    "TextCorpus": "corpora",
    "TextEncoder": "text_encoder",
    "TokenCrossEntropy": "losses",
    "Tokenizer": "tokenizers",
    "Translator": "translator",
    "attention_maps": "text_model",
    "compare": "comparison",
    "from_keras_hub": "conversion",
    "load": "loading",
    "load_parallel_corpus": "corpora",
    "load_text_corpus": "corpora",
    "load_tokenizer": "tokenizers",
    "make_sampler": "samplers",
    "to_keras_hub": "conversion",
    "train_tokenizer": "tokenizer_training",
}

__all__ = [
    "AttentionMaps",
    "CausalLM",
    "ExactMatch",
    "Generated",
    "InverseSquareRoot",
    "ParallelCorpus",
    "Perplexity",
    "Recipe",
    "TextCorpus",
    "TextEncoder",
    "TokenCrossEntropy",
    "Tokenizer",
    "Translator",
    "attention_maps",
    "compare",
    "from_keras_hub",
    "load",
    "load_parallel_corpus",
    "load_text_corpus",
    "load_tokenizer",
    "make_sampler",
    "to_keras_hub",
    "train_tokenizer",
]


def __getattr__(name: str) -> Any:
    """Import the module of a public name on first access."""
    if name not in _HOMES:
        raise AttributeError(f"module 'functional_models' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"functional_models.{_HOMES[name]}"), name)
