"""Cut long texts into chunks, so that encoding and training need little time and memory at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

CHUNK = 1 << 14
"""Number of characters after which a text is cut at the next boundary between tokens."""

_BATCH = 1 << 18  # characters that are encoded in one call
_NEIGHBOURHOOD = 32  # characters on both sides that are encoded to check a boundary
_ATTEMPTS = 100  # boundaries to check before the rest of a text is taken as one chunk

# A space, line end or punctuation mark between two words: the most frequent boundary of tokens.
_BETWEEN_WORDS = re.compile(r"(?<=\w)\W(?=\w)")
_SPACE = re.compile(r"(?<=\S) (?=\S)")

Tokenize = Callable[[Sequence[str]], Iterable[Sequence[int]]]


def encode_in_chunks(tokenize: Tokenize, texts: Iterable[str], cut_words: bool) -> list[np.ndarray]:
    """Return the token ids of texts, int32 (t,) each, encoded chunk by chunk.

    A text is cut only where the tokens on both sides are the same as without the cut.

    Args:
        tokenize: returns the ids of each of several texts.
        texts: the texts.
        cut_words: whether a text without such a place within `CHUNK` characters is cut all the
            same, which changes a token at the cut.
    """
    parts: list[list[np.ndarray]] = []
    batch: list[str] = []
    places: list[tuple[list[np.ndarray], int]] = []  # where ids belong, and how many to drop

    def flush() -> None:
        if batch:
            for (row, dropped), ids in zip(places, tokenize(batch), strict=True):
                row.append(np.array(ids[dropped:], "int32"))
        batch.clear()
        places.clear()

    size = 0
    for text in texts:
        parts.append([])
        for chunk, dropped in _chunks(text, tokenize, cut_words):
            batch.append(chunk)
            places.append((parts[-1], dropped))
            size += len(chunk)
            if size >= _BATCH:
                flush()
                size = 0
    flush()
    return [row[0] if len(row) == 1 else np.concatenate(row) for row in parts]


def _chunks(text: str, tokenize: Tokenize, cut_words: bool) -> Iterator[tuple[str, int]]:
    """Yield chunks of a text, and how many of the first ids of each are those of the last chunk."""
    start = dropped = 0
    while len(text) - start > 2 * CHUNK:
        found = _boundary(text, start + CHUNK, tokenize, cut_words)
        if found is None:
            break
        end, following, following_dropped = found
        yield text[start:end], dropped
        start, dropped = following, following_dropped
    yield text[start:], dropped


def _boundary(
    text: str, at: int, tokenize: Tokenize, cut_words: bool
) -> tuple[int, int, int] | None:
    """Return the end of a chunk, the start of the next and its ids to drop; None for no place.

    SentencePiece puts a space before every text. It then stands for the space at which a text is
    cut, or both chunks have the sign at which it is cut, whose ids are dropped from the second.
    """
    last = at + CHUNK if cut_words else len(text)
    for attempt, found in enumerate(_BETWEEN_WORDS.finditer(text, at, last)):
        if attempt == _ATTEMPTS:
            break
        end = found.start()
        before = text[end - _NEIGHBOURHOOD : end]
        after = text[end : end + _NEIGHBOURHOOD]
        sign = after[0]
        texts = (before + after, before, after, after[1:], before + sign, sign)
        whole, left, right, without, with_sign, alone = map(list, tokenize(texts))
        if left + right == whole:
            return end, end, 0
        if sign == " " and left + without == whole:
            return end, end + 1, 0
        if right[: len(alone)] == alone and with_sign + right[len(alone) :] == whole:
            return end + 1, end, len(alone)
    return (last, last, 0) if cut_words else None


def training_sample(texts: Sequence[str], most: int) -> Sequence[str]:
    """Return texts with at most about `most` characters: evenly spread chunks if there are more."""
    total = sum(map(len, texts))
    if total <= most:
        return texts
    chunks = (chunk for text in texts for chunk in training_chunks(text))
    # Of every `total / most` chunks the last.
    return [c for i, c in enumerate(chunks, 1) if i * most // total > (i - 1) * most // total]


def training_chunks(text: str) -> Iterator[str]:
    """Yield a text in chunks of about `CHUNK` characters, cut before spaces where there are any."""
    start = 0
    while len(text) - start > 2 * CHUNK:
        found = _SPACE.search(text, start + CHUNK, start + 2 * CHUNK)
        end = found.start() if found else start + 2 * CHUNK
        yield text[start:end]
        start = end
    yield text[start:]
