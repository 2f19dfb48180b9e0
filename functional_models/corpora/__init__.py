"""Corpora: two embedded ones, text in local files, and TensorFlow Datasets."""

from functional_models.corpora.corpus import Corpus, Pair, ParallelCorpus, TextCorpus
from functional_models.corpora.docstrings import python_docstrings
from functional_models.corpora.load import (
    is_named,
    kind_of_data,
    load_corpus,
    load_parallel_corpus,
    load_text_corpus,
)
from functional_models.corpora.portuguese_english import portuguese_english

__all__ = [
    "Corpus",
    "Pair",
    "ParallelCorpus",
    "TextCorpus",
    "is_named",
    "kind_of_data",
    "load_corpus",
    "load_parallel_corpus",
    "load_text_corpus",
    "portuguese_english",
    "python_docstrings",
]
