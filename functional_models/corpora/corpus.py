"""Corpora: text, or sentence pairs, split for training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass

Pair = tuple[str, str]


@dataclass(frozen=True)
class TextCorpus:
    """Documents for language modelling.

    Attributes:
        name: name of the source, for tables and reports.
        train: training documents.
        validation: held-out documents for model selection; may be empty.
        test: held-out documents for the final evaluation; may be empty.
    """

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...] = ()


@dataclass(frozen=True)
class ParallelCorpus:
    """Sentence pairs for translation.

    Attributes:
        name: name of the source, for tables and reports.
        train: training pairs (source, target).
        validation: held-out pairs for model selection; may be empty.
        test: held-out pairs for the final evaluation; may be empty.
    """

    name: str
    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    test: tuple[Pair, ...]


Corpus = TextCorpus | ParallelCorpus
