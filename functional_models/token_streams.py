"""Text of many forms as one stream of tokens, for objectives that train on plain text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from functional_models.batches import check_tokens
from functional_models.corpora import ParallelCorpus, TextCorpus
from functional_models.corpora.stored import StoredTexts
from functional_models.tokenizer_base import Tokenizer, text_list


def token_stream(
    text: Any, tokenizer: Callable[[], Tokenizer], vocabulary_size: int, *, progress: bool = False
) -> np.ndarray:
    """Return text as integers (N,), memory-mapped, with an end token after each document.

    Args:
        text: a single text, which gets no end token; documents; or tokens, which are checked and
            returned as they are.
        tokenizer: returns the tokenizer, which tokens do not need.
        vocabulary_size: of the model.
        progress: show the progress with long texts.

    Raises:
        TypeError: a corpus, which has several parts.
        ValueError: no text, or tokens outside the vocabulary.
    """
    if isinstance(text, TextCorpus):
        raise TypeError("a TextCorpus has two splits; give its .train or its .validation")
    if isinstance(text, ParallelCorpus):
        raise TypeError("a ParallelCorpus has three splits; give its .train or .validation")
    if isinstance(text, np.ndarray):
        check_tokens(text, vocabulary_size, "the token array")
        return text
    if not isinstance(text, str | StoredTexts):
        text = text_list(text)
    if not text and not isinstance(text, str):
        raise ValueError("there is no text; give at least one document")
    return tokenizer().encode_together(text, end=not isinstance(text, str), progress=progress)
