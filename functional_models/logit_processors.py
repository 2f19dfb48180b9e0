"""Changes to the logits of the next token, in front of any keras-nlp sampler.

Shapes: b rows, L columns of tokens, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras_hub
from keras import ops

from functional_models.samplers import check_real

_NEVER = -1e9  # a float32 logit whose probability is exactly 0; finite, so that nothing is nan

Tensor = Any
Processor = Callable[[Tensor, Tensor, Tensor], Tensor]


class RepetitionPenalty:
    """Makes tokens that are already in the row less likely.

    With penalty θ, logit x becomes x / θ if it is positive, else x * θ. Keskar et al. 2019, "CTRL",
    section 4.1, divide every logit; dividing a negative one would make its token likelier. The
    prompt counts too. θ below 1 makes repetition likelier.

    Args:
        penalty: θ, above 0; 1 changes nothing.

    Raises:
        ValueError: a penalty that is not allowed.
    """

    def __init__(self, penalty: float) -> None:
        check_real("repetition_penalty", penalty)
        self.penalty = penalty

    def __call__(self, logits: Tensor, tokens: Tensor, index: Tensor) -> Tensor:
        """Return logits (b, v) for column `index`.

        Args:
            logits: float32 (b, v).
            tokens: int (b, L); -1 stands for no token, and columns from `index` on are not there.
            index: int ().
        """
        seen = _occurring(tokens, index, logits.shape[-1])
        penalised = ops.where(logits > 0, logits / self.penalty, logits * self.penalty)
        return ops.where(seen, penalised, logits)


class MinP:
    """Drops tokens much less likely than the likeliest one.

    A token stays if its probability is at least p times the greatest; others get probability 0.
    Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling". The probabilities are those that
    tokens are drawn by, after temperature, as in Hugging Face Transformers: so no token is ever
    drawn that is less than p times as likely as another, and a high temperature lets more in.

    Args:
        p: 0 or more, below 1; 0 drops nothing.
        temperature: of the sampler that follows, which divides logits by it.

    Raises:
        ValueError: a value that is not allowed.
    """

    def __init__(self, p: float, *, temperature: float = 1.0) -> None:
        check_real("min_p", p)
        check_real("temperature", temperature)
        self.p = p
        self.temperature = temperature

    def __call__(self, logits: Tensor, tokens: Tensor, index: Tensor) -> Tensor:
        """Return logits (b, v), those of dropped tokens -1e9; `tokens` and `index` do not count."""
        probabilities = ops.softmax(logits / self.temperature, axis=-1)
        least = self.p * ops.max(probabilities, axis=-1, keepdims=True)
        return ops.where(probabilities >= least, logits, _NEVER)


class ProcessedSampler(keras_hub.samplers.Sampler):
    """A sampler that sees logits only after processors have changed them, one after another.

    In all else it is the sampler it wraps: `temperature`, `variables`, `seed_generator`,
    `get_config()` and whatever other attribute are that one's.

    Args:
        sampler: the one that chooses tokens. A `ProcessedSampler` lends its sampler, and its
            processors follow these.
        processors: called with logits (b, v), tokens (b, L), index (); give logits (b, v).
    """

    def __init__(
        self, sampler: keras_hub.samplers.Sampler, processors: Sequence[Processor]
    ) -> None:
        # Not `super().__init__`: temperature and seeds are those of the wrapped sampler.
        if isinstance(sampler, ProcessedSampler):
            sampler, processors = sampler.sampler, (*processors, *sampler.processors)
        self.sampler: Any = sampler
        self.processors = tuple(processors)

    def __getattr__(self, name: str) -> Any:
        """Give attributes of the wrapped sampler: `temperature`, `seed_generator`, `k`, ..."""
        if name in ("sampler", "processors"):  # not set yet, while being copied
            raise AttributeError(name)
        return getattr(self.sampler, name)

    def __call__(self, next: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Return what the wrapped sampler does, with the logits of `next` processed."""
        return self.sampler(self._processed(next), *args, **kwargs)

    def search(self, next: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return what `BeamSearch.search` does; log-probabilities are of processed logits.

        Raises:
            AttributeError: the wrapped sampler has no `search`.
        """
        return self.sampler.search(self._processed(next), *args, **kwargs)

    def process(self, logits: Tensor, tokens: Tensor, index: Tensor) -> Tensor:
        """Return float32 logits (b, v) for column `index` of tokens (b, L), all processors run.

        For a loop of one's own that calls `compute_probabilities` and `get_next_token`.
        """
        logits = ops.cast(logits, "float32")
        for processor in self.processors:
            logits = processor(logits, tokens, index)
        return logits

    @property
    def variables(self) -> list[Any]:
        """The seeds of the wrapped sampler."""
        return self.sampler.variables

    def compute_probabilities(self, logits: Tensor) -> Tensor:
        return self.sampler.compute_probabilities(logits)

    def get_next_token(self, probabilities: Tensor) -> Tensor:
        return self.sampler.get_next_token(probabilities)

    def run_loop(self, *args: Any, **kwargs: Any) -> Any:
        return self.sampler.run_loop(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return self.sampler.get_config()

    def _processed(self, next: Callable[..., Any]) -> Callable[..., Any]:
        def processed_next(tokens: Tensor, cache: Any, index: Tensor) -> Any:
            logits, hidden, cache = next(tokens, cache, index)
            return self.process(logits, tokens, index), hidden, cache

        return processed_next


def _occurring(tokens: Tensor, index: Tensor, vocabulary_size: int) -> Tensor:
    """Return bool (b, v): which tokens of the vocabulary stand in a row before column `index`."""
    rows, columns = ops.shape(tokens)
    tokens = ops.cast(tokens, "int32")
    there = ops.logical_and(ops.arange(columns, dtype="int32") < index, tokens >= 0)
    # What is not there is marked in a column of its own, which is cut off. One mark for each token
    # takes (b, v) numbers; comparing all tokens with the whole vocabulary would take (b, L, v).
    marked = ops.where(there, tokens, vocabulary_size)
    row = ops.broadcast_to(ops.arange(rows, dtype="int32")[:, None], (rows, columns))
    places = ops.reshape(ops.stack([row, marked], axis=-1), (-1, 2))  # (b * L, 2)
    marks = ops.scatter_update(
        ops.zeros((rows, vocabulary_size + 1), "int32"),
        places,
        ops.ones((rows * columns,), "int32"),
    )
    return marks[:, :vocabulary_size] > 0
