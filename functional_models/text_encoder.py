"""`TextEncoder`: an encoder-only model that turns text into vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import builders
from functional_models.attention import AttentionMaps, maps_of_tokens
from functional_models.samplers import check_count
from functional_models.text_model import TextModel
from functional_models.tokenizers import Tokenizer, as_tokenizer


class TextEncoder(TextModel):
    """An encoder: text in, a vector for each of its tokens out.

    Texts are read between the start and the end token of the tokenizer, as BERT reads them, and
    all in segment 0.

    Args:
        spec: of kind `encoder_only`; or the name of a variant, which then gets the vocabulary of
            the tokenizer.
        tokenizer: one of ours or of keras-nlp's.

    Raises:
        ValueError: another kind, fewer ids in the spec than the tokenizer has, or padding that is
            not the spec's.
    """

    kind = "encoder_only"
    target_role = "tokenizer"

    def __init__(self, spec: builders.TransformerSpec | str, tokenizer: Any) -> None:
        super().__init__(spec, {"tokenizer": as_tokenizer(tokenizer)})

    @property
    def tokenizer(self) -> Tokenizer:
        """What text goes through."""
        return self._tokenizer("tokenizer")

    def vectors(self, texts: Sequence[str], *, batch_size: int = 32) -> list[np.ndarray]:
        """Return a vector for every token of every text, float32 (t, d), start and end included.

        Raises:
            ValueError: a text longer than the model takes.
        """
        return list(self._outputs(texts, "hidden", batch_size))

    def pooled(self, texts: Sequence[str], *, batch_size: int = 32) -> np.ndarray:
        """Return one vector for every text, float32 (b, d), as the model's pooler gives it.

        Raises:
            ValueError: the model has no pooler, or a text is longer than it takes.
        """
        if not self.spec.pooler:
            raise ValueError(
                "this model has no pooler (pooler=False); take the mean of vectors(...), or build "
                "it with pooler=True"
            )
        rows = list(self._outputs(texts, "pooled", batch_size))
        return np.stack(rows) if rows else np.zeros((0, self.spec.hidden_dim), "float32")

    def attention_maps(self, text: str, target: str | None = None) -> AttentionMaps:
        """Return where the model looks while it reads a text; see `attention_maps`."""
        if target is not None:
            raise ValueError("an encoder reads one text; give no target")
        (tokens,) = self._encode([text])
        maps = maps_of_tokens(self._with_segments(self._probe), tokens, self.tokenizer)
        return dataclasses.replace(maps, source=maps.target)

    def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        encoded = self.tokenizer.encode(texts, start=True, end=True)
        longest = self.spec.max_sequence_length
        for text, ids in zip(texts, encoded, strict=True):
            if len(ids) > longest:
                raise ValueError(
                    f"text {text[:40]!r} has {len(ids)} tokens with its start and end, and the "
                    f"model takes {longest}; cut it"
                )
        return encoded

    def _outputs(self, texts: Sequence[str], name: str, batch_size: int) -> Iterator[np.ndarray]:
        import keras

        check_count("batch_size", batch_size)
        encoded = self._encode(texts)
        run = self._with_segments(self.model)
        pad = self.spec.pad_token_id
        size = batch_size if pad is not None else 1  # without padding, each text alone
        for at in range(0, len(encoded), size):
            rows = encoded[at : at + size]
            tokens = np.full((len(rows), max(map(len, rows))), pad or 0, "int32")
            for row, ids in enumerate(rows):
                tokens[row, : len(ids)] = ids
            found = keras.ops.cast(run(tokens, training=False)[name], "float32")
            for output, ids in zip(keras.ops.convert_to_numpy(found), rows, strict=True):
                yield output[: len(ids)] if name == "hidden" else output

    def _with_segments(self, model: Any) -> Any:
        """Return a model as a function of tokens alone."""
        if not self.spec.num_segments:
            return model
        return lambda tokens, training: model(
            {"tokens": tokens, "segments": np.zeros_like(tokens)}, training=training
        )
