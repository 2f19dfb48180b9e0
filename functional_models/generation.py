"""Generation of tokens with the cached decode graphs that `builders` derives from a model.

Rows of a batch are padded on the left, so that all prompts end in the same column. A prompt, except
its last token, is read in one pass; a compiled loop then reads token after token. Lengths are
bucketed, so that other prompts or numbers of new tokens rarely need another compilation.

Shapes: b rows, L columns of tokens, v vocabulary; for other letters see `builders`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import keras
import numpy as np
from keras import ops, tree

import builders
from functional_models.checks import check_count
from functional_models.compiled import LoopWeights, compiled, to_numpy, with_projections
from functional_models.logit_processors import NEVER, only_end
from functional_models.prompts import NO_TOKEN, Prompts, bucket, model_inputs
from functional_models.samplers import make_sampler
from functional_models.token_rules import TokenRules, rules_of

_MAX_LOOPS = 8  # compiled loops that a generator keeps; each holds a graph
_PIECE_SECONDS = 0.05  # approximate time between two pieces of a stream

Tensor = Any


def translation_limit(source_length: Any) -> Any:
    """Return the default limit of tokens of a translation: int or tensor."""
    return source_length + source_length // 2 + 16


class Generator:
    """Continues token sequences with a model.

    Args:
        model: a model of `spec`.
        spec: a spec of kind `decoder_only` or `encoder_decoder`.
        end_id: id of the end token.
        vocabulary_size: number of valid ids, if it is smaller than that of the spec.
        suppressed: ids that are never generated.
        forces_end: whether the last token of a sequence that reaches its limit is the end token.
    """

    def __init__(
        self,
        model: Any,
        spec: builders.TransformerSpec,
        *,
        end_id: int,
        vocabulary_size: int | None = None,
        suppressed: Sequence[int] = (),
        forces_end: bool = False,
    ) -> None:
        self._model = model
        self._spec = spec
        self._end_id = end_id
        self._vocabulary_size = vocabulary_size or spec.vocabulary_size
        self._suppressed, self._forces_end = tuple(suppressed), forces_end
        self._samplers: dict[tuple[Any, ...], Any] = {}
        self._loops: dict[tuple[Any, ...], tuple[Any, Callable[..., Any]]] = {}

    def __call__(
        self,
        prompts: Sequence[np.ndarray],
        sampler: Any,
        *,
        max_new_tokens: int | Sequence[int],
        source: np.ndarray | None = None,
        stop_ids: Sequence[int] = (),
    ) -> list[list[np.ndarray]]:
        """Return the generated sequences of tokens for each prompt, best first.

        There is one sequence per prompt, unless the sampler returns several. It includes the end
        token or stop token, if one was generated.

        Args:
            prompts: int (t,) each, not empty, of any lengths.
            sampler: a sampler from `sampler`.
            max_new_tokens: maximum number of new tokens, for all prompts or for each.
            source: int (b, s), for an encoder-decoder.
            stop_ids: further tokens that end a sequence.
        """
        limits = np.broadcast_to(max_new_tokens, len(prompts))
        if chooses_token_by_token(sampler):
            *_, tokens = self.stream(
                prompts, sampler, max_new_tokens=limits, source=source, stop_ids=stop_ids, pieces=1
            )
            return [[row] for row in tokens]
        ends = (self._end_id, *stop_ids)
        # One more column than required, in which the end is certain; see `_search`.
        batch = Prompts(prompts, limits, self._spec, columns_to_spare=1)
        given = np.zeros(batch.tokens.shape, bool)
        given[:, : batch.index] = True
        if is_search(sampler):
            # Beam search needs no end there: it would count as a token of the sequence.
            given |= np.arange(given.shape[1]) >= batch.limits[:, None]
            cache, _ = self._read(batch, source, sampler, whole_prompt=False)
            hidden = np.zeros((len(prompts), 1, 1), "float32")  # not used
        else:
            cache, read = self._read(batch, source, sampler, whole_prompt=True)
            hidden = self._hidden_states(batch, read)
            # The loop reads the last token again, into the same slot. A memory that adds tokens up
            # must not have it yet.
            if any(block.mixer != "attention" for block in self._spec.blocks("decoder")):
                cache, _ = self._read(batch, source, sampler, whole_prompt=False)
        loop = self._loop(sampler, ends, self._search)
        weights = self._transposed(self._weights.values())
        # As in Hugging Face, a target has one start token; others count as generated.
        counted = np.float32(batch.index - batch.start - 1) * (source is not None)
        state = (batch.tokens, given, cache, np.int32(batch.index), hidden, counted)
        found = to_numpy(loop(weights, *state))
        found = found[:, None] if found.ndim == 2 else found  # (b, sequences, L)
        return [[batch.new_tokens(i, row, ends) for row in rows] for i, rows in enumerate(found)]

    def _hidden_states(self, batch: Prompts, read: Tensor) -> np.ndarray:
        """Return the hidden states of prompts (b, t, d) for contrastive search, (b, L, d)."""
        hidden = np.asarray(to_numpy(read), "float32")
        # Padding columns repeat the last state, so that they do not change the maximum similarity.
        absent = batch.tokens[:, : batch.index, None] == NO_TOKEN
        hidden = np.where(absent, hidden[:, -1:], hidden)
        return np.pad(hidden, ((0, 0), (0, batch.tokens.shape[1] - batch.index), (0, 0)))

    def stream(
        self,
        prompts: Sequence[np.ndarray],
        sampler: Any,
        *,
        max_new_tokens: int | Sequence[int] | np.ndarray,
        source: np.ndarray | None = None,
        stop_ids: Sequence[int] = (),
        pieces: int | None = None,
    ) -> Iterator[list[np.ndarray]]:
        """Yield, repeatedly, all tokens generated so far for each prompt.

        Args:
            prompts, sampler, max_new_tokens, source, stop_ids: as for a call.
            pieces: maximum number of yields; by default about 20 per second.

        Raises:
            ValueError: a sampler that compares whole sequences, such as beam search.
        """
        if not chooses_token_by_token(sampler):
            raise ValueError(
                f"{type(sampler).__name__} compares whole sequences and cannot be streamed; stream "
                "with greedy, top_k, top_p or random"
            )
        ends = (self._end_id, *stop_ids)
        limits = np.broadcast_to(max_new_tokens, len(prompts))
        batch = Prompts(prompts, limits, self._spec)
        return self._streamed(batch, sampler, source, ends, pieces, _values(sampler.variables))

    def _streamed(
        self,
        batch: Prompts,
        sampler: Any,
        source: np.ndarray | None,
        ends: tuple[int, ...],
        pieces: int | None,
        seeds: list[np.ndarray],
    ) -> Iterator[list[np.ndarray]]:
        """Yield as `stream`; the draws start from `seeds`."""
        cache, _ = self._read(batch, source, sampler, whole_prompt=False)
        loop = self._loop(sampler, (), self._continue)
        tokens: Any = batch.tokens
        index, end, done = batch.index, int(batch.limits.max()), np.zeros(len(tokens), bool)
        weights = self._weights.values()
        if len(tokens) > 1:
            weights = self._transposed(weights)
        stops = np.array(ends, "int32")
        columns = 1 if pieces is None else -(-(end - index) // pieces)
        while True:
            started = time.perf_counter()
            until = min(index + columns, end)
            state = (tokens, cache, np.int32(index), done, np.int32(until), stops)
            # Other calls may use the same sampler between two pieces.
            for variable, seed in zip(sampler.variables, seeds, strict=True):
                variable.assign(seed)
            tokens, cache, reached, done = loop(weights, *state)
            seeds = _values(sampler.variables)
            index, done = int(to_numpy(reached)), to_numpy(done)
            rows = to_numpy(tokens)
            yield [batch.new_tokens(i, row[:index], ends) for i, row in enumerate(rows)]
            if done.all() or index >= end:
                return
            if pieces is None and time.perf_counter() - started < _PIECE_SECONDS:
                columns *= 2

    def log_probabilities(
        self,
        prompts: Sequence[np.ndarray],
        continuations: Sequence[np.ndarray],
        source: np.ndarray | None = None,
    ) -> list[np.ndarray]:
        """Return the log-probability of every token of each continuation, float32 (t,) each.

        Computed with a forward pass of the model over prompt and continuation, independent of the
        sampler.
        """
        found = []
        for i, (prompt, new) in enumerate(zip(prompts, continuations, strict=True)):
            tokens = np.concatenate([prompt, new]).astype("int32")
            padded = np.zeros((1, bucket(len(tokens), self._spec.length_borders)), "int32")
            padded = padded[:, : self._spec.max_sequence_length + 1]
            padded[0, : len(tokens)] = tokens
            own = None if source is None else source[i : i + 1]
            inputs = model_inputs(self._spec, padded[:, :-1], len(prompt), own)
            scores = to_numpy(self._score(self._weights.values(), inputs, padded[:, 1:]))[0]
            found.append(scores[len(prompt) - 1 : len(tokens) - 1])
        return found

    def sampler(self, sampler: Any, *, seed: int | None = None, **options: Any) -> Any:
        """Return the sampler of `make_sampler`, the same instance for the same options.

        The loop is compiled per sampler, so that a new instance would need another compilation.
        Draws still start from `seed`; an instance that is given continues with its own seeds.

        Raises:
            ValueError: as `make_sampler`, or more beams or choices than tokens.
        """
        made = make_sampler(sampler, seed=seed, **options)  # also checks the options
        if self._spec.kind == "decoder_only":
            for name, value in rules_of(made).of_source.items():
                raise ValueError(f"{name}={value!r}: a language model has no source; leave it out")
        if k := options.get("k", getattr(made, "k", None)):
            check_count("k", k, most=self._vocabulary_size)
        if sampler == "beam":
            check_count("num_beams", made.num_beams, most=self._vocabulary_size)
        if made is sampler:
            return sampler
        key = (sampler, *sorted(options.items()))
        kept = self._samplers.setdefault(key, made)
        if isinstance(sampler, str) and kept.variables:
            kept.seed_generator.state.assign(keras.random.SeedGenerator(seed).state)
        return kept

    # Graphs, and compiled functions of them

    @cached_property
    def _step(self) -> Any:
        return with_projections(builders.build_decode_step(self._model, self._spec, None, 1))

    @cached_property
    def _steps(self) -> Any:
        return builders.build_decode_step(self._model, self._spec, None, None)

    @cached_property
    def _encode(self) -> Any:
        return builders.build_encode(self._model, self._spec)

    @cached_property
    def _weights(self) -> Any:
        return LoopWeights(self._model, self._step)

    @cached_property
    def _transposed(self) -> Callable[..., Any]:
        return compiled(self._weights.transposed)

    def _read(
        self, batch: Prompts, source: np.ndarray | None, sampler: Any, *, whole_prompt: bool
    ) -> tuple[dict[str, Any], Tensor]:
        """Read prompts into a cache, without their last token unless `whole_prompt` or a prefix.

        Returns the cache, with what the rules of the sampler need, and the hidden states (b, t, d)
        of the tokens read.
        """
        # The other tokens of a prefix attend to the last one, which the loop reads once more, into
        # the same slot.
        reads_all = whole_prompt or self._spec.prefix_lm
        number = batch.index if reads_all else batch.index - 1
        # Its shape is the number of slots; the last token of all is never read.
        slots = np.zeros(batch.tokens.shape[1] - 1, bool)
        tokens = np.maximum(batch.tokens[:, :number], 0)
        sources = () if source is None else (source,)
        cache, hidden = self._prefill(self._weights.values(), slots, tokens, batch.start, *sources)
        first = np.full(len(batch.tokens), batch.index, "int32")
        rules = rules_of(sampler).arrays(first, source, self._spec.pad_token_id)
        state = {"model": cache, "start": batch.start, "limit": batch.limits, "rules": rules}
        return state, hidden

    @cached_property
    def _prefill(self) -> Callable[..., Any]:
        def prefill(
            weights: Any, slots: Tensor, tokens: Tensor, start: Tensor, source: Any = None
        ) -> tuple[Any, Tensor]:
            cache = builders.empty_cache(
                self._model, self._spec, tokens.shape[0], max_length=slots.shape[0]
            )
            with self._weights.scope(weights):
                if source is not None:
                    cache = {**cache, **self._encode(source, training=False)["cache"]}
                if not tokens.shape[1]:
                    return cache, ()
                inputs = {"tokens": tokens, "index": 0, "start": start, "cache": cache}
                read = self._steps(inputs, training=False)
            return read["cache"], read["hidden"]

        return compiled(prefill)

    @cached_property
    def _score(self) -> Callable[..., Any]:
        def score(weights: Any, inputs: Any, targets: Tensor) -> Tensor:
            with self._weights.scope(weights):
                logits = ops.cast(self._model(inputs, training=False), "float32")
            log_probabilities = ops.log_softmax(logits[..., : self._vocabulary_size], axis=-1)
            return ops.take_along_axis(log_probabilities, targets[..., None], axis=-1)[..., 0]

        return compiled(score)

    def _loop(
        self, sampler: Any, ends: tuple[int, ...], function: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Return a function of the arrays of a batch, compiled for a sampler."""
        key = (id(sampler), ends)
        if key not in self._loops:
            if len(self._loops) == _MAX_LOOPS:
                del self._loops[next(iter(self._loops))]
            run = compiled(function(sampler, ends), sampler.variables)
            # Keeps the sampler too, so that no other object gets its id.
            self._loops[key] = sampler, run
        self._loops[key] = self._loops.pop(key)  # the least recently used is removed first
        return self._loops[key][1]

    def _continue(self, sampler: Any, ends: tuple[int, ...]) -> Callable[..., Any]:
        """Return the loop of samplers that choose token by token."""
        process = getattr(sampler, "process", lambda logits, tokens, index: logits)
        from keras_hub.samplers import GreedySampler

        is_greedy = type(getattr(sampler, "sampler", sampler)) is GreedySampler

        def run(
            weights: Any,
            tokens: Tensor,
            cache: Any,
            index: Tensor,
            done: Tensor,
            until: Tensor,
            stops: Tensor,
        ) -> Any:
            def has_more(tokens: Tensor, cache: Any, index: Tensor, done: Tensor) -> Tensor:
                return ops.logical_and(index < until, ops.logical_not(ops.all(done)))

            def step(tokens: Tensor, cache: Any, index: Tensor, done: Tensor) -> Any:
                logits, _, cache = next_logits(tokens, with_rows(cache), index)
                logits = process(logits, tokens, index)
                if is_greedy:
                    token = _greatest(logits)
                else:
                    token = sampler.get_next_token(sampler.compute_probabilities(logits))
                token = ops.where(done, self._end_id, ops.cast(token, "int32"))
                tokens = ops.slice_update(tokens, (0, index), token[:, None])
                stopped = ops.any(ops.equal(token[:, None], stops[None]), axis=1)
                full = index + 1 >= cache["limit"]
                done = ops.logical_or(done, ops.logical_or(stopped, full))
                return tokens, without_row(cache), index + 1, done

            # A single row loses its batch axis in the loop, as `CacheUpdate` writes it: otherwise
            # XLA would copy the whole cache at every step.
            def without_row(cache: Any) -> Any:
                return tree.map_structure(lambda x: x[0], cache) if tokens.shape[0] == 1 else cache

            def with_rows(cache: Any) -> Any:
                single = tokens.shape[0] == 1
                return tree.map_structure(lambda x: x[None], cache) if single else cache

            if tokens.shape[0] == 1:
                weights = self._weights.matrices(weights)
            next_logits = partial(self._next, weights, rules_of(sampler), stops)
            state = [ops.convert_to_tensor(x) for x in (tokens, index, done)]
            loop_vars = (state[0], without_row(cache), *state[1:])
            tokens, cache, index, done = sampler.run_loop(has_more, step, loop_vars=loop_vars)
            return tokens, with_rows(cache), index, done

        return run

    def _search(self, sampler: Any, ends: tuple[int, ...]) -> Callable[..., Any]:
        """Return the loop of a sampler that implements its own, such as beam search."""

        def run(
            weights: Any,
            tokens: Tensor,
            given: Tensor,
            cache: Any,
            index: Tensor,
            hidden: Tensor,
            counted: Tensor,
        ) -> Tensor:
            stops = np.array(ends, "int32")
            # In the search of Hugging Face, penalties are of log-probabilities.
            normalized = is_search(sampler) and hasattr(sampler, "process")
            next_logits = partial(
                self._next, weights, rules_of(sampler), stops, normalized=normalized
            )

            def next_or_end(tokens: Tensor, cache: Any, index: Tensor) -> Any:
                """Set the probability of the end to 1 where a row has reached its limit."""
                logits, hidden, cache = next_logits(tokens, cache, index)
                full = ops.greater_equal(index, cache["limit"])
                return only_end(logits, full, self._end_id), hidden, cache

            return sampler(
                next=next_or_end,
                prompt=ops.convert_to_tensor(tokens),
                cache=cache,
                index=index,
                mask=given,
                stop_token_ids=ends,
                hidden_states=ops.convert_to_tensor(hidden),
                **({"counted": counted} if is_search(sampler) else {}),
            )

        return run

    def _next(
        self,
        weights: Any,
        rules: TokenRules,
        ends: Tensor,
        tokens: Tensor,
        cache: Any,
        index: Tensor,
        normalized: bool = False,
    ) -> Any:
        """Read the token at `index` - 1; `tokens`, `cache` and `index` are those of samplers.

        tokens (b, L) -> logits (b, v), hidden states (b, d), updated cache. If they are to be
        `normalized`, the logits are log-probabilities before rules and other conditions.
        """
        last = ops.slice(tokens, (0, index - 1), (tokens.shape[0], 1))
        inputs = {
            "tokens": ops.maximum(last, 0),
            "index": index - 1,
            "start": cache["start"],
            "cache": cache["model"],
        }
        with self._weights.step_scope(weights):
            read = self._step(inputs, training=False)
        logits = ops.cast(read["logits"][:, 0], "float32")
        logits = ops.log_softmax(logits, axis=-1) if normalized else logits
        logits = rules.apply(logits, tokens, index, cache["rules"], ends)
        if self._vocabulary_size < logits.shape[-1]:
            is_token = ops.arange(logits.shape[-1]) < self._vocabulary_size
            logits = ops.where(is_token, logits, NEVER)
        if self._suppressed:
            ids = ops.arange(logits.shape[-1], dtype="int32")[:, None]
            is_suppressed = ops.any(ops.equal(ids, np.array(self._suppressed, "int32")), axis=1)
            logits = ops.where(is_suppressed, NEVER, logits)
        if self._forces_end:
            last = ops.greater_equal(index + 1, cache["limit"])
            logits = only_end(logits, last, self._end_id)
        hidden = ops.cast(read["hidden"][:, 0], "float32")
        return logits, hidden, {**cache, "model": read["cache"]}


def chooses_token_by_token(sampler: Any) -> bool:
    """Return whether a sampler has no loop of its own."""
    from keras_hub.samplers import Sampler  # whose import takes seconds

    inner = getattr(sampler, "sampler", sampler)  # of a `ProcessedSampler`
    return type(inner).__call__ is Sampler.__call__


def is_search(sampler: Any) -> bool:
    """Return whether a sampler ranks whole sequences, as `BeamSearch` does."""
    return hasattr(getattr(sampler, "sampler", sampler), "search")


def _greatest(logits: Tensor) -> Tensor:
    """Return the first token with the greatest logit: (b, v) -> int (b,).

    Equivalent to `argmax`, which XLA compiles on CPUs to a slow sequential loop. These two passes
    run over all rows at once, in the memory order of the logits.
    """
    columns = ops.transpose(logits)  # (v, b)
    ids = ops.arange(columns.shape[0], dtype="int32")[:, None]
    is_greatest = ops.equal(columns, ops.max(columns, axis=0, keepdims=True))
    return ops.min(ops.where(is_greatest, ids, columns.shape[0] - 1), axis=0)


def _values(variables: Sequence[Any]) -> list[np.ndarray]:
    return [to_numpy(variable.value) for variable in variables]
