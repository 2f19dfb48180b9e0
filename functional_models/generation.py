"""Text from a trained graph: prompts in, tokens out, chosen by a keras-nlp sampler.

Every step runs the model on the whole prefix. Sequences have a fixed padded length, so that one
compiled loop serves all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

SAMPLERS = ("greedy", "top_k", "top_p", "random", "beam")
_LENGTH_STEP = 32  # padded lengths are multiples of this: few shapes to compile
_NEVER = -1e9  # a float32 logit whose probability is 0

_KEPT_LOOPS = 8  # compiled loops of a generator; each holds a graph

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
    if not (_is_real(temperature) and temperature > 0):
        raise ValueError(f"temperature={temperature!r}: must be above 0; for no chance, use greedy")
    if not (_is_real(p) and 0 < p <= 1):
        raise ValueError(f"p={p!r}: must be above 0, and 1 at the most")
    for name, value in (("k", k), ("num_beams", num_beams)):
        check_count(name, value)
    if seed is not None:
        check_count("seed", seed, least=0)
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


def check_count(name: str, value: Any, *, least: int = 1, most: int | None = None) -> None:
    """Refuse what is no whole number of `least` to `most`.

    Raises:
        ValueError: names the option, the value and what is allowed.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        allowed = f"{least} or more" if most is None else f"{least} to {most}"
        raise ValueError(f"{name}={value!r}: must be a whole number, {allowed}")


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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
        self._samplers: dict[tuple[Any, ...], Any] = {}
        self._loops: dict[int, tuple[Any, Callable[..., Any]]] = {}

    def __call__(
        self,
        prompts: Sequence[np.ndarray],
        sampler: Any,
        *,
        max_new_tokens: int | Sequence[int],
        source: np.ndarray | None = None,
    ) -> list[np.ndarray]:
        """Return, for each prompt, the tokens that follow it, without the end token.

        Args:
            prompts: int (t,) each, not empty; they may differ in length.
            sampler: from `sampler`.
            max_new_tokens: the most tokens that follow a prompt, for all or for each.
            source: int (b, s) for an encoder-decoder.
        """
        from keras import ops

        limits = np.broadcast_to(max_new_tokens, len(prompts))
        longest = max(len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True))
        length = min(-(-longest // _LENGTH_STEP) * _LENGTH_STEP, self._max_length)
        tokens = np.zeros((len(prompts), length), "int32")
        given = np.zeros((len(prompts), length), bool)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = prompt
            given[row, : len(prompt)] = True
        first = min(len(prompt) for prompt in prompts)
        arrays = [tokens, given, np.int32(first)] + ([] if source is None else [source])
        found = self._loop(sampler)(*(ops.convert_to_tensor(array) for array in arrays))
        rows = ops.convert_to_numpy(found)
        return [
            self._cut(row[len(prompt) : len(prompt) + limit])
            for row, prompt, limit in zip(rows, prompts, limits, strict=True)
        ]

    def sampler(self, sampler: Any, *, seed: int | None = None, **options: Any) -> Any:
        """Return a sampler as `make_sampler` does, the same one for the same options.

        The loop is compiled for a sampler, so a new one for every call would compile every time.
        Draws start again from `seed` all the same; a sampler that was given goes on with its own.

        Raises:
            ValueError: as `make_sampler`.
        """
        import keras

        made = make_sampler(sampler, seed=seed, **options)  # checks what was given
        if made is sampler:
            return sampler
        if sampler == "top_k":
            check_count("k", made.k, most=self._model.output_shape[-1])
        key = (sampler, *sorted(options.items()))
        kept = self._samplers.setdefault(key, made)
        if hasattr(kept, "seed_generator"):
            kept.seed_generator.state.assign(keras.random.SeedGenerator(seed).state)
        return kept

    def _cut(self, tokens: np.ndarray) -> np.ndarray:
        ends = np.flatnonzero(tokens == self._end_id)
        return tokens[: ends[0]] if len(ends) else tokens

    def _loop(self, sampler: Any) -> Callable[..., Tensor]:
        """Return the sampler's loop over the model, compiled where the backend does that."""
        if id(sampler) not in self._loops:
            if len(self._loops) == _KEPT_LOOPS:
                del self._loops[next(iter(self._loops))]
            # The sampler is kept too, so that no other can get its id.
            self._loops[id(sampler)] = sampler, self._compiled(sampler)
        return self._loops[id(sampler)][1]

    def _compiled(self, sampler: Any) -> Callable[..., Tensor]:
        import keras

        def loop(
            tokens: Tensor, given: Tensor, first: Tensor, source: Tensor | None = None
        ) -> Tensor:
            return sampler(
                next=self._next_logits,
                prompt=tokens,
                # keras-nlp repeats and reorders a cache with the beams, as these must be.
                cache=(given,) if source is None else (given, source),
                index=first,
                mask=given,
                stop_token_ids=(self._end_id,),
                model=self._model,
            )

        match keras.backend.backend():
            case "tensorflow":
                import tensorflow as tf

                return tf.function(loop, jit_compile=True, autograph=False)
            case "torch":
                import torch

                return torch.no_grad()(loop)
            case "jax":
                return _jitted(loop, self._model, sampler)
        return loop

    def _next_logits(self, tokens: Tensor, cache: tuple[Tensor, ...], index: Tensor) -> Any:
        """Return the logits (b, v) of the token at `index`, as samplers ask for them.

        Where only one token can follow, it is certain: the prompt's own within a prompt, and the
        end token after an end token. So beams pay for nothing but what they chose themselves.
        """
        from keras import ops

        given, *source = cache
        inputs = {"source": source[0], "target": tokens} if source else tokens
        logits = ops.take(self._model(inputs, training=False), index - 1, axis=1)
        logits = ops.cast(logits, "float32")
        is_end = ops.logical_and(ops.equal(tokens, self._end_id), ops.logical_not(given))
        ended = ops.any(is_end, axis=1)
        in_prompt = ops.take(given, index, axis=1)
        certain = ops.where(in_prompt, ops.take(tokens, index, axis=1), self._end_id)  # (b,)
        is_certain = ops.equal(ops.arange(logits.shape[-1], dtype="int32"), certain[:, None])
        only = ops.where(is_certain, 0.0, _NEVER)  # (b, v)
        return ops.where(ops.logical_or(in_prompt, ended)[:, None], only, logits), None, cache


def _jitted(loop: Callable[..., Tensor], model: Any, sampler: Any) -> Callable[..., Tensor]:
    """Compile a loop with JAX: weights and seeds go in as arguments, seeds come out again."""
    import jax
    import keras

    @jax.jit
    def stateless(weights: list[Tensor], seeds: list[Tensor], *arrays: Tensor) -> Any:
        state = [*zip(model.variables, weights, strict=True)]
        state += zip(sampler.variables, seeds, strict=True)
        with keras.StatelessScope(state_mapping=state) as scope:
            tokens = loop(*arrays)
        return tokens, [scope.get_current_value(seed) for seed in sampler.variables]

    def run(*arrays: Tensor) -> Tensor:
        values = [
            [v.value for v in variables] for variables in (model.variables, sampler.variables)
        ]
        tokens, seeds = stateless(*values, *arrays)
        for variable, value in zip(sampler.variables, seeds, strict=True):
            variable.assign(value)
        return tokens

    return run
