"""Several documents in a row: the layers that keep them apart, each one node of a packed graph.

A document is described by its start, the place of its first token in the row. Tokens of equal
starts are of one document, and the position of a token is its place minus its start.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import KerasTensor, ops

from builders.masks import MaskInReach, Reach, combined, is_visible, reach_prefixed
from builders.scope import LayerScope

Tensor = Any


@keras.saving.register_keras_serializable(package="builders")
class DocumentStarts(keras.layers.Layer):
    """Place of the first token of each token's document: documents (b, t) -> int (b, t).

    Consecutive equal numbers are one document.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bt->bt"}

    def call(self, documents: Tensor) -> Tensor:
        length = ops.shape(documents)[1]
        is_next = ops.not_equal(documents[:, 1:], documents[:, :-1])
        is_first = ops.concatenate([ops.ones_like(documents[:, :1], "bool"), is_next], axis=1)
        number = ops.cumsum(ops.cast(is_first, "int32"), axis=1) - 1  # of the document in its row
        places = ops.arange(length, dtype="int32")[None]
        # The starts of a row come first, in order.
        starts = ops.sort(ops.where(is_first, places, length), axis=1)
        return ops.take_along_axis(ops.cast(starts, "int32"), number, axis=1)

    def compute_output_spec(self, documents: KerasTensor) -> KerasTensor:
        return KerasTensor(documents.shape, dtype="int32")


@keras.saving.register_keras_serializable(package="builders")
class DocumentPositions(keras.layers.Layer):
    """Positions of tokens in their own documents, from 0: starts (b, t) -> int (b, t)."""

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bt->bt", "role": "position_ids"}

    def call(self, starts: Tensor) -> Tensor:
        return places_in_documents(starts)

    def compute_output_spec(self, starts: KerasTensor) -> KerasTensor:
        return KerasTensor(starts.shape, dtype="int32")


@keras.saving.register_keras_serializable(package="builders")
class DocumentMask(MaskInReach):
    """Mask of the keys of the query's document that are not after it: starts -> bool (b, t, t).

    Args:
        window, chunk: as in `Reach`; chunks begin with the document.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bt->btt", "role": "causal_mask"}

    def call(self, starts: Tensor) -> Tensor:
        positions = places_in_documents(starts)
        past = is_visible(positions[:, :, None], positions[:, None, :], self.reach)
        return ops.logical_and(past, of_same_document(starts))

    def compute_output_spec(self, starts: KerasTensor) -> KerasTensor:
        return KerasTensor((*starts.shape, starts.shape[1]), dtype="bool")


def places_in_documents(starts: Tensor) -> Tensor:
    """Return the positions of tokens in their documents: int (b, t) -> int (b, t)."""
    return ops.arange(ops.shape(starts)[1], dtype="int32")[None] - starts


def of_same_document(starts: Tensor) -> Tensor:
    """Return whether two tokens are of one document: int (b, t) -> bool (b, t, t)."""
    return ops.equal(starts[:, :, None], starts[:, None, :])


def document_starts(scope: LayerScope, documents: Tensor) -> Tensor:
    """Wire the starts of documents (b, t), int (b, t)."""
    return scope.layer("document_starts", DocumentStarts)(documents)


def document_positions(scope: LayerScope, starts: Tensor) -> Tensor:
    """Wire the positions of tokens in documents with these starts (b, t), int (b, t)."""
    return scope.layer("document_positions", DocumentPositions)(starts)


def document_mask(
    scope: LayerScope, starts: Tensor, padding: Tensor | None, reach: Reach
) -> Tensor:
    """Wire the self-attention mask of documents with these starts (b, t), bool (b, t, t)."""
    name = reach_prefixed(scope.spec, "document_mask", reach)
    return combined(scope, scope.layer(name, DocumentMask, *reach)(starts), padding, reach)
