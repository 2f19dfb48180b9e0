"""Tokenizers as TensorFlow graphs, for export.

Unlike KerasHub's graphs, those of `byte`, `byte_pair` and `word_piece` do not need tensorflow_text.
Moreover, KerasHub's byte-pair graph splits text differently from its Python code, which models here
are trained with.

Shapes: b texts, t tokens of a text, w words.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from functional_models.keras_hub_tokenizer import KerasHubTokenizer
from functional_models.tokenizer_base import Tokenizer

NO_TOKEN = -1
WHITE_SPACE = r"\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
"""The white space of Unicode, in a regular expression of TensorFlow."""

_CUT = b"\xff"  # marks where text is split; a byte that does not occur in UTF-8

Tensor = Any


class _TensorFlow:
    """TensorFlow, imported on first use, since other backends do not need it."""

    def __getattr__(self, name: str) -> Any:
        import tensorflow

        return getattr(tensorflow, name)


tf: Any = _TensorFlow()


def graph_encoder(tokenizer: Tokenizer) -> Any:
    """Return a graph of `Tokenizer.encode`: string (b,) -> ragged int (b, t).

    Raises:
        ValueError: the tokenizer has no graph that gives the same ids.
    """
    tokenizer = _of_keras_hub(tokenizer)
    inner = tokenizer.keras_tokenizer
    kind = tokenizer.kind
    if kind == "byte" and (inner.lowercase or inner.normalization_form):
        kind = "keras"
    if kind == "word_piece" and (
        inner.lowercase or inner.strip_accents or inner.special_tokens_in_strings
    ):
        kind = "keras"
    if kind == "byte_pair" and inner.add_prefix_space:
        raise ValueError(
            "a BytePairTokenizer with add_prefix_space=True cannot be exported; create it without, "
            "and start texts with a space"
        )
    kinds: dict[str, Any] = {
        "byte": ByteEncoder,
        "byte_pair": BytePairEncoder,
        "word_piece": WordPieceEncoder,
    }
    return kinds.get(kind, KerasEncoder)(tokenizer)


class GraphEncoder(ABC):
    """Base class of graphs of `Tokenizer.encode`.

    Attributes:
        parts: objects to save with the graph, such as tables.
    """

    needs_tensorflow_text = False

    def __init__(self, tokenizer: KerasHubTokenizer) -> None:
        self.parts: list[Any] = []
        self._lowercase = tokenizer.lowercase

    def __call__(self, text: Tensor) -> Tensor:
        """Return the ids of texts: string (b,) -> ragged int32 (b, t)."""
        text = _valid_utf8(text)
        if self._lowercase:
            text = tf.strings.lower(text, encoding="utf-8")
        return tf.cast(self._ids(text), "int32")

    @abstractmethod
    def _ids(self, text: Tensor) -> Tensor:
        """Return the ids of valid UTF-8 texts: string (b,) -> ragged int (b, t)."""


class KerasEncoder(GraphEncoder):
    """KerasHub's graph, with operations of tensorflow_text."""

    needs_tensorflow_text = True

    def __init__(self, tokenizer: KerasHubTokenizer) -> None:
        super().__init__(tokenizer)
        self._tokenizer = _with_tensorflow_text(tokenizer)
        self.parts = [self._tokenizer]

    def _ids(self, text: Tensor) -> Tensor:
        return self._tokenizer.tokenize(text)


class ByteEncoder(GraphEncoder):
    """The bytes of UTF-8."""

    def _ids(self, text: Tensor) -> Tensor:
        free = ~tf.strings.regex_full_match(text, r"(?s).*[\x00\x02\x03].*")
        error = "a text has U+0000, U+0002 or U+0003, which are padding, start and end"
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(free), [error])]):
            return _bytes(tf.identity(text))


class BytePairEncoder(GraphEncoder):
    """Bytes of each word, with merges applied in the order of their list.

    Words are split by Llama 3's expression, unless KerasHub's Python code does not split (0.32
    takes the expression for a literal).
    """

    # RE2 has no lookahead, `\s+(?!\S)`: the last space before a word is split off first.
    _space = WHITE_SPACE
    _last_space = (
        rf"([{_space}])([\t\x0b\x0c \x{{85}}\x{{a0}}\x{{1680}}\x{{2000}}-\x{{200a}}\x{{2028}}"
        rf"\x{{2029}}\x{{202f}}\x{{205f}}\x{{3000}}][^{_space}])"
    )
    _word = (
        r"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
        rf" ?[^{_space}\p{{L}}\p{{N}}]+[\r\n]*|[{_space}]*[\r\n]+|[{_space}]+)"
    )

    def __init__(self, tokenizer: KerasHubTokenizer) -> None:
        super().__init__(tokenizer)
        from keras_hub.src.tokenizers.byte_pair_tokenizer import bytes_to_unicode

        inner = tokenizer.keras_tokenizer
        vocabulary = inner.vocabulary
        self._base = max(vocabulary.values()) + 1
        letters = dict(zip(*bytes_to_unicode(), strict=True))
        self._of_byte = np.array(
            [vocabulary.get(letters[bytes([byte])], NO_TOKEN) for byte in range(256)], "int64"
        )
        merges = [tuple(m.split(" ")) for m in inner.merges if "#version:" not in m.lstrip()]
        pairs = {vocabulary[a] * self._base + vocabulary[b]: (a, b) for a, b in merges}
        ranks = {vocabulary[a] * self._base + vocabulary[b]: i for i, (a, b) in enumerate(merges)}
        self._splits = len(inner._tokenizer.pre_tokenizer.pre_tokenize_str("a b")) > 1
        # The value of a pair encodes its rank and the id of the merged token.
        values = [ranks[pair] * self._base + vocabulary[a + b] for pair, (a, b) in pairs.items()]
        self._merges = _table(list(pairs), values, default=np.iinfo("int64").max, dtype="int64")
        # The longest first, as in the Python code.
        special = sorted(inner.unsplittable_tokens or (), key=len, reverse=True)
        self._special = "(" + "|".join(map(re.escape, special)) + ")" if special else None
        ids = [vocabulary[token] for token in special]
        self._special_ids = _table(special or [""], ids or [NO_TOKEN], NO_TOKEN)
        self.parts = [self._merges, self._special_ids]

    def _ids(self, text: Tensor) -> Tensor:
        words = _pieces(text)
        if self._special is not None:
            words = _pieces(tf.strings.regex_replace(text, self._special, _CUT + b"\\1" + _CUT))
        if self._splits:
            parts = words.values
            whole = self._special_ids.lookup(parts) != NO_TOKEN
            cut = _pieces(tf.where(whole, parts, self._cut(parts)))
            words = words.with_values(cut).merge_dims(1, 2)
        different, places = tf.unique(words.flat_values)
        ids = tf.gather(self._merged(different), places)  # (words, letters)
        return _rows(ids, words)

    def _cut(self, text: Tensor) -> Tensor:
        text = tf.strings.regex_replace(text, self._last_space, b"\\1" + _CUT + b"\\2")
        return tf.strings.regex_replace(text, self._word, b"\\1" + _CUT)

    def _merged(self, words: Tensor) -> Tensor:
        """Return the ids of words: string (w,) -> int64 (w, letters), -1 for no token."""
        ids = tf.gather(self._of_byte, _bytes(words).to_tensor(0))
        ids = tf.where(tf.sequence_mask(tf.strings.length(words)), ids, NO_TOKEN)
        special = tf.cast(self._special_ids.lookup(words), "int64")[:, None]
        alone = tf.where(tf.range(tf.shape(ids)[1]) == 0, special, NO_TOKEN)
        ids = tf.where(special == NO_TOKEN, ids, alone)
        never = self._merges.default_value

        def has_merges(ids: Tensor, values: Tensor) -> Tensor:
            return tf.reduce_any(values < never)

        def found(ids: Tensor) -> Tensor:
            left, right = ids[:, :-1], ids[:, 1:]
            there = (left != NO_TOKEN) & (right != NO_TOKEN)
            return tf.where(there, self._merges.lookup(left * self._base + right), never)

        def merge(ids: Tensor, values: Tensor) -> Any:
            best = tf.reduce_min(values, axis=1, keepdims=True)
            first = (values == best) & (best < never)
            # Of overlapping pairs only the first, since it changes the others.
            one, two = (tf.pad(first, [[0, 0], [n, 0]])[:, : tf.shape(first)[1]] for n in (1, 2))
            first &= ~(one | two)
            ids = tf.where(tf.pad(first, [[0, 0], [0, 1]]), best % self._base, ids)
            gone = tf.pad(first, [[0, 0], [1, 0]]) | (ids == NO_TOKEN)
            ids = tf.ragged.boolean_mask(ids, ~gone).to_tensor(NO_TOKEN)
            return ids, found(ids)

        shape = tf.TensorShape([None, None])
        return tf.while_loop(has_merges, merge, (ids, found(ids)), (shape, shape))[0]


class WordPieceEncoder(GraphEncoder):
    """The longest piece of each word, repeatedly from the rest of the word."""

    _punctuation = r"[!-/]|[:-@]|[\[-`]|[{-~]|\p{P}"
    _cjk = (
        r"[\x{4E00}-\x{9FFF}]|[\x{3400}-\x{4DBF}]|[\x{20000}-\x{2A6DF}]|[\x{2A700}-\x{2B73F}]|"
        r"[\x{2B740}-\x{2B81F}]|[\x{2B820}-\x{2CEAF}]|[\x{F900}-\x{FAFF}]|[\x{2F800}-\x{2FA1F}]"
    )
    _space = r"[ \t\n\r\f]|\p{Cc}|\p{Cf}"
    _max_bytes = 100  # longer words are unknown

    def __init__(self, tokenizer: KerasHubTokenizer) -> None:
        super().__init__(tokenizer)
        inner = tokenizer.keras_tokenizer
        ids = {token: i for i, token in enumerate(inner.vocabulary)}
        self._ids_of = _table(list(ids), list(ids.values()), NO_TOKEN)
        self.parts = [self._ids_of]
        self._unknown = inner.token_to_id(inner.oov_token)
        self._suffix = inner.suffix_indicator
        self._splits = inner.split
        self._kept = self._punctuation + (f"|{self._cjk}" if inner.split_on_cjk else "")

    def _ids(self, text: Tensor) -> Tensor:
        if self._splits:
            text = tf.strings.regex_replace(text, f"({self._kept})", _CUT + b"\\1" + _CUT)
            text = tf.strings.regex_replace(text, self._space, _CUT)
        words = _pieces(text)
        different, places = tf.unique(words.flat_values)
        return _rows(tf.gather(self._split(different), places), words)

    def _split(self, words: Tensor) -> Tensor:
        """Return the ids of words: string (w,) -> int32 (w, pieces), -1 for no token."""
        too_long = tf.strings.length(words) > self._max_bytes
        words = tf.where(too_long, "", words)
        lengths = tf.strings.length(words, unit="UTF8_CHAR")
        sizes = tf.range(1, 1 + tf.reduce_max(tf.concat([lengths, [1]], axis=0)))
        columns = sizes - 1

        def has_more(at: Tensor, number: Tensor, ids: Tensor) -> Tensor:
            return tf.reduce_any(at < lengths)

        def split(at: Tensor, number: Tensor, ids: Tensor) -> Any:
            fits = at[:, None] + sizes <= lengths[:, None]  # (w, sizes)
            shape = tf.shape(fits)
            pieces = tf.strings.substr(
                tf.broadcast_to(words[:, None], shape),
                tf.broadcast_to(at[:, None], shape),
                tf.broadcast_to(sizes, shape),
                unit="UTF8_CHAR",
            )
            pieces = tf.where(at[:, None] > 0, tf.strings.join([self._suffix, pieces]), pieces)
            found = tf.where(fits, self._ids_of.lookup(pieces), NO_TOKEN)
            size = tf.reduce_max(tf.where(found == NO_TOKEN, 0, sizes), axis=1)
            token = tf.gather(found, tf.maximum(size - 1, 0), batch_dims=1)
            left = at < lengths
            lost = left & (size == 0)
            ids = tf.where((columns == number) & left[:, None], token[:, None], ids)
            alone = tf.where(columns == 0, self._unknown, NO_TOKEN)
            ids = tf.where(lost[:, None], alone, ids)
            return tf.where(lost, lengths, at + tf.where(left, size, 0)), number + 1, ids

        start = tf.zeros_like(lengths)
        ids = tf.where(too_long[:, None] & (columns == 0), self._unknown, NO_TOKEN)
        return tf.while_loop(has_more, split, (start, tf.constant(0), ids))[2]


class GraphDecoder:
    """The graph of `Tokenizer.decode`: int (b, t), -1 for no token -> string (b,).

    Attributes:
        parts: objects to save with the graph, such as tables.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer = _of_keras_hub(tokenizer)
        self.parts: list[Any] = []
        self._ids = (tokenizer.pad_id, tokenizer.end_id, sorted(tokenizer.start_ids))
        self._kind = tokenizer.kind
        self.needs_tensorflow_text = self._kind == "sentence_piece"
        inner = tokenizer.keras_tokenizer
        self._errors, self._replacement = "replace", 0xFFFD
        if self._kind == "byte":
            self._errors, self._replacement = inner.errors, inner.replacement_char
            # KerasHub always drops the byte 0.
            texts = [b"", *(bytes([byte]) for byte in range(1, 256))]
        elif self._kind == "byte_pair":
            texts = _bytes_of_tokens(inner.vocabulary)
        elif self._kind == "word_piece":
            texts = [token.encode() for token in inner.vocabulary]
            self._suffix = inner.suffix_indicator.encode()
        else:
            texts = [b""]
            self._tokenizer = _with_tensorflow_text(tokenizer)
            self.parts = [self._tokenizer]
        self._texts = np.array(texts, object)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the text of each row, without special tokens."""
        pad_id, end_id, start_ids = self._ids
        starts = tf.reduce_any(tokens[..., None] == tf.constant(start_ids, tokens.dtype), axis=-1)
        # The start is dropped first: in GPT-2's vocabulary one id is both the start and the end.
        before = tf.cast(starts | (tokens == NO_TOKEN), "int32")
        before = tf.cast(tf.math.cumprod(before, axis=1), "bool")
        ended = tf.cumsum(tf.cast((tokens == end_id) & ~before, "int32"), axis=1) > 0
        nothing = (tokens == NO_TOKEN) | (tokens == pad_id) | starts
        kept = ~(before | ended | nothing)
        if self._kind == "sentence_piece":
            return self._tokenizer.detokenize(tf.ragged.boolean_mask(tokens, kept))
        texts = tf.gather(tf.constant(self._texts), tf.maximum(tokens, 0))
        if self._kind == "word_piece":
            texts = self._spaced(texts, kept)
        joined = tf.strings.reduce_join(tf.where(kept, texts, ""), axis=1)
        if self._kind == "word_piece":
            return joined
        return _valid_utf8(joined, self._errors, self._replacement)

    def _spaced(self, tokens: Tensor, kept: Tensor) -> Tensor:
        """Put a space before each word, and remove the suffix indicator."""
        first = kept & (tf.cumsum(tf.cast(kept, "int32"), axis=1) == 1)
        length = len(self._suffix)
        size = tf.strings.length(tokens)
        head = tf.strings.substr(tokens, 0, length)
        is_suffix = (head == self._suffix) & (size > length) & ~first
        at = tf.where(is_suffix, length, 0)
        tails = tf.strings.substr(tokens, at, size - at)
        return tf.strings.join([tf.where(is_suffix | first, "", " "), tails])


def _of_keras_hub(tokenizer: Tokenizer) -> KerasHubTokenizer:
    if not isinstance(tokenizer, KerasHubTokenizer):
        raise ValueError(
            f"a {tokenizer.kind} tokenizer has no TensorFlow graph that is known to give the same "
            "ids; export the Keras model alone with model.model.export(folder), and tokenize "
            "before it"
        )
    return tokenizer


def _bytes_of_tokens(vocabulary: dict[str, int]) -> list[bytes]:
    from keras_hub.src.tokenizers.byte_pair_tokenizer import bytes_to_unicode

    in_bytes, letters = bytes_to_unicode()
    byte_of = dict(zip(letters, in_bytes, strict=True))
    found = [b""] * (max(vocabulary.values()) + 1)
    for token, i in vocabulary.items():
        spelt = [byte_of.get(letter) for letter in token]
        found[i] = token.encode() if None in spelt else b"".join(b for b in spelt if b)
    return found


def _with_tensorflow_text(tokenizer: KerasHubTokenizer) -> Any:
    """Return the KerasHub tokenizer, whose graph needs tensorflow_text."""
    try:
        import tensorflow_text  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"the graph of a {tokenizer.kind} tokenizer needs tensorflow_text, for export and for "
            "loading: pip install tensorflow-text"
        ) from error
    return tokenizer.keras_tokenizer


def _table(keys: Sequence[Any], values: Sequence[int], default: int, dtype: str = "int32") -> Any:
    of_text = isinstance(keys[0], str)
    keys = tf.constant(keys, tf.string if of_text else tf.int64)
    initial = tf.lookup.KeyValueTensorInitializer(keys, tf.constant(values, dtype))
    return tf.lookup.StaticHashTable(initial, tf.constant(default, dtype))


def _valid_utf8(text: Tensor, errors: str = "replace", replacement: int = 0xFFFD) -> Tensor:
    return tf.strings.unicode_transcode(
        text, "UTF-8", "UTF-8", errors=errors, replacement_char=replacement
    )


def _bytes(text: Tensor) -> Tensor:
    """Return the bytes of texts: string (b,) -> ragged int32 (b, t)."""
    split = tf.strings.bytes_split(text)
    return split.with_values(
        tf.cast(tf.io.decode_raw(split.values, tf.uint8, fixed_length=1)[:, 0], "int32")
    )


def _pieces(marked: Tensor) -> Tensor:
    """Split texts at the marks: string (b,) -> ragged string (b, words)."""
    pieces = tf.strings.split(marked, sep=_CUT)
    return tf.ragged.boolean_mask(pieces, pieces != "")


def _rows(ids: Tensor, words: Tensor) -> Tensor:
    """Return the ids of texts, ragged (b, t), from those of words (w, n), -1 for no token."""
    of_words = tf.RaggedTensor.from_tensor(ids, padding=NO_TOKEN)
    return words.with_values(of_words).merge_dims(1, 2)
