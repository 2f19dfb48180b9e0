"""Tokenizers of folders of Hugging Face, with the ids that `transformers` gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from functional_models.checks import check_path
from functional_models.hugging_face.chat import chat_text
from functional_models.hugging_face.tokenizers_around import Around
from functional_models.hugging_face.tokenizers_cuts import Cuts
from functional_models.hugging_face.tokenizers_json import tokenizer_json
from functional_models.hugging_face.tokenizers_pieces import read_piece_tokenizers
from functional_models.hugging_face.tokenizers_settings import (
    GENERATION_FIELDS,
    Settings,
    generation_fields,
    read_settings,
)
from functional_models.keras_hub_tokenizer import numbered_sentinels
from functional_models.tokenizer_base import LETTERS_OF_SPACES, Tokenizer

_BATCH = 1 << 18  # characters that are encoded in one call


@dataclass(frozen=True, eq=False, repr=False)
class HuggingFaceTokenizer(Around, Tokenizer):
    """A tokenizer of the package `tokenizers`, which defines it by a `tokenizer.json`.

    Special tokens in texts are special tokens, as in `transformers`. A long text is cut only where
    that changes no token; see `tokenizers_cuts`.

    Attributes:
        backend: the `tokenizers.Tokenizer`.
        before, after, decoder_start, suppressed, forces_end: as in `Around`.
        ends: ids at which generation stops, the first being `end_id`.
        special_tokens: special tokens by name, as chat templates use them.
        templates: chat templates by name.
        splits_special: whether special tokens in texts are ordinary text.
        cleans_up: whether spaces before punctuation are removed in decoded text.
    """

    backend: Any = field(metadata={"saved": False})
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    decoder_start: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    suppressed: tuple[int, ...] = ()
    forces_end: bool = False
    special_tokens: Mapping[str, Any] = field(default_factory=dict)
    templates: Mapping[str, str] = field(default_factory=dict)
    splits_special: bool = False
    cleans_up: bool = False

    def encode_prompts(self, texts: Sequence[str]) -> list[np.ndarray]:
        # Also with what follows a text: the ids of `transformers`, whatever they are.
        return self.encode_sources(texts)

    @property
    def end_ids(self) -> tuple[int, ...]:
        return self.ends

    @cached_property
    def mask_id(self) -> int | None:
        token = self.special_tokens.get("mask_token")
        token = token["content"] if isinstance(token, Mapping) else token
        return None if token is None else self.backend.token_to_id(token)

    @cached_property
    def sentinel_ids(self) -> tuple[int, ...]:
        return numbered_sentinels(self.pieces)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        added = self.backend.get_added_tokens_decoder().items()
        return super().special_ids.union(number for number, token in added if token.special)

    @cached_property
    def pieces(self) -> Mapping[int, str]:
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        return {number: piece for piece, number in vocabulary.items()}

    def begins_word(self, piece: str) -> bool:
        prefix = self._part_prefix
        return (
            piece.startswith(self._word_marks) if prefix is None else not piece.startswith(prefix)
        )

    @cached_property
    def _part_prefix(self) -> str | None:
        """The prefix of pieces that continue a word; None where pieces have their spaces."""
        model = json.loads(self.backend.to_str())["model"]
        prefix = model.get("continuing_subword_prefix") if model["type"] == "WordPiece" else None
        return None if prefix is None else str(prefix)

    @cached_property
    def _word_marks(self) -> tuple[str, ...]:
        decoder = json.dumps(json.loads(self.backend.to_str())["decoder"])
        return LETTERS_OF_SPACES if '"ByteLevel"' in decoder else ("▁", " ")

    def _tokenized(self, texts: Iterable[Iterable[str]]) -> Iterator[tuple[int, np.ndarray]]:
        batch: list[str] = []
        numbers: list[int] = []
        size = 0
        for number, pieces in enumerate(texts):
            for chunk in self._cuts.chunks(pieces):
                batch.append(chunk)
                numbers.append(number)
                size += len(chunk)
                if size >= _BATCH:
                    yield from zip(numbers, self._encoded_batch(batch), strict=True)
                    batch, numbers, size = [], [], 0
        yield from zip(numbers, self._encoded_batch(batch), strict=True)

    @cached_property
    def _cuts(self) -> Cuts:
        normalizer = self.backend.normalizer
        normalize = str if normalizer is None else normalizer.normalize_str
        return Cuts(json.loads(self.backend.to_str()), normalize)

    def _encoded_batch(self, texts: list[str]) -> list[np.ndarray]:
        found = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, "int32") for encoding in found]

    def _texts(self, sequences: list[list[int]]) -> list[str]:
        texts = self.backend.decode_batch(sequences, skip_special_tokens=True)
        return [_cleaned(text) for text in texts] if self.cleans_up else texts

    def format_chat(
        self, messages: Sequence[Mapping[str, Any]], *, template: str | None = None, **options: Any
    ) -> str:
        return chat_text(
            self.templates, messages, self.special_tokens, template=template, **options
        )

    def to_manifest(self) -> dict[str, Any]:
        return {"tokenizer": self.backend.to_str()}

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        manifest = {**GENERATION_FIELDS, **manifest}
        values = {f.name: manifest[f.name] for f in fields(cls) if f.name != "backend"}
        for name in ("before", "after", "decoder_start", "ends", "suppressed"):
            values[name] = tuple(values[name])
        backend = _backend(manifest["tokenizer"], values["splits_special"])
        made = cls(backend=backend, **values)
        special = (made.pad_id, made.start_id, *made.ends, *made.start_ids, *made.after)
        size = _vocabulary_size(made.backend)
        if size != made.vocabulary_size or not all(0 <= i < size for i in special):
            raise ValueError("the special ids do not fit the vocabulary")
        return made

    def parts(self) -> dict[str, Any]:
        return self.to_manifest()


def read_tokenizer(folder: str | Path) -> HuggingFaceTokenizer:
    """Read the tokenizer of a folder of Hugging Face.

    From `tokenizer.json`, or from `vocab.txt`, `vocab.json` with `merges.txt`, or a model of
    SentencePiece; with `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`, the
    special ids of `config.json` and `generation_config.json`, and chat templates.

    Raises:
        FileNotFoundError: there is no tokenizer; the error lists the files looked for.
        ValueError: a file is damaged, a class has no conversion, or there is no end token.
    """
    return tokenizer_of(read_settings(check_path("the folder of a tokenizer", folder)))


def tokenizer_of(
    settings: Settings, content_of: Callable[[Settings], dict[str, Any]] = tokenizer_json
) -> HuggingFaceTokenizer:
    """Return the tokenizer of settings.

    Args:
        settings: the settings; `folder` is the place that errors name.
        content_of: returns the content of `tokenizer.json`.

    Raises:
        FileNotFoundError, ValueError: as `read_tokenizer`.
    """
    path = settings.folder
    try:
        content = content_of(settings)
        splits = bool(settings.get("split_special_tokens", False))
        backend = _backend(json.dumps(content), splits)
        _add_tokens(backend, settings)
        _set_post_processor(backend, settings)
        around = _around(backend)
        return _with_special_ids(settings, backend, around, settings.chat_templates())
    except OSError:
        raise
    except Exception as error:  # `tokenizers` raises errors of no common class
        if str(path) in str(error):
            raise
        reason = str(error).partition("\n")[0][:200]
        raise ValueError(f"the tokenizer of {path} is damaged: {reason}") from error


def read_tokenizers(folder: str | Path, kind: str) -> dict[str, Tokenizer]:
    """Read the tokenizers of a folder of Hugging Face by their roles in a text model.

    Those of Marian and M2M100 differ for sources and targets; others have both roles.

    Args:
        folder: the folder.
        kind: the `kind` of the model's spec.

    Raises:
        FileNotFoundError, ValueError: as `read_tokenizer`.
    """
    settings = read_settings(check_path("the folder of a tokenizer", folder))
    has_file = (settings.folder / "tokenizer.json").exists()
    if settings.class_name in ("Marian", "M2M100") and not has_file:
        source, target = read_piece_tokenizers(settings)
        return {"source_tokenizer": source, "target_tokenizer": target}
    tokenizer = read_tokenizer(folder)
    roles = (
        ("source_tokenizer", "target_tokenizer") if kind == "encoder_decoder" else ("tokenizer",)
    )
    return dict.fromkeys(roles, tokenizer)


def _backend(content: str, splits_special: bool) -> Any:
    import tokenizers

    try:
        backend = tokenizers.Tokenizer.from_str(content)
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # of Rust, and no `Exception`
            raise ValueError(str(error)) from None
        raise
    backend.encode_special_tokens = splits_special
    return backend


def _add_tokens(backend: Any, settings: Settings) -> None:
    """Add the tokens of the settings that `tokenizer.json` does not have."""
    from tokenizers import AddedToken

    known = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    new = []
    for flags in settings.added_tokens():
        listed = "id" in flags
        token = {k: v for k, v in flags.items() if k not in ("id", "__type")}
        token.setdefault("normalized", not token.get("special", False))
        made = AddedToken(**token)
        old = known.get(made.content)
        if old is None or (listed and repr(old) != repr(made)):
            new.append(made)
    backend.add_tokens(new)


def _set_post_processor(backend: Any, settings: Settings) -> None:
    """Put the tokens around texts that the settings name, whatever tokenizer.json does."""
    from tokenizers import processors

    around = settings.tokens_around()
    if around is None:
        return
    before, after = around
    backend.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        special_tokens=[(token, _id(backend, token)) for token in {*before, *after}],
    )


def _id(backend: Any, token: str) -> int:
    found = backend.token_to_id(token)
    if found is None:
        raise ValueError(f"the special token {token!r} is not in the vocabulary")
    return int(found)


def _around(backend: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids that the post-processor puts before and after a text."""
    encoding = backend.encode("a", add_special_tokens=True)
    ids, mask = encoding.ids, encoding.special_tokens_mask
    inner = backend.encode("a", add_special_tokens=False).ids
    before = mask.index(0) if 0 in mask else len(mask)
    after = before + len(inner)
    if ids[before:after] != inner or not all(mask[:before] + mask[after:]):
        raise ValueError("its post-processor changes the tokens of a text")
    return tuple(ids[:before]), tuple(ids[after:])


def _with_special_ids(
    settings: Settings,
    backend: Any,
    around: tuple[tuple[int, ...], tuple[int, ...]],
    templates: Mapping[str, str],
) -> HuggingFaceTokenizer:
    """Return the tokenizer with the ids of padding, start and end that the folder names."""
    size = _vocabulary_size(backend)

    def ids(token: str, key: str) -> list[int]:
        """Return the ids of a token and of a key of the configuration."""
        text, listed = settings.token(token), settings.model.get(key)
        named = None if text is None else backend.token_to_id(text)
        listed = listed if isinstance(listed, list) else [listed]
        return [int(i) for i in (named, *listed) if i is not None and 0 <= int(i) < size]

    # In text of byte pairs, the spaces are those that the model wrote.
    is_word_piece = type(backend.model).__name__ == "WordPiece"
    is_older = not (settings.folder / "tokenizer.json").exists()
    before, after = around
    ends = ids("eos_token", "eos_token_id") or ids("sep_token", "sep_token_id")
    if not ends:
        raise ValueError(
            f"the tokenizer of {settings.folder} has no end token: name an eos_token or a "
            "sep_token in its tokenizer_config.json"
        )
    starts = ids("bos_token", "bos_token_id") or ids("cls_token", "cls_token_id") or ends
    decoder = [settings.model.get(f"{name}_token_id") for name in ("decoder_start", "forced_bos")]
    is_decoder = settings.model.get("is_encoder_decoder") and decoder[0] is not None
    target_start = [i for i in decoder if i is not None] if is_decoder else (before or starts[:1])
    return HuggingFaceTokenizer(
        kind="hugging_face",
        vocabulary_size=size,
        pad_id=(ids("pad_token", "pad_token_id") or ends)[0],
        start_id=target_start[0],
        end_id=ends[0],
        backend=backend,
        before=before,
        after=after,
        decoder_start=tuple(target_start),
        ends=tuple(dict.fromkeys(ends)),
        **generation_fields(settings.generation, ends[0], size),
        special_tokens=settings.special_tokens,
        templates=templates,
        splits_special=backend.encode_special_tokens,
        cleans_up=is_word_piece and bool(settings.get("clean_up_tokenization_spaces", is_older)),
    )


def _vocabulary_size(backend: Any) -> int:
    """Return the number of ids: above the largest, since there may be gaps."""
    return 1 + max(backend.get_vocab(with_added_tokens=True).values(), default=-1)


def _cleaned(text: str) -> str:
    """Return a text without the spaces before punctuation, as `clean_up_tokenization_spaces`."""
    for sign in (".", "?", "!", ","):
        text = text.replace(f" {sign}", sign)
    text = text.replace(" ' ", "'")
    for ending in ("n't", "'m", "'s", "'ve", "'re"):
        text = text.replace(f" {ending}", ending)
    return text
