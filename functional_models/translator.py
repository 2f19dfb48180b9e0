"""`Translator`: an encoder-decoder model that trains on sentence pairs and translates."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import builders
from functional_models.attention import AttentionMaps, maps_of_tokens
from functional_models.batches import PairBatches
from functional_models.corpora import ParallelCorpus
from functional_models.generation import bucket, translation_limit
from functional_models.samplers import check_count
from functional_models.text_model import TextModel, make_recipe
from functional_models.tokenizers import Tokenizer, as_tokenizer

Pairs = Sequence[tuple[str, str]]


class Translator(TextModel):
    """A translation model: source text in, target text out.

    Args:
        spec: of kind `encoder_decoder`; or the name of a variant, which then gets the
            vocabularies of the tokenizers.
        source_tokenizer: one of ours or of keras-nlp's.
        target_tokenizer: the same; `None`: one for both.

    Raises:
        ValueError: another kind, fewer ids in the spec than a tokenizer has, tokenizers whose
            padding is not the spec's, or a target tokenizer that pads with its start or end token.
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
        """What sentences to translate go through."""
        return self._tokenizer("source_tokenizer")

    @property
    def target_tokenizer(self) -> Tokenizer:
        """What translations go through."""
        return self._tokenizer("target_tokenizer")

    def _fitting_spec(self, spec: builders.TransformerSpec | str) -> builders.TransformerSpec:
        fitting = super()._fitting_spec(spec)
        if not self.tokenizers:
            return fitting
        target = self.target_tokenizer
        unseen = (target.start_id, target.end_id)
        if target.pad_id in (unseen if fitting.mask_target_padding else unseen[1:]):
            # No attention sees padding, and no loss counts it: the model could not learn to stop.
            raise ValueError(
                f"the target_tokenizer pads with id {target.pad_id}, which is its start or end "
                "token too; give one with a padding token of its own, as train_tokenizer makes"
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
        data: ParallelCorpus | Pairs,
        validation: Pairs | None = None,
        *,
        recipe: Any = None,
        folder: str | Path | None = None,
        sample_sources: Sequence[str] = (),
        progress: bool = True,
        callbacks: tuple[Any, ...] = (),
        **changes: Any,
    ) -> list[dict[str, float]]:
        """Train on sentence pairs, bucketed by length, by `model.fit`.

        Args:
            data: a corpus, or (source, target) pairs.
            validation: pairs; taken from the corpus where `data` is one.
            recipe: a `Recipe`; `changes` are made to it (`steps=500`, ...).
            folder: gets the best model, and a checkpoint at every report. A run that was
                interrupted goes on exactly where its last checkpoint was.
            sample_sources: sentences to translate at every report.
            progress: show a bar and a line per report.
            callbacks: more Keras callbacks.

        Returns:
            Rows of the reports; see `training.train`.

        Raises:
            ValueError: no pairs, a sentence that is empty or longer than the model takes, or a
                folder with another run.
        """
        recipe = make_recipe(recipe, changes)
        if isinstance(data, ParallelCorpus):
            validation = data.validation if validation is None else validation
            data = data.train
        batches = self._batches(data, recipe.batch_size, recipe.seed)
        held_out = None
        if validation is not None and len(validation):
            held_out = self._batches(validation, recipe.batch_size, recipe.seed)
        sample = None
        if sample_sources:
            self._encode_sources(sample_sources)  # refuse them now, not at the first report

            def sample() -> str:
                texts = self.translate(sample_sources)
                rows = zip(sample_sources, texts, strict=True)
                return "\n".join(f"    {source} -> {target}" for source, target in rows)

        return self._train(
            batches,
            recipe,
            folder,
            validation=held_out,
            exact_match=True,
            sample=sample,
            progress=progress,
            callbacks=callbacks,
        )

    def evaluate(self, pairs: Pairs, *, batch_size: int = 64) -> dict[str, float]:
        """Return loss (nats per token), perplexity, token_accuracy, tokens and exact_match.

        exact_match is the share of pairs that greedy decoding gets right to the last token.

        Raises:
            ValueError: as `fit`.
        """
        from functional_models.training import evaluate

        return evaluate(self.model, self._batches(pairs, batch_size, 0), exact_match=True)

    def _batches(self, pairs: Pairs, batch_size: int, seed: int) -> PairBatches:
        _check_pairs(pairs)
        sources = self.source_tokenizer.encode_sources([source for source, _ in pairs])
        targets = self.target_tokenizer.encode(
            [target for _, target in pairs], start=True, end=True
        )
        self._check_lengths([len(ids) for ids in sources], "source")
        self._check_lengths([len(ids) - 1 for ids in targets], "target")
        return PairBatches(
            list(zip(sources, targets, strict=True)),
            pad_id=self.target_tokenizer.pad_id,
            batch_size=batch_size,
            max_length=self.spec.max_sequence_length,
            seed=seed,
        )

    def _check_lengths(self, lengths: list[int], what: str) -> None:
        longest = self.spec.max_sequence_length
        too_long = [i for i, length in enumerate(lengths) if length > longest]
        if too_long:
            raise ValueError(
                f"{len(too_long)} {what} sentences have more than {longest} tokens, the "
                f"max_sequence_length of the model (the first is number {too_long[0] + 1}, the "
                f"longest has {max(lengths)}); remove them, or give a larger max_sequence_length"
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
        """Translate a sentence, or each of several.

        Many sentences are translated in batches of similar length; the order of the results is
        that of the sources.

        Args:
            source: one sentence or several.
            sampler: `greedy`, `top_k`, `top_p`, `random`, `contrastive`, `beam`, or a keras-nlp
                sampler.
            max_new_tokens: the most tokens of a translation; `None`: one and a half times those
                of its source and 16 more, as far as the model goes.
            batch_tokens: the most tokens of a batch, source and translations of all its sentences
                together; sets how much memory is used.
            scores: return `Generated`, with the log-probability of every token.
            return_attention: return pairs, of the translation and its `AttentionMaps`.
            progress: show a bar, on a terminal, where there is more than one batch.
            sampler_options: `temperature`, `k`, `p`, `alpha`, `num_beams`, `length_penalty`,
                `num_return_sequences`, `repetition_penalty`, `min_p`, `seed`; see `make_sampler`.

        Returns:
            The translation: a text or a `Generated`, with `num_return_sequences` a list of them,
            best first. For several sentences a list of that.

        Raises:
            ValueError: a source that is empty or longer than the model takes, an unknown sampler,
                or an option that is not allowed.
        """
        sources = [source] if isinstance(source, str | bytes) else list(source)
        if not sources:
            return []
        encoded = self._encode_sources(sources)
        room = self.spec.max_sequence_length - len(self.target_tokenizer.target_start)
        if max_new_tokens is not None:
            check_count("max_new_tokens", max_new_tokens, most=room)
        check_count("batch_tokens", batch_tokens)
        chosen = self._generator.sampler(sampler, **sampler_options)
        if return_attention and getattr(chosen, "num_return_sequences", 1) > 1:
            raise ValueError(
                "return_attention=True shows one translation; give no num_return_sequences"
            )
        limits = [max_new_tokens or min(room, translation_limit(len(ids))) for ids in encoded]
        beams = getattr(chosen, "num_beams", getattr(chosen, "k", 1))
        batches = _batches_by_length(encoded, limits, batch_tokens // beams)
        results: list[Any] = [None] * len(sources)
        with _progress_bar(len(sources), progress and len(batches) > 1) as advance:
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
                        results[row] = results[row], self._maps(encoded[row], target)
                advance(len(rows))
        return results[0] if isinstance(source, str) else results

    def _translate_batch(
        self, sources: list[np.ndarray], limits: list[int], sampler: Any
    ) -> list[list[np.ndarray]]:
        """Return the sequences of tokens for each source."""
        # As many rows as a power of two: so few shapes are compiled.
        rows = 1 << (len(sources) - 1).bit_length()
        padded = self._padded(sources + sources[-1:] * (rows - len(sources)))
        starts = [np.array(self.target_tokenizer.target_start, "int32")] * rows
        limits = limits + limits[-1:] * (rows - len(limits))
        found = self._generator(starts, sampler, max_new_tokens=limits, source=padded)
        return found[: len(sources)]

    def _padded(self, sources: Sequence[np.ndarray]) -> np.ndarray:
        """Return sources as one array (b, s), a bucket of columns, or all that the model takes."""
        width = min(bucket(max(map(len, sources))), self.spec.max_sequence_length)
        padded = np.full((len(sources), width), self.source_tokenizer.pad_id, "int32")
        for row, ids in enumerate(sources):
            padded[row, : len(ids)] = ids
        return padded

    def attention_maps(self, text: str, target: str | None = None) -> AttentionMaps:
        """Return where the model looks while it translates a text; see `attention_maps`."""
        if target is None:
            return self.translate(text, return_attention=True)[1]
        source = self._encode_sources([text])[0]
        ids = self.target_tokenizer.encode([target], start=True)[0]
        self._check_lengths([len(ids)], "target")
        return self._maps(source, ids)

    def _maps(self, source: np.ndarray, target: np.ndarray) -> AttentionMaps:
        return maps_of_tokens(
            self._probe, target, self.target_tokenizer, source, self.source_tokenizer
        )

    def _encode_sources(self, sources: Sequence[str]) -> list[np.ndarray]:
        encoded = self.source_tokenizer.encode_sources(sources)
        for number, ids in enumerate(encoded):
            if not len(ids):
                raise ValueError(f"source sentence {number + 1} is empty; give some text")
        self._check_lengths([len(ids) for ids in encoded], "source")
        return encoded


def _check_pairs(pairs: Pairs) -> None:
    """Refuse what is not a sequence of (source, target) texts."""
    if isinstance(pairs, ParallelCorpus):
        raise TypeError("a ParallelCorpus has three splits; give its .train, .validation or .test")
    if isinstance(pairs, str):
        raise TypeError(
            "expected (source, target) pairs, given one text; load files by load_parallel_corpus"
        )
    for number, pair in enumerate(pairs, 1):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(f"pair number {number} is {pair!r:.60}; must be (source, target)")


def _batches_by_length(
    sources: Sequence[np.ndarray], limits: Sequence[int], batch_tokens: int
) -> list[list[int]]:
    """Return the numbers of the sources in batches: similar lengths, a power of two of rows.

    No batch has more than `batch_tokens` tokens with its padding, unless it is a single row.
    """
    order = sorted(range(len(sources)), key=lambda row: (len(sources[row]), limits[row]))
    batches = []
    while order:  # from the longest on, so that memory runs out soon or never
        longest = order[-1]
        width = bucket(len(sources[longest])) + bucket(max(limits[row] for row in order))
        rows = max(1, batch_tokens // width)
        rows = 1 << (rows.bit_length() - 1)
        batches.append(order[-rows:][::-1])
        del order[-rows:]
    return batches


@contextmanager
def _progress_bar(total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal; yield the function that moves it on."""
    if not (shown and sys.stderr.isatty()):
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("sentences", total=total)
        yield lambda count: bar.advance(task, count)
