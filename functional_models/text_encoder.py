"""`TextEncoder`: an encoder-only model that returns vectors and classes for text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence, Sized
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np

import builders
from functional_models.batches import Batches, padded_rows
from functional_models.checks import check_count, check_is_text
from functional_models.compiled import to_numpy
from functional_models.corpora import ParallelCorpus, TextCorpus
from functional_models.objectives.labels import (
    EncodedText,
    LabelledBatches,
    Text,
    encode_labelled,
    encode_texts,
    segments_of,
)
from functional_models.objectives.masking import MaskedBatches, MaskedLM, Masker
from functional_models.recipe import Recipe, make_recipe
from functional_models.text_model import TextModel
from functional_models.text_outputs import AttentionMaps
from functional_models.token_streams import token_stream
from functional_models.tokenizers import Tokenizer, as_tokenizer

Examples = Sequence[tuple[Any, Any]]
"""(text, label), where a text may be a pair and a label is a name or a number of a class."""


class TextEncoder(TextModel):
    """An encoder, which returns a vector for each token of a text, and classes of texts.

    As in BERT, every text is enclosed in the start and the end token of the tokenizer, and the
    second text of a pair, in segment 1, has an end token too.

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

    def fit(
        self,
        data: TextCorpus | ParallelCorpus | str | Sequence[str] | np.ndarray | Examples,
        validation: str | Sequence[str] | np.ndarray | Examples | None = None,
        *,
        objective: MaskedLM | None = None,
        recipe: Recipe | None = None,
        folder: str | Path | None = None,
        overwrite: bool = False,
        block: int | None = None,
        progress: bool = True,
        callbacks: tuple[Any, ...] = (),
        **changes: Any,
    ) -> list[dict[str, float]]:
        """Train with `model.fit`: on text to predict masked tokens, on labelled text for classes.

        Text is packed into rows between start and end token, and only masked tokens count. The
        model needs a `masked_lm_head`, and the tokenizer a mask. Labelled texts are batched by
        length; the model needs `classes`, and each text counts as one token of the reports.

        Args:
            data: a corpus, a text, documents, or tokens int (N,); or (text, label) examples, where
                the text may be a pair (first, second), and the label the name of a class or its
                number. The pairs of a `ParallelCorpus` are such examples.
            validation: the same; by default the validation part of a corpus.
            objective: what is masked; by default `MaskedLM()`. For text only.
            recipe, folder, overwrite, progress, callbacks, changes: as in `CausalLM.fit`.
            block: tokens per row of text; by default the `max_sequence_length` of the model.

        Returns:
            The rows of the reports; see `training.train`.

        Raises:
            ValueError: a model without the head, a tokenizer without a mask, text shorter than a
                row, a label that is no class, a class without training examples, or a text longer
                than `max_sequence_length`; or a folder with another run.
            FileExistsError: the folder holds something else than a run.
            BlockingIOError: another process or thread writes the folder.
        """
        recipe = make_recipe(recipe, changes)
        if recipe.packing != "stream":
            raise ValueError(
                f"packing={recipe.packing!r} is for language models: rows of an encoder hold a "
                "stream of text, or one labelled text each; leave it out"
            )
        if isinstance(data, TextCorpus | ParallelCorpus):
            validation = data.validation if validation is None else validation
            data = data.train
        for text in (data, validation):
            check_is_text(text, "fit")
        sizes = (objective, block, recipe.batch_size, recipe.seed, progress, recipe.max_shapes)
        graph, batches = self._graph_and_batches(data, "training text", *sizes)
        held_out = None
        if validation is not None and not (isinstance(validation, Sized) and not len(validation)):
            other, held_out = self._graph_and_batches(validation, "validation text", *sizes)
            if other is not graph:
                raise ValueError(
                    "the training data and the validation data must both be text, or both be "
                    "(text, label) examples"
                )
        return self._train(
            batches,
            recipe,
            folder,
            overwrite,
            graph=graph,
            validation=held_out,
            progress=progress,
            callbacks=callbacks,
        )

    def evaluate(
        self,
        data: str | Sequence[str] | np.ndarray | Examples,
        *,
        objective: MaskedLM | None = None,
        block: int | None = None,
        batch_size: int = 32,
        progress: bool = True,
    ) -> dict[str, float]:
        """Return how well masked tokens, or the classes of labelled texts, are predicted.

        Masks depend on `block` and `batch_size` alone, so that models with one tokenizer can be
        compared.

        Returns:
            For text: loss (nats per masked token), perplexity, token_accuracy, and tokens, which
            are the masked ones. For examples: loss (nats per text), accuracy and texts.

        Raises:
            ValueError: as `fit`.
        """
        from functional_models.training import evaluate

        check_is_text(data, "evaluate")
        graph, batches = self._graph_and_batches(
            data, "text", objective, block, batch_size, 0, progress
        )
        row = evaluate(graph, batches, progress=progress)
        if isinstance(batches, LabelledBatches):
            return {
                "loss": row["loss"],
                "accuracy": row["token_accuracy"],
                "texts": row["tokens"],
            }
        return row

    def check_data(self, data: str | Sequence[str] | np.ndarray | Examples) -> None:
        check_is_text(data, "evaluate")
        self._graph_and_batches(data, "text", None, None, batch_size=1, seed=0, progress=False)

    def _graph_and_batches(
        self,
        data: Any,
        what: str,
        objective: MaskedLM | None,
        block: int | None,
        batch_size: int,
        seed: int,
        progress: bool,
        max_shapes: int | None = None,
    ) -> tuple[Any, Batches]:
        """Return the graph from inputs to logits that data trains, and its batches."""
        if _is_labelled(data):
            if objective is not None or block is not None:
                raise ValueError("objective and block are for text; examples have labels instead")
            options: dict[str, Any] = {
                "batch_size": batch_size,
                "max_shapes": max_shapes,
                "seed": seed,
            }
            is_training = what == "training text"
            return self._class_graph, self._labelled(data, progress, is_training, **options)
        if objective is not None and not isinstance(objective, MaskedLM):
            raise TypeError(f"objective={objective!r:.60}: an encoder takes a MaskedLM")
        longest = self.spec.max_sequence_length
        block = longest if block is None else block
        check_count("block", block, most=longest)
        graph, size = self._masked_graph, self.tokenizer.vocabulary_size
        masker = Masker(objective or MaskedLM(), self.tokenizer)
        batches = MaskedBatches(
            token_stream(data, lambda: self.tokenizer, size, progress=progress),
            masker,
            block=block,
            batch_size=batch_size,
            seed=seed,
            with_segments=bool(self.spec.num_segments),
            what=what,
        )
        return graph, batches

    def _labelled(
        self, data: Examples, progress: bool, needs_all: bool, **options: Any
    ) -> LabelledBatches:
        classes, longest = self._classes, self.spec.max_sequence_length
        examples = encode_labelled(
            data, self.tokenizer, classes, needs_all=needs_all, progress=progress
        )
        too_long = np.flatnonzero(examples.lengths[:, 0] > longest)
        if len(too_long):
            first = too_long[0]
            raise ValueError(
                f"{len(too_long)} texts have more than {longest} tokens with start and end, the "
                f"max_sequence_length of the model (the first is number {first + 1}, with "
                f"{examples.lengths[first, 0]}); shorten them"
            )
        return LabelledBatches(
            examples,
            num_segments=self.spec.num_segments,
            pad_id=self.tokenizer.pad_id,
            max_length=longest,
            **options,
        )

    @property
    def _classes(self) -> tuple[str, ...]:
        if not self.spec.classes:
            raise ValueError(
                "this model has no classes; build it with classes=(...), or use "
                "with_classes(...), which keeps its weights"
            )
        return self.spec.classes

    @cached_property
    def _masked_graph(self) -> Any:
        """The model from its inputs to the logits of masked tokens."""
        if not self.spec.masked_lm_head:
            raise ValueError(
                "this model has no head to predict masked tokens (masked_lm_head=False); build it "
                "with masked_lm_head=True"
            )
        return keras.Model(self.model.input, self.model.output["logits"], name="masked_lm")

    @cached_property
    def _class_graph(self) -> Any:
        """The model from its inputs to the logits of the classes."""
        _ = self._classes
        return keras.Model(self.model.input, self.model.output["class_logits"], name="classifier")

    def with_classes(
        self,
        classes: Sequence[str],
        *,
        pooling: str = "first",
        pooler: bool | None = None,
        masked_lm_head: bool | None = None,
    ) -> Self:
        """Return an encoder with the weights of this one and a new head for classes.

        Args:
            classes: names of the classes.
            pooling: `first` or `mean`; see `class_pooling` of the spec.
            pooler, masked_lm_head: whether the new encoder has them; by default as this one. A
                classifier of Hugging Face has a pooler and no `masked_lm_head`.

        Raises:
            ValueError: a value that the spec does not allow.
        """
        given = {"pooler": pooler, "masked_lm_head": masked_lm_head}
        heads = {name: value for name, value in given.items() if value is not None}
        spec = self.spec.replace(classes=tuple(classes), class_pooling=pooling, **heads)
        model = builders.build(spec)
        own = {weight.path: weight for weight in self.model.weights}
        for weight in model.weights:
            if weight.path in own and not weight.path.startswith("classifier."):
                weight.assign(own[weight.path])
        return self.wrap(spec, model, dict(self.tokenizers))

    def class_probabilities(self, texts: Sequence[Text], *, batch_size: int = 32) -> np.ndarray:
        """Return the probability of each class for each text, or pair, float32 (n, c).

        Raises:
            ValueError: the model has no classes, or a text is longer than `max_sequence_length`.
        """
        classes = self._classes
        rows = list(self._outputs(texts, "class_logits", batch_size))
        if not rows:
            return np.zeros((0, len(classes)), "float32")
        logits = np.stack(rows)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def classify(self, texts: Sequence[Text], *, batch_size: int = 32) -> list[str]:
        """Return the most probable class of each text, or pair of texts.

        Raises:
            ValueError: as `class_probabilities`.
        """
        found = self.class_probabilities(texts, batch_size=batch_size)
        return [self.spec.classes[index] for index in found.argmax(axis=1)]

    def vectors(self, texts: Sequence[Text], *, batch_size: int = 32) -> list[np.ndarray]:
        """Return the vectors of each text or pair, float32 (t, d), including start and end token.

        Raises:
            ValueError: a text is longer than `max_sequence_length`.
        """
        return list(self._outputs(texts, "hidden", batch_size))

    def pooled(self, texts: Sequence[Text], *, batch_size: int = 32) -> np.ndarray:
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
        [encoded] = self._encode([text])
        maps = self._attention_maps(encoded.tokens)
        return dataclasses.replace(maps, source=maps.target)

    @cached_property
    def _probe(self) -> Any:
        probe = super()._probe
        return lambda tokens, training: probe(
            self._inputs(tokens, [tokens.shape[1]] * len(tokens)), training=training
        )

    def _encode(self, texts: Sequence[Text]) -> list[EncodedText]:
        if isinstance(texts, str):
            raise ValueError("expected a list of texts, got a single one; write [text]")
        if not isinstance(texts, Iterable):
            raise TypeError(f"expected a list of texts, given {type(texts).__name__}")
        texts = list(texts)
        encoded = encode_texts(self.tokenizer, texts)
        longest = self.spec.max_sequence_length
        for text, found in zip(texts, encoded, strict=True):
            if len(found.tokens) > longest:
                shown = text if isinstance(text, str) else text[0]
                raise ValueError(
                    f"text {shown[:40]!r} has {len(found.tokens)} tokens with start and end, and "
                    f"max_sequence_length is {longest}; shorten it"
                )
        return encoded

    def _outputs(self, texts: Sequence[Text], name: str, batch_size: int) -> Iterator[np.ndarray]:
        check_count("batch_size", batch_size)
        encoded = self._encode(texts)
        pad = self.spec.pad_token_id
        size = batch_size if pad is not None else 1  # without padding, one text at a time
        for at in range(0, len(encoded), size):
            rows = encoded[at : at + size]
            lengths = [len(row.tokens) for row in rows]
            tokens = padded_rows([row.tokens for row in rows], max(lengths), pad or 0)
            inputs = self._inputs(tokens, [row.second for row in rows])
            outputs = self.model(inputs, training=False)[name]
            found = to_numpy(keras.ops.cast(outputs, "float32"))
            for output, length in zip(found, lengths, strict=True):
                yield output[:length] if name == "hidden" else output

    def _inputs(self, tokens: np.ndarray, second: Sequence[int]) -> Any:
        """Return tokens (b, s) as the model takes them; the second texts begin at `second`."""
        number = self.spec.num_segments
        if not number:
            return tokens
        segments = segments_of(second, tokens.shape[1], number)
        return {"tokens": tokens, "segments": segments}


def _is_labelled(data: Any) -> bool:
    """Return whether data are examples, and not text, documents or tokens."""
    if isinstance(data, str | np.ndarray) or not isinstance(data, Sequence) or not len(data):
        return False
    return isinstance(data[0], tuple | list)
