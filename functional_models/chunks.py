"""Cut long texts into chunks, so that encoding and training need little time and memory at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from functional_models.corpora.stored import count_characters, in_pieces

CHUNK = 1 << 14
"""Number of characters after which a text is cut at the next boundary between tokens."""

_BATCH = 1 << 18  # characters that are encoded in one call
_NEIGHBOURHOOD = 32  # characters on both sides that are encoded to check a boundary
_ATTEMPTS = 100  # boundaries to check before the rest of a text is taken as one chunk

# A space, line end or punctuation mark between two words: the most frequent boundary of tokens.
_BETWEEN_WORDS = re.compile(r"(?<=\w)\W(?=\w)")
_SPACE = re.compile(r"(?<=\S) (?=\S)")

Tokenize = Callable[[Sequence[str]], Iterable[Sequence[int]]]


def encode_in_chunks(
    tokenize: Tokenize, texts: Iterable[Iterable[str]], cut_words: bool
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the token ids of texts chunk by chunk, each with the number of its text.

    A text is cut only where the tokens on both sides are the same as without the cut.

    Args:
        tokenize: returns the ids of each of several texts.
        texts: the texts, in pieces of any length, which are not seen in the result.
        cut_words: whether a text without such a place within `CHUNK` characters is cut all the
            same, which changes a token at the cut.

    Returns:
        Pairs of a text's number, from 0, and ids, int32 (t,); at least one pair for each text.
    """
    batch: list[str] = []
    places: list[tuple[int, int]] = []  # the text of a chunk, and how many of its ids to drop

    def encoded() -> Iterator[tuple[int, np.ndarray]]:
        if batch:
            for (number, dropped), ids in zip(places, tokenize(batch), strict=True):
                yield number, np.array(ids[dropped:], "int32")
        batch.clear()
        places.clear()

    size = 0
    for number, pieces in enumerate(texts):
        for chunk, dropped in _chunks(iter(pieces), tokenize, cut_words):
            batch.append(chunk)
            places.append((number, dropped))
            size += len(chunk)
            if size >= _BATCH:
                yield from encoded()
                size = 0
    yield from encoded()


def _chunks(
    pieces: Iterator[str], tokenize: Tokenize, cut_words: bool
) -> Iterator[tuple[str, int]]:
    """Yield chunks of a text, and how many of the first ids of each are those of the last chunk."""
    text, start, dropped = "", 0, 0  # the characters in memory; the next chunk begins at `start`
    least, is_whole = 3 * CHUNK, False
    while True:
        if not is_whole and len(text) - start < least:
            text, is_whole = _grown(text[start:], pieces, least)
            start = 0
        if len(text) - start <= 2 * CHUNK:
            break
        found = _boundary(text, start + CHUNK, tokenize, cut_words, is_whole)
        if found is not None:
            end, following, following_dropped = found
            yield text[start:end], dropped
            start, dropped, least = following, following_dropped, 3 * CHUNK
        elif is_whole:
            break
        else:
            least = 2 * (len(text) - start)
    yield text[start:], dropped


def _grown(text: str, pieces: Iterator[str], least: int) -> tuple[str, bool]:
    """Add pieces to a text, up to a length; also return whether there are no more."""
    parts, size = [text] if text else [], len(text)
    while size < least:
        piece = next(pieces, None)
        if piece is None:
            return "".join(parts), True
        parts.append(piece)
        size += len(piece)
    return "".join(parts), False


def _boundary(
    text: str, at: int, tokenize: Tokenize, cut_words: bool, is_whole: bool
) -> tuple[int, int, int] | None:
    """Return the end of a chunk, the start of the next and its ids to drop; None for no place.

    `is_whole` tells whether no more text follows.

    SentencePiece puts a space before every text. It then stands for the space at which a text is
    cut, or both chunks have the sign at which it is cut, whose ids are dropped from the second.
    """
    last = at + CHUNK if cut_words else len(text) - (0 if is_whole else _NEIGHBOURHOOD)
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


def training_sample(texts: Iterable[str], most: int) -> Iterable[str]:
    """Return texts with at most about `most` characters: evenly spread chunks if there are more."""
    total = count_characters(texts)
    if total <= most:
        return texts
    chunks = (chunk for pieces in in_pieces(texts) for chunk in training_chunks(pieces))
    # Of every `total / most` chunks the last.
    return [c for i, c in enumerate(chunks, 1) if i * most // total > (i - 1) * most // total]


def training_chunks(pieces: Iterable[str]) -> Iterator[str]:
    """Yield a text in chunks of about `CHUNK` characters, cut before spaces where there are any."""
    text, start = "", 0
    for piece in pieces:
        text, start = text[start:] + piece, 0
        while len(text) - start > 2 * CHUNK:
            found = _SPACE.search(text, start + CHUNK, start + 2 * CHUNK)
            end = found.start() if found else start + 2 * CHUNK
            yield text[start:end]
            start = end
    yield text[start:]
