"""Export to a TensorFlow SavedModel from text to text, which runs without this package.

Tokenizers, cached decoding and weights are one graph. Loading it requires `tensorflow` only;
`sentence_piece` also requires `import tensorflow_text` before loading, which registers operations
(TensorFlow Serving has them built in).

    serving_default  text: string (b,)      -> text: string (b,)
    tokens           tokens: int32 (b, t)   -> tokens: int32 (b, n)

Tokens are padded with -1 on the right. Ids and texts equal those of Python, except that the two
implementations of `sentence_piece` differ in ties and in several spaces before a text. The folder
also has a `README.txt` and a manifest `export.json`: a later export replaces a folder only if the
manifest names all of its content.

Shapes: b rows, L columns of tokens; `builders` has the other letters.
"""

from __future__ import annotations

import ctypes
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

import builders
from builders.cache import cache_entries
from functional_models.checks import check_count, read_json
from functional_models.compiled import Weights
from functional_models.folders import EXPORT as MANIFEST
from functional_models.folders import LOCK, check_content, folder_path, make_folder, only_writer
from functional_models.generation import chooses_token_by_token, translation_limit
from functional_models.graph_tokenizers import (
    NO_TOKEN,
    WHITE_SPACE,
    GraphDecoder,
    graph_encoder,
    tf,
)
from functional_models.logit_processors import NEVER, only_end
from functional_models.samplers import check_option_names
from functional_models.token_rules import NO_RULES, rules_of

FORMAT = 1

Tensor = Any


def export_saved_model(
    text_model: Any,
    folder: str | Path,
    *,
    overwrite: bool = False,
    max_new_tokens: int | None = None,
    sampler: Any = "greedy",
    **sampler_options: Any,
) -> Path:
    """Write a SavedModel of a `CausalLM` or a `Translator`; see `TextModel.export`."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"export requires the TensorFlow backend, given {keras.backend.backend()}: save the "
            "model, and export it with KERAS_BACKEND=tensorflow functional-models export"
        )
    check_option_names(export_saved_model, sampler_options, "export")
    if text_model.kind == "encoder_only":
        raise ValueError(
            "an encoder returns vectors, not text; export its Keras model with "
            "model.model.export(folder)"
        )
    room = text_model.spec.max_sequence_length - 1
    if max_new_tokens is not None:
        check_count("max_new_tokens", max_new_tokens, most=room)
    chosen = text_model._generator.sampler(sampler, **sampler_options)
    if not chooses_token_by_token(chosen):
        raise ValueError(
            f"sampler={sampler!r} compares whole sequences, but an exported model samples token by "
            "token; export with greedy, top_k, top_p or random"
        )
    if rules_of(chosen) != NO_RULES:
        raise ValueError(f"{rules_of(chosen)!r} is not part of an exported model; leave it out")
    check_export_folder(folder, overwrite=overwrite)
    exported = ExportedModel(text_model, chosen, max_new_tokens)
    manifest = {
        "format": FORMAT,
        "kind": text_model.kind,
        "imports": exported.imports,
        "sampler": sampler if isinstance(sampler, str) else type(sampler).__name__,
        "max_new_tokens": max_new_tokens,
        "spec": text_model.spec.to_dict(),
    }
    with _replaced_folder(folder, overwrite=overwrite) as scratch:
        module, signatures = exported.module()
        try:
            tf.saved_model.save(module, str(scratch), signatures=signatures)
        except tf.errors.OpError as error:  # such as a full disk
            reason = error.message.rpartition("; ")[2]  # after the node and the file
            raise OSError(f"{folder} cannot be written: {reason}") from error
        (scratch / "README.txt").write_text(_readme(exported, manifest), "utf-8")
        manifest["files"] = sorted({*os.listdir(scratch), MANIFEST})
        (scratch / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    return Path(folder)


def _readme(exported: ExportedModel, manifest: dict[str, Any]) -> str:
    result = "continuation" if manifest["kind"] == "decoder_only" else "translation"
    lines = [
        f"A TensorFlow SavedModel that returns the {result} of each text.",
        "",
        *(f"    import {name}" for name in exported.imports),
        '    model = tensorflow.saved_model.load("path/to/this/folder")',
        '    model.signatures["serving_default"](text=tensorflow.constant(["..."]))["text"]',
        "",
        'The signature "tokens" takes and returns token ids, int32 (b, t), padded with -1 on the',
        "right. The result has the new tokens only, with the end token if there is one.",
        "Empty texts, and texts that leave no room for new tokens, raise an error.",
    ]
    return "\n".join(lines) + "\n"


def check_export_folder(folder: str | Path, *, overwrite: bool = False) -> None:
    """Check that an export may be written to a folder.

    Raises:
        FileExistsError: it has content; with `overwrite`, content that no export wrote.
        ValueError: it is a file, or lies inside the folder of a model.
    """
    path = folder_path(folder)
    if not path.is_dir():
        return
    own = _exported_files(path)
    if others := set(os.listdir(path)) - own:
        raise FileExistsError(
            f"{folder} has content that no earlier export wrote, such as {min(others)}; give a new "
            "folder, or remove it"
        )
    check_content(path, (MANIFEST, "saved_model.pb"), overwrite=overwrite)


@contextmanager
def _replaced_folder(folder: str | Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder, which replaces `folder` at the end; an error leaves the old one."""
    # A sibling, because a rename works only within one file system.
    target = Path(os.path.realpath(folder))
    parent, prefix = make_folder(target.parent), f".{target.name}.export-"
    with only_writer(parent, f".{target.name}{LOCK}", what=target):
        for left in parent.glob(f"{glob.escape(prefix)}*"):  # of exports that were killed
            if (left / "old").exists() and not target.exists():
                os.replace(left / "old", target)
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as outer:
            scratch, old = Path(outer) / "new", Path(outer) / "old"
            scratch.mkdir()  # with the permissions of the umask, unlike the one around it
            yield scratch
            check_export_folder(target, overwrite=overwrite)  # it may have changed meanwhile
            if target.exists() and not _exchange(scratch, target):
                os.replace(target, old)
            if scratch.exists() and not target.exists():
                try:
                    os.replace(scratch, target)
                except BaseException:
                    if old.exists():
                        os.replace(old, target)
                    raise


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders at once; return whether the system can do so (Linux)."""
    exchange = 2  # RENAME_EXCHANGE of linux/fs.h
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, TypeError):  # TypeError from Windows
        return False
    paths = [os.fsencode(path.absolute()) for path in (first, second)]
    return bool(rename(-1, paths[0], -1, paths[1], exchange) == 0)


def _exported_files(folder: Path) -> set[str]:
    """Return the names that the manifest of an earlier export lists; none without a valid one."""
    try:
        manifest = read_json(folder / MANIFEST)
        return {str(name) for name in manifest["files"]} if "kind" in manifest else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()


class ExportedModel:
    """The exported functions: tokenization, cached decoding, detokenization.

    Args:
        text_model: a `CausalLM` or a `Translator`.
        sampler: a sampler that chooses token by token.
        max_new_tokens: maximum number of new tokens; `None` for the default of Python.
    """

    def __init__(self, text_model: Any, sampler: Any, max_new_tokens: int | None) -> None:
        spec, model = text_model.spec, text_model.model
        self._spec = spec
        self._max_new_tokens = max_new_tokens
        self._translates = spec.kind == "encoder_decoder"
        self._sampler = sampler
        target = text_model.tokenizers[text_model.target_role]
        source = text_model.tokenizers.get("source_tokenizer", target)
        self._end_id, self._target_start = target.end_id, target.target_start
        self._suppressed, self._forces_end = list(target.suppressed_ids), target.ends_at_limit
        self._vocabulary_size = target.vocabulary_size
        self._source_vocabulary_size = source.vocabulary_size
        self._source_pad_id = source.pad_id
        self._encoder = graph_encoder(source)
        self._before = source.input_start
        self._after = source.source_end if self._translates else []
        self._decoder = GraphDecoder(target)
        self._step = builders.build_decode_step(model, spec, None, 1)
        if self._translates:
            self._encode = builders.build_encode(model, spec)
        # The loop reads the last token; only BART's targets start with more than one.
        self._reads_before = not self._translates or len(self._target_start) > 1
        if self._reads_before:
            self._steps = builders.build_decode_step(model, spec, None, None)
        self._weights = Weights(model, self._step)
        self._dtype = next(x.compute_dtype for x in model.layers if x.weights)
        self._variables = [x.value for x in (*model.variables, *sampler.variables)]

    @property
    def imports(self) -> list[str]:
        """The modules that must be imported before the SavedModel is loaded."""
        text = self._encoder.needs_tensorflow_text or self._decoder.needs_tensorflow_text
        return ["tensorflow", "tensorflow_text"] if text else ["tensorflow"]

    def module(self) -> tuple[Any, dict[str, Any]]:
        """Return the module to save and its signatures by name."""
        text = tf.TensorSpec([None], tf.string, name="text")
        tokens = tf.TensorSpec([None, None], tf.int32, name="tokens")
        # A single graph for both signatures.
        self._generated = tf.function(self._generate, input_signature=[tokens], autograph=False)
        module = tf.Module()
        module.parts = [*self._variables, *self._encoder.parts, *self._decoder.parts]
        module.text = tf.function(self._text, input_signature=[text], autograph=False)
        module.tokens = tf.function(self._tokens, input_signature=[tokens], autograph=False)
        return module, {"serving_default": module.text, "tokens": module.tokens}

    def _text(self, text: Tensor) -> dict[str, Tensor]:
        blank = tf.strings.regex_full_match(text, rf"[{WHITE_SPACE}\x1c-\x1f]*")
        if self._translates:  # a blank text for a blank one, which has no tokens
            text = tf.where(blank, "-", text)
        given = self._encoder(text)  # ragged (b, t)
        around = [
            tf.tile(tf.constant([ids], "int32"), [tf.shape(text)[0], 1])
            for ids in (self._before, self._after)
        ]
        given = tf.concat([around[0], given, around[1]], axis=1)
        tokens, prompt = self._generated(given.to_tensor(NO_TOKEN))
        before = self._decoder(prompt)
        both = self._decoder(tf.concat([prompt, tokens], axis=1))
        # As in Python: the continuation as decoded after the prompt, if that does not change.
        cut = tf.minimum(tf.strings.length(before), tf.strings.length(both))
        same = tf.equal(tf.strings.substr(both, tf.zeros_like(cut), cut), before)
        rest = tf.strings.substr(both, cut, tf.strings.length(both) - cut)
        new = tf.where(same, rest, self._decoder(tokens))
        return {"text": tf.where(blank, "", new) if self._translates else new}

    def _tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        return {"tokens": self._generated(tokens)[0]}

    def _generate(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """Return new tokens, and prompts padded on the left: int (b, t), -1 for no token."""
        lengths = tf.reduce_sum(tf.cast(given != NO_TOKEN, "int32"), axis=1)
        with tf.control_dependencies(self._checks(given, lengths)):
            given = tf.identity(given)
        longest = self._spec.max_sequence_length
        if not self._translates:
            limits = self._max_new_tokens
            if limits is None:
                limits = tf.minimum(100, longest - _longest(lengths))
            return self._continue(given, lengths, limits, {})
        limits = self._max_new_tokens
        if limits is None:
            limits = tf.minimum(longest - len(self._target_start), translation_limit(lengths))
        source = tf.where(given == NO_TOKEN, self._source_pad_id, given)
        with self._weights.scope(self._arrays()):
            memory = self._encode(source, training=False)["cache"]
        starts = tf.tile(tf.constant([self._target_start], "int32"), [tf.shape(given)[0], 1])
        lengths = tf.fill(tf.shape(lengths), len(self._target_start))
        return self._continue(starts, lengths, limits, memory)

    def _checks(self, given: Tensor, lengths: Tensor) -> list[Any]:
        longest = self._spec.max_sequence_length
        room = 0 if self._translates else self._max_new_tokens or 1
        there = tf.sequence_mask(lengths, tf.shape(given)[1])
        is_token = (given >= 0) & (given < self._source_vocabulary_size)
        fits = tf.reduce_all(tf.where(there, is_token, given == NO_TOKEN))
        wrong = f"tokens must be 0 to {self._source_vocabulary_size - 1}, padded with -1"
        return [
            tf.debugging.Assert(tf.reduce_all(lengths > 0), ["a text has no tokens:", lengths], 9),
            tf.debugging.Assert(
                tf.reduce_all(lengths <= longest - room),
                [f"a text has more than {longest - room} tokens, the maximum:", lengths],
                summarize=9,
            ),
            tf.debugging.Assert(fits, [wrong]),
        ]

    def _continue(
        self, prompt: Tensor, lengths: Tensor, limits: Tensor, memory: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Generate at most `limits` tokens after each prompt of (b, t), padded on the right."""
        rows = tf.shape(prompt)[0]
        # One column more than the longest prompt, so that there is always one to read before the
        # last, which the loop reads.
        index = _longest(lengths) + (0 if self._translates else 1)
        prompt = _moved_right(prompt, index, lengths)
        start = index - lengths
        limits = tf.broadcast_to(limits, [rows])
        end = index + _longest(limits)
        cache = {**self._empty_cache(rows, end - 1), **memory}
        arrays = [tf.identity(array) for array in self._arrays()]
        if self._reads_before:
            # Of a prefix also the last token, to which the others attend; the loop reads it again.
            given = prompt if self._spec.prefix_lm else prompt[:, :-1]
            read = tf.maximum(given, 0)
            inputs = {"tokens": read, "index": tf.constant(0), "start": start, "cache": cache}
            with self._weights.scope(arrays):
                cache = self._steps(inputs, training=False)["cache"]
        names = list(cache)
        room = tf.fill([rows, end - index], NO_TOKEN)
        columns = tf.range(end)
        process = getattr(self._sampler, "process", lambda logits, tokens, index: logits)

        def has_more(at: Tensor, tokens: Tensor, done: Tensor, *cache: Tensor) -> Tensor:
            return (at < end) & ~tf.reduce_all(done)

        def step(at: Tensor, tokens: Tensor, done: Tensor, *cache: Tensor) -> Any:
            inputs = {
                "tokens": tf.maximum(tokens[:, at - 1 : at], 0),
                "index": at - 1,
                "start": start,
                "cache": dict(zip(names, cache, strict=True)),
            }
            inputs["tokens"].set_shape([None, 1])
            with self._weights.scope(arrays):
                read = self._step(inputs, training=False)
            logits = tf.cast(read["logits"][:, 0], "float32")
            is_token = tf.range(logits.shape[-1]) < self._vocabulary_size
            if self._suppressed:
                ids = tf.range(logits.shape[-1])[:, None]
                is_token &= ~tf.reduce_any(ids == tf.constant(self._suppressed), axis=1)
            logits = tf.where(is_token, logits, NEVER)
            if self._forces_end:
                logits = only_end(logits, at + 1 >= index + limits, self._end_id)
            logits = process(logits, tokens, at)
            chances = self._sampler.compute_probabilities(logits)
            token = tf.cast(self._sampler.get_next_token(chances), "int32")
            token = tf.where(done, NO_TOKEN, token)
            tokens = tf.where(columns == at, token[:, None], tokens)
            done = done | (token == self._end_id) | (at + 1 >= index + limits)
            written = [
                tf.ensure_shape(read["cache"][name], old.shape)
                for name, old in zip(names, cache, strict=True)
            ]
            return at + 1, tokens, done, *written

        tokens = tf.concat([prompt, room], axis=1)
        tokens.set_shape([None, None])
        state = (index, tokens, tf.zeros([rows], "bool"), *cache.values())
        tokens = tf.while_loop(has_more, step, state)[1]
        return tokens[:, index:], prompt

    def _arrays(self) -> list[Tensor]:
        return self._weights.cast(self._weights.values())

    def _empty_cache(self, rows: Tensor, length: Tensor) -> dict[str, Tensor]:
        shapes = cache_entries(self._spec, None, None, self._dtype)
        sizes = cache_entries(self._spec, rows, length, self._dtype)
        return {
            name: tf.ensure_shape(tf.zeros(sizes[name][0], dtype), shape)
            for name, (shape, dtype) in shapes.items()
        }


def _longest(lengths: Tensor) -> Tensor:
    """Return the maximum length, at least 1, also for no lengths."""
    return tf.reduce_max(tf.concat([lengths, [1]], axis=0))


def _moved_right(tokens: Tensor, width: Tensor, lengths: Tensor) -> Tensor:
    """Return rows (b, t), padded on the right, as (b, width), padded on the left."""
    columns = tf.range(width)[None] - (width - lengths)[:, None]  # (b, width)
    padded = tf.pad(tokens, [[0, 0], [0, 1]], constant_values=NO_TOKEN)
    moved = tf.gather(padded, tf.clip_by_value(columns, 0, tf.shape(tokens)[1]), batch_dims=1)
    return tf.where(columns < 0, NO_TOKEN, moved)
