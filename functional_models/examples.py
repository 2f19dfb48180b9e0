"""Prompts and replies for language models: the labels of the prompt have weight 0.

An example is the ids of a prompt and of its reply, which ends with an end token. The model reads
both as one sequence, and only the labels of the reply count.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from functional_models.batches import Batch, PairBatches, TokenPairs
from functional_models.corpora.stored import StoredPairs, StoredTexts
from functional_models.tokenizer_base import Tokenizer

_CHUNK = 1000
"""Examples that are tokenized at once."""


class ExampleBatches(PairBatches):
    """Batches of examples, each in a row of its own, of about equal lengths.

    The inputs are tokens, int (b, t). Arguments are those of `PairBatches`, and the pairs are
    prompts and replies.
    """

    what: ClassVar[str] = "prompts"

    def _widths(self, sizes: np.ndarray) -> np.ndarray:
        return sizes.sum(axis=1, keepdims=True) - 1  # the last token is only a label

    def _rows(self, plan: Any) -> Batch:
        (length,), members = plan
        inputs, labels, weights = self._arrays(length, members[:, None])
        return inputs["tokens"], labels, weights

    def _arrays(self, length: int, rows: Sequence[Sequence[int]]) -> Batch:
        """Return the batch of rows of one or several examples, given by their numbers."""
        shape = self.batch_size, length
        tokens, labels = np.full((2, *shape), self.pad_id, "int32")
        weights, documents = np.zeros(shape, "float32"), np.zeros(shape, "int32")
        for row, members in enumerate(rows):
            at = 0
            for member in members:
                prompt, reply = self.pairs[member]
                ids = np.concatenate([prompt, reply])
                end = at + len(ids) - 1
                tokens[row, at:end], labels[row, at:end] = ids[:-1], ids[1:]
                weights[row, at + len(prompt) - 1 : end] = 1
                documents[row, end:] += 1  # also the padding after the last one
                at = end
        return {"tokens": tokens, "documents": documents}, labels, weights


class PrefixExamples(ExampleBatches):
    """The same batches for a model with `prefix_lm`: the prompts are the prefixes.

    The inputs are {"tokens": int (b, t), "prefix_length": int (b,)}, 0 in rows that fill a batch.
    """

    def _rows(self, plan: Any) -> Batch:
        tokens, labels, weights = super()._rows(plan)
        prefix_length = np.zeros(self.batch_size, "int32")
        for row, member in enumerate(plan[1]):
            prefix_length[row] = len(self.pairs[member][0])
        return {"tokens": tokens, "prefix_length": prefix_length}, labels, weights


class PackedExamples(ExampleBatches):
    """Batches of rows with several examples, for the graph of `build_packed`.

    Which examples share a row is the same in all epochs, by best-fit decreasing: the longest
    example first, each into the fullest row with room for it (Ding et al. 2024, arXiv 2404.10830,
    section 3). Each epoch has its own order of rows.

    Args:
        pairs: prompts and replies.
        block: input tokens per row, `t`.
        options: as for `PairBatches`.
    """

    def __init__(
        self, pairs: Sequence[tuple[np.ndarray, np.ndarray]], *, block: int, **options: Any
    ) -> None:
        super().__init__(pairs, max_shapes=1, max_length=block, **options)
        self.longest = block
        self.rows = best_fit(self.widths[:, 0], block)

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def _plan_epoch(self, epoch: int | None) -> list[Any]:
        order = np.arange(len(self.rows))
        if epoch is not None:
            order = np.random.default_rng((self.seed, epoch)).permutation(order)
        return np.split(order, range(self.batch_size, len(order), self.batch_size))

    def _rows(self, plan: Any) -> Batch:
        return self._arrays(self.longest, [self.rows[row] for row in plan])


def best_fit(lengths: np.ndarray, block: int) -> list[list[int]]:
    """Return the numbers of the examples of each row of `block` tokens, given their lengths."""
    rows: list[list[int]] = []
    free: list[int] = []  # tokens, in order; the rows of each are in `with_free`
    with_free: dict[int, list[int]] = {}
    for number in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[number])
        place = bisect.bisect_left(free, length)
        if place == len(free):
            rows.append([])
            row, left = len(rows) - 1, block - length
        else:
            row, left = with_free[free[place]].pop(), free[place] - length
            if not with_free[free[place]]:
                del free[place]
        rows[row].append(number)
        if not with_free.setdefault(left, []):
            bisect.insort(free, left)
        with_free[left].append(row)
    return rows


def are_examples(data: Any) -> bool:
    """Return whether data is pairs or conversations, and not text or tokens."""
    if isinstance(data, StoredPairs):
        return True
    if isinstance(data, str | StoredTexts | np.ndarray) or not isinstance(data, Sequence):
        return False
    return bool(data) and isinstance(data[0], tuple | list | Mapping)


def reply_characters(data: Any) -> int:
    """Return the number of characters of the replies of pairs or conversations."""
    return sum(len(reply["content"] if isinstance(reply, Mapping) else reply) for *_, reply in data)


def encode_examples(tokenizer: Tokenizer, data: Sequence[Any]) -> TokenPairs:
    """Return the ids of prompts and replies, in a temporary file.

    A prompt has the ids that `generate` and `chat` would read. A reply ends with the end token. Of
    a conversation, the reply is the last message, as the chat template writes it.

    Raises:
        ValueError: an item that is neither a pair nor a conversation, or a conversation that does
            not end with a message of the assistant, or whose template changes what comes before.
    """
    dtype = np.min_scalar_type(tokenizer.vocabulary_size - 1)
    return TokenPairs(_encoded(tokenizer, data), dtype)


def _encoded(tokenizer: Tokenizer, data: Sequence[Any]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    numbered = enumerate(data, 1)
    while chunk := list(itertools.islice(numbered, _CHUNK)):
        is_chat = [_is_conversation(item) for _, item in chunk]
        texts = [
            _turns(tokenizer, *row) if chats else _pair(*row)
            for row, chats in zip(chunk, is_chat, strict=True)
        ]
        pairs = [row for row, chats in zip(texts, is_chat, strict=True) if not chats]
        started = iter(tokenizer.encode_prompts([prompt for prompt, _ in pairs]))
        for (prompt, reply), chats in zip(texts, is_chat, strict=True):
            ids = tokenizer.encode([prompt])[0] if chats else next(started)
            yield ids, _until_end(tokenizer, tokenizer.encode([reply])[0])


def _is_conversation(item: Any) -> bool:
    return isinstance(item, list | tuple) and bool(item) and isinstance(item[-1], Mapping)


def _pair(number: int, item: Any) -> tuple[str, str]:
    if (
        not isinstance(item, tuple | list)
        or len(item) != 2
        or not all(isinstance(text, str) for text in item)
    ):
        raise ValueError(
            f"example number {number} is {item!r:.60}; must be (prompt, reply), or a conversation "
            'as a list of {"role": ..., "content": ...}'
        )
    return item[0], item[1]


def _turns(tokenizer: Tokenizer, number: int, messages: Any) -> tuple[str, str]:
    """Return the text before the last message of a conversation, and that of the message."""
    if len(messages) < 2 or messages[-1].get("role") != "assistant":
        raise ValueError(
            f"conversation number {number} must have a prompt and end with a message of the role "
            f"'assistant'; its last message is {messages[-1]!r:.60}"
        )
    prompt = tokenizer.format_chat(messages[:-1])
    whole = tokenizer.format_chat(messages, add_generation_prompt=False)
    if not whole.startswith(prompt):
        raise ValueError(
            f"conversation number {number}: the chat template does not write the reply after its "
            "prompt; give (prompt, reply) pairs of text"
        )
    return prompt, whole[len(prompt) :]


def _until_end(tokenizer: Tokenizer, reply: np.ndarray) -> np.ndarray:
    """Return a reply up to its last end token, or with one if it has none."""
    ends = np.flatnonzero(np.isin(reply, tokenizer.end_ids))
    return reply[: ends[-1] + 1] if len(ends) else np.append(reply, tokenizer.end_id)
