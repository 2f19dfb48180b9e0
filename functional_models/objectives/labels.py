"""Labelled texts, and batches of them for classification (Devlin et al. 2019, section 4.1)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from functional_models.batches import Batch, PairBatches, TokenPairs, padded_rows
from functional_models.reading import Reading
from functional_models.tokenizers import Tokenizer

Text = str | tuple[str, str]
"""A text, or a pair of texts that are read together."""


class EncodedText(NamedTuple):
    """The tokens of a text, or of a pair, with start and end.

    Attributes:
        tokens: int32 (s,).
        second: where the tokens of the second text begin; without one, s.
    """

    tokens: np.ndarray
    second: int


def encode_texts(tokenizer: Tokenizer, texts: Sequence[Text]) -> list[EncodedText]:
    """Return the tokens of texts: start, text, end; of a pair also the second text and an end.

    Raises:
        ValueError: an item is neither a text nor a pair of texts.
    """
    return list(_encoded(tokenizer, texts))


def _encoded(tokenizer: Tokenizer, texts: Iterable[Text]) -> Iterator[EncodedText]:
    lengths: deque[int] = deque()  # of the texts of each item that is not yet put together

    def parts() -> Iterator[str]:
        for number, text in enumerate(texts):
            several = (text,) if isinstance(text, str) else text
            is_pair = isinstance(several, tuple | list) and len(several) in (1, 2)
            if not is_pair or not all(isinstance(part, str) for part in several):
                raise ValueError(
                    f"text {number} is {text!r:.60}; must be a text, or a pair (first, second)"
                )
            lengths.append(len(several))
            yield from several

    end = np.array([tokenizer.end_id], "int32")
    found: list[np.ndarray] = []
    for ids in tokenizer.encode_each(parts()):
        found.append(ids)
        if len(found) < lengths[0]:
            continue
        lengths.popleft()
        first = np.concatenate([np.array(tokenizer.target_start, "int32"), found[0], end])
        rest = [part for ids in found[1:] for part in (ids, end)]
        yield EncodedText(np.concatenate([first, *rest]), len(first))
        found = []


def segments_of(second: Sequence[int] | np.ndarray, width: int, number: int) -> np.ndarray:
    """Return the segment of each token, int32 (b, s): 1 in the second text if there are so many.

    Args:
        second: for each row, where the second text begins.
        width: tokens of a row, `s`.
        number: of segments that the model knows.
    """
    places = np.arange(width)[None] >= np.asarray(second)[:, None]
    return (places & (number > 1)).astype("int32")


def class_index(label: Any, classes: Sequence[str], where: str) -> int:
    """Return the index of a label, which is the name of a class or its index.

    Raises:
        ValueError: there is no such class.
    """
    if isinstance(label, str) and label in classes:
        return classes.index(label)
    is_index = isinstance(label, Integral) and not isinstance(label, bool)
    if is_index and 0 <= label < len(classes):
        return int(label)
    raise ValueError(
        f"{where} has the label {label!r:.60}; must be one of {', '.join(map(repr, classes))}, or "
        f"its number, 0 to {len(classes) - 1}"
    )


def encode_labelled(
    examples: Any,
    tokenizer: Tokenizer,
    classes: Sequence[str],
    *,
    needs_all: bool = False,
    progress: bool = False,
) -> TokenPairs:
    """Return (text, label) examples as the tokens of each, and [start of a second text, class].

    They are in a temporary file, so that little memory depends on the number of examples.

    Args:
        examples: pairs of a text, or two, and a label.
        tokenizer: the tokenizer of the texts.
        classes: the classes of the model.
        needs_all: whether each class must have an example.
        progress: show the progress with many examples.

    Raises:
        TypeError: no sequence of examples.
        ValueError: an example is no pair, a label is no class, or a class has no example.
    """
    if isinstance(examples, str) or not isinstance(examples, Sequence):
        raise TypeError(f"expected (text, label) examples, given {type(examples).__name__}")
    labels = []
    for number, example in enumerate(examples, 1):
        if not isinstance(example, tuple | list) or len(example) != 2:
            raise ValueError(f"example {number} is {example!r:.60}; must be (text, label)")
        labels.append(class_index(example[1], classes, f"example {number}"))
    counts = Counter(labels)
    missing = [name for index, name in enumerate(classes) if not counts[index]]
    if needs_all and missing and labels:
        raise ValueError(
            f"{', '.join(map(repr, missing))}: no training example has "
            f"{'this class' if len(missing) == 1 else 'these classes'}, so that the model could "
            "not learn to tell it; add some, or build the model with fewer classes"
        )
    with Reading("tokenizing", len(examples), "texts", shown=progress) as reading:
        texts = _encoded(tokenizer, (text for text, _ in reading.counted(examples)))
        rows = (
            (text.tokens, np.array([text.second, label]))
            for text, label in zip(texts, labels, strict=True)
        )
        largest = max(tokenizer.vocabulary_size, len(classes), 1 << 30)
        return TokenPairs(rows, np.min_scalar_type(largest))


class LabelledBatches(PairBatches):
    """Batches of labelled texts of about equal lengths, for classification.

    Inputs are tokens (b, s), or {"tokens", "segments"} with segments; labels int32 (b, 1) and
    weights (b, 1): an example counts as a token. Shapes, and the rows that fill a batch, are
    those of `PairBatches`.

    Args:
        examples: from `encode_labelled`.
        num_segments: of the model.
        options: further arguments of `PairBatches`.

    Raises:
        ValueError: as `PairBatches`.
    """

    def __init__(self, examples: TokenPairs, *, num_segments: int, **options: Any) -> None:
        if not len(examples):
            raise ValueError("there are no labelled texts; give at least one (text, label)")
        super().__init__(examples, **options)
        self._num_segments = num_segments

    def _widths(self, sizes: np.ndarray) -> np.ndarray:
        return sizes[:, :1]

    def _rows(self, plan: Any) -> Batch:
        (width,), members = plan
        rows = [self.pairs[member] for member in members]
        missing = self.batch_size - len(rows)
        empty = repeat(np.zeros(0, "int32"), missing)
        tokens = padded_rows([*(ids for ids, _ in rows), *empty], width, self.pad_id)
        about = np.array([*(more for _, more in rows), *repeat([width, 0], missing)], "int32")
        weights = np.ones((self.batch_size, 1), "float32")
        weights[len(rows) :] = 0
        inputs: Any = tokens
        if self._num_segments:
            segments = segments_of(about[:, 0], width, self._num_segments)
            inputs = {"tokens": tokens, "segments": segments}
        return inputs, about[:, 1:], weights
