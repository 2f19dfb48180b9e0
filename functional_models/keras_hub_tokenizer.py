"""KerasHub tokenizers: their special ids, long texts in chunks, and what restores them.

KerasHub's own files do not restore every tokenizer: it reads a vocabulary line by line and strips
white space, which may be part of a token. Here the vocabulary is JSON (or the model of
SentencePiece in base64), and goes to the constructor.
"""

from __future__ import annotations

import base64
import inspect
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Self

import numpy as np

from functional_models.chunks import encode_in_chunks
from functional_models.tokenizer_base import LETTERS_OF_SPACES, Tokenizer

# KerasHub has 256 ids for bytes and reads id 0 as padding. The ASCII control characters "start of
# text" and "end of text" are the start and the end; plain text contains none of the three.
BYTE_PAD, BYTE_START, BYTE_END = 0, 2, 3
_BYTE_RESERVED = re.compile("[\x00\x02\x03]")

# Bytes that never occur in UTF-8 (RFC 3629, section 1): a mask, and marks of removed spans.
BYTE_MASK = 0xC0
BYTE_SENTINELS = (0xC1, *range(0xF5, 0x100))

PAD, START, END, UNKNOWN, MASK = "[PAD]", "[START]", "[END]", "[UNK]", "[MASK]"
SENTINEL = "<extra_id_{}>"
"""Name of the mark of a removed span, by its number, as in T5."""

# What the pieces that begin a word begin with: white space. In byte-level vocabularies, bytes that
# are no printable characters are shown as letters from U+0100 on (GPT-2).
_WORD_MARKS: dict[str, tuple[str, ...]] = {
    "byte": (" ", "\t", "\n", "\r"),
    "byte_pair": LETTERS_OF_SPACES,
    "sentence_piece": ("▁",),
}

_OF_BATCHES = ("sequence_length", "add_bos", "add_eos")
"""Settings that stay off: padding, start and end are added when batches are made."""

_TRANSIENT = {"name", "trainable", "dtype", "config_file", "vocabulary", "merges", "proto"}


def keras_classes() -> dict[str, Any]:
    """Return the KerasHub class of each kind."""
    from keras_hub import tokenizers

    return {
        "byte": tokenizers.ByteTokenizer,
        "word_piece": tokenizers.WordPieceTokenizer,
        "sentence_piece": tokenizers.SentencePieceTokenizer,
        "byte_pair": tokenizers.BytePairTokenizer,
    }


@dataclass(frozen=True, eq=False, repr=False)
class KerasHubTokenizer(Tokenizer):
    """A KerasHub tokenizer and its special ids.

    Attributes:
        keras_tokenizer: the wrapped `keras_hub.tokenizers.Tokenizer`.
        lowercase: whether text is lowercased before it is encoded.
        second_start_id: id after `start_id`, in targets of BART.
        input_start_id: id before the first token of prompts and sources, for published models that
            were trained with it.
        ends_sources: whether sources end with `end_id`.
    """

    keras_tokenizer: Any = field(metadata={"saved": False})
    lowercase: bool = False
    second_start_id: int | None = None
    input_start_id: int | None = None
    ends_sources: bool = False

    @property
    def name(self) -> str:
        return type(self.keras_tokenizer).__name__

    @property
    def target_start(self) -> list[int]:
        second = [] if self.second_start_id is None else [self.second_start_id]
        return [self.start_id, *second]

    @property
    def input_start(self) -> list[int]:
        return [] if self.input_start_id is None else [self.input_start_id]

    @property
    def source_end(self) -> list[int]:
        return [self.end_id] if self.ends_sources else []

    @cached_property
    def mask_id(self) -> int | None:
        if self.kind == "byte":
            return BYTE_MASK
        return _find(self.keras_tokenizer, "mask_token", (MASK, "<mask>"))

    @cached_property
    def sentinel_ids(self) -> tuple[int, ...]:
        return BYTE_SENTINELS if self.kind == "byte" else numbered_sentinels(self.pieces)

    @cached_property
    def pieces(self) -> Mapping[int, str]:
        found = self.keras_tokenizer.get_vocabulary()
        if self.kind == "byte_pair":  # whose entries need not be in the order of their ids
            found = self.keras_tokenizer.vocabulary
        if isinstance(found, Mapping):
            return {int(number): piece for piece, number in found.items()}
        return dict(enumerate(found))

    def begins_word(self, piece: str) -> bool:
        if self.kind == "word_piece":
            return not piece.startswith(self.keras_tokenizer.suffix_indicator)
        return piece.startswith(_WORD_MARKS[self.kind])

    def _tokenized(self, texts: Iterable[Iterable[str]]) -> Iterator[tuple[int, np.ndarray]]:
        if self.kind == "byte":
            texts = (_without_reserved_bytes(*text) for text in enumerate(texts))
        if self.lowercase:
            texts = map(lowercase_pieces, texts)
        # A word of 16,384 letters is cut by kinds that restore the text all the same.
        cut_words = self.kind in ("byte", "byte_pair")
        return encode_in_chunks(self.keras_tokenizer.tokenize, texts, cut_words)

    def _texts(self, sequences: list[list[int]]) -> list[str]:
        return list(self.keras_tokenizer.detokenize(sequences))

    def to_manifest(self) -> dict[str, Any]:
        import keras_hub

        if getattr(keras_hub.tokenizers, self.name, None) is not type(self.keras_tokenizer):
            raise ValueError(
                f"a tokenizer of class {self.name} cannot be saved: only classes of "
                "keras_hub.tokenizers can be loaded"
            )
        config = self.keras_tokenizer.get_config()
        config = {k: v for k, v in config.items() if k not in _TRANSIENT}
        if not getattr(self.keras_tokenizer, "split_on_cjk", True):
            config["split_on_cjk"] = False  # missing in KerasHub's configuration
        vocabulary = _vocabulary(self.keras_tokenizer)
        if "proto" in vocabulary:
            vocabulary["proto"] = base64.b64encode(vocabulary["proto"]).decode()
        return {"class": self.name, "config": config, "vocabulary": vocabulary}

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        import keras_hub

        # Only classes of this namespace, so that a manifest cannot name arbitrary classes.
        keras_class = getattr(keras_hub.tokenizers, manifest["class"])
        vocabulary = dict(manifest["vocabulary"])
        if "proto" in vocabulary:
            vocabulary["proto"] = base64.b64decode(vocabulary["proto"], validate=True)
        _check_settings(keras_class, manifest["config"])
        keras_tokenizer = keras_class(**manifest["config"], **vocabulary)
        named = {f.name for f in fields(cls)} - {"keras_tokenizer"}
        made = cls(keras_tokenizer=keras_tokenizer, **{name: manifest[name] for name in named})
        ids = (made.pad_id, *made.target_start, *made.input_start, made.end_id, *made.start_ids)
        size = int(keras_tokenizer.vocabulary_size())  # an error without a vocabulary
        is_of_kind = isinstance(keras_tokenizer, keras_classes()[made.kind])
        are_ids = all(type(i) is int and 0 <= i < size for i in ids)
        if not is_of_kind or size != made.vocabulary_size or not are_ids:
            raise ValueError("the kind or the special ids do not fit the vocabulary")
        if not isinstance(made.lowercase, bool) or not isinstance(made.ends_sources, bool):
            raise ValueError("lowercase and ends_sources must be true or false")
        made.decode(made.encode(["a b"]))  # an error now, and not at the first text
        return made

    def parts(self) -> dict[str, Any]:
        inner = self.keras_tokenizer
        settings = [name for name in _settings(type(inner)) if hasattr(inner, name)]
        return {
            "class": self.name,
            **{name: getattr(inner, name) for name in settings},
            **_vocabulary(inner),
        }


def wrapped_keras_tokenizer(tokenizer: Any) -> KerasHubTokenizer:
    """Return a KerasHub tokenizer with its special ids; see `tokenizers.as_tokenizer`."""
    classes = keras_classes()
    kind = next((kind for kind, cls in classes.items() if isinstance(tokenizer, cls)), None)
    if kind is None:
        raise TypeError(
            f"expected a functional_models Tokenizer or a KerasHub tokenizer "
            f"({', '.join(cls.__name__ for cls in classes.values())}), got "
            f"{type(tokenizer).__name__}; train_tokenizer and load_tokenizer return one"
        )
    name = type(tokenizer).__name__
    for setting in _OF_BATCHES:
        if getattr(tokenizer, setting, None):
            raise ValueError(
                f"{name}({setting}={getattr(tokenizer, setting)!r}): padding, start and end are "
                f"added when batches are made; create the tokenizer without {setting}"
            )
    ids = (BYTE_PAD, BYTE_START, BYTE_END) if kind == "byte" else _special_ids(tokenizer)
    return KerasHubTokenizer(kind, int(tokenizer.vocabulary_size()), *ids, tokenizer)


def _special_ids(tokenizer: Any) -> tuple[int, int, int]:
    """Return the ids (pad, start, end) that a KerasHub tokenizer or its vocabulary defines."""
    end = _find(tokenizer, "end_token", (END, "[SEP]", "</s>", "<eos>", "<|endoftext|>"))
    if end is None:
        raise ValueError(
            f"{type(tokenizer).__name__} has no end token: neither an attribute end_token nor one "
            f"of {END}, [SEP], </s>, <eos>, <|endoftext|> in its vocabulary; add one, or train a "
            "tokenizer with train_tokenizer"
        )
    start = _find(tokenizer, "start_token", (START, "[CLS]", "<s>", "<bos>", "<|startoftext|>"))
    pad = _find(tokenizer, "pad_token", (PAD, "<pad>", "<|pad|>"))
    return (end if pad is None else pad), (end if start is None else start), end


def _find(tokenizer: Any, attribute: str, names: Sequence[str]) -> int | None:
    """Return the id of a special token, by its attribute or by the names it may have."""
    # `GPT2Tokenizer.pad_token_id` is 0, the token "!", so an id counts only with its token.
    value = getattr(tokenizer, f"{attribute}_id", None)
    if value is not None and getattr(tokenizer, attribute, None) is not None:
        return int(value)
    vocabulary = set(tokenizer.get_vocabulary())
    return next((int(tokenizer.token_to_id(name)) for name in names if name in vocabulary), None)


def numbered_sentinels(pieces: Mapping[int, str]) -> tuple[int, ...]:
    """Return the ids of `<extra_id_0>`, `<extra_id_1>`, ... up to the first that is missing."""
    ids = {piece: number for number, piece in pieces.items()}
    names = itertools.takewhile(ids.__contains__, map(SENTINEL.format, itertools.count()))
    return tuple(ids[name] for name in names)


def _vocabulary(keras_tokenizer: Any) -> dict[str, Any]:
    """Return the constructor arguments that hold the vocabulary."""
    names = [name for name in ("vocabulary", "merges", "proto") if hasattr(keras_tokenizer, name)]
    found = {name: getattr(keras_tokenizer, name) for name in names}
    return {n: dict(v) if isinstance(v, dict) else v for n, v in found.items()}


def _settings(cls: type) -> dict[str, Any]:
    """Return the constructor arguments of a class and its bases by name, with their defaults."""
    found: dict[str, Any] = {}
    for base in cls.__mro__[:-1]:
        for name, argument in inspect.signature(base).parameters.items():
            found.setdefault(name, argument.default)
    return {name: default for name, default in found.items() if name not in _TRANSIENT}


def _check_settings(cls: type, config: Mapping[str, Any]) -> None:
    """Check the types of settings, which KerasHub looks at only when it encodes.

    Raises:
        ValueError: a setting is of another type than its default, or one that stays off is on.
    """
    for name, default in _settings(cls).items():
        value = config.get(name, default)
        if name in _OF_BATCHES and value is not None and value is not False:
            raise ValueError(f"{name}={value!r:.80} must be off")
        if isinstance(default, bool | int | str) and type(value) is not type(default):
            raise ValueError(f"{name}={value!r:.80} must be of type {type(default).__name__}")
        texts = value if isinstance(value, list) else [value]
        if default is None and value is not None and not all(isinstance(t, str) for t in texts):
            raise ValueError(f"{name}={value!r:.80} must be a text, or a list of texts")


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
