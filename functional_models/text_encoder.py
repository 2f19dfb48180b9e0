"""`TextEncoder`: an encoder-only model that returns vectors for text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import keras
import numpy as np

import builders
from functional_models.batches import padded_rows
from functional_models.checks import check_count
from functional_models.compiled import to_numpy
from functional_models.text_model import AttentionMaps, TextModel
from functional_models.tokenizers import Tokenizer, as_tokenizer


class TextEncoder(TextModel):
    """An encoder, which returns a vector for each token of a text.

    As in BERT, every text is enclosed in the start and the end token of the tokenizer. All tokens
    are in segment 0.

    Args:
        spec: a spec of kind `encoder_only`, or the name of a variant, which then gets the
            vocabulary size and padding of the tokenizer.
        tokenizer: a `Tokenizer`, or a KerasHub tokenizer.

    Raises:
        ValueError: another kind, a vocabulary smaller than the tokenizer's, or other padding.
    """

    kind = "encoder_only"
    target_role = "tokenizer"

    def __init__(self, spec: builders.TransformerSpec | str, tokenizer: Any) -> None:
        super().__init__(spec, {"tokenizer": as_tokenizer(tokenizer)})

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the texts."""
        return self._tokenizer("tokenizer")

    def vectors(self, texts: Sequence[str], *, batch_size: int = 32) -> list[np.ndarray]:
        """Return the vectors of each text, float32 (t, d), including its start and end token.

        Raises:
            ValueError: a text is longer than `max_sequence_length`.
        """
        return list(self._outputs(texts, "hidden", batch_size))

    def pooled(self, texts: Sequence[str], *, batch_size: int = 32) -> np.ndarray:
        """Return the output of the model's pooler for each text, float32 (b, d).

        Raises:
            ValueError: the model has no pooler, or a text is longer than `max_sequence_length`.
        """
        if not self.spec.pooler:
            raise ValueError(
                "this model has no pooler (pooler=False); use the mean of vectors(...), or build "
                "the model with pooler=True"
            )
        rows = list(self._outputs(texts, "pooled", batch_size))
        return np.stack(rows) if rows else np.zeros((0, self.spec.hidden_dim), "float32")

    def attention_maps(self, text: str, target: str | None = None) -> AttentionMaps:
        if target is not None:
            raise ValueError("an encoder reads a single text; give no target")
        (tokens,) = self._encode([text])
        maps = self._attention_maps(tokens)
        return dataclasses.replace(maps, source=maps.target)

    @cached_property
    def _probe(self) -> Any:
        return self._with_segments(super()._probe)

    def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        encoded = self.tokenizer.encode(texts, start=True, end=True)
        longest = self.spec.max_sequence_length
        for text, ids in zip(texts, encoded, strict=True):
            if len(ids) > longest:
                raise ValueError(
                    f"text {text[:40]!r} has {len(ids)} tokens with start and end, and "
                    f"max_sequence_length is {longest}; shorten it"
                )
        return encoded

    def _outputs(self, texts: Sequence[str], name: str, batch_size: int) -> Iterator[np.ndarray]:
        check_count("batch_size", batch_size)
        encoded = self._encode(texts)
        run = self._with_segments(self.model)
        pad = self.spec.pad_token_id
        size = batch_size if pad is not None else 1  # without padding, one text at a time
        for at in range(0, len(encoded), size):
            rows = encoded[at : at + size]
            tokens = padded_rows(rows, max(map(len, rows)), pad or 0)
            found = to_numpy(keras.ops.cast(run(tokens, training=False)[name], "float32"))
            for output, ids in zip(found, rows, strict=True):
                yield output[: len(ids)] if name == "hidden" else output

    def _with_segments(self, model: Any) -> Any:
        """Return a model as a function of tokens alone."""
        if not self.spec.num_segments:
            return model
        return lambda tokens, training: model(
            {"tokens": tokens, "segments": np.zeros_like(tokens)}, training=training
        )
