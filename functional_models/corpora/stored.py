"""Texts and sentence pairs in a temporary file, of which only what is read is in memory."""

from __future__ import annotations

import codecs
import errno
import operator
import os
import tempfile
import weakref
from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from typing import Any, BinaryIO, Self, TypeVar, cast, overload
from weakref import WeakKeyDictionary

import numpy as np

_PIECE = 1 << 20  # bytes that are read at once

Pair = tuple[str, str]
Item = TypeVar("Item", str, Pair)


@contextmanager
def temporary_file() -> Iterator[BinaryIO]:
    """Open a file without a name, which disappears when it is closed; a full disk is named."""
    try:
        with tempfile.TemporaryFile() as file:
            yield cast("BinaryIO", file)
            file.flush()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None:
            error.filename = f"{tempfile.gettempdir()} (the variable TMPDIR names another folder)"
        raise


class Content:
    """The content of a temporary file, which is kept until no sequence uses it any more."""

    def __init__(self, file: BinaryIO) -> None:
        file.flush()
        self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from one offset to another; threads may call it at the same time."""
        return os.pread(self._descriptor, stop - start, start)


class Stored(Sequence[Item]):
    """A sequence whose items are read from a file whenever they are used.

    It equals a tuple of the items, and is pickled as one.

    Args:
        content: the file.
        spans: integers (n, 3); of each item the start and the end in the file, in bytes, and the
            number of characters of its first text.
    """

    def __init__(self, content: Content, spans: np.ndarray) -> None:
        self._content = content
        self._spans = spans

    def __len__(self) -> int:
        return len(self._spans)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Item | Self:
        if isinstance(index, slice):
            return self.rows(index)
        return self._item("".join(self._pieces(index)), self._spans[index, 2])

    def rows(self, index: Any) -> Self:
        """Return the items of a slice, or of an array of integers."""
        return type(self)(self._content, self._spans[index])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Stored | tuple):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __add__(self, other: Iterable[Item]) -> tuple[Item, ...]:
        return tuple(chain(self, other))

    def __radd__(self, other: Iterable[Item]) -> tuple[Item, ...]:
        return tuple(chain(other, self))

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (tuple(self),)

    @abstractmethod
    def _item(self, text: str, first: int) -> Item:
        """Return an item from its text in the file; `first` is the length of its first text."""

    def _pieces(self, index: int) -> Iterator[str]:
        """Yield the text of an item in pieces."""
        start, stop = map(int, self._spans[index, :2])
        decoder = codecs.getincrementaldecoder("utf-8")()
        while start < stop:
            content = self._content.read(start, min(stop, start + _PIECE))
            start += len(content)
            yield decoder.decode(content)


class StoredTexts(Stored[str]):
    """Texts in a temporary file."""

    def _item(self, text: str, first: int) -> str:
        return text

    @cached_property
    def tokens(self) -> WeakKeyDictionary[Any, dict[bool, np.ndarray]]:
        """Tokenizer -> its ids of these texts, without and with end tokens, once it has read them.

        They are in files, as the texts are.
        """
        return WeakKeyDictionary()

    @property
    def characters(self) -> int:
        """Number of characters of all texts."""
        return int(self._spans[:, 2].sum())

    def in_bytes(self) -> Iterator[bytes]:
        """Yield the number of bytes of each text, in eight bytes, and its pieces."""
        for start, stop in self._spans[:, :2].tolist():
            yield (stop - start).to_bytes(8, "little")
            for first in range(start, stop, _PIECE):
                yield self._content.read(first, min(stop, first + _PIECE))

    def in_pieces(self) -> Iterator[Iterator[str]]:
        """Yield each text in pieces."""
        return map(self._pieces, range(len(self)))

    def not_blank(self) -> StoredTexts:
        """Return the texts that are more than white space."""
        texts = self.in_pieces()
        return self.rows([any(p and not p.isspace() for p in pieces) for pieces in texts])

    def split(self, share: float) -> tuple[StoredTexts, StoredTexts]:
        """Split n characters of each text at `int(n * share)`."""
        before, after = self._spans.copy(), self._spans.copy()
        for row, (start, _, characters) in enumerate(self._spans.tolist()):
            left = cut = int(characters * share)
            for piece in self._pieces(row):
                start += len(piece[:left].encode())
                left -= len(piece[:left])
                if not left:
                    break
            before[row, 1:] = start, cut
            after[row, ::2] = start, characters - cut
        return StoredTexts(self._content, before), StoredTexts(self._content, after)


class StoredPairs(Stored[Pair]):
    """Sentence pairs in a temporary file."""

    @cached_property
    def tokens(self) -> WeakKeyDictionary[Any, WeakKeyDictionary[Any, Any]]:
        """Tokenizer of sources -> that of targets -> their ids, once they have read the pairs."""
        return WeakKeyDictionary()

    def _item(self, text: str, first: int) -> Pair:
        return text[:first], text[first:]


def stored_texts(texts: Iterable[Iterable[str]]) -> StoredTexts:
    """Store texts that are given in pieces."""
    spans, end = array("q"), 0
    with temporary_file() as file:
        for pieces in texts:
            start, characters = end, 0
            for piece in pieces:
                end += file.write(piece.encode())
                characters += len(piece)
            spans.extend((start, end, characters))
        return StoredTexts(Content(file), _table(spans))


def stored_pairs(pairs: Iterable[Pair]) -> StoredPairs:
    """Store sentence pairs."""
    spans, end = array("q"), 0
    with temporary_file() as file:
        for source, target in pairs:
            start = end
            end += file.write((source + target).encode())
            spans.extend((start, end, len(source)))
        return StoredPairs(Content(file), _table(spans))


def _table(spans: array[int]) -> np.ndarray:
    """Return numbers as an array (n, 3) of the smallest type."""
    return np.array(spans, np.min_scalar_type(max(spans, default=0))).reshape(-1, 3)


class Sentences(Iterable[str]):
    """The texts of pairs, without blank ones; each iteration reads them again.

    Args:
        pairs: (source, target) texts.
        sides: which texts of a pair, 0 the source and 1 the target.
    """

    def __init__(self, pairs: Sequence[Pair], sides: Sequence[int] = (0, 1)) -> None:
        self._pairs, self._sides = pairs, sides

    def __iter__(self) -> Iterator[str]:
        texts = (pair[side] for pair in self._pairs for side in self._sides)
        return (text for text in texts if text and not text.isspace())


def in_pieces(texts: Iterable[str]) -> Iterator[Iterable[str]]:
    """Yield each text in pieces of at most about a million characters."""
    return texts.in_pieces() if isinstance(texts, StoredTexts) else map(_parts, texts)


def _parts(text: str) -> Iterator[str]:
    return (text[at : at + _PIECE] for at in range(0, len(text), _PIECE))


def count_characters(texts: Iterable[str]) -> int:
    """Return the number of characters of all texts."""
    return texts.characters if isinstance(texts, StoredTexts) else sum(map(len, texts))
