"""Train, generate, compare and draw Transformers that are explicit Keras Functional graphs.

    import builders, functional_models as fm

    corpus = fm.load_text_corpus("embedded")
    tokenizer = fm.train_tokenizer("byte_pair", corpus.train, vocabulary_size=2000)
    lm = fm.CausalLM("pre_norm_learned", tokenizer)
    lm.fit(corpus, steps=500)
    lm.generate("Return the ")

`functional_models.builders` and `functional_models.plots` are the packages `builders` and `plots`.
Submodules are imported when a name is first used.
"""

from __future__ import annotations

from functional_models.starting import is_program, stop_quietly

if is_program():
    stop_quietly()

import sys
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from functional_models.packages import PACKAGES, import_own_packages, install_aliases

if TYPE_CHECKING:
    import builders as builders
    import plots as plots
    from functional_models.bleu import translation_scores as translation_scores
    from functional_models.causal_lm import CausalLM as CausalLM
    from functional_models.claims.running import run_claims as run_claims
    from functional_models.conversion import from_keras_hub as from_keras_hub
    from functional_models.conversion import to_keras_hub as to_keras_hub
    from functional_models.corpora import ParallelCorpus as ParallelCorpus
    from functional_models.corpora import TextCorpus as TextCorpus
    from functional_models.corpora import load_parallel_corpus as load_parallel_corpus
    from functional_models.corpora import load_text_corpus as load_text_corpus
    from functional_models.distribution import distribute as distribute
    from functional_models.harness import harness_model as harness_model
    from functional_models.hugging_face.convert import from_hugging_face as from_hugging_face
    from functional_models.hugging_face.export import to_hugging_face as to_hugging_face
    from functional_models.loading import load as load
    from functional_models.losses import ExactMatch as ExactMatch
    from functional_models.losses import Perplexity as Perplexity
    from functional_models.losses import TokenCrossEntropy as TokenCrossEntropy
    from functional_models.objectives import MaskedLM as MaskedLM
    from functional_models.objectives import SpanCorruption as SpanCorruption
    from functional_models.objectives import ul2 as ul2
    from functional_models.recipe import Recipe as Recipe
    from functional_models.samplers import make_sampler as make_sampler
    from functional_models.schedules import InverseSquareRoot as InverseSquareRoot
    from functional_models.studies.compare import compare as compare
    from functional_models.studies.folder import load_study as load_study
    from functional_models.text_encoder import TextEncoder as TextEncoder
    from functional_models.text_outputs import AttentionMaps as AttentionMaps
    from functional_models.text_outputs import Generated as Generated
    from functional_models.tokenizer_training import train_tokenizer as train_tokenizer
    from functional_models.tokenizers import Tokenizer as Tokenizer
    from functional_models.tokenizers import load_tokenizer as load_tokenizer
    from functional_models.translator import Translator as Translator

__version__ = "0.1.0"

_MODULES = {
    "AttentionMaps": "text_outputs",
    "CausalLM": "causal_lm",
    "ExactMatch": "losses",
    "Generated": "text_outputs",
    "InverseSquareRoot": "schedules",
    "MaskedLM": "objectives",
    "ParallelCorpus": "corpora",
    "Perplexity": "losses",
    "Recipe": "recipe",
    "SpanCorruption": "objectives",
    "TextCorpus": "corpora",
    "TextEncoder": "text_encoder",
    "TokenCrossEntropy": "losses",
    "Tokenizer": "tokenizers",
    "Translator": "translator",
    "compare": "studies.compare",
    "distribute": "distribution",
    "from_hugging_face": "hugging_face.convert",
    "to_hugging_face": "hugging_face.export",
    "from_keras_hub": "conversion",
    "harness_model": "harness",
    "load": "loading",
    "load_parallel_corpus": "corpora",
    "load_study": "studies.folder",
    "load_text_corpus": "corpora",
    "load_tokenizer": "tokenizers",
    "make_sampler": "samplers",
    "run_claims": "claims.running",
    "to_keras_hub": "conversion",
    "train_tokenizer": "tokenizer_training",
    "translation_scores": "bleu",
    "ul2": "objectives",
}

__all__ = list(_MODULES)

for _message in import_own_packages():
    if is_program():  # from the folder of that file
        print(f"functional-models: {_message}", file=sys.stderr)
    else:
        warnings.warn(_message, stacklevel=2)
install_aliases()
import_module("builders")  # from here on, TensorFlow is imported without its notices


def __dir__() -> list[str]:
    from builders.errors import public_names

    return public_names(globals(), (*__all__, *PACKAGES))


def __getattr__(name: str) -> Any:
    """Import the module of a public name on first access."""
    if name in PACKAGES:
        return import_module(name)
    if name not in _MODULES:
        from builders.errors import unknown_attribute

        raise unknown_attribute(sys.modules[__name__], name, (*__all__, *PACKAGES))
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
