"""Corpora: text, or sentence pairs, split for training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass

Pair = tuple[str, str]


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        splits = {"training": self.train, "validation": self.validation, "test": self.test}
        parts = [
            f"{_number(len(texts), 'document')} ({sum(map(len, texts)):,} characters) of {split}"
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
    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    test: tuple[Pair, ...]

    def __repr__(self) -> str:
        splits = {"training": self.train, "validation": self.validation, "test": self.test}
        parts = [f"{_number(len(pairs), 'pair')} of {split}" for split, pairs in splits.items()]
        return f"<ParallelCorpus {self.name!r}: {', '.join(parts)}>"


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + "s" * (count != 1)


Corpus = TextCorpus | ParallelCorpus
