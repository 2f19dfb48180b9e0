"""Corpora: two that need no files and no network, text in local files, and TensorFlow Datasets."""

from .corpus import Pair, ParallelCorpus, TextCorpus
from .docstrings import python_docstrings
from .load import load_parallel_corpus, load_text_corpus, parallel_corpus, text_corpus
from .portuguese_english import portuguese_english

__all__ = [
    "Pair",
    "ParallelCorpus",
    "TextCorpus",
    "load_parallel_corpus",
    "load_text_corpus",
    "parallel_corpus",
    "portuguese_english",
    "python_docstrings",
    "text_corpus",
]
