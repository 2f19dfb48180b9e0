"""Beam search as a KerasHub sampler, with length penalty and n-best lists.

Shapes: b rows, n beams and r returned sequences per row, L columns of tokens, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras_hub
import numpy as np
from keras import ops, tree

from functional_models.checks import check_count, check_real

_IMPOSSIBLE = -5e8  # lower log-probabilities come from masked logits, such as -1e9

Tensor = Any
Hypotheses = tuple[Tensor, Tensor, Tensor]  # tokens (b, m, L), log-probability, score (b, m)


class BeamSearch(keras_hub.samplers.Sampler):
    """Beam search that keeps the n likeliest unfinished and the r best finished sequences.

    A finished sequence, or hypothesis, Y has the score log P(Y) / lp(Y) with
    lp(Y) = ((5 + |Y|) / 6) ** alpha (Wu et al. 2016, "Google's Neural Machine Translation System",
    equation 14, without coverage), where |Y| is the number of generated tokens, including the stop
    token. Unfinished beams have equal lengths and are compared by log-probability.

    Each step ranks the n * v candidates of a row. Candidates among the first n that end in a stop
    token become hypotheses; the n likeliest others continue, as in tensor2tensor's beam search. A
    row is done when its likeliest beam cannot exceed the r-th hypothesis, even if it lost no more
    probability up to the last column. Early stopping thus does not change the result. Beams that
    reach the last column are hypotheses, too.

    With one beam and no length penalty this is greedy search.

    Args:
        num_beams: n; at most the vocabulary size.
        length_penalty: alpha, 0 to 10; 0 compares log-probabilities, higher values favour longer
            sequences.
        num_return_sequences: r; at most n.
        temperature: divides the logits; above 0.

    Raises:
        ValueError: a value is not allowed.
    """

    def __init__(
        self,
        num_beams: int = 4,
        length_penalty: float = 0.0,
        num_return_sequences: int = 1,
        temperature: float = 1.0,
    ) -> None:
        check_count("num_beams", num_beams)
        check_real("length_penalty", length_penalty)
        check_count("num_return_sequences", num_return_sequences)
        if num_return_sequences > num_beams:
            raise ValueError(
                f"num_return_sequences={num_return_sequences}: must not be above "
                f"num_beams={num_beams}"
            )
        check_real("temperature", temperature)
        super().__init__(temperature=temperature)
        self.num_beams = num_beams
        self.length_penalty = length_penalty
        self.num_return_sequences = num_return_sequences

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the best tokens (b, L), or (b, r, L), best first, if r is above 1.

        Arguments and errors are those of `search`.
        """
        tokens, _ = self.search(*args, **kwargs)
        return tokens[:, 0] if self.num_return_sequences == 1 else tokens

    def search(
        self,
        next: Callable[..., Any],
        prompt: Tensor,
        cache: Any = None,
        index: Tensor | int = 0,
        mask: Tensor | None = None,
        stop_token_ids: Sequence[int] | None = None,
        hidden_states: Tensor | None = None,
        model: Any = None,
    ) -> tuple[Tensor, Tensor]:
        """Return tokens (b, r, L), best score first, and their log-probabilities (b, r).

        Log-probabilities are those of the generated tokens, without length penalty. If fewer than
        r sequences are possible, the others have -inf. Columns after a stop token are filled with
        the first of `stop_token_ids`.

        Args:
            next: (tokens (b * n, L), cache, index) -> (logits (b * n, v) of column `index`,
                anything, cache).
            prompt: int (b, L), with a static shape.
            cache: nested structure of tensors whose first axis is b here, and b * n in `next`.
            index: int (), the first column to generate.
            mask: bool (b, L), true for tokens of the prompt; by default the columns before `index`.
            stop_token_ids: tokens that end a sequence; by default none.
            hidden_states: not used.
            model: model that `next` calls; required by JAX.

        Raises:
            ValueError: more beams than tokens in the vocabulary.
        """
        prompt = ops.convert_to_tensor(prompt)
        index = ops.cast(index, "int32")
        rows, columns = prompt.shape
        column = ops.arange(columns, dtype="int32")
        free = ops.broadcast_to(column >= index, (rows, columns))
        if mask is not None:
            free = ops.logical_and(free, ops.logical_not(ops.cast(mask, "bool")))
        stops = () if stop_token_ids is None else tuple(stop_token_ids)
        whole_length = _count(free)  # (b,)

        def is_done(log_p: Tensor, best: Hypotheses) -> Tensor:
            """Return bool (b,): whether no beam can become better than a hypothesis."""
            most = self._score(ops.max(log_p, axis=1, keepdims=True), whole_length)
            return most[:, 0] <= ops.min(best[2], axis=1)

        def cond(index: Tensor, tokens: Tensor, log_p: Tensor, cache: Any, best: Any) -> Tensor:
            return ops.logical_not(ops.all(is_done(log_p, best)))

        def body(index: Tensor, tokens: Tensor, log_p: Tensor, cache: Any, best: Any) -> Any:
            flat = ops.reshape(tokens, (rows * self.num_beams, columns))
            logits, _, cache = next(flat, cache, index)
            found, beams, chosen = self._ranked(log_p, logits, len(stops))  # (b, m) each
            is_stop = ops.any(ops.equal(chosen[..., None], np.array(stops, "int32")), axis=-1)
            is_free = ops.take(free, index, axis=1)[:, None]  # (b, 1)
            if stops:
                front = slice(None, self.num_beams)
                ends = ops.logical_and(is_stop[:, front], is_free)
                # Rows that are done must not change any more, not even by a tie.
                ends = ops.logical_and(ends, ~is_done(log_p, best)[:, None])
                ended = _put(_take(tokens, beams[:, front]), chosen[:, front], column == index)
                later = ops.logical_and(free, column > index)[:, None, :]
                ended = ops.where(later, ops.cast(stops[0], ended.dtype), ended)
                length = _count(ops.logical_and(free, column <= index))
                found_ends = ops.where(ends, found[:, front], -np.inf)
                best = self._better(best, ended, found_ends, length)
            found, places = _top(ops.where(is_stop, -np.inf, found), self.num_beams)
            # In a prompt every beam takes the given token, without a change in probability.
            own = ops.arange(self.num_beams, dtype="int32")[None]
            beams = ops.where(is_free, _take(beams, places), own)
            log_p = ops.where(is_free, found, log_p)
            given = ops.cast(ops.take(prompt, index, axis=1), "int32")[:, None]
            chosen = ops.where(is_free, _take(chosen, places), given)
            tokens = _put(_take(tokens, beams), chosen, column == index)
            cache = () if no_cache else self._follow(cache, beams)
            return index + 1, tokens, log_p, cache, best

        no_cache = cache is None  # loop variables cannot be `None`
        tokens, log_p, best = self._start(prompt)
        repeat = partial(ops.repeat, repeats=self.num_beams, axis=0)  # (b, ...) -> (b * n, ...)
        cache = () if no_cache else tree.map_structure(repeat, cache)
        _, tokens, log_p, _, best = self.run_loop(
            cond,
            body,
            loop_vars=(index, tokens, log_p, cache, best),
            # Tokens that are given after the last free column are in place.
            maximum_iterations=ops.max(ops.where(free, column + 1, index)) - index,
            model=model,
        )
        # Beams of rows that are not done have reached the last column.
        unfinished = ops.where(is_done(log_p, best)[:, None], -np.inf, log_p)
        tokens, log_p, _ = self._better(best, tokens, unfinished, whole_length)
        return tokens, log_p

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self.get_config().items())
        return f"BeamSearch({options})"

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "num_beams": self.num_beams,
            "length_penalty": self.length_penalty,
            "num_return_sequences": self.num_return_sequences,
        }

    def _start(self, prompt: Tensor) -> tuple[Tensor, Tensor, Hypotheses]:
        """Return tokens (b, n, L), log-probabilities (b, n), and r hypotheses of score -inf.

        All beams but the first have log-probability -inf, so that beams differ.
        """
        rows, columns = prompt.shape
        first = np.where(np.arange(self.num_beams) == 0, 0.0, -np.inf).astype("float32")
        log_p = ops.convert_to_tensor(np.tile(first, (rows, 1)))
        none = ops.full((rows, self.num_return_sequences), -np.inf, dtype="float32")
        tokens, best = (
            ops.broadcast_to(prompt[:, None], (rows, copies, columns))
            for copies in (self.num_beams, self.num_return_sequences)
        )
        return tokens, log_p, (best, none, none)

    def _ranked(
        self, log_p: Tensor, logits: Tensor, num_stops: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the log-probabilities, beams and tokens of the likeliest candidates, (b, m) each.

        `log_p` is (b, n), `logits` (b * n, v); m suffices for n candidates without a stop token.
        """
        rows, vocabulary_size = log_p.shape[0], logits.shape[-1]
        if self.num_beams > vocabulary_size:
            raise ValueError(
                f"num_beams={self.num_beams}: must not be above the vocabulary size, "
                f"{vocabulary_size}"
            )
        logits = ops.cast(logits, "float32") / self.temperature
        found = ops.log_softmax(logits, axis=-1)
        found = ops.where(found < _IMPOSSIBLE, -np.inf, found)
        found = ops.reshape(found, (rows, self.num_beams, vocabulary_size)) + log_p[:, :, None]
        candidates = self.num_beams * vocabulary_size
        found, places = _top(
            ops.reshape(found, (rows, candidates)),
            min((1 + num_stops) * self.num_beams, candidates),
        )
        return found, places // vocabulary_size, places % vocabulary_size

    def _better(
        self, best: Hypotheses, tokens: Tensor, log_p: Tensor, length: Tensor
    ) -> Hypotheses:
        """Return the r best of the current hypotheses and new ones of `length` (b,)."""
        new = tokens, log_p, self._score(log_p, length)
        tokens, log_p, score = (
            ops.concatenate(pair, axis=1) for pair in zip(best, new, strict=True)
        )
        score, places = _top(score, self.num_return_sequences)
        return _take(tokens, places), _take(log_p, places), score

    def _score(self, log_p: Tensor, length: Tensor) -> Tensor:
        """Return log_p (b, m) / lp, for sequences of `length` (b,) generated tokens."""
        return log_p / (((5.0 + length) / 6.0) ** self.length_penalty)[:, None]

    def _follow(self, cache: Any, beams: Tensor) -> Any:
        """Return the rows (b * n, ...) of a cache for the chosen beams (b, n)."""
        rows = ops.arange(beams.shape[0], dtype="int32")[:, None]
        places = ops.reshape(rows * self.num_beams + beams, (-1,))
        return tree.map_structure(lambda leaf: ops.take(leaf, places, axis=0), cache)


def _count(flags: Tensor) -> Tensor:
    """Return float32 (b,): the number of true flags (b, L)."""
    return ops.sum(ops.cast(flags, "float32"), axis=1)


def _top(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k greatest values of x (b, m), in order, and their indices: (b, k) each."""
    values, places = ops.top_k(x, k)
    shape = (x.shape[0], k)  # TensorFlow loses the static shape, which a loop needs
    return ops.reshape(values, shape), ops.reshape(ops.cast(places, "int32"), shape)


def _take(x: Tensor, places: Tensor) -> Tensor:
    """Return the elements of x (b, m) or (b, m, L) at the indices (b, k)."""
    return ops.take_along_axis(x, places[:, :, None] if len(x.shape) == 3 else places, axis=1)


def _put(tokens: Tensor, chosen: Tensor, is_here: Tensor) -> Tensor:
    """Return tokens (b, m, L) with the column where `is_here` (L,) set to `chosen` (b, m)."""
    return ops.where(is_here, ops.cast(chosen, tokens.dtype)[:, :, None], tokens)
