"""A toy language whose sequences can be enumerated, and searches in it."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

STOP = 1
BACKEND = keras.backend.backend()
LENGTH_PENALTIES = (0.0, 0.6, 1.0)


class Toy:
    """A language model whose logits depend on every token of the prefix and its position.

    Tokens from `live` on are impossible, so that the vocabulary can be larger than the number of
    tokens to enumerate.
    """

    def __init__(self, *, vocabulary_size=7, live=5, length=7, stop_bonus=0.5, seed=0):
        rng = np.random.default_rng(seed)
        self.size, self.live, self.length = vocabulary_size, live, length
        self.of_token = rng.normal(size=(length, live, 3)).astype("float32")
        self.kernel = rng.normal(size=(3, live)).astype("float32") * 1.7
        self.bias = np.zeros(live, "float32")
        self.bias[STOP] = stop_bonus

    def next(self, tokens, cache, index):
        """Return logits (b, v) and the unchanged cache, as KerasHub's samplers expect."""
        one_hot = self.one_hot(tokens)
        there = ops.cast(ops.arange(self.length) < index, "float32")
        features = ops.einsum("blv,lvd,l->bd", one_hot, ops.convert_to_tensor(self.of_token), there)
        return self.logits(features), None, cache

    def one_hot(self, tokens):
        # Impossible tokens occur only in impossible beams, whose logits do not matter.
        possible = ops.minimum(ops.cast(tokens, "int32"), self.live - 1)
        return ops.one_hot(possible, self.live, dtype="float32")

    def logits(self, features):
        kernel, bias = ops.convert_to_tensor(self.kernel), ops.convert_to_tensor(self.bias)
        logits = ops.matmul(ops.tanh(features), kernel) + bias
        rest = ((0, 0), (0, self.size - self.live))
        return ops.pad(logits, rest, constant_values=-1e9)

    @functools.cache  # noqa: B019 - toys are small
    def log_probabilities(self, prefix):
        """Return log-probabilities, float64 (live,), computed with NumPy."""
        features = sum(self.of_token[j, token].astype("float64") for j, token in enumerate(prefix))
        logits = np.tanh(features) @ self.kernel + self.bias
        return logits - np.log(np.exp(logits).sum())

    def log_probability(self, prompt, generated):
        steps = range(len(generated))
        return sum(self.log_probabilities((*prompt, *generated[:i]))[generated[i]] for i in steps)


def score(log_p, length, alpha, offset=0):
    return log_p / ((offset + length) / (offset + 1)) ** alpha


def enumerated(toy, prompt, steps, *, number, alpha=0.0, offset=0, stops=(STOP,)):
    """Return the best of all continuations, up to a stop token or `steps` long."""
    going, ended = [()], []
    for _ in range(steps):
        longer = [(*ids, token) for ids in going for token in range(toy.live)]
        ended += [ids for ids in longer if ids[-1] in stops]
        going = [ids for ids in longer if ids[-1] not in stops]
    found = [(ids, toy.log_probability(prompt, ids)) for ids in ended + going]
    return sorted(found, key=lambda pair: -score(pair[1], len(pair[0]), alpha, offset))[:number]


def plain_beam_search(toy, prompt, steps, *, beams, number, alpha=0.0, offset=0, stops=(STOP,)):
    """Return the results of beam search with lists and without early stopping."""
    going, ended = [((), 0.0)], []
    for _ in range(steps):
        candidates = [
            ((*ids, token), log_p + toy.log_probabilities((*prompt, *ids))[token])
            for ids, log_p in going
            for token in range(toy.live)
        ]
        candidates.sort(key=lambda pair: -pair[1])
        ended += [pair for pair in candidates[:beams] if pair[0][-1] in stops]
        going = [pair for pair in candidates if pair[0][-1] not in stops][:beams]
    return sorted(ended + going, key=lambda p: -score(p[1], len(p[0]), alpha, offset))[:number]


def padded(prompt, ids, length):
    row = [*prompt, *ids]
    return row + [STOP] * (length - len(row))


def compiled(function):
    """Compile a function of tensors, except on PyTorch."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True, autograph=False)
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    return function


def eager(function):
    return function


both_modes = pytest.mark.parametrize("mode", [eager, compiled])


def columns_of(prompts, length):
    """Return prompts as tokens (b, length), and the mask of given tokens."""
    tokens = np.zeros((len(prompts), length), "int32")
    mask = np.zeros((len(prompts), length), bool)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
        mask[row, : len(prompt)] = True
    return tokens, mask


def search(sampler, next, prompts, length, *, cache=None, stops=(STOP,), mode=eager):
    """Run `search` from the end of the shortest prompt; return NumPy arrays."""

    @mode
    def run(tokens, mask, index, *leaves):
        given = None if cache is None else dict(zip(cache, leaves, strict=True))
        return sampler.search(next, tokens, given, index, mask=mask, stop_token_ids=stops)

    tokens, mask = columns_of(prompts, length)
    arrays = [tokens, mask, np.int32(min(map(len, prompts))), *(cache or {}).values()]
    found = run(*(ops.convert_to_tensor(array) for array in arrays))
    return tuple(ops.convert_to_numpy(x) for x in found)


def assert_found(found, expected, prompt, length):
    tokens, log_p = found
    assert tokens.tolist() == [padded(prompt, ids, length) for ids, _ in expected]
    np.testing.assert_allclose(log_p, [log_p for _, log_p in expected], rtol=1e-5, atol=1e-5)
