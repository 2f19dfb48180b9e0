"""A `CausalLM` as a model of EleutherAI's evaluation harness, the package `lm_eval`.

Requests are answered as the harness's own `HFLM` answers them: contexts are cut on the left, and
log-likelihoods are of all logits. Special tokens are never doubled.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from functional_models.causal_lm import CausalLM
from functional_models.checks import check_count
from functional_models.harness_settings import Settings, read_settings
from functional_models.row_scores import Row, RowScorer, in_batches

_DEFAULT_LIMIT = 256
"""New tokens where a task does not say how many, as in `HFLM`."""


def harness_model(lm: CausalLM, *, batch_size: int = 8) -> Any:
    """Return a model for `lm_eval.simple_evaluate(model=...)`.

    It is an `lm_eval.api.model.TemplateLM`, and answers requests of every type: `loglikelihood`
    (multiple choice too), `loglikelihood_rolling` and `generate_until`. With `prefix_lm`, contexts
    are prefixes. An empty context stands for the start token that the tokenizer puts before
    prompts, or without one for the end token, which texts follow in training.

    Args:
        lm: the language model; further training is seen.
        batch_size: rows that are computed at once.

    Raises:
        ImportError: the package `lm_eval` is not installed.
        TypeError: `lm` is no `CausalLM`.
        ValueError: `lm` has no tokenizer, or a batch size below 1.
    """
    if not isinstance(lm, CausalLM):
        raise TypeError(f"harness_model takes a CausalLM, given {type(lm).__name__}")
    check_count("batch_size", batch_size)
    _ = lm.tokenizer  # an error without one
    try:
        from lm_eval.api.model import TemplateLM
    except ImportError as error:
        raise ImportError(
            "harness_model needs the package lm_eval; install it: "
            "pip install 'functional-models[harness]'"
        ) from error

    class HarnessModel(Answers, TemplateLM):
        """A `CausalLM` as a model of the harness; see `harness_model`."""

    return HarnessModel(lm, batch_size)


class Answers:
    """The methods of `TemplateLM` that depend on the model.

    Attributes:
        tokenizer: the tokenizer of the model.
        batch_size: rows that are computed at once.
        cache_hook: the cache of the harness, which `TemplateLM` sets.
    """

    cache_hook: Any

    def __init__(self, lm: CausalLM, batch_size: int) -> None:
        super().__init__()
        self.tokenizer = lm.tokenizer
        self.batch_size = batch_size
        self._lm = lm
        self._scorer = RowScorer(lm.model, lm.spec)

    def __repr__(self) -> str:
        return f"<HarnessModel of {self._lm!r}>"

    @property
    def max_length(self) -> int:
        """The number of tokens that the model reads at once."""
        return self._lm.spec.max_sequence_length

    @property
    def max_gen_toks(self) -> int:
        """The new tokens where a task does not say how many: half of a short window at most."""
        return min(_DEFAULT_LIMIT, self.max_length // 2)

    @property
    def eot_token_id(self) -> int:
        """The end token."""
        return self.tokenizer.end_id

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without a context."""
        return [*self.tokenizer.input_start, self.tokenizer.end_id][0]

    @property
    def tokenizer_name(self) -> str:
        """A name of the tokenizer and its chat templates, for the harness's cache of requests."""
        digest = hashlib.sha256(self.tokenizer.file_content.encode()).hexdigest()
        return f"{self.tokenizer.name}-{digest[:16]}"

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        """Return a conversation as text; the last message is continued without a prompt.

        Raises:
            ValueError: the tokenizer has no chat template, or it refuses the messages.
        """
        return self.tokenizer.format_chat(
            chat_history,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    # Tokens

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Return the tokens of a text, after start tokens unless it begins with them.

        Args:
            string: the text.
            add_special_tokens: whether to put start tokens before it in any case, or never.
        """
        start = self.tokenizer.input_start
        ids = self.tokenizer.encode([string])[0].tolist()
        if add_special_tokens is None:
            add_special_tokens = ids[: len(start)] != start
        return start + ids if add_special_tokens else ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return the tokens of a context, and those that a continuation adds to them.

        Spaces between them belong to the continuation, as in `TemplateLM`. Where a token would
        span both, they are encoded apart, so that no character is lost.
        """
        words = context.rstrip()
        whole, before = self.tok_encode(context + continuation), self.tok_encode(words)
        if not before:  # a context of spaces, and no start tokens
            return [self.prefix_token_id], whole
        if whole[: len(before)] == before:
            return before, whole[len(before) :]
        rest = context[len(words) :] + continuation
        return before, self.tok_encode(rest, add_special_tokens=False)

    def _prompt(self, context: str) -> list[int]:
        """Return the tokens of a prompt, as `generate` reads it, but with a single start."""
        start = self.tokenizer.input_start
        ids = self.tokenizer.encode_prompts([context])[0].tolist()
        if start and ids[len(start) : 2 * len(start)] == start:
            ids = ids[len(start) :]
        return ids or [self.prefix_token_id]

    # Log-likelihoods; `loglikelihood` is that of `TemplateLM`

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
        """Return the log-likelihood of each text, of which every token is predicted once.

        The first token follows `prefix_token_id`. Of a text that is longer than `max_length`, each
        further window of the model begins with tokens of the one before.
        """
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        pairs: list[Any] = []
        numbers: list[int] = []  # of texts, for each window
        for number, request in enumerate(requests):
            (text,) = request.args
            ids = self.tok_encode(text, add_special_tokens=False)
            if ids[:1] == [self.prefix_token_id]:
                ids = ids[1:]  # it is the context
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1)
            for window in windows:
                pairs.append((None, *make_disjoint_window(window)))
                numbers.append(number)
        totals = [0.0] * len(requests)
        found = self._loglikelihood_tokens(pairs, disable_tqdm=disable_tqdm)
        for number, (score, _) in zip(numbers, found, strict=True):
            totals[number] += score
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Return log-likelihoods of continuations, and whether greedy search finds them.

        Continuations that differ in their last token alone, such as letters of choices, are scored
        with one row.

        Args:
            requests: (texts, or None; tokens of the context; tokens of the continuation).
            disable_tqdm: show no progress.

        Raises:
            ValueError: a continuation without tokens, or longer than `max_length`.
        """
        numbers: dict[Row, list[int]] = {}  # of the requests that a row answers
        for number, request in enumerate(requests):
            numbers.setdefault(self._row(*request), []).append(number)
        _warn_of_cuts(
            len(context) + len(continuation) - self.max_length - 1
            for _, context, continuation in requests
        )
        if not self._scorer.is_current:
            self._scorer = RowScorer(self._lm.model, self._lm.spec)
        answers: list[Any] = [None] * len(requests)
        size = min(self.batch_size, len(numbers))
        borders = self._lm.spec.length_borders
        with _bar("loglikelihood", len(requests), disable_tqdm) as bar:
            for rows in in_batches(numbers, lambda row: len(row.tokens), size, borders):
                for row, scores in zip(rows, self._scorer(rows, size), strict=True):
                    for number in numbers[row]:
                        texts, _context, continuation = requests[number]
                        answers[number] = scores.of(continuation)
                        if texts is not None:
                            self.cache_hook.add_partial("loglikelihood", texts, answers[number])
                        bar.update(1)
        return answers

    def _row(self, texts: Any, context: Sequence[int], continuation: Sequence[int]) -> Row:
        if not 0 < len(continuation) <= self.max_length:
            text = "" if texts is None else f" {texts[1][:40]!r}"
            raise ValueError(
                f"continuation{text} has {len(continuation)} tokens; a continuation has 1 to "
                f"{self.max_length} (max_sequence_length): change or remove it in the task"
            )
        tokens = [*context, *continuation][-self.max_length - 1 : -1]
        prefix = len(tokens) + 1 - len(continuation)
        return Row(tuple(tokens), prefix if self._lm.spec.prefix_lm else 0)

    # Generation

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the continuation of each context, up to a stop text or the end token.

        Contexts that leave no room for `max_gen_toks` new tokens are cut on the left. Draws depend
        on the random state of NumPy, which the harness seeds.

        Raises:
            ValueError: an option of generation that is unknown, or has a value that is not allowed.
        """
        asked: dict[Settings, dict[int, list[int]]] = {}  # -> prompts by request
        too_many = []
        for number, request in enumerate(requests):
            context, given = request.args
            settings = read_settings(given, self.max_length, self.max_gen_toks)
            ids, room = self._prompt(context), self.max_length - settings.limit
            too_many.append(len(ids) - room)
            asked.setdefault(settings, {})[number] = ids[-room:]
        _warn_of_cuts(too_many)
        texts = [""] * len(requests)
        with _bar("generate_until", len(requests), disable_tqdm) as bar:
            for settings, prompts in asked.items():
                for number, text in self._generated(prompts, settings):
                    texts[number] = text
                    self.cache_hook.add_partial("generate_until", requests[number].args, text)
                    bar.update(1)
        return texts

    def _generated(
        self, prompts: Mapping[int, Sequence[int]], settings: Settings
    ) -> Iterator[tuple[int, str]]:
        """Yield the number and the text of each prompt."""
        size = min(self.batch_size, len(prompts))
        borders = self._lm.spec.length_borders
        for batch in in_batches(
            prompts, lambda number: len(prompts[number]) + settings.limit, size, borders
        ):
            # Full batches, which need no other compilation.
            rows = [batch[i % len(batch)] for i in range(size)]
            arrays = [np.array(prompts[number], "int32") for number in rows]
            yield from zip(batch, self._continued(arrays, settings), strict=False)

    def _continued(self, prompts: Sequence[np.ndarray], settings: Settings) -> list[str]:
        """Return continuations; generation ends when all have their stop text or end."""
        lm, special = self._lm, self.tokenizer.special_ids
        encoded = self.tokenizer.encode([*settings.until]) if settings.until else []
        # Special tokens are no part of the text in which stops are looked for.
        named = [int(ids[0]) for ids in encoded if len(ids) == 1 and ids[0] in special]
        stops = lm._stop_ids(named)
        ends = {self.tokenizer.end_id, *stops}
        options: dict[str, Any] = dict(settings.options)
        if settings.sampler != "greedy":
            options["seed"] = int(np.random.randint(2**31))
        sampler = lm._generator.sampler(settings.sampler, **options)
        texts: list[str] = []
        for tokens in lm._generator.stream(
            prompts, sampler, max_new_tokens=settings.limit, stop_ids=stops
        ):
            whole = [lm._text(*pair, stops) for pair in zip(prompts, tokens, strict=True)]
            texts = [settings.cut(text) for text in whole]
            if all(
                cut != text or (len(new) and int(new[-1]) in ends)
                for cut, text, new in zip(texts, whole, tokens, strict=True)
            ):
                break
        return texts


def _warn_of_cuts(too_many: Iterable[int]) -> None:
    """Log how many requests are cut, given by how many tokens each is too long."""
    cuts = [number for number in too_many if number > 0]
    if cuts:
        logging.getLogger(__name__).warning(
            "%d requests are longer than the model can read, and are cut on the left, by up to %d "
            "tokens",
            len(cuts),
            max(cuts),
        )


def _bar(kind: str, total: int, disabled: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, disable=disabled, desc=f"Running {kind} requests")
