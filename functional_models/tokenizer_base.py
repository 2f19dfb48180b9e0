"""`Tokenizer`: what every tokenizer does, and checks of the texts that it is given."""

from __future__ import annotations

import itertools
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, Self
from weakref import WeakKeyDictionary

import numpy as np

from functional_models.batches import TokenPairs
from functional_models.checks import check_path
from functional_models.corpora.stored import (
    Pair,
    StoredPairs,
    StoredTexts,
    count_characters,
    in_pieces,
    temporary_file,
)
from functional_models.reading import Reading
from functional_models.token_cache import kept_tokens, place_of_tokens
from functional_models.tokenizer_files import MANIFEST, check_replaceable, checked_content
from plots.files import write_whole

_SURROGATE = re.compile("[\ud800-\udfff]")

LETTERS_OF_SPACES = ("Ġ", "ĉ", "Ċ", "č")
"""A space, a tab and line ends in byte-level vocabularies (GPT-2)."""

Counted = Callable[[Iterable[str]], Iterable[str]]


@dataclass(frozen=True, eq=False, repr=False)
class Tokenizer(ABC):
    """Encodes text as ids and decodes ids, with special ids around them.

    Attributes:
        kind: one of `TOKENIZER_KINDS`, `hugging_face` or `hugging_face_pieces`.
        vocabulary_size: number of ids; every id is in `range(vocabulary_size)`.
        pad_id: padding id; 0 for the tokenizers of `train_tokenizer`.
        start_id: id before the first token of a target.
        end_id: id after the last token.
    """

    kind: str
    vocabulary_size: int
    pad_id: int
    start_id: int
    end_id: int

    def __repr__(self) -> str:
        return f"<{self.kind} Tokenizer of {self.vocabulary_size:,} tokens>"

    def encode(
        self, texts: Sequence[str], *, start: bool = False, end: bool = False
    ) -> list[np.ndarray]:
        """Return the token ids of each text, without padding.

        Args:
            texts: texts; encoding them in one call is much faster than one by one.
            start: prepend `target_start`.
            end: append `end_id`.

        Returns:
            For each text an int32 array (t,), of its own length.

        Raises:
            ValueError: a text is not a string, has a lone surrogate or, for `byte`, one of the
                characters U+0000, U+0002 and U+0003, which are padding, start and end.
        """
        before = self.target_start if start else []
        return self._encoded(texts, before, [self.end_id] if end else [])

    def encode_prompts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of prompts; see `encode`."""
        return self._encoded(texts, self.input_start, [])

    def encode_sources(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of sources to translate; see `encode`."""
        return self._encoded(texts, self.input_start, self.source_end)

    def encode_each(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """Yield the token ids of each text, without start and end, while texts are read."""
        return self._stream(_checked(texts), [], [])

    def encode_together(
        self, texts: str | Sequence[str], *, end: bool = False, progress: bool = False
    ) -> np.ndarray:
        """Return the token ids of texts, one text after another, in memory-mapped form.

        The ids are in a temporary file, so that the memory use does not depend on the texts. Those
        of a corpus from files are kept with it, for the next model that is trained on it, and if it
        is long, on disk for the next process; see `token_cache`.

        Args:
            texts: one text or several; those of a corpus from files are read in pieces.
            end: append `end_id` to each text.
            progress: show the progress with long texts.

        Returns:
            Unsigned integers (N,), of the smallest type for the vocabulary.

        Raises:
            ValueError: as `encode`.
        """
        if not isinstance(texts, StoredTexts):
            return self._together(text_list(texts), end, progress)
        kept = texts.tokens.setdefault(self, {})
        if end not in kept:
            kept[end] = self._together(texts, end, progress)
        return kept[end]

    def _together(self, texts: Sequence[str], end: bool, progress: bool) -> np.ndarray:
        dtype = np.min_scalar_type(self.vocabulary_size - 1)

        def write(file: BinaryIO) -> None:
            total, last = count_characters(texts), 0
            with Reading("tokenizing", total, "characters", shown=progress) as reading:
                for number, ids in self._chunks(texts, reading.counted_pieces):
                    if end and number > last:
                        file.write(dtype.type(self.end_id).tobytes())
                    last = number
                    file.write(ids.astype(dtype).tobytes())
                if end and texts:
                    file.write(dtype.type(self.end_id).tobytes())

        place = self._place_of_tokens(texts, end, dtype.itemsize)
        if place is not None:
            return kept_tokens(place, dtype, write, shown=progress)
        with temporary_file() as file:
            write(file)
            file.flush()
            if not file.tell():
                return np.zeros(0, dtype)
            return np.memmap(file, dtype, mode="r")

    def _place_of_tokens(self, texts: Sequence[str], end: bool, itemsize: int) -> Path | None:
        """Return the file that keeps the ids of texts for other processes; `None` if none does."""
        if not isinstance(texts, StoredTexts):
            return None
        try:
            content = self.file_content
        except ValueError:  # it cannot be saved, so nothing tells what its ids depend on
            return None
        return place_of_tokens(texts, content, end, itemsize)

    def encode_pairs(
        self, pairs: Sequence[Pair], targets: Tokenizer, *, progress: bool = False
    ) -> TokenPairs:
        """Return the token ids of pairs: sources, and targets with start and end token.

        The ids are in a temporary file, so that little memory depends on the number of pairs. Those
        of a corpus from files are kept with it, for the next model that is trained on it.

        Args:
            pairs: (source, target) texts; those of a corpus from files are read one by one.
            targets: the tokenizer of the targets.
            progress: show the progress with many pairs.
        """
        if not isinstance(pairs, StoredPairs):
            return self._pairs(pairs, targets, progress)
        kept = pairs.tokens.setdefault(self, WeakKeyDictionary())
        if targets not in kept:
            kept[targets] = self._pairs(pairs, targets, progress)
        tokens: TokenPairs = kept[targets]
        return tokens

    def _pairs(self, pairs: Sequence[Pair], targets: Tokenizer, progress: bool) -> TokenPairs:
        with Reading("tokenizing", len(pairs), "pairs", shown=progress) as reading:
            sources = _checked(source for source, _ in pairs)
            outputs = _checked(target for _, target in reading.counted(pairs))
            rows = zip(
                self._stream(sources, self.input_start, self.source_end),
                targets._stream(outputs, targets.target_start, [targets.end_id]),
                strict=True,
            )
            largest = max(self.vocabulary_size, targets.vocabulary_size) - 1
            return TokenPairs(rows, np.min_scalar_type(largest))

    def _encoded(
        self, texts: Sequence[str], before: Sequence[int], after: Sequence[int]
    ) -> list[np.ndarray]:
        return list(self._stream(checked_texts(texts), before, after))

    def _stream(
        self, texts: Iterable[str], before: Sequence[int], after: Sequence[int]
    ) -> Iterator[np.ndarray]:
        """Yield the token ids of each text between those of `before` and `after`."""
        for _, chunks in itertools.groupby(self._chunks(texts), key=itemgetter(0)):
            parts = [np.array(before, "int32"), *(ids for _, ids in chunks)]
            yield np.concatenate([*parts, np.array(after, "int32")])

    def _chunks(
        self, texts: Iterable[str], counted: Counted = lambda pieces: pieces
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield token ids as `_tokenized`; `counted` passes on the pieces of every text."""
        return self._tokenized(map(counted, in_pieces(texts)))

    @abstractmethod
    def _tokenized(self, texts: Iterable[Iterable[str]]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the token ids of texts, which are given in pieces of any length.

        Returns:
            Pairs of a text's number, from 0, and ids, int32 (t,); at least one pair for each text.
        """

    @property
    def target_start(self) -> list[int]:
        """The ids before the first token of a target."""
        return [self.start_id]

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids at which generation stops; the first is `end_id`."""
        return (self.end_id,)

    @property
    def suppressed_ids(self) -> tuple[int, ...]:
        """The ids that are never generated."""
        return ()

    @property
    def ends_at_limit(self) -> bool:
        """Whether the last token of a text that reaches its limit is `end_id`."""
        return False

    @property
    @abstractmethod
    def input_start(self) -> list[int]:
        """The ids before the first token of prompts and sources."""

    @property
    @abstractmethod
    def source_end(self) -> list[int]:
        """The ids after the last token of sources."""

    @property
    def start_ids(self) -> frozenset[int]:
        """All ids that can start a sequence and stand for no text."""
        return frozenset((*self.target_start, *self.input_start))

    @property
    def mask_id(self) -> int | None:
        """The id that stands for a masked token, if there is one."""
        return None

    @property
    def sentinel_ids(self) -> tuple[int, ...]:
        """The ids that stand for removed spans of text, in the order of their use."""
        return ()

    @property
    def special_ids(self) -> frozenset[int]:
        """All ids that stand for no text."""
        mask = () if self.mask_id is None else (self.mask_id,)
        return self.start_ids.union((self.pad_id,), self.end_ids, mask, self.sentinel_ids)

    @property
    @abstractmethod
    def pieces(self) -> Mapping[int, str]:
        """The entries of the vocabulary by id, in the form that the vocabulary has them."""

    @abstractmethod
    def begins_word(self, piece: str) -> bool:
        """Return whether a piece begins a word: the first of a text does so anyway."""

    @cached_property
    def word_starts(self) -> np.ndarray:
        """For each id, whether it begins a word, bool (v,)."""
        starts = np.zeros(self.vocabulary_size, bool)
        for number, piece in self.pieces.items():
            starts[number] = self.begins_word(piece)
        return starts

    def decode(self, sequences: Iterable[Sequence[int] | np.ndarray]) -> list[str]:
        """Return the text of each sequence of ids.

        Padding and start ids are dropped, and the first end id with everything after it. Bytes that
        are not UTF-8, which a model can generate, become U+FFFD, the replacement character.

        Args:
            sequences: sequences of ids, or one integer array of shape (b, t).

        Raises:
            ValueError: an id is outside the vocabulary, or not an integer.
        """
        if not isinstance(sequences, Iterable):
            raise TypeError(f"decode takes sequences of ids, given {type(sequences).__name__}")
        content = []
        for ids in map(self._checked_ids, sequences):
            # The start is dropped first: in GPT-2's vocabulary one id is both start and end.
            while ids.size and ids[0] in self.start_ids:
                ids = ids[1:]
            content.append(self._visible(self._until_end(ids)))
        return self._texts(content) if content else []

    def decode_continuation(self, prompt: np.ndarray, new: np.ndarray) -> str:
        """Return the text that new tokens, up to their first end, add to the text of a prompt.

        The prompt may have end ids itself, as a conversation has after each message.
        """
        ids = self._checked_ids(prompt)
        before = self._visible(ids[~np.isin(ids, self.end_ids)])
        added = self._visible(self._until_end(self._checked_ids(new)))
        first, both = self._texts([before, before + added])
        return both[len(first) :] if both.startswith(first) else self._texts([added])[0]

    @abstractmethod
    def _texts(self, sequences: list[list[int]]) -> list[str]:
        """Return the text of each sequence of ids, which are neither padding nor start or end."""

    def _checked_ids(self, sequence: Sequence[int] | np.ndarray) -> np.ndarray:
        ids = np.asarray(sequence)
        if ids.size == 0:
            return np.zeros(0, "int32")
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(
                f"decode takes a list of sequences of integer ids; one of them has shape "
                f"{ids.shape} and type {ids.dtype}: for a single sequence write decode([ids])"
            )
        outside = ids[(ids < 0) | (ids >= self.vocabulary_size)]
        if outside.size:
            raise ValueError(
                f"token id {outside[0]} is outside the vocabulary of this {self.kind} tokenizer; "
                f"ids are 0 to {self.vocabulary_size - 1}: is this the model's own tokenizer?"
            )
        return ids

    def _until_end(self, ids: np.ndarray) -> np.ndarray:
        ends = np.flatnonzero(np.isin(ids, self.end_ids))
        return ids[: ends[0]] if ends.size else ids

    def _visible(self, ids: np.ndarray) -> list[int]:
        """Return the ids that stand for text."""
        return ids[~np.isin(ids, [self.pad_id, *self.start_ids])].tolist()

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write `tokenizer.json`, after checking that the same tokenizer is read from it.

        The file is written whole or not at all.

        Args:
            folder: a folder without a tokenizer, or with the same one.
            overwrite: replace another tokenizer that the folder holds.

        Raises:
            FileExistsError: the folder holds another tokenizer.
            ValueError: the tokenizer would not be the same after loading, or its class is not in
                `keras_hub.tokenizers`, or the folder has a `tokenizer.json` that `save` did not
                write.
        """
        path = check_path("the folder of a tokenizer", folder) / MANIFEST
        content = self.file_content
        check_replaceable(path, content, overwrite=overwrite)
        write_whole(path, content)

    @cached_property
    def file_content(self) -> str:
        """The content of `tokenizer.json`; a tokenizer that cannot be saved raises an error."""
        return checked_content(self)

    def format_chat(
        self, messages: Sequence[Mapping[str, Any]], *, template: str | None = None, **options: Any
    ) -> str:
        """Return a conversation as the text that a model continues with its reply.

        Args:
            messages: each message as `{"role": "user", "content": "..."}`.
            template: name of the chat template; see `hugging_face.chat.chat_text`.
            options: further variables of the template.

        Raises:
            ValueError: the tokenizer has no chat template, or it refuses the messages.
        """
        raise ValueError(
            f"a {self.kind} tokenizer has no chat template; write the conversation as a text, and "
            "continue it with generate"
        )

    @property
    def name(self) -> str:
        """The class of the tokenizer, for messages."""
        return self.kind

    @abstractmethod
    def to_manifest(self) -> dict[str, Any]:
        """Return what `from_manifest` takes, of types of JSON.

        Raises:
            ValueError, TypeError: a part of the tokenizer cannot be saved.
        """

    @classmethod
    @abstractmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """Return a tokenizer from `to_manifest`; damage raises errors of many classes."""

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """Return everything that encoding depends on, but for the fields, to be compared."""


def text_list(given: str | Iterable[str]) -> list[str]:
    """Return a text, or several, as a list; see `checked_texts`."""
    return checked_texts([given] if isinstance(given, str | bytes) else given)


def checked_texts(texts: Iterable[str]) -> list[str]:
    """Return texts as a list.

    Raises:
        TypeError: not a collection of texts in an order.
        ValueError: a single text, or one of the texts is not a string or not encodable.
    """
    if isinstance(texts, str | bytes):
        raise ValueError("expected a list of texts, got a single one; write [text]")
    if not isinstance(texts, Iterable) or isinstance(texts, Mapping | Set):
        advice = "; give its train" if hasattr(texts, "train") else ""
        raise TypeError(f"expected a text or a list of texts, given {type(texts).__name__}{advice}")
    return list(_checked(texts))


def _checked(texts: Iterable[str]) -> Iterator[str]:
    """Yield texts, after a check that each is a string that can be encoded."""
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"text {number} is of type {type(text).__name__}, expected str")
        found = None if text.isascii() else _SURROGATE.search(text)
        if found:
            code = ord(found[0])
            # Python decodes bytes of the command line that are not UTF-8 as U+DC80 to U+DCFF.
            byte = f" (in place of the byte 0x{code - 0xDC00:02x}, which is not UTF-8)"
            raise ValueError(
                f"text {number} has a lone surrogate, U+{code:04X}, at character {found.start()}, "
                f"which UTF-8 cannot encode{byte if 0xDC80 <= code <= 0xDCFF else ''}; replace it"
            )
        yield text
