"""`Translator`: an encoder-decoder translation model."""

from __future__ import annotations

import sys
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

import builders
from functional_models.batches import Batches, PairBatches, padded_rows
from functional_models.bleu import import_sacrebleu, translation_scores
from functional_models.checks import check_count, check_is_text
from functional_models.corpora import ParallelCorpus, TextCorpus
from functional_models.corpora.stored import StoredPairs
from functional_models.generation import translation_limit
from functional_models.objectives.spans import SpanBatches, SpanCorruption, objectives_of
from functional_models.prompts import bucket
from functional_models.recipe import Recipe, make_recipe
from functional_models.samplers import check_option_names
from functional_models.text_model import TextModel
from functional_models.text_outputs import AttentionMaps, Generated
from functional_models.token_streams import token_stream
from functional_models.tokenizer_base import text_list
from functional_models.tokenizers import Tokenizer, as_tokenizer

Pairs = Sequence[tuple[str, str]]
Objective = SpanCorruption | Sequence[SpanCorruption] | None


class Translator(TextModel):
    """A translation model, which trains on sentence pairs and translates sentences.

    Args:
        spec: a spec of kind `encoder_decoder`, or the name of a variant, which then gets the
            vocabulary sizes and padding of the tokenizers.
        source_tokenizer: a `Tokenizer`, or a KerasHub tokenizer.
        target_tokenizer: the same; by default the source tokenizer.

    Raises:
        ValueError: another kind, a vocabulary smaller than a tokenizer's, other padding than the
            tokenizers', or a target tokenizer that pads with its start or end token.
    """

    kind = "encoder_decoder"
    target_role = "target_tokenizer"

    def __init__(
        self,
        spec: builders.TransformerSpec | str,
        source_tokenizer: Any,
        target_tokenizer: Any = None,
    ) -> None:
        source = as_tokenizer(source_tokenizer)
        target = source if target_tokenizer is None else as_tokenizer(target_tokenizer)
        super().__init__(spec, {"source_tokenizer": source, "target_tokenizer": target})

    @property
    def source_tokenizer(self) -> Tokenizer:
        """The tokenizer of the sources."""
        return self._tokenizer("source_tokenizer")

    @property
    def target_tokenizer(self) -> Tokenizer:
        """The tokenizer of the translations."""
        return self._tokenizer("target_tokenizer")

    def _fitting_spec(self, spec: builders.TransformerSpec | str) -> builders.TransformerSpec:
        fitting = super()._fitting_spec(spec)
        if not self.tokenizers:
            return fitting
        target = self.target_tokenizer
        unseen = (target.start_id, target.end_id)
        if target.pad_id in (unseen if fitting.mask_target_padding else unseen[1:]):
            # Padding is masked and has no loss, so that the model could not learn to stop.
            raise ValueError(
                f"the target_tokenizer pads with id {target.pad_id}, which is also its start or "
                "end token; give one with a separate padding token, such as from train_tokenizer"
            )
        return fitting

    def _vocabulary_fields(self) -> dict[str, tuple[str, int]]:
        source = self.tokenizers["source_tokenizer"].vocabulary_size
        return {
            **super()._vocabulary_fields(),
            "source_vocabulary_size": ("source_tokenizer", source),
        }

    def fit(
        self,
        data: ParallelCorpus | Pairs | TextCorpus | str | Sequence[str] | np.ndarray,
        validation: Pairs | str | Sequence[str] | np.ndarray | None = None,
        *,
        objective: Objective = None,
        block: int | None = None,
        recipe: Recipe | None = None,
        folder: str | Path | None = None,
        overwrite: bool = False,
        sample_sources: Sequence[str] = (),
        progress: bool = True,
        callbacks: tuple[Any, ...] = (),
        **changes: Any,
    ) -> list[dict[str, float]]:
        """Train on sentence pairs, batched by length, or on text, with `model.fit`.

        Args:
            data: a corpus, or (source, target) pairs; with an `objective` a text, documents, or
                tokens int (N,), of which spans are removed that the model restores.
            validation: the same; by default the validation part of a corpus.
            objective: a `SpanCorruption` or several, such as `ul2()`, to train on text. Both
                tokenizers must be the same, with sentinels.
            block: tokens of the longer of source and target of rows of text; by default the
                `max_sequence_length` of the model.
            recipe: hyperparameters; `changes` replace its fields (`steps=500`, ...).
            folder: folder for the best model, and for a checkpoint at every report. An interrupted
                run resumes exactly at its last checkpoint, and a finished one continues if it is
                given more steps.
            overwrite: replace another run, or a model, that the folder holds.
            sample_sources: sentences to translate at every report.
            progress: show a header, a living line and a line per report.
            callbacks: further Keras callbacks.

        Returns:
            The rows of the reports; see `training.train`.

        Raises:
            ValueError: no pairs, a sentence that is empty or longer than `max_sequence_length`,
                text shorter than a row, spans longer than a row, too few sentinels, or a folder
                with another run.
            FileExistsError: the folder holds something else than a run.
            BlockingIOError: another process or thread writes the folder.
        """
        recipe = make_recipe(recipe, changes)
        if recipe.packing != "stream":
            raise ValueError(
                f"packing={recipe.packing!r} is for language models: each pair of a translator has "
                "a row of its own; leave it out"
            )
        if isinstance(data, ParallelCorpus if objective is None else TextCorpus):
            validation = data.validation if validation is None else validation
            data = data.train
        sizes = (objective, block, recipe.batch_size, recipe.seed, progress, recipe.max_shapes)
        batches = self._batches_of(data, "training text", *sizes)
        held_out = None
        if validation is not None and not (isinstance(validation, Sized) and not len(validation)):
            held_out = self._batches_of(validation, "validation text", *sizes)
        sample = None
        if sample_sources:
            self._encode_sources(sample_sources)  # raises now, not at the first report

            def sample() -> str:
                texts = self.translate(sample_sources)
                rows = zip(sample_sources, texts, strict=True)
                return "\n".join(f"    {source} -> {target}" for source, target in rows)

        return self._train(
            batches,
            recipe,
            folder,
            overwrite,
            validation=held_out,
            exact_match=objective is None,
            sample=sample,
            progress=progress,
            callbacks=callbacks,
        )

    def evaluate(
        self,
        data: Pairs | str | Sequence[str] | np.ndarray,
        *,
        objective: Objective = None,
        block: int | None = None,
        batch_size: int = 64,
        bleu: bool = False,
        sampler: Any = "greedy",
        progress: bool = True,
        **sampler_options: Any,
    ) -> dict[str, float]:
        """Return loss (nats per token), perplexity, token_accuracy, tokens, exact_match and bits.

        exact_match is the share of pairs that greedy decoding translates without any wrong token.
        bits_per_character compares models with different tokenizers: the bits of the tokens of a
        target, with its end token, over its characters.

        Args:
            data: (source, target) pairs; with an `objective`, text.
            objective, block: as in `fit`. There is no exact_match, and there are no bits.
            batch_size: rows of a batch.
            bleu: also translate the sources, and return the BLEU and the chrF of the translations,
                0 to 100; `progress` prints their signatures. See `translation_scores`.
            sampler, sampler_options: how to translate; see `translate`.
            progress: show the progress.

        Raises:
            ValueError: as `fit`; or `bleu` with an `objective`.
            ImportError: `bleu` without the package sacrebleu.
        """
        from functional_models.training import bits_per_character, evaluate

        if not bleu and (sampler_options or sampler != "greedy"):
            given = ", ".join(["sampler"] * (sampler != "greedy") + list(sampler_options))
            raise TypeError(f"{given}: only for bleu=True, which translates")
        if bleu:
            if objective is not None:
                raise ValueError("bleu=True compares translations; omit it with an objective")
            import_sacrebleu()  # raises now, not after the evaluation
        batches = self._batches_of(data, "text", objective, block, batch_size, 0, progress)
        row = evaluate(self.model, batches, exact_match=objective is None, progress=progress)
        if objective is not None:
            return row
        pairs: Any = data
        characters = sum(len(target) for _, target in pairs)
        row |= bits_per_character(row["loss"], row["tokens"], characters)
        if not bleu:
            return row
        sources, references = ([pair[side] for pair in pairs] for side in (0, 1))
        written = self.translate(sources, sampler, progress=progress, **sampler_options)
        scores = translation_scores(written, references)
        if progress:
            print("\n".join(scores.signatures.values()), flush=True)
        return row | {"bleu": scores.bleu, "chrf": scores.chrf}

    def check_data(self, data: Pairs) -> None:
        self._batches(data, batch_size=1, seed=0, progress=False)

    def _batches_of(
        self,
        data: Any,
        what: str,
        objective: Objective,
        block: int | None,
        batch_size: int,
        seed: int,
        progress: bool,
        max_shapes: int | None = None,
    ) -> Batches:
        if objective is not None:
            return self._span_batches(data, what, objective, block, batch_size, seed, progress)
        if block is not None:
            raise ValueError("block is for text with an objective; pairs are batched by length")
        return self._batches(data, batch_size, seed, progress, max_shapes)

    def _batches(
        self,
        pairs: Pairs,
        batch_size: int,
        seed: int,
        progress: bool,
        max_shapes: int | None = None,
    ) -> PairBatches:
        _check_pairs(pairs)
        tokens = self.source_tokenizer.encode_pairs(pairs, self.target_tokenizer, progress=progress)
        self._check_lengths(tokens.lengths[:, 0], "source")
        self._check_lengths(tokens.lengths[:, 1] - 1, "target")
        return PairBatches(
            tokens,
            pad_id=self.target_tokenizer.pad_id,
            batch_size=batch_size,
            max_shapes=max_shapes,
            max_length=self.spec.max_sequence_length,
            seed=seed,
        )

    def _span_batches(
        self,
        data: Any,
        what: str,
        objective: Objective,
        block: int | None,
        batch_size: int,
        seed: int,
        progress: bool,
    ) -> SpanBatches:
        check_is_text(data, "an objective")
        source, tokenizer = self.source_tokenizer, self.target_tokenizer
        # Those of a saved model are read one by one.
        if source is not tokenizer and source.file_content != tokenizer.file_content:
            raise ValueError(
                "span corruption has the same text on both sides, and source and target have "
                "different tokenizers; build the model with one tokenizer"
            )
        longest = self.spec.max_sequence_length
        block = longest if block is None else block
        check_count("block", block, most=longest)
        return SpanBatches(
            token_stream(data, lambda: tokenizer, tokenizer.vocabulary_size, progress=progress),
            tokenizer,
            objectives_of(objective),
            longest=block,
            batch_size=batch_size,
            seed=seed,
            what=what,
        )

    def _check_lengths(self, lengths: Sequence[int] | np.ndarray, what: str) -> None:
        longest = self.spec.max_sequence_length
        too_long = np.flatnonzero(np.asarray(lengths) > longest)
        if len(too_long):
            raise ValueError(
                f"{len(too_long)} {what} sentences have more than {longest} tokens, the "
                f"max_sequence_length of the model (the first is number {too_long[0] + 1}, the "
                f"longest has {max(lengths)}); remove them, or use a larger max_sequence_length"
            )

    def translate(
        self,
        source: str | Sequence[str],
        sampler: Any = "greedy",
        *,
        max_new_tokens: int | None = None,
        batch_tokens: int = 8192,
        scores: bool = False,
        return_attention: bool = False,
        progress: bool = True,
        **sampler_options: Any,
    ) -> Any:
        """Translate one or several sentences.

        Sentences are batched by length; the results are in the order of the sources. The
        translation of a blank source is the empty text.

        Args:
            source: one sentence or several.
            sampler: `greedy`, `top_k`, `top_p`, `random`, `contrastive`, `beam`, or a KerasHub
                sampler.
            max_new_tokens: maximum number of tokens of a translation; by default one and a half
                times the length of its source plus 16, limited by `max_sequence_length`.
            batch_tokens: maximum number of tokens of a batch, sources and translations together;
                limits the memory use.
            scores: return `Generated`, with the log-probability of every token.
            return_attention: return pairs of a translation and its `AttentionMaps`.
            progress: show a progress bar on a terminal if there are several batches.
            sampler_options: `temperature`, `k`, `p`, `alpha`, `num_beams`, `num_return_sequences`,
                `length_penalty`, `length_offset`, `early_stopping`, `repetition_penalty`,
                `no_repeat_ngram_size`, `min_new_tokens`, `encoder_no_repeat_ngram_size`,
                `encoder_repetition_penalty`, `min_p`, `seed`; see `make_sampler`.

        Returns:
            The translation of each sentence, as a text or a `Generated`; with
            `num_return_sequences` a list of these, best first. For several sentences, a list.

        Raises:
            TypeError: neither a text nor a list of texts, or an unknown option.
            ValueError: a source that is longer than `max_sequence_length`, an unknown sampler, an
                option that it does not use, or a value that is not allowed.
        """
        check_option_names(self.translate, sampler_options)
        sources = text_list(source)
        if not sources:
            return []
        encoded = self._encode_sources(sources, blanks=True)
        room = self.spec.max_sequence_length - len(self.target_tokenizer.target_start)
        if max_new_tokens is not None:
            check_count("max_new_tokens", max_new_tokens, most=room)
        check_count("batch_tokens", batch_tokens)
        chosen = self._generator.sampler(sampler, **sampler_options)
        if return_attention and getattr(chosen, "num_return_sequences", 1) > 1:
            raise ValueError(
                "return_attention=True returns a single translation; omit num_return_sequences"
            )
        limits = [max_new_tokens or min(room, translation_limit(len(ids))) for ids in encoded]
        beams = getattr(chosen, "num_beams", getattr(chosen, "k", 1))
        batches = _batches_by_length(encoded, limits, batch_tokens // beams)
        blank = _blank_translation(chosen, scores, return_attention)
        results: list[Any] = [blank] * len(sources)
        is_shown = progress and len(batches) > 1 and sys.stderr.isatty()
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not is_shown) as bar:
            task = bar.add_task("sentences", total=len(sources))
            for rows in batches:
                found = self._translate_batch(
                    [encoded[row] for row in rows], [limits[row] for row in rows], chosen
                )
                for row, sequences in zip(rows, found, strict=True):
                    start = np.array(self.target_tokenizer.target_start, "int32")
                    results[row] = self._generated(
                        start, sequences, scores=scores, source=self._padded([encoded[row]])[0]
                    )
                    if return_attention:
                        target = np.concatenate([start, sequences[0]])
                        results[row] = results[row], self._attention_maps(target, encoded[row])
                bar.advance(task, len(rows))
        return results[0] if isinstance(source, str) else results

    def _translate_batch(
        self, sources: list[np.ndarray], limits: list[int], sampler: Any
    ) -> list[list[np.ndarray]]:
        """Return the sequences of tokens for each source."""
        # A power of two of rows, so that few shapes are compiled.
        rows = 1 << (len(sources) - 1).bit_length()
        padded = self._padded(sources + sources[-1:] * (rows - len(sources)))
        starts = [np.array(self.target_tokenizer.target_start, "int32")] * rows
        limits = limits + limits[-1:] * (rows - len(limits))
        found = self._generator(
            starts, sampler, max_new_tokens=limits, source=padded, stop_ids=self._stop_ids(())
        )
        return found[: len(sources)]

    def _padded(self, sources: Sequence[np.ndarray]) -> np.ndarray:
        """Return sources as an array (b, s), padded to a bucket or to `max_sequence_length`."""
        width = bucket(max(map(len, sources)), self.spec.length_borders)
        width = min(width, self.spec.max_sequence_length)
        return padded_rows(sources, width, self.source_tokenizer.pad_id)

    def attention_maps(self, text: str, target: str | None = None) -> AttentionMaps:
        source = self._encode_sources([text])[0]
        if target is None:
            return self.translate(text, return_attention=True)[1]
        ids = self.target_tokenizer.encode([target], start=True)[0]
        self._check_lengths([len(ids)], "target")
        return self._attention_maps(ids, source)

    def _encode_sources(self, sources: Sequence[str], blanks: bool = False) -> list[np.ndarray]:
        """Return the tokens of each source; `blanks` allows blank ones, which have none."""
        encoded = self.source_tokenizer.encode_sources(sources)
        encoded = [
            ids[:0] if text.isspace() or not text else ids
            for text, ids in zip(sources, encoded, strict=True)
        ]
        empty = [number for number, ids in enumerate(encoded, 1) if not len(ids)]
        if empty and not blanks:
            raise ValueError(f"source sentence {empty[0]} is empty; give some text")
        self._check_lengths([len(ids) for ids in encoded], "source")
        return encoded


def _blank_translation(sampler: Any, scores: bool, with_attention: bool) -> Any:
    """Return the translation of a blank source, in the form of the others."""
    none = np.zeros(0, "int32")
    text: Any = Generated("", none, none.astype("float32")) if scores else ""
    if with_attention:
        return text, AttentionMaps((), (), {})
    number = getattr(sampler, "num_return_sequences", 1)
    return text if number == 1 else [text] * number


def _check_pairs(pairs: Pairs) -> None:
    """Raise an error unless `pairs` is a sequence of (source, target) texts."""
    if isinstance(pairs, ParallelCorpus):
        raise TypeError("a ParallelCorpus has three splits; give its .train, .validation or .test")
    if isinstance(pairs, str) or not isinstance(pairs, Sequence):
        given = "one text" if isinstance(pairs, str) else type(pairs).__name__
        raise TypeError(
            f"expected (source, target) pairs, given {given}; load files with "
            "load_parallel_corpus, or train on text with objective=SpanCorruption()"
        )
    if isinstance(pairs, StoredPairs):
        return
    for number, pair in enumerate(pairs, 1):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(f"pair number {number} is {pair!r:.60}; must be (source, target)")


def _batches_by_length(
    sources: Sequence[np.ndarray], limits: Sequence[int], batch_tokens: int
) -> list[list[int]]:
    """Return batches of source indices, of similar length and with a power of two of rows.

    A batch has at most `batch_tokens` tokens, including padding, unless it is a single row. Sources
    without tokens are in none.
    """
    rows_left = [row for row, ids in enumerate(sources) if len(ids)]
    order = sorted(rows_left, key=lambda row: (len(sources[row]), limits[row]))
    batches = []
    while order:  # the longest first, so that a lack of memory shows early
        longest = order[-1]
        width = bucket(len(sources[longest])) + bucket(max(limits[row] for row in order))
        rows = max(1, batch_tokens // width)
        rows = 1 << (rows.bit_length() - 1)
        batches.append(order[-rows:][::-1])
        del order[-rows:]
    return batches
