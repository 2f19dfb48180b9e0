"""`CausalLM`: a decoder-only language model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import builders
from functional_models.batches import Batches, DocumentBatches, TokenBatches
from functional_models.checks import check_count, check_is_text
from functional_models.corpora import Corpus, ParallelCorpus, TextCorpus
from functional_models.corpora.stored import count_characters
from functional_models.examples import (
    ExampleBatches,
    PackedExamples,
    PrefixExamples,
    are_examples,
    encode_examples,
    reply_characters,
)
from functional_models.objectives.prefixes import PrefixBatches
from functional_models.recipe import Recipe, make_recipe
from functional_models.samplers import check_option_names
from functional_models.strided_batches import StridedBatches
from functional_models.text_model import TextModel
from functional_models.text_outputs import AttentionMaps, TextPieces
from functional_models.token_streams import token_stream
from functional_models.tokenizer_base import text_list
from functional_models.tokenizers import Tokenizer, as_tokenizer


class CausalLM(TextModel):
    """A language model, which trains on text and continues prompts.

    Args:
        spec: a spec of kind `decoder_only`, or the name of a variant, which then gets the
            vocabulary size and padding of the tokenizer.
        tokenizer: a `Tokenizer`, or a KerasHub tokenizer.

    Raises:
        ValueError: another kind, or a vocabulary smaller than the tokenizer's.
    """

    kind = "decoder_only"
    target_role = "tokenizer"

    def __init__(self, spec: builders.TransformerSpec | str, tokenizer: Any) -> None:
        super().__init__(spec, {"tokenizer": as_tokenizer(tokenizer)})

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of prompts and generated text."""
        return self._tokenizer("tokenizer")

    def tokens(self, text: str | Sequence[str] | np.ndarray) -> np.ndarray:
        """Return text as one stream of tokens, int32 (N,), with an end token after each document.

        Args:
            text: a single text, which gets no end token; documents; or tokens, which are checked
                and returned as they are.

        Raises:
            ValueError: no text, or tokens outside the vocabulary.
        """
        tokens = self._tokens(text)
        return tokens if isinstance(text, np.ndarray) else tokens.astype("int32")

    def _tokens(self, text: Any, progress: bool = False) -> np.ndarray:
        """Return tokens (N,) as `tokens`, but memory-mapped and of the smallest type."""
        size = self.spec.vocabulary_size
        return token_stream(text, lambda: self.tokenizer, size, progress=progress)

    def fit(
        self,
        data: Corpus | str | Sequence[Any] | np.ndarray,
        validation: str | Sequence[Any] | np.ndarray | None = None,
        *,
        recipe: Recipe | None = None,
        folder: str | Path | None = None,
        overwrite: bool = False,
        block: int | None = None,
        sample_prompt: str | None = None,
        progress: bool = True,
        callbacks: tuple[Any, ...] = (),
        **changes: Any,
    ) -> list[dict[str, float]]:
        """Train on packed blocks of text, or on prompts and their replies, with `model.fit`.

        With `prefix_lm`, a block is split at a random point in each step, and the model learns what
        follows (Raffel et al. 2020, section 3.2.3); prompts are prefixes.

        Args:
            data: a corpus, a text, documents, or tokens int (N,), which may be memory-mapped; or
                examples, of which only the reply is learnt: (prompt, reply) pairs, or conversations
                for the chat template of the tokenizer, as lists of messages
                `{"role": "user", "content": "..."}`, whose last message is the reply.
            validation: the same; by default the validation part of a corpus.
            recipe: hyperparameters; `changes` replace its fields (`steps=500`, ...).
            folder: folder for the best model, and for a checkpoint at every report. An interrupted
                run resumes exactly at its last checkpoint, and a finished one continues if it is
                given more steps.
            overwrite: replace another run, or a model, that the folder holds.
            block: tokens per row, or with examples the most; by default the `max_sequence_length`
                of the model.
            sample_prompt: a prompt to continue at every report.
            progress: show a header, a living line and a line per report.
            callbacks: further Keras callbacks.

        Returns:
            The rows of the reports; see `training.train`.

        Raises:
            ValueError: text shorter than a block, tokens outside the vocabulary, a `block` above
                `max_sequence_length`, a folder with another run, or with `packing="documents"` a
                text without end tokens, or a mixer that cannot keep documents apart; or an example
                that is no pair or conversation, or longer than a block; or documents apart with
                `prefix_lm`.
            FileExistsError: the folder holds something else than a run.
            BlockingIOError: another process or thread writes the folder.
        """
        recipe = make_recipe(recipe, changes)
        if isinstance(data, TextCorpus | ParallelCorpus):
            validation = data.validation if validation is None else validation
            data = data.train
        sizes = (block, recipe.batch_size, recipe.seed, progress, recipe.packing)
        for text in (data, validation):
            check_is_text(text, "fit")
        shapes = recipe.max_shapes
        batches = self._batches(data, "training text", *sizes, max_shapes=shapes)
        held_out = None
        if validation is not None and not (isinstance(validation, Sized) and not len(validation)):
            held_out = self._batches(validation, "validation text", *sizes, max_shapes=shapes)
        sample = None
        if sample_prompt is not None:
            prompt = sample_prompt
            self._encode_prompts([prompt], None)  # raises now, not at the first report

            def sample() -> str:
                return self.generate(prompt, "top_p", seed=recipe.seed, echo=True)

        return self._train(
            batches,
            recipe,
            folder,
            overwrite,
            validation=held_out,
            sample=sample,
            progress=progress,
            callbacks=callbacks,
        )

    def evaluate(
        self,
        data: str | Sequence[Any] | np.ndarray,
        *,
        block: int | None = None,
        stride: int | None = None,
        batch_size: int = 32,
        packing: str = "stream",
        progress: bool = True,
    ) -> dict[str, float]:
        """Return loss (nats per token), perplexity, token_accuracy, tokens, bits_per_character.

        Bits per character compare models with different tokenizers. They include the bits of the
        end tokens, and are omitted if the text has no characters. `packing` is as in `Recipe`; with
        `documents`, the first token of each document has no loss. Of examples, as `fit` takes them,
        the numbers are those of the replies.

        With `prefix_lm`, blocks of text are split at random points, the same ones in each call with
        the same `block` and `batch_size`, and the numbers are those of the tokens after them: they
        are not comparable with others.

        Args:
            data: as in `fit`, but no corpus.
            block: tokens that the model reads at once; by default its `max_sequence_length`.
            stride: tokens between the starts of overlapping blocks, in which only new tokens count,
                so that each has at least block - stride before it; by default `block`, where the
                first tokens of a block have little before them. It takes block / stride the time.
            batch_size: blocks that are computed at once.
            progress: show the progress with long texts.

        Raises:
            ValueError: as `fit`, or a stride above `block`, or any with `prefix_lm`.
        """
        from functional_models.training import bits_per_character, evaluate

        check_is_text(data, "evaluate")
        packing = Recipe(packing=packing).packing  # checked
        sizes = (block, batch_size, 0, progress, packing)
        batches = self._batches(data, "text", *sizes, stride=stride)
        row = evaluate(self.model, batches, progress=progress)
        if isinstance(batches, ExampleBatches):
            return row | bits_per_character(row["loss"], row["tokens"], reply_characters(data))
        assert isinstance(batches, TokenBatches)
        if isinstance(data, np.ndarray):
            data = self._documents(data) if self.tokenizers else ""
        characters = count_characters([data] if isinstance(data, str) else data)
        return row | bits_per_character(row["loss"], len(batches.tokens), characters)

    def check_data(self, data: str | Sequence[Any] | np.ndarray) -> None:
        check_is_text(data, "evaluate")
        self._batches(data, "text", None, batch_size=1, seed=0, progress=False)

    def _documents(self, tokens: np.ndarray) -> list[str]:
        """Return the text of a stream of tokens, cut at its end tokens, where `decode` stops."""
        ends = np.flatnonzero(np.asarray(tokens) == self.tokenizer.end_id) + 1
        return self.tokenizer.decode(np.split(tokens, ends))

    @cached_property
    def _packed(self) -> Any:
        return builders.build_packed(self.model, self.spec)

    def _batches(
        self,
        data: Any,
        what: str,
        block: int | None,
        batch_size: int,
        seed: int,
        progress: bool,
        packing: str = "stream",
        *,
        stride: int | None = None,
        max_shapes: int | None = None,
    ) -> Batches:
        longest = self.spec.max_sequence_length
        if block is None:
            block = longest
        check_count("block", block, most=longest)
        if self.spec.prefix_lm:
            _check_rows_of_prefixes(packing, stride)
        sizes = {"block": block, "batch_size": batch_size, "seed": seed}
        if stride is not None:
            check_count("stride", stride, most=block)
            if packing != "stream" or are_examples(data):
                raise ValueError(
                    f"stride={stride}: blocks overlap in a stream of text alone; omit it with "
                    'examples and with packing="documents"'
                )
            tokens = self._tokens(data, progress)
            return StridedBatches(tokens, stride=stride, what=what, **sizes)
        if are_examples(data):
            batches: Batches = self._example_batches(data, packing, max_shapes, **sizes)
        else:
            tokens = self._tokens(data, progress)
            batches = self._text_batches(tokens, what, packing, **sizes)
        if packing == "documents":
            batches.wiring = self._packed
        return batches

    def _text_batches(
        self, tokens: np.ndarray, what: str, packing: str, **sizes: int
    ) -> TokenBatches:
        if self.spec.prefix_lm:
            return PrefixBatches(tokens, **sizes, what=what)
        if packing == "stream":
            return TokenBatches(tokens, **sizes, what=what)
        return DocumentBatches(tokens, end_id=self.tokenizer.end_id, **sizes, what=what)

    def _example_batches(
        self,
        data: Sequence[Any],
        packing: str,
        max_shapes: int | None,
        block: int,
        batch_size: int,
        seed: int,
    ) -> ExampleBatches:
        pairs = encode_examples(self.tokenizer, data)
        lengths = pairs.lengths.sum(axis=1) - 1
        too_long = np.flatnonzero(lengths > block)
        if len(too_long):
            raise ValueError(
                f"{len(too_long)} examples have more than {block} tokens in prompt and reply (the "
                f"first is number {too_long[0] + 1}, the longest has {max(lengths)}); shorten or "
                "remove them, or use a larger block or max_sequence_length"
            )
        options: dict[str, Any] = {
            "pad_id": self.tokenizer.pad_id,
            "batch_size": batch_size,
            "seed": seed,
        }
        if packing == "documents":
            return PackedExamples(pairs, block=block, **options)
        batches = PrefixExamples if self.spec.prefix_lm else ExampleBatches
        return batches(pairs, max_shapes=max_shapes, max_length=block, **options)

    def generate(
        self,
        prompt: str | Sequence[str],
        sampler: Any = "top_p",
        *,
        max_new_tokens: int | None = None,
        stop_tokens: int | str | Sequence[int | str] = (),
        echo: bool = False,
        scores: bool = False,
        stream: bool = False,
        **sampler_options: Any,
    ) -> Any:
        """Continue one or several prompts until the end token.

        Args:
            prompt: one text or several, of any lengths.
            sampler: `greedy`, `top_k`, `top_p`, `random`, `contrastive`, `beam`, or a KerasHub
                sampler.
            max_new_tokens: maximum number of new tokens; by default 100, or as many as
                `max_sequence_length` leaves after the longest prompt.
            stop_tokens: further tokens that end a text, as ids or as text; not part of the result.
            echo: return the prompt with its continuation.
            scores: return `Generated`, with the log-probability of every token.
            stream: return an iterator over pieces of the text while it is generated: strings for a
                single prompt, otherwise lists with a string for each prompt.
            sampler_options: `temperature`, `k`, `p`, `alpha`, `num_beams`, `num_return_sequences`,
                `length_penalty`, `length_offset`, `early_stopping`, `repetition_penalty`,
                `no_repeat_ngram_size`, `min_new_tokens`, `min_p`, `seed`; see `make_sampler`.

        Returns:
            The continuation of each prompt, as a text or a `Generated`; with
            `num_return_sequences` a list of these, best first. For several prompts, a list.

        Raises:
            TypeError: an unknown option.
            ValueError: an empty prompt, a prompt without room for `max_new_tokens`, an unknown
                sampler, an option that it does not use, or a value that is not allowed.
        """
        check_option_names(self.generate, sampler_options)
        prompts = text_list(prompt)
        if not prompts:
            return iter(()) if stream else []
        encoded, limit = self._encode_prompts(prompts, max_new_tokens)
        results = self._continuations(
            encoded,
            self._generator.sampler(sampler, **sampler_options),
            limit,
            before=prompts if echo else [""] * len(prompts),
            stop_ids=self._stop_ids(stop_tokens),
            scores=scores,
            stream=stream,
        )
        return _first(results) if isinstance(prompt, str) else results

    def chat(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        sampler: Any = "top_p",
        *,
        max_new_tokens: int | None = None,
        stop_tokens: int | str | Sequence[int | str] = (),
        template: str | None = None,
        template_options: Mapping[str, Any] | None = None,
        scores: bool = False,
        stream: bool = False,
        **sampler_options: Any,
    ) -> Any:
        """Return the model's reply to a conversation, with the chat template of its tokenizer.

        Args:
            messages: the conversation, each message as `{"role": "user", "content": "..."}`; a text
                is a single message of the user.
            sampler, max_new_tokens, stop_tokens, scores, stream, sampler_options: as in `generate`.
            template: name of the chat template, if there are several; by default the one that is
                called `default`.
            template_options: further variables of the template, such as `tools`, `documents` or
                `enable_thinking`; `continue_final_message=True` continues the last message.

        Returns:
            The reply, as `generate` returns the continuation of a single prompt.

        Raises:
            TypeError: an unknown option.
            ValueError: a model without a chat template, messages that it refuses, or as `generate`.
        """
        check_option_names(self.chat, sampler_options)
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        text = self.tokenizer.format_chat(messages, template=template, **(template_options or {}))
        encoded = self.tokenizer.encode([text])
        results = self._continuations(
            encoded,
            self._generator.sampler(sampler, **sampler_options),
            self._room([text], encoded, max_new_tokens),
            before=[""],
            stop_ids=self._stop_ids(stop_tokens),
            scores=scores,
            stream=stream,
        )
        return _first(results)

    def _continuations(
        self,
        prompts: Sequence[np.ndarray],
        sampler: Any,
        limit: int,
        *,
        before: Sequence[str],
        stop_ids: Sequence[int],
        scores: bool,
        stream: bool,
    ) -> Any:
        """Return the continuations of prompts, each after a text; see `generate`."""
        if stream:
            if scores:
                raise ValueError("stream=True yields text; scores=True needs stream=False")
            rows = self._generator.stream(prompts, sampler, max_new_tokens=limit, stop_ids=stop_ids)
            return self._pieces(rows, prompts, before, stop_ids)
        found = self._generator(prompts, sampler, max_new_tokens=limit, stop_ids=stop_ids)
        return [
            self._generated(ids, new, before=text, stop_ids=stop_ids, scores=scores)
            for ids, new, text in zip(prompts, found, before, strict=True)
        ]

    def _pieces(
        self,
        rows: Iterator[list[np.ndarray]],
        prompts: Sequence[np.ndarray],
        before: Sequence[str],
        stop_ids: Sequence[int],
    ) -> Iterator[list[str]]:
        """Yield the new text of every row, after the prompts if they are echoed."""
        if any(before):
            yield list(before)
        growing = [TextPieces() for _ in prompts]
        for tokens in rows:
            texts = [
                self._text(prompt, new, stop_ids)
                for prompt, new in zip(prompts, tokens, strict=True)
            ]
            pieces = [row.grown(text) for row, text in zip(growing, texts, strict=True)]
            if any(pieces):
                yield pieces
        last = [row.rest() for row in growing]
        if any(last):
            yield last

    def attention_maps(self, text: str, target: str | None = None) -> AttentionMaps:
        if target is not None:
            raise ValueError("a language model reads a single text; give no target")
        tokens = self._encode_prompts([text], None, room=0)[0][0]
        return self._attention_maps(tokens)

    def _encode_prompts(
        self, prompts: Sequence[str], max_new_tokens: int | None, room: int = 1
    ) -> tuple[list[np.ndarray], int]:
        """Return the tokens of prompts, which leave room for `room` tokens, and the limit."""
        encoded = self.tokenizer.encode_prompts(prompts)
        return encoded, self._room(prompts, encoded, max_new_tokens, room)

    def _room(
        self,
        prompts: Sequence[str],
        encoded: Sequence[np.ndarray],
        max_new_tokens: int | None,
        room: int = 1,
    ) -> int:
        """Return the limit of new tokens, after a check that prompts leave room for `room`."""
        if max_new_tokens is not None:
            check_count("max_new_tokens", max_new_tokens)
        longest = self.spec.max_sequence_length
        for text, ids in zip(prompts, encoded, strict=True):
            if not len(ids):
                raise ValueError(f"prompt {text!r} has no tokens; give at least one character")
            if len(ids) + room > longest:
                raise ValueError(
                    f"prompt {text[:40]!r} has {len(ids)} tokens and max_sequence_length is "
                    f"{longest}; shorten the prompt to at most {longest - room} tokens"
                )
            if max_new_tokens is not None and len(ids) + max_new_tokens > longest:
                raise ValueError(
                    f"prompt {text[:40]!r} has {len(ids)} tokens, max_new_tokens is "
                    f"{max_new_tokens} and max_sequence_length is {longest}; use a max_new_tokens "
                    f"of at most {longest - len(ids)}"
                )
        return max_new_tokens or min(100, longest - max(map(len, encoded)))


def _check_rows_of_prefixes(packing: str, stride: int | None) -> None:
    """Check that each row has one prefix, and that labels count wherever it ends.

    Raises:
        ValueError: packed documents, or overlapping blocks.
    """
    if packing != "stream":
        raise ValueError(
            f"packing={packing!r}: a row of a model with prefix_lm=True has one prefix, not one "
            "for each document; leave packing out"
        )
    if stride is not None:
        raise ValueError(
            f"stride={stride}: blocks of a model with prefix_lm=True begin with a prefix, of which "
            "nothing is predicted, so that they cannot overlap; leave stride out"
        )


def _first(results: Any) -> Any:
    """Return the result of a single prompt: of a list, or of an iterator over pieces of text."""
    return results[0] if isinstance(results, list) else (row[0] for row in results)
