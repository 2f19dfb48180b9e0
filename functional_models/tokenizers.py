"""KerasHub tokenizers with a common interface, and the padding, start and end ids of models.

Four kinds can be trained on any text (`tokenizer_training`), and saved (`tokenizer_files`):

| kind | ids | lossless |
| --- | --- | --- |
| `byte` | the 256 bytes of UTF-8 | yes |
| `byte_pair` | bytes, and merges of frequent pairs (GPT-2) | yes |
| `sentence_piece` | pieces of a unigram model, bytes of rare characters | except U+2581, a space |
| `word_piece` | words and parts of words (BERT) | no: spaces and unknown characters are lost |

Tokenizers run on KerasHub's pure Python path and do not need TensorFlow. Only training `word_piece`
does.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any

import numpy as np

from functional_models.batches import TokenPairs
from functional_models.checks import check_path
from functional_models.chunks import encode_in_chunks
from functional_models.corpora.stored import (
    Pair,
    StoredTexts,
    count_characters,
    in_pieces,
    temporary_file,
)
from functional_models.reading import Reading
from functional_models.tokenizer_files import (
    MANIFEST,
    check_replaceable,
    checked_manifest,
    keras_classes,
    read_tokenizer,
)
from plots.files import write_whole

TOKENIZER_KINDS = ("byte", "word_piece", "sentence_piece", "byte_pair")

# KerasHub has 256 ids for bytes and reads id 0 as padding. The ASCII control characters "start of
# text" and "end of text" are the start and the end; plain text contains none of the three.
BYTE_PAD, BYTE_START, BYTE_END = 0, 2, 3
_BYTE_RESERVED = re.compile("[\x00\x02\x03]")
_SURROGATE = re.compile("[\ud800-\udfff]")

PAD, START, END, UNKNOWN = "[PAD]", "[START]", "[END]", "[UNK]"


@dataclass(frozen=True, eq=False, repr=False)
class Tokenizer:
    """A KerasHub tokenizer and its special ids.

    Attributes:
        keras_tokenizer: the wrapped `keras_hub.tokenizers.Tokenizer`.
        kind: one of `TOKENIZER_KINDS`.
        vocabulary_size: number of ids; every id is in `range(vocabulary_size)`.
        pad_id: padding id; 0 for the tokenizers of `train_tokenizer`.
        start_id: id before the first token of a target.
        end_id: id after the last token.
        lowercase: whether text is lowercased before it is encoded.
        second_start_id: id after `start_id`, in targets of BART.
        input_start_id: id before the first token of prompts and sources, for published models that
            were trained with it.
        ends_sources: whether sources end with `end_id`.
    """

    keras_tokenizer: Any
    kind: str
    vocabulary_size: int
    pad_id: int
    start_id: int
    end_id: int
    lowercase: bool = False
    second_start_id: int | None = None
    input_start_id: int | None = None
    ends_sources: bool = False

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
        return self._encoded(texts, self._input_start, [])

    def encode_sources(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of sources to translate; see `encode`."""
        return self._encoded(texts, self._input_start, self._source_end)

    def encode_together(
        self, texts: str | Sequence[str], *, end: bool = False, progress: bool = False
    ) -> np.ndarray:
        """Return the token ids of texts, one text after another, in memory-mapped form.

        The ids are in a temporary file, so that the memory use does not depend on the texts.

        Args:
            texts: one text or several; those of a corpus from files are read in pieces.
            end: append `end_id` to each text.
            progress: show the progress with long texts.

        Returns:
            Unsigned integers (N,), of the smallest type for the vocabulary.

        Raises:
            ValueError: as `encode`.
        """
        texts = texts if isinstance(texts, StoredTexts) else text_list(texts)
        dtype = np.min_scalar_type(self.vocabulary_size - 1)
        total = count_characters(texts)
        with (
            temporary_file() as file,
            Reading("tokenizing", total, "characters", shown=progress) as reading,
        ):
            last = 0
            for number, ids in self._chunks(texts, reading.counted_pieces):
                if end and number > last:
                    file.write(dtype.type(self.end_id).tobytes())
                last = number
                file.write(ids.astype(dtype).tobytes())
            if end and texts:
                file.write(dtype.type(self.end_id).tobytes())
            file.flush()
            if not file.tell():
                return np.zeros(0, dtype)
            return np.memmap(file, dtype, mode="r")

    def encode_pairs(
        self, pairs: Sequence[Pair], targets: Tokenizer, *, progress: bool = False
    ) -> TokenPairs:
        """Return the token ids of pairs: sources, and targets with start and end token.

        The ids are in a temporary file, so that little memory depends on the number of pairs.

        Args:
            pairs: (source, target) texts; those of a corpus from files are read one by one.
            targets: the tokenizer of the targets.
            progress: show the progress with many pairs.
        """
        with Reading("tokenizing", len(pairs), "pairs", shown=progress) as reading:
            sources = _checked(source for source, _ in pairs)
            outputs = _checked(target for _, target in reading.counted(pairs))
            rows = zip(
                self._stream(sources, self._input_start, self._source_end),
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
        self,
        texts: Iterable[str],
        counted: Callable[[Iterable[str]], Iterable[str]] = lambda pieces: pieces,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield token ids as `encode_in_chunks`; `counted` passes on the pieces of every text."""
        pieces: Iterable[Iterable[str]] = map(counted, in_pieces(texts))
        if self.kind == "byte":
            pieces = (_without_reserved_bytes(*text) for text in enumerate(pieces))
        if self.lowercase:
            pieces = map(lowercase_pieces, pieces)
        # A word of 16,384 letters is cut by kinds that restore the text all the same.
        cut_words = self.kind in ("byte", "byte_pair")
        return encode_in_chunks(self.keras_tokenizer.tokenize, pieces, cut_words)

    @property
    def target_start(self) -> list[int]:
        """The ids before the first token of a target: one, or BART's two."""
        second = [] if self.second_start_id is None else [self.second_start_id]
        return [self.start_id, *second]

    @property
    def _input_start(self) -> list[int]:
        return [] if self.input_start_id is None else [self.input_start_id]

    @property
    def _source_end(self) -> list[int]:
        return [self.end_id] if self.ends_sources else []

    @property
    def start_ids(self) -> frozenset[int]:
        """All ids that can start a sequence and stand for no text."""
        return frozenset((*self.target_start, *self._input_start))

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
        content = [self._content(ids) for ids in sequences]
        return list(self.keras_tokenizer.detokenize(content)) if content else []

    def _content(self, sequence: Sequence[int] | np.ndarray) -> list[int]:
        """Check ids, and drop those that stand for no text."""
        ids = np.asarray(sequence)
        if ids.size == 0:
            return []
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
        # The start is dropped first: in GPT-2's vocabulary one id is both the start and the end.
        starts = self.start_ids
        while ids.size and ids[0] in starts:
            ids = ids[1:]
        ends = np.flatnonzero(ids == self.end_id)
        if ends.size:
            ids = ids[: ends[0]]
        return ids[~np.isin(ids, [self.pad_id, *starts])].tolist()

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
        return checked_manifest(self)


def load_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
    """Load a tokenizer that `Tokenizer.save` wrote.

    Raises:
        FileNotFoundError: the folder or its `tokenizer.json` is missing.
        ValueError: `tokenizer.json` is damaged, or of another format.
    """
    return read_tokenizer(check_path("the folder of a tokenizer", folder), Tokenizer)


def as_tokenizer(tokenizer: Any) -> Tokenizer:
    """Return a `Tokenizer` as it is; wrap a KerasHub tokenizer with its special ids.

    Without a padding token in the vocabulary (GPT-2, Llama), the end token is the padding; without
    a start token (GPT-2), it is the start.

    Raises:
        TypeError: `tokenizer` is neither.
        ValueError: it has no end token, or adds padding, start or end by itself.
    """
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    classes = keras_classes()
    kind = next((kind for kind, cls in classes.items() if isinstance(tokenizer, cls)), None)
    if kind is None:
        raise TypeError(
            f"expected a functional_models Tokenizer or a KerasHub tokenizer "
            f"({', '.join(cls.__name__ for cls in classes.values())}), got "
            f"{type(tokenizer).__name__}; train_tokenizer and load_tokenizer return one"
        )
    name = type(tokenizer).__name__
    for setting in ("sequence_length", "add_bos", "add_eos"):
        if getattr(tokenizer, setting, None):
            raise ValueError(
                f"{name}({setting}={getattr(tokenizer, setting)!r}): padding, start and end are "
                f"added when batches are made; create the tokenizer without {setting}"
            )
    ids = (BYTE_PAD, BYTE_START, BYTE_END) if kind == "byte" else _special_ids(tokenizer)
    return Tokenizer(tokenizer, kind, int(tokenizer.vocabulary_size()), *ids)


def _special_ids(tokenizer: Any) -> tuple[int, int, int]:
    """Return the ids (pad, start, end) that a KerasHub tokenizer or its vocabulary defines."""
    vocabulary = set(tokenizer.get_vocabulary())

    def find(attribute: str, names: Sequence[str]) -> int | None:
        # `GPT2Tokenizer.pad_token_id` is 0, the token "!", so an id counts only with its token.
        value = getattr(tokenizer, f"{attribute}_id", None)
        if value is not None and getattr(tokenizer, attribute, None) is not None:
            return int(value)
        for name in names:
            if name in vocabulary:
                return int(tokenizer.token_to_id(name))
        return None

    end = find("end_token", (END, "[SEP]", "</s>", "<eos>", "<|endoftext|>"))
    if end is None:
        raise ValueError(
            f"{type(tokenizer).__name__} has no end token: neither an attribute end_token nor one "
            f"of {END}, [SEP], </s>, <eos>, <|endoftext|> in its vocabulary; add one, or train a "
            "tokenizer with train_tokenizer"
        )
    start = find("start_token", (START, "[CLS]", "<s>", "<bos>", "<|startoftext|>"))
    pad = find("pad_token", (PAD, "<pad>", "<|pad|>"))
    return (end if pad is None else pad), (end if start is None else start), end


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


def lowercase_pieces(pieces: Iterable[str]) -> Iterator[str]:
    """Yield the pieces of a text in lowercase.

    They are cut at spaces and line ends, because the lowercase sigma depends on its word.
    """
    rest = ""
    for piece in pieces:
        text = rest + piece
        end = max(text.rfind(" "), text.rfind("\n")) + 1 or len(text)
        yield text[:end].lower()
        rest = text[end:]
    yield rest.lower()


def _without_reserved_bytes(number: int, pieces: Iterable[str]) -> Iterator[str]:
    """Yield the pieces of a text, after a check that a byte tokenizer can encode them."""
    at = 0
    for piece in pieces:
        if found := _BYTE_RESERVED.search(piece):
            raise ValueError(
                f"text {number} has the control character U+{ord(found[0]):04X} at character "
                f"{at + found.start()}, which a byte tokenizer uses for padding (U+0000), start "
                "(U+0002) or end (U+0003); remove it, or use a byte_pair tokenizer"
            )
        at += len(piece)
        yield piece
