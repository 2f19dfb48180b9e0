"""KerasHub samplers that draw with one random number per row, and from processed logits.

Shapes: b rows, L columns of tokens, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import keras_hub
from keras import ops

from functional_models.logit_processors import Processor
from functional_models.token_rules import NO_RULES, TokenRules

Tensor = Any


class InverseSampler(keras_hub.samplers.RandomSampler):
    """A `RandomSampler` that inverts the distribution function at one uniform number per row.

    `keras.random.categorical` draws a random number for each of the v tokens, which takes longer
    than everything else in the choice of a token. A token of probability 0 is never drawn.
    """

    def get_next_token(self, probabilities: Tensor) -> Tensor:
        rows, size = ops.shape(probabilities)
        total = ops.cumsum(probabilities, axis=-1)
        drawn = keras.random.uniform((rows, 1), seed=self.seed_generator) * total[:, -1:]
        ids = ops.arange(size, dtype="int32")
        possible = probabilities > 0
        # Sums that are computed in parallel may be greater before a token that is impossible.
        beyond = ops.logical_and(possible, total > drawn)
        first = ops.min(ops.where(beyond, ids, size), axis=-1)
        last = ops.max(ops.where(possible, ids, 0), axis=-1)  # where rounding leaves none
        return ops.minimum(first, last)


class ProcessedSampler(keras_hub.samplers.Sampler):
    """Applies processors to the logits, in order, before a sampler chooses a token.

    All other attributes are those of the wrapped sampler: `temperature`, `variables`,
    `seed_generator`, `get_config()`, ...

    Args:
        sampler: the sampler to wrap. Of a `ProcessedSampler`, its sampler is wrapped, and its
            processors are appended.
        processors: functions of logits (b, v), tokens (b, L), index () that return logits (b, v).
        rules: rules that depend on prompts, which a `Generator` applies before.
    """

    def __init__(
        self,
        sampler: keras_hub.samplers.Sampler,
        processors: Sequence[Processor],
        rules: TokenRules = NO_RULES,
    ) -> None:
        # Without `super().__init__`: temperature and seeds are those of the wrapped sampler.
        if isinstance(sampler, ProcessedSampler):
            if rules == NO_RULES:
                rules = sampler.rules
            sampler, processors = sampler.sampler, (*processors, *sampler.processors)
        self.sampler: Any = sampler
        self.rules: TokenRules = rules
        self.processors = tuple(processors)

    def __repr__(self) -> str:
        return f"ProcessedSampler({type(self.sampler).__name__}, {list(self.processors)})"

    def __getattr__(self, name: str) -> Any:
        """Return attributes of the wrapped sampler: `temperature`, `seed_generator`, `k`, ..."""
        if name in ("sampler", "processors", "rules"):  # not set during copying
            raise AttributeError(name)
        return getattr(self.sampler, name)

    def __call__(self, next: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Call the wrapped sampler with processed logits."""
        return self.sampler(self._processed(next), *args, **kwargs)

    def search(self, next: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Call `BeamSearch.search` with processed logits, which also define log-probabilities.

        Raises:
            AttributeError: the wrapped sampler has no `search`.
        """
        return self.sampler.search(self._processed(next), *args, **kwargs)

    def process(self, logits: Tensor, tokens: Tensor, index: Tensor) -> Tensor:
        """Return processed float32 logits (b, v) for column `index` of tokens (b, L).

        For custom loops, which call `compute_probabilities` and `get_next_token`.
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
