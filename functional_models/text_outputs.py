"""What text models return besides texts: scores, attention weights and pieces of a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from functional_models.tokenizers import Tokenizer


@dataclass(frozen=True)
class Generated:
    """Generated text with its tokens and their log-probabilities.

    Attributes:
        text: the text, without end token and stop token.
        tokens: int32 (t,), including the end token or stop token, if there is one.
        log_probabilities: float32 (t,), under the model itself, not under the sampler.
    """

    text: str
    tokens: np.ndarray
    log_probabilities: np.ndarray

    @property
    def log_probability(self) -> float:
        """The log-probability of the sequence: the sum over its tokens."""
        return float(self.log_probabilities.sum())


class TextPieces:
    """Cuts a growing text into pieces that are final.

    A character can consist of several tokens. Until the last of them is generated, the decoded
    text ends in U+FFFD, which is held back.
    """

    def __init__(self) -> None:
        self._sent = self._text = ""

    def grown(self, text: str) -> str:
        """Return the new part of a text that has grown."""
        self._text, whole = text, text.rstrip("\ufffd")
        if not whole.startswith(self._sent):
            return ""
        new, self._sent = whole[len(self._sent) :], whole
        return new

    def rest(self) -> str:
        """Return the part that was held back, once the text is complete."""
        pairs = enumerate(zip(self._sent, self._text, strict=False))
        same = next((i for i, (a, b) in pairs if a != b), min(len(self._sent), len(self._text)))
        return self._text[same:]


@dataclass(frozen=True, repr=False)
class AttentionMaps:
    """Attention weights for one text, or for a text and its translation.

    Attributes:
        target: tokens that the decoder reads, as text.
        source: tokens that the encoder reads; empty without an encoder.
        scores: for each attention layer, such as `decoder.block_0.cross_attention`, the weights
            float32 (n, t, s): head, query, key. Rows sum to 1, or to less with sinks.
    """

    target: tuple[str, ...]
    source: tuple[str, ...]
    scores: Mapping[str, np.ndarray]

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in self.scores.items())
        return f"<AttentionMaps: {shapes}>"

    def labels(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the tokens of the rows and of the columns of an attention layer's weights."""
        if name.startswith("encoder."):
            return self.source, self.source
        return self.target, self.source if name.endswith(".cross_attention") else self.target


def token_labels(tokenizer: Tokenizer, tokens: np.ndarray) -> tuple[str, ...]:
    """Return the text of each token; special tokens in angle brackets."""
    special = {
        tokenizer.pad_id: "<pad>",
        tokenizer.end_id: "<end>",
        tokenizer.start_id: "<start>",
    }
    texts = tokenizer.decode([[token] for token in tokens])
    return tuple(
        special.get(int(token), text or f"<{token}>")
        for token, text in zip(tokens, texts, strict=True)
    )
