"""What a corpus is: text split for training and for checking what was learnt."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Pair", "ParallelCorpus", "TextCorpus"]

Pair = tuple[str, str]


@dataclass(frozen=True)
class TextCorpus:
    """Documents for language modelling.

    Attributes:
        name: where they come from, for tables and reports.
        train: the documents to learn from.
        validation: documents held out from training; empty if nothing was held out.
    """

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True)
class ParallelCorpus:
    """Pairs of a source and its target, for translation.

    Attributes:
        name: where they come from, for tables and reports.
        train: the (source, target) pairs to learn from.
        validation: pairs held out, for choosing among models; may be empty.
        test: pairs held out, for reporting; may be empty.
    """

    name: str
    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    test: tuple[Pair, ...]
