"""Tokenizers of Marian and M2M100: pieces of SentencePiece, numbered by a `vocab.json`.

`transformers` has no fast tokenizers of these classes; they run SentencePiece itself, as here.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np

from functional_models.checks import check_is_file, read_json
from functional_models.hugging_face.tokenizers_around import Around
from functional_models.hugging_face.tokenizers_settings import (
    GENERATION_FIELDS,
    Settings,
    generation_fields,
)
from functional_models.tokenizer_base import Tokenizer

# The languages of M2M100, in the order of their ids.
_LANGUAGES = (
    "af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd "
    "gl gu ha he hi hr ht hu hy id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg "
    "mk ml mn mr ms my ne nl no ns oc or pa pl ps pt ro ru sd si sk sl so sq sr ss su sv "
    "sw ta th tl tn tr uk ur uz vi wo xh yi yo zh zu"
)
_LANGUAGE_TOKENS = tuple(f"__{code}__" for code in _LANGUAGES.split())
_CODE = re.compile(r">>.*?<<", re.DOTALL)


@dataclass(frozen=True, eq=False, repr=False)
class PieceTokenizer(Around, Tokenizer):
    """A model of SentencePiece whose pieces have the ids of a vocabulary.

    A text is encoded as a whole. A piece that is not in the vocabulary is unknown.

    Attributes:
        processor: the `sentencepiece.SentencePieceProcessor`.
        vocabulary: ids by piece or token.
        special: tokens that are found in texts before all else, and are no text when decoded.
        unknown_id: id of unknown pieces.
        before, after, decoder_start, suppressed, forces_end: as in `Around`.
        takes_codes: whether a text may begin with the code of a language, such as `>>fr<<`.
    """

    processor: Any = field(metadata={"saved": False})
    vocabulary: Mapping[str, int] = field(default_factory=dict)
    special: tuple[str, ...] = ()
    unknown_id: int = 0
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    decoder_start: tuple[int, ...] = ()
    suppressed: tuple[int, ...] = ()
    forces_end: bool = False
    takes_codes: bool = False

    def __post_init__(self) -> None:
        tokens = sorted(self.special, key=len, reverse=True)
        object.__setattr__(self, "_split", re.compile(f"({'|'.join(map(re.escape, tokens))})"))
        object.__setattr__(self, "_pieces", {i: piece for piece, i in self.vocabulary.items()})

    @property
    def pieces(self) -> Mapping[int, str]:
        found: Mapping[int, str] = vars(self)["_pieces"]
        return found

    def begins_word(self, piece: str) -> bool:
        return piece.startswith("▁")

    def _tokenized(self, texts: Iterable[Iterable[str]]) -> Iterator[tuple[int, np.ndarray]]:
        for number, pieces in enumerate(texts):
            found = self._ids("".join(pieces))
            yield number, np.fromiter(found, "int32")

    def _ids(self, text: str) -> Iterator[int]:
        split: re.Pattern[str] = vars(self)["_split"]
        for number, part in enumerate(split.split(text)):
            if number % 2:
                yield self.vocabulary[part]
                continue
            code = _CODE.match(part) if self.takes_codes else None
            if code:
                yield self.vocabulary.get(code[0], self.unknown_id)
                part = part[code.end() :]
            for piece in self.processor.encode(part, out_type=str):
                yield self.vocabulary.get(piece, self.unknown_id)

    def _texts(self, sequences: list[list[int]]) -> list[str]:
        pieces = self.pieces
        rows = [[pieces[i] for i in ids if i in pieces] for ids in sequences]
        rows = [[piece for piece in row if piece not in self.special] for row in rows]
        return [self.processor.decode_pieces(row).replace("▁", " ").strip() for row in rows]

    def to_manifest(self) -> dict[str, Any]:
        return {"proto": base64.b64encode(self.processor.serialized_model_proto()).decode()}

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        manifest = {**GENERATION_FIELDS, **manifest}
        values = {f.name: manifest[f.name] for f in fields(cls) if f.name != "processor"}
        for name in ("special", "before", "after", "decoder_start", "suppressed"):
            values[name] = tuple(values[name])
        content = base64.b64decode(manifest["proto"], validate=True)
        made = cls(processor=_processor(content), **values)
        ids = (made.pad_id, made.end_id, made.unknown_id, *made.start_ids, *made.after)
        size = 1 + max(made.vocabulary.values())
        if size != made.vocabulary_size or not all(0 <= i < size for i in ids):
            raise ValueError("the special ids do not fit the vocabulary")
        return made

    def parts(self) -> dict[str, Any]:
        return self.to_manifest()


def _processor(content: bytes) -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_proto=content)


def read_piece_tokenizers(settings: Settings) -> tuple[PieceTokenizer, PieceTokenizer]:
    """Return the tokenizers of sources and of targets of a folder of Marian or M2M100.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or a special token is not in the vocabulary.
    """
    is_marian = settings.class_name == "Marian"
    models = ("source.spm", "target.spm") if is_marian else ("sentencepiece.bpe.model",) * 2
    separate = is_marian and bool(settings.get("separate_vocabs", False))
    vocabularies = ("vocab.json", "target_vocab.json" if separate else "vocab.json")
    try:
        source, target = (
            _tokenizer(settings, *names) for names in zip(models, vocabularies, strict=True)
        )
    except (KeyError, TypeError, AttributeError) as error:  # of settings of wrong types
        raise ValueError(f"the tokenizer of {settings.folder} is damaged: {error}") from error
    return source, target


def _tokenizer(settings: Settings, model: str, vocabulary: str) -> PieceTokenizer:
    for name in (model, vocabulary):
        if not (settings.folder / name).exists():
            raise FileNotFoundError(
                f"there is no tokenizer in {settings.folder}: {name} is missing"
            )
        check_is_file(settings.folder / name)
    try:
        processor = _processor((settings.folder / model).read_bytes())
    except Exception as error:  # of SentencePiece, RuntimeError or others
        raise ValueError(
            f"{settings.folder / model} is damaged: it is no model of SentencePiece"
        ) from error
    ids = read_json(settings.folder / vocabulary)
    if not isinstance(ids, dict) or not all(isinstance(i, int) for i in ids.values()):
        raise ValueError(f"{settings.folder / vocabulary} is damaged: it has no ids by token")
    is_marian = settings.class_name == "Marian"
    languages = () if is_marian else _LANGUAGE_TOKENS
    ids |= {token: len(ids) + i for i, token in enumerate(languages)}

    def special(name: str) -> int:
        token = settings.token(name)
        if token not in ids:
            raise ValueError(f"{settings.folder / vocabulary} lacks the {name} {token!r}")
        return int(ids[token])

    def language(code: str) -> int:
        if (token := f"__{code}__") not in ids:
            raise ValueError(f"{settings.folder / vocabulary} lacks the language {token!r}")
        return int(ids[token])

    pad, end, unknown = map(special, ("pad_token", "eos_token", "unk_token"))
    first, forced = (settings.model.get(f"{n}_token_id") for n in ("decoder_start", "forced_bos"))
    target = settings.get("tgt_lang")
    if not is_marian and target is not None and forced is None:
        forced = language(target)
    start = int((pad if is_marian else end) if first is None else first)
    named = {token for token in settings.special_tokens.values() if isinstance(token, str)}
    return PieceTokenizer(
        kind="hugging_face_pieces",
        vocabulary_size=1 + max(ids.values()),
        pad_id=pad,
        start_id=start,
        end_id=end,
        processor=processor,
        vocabulary=ids,
        special=tuple(sorted({*named, *languages} & ids.keys())),
        unknown_id=unknown,
        before=() if is_marian else (language(settings.get("src_lang") or "en"),),
        after=(end,),
        decoder_start=(start,) if forced is None else (start, int(forced)),
        takes_codes=is_marian,
        **generation_fields(settings.generation, end, 1 + max(ids.values())),
    )


def piece_files(source: PieceTokenizer, target: PieceTokenizer) -> dict[str, str | bytes]:
    """Return the files of the tokenizers of Marian or M2M100, by name."""
    names = {i: token for token, i in source.vocabulary.items()}
    ids = {"pad_token": source.pad_id, "eos_token": source.end_id, "unk_token": source.unknown_id}
    config: dict[str, Any] = {key: names[i] for key, i in ids.items()}
    proto = source.processor.serialized_model_proto()
    if source.takes_codes:
        separate = source.vocabulary != target.vocabulary
        config |= {"tokenizer_class": "MarianTokenizer", "separate_vocabs": separate}
        files = {"source.spm": proto, "target.spm": target.processor.serialized_model_proto()}
        vocabularies = {"vocab.json": source.vocabulary}
        if separate:
            vocabularies["target_vocab.json"] = target.vocabulary
        files |= {name: _json(vocabulary) for name, vocabulary in vocabularies.items()}
        return {**files, "tokenizer_config.json": _json(config)}
    languages = [token for token in source.vocabulary if token in _LANGUAGE_TOKENS]
    config |= {"tokenizer_class": "M2M100Tokenizer", "additional_special_tokens": languages}
    for key, i in (("src_lang", source.before[0]), ("tgt_lang", target.decoder_start[-1])):
        if names[i] in _LANGUAGE_TOKENS:
            config[key] = names[i].strip("_")
    numbered = {token: i for token, i in source.vocabulary.items() if token not in languages}
    return {
        "sentencepiece.bpe.model": proto,
        "vocab.json": _json(numbered),
        "tokenizer_config.json": _json(config),
    }


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"
