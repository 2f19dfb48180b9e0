"""Attention weights of every head, with the tokens that their rows and columns belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from functional_models.tokenizers import Tokenizer


@dataclass(frozen=True)
class AttentionMaps:
    """Attention weights for one text, or for a text and its translation.

    Attributes:
        target: tokens that the decoder reads, as text.
        source: tokens that the encoder reads; empty without an encoder.
        scores: for each attention layer, such as `decoder.block_0.cross_attention`, the weights
            float32 (n, t, s): head, query, key. Rows sum to 1.
    """

    target: tuple[str, ...]
    source: tuple[str, ...]
    scores: Mapping[str, np.ndarray]

    def labels(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the tokens of the rows and of the columns of an attention layer's weights."""
        if name.startswith("encoder."):
            return self.source, self.source
        return self.target, self.source if name.endswith(".cross_attention") else self.target


def maps_of_tokens(
    probe: Any,
    target: np.ndarray,
    target_tokenizer: Tokenizer,
    source: np.ndarray | None = None,
    source_tokenizer: Tokenizer | None = None,
) -> AttentionMaps:
    """Run the probe graph of `build_probe` on a single sequence, (t,), and its source, (s,)."""
    import keras

    inputs: Any = np.asarray(target, "int32")[None]
    labels: tuple[str, ...] = ()
    if source is not None and source_tokenizer is not None:
        inputs = {"source": np.asarray(source, "int32")[None], "target": inputs}
        labels = token_labels(source_tokenizer, source)
    scores = {
        name: keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))[0]
        for name, x in probe(inputs, training=False).items()
    }
    return AttentionMaps(token_labels(target_tokenizer, target), labels, scores)


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
