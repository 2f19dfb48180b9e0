"""Beam search as a KerasHub sampler, with length penalty and n-best lists.

Shapes: b rows, n beams, m hypotheses and r returned sequences per row, L columns of tokens, v
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras_hub
import numpy as np
from keras import ops, tree

from functional_models.checks import check_count, check_early_stopping, check_real

_IMPOSSIBLE = -5e8  # lower log-probabilities come from masked logits, such as -1e9

Tensor = Any
Hypotheses = tuple[Tensor, Tensor, Tensor]  # tokens (b, m, L), log-probability, score (b, m)


class BeamSearch(keras_hub.samplers.Sampler):
    """Beam search that keeps the n likeliest unfinished and the m best finished sequences.

    A finished sequence, or hypothesis, Y has the score log P(Y) / lp(Y) with
    lp(Y) = ((c + |Y|) / (c + 1)) ** alpha, where |Y| is the number of generated tokens, including
    the stop token. With c = 0 this is the length penalty of Hugging Face Transformers,
    |Y| ** alpha; with c = 5 that of Wu et al. 2016, "Google's Neural Machine Translation System",
    equation 14, without coverage. Unfinished beams have equal lengths and are compared by
    log-probability.

    Each step ranks the n * v candidates of a row. Candidates among the first n that end in a stop
    token, or reach the last column, become hypotheses; the n likeliest others continue, as in
    tensor2tensor's beam search. A row is done, and changes no more, by one of three rules of
    Hugging Face:

    * `early_stopping="never"`: when its likeliest beam cannot exceed the r-th hypothesis, even if
      it lost no more probability up to the last column. This does not change the result.
    * `False`: when there are n hypotheses, and the likeliest beam would not exceed the worst if it
      ended here. With alpha > 0, this may miss longer sequences with better scores.
    * `True`: when there are n hypotheses.

    With one beam and no length penalty this is greedy search.

    Args:
        num_beams: n; at most the vocabulary size.
        length_penalty: alpha, 0 to 10; 0 compares log-probabilities, higher values favour longer
            sequences.
        num_return_sequences: r; at most n.
        temperature: divides the logits; above 0.
        length_offset: c, 0 to 1000.
        early_stopping: "never", `False` or `True`.

    Raises:
        ValueError: a value is not allowed.
    """

    def __init__(
        self,
        num_beams: int = 4,
        length_penalty: float = 0.0,
        num_return_sequences: int = 1,
        temperature: float = 1.0,
        length_offset: float = 0.0,
        early_stopping: bool | str = "never",
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
        check_real("length_offset", length_offset)
        super().__init__(temperature=temperature)
        self.num_beams = num_beams
        self.length_penalty = length_penalty
        self.num_return_sequences = num_return_sequences
        self.length_offset = length_offset
        self.early_stopping = check_early_stopping(early_stopping)

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
        counted: Tensor | float = 0.0,
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
            counted: float (b,), number of tokens of each prompt that count as generated in |Y|,
                such as the language code that a translation starts with.

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
        last = ops.max(ops.where(free, column, -1), axis=1)[:, None]  # (b, 1)
        whole_length = _count(free) + counted  # (b,)
        stops = () if stop_token_ids is None else tuple(stop_token_ids)

        def cond(
            index: Tensor, tokens: Tensor, log_p: Tensor, done: Tensor, cache: Any, best: Any
        ) -> Tensor:
            return ops.logical_not(ops.all(done))

        def body(
            index: Tensor, tokens: Tensor, log_p: Tensor, done: Tensor, cache: Any, best: Any
        ) -> Any:
            flat = ops.reshape(tokens, (rows * self.num_beams, columns))
            logits, _, cache = next(flat, cache, index)
            found, beams, chosen = self._ranked(log_p, logits, len(stops))  # (b, candidates) each
            is_stop = ops.any(ops.equal(chosen[..., None], np.array(stops, "int32")), axis=-1)
            is_free = ops.take(free, index, axis=1)[:, None]  # (b, 1)
            # Hypotheses
            front = slice(None, self.num_beams)
            ends = ops.logical_or(is_stop[:, front], ops.equal(index, last))
            ends = ops.logical_and(ends, ops.logical_and(is_free, ~done[:, None]))
            ended = _put(_take(tokens, beams[:, front]), chosen[:, front], column == index)
            if stops:
                later = ops.logical_and(free, column > index)[:, None, :]
                ended = ops.where(later, ops.cast(stops[0], ended.dtype), ended)
            length = _count(ops.logical_and(free, column <= index)) + counted
            found_ends = ops.where(ends, found[:, front], -np.inf)
            best = self._better(best, ended, found_ends, length)
            # Beams
            found, places = _top(ops.where(is_stop, -np.inf, found), self.num_beams)
            # In a prompt every beam takes the given token, without a change in probability.
            own = ops.arange(self.num_beams, dtype="int32")[None]
            beams = ops.where(is_free, _take(beams, places), own)
            log_p = ops.where(is_free, found, log_p)
            given = ops.cast(ops.take(prompt, index, axis=1), "int32")[:, None]
            chosen = ops.where(is_free, _take(chosen, places), given)
            tokens = _put(_take(tokens, beams), chosen, column == index)
            cache = () if no_cache else self._follow(cache, beams)
            # A row that is done must not change any more, not even by a tie.
            done = ops.logical_or(done, self._is_done(log_p, best, length, whole_length))
            done = ops.logical_or(done, index >= last[:, 0])
            return index + 1, tokens, log_p, done, cache, best

        no_cache = cache is None  # loop variables cannot be `None`
        tokens, log_p, done, best = self._start(prompt, is_full=last < 0)
        repeat = partial(ops.repeat, repeats=self.num_beams, axis=0)  # (b, ...) -> (b * n, ...)
        cache = () if no_cache else tree.map_structure(repeat, cache)
        *_, best = self.run_loop(
            cond,
            body,
            loop_vars=(index, tokens, log_p, done, cache, best),
            # Tokens that are given after the last free column are in place.
            maximum_iterations=ops.max(last) + 1 - index,
            model=model,
        )
        tokens, log_p, _ = best
        return tokens[:, : self.num_return_sequences], log_p[:, : self.num_return_sequences]

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"BeamSearch({options})"

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "num_beams": self.num_beams,
            "length_penalty": self.length_penalty,
            "num_return_sequences": self.num_return_sequences,
            "length_offset": self.length_offset,
            "early_stopping": self.early_stopping,
        }

    @property
    def _num_hypotheses(self) -> int:
        """The number m of hypotheses that are kept."""
        return self.num_return_sequences if self.early_stopping == "never" else self.num_beams

    def _start(self, prompt: Tensor, is_full: Tensor) -> tuple[Tensor, Tensor, Tensor, Hypotheses]:
        """Return tokens (b, n, L), log-probabilities (b, n), done (b,), and m hypotheses.

        All beams but the first have log-probability -inf, so that beams differ. The prompt itself
        is a hypothesis of probability 1 where it `is_full` (b, 1), and all others have score -inf.
        """
        rows, columns = prompt.shape
        first = np.where(np.arange(self.num_beams) == 0, 0.0, -np.inf).astype("float32")
        log_p = ops.convert_to_tensor(np.tile(first, (rows, 1)))
        number = self._num_hypotheses
        none = ops.full((rows, number), -np.inf, dtype="float32")
        score = ops.where(is_full, log_p[:, :number], none)
        tokens, best = (
            ops.broadcast_to(prompt[:, None], (rows, copies, columns))
            for copies in (self.num_beams, number)
        )
        return tokens, log_p, is_full[:, 0], (best, score, score)

    def _is_done(
        self, log_p: Tensor, best: Hypotheses, length: Tensor, whole_length: Tensor
    ) -> Tensor:
        """Return bool (b,): whether a row is done, by the rule of `early_stopping`.

        `log_p` (b, n) are beams of `length` (b,), which may reach `whole_length` (b,).
        """
        worst = ops.min(best[2], axis=1)
        if self.early_stopping is True:
            return worst > -np.inf
        reached = whole_length if self.early_stopping == "never" else length
        most = self._score(ops.max(log_p, axis=1, keepdims=True), reached)
        return most[:, 0] <= worst

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
        """Return the m best of the current hypotheses and new ones of `length` (b,)."""
        new = tokens, log_p, self._score(log_p, length)
        tokens, log_p, score = (
            ops.concatenate(pair, axis=1) for pair in zip(best, new, strict=True)
        )
        score, places = _top(score, self._num_hypotheses)
        return _take(tokens, places), _take(log_p, places), score

    def _score(self, log_p: Tensor, length: Tensor) -> Tensor:
        """Return log_p (b, m) / lp, for sequences of `length` (b,) generated tokens."""
        offset = self.length_offset
        # Without generated tokens, the log-probability is 0 or -inf, whatever it is divided by.
        share = (offset + ops.maximum(length, 1.0)) / (offset + 1)
        return log_p / (share**self.length_penalty)[:, None]

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
