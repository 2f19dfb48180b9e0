"""Corpora: text, or sentence pairs, split for training and evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from functional_models.corpora.stored import Pair, count_characters, in_pieces


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


def fingerprint(corpus: Corpus) -> str:
    """Return a hash of the name and the content of a corpus."""
    digest = hashlib.sha256(corpus.name.encode())
    splits: tuple[Any, ...] = (corpus.train, corpus.validation, corpus.test)
    for split in splits:
        digest.update(len(split).to_bytes(8))
        texts = split if isinstance(corpus, TextCorpus) else chain.from_iterable(split)
        for pieces in in_pieces(texts):
            content = hashlib.sha256()
            for piece in pieces:
                content.update(piece.encode("utf-8", "surrogatepass"))
            digest.update(content.digest())
    return digest.hexdigest()
