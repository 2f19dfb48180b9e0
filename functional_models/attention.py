"""Where a model looks: the attention weights of every head, with the tokens they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from functional_models.tokenizers import Tokenizer

if TYPE_CHECKING:
    from functional_models.text_model import TextModel


@dataclass(frozen=True)
class AttentionMaps:
    """Attention weights for one text, or for one text and its translation.

    Attributes:
        target: the tokens that the decoder reads, as text.
        source: those that the encoder reads; empty where there is none.
        scores: for each attention, such as `decoder.block_0.cross_attention`, float32 (n, t, s):
            how much, in each head, the query in a row looks at the key in a column. Rows sum to 1.
    """

    target: tuple[str, ...]
    source: tuple[str, ...]
    scores: Mapping[str, np.ndarray]

    def labels(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the tokens of the rows and of the columns of an attention's map."""
        if name.startswith("encoder."):
            return self.source, self.source
        return self.target, self.source if name.endswith(".cross_attention") else self.target


def attention_maps(model: TextModel, text: str, target: str | None = None) -> AttentionMaps:
    """Return where a model looks while it reads.

    Args:
        model: a `CausalLM` or a `Translator`.
        text: what a language model reads, or the source of a translation.
        target: the translation, which the decoder reads after its start token; `None`: the
            model's own, by greedy decoding. A language model has none.

    Raises:
        ValueError: a text that is empty or longer than the model takes, or a target for a
            language model.
    """
    return model.attention_maps(text, target)


def maps_of_tokens(
    probe: Any,
    target: np.ndarray,
    target_tokenizer: Tokenizer,
    source: np.ndarray | None = None,
    source_tokenizer: Tokenizer | None = None,
) -> AttentionMaps:
    """Run the probe graph of `build_probe` on one row of tokens, (t,) and (s,)."""
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
    """Return a short text for each token; special ones in angle brackets."""
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
