"""Corpora: text, or sentence pairs, split for training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from functional_models.corpora.stored import Pair, count_characters


@dataclass(frozen=True, repr=False)
class TextCorpus:
    """Documents for language modelling; those of files stay in a temporary file.

    Attributes:
        name: name of the source, for tables and reports.
        train: training documents.
        validation: held-out documents for model selection; may be empty.
        test: held-out documents for the final evaluation; may be empty.
    """

    name: str
    train: Sequence[str]
    validation: Sequence[str]
    test: Sequence[str] = ()

    def __repr__(self) -> str:
        splits = {"training": self.train, "validation": self.validation, "test": self.test}
        parts = [
            f"{_number(len(texts), 'document')} ({count_characters(texts):,} characters) of {split}"
            for split, texts in splits.items()
        ]
        return f"<TextCorpus {self.name!r}: {', '.join(parts)}>"


@dataclass(frozen=True, repr=False)
class ParallelCorpus:
    """Sentence pairs for translation.

    Attributes:
        name: name of the source, for tables and reports.
        train: training pairs (source, target).
        validation: held-out pairs for model selection; may be empty.
        test: held-out pairs for the final evaluation; may be empty.
    """

    name: str
    train: Sequence[Pair]
    validation: Sequence[Pair]
    test: Sequence[Pair]

    def __repr__(self) -> str:
        splits = {"training": self.train, "validation": self.validation, "test": self.test}
        parts = [f"{_number(len(pairs), 'pair')} of {split}" for split, pairs in splits.items()]
        return f"<ParallelCorpus {self.name!r}: {', '.join(parts)}>"


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + "s" * (count != 1)


Corpus = TextCorpus | ParallelCorpus
