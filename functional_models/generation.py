"""Text from a trained graph: prompts in, tokens out, chosen by a keras-nlp sampler.

Every step runs the model on the whole prefix. Sequences have a fixed padded length, so that one
compiled loop serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

SAMPLERS = ("greedy", "top_k", "top_p", "random", "beam")
_LENGTH_STEP = 32  # padded lengths are multiples of this: few shapes to compile

Tensor = Any


def make_sampler(
    sampler: Any = "greedy",
    *,
    temperature: float = 1.0,
    k: int = 5,
    p: float = 0.9,
    num_beams: int = 4,
    seed: int | None = None,
) -> Any:
    """Return a keras-nlp sampler by name; an instance is returned as it is.

    Args:
        sampler: `greedy`, `top_k`, `top_p`, `random`, `beam`, or a `keras_hub.samplers.Sampler`.
        temperature: logits are divided by it; above 0.
        k: how many tokens `top_k` chooses among.
        p: the probability that the tokens `top_p` chooses among have together.
        num_beams: beams of `beam`.
        seed: of the draws; `None` differs from call to call.

    Raises:
        ValueError: an unknown name, or a value that is not allowed.
    """
    import keras_hub

    if isinstance(sampler, keras_hub.samplers.Sampler):
        return sampler
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}; allowed: {', '.join(SAMPLERS)}")
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: must be above 0; for no chance, use 'greedy'")
    if k < 1:
        raise ValueError(f"k={k}: must be 1 or more")
    if not 0 < p <= 1:
        raise ValueError(f"p={p}: must be above 0, and 1 at the most")
    if num_beams < 1:
        raise ValueError(f"num_beams={num_beams}: must be 1 or more")
    samplers = keras_hub.samplers
    match sampler:
        case "greedy":
            return samplers.GreedySampler(temperature=temperature)
        case "top_k":
            return samplers.TopKSampler(k=k, seed=seed, temperature=temperature)
        case "top_p":
            return samplers.TopPSampler(p=p, seed=seed, temperature=temperature)
        case "random":
            return samplers.RandomSampler(seed=seed, temperature=temperature)
    return samplers.BeamSampler(num_beams=num_beams, temperature=temperature)


class Generator:
    """Continues token sequences with a model.

    Args:
        model: tokens (b, t) -> logits (b, t, v), or {"source", "target"} -> logits.
        max_length: the most tokens of a sequence.
        end_id: ends a sequence.
    """

    def __init__(self, model: Any, *, max_length: int, end_id: int) -> None:
        self._model = model
        self._max_length = max_length
        self._end_id = end_id
        self._compiled: tuple[Any, Callable[..., Any]] | None = None

    def __call__(
        self,
        prompts: Sequence[np.ndarray],
        sampler: Any,
        *,
        max_new_tokens: int,
        source: np.ndarray | None = None,
    ) -> list[np.ndarray]:
        """Return, for each prompt, the tokens that follow it, without the end token.

        Args:
            prompts: int (t,) each, not empty; they may differ in length.
            sampler: from `make_sampler`.
            max_new_tokens: the most tokens that follow a prompt.
            source: int (b, s) for an encoder-decoder.
        """
        from keras import ops

        longest = max(len(prompt) for prompt in prompts) + max_new_tokens
        length = min(-(-longest // _LENGTH_STEP) * _LENGTH_STEP, self._max_length)
        tokens = np.zeros((len(prompts), length), "int32")
        given = np.zeros((len(prompts), length), bool)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = prompt
            given[row, : len(prompt)] = True
        first = min(len(prompt) for prompt in prompts)
        # keras-nlp repeats and reorders a cache with the beams: the source has to go with them.
        arrays = [tokens, given, np.int32(first)] + ([] if source is None else [source])
        found = self._loop(sampler)(*(ops.convert_to_tensor(array) for array in arrays))
        rows = ops.convert_to_numpy(found)
        return [
            self._cut(row[len(prompt) : len(prompt) + max_new_tokens])
            for row, prompt in zip(rows, prompts, strict=True)
        ]

    def _cut(self, tokens: np.ndarray) -> np.ndarray:
        ends = np.flatnonzero(tokens == self._end_id)
        return tokens[: ends[0]] if len(ends) else tokens

    def _loop(self, sampler: Any) -> Callable[..., Tensor]:
        """Return the sampler's loop over the model, compiled where the backend does that."""
        if self._compiled is not None and self._compiled[0] is sampler:
            return self._compiled[1]
        import keras

        def loop(
            tokens: Tensor, given: Tensor, first: Tensor, source: Tensor | None = None
        ) -> Tensor:
            return sampler(
                next=self._next_logits,
                prompt=tokens,
                cache=source,
                index=first,
                mask=given,
                stop_token_ids=(self._end_id,),
                model=self._model,
            )

        function: Callable[..., Tensor] = loop
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            function = tf.function(loop, jit_compile=True)
        elif keras.backend.backend() == "torch":
            import torch

            function = torch.no_grad()(loop)
        self._compiled = (sampler, function)
        return function

    def _next_logits(self, tokens: Tensor, source: Tensor, index: Tensor) -> Any:
        """Return the logits (b, v) of the token at `index`, as samplers ask for them."""
        from keras import ops

        # Without a source keras-nlp passes an empty cache.
        has_source = not isinstance(source, tuple)
        inputs = {"source": source, "target": tokens} if has_source else tokens
        logits = self._model(inputs, training=False)
        return ops.take(logits, index - 1, axis=1), None, source
