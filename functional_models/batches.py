"""Training batches of token arrays, for every backend.

A batch is `(inputs, labels, weights)`, NumPy arrays: labels int (b, t), weights float (b, t), 1 for
labels that count; inputs are tokens int (b, t) for a language model and
{"source": int (b, s), "target": int (b, t)} for translation. A batch is a pure function of the seed
and the step, so that a run can resume at any step.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np

from functional_models.checks import check_count
from functional_models.corpora.stored import temporary_file
from functional_models.row_shapes import first_that_fits, most_row_shapes, row_shapes

Batch = tuple[Any, np.ndarray, np.ndarray]

_PIECE = 1 << 20
"""Tokens that are searched at once."""


def teacher_forcing(
    tokens: np.ndarray, pad_id: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split sequences, int (b, t + 1), into inputs and next-token labels.

    Returns:
        inputs (b, t), all but the last token; labels (b, t), all but the first; weights (b, t),
        float32, 0 where the label is padding.
    """
    inputs, labels = tokens[:, :-1], tokens[:, 1:]
    counts = np.ones(labels.shape, bool) if pad_id is None else labels != pad_id
    return inputs, labels, counts.astype("float32")


def padded_rows(rows: Sequence[Sequence[int] | np.ndarray], width: int, pad_id: int) -> np.ndarray:
    """Return sequences of ids as an array, int32 (b, width), padded on the right."""
    array = np.full((len(rows), width), pad_id, "int32")
    for row, ids in enumerate(rows):
        array[row, : len(ids)] = ids
    return array


class Batches(ABC):
    """Batches for training and evaluation.

    Args:
        batch_size: rows per batch, `b`.
        seed: seed of the order.

    Attributes:
        longest: tokens of the longest row of a batch.
        wiring: the graph that takes the inputs, if it is not the model itself; see `TrainingGraph`.
    """

    longest: int
    wiring: Any = None

    def __init__(self, batch_size: int, seed: int) -> None:
        check_count("batch_size", batch_size)
        self.batch_size = batch_size
        self.seed = seed
        self._plan = lru_cache(maxsize=1)(self._plan_epoch)

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Number of batches in which every example occurs once."""

    def batch(self, step: int) -> Batch:
        """Return the batch of a training step, counted from zero over all epochs."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return self._rows(self._plan(epoch)[index])

    @abstractmethod
    def _plan_epoch(self, epoch: int) -> Any:
        """Return the arguments of `_rows` for every batch of an epoch."""

    @abstractmethod
    def _rows(self, plan: Any) -> Batch:
        """Return a batch."""

    @property
    @abstractmethod
    def num_eval_batches(self) -> int:
        """Number of batches that have every example exactly once."""

    @abstractmethod
    def eval_batch(self, index: int) -> Batch:
        """Return one of these batches, whose order is that of the data."""

    def eval_batches(self, most: int | None = None) -> Iterator[Batch]:
        """Yield these batches; of more than `most` of them so many, evenly spread."""
        number = self.num_eval_batches
        chosen = number if most is None else min(most, number)
        return (self.eval_batch(place * number // chosen) for place in range(chosen))

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a short hash of the data and the batching."""


def check_is_long(number: int, block: int, what: str) -> None:
    """Check that a stream has the tokens of a block and its next token.

    Args:
        number: of tokens of the stream.
        block: tokens of a row.
        what: description of the stream.

    Raises:
        ValueError: it has fewer.
    """
    if number > block:
        return
    most = number - 1
    shorter = (
        f", or a model with shorter blocks: max_sequence_length={most} in its spec "
        f"(--set max_sequence_length={most}); in Python also fit(..., block={most})"
    )
    raise ValueError(
        f"the {what} has {number} tokens, fewer than a block of {block} tokens and its next "
        "token; give more text" + shorter * (most > 0)
    )


class TokenBatches(Batches):
    """Packed batches of a stream of tokens, for language models.

    Each epoch splits the stream into blocks at a random offset, in random order, without padding.
    Every token occurs about once.

    Args:
        tokens: int (N,); may be memory-mapped.
        block: input tokens per row, `t`.
        batch_size: rows per batch, `b`.
        seed: seed of the order.
        what: description of the stream, for errors.

    Raises:
        ValueError: the stream is shorter than a block and its next token, or `block` or
            `batch_size` is below 1.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        *,
        block: int,
        batch_size: int,
        seed: int = 0,
        what: str = "corpus",
    ) -> None:
        super().__init__(batch_size, seed)
        check_count("block", block)
        check_is_long(len(tokens), block, what)
        self.tokens = tokens
        self.block = self.longest = block
        # One block less than possible, so that the number of blocks does not depend on the offset.
        self._blocks = max((len(tokens) - 1) // block - 1, 1)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self._blocks // self.batch_size)

    def _plan_epoch(self, epoch: int) -> np.ndarray:
        """Return the starts of the blocks of an epoch, int (steps_per_epoch, batch_size)."""
        random = np.random.default_rng((self.seed, epoch))
        slack = len(self.tokens) - 1 - self._blocks * self.block
        # In place, and in the smaller type, because a long stream has many blocks.
        starts = np.arange(self._blocks, dtype="uint32" if len(self.tokens) < 1 << 32 else "int64")
        starts *= self.block
        starts += int(random.integers(min(slack, self.block) + 1))
        random.shuffle(starts)
        # The last batch repeats the first blocks, so that all batches have the same shape.
        missing = self.steps_per_epoch * self.batch_size - self._blocks
        return np.pad(starts, (0, missing), "wrap").reshape(-1, self.batch_size)

    def eval_batch(self, index: int) -> Batch:
        """Return rows of the stream in order; repeated labels have weight 0."""
        last = len(self.tokens) - 1 - self.block
        starts = range(0, last + self.block, self.block)
        rows = starts[index * self.batch_size :][: self.batch_size]
        full = np.resize(rows, self.batch_size)  # all batches have the same shape
        inputs, labels, weights = self._rows(np.minimum(full, last))
        for row, start in enumerate(rows):
            weights[row, : max(start - last, 0)] = 0
        weights[len(rows) :] = 0
        return inputs, labels, weights

    @property
    def num_eval_batches(self) -> int:
        return -(-(len(self.tokens) - 1) // (self.block * self.batch_size))

    def _rows(self, plan: np.ndarray) -> Batch:
        rows = np.stack([self.tokens[start : start + self.block + 1] for start in plan])
        return teacher_forcing(rows.astype("int32"), None)

    def fingerprint(self) -> str:
        """Return a hash of the tokens, of a sample if there are many, and the sizes."""
        sample = np.array(self.tokens[:: max(len(self.tokens) // 100_000, 1)], "int32")
        _release_pages(self.tokens)
        return _hash(len(self.tokens), self.block, self.batch_size, sample)


class DocumentBatches(TokenBatches):
    """The same blocks of a stream, with the number of each token's document in its row.

    The inputs are {"tokens": int (b, t), "documents": int (b, t)}, those of `build_packed`. A
    document ends with an end token, whose label would belong to the next one and has weight 0.
    What a block holds of a document counts as one.

    Args:
        tokens: int (N,); may be memory-mapped.
        end_id: the end token.
        options: as for `TokenBatches`.

    Raises:
        ValueError: as `TokenBatches`, or the stream has no end token.
    """

    def __init__(
        self, tokens: np.ndarray, *, end_id: int, what: str = "corpus", **options: Any
    ) -> None:
        super().__init__(tokens, what=what, **options)
        self.end_id = end_id
        pieces = range(0, len(tokens), _PIECE)  # a memory-mapped stream may be long
        if not any(np.any(tokens[start : start + _PIECE] == end_id) for start in pieces):
            raise ValueError(
                f'packing="documents": the {what} has no end token (id {end_id}), so that it is a '
                "single document; give a list of documents, or leave packing out"
            )

    def _rows(self, plan: Any) -> Batch:
        tokens, labels, weights = super()._rows(plan)
        is_end = tokens == self.end_id
        documents = np.cumsum(is_end, axis=1, dtype="int32") - is_end  # ends before the token
        return {"tokens": tokens, "documents": documents}, labels, weights * ~is_end

    def fingerprint(self) -> str:
        return _hash(super().fingerprint(), self.end_id)


class TokenPairs(Sequence[tuple[np.ndarray, np.ndarray]]):
    """Token ids of sentence pairs, in a temporary file that is memory-mapped.

    Args:
        rows: the ids of sources (S,) and targets (T,).
        dtype: type of the ids in memory.
    """

    def __init__(self, rows: Iterable[tuple[np.ndarray, np.ndarray]], dtype: np.dtype) -> None:
        ends = array("q", [0])
        with temporary_file() as file:
            for ids in itertools.chain.from_iterable(rows):
                file.write(ids.astype(dtype).tobytes())
                ends.append(ends[-1] + len(ids))
            file.flush()
            self._ids = np.memmap(file, dtype, mode="r") if ends[-1] else np.zeros(0, dtype)
        self._ends = np.array(ends, np.min_scalar_type(ends[-1]))

    def __len__(self) -> int:
        return len(self._ends) // 2

    def __getitem__(self, index: Any) -> Any:
        row = 2 * range(len(self))[index]
        start, middle, end = map(int, self._ends[row : row + 3])
        return self._ids[start:middle], self._ids[middle:end]

    @property
    def lengths(self) -> np.ndarray:
        """Lengths of sources and targets, int32 (n, 2)."""
        return np.diff(self._ends).astype("int32").reshape(-1, 2)


class PairBatches(Batches):
    """Batches of sentence pairs of about equal lengths, for translation.

    There are a few shapes, chosen by the lengths of all pairs (`row_shapes`), and each pair is
    padded to the smallest that it fits into. Pairs that do not fill a batch of their shape are in
    one of a larger shape. Where there is none, the batch is filled with empty rows of weight 0.

    Args:
        pairs: source ids, int (S,), and target ids, int (T,), with start token and end token.
        pad_id: padding id.
        batch_size: rows per batch, `b`.
        max_shapes: number of shapes; by default fewer on JAX than on the other backends
            (`most_row_shapes`), and never more than batches.
        max_length: maximum padded length, such as `max_sequence_length`.
        seed: seed of the order.

    Raises:
        ValueError: no pairs, a source without tokens, a pair longer than `max_length`, or a
            `batch_size` or `max_shapes` below 1.

    Attributes:
        widths: tokens of the source and target row of each pair, int (n, 2).
        shapes: widths that rows are padded to, int (shapes, 2), the smallest first.
    """

    what: ClassVar[str] = "source sentences"

    def __init__(
        self,
        pairs: Sequence[tuple[np.ndarray, np.ndarray]],
        *,
        pad_id: int,
        batch_size: int,
        max_shapes: int | None = None,
        max_length: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        if not pairs:
            raise ValueError("there are no sentence pairs; give at least one")
        most = most_row_shapes() if max_shapes is None else max_shapes
        check_count("max_shapes", most)
        sizes = (
            pairs.lengths
            if isinstance(pairs, TokenPairs)
            else np.array([(len(source), len(target)) for source, target in pairs])
        )
        empty = np.flatnonzero(sizes[:, 0] == 0)
        if len(empty):
            raise ValueError(
                f"{len(empty)} {self.what} have no tokens (the first is pair number "
                f"{empty[0] + 1}); remove them"
            )
        self.pairs = pairs
        self.pad_id = pad_id
        widths = self.widths = self._widths(sizes)
        self.longest = int(widths.max())
        if max_length is not None and max_length < self.longest:
            raise ValueError(
                f"a pair has {self.longest} tokens in a row, above max_length={max_length}; "
                "remove it"
            )
        self.shapes = row_shapes(widths, min(most, -(-len(pairs) // batch_size)))
        self._shape_of = first_that_fits(widths, self.shapes)
        self._larger = _larger(self.shapes)
        self._batches_of = self._count_batches()

    def _widths(self, sizes: np.ndarray) -> np.ndarray:
        """Return the tokens of the rows of pairs of these sizes, int (n, 2) -> (n, sides)."""
        # The last token of a target is only a label.
        return np.maximum(sizes - np.array([0, 1], sizes.dtype), 1)

    def _count_batches(self) -> list[int]:
        """Return the number of batches of each shape."""
        waiting = np.bincount(self._shape_of, minlength=len(self.shapes)).tolist()
        batches = []
        for number, larger in enumerate(self._larger):
            full, rest = divmod(waiting[number], self.batch_size)
            if larger is None:
                full += rest > 0
            else:
                waiting[larger] += rest
            batches.append(full)
        return batches

    @property
    def steps_per_epoch(self) -> int:
        return sum(self._batches_of)

    def _plan_epoch(self, epoch: int | None) -> list[tuple[tuple[int, ...], np.ndarray]]:
        """Return the batches of an epoch, as widths and pairs; for `None`, in order."""
        random = None if epoch is None else np.random.default_rng((self.seed, epoch))
        plan: list[tuple[tuple[int, ...], np.ndarray]] = []
        waiting: list[list[np.ndarray]] = [[] for _ in self.shapes]
        for number, batches in enumerate(self._batches_of):
            own = np.flatnonzero(self._shape_of == number).astype("uint32")
            members = np.concatenate([*waiting[number], own])
            if random is not None:
                members = random.permutation(members)
            end = batches * self.batch_size
            for first in range(0, end, self.batch_size):
                widths = tuple(map(int, self.shapes[number]))
                plan.append((widths, members[first : first + self.batch_size]))
            if (larger := self._larger[number]) is not None:
                waiting[larger].append(members[end:])
        if random is not None:
            plan = [plan[i] for i in random.permutation(len(plan))]
        return plan

    def eval_batch(self, index: int) -> Batch:
        """Return a batch of one shape; the smallest shapes come first."""
        return self._rows(self._eval_plan[index])

    @cached_property
    def _eval_plan(self) -> list[Any]:
        return self._plan_epoch(None)

    @property
    def num_eval_batches(self) -> int:
        return self.steps_per_epoch

    def _rows(self, plan: Any) -> Batch:
        (source_width, target_width), members = plan
        empty: list[Any] = [([], [])] * (self.batch_size - len(members))
        sources, targets = zip(*(self.pairs[member] for member in members), *empty, strict=True)
        target = padded_rows(targets, target_width + 1, self.pad_id)
        inputs, labels, weights = teacher_forcing(target, self.pad_id)
        return (
            {"source": padded_rows(sources, source_width, self.pad_id), "target": inputs},
            labels,
            weights,
        )

    def fingerprint(self) -> str:
        """Return a hash of all pairs and the sizes."""
        flat = (np.asarray(ids, "int32") for pair in self.pairs for ids in pair)
        return _hash(self.batch_size, self.shapes.astype("int32"), rest=flat)


def _larger(shapes: np.ndarray) -> list[int | None]:
    """Return, for each shape, the first one after it that is as wide on all sides."""
    found: list[int | None] = []
    for number, shape in enumerate(shapes):
        wide = np.flatnonzero((shapes[number + 1 :] >= shape).all(axis=1))
        found.append(number + 1 + int(wide[0]) if len(wide) else None)
    return found


def _release_pages(tokens: np.ndarray) -> None:
    """Let go of the pages of a mapped file that have been read; they would count as memory."""
    if isinstance(tokens, np.memmap) and tokens.mode == "r":
        base: Any = tokens
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            base.madvise(mmap.MADV_DONTNEED)


def check_tokens(tokens: np.ndarray, vocabulary_size: int, what: str) -> None:
    """Check that ids have an embedding; for other ids the backends behave differently.

    Raises:
        ValueError: not a vector of integers, or an id outside of [0, vocabulary_size).
    """
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(
            f"{what} has shape {tokens.shape} and type {tokens.dtype}; tokens must be integers of "
            "shape (N,)"
        )
    if not len(tokens):
        return
    low, high = int(np.min(tokens)), int(np.max(tokens))
    if low < 0 or high >= vocabulary_size:
        raise ValueError(
            f"{what} has token id {low if low < 0 else high}, allowed: 0 to {vocabulary_size - 1} "
            f"(vocabulary_size={vocabulary_size}); use the tokenizer of the model, or a larger "
            "vocabulary_size"
        )


def _hash(*parts: Any, rest: Iterable[Any] = ()) -> str:
    digest = hashlib.sha256()
    for part in itertools.chain(parts, rest):
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else str(part).encode())
    return digest.hexdigest()[:16]
