"""Write tokenizers as `AutoTokenizer` of `transformers` reads them, with the same ids."""

from __future__ import annotations

import base64
import json
import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from builders import TransformerSpec
from functional_models.hugging_face.generation_settings import FILE
from functional_models.hugging_face.tokenizers import HuggingFaceTokenizer
from functional_models.hugging_face.tokenizers_pieces import PieceTokenizer, piece_files
from functional_models.keras_hub_tokenizer import KerasHubTokenizer
from functional_models.tokenizer_base import Tokenizer
from functional_models.tokenizer_files import PROBES

Files = dict[str, str | bytes]

_CLASS = "PreTrainedTokenizerFast"
_NEVER = -1e6
"""Score of pieces that stand for no text, such as "</s>", so that a text never has them."""


def tokenizer_files(tokenizers: Mapping[str, Tokenizer], spec: TransformerSpec) -> Files:
    """Return the files of the tokenizer of a model, by name; none, if no class has its ids.

    A warning says why there are none.

    Args:
        tokenizers: The tokenizers of the model by role.
        spec: The spec of the model.
    """
    if not tokenizers:
        return {}
    [source, *_, target] = [*tokenizers.values()] * 2
    if isinstance(source, PieceTokenizer) and isinstance(target, PieceTokenizer):
        return piece_files(source, target)
    # Those of a saved model are read one by one.
    if source is not target and source.file_content != target.file_content:
        _warn("source and target have different tokenizers")
        return {}
    tokenizer = target
    try:
        backend = _backend(tokenizer)
        if problem := _difference(tokenizer, backend):
            raise ValueError(problem)
    except ValueError as error:
        _warn(str(error))
        return {}
    # Without the names, transformers 4 makes segments for models that have none.
    names = ["input_ids", *(["token_type_ids"] if spec.num_segments else []), "attention_mask"]
    settings: dict[str, Any] = {
        "tokenizer_class": _CLASS,
        "model_max_length": spec.max_sequence_length,
        "model_input_names": names,
        "split_special_tokens": True,  # a special token in a text is text
        **_special_tokens(tokenizer, backend),
    }
    pre_tokenizer = json.loads(backend.to_str())["pre_tokenizer"] or {}
    if "add_prefix_space" in pre_tokenizer:  # otherwise transformers 4 sets it to false
        settings["add_prefix_space"] = pre_tokenizer["add_prefix_space"]
    if isinstance(tokenizer, HuggingFaceTokenizer):
        settings["clean_up_tokenization_spaces"] = tokenizer.cleans_up
        settings["split_special_tokens"] = tokenizer.splits_special
        templates = tokenizer.templates
        if templates.keys() == {"default"}:
            settings["chat_template"] = templates["default"]
        elif templates:
            named = [{"name": name, "template": text} for name, text in templates.items()]
            settings["chat_template"] = named
    return {
        "tokenizer.json": backend.to_str(pretty=True) + "\n",
        "tokenizer_config.json": json.dumps(settings, indent=2) + "\n",
    }


def generation_config(tokenizers: Mapping[str, Tokenizer], ids: Mapping[str, Any]) -> Files:
    """Return `generation_config.json` where `config.json` cannot have its settings, or nothing.

    Args:
        tokenizers: The tokenizers of the model by role.
        ids: The special ids of `config.json`.
    """
    if not tokenizers:
        return {}
    target = list(tokenizers.values())[-1]
    content: dict[str, Any] = {}
    if len(target.end_ids) > 1:
        content["eos_token_id"] = list(target.end_ids)
    if target.suppressed_ids:
        content["suppress_tokens"] = list(target.suppressed_ids)
    if target.ends_at_limit:
        content["forced_eos_token_id"] = target.end_id
    if not content:
        return {}
    content = {"pad_token_id": target.pad_id, **ids, **content}
    return {FILE: json.dumps(content, indent=2) + "\n"}


def _warn(reason: str) -> None:
    warnings.warn(
        f"no tokenizer was written: {reason}; give transformers the one that the model needs",
        stacklevel=4,
    )


def _backend(tokenizer: Tokenizer) -> Any:
    """Return a tokenizer of the package `tokenizers`.

    Raises:
        ValueError: none has the ids of this kind.
    """
    import tokenizers

    if isinstance(tokenizer, HuggingFaceTokenizer):
        return tokenizer.backend
    if isinstance(tokenizer, KerasHubTokenizer) and not tokenizer.lowercase:
        if tokenizer.kind == "byte_pair":
            inner = tokenizer.keras_tokenizer
            inner._maybe_initialized_tokenizers()
            return tokenizers.Tokenizer.from_str(inner._tokenizer.to_str())
        if tokenizer.kind == "byte":
            return _bytes()
        if tokenizer.kind == "sentence_piece":
            return _pieces(base64.b64decode(tokenizer.to_manifest()["vocabulary"]["proto"]))
        if tokenizer.kind == "word_piece":
            return _word_pieces(tokenizer.keras_tokenizer)
    raise ValueError(f"transformers has no tokenizer with the ids of this {tokenizer!r}")


def _bytes() -> Any:
    """Return the tokenizer whose ids are the bytes of UTF-8."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.pre_tokenizers import ByteLevel

    letters = _letters()
    backend = Tokenizer(models.BPE(vocab={letters[i]: i for i in range(256)}, merges=[]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    assert sorted(letters) == sorted(pre_tokenizers.ByteLevel.alphabet())
    return backend


_WHITE_SPACE = r"[ \t\n\r\f]|\p{Cc}|\p{Cf}"
# Older releases of `tokenizers` do not know the punctuation of Unicode 17, such as U+2E60.
_PUNCTUATION = r"[!-/]|[:-@]|[\[-`]|[{-~]|\p{P}"
_CJK = (
    r"[\x{4E00}-\x{9FFF}]|[\x{3400}-\x{4DBF}]|[\x{20000}-\x{2A6DF}]|[\x{2A700}-\x{2B73F}]|"
    r"[\x{2B740}-\x{2B81F}]|[\x{2B820}-\x{2CEAF}]|[\x{F900}-\x{FAFF}]|[\x{2F800}-\x{2FA1F}]"
)
_LONGEST_WORD = 100
"""Bytes of a word, above which it is unknown, in KerasHub."""


def _word_pieces(inner: Any) -> Any:
    """Return the tokenizer of a vocabulary of words and their parts.

    Words are bytes, each shown as a letter, since the limit of their length is one of bytes.

    Raises:
        ValueError: texts are changed before they are split, or not split.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.pre_tokenizers import ByteLevel, Split

    if inner.lowercase or inner.strip_accents or not inner.split or inner.special_tokens:
        raise ValueError(
            "only a WordPieceTokenizer with lowercase=False, strip_accents=False, split=True and "
            "no special_tokens has a copy"
        )
    letters = _letters()
    vocabulary = {
        "".join(letters[byte] for byte in token.encode()): i
        for i, token in enumerate(inner.get_vocabulary())
    }
    prefix, unknown = inner.suffix_indicator, inner.oov_token
    backend = Tokenizer(
        models.WordPiece(
            vocabulary,
            unk_token=unknown,
            continuing_subword_prefix=prefix,
            max_input_chars_per_word=_LONGEST_WORD,
        )
    )
    single = f"{_PUNCTUATION}|{_CJK}" if inner.split_on_cjk else _PUNCTUATION
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            Split(Regex(_WHITE_SPACE), "removed"),
            Split(Regex(single), "isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix, cleanup=False),
            decoders.Replace(" ", letters[ord(" ")]),
            decoders.ByteLevel(),
        ]
    )
    return backend


def _letters() -> list[str]:
    """Return the letter of each byte in byte-level vocabularies (GPT-2)."""
    shown = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in shown else chr(next(others)) for byte in range(256)]


def _pieces(content: bytes) -> Any:
    """Return the tokenizer of a unigram model of SentencePiece, as `train_tokenizer` makes one.

    Raises:
        ValueError: the model normalises texts, or has no bytes of rare characters.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    # Without type information.
    messages: Any = import_module("sentencepiece.sentencepiece_model_pb2")
    proto = messages.ModelProto.FromString(content)
    training, normalizing = proto.trainer_spec, proto.normalizer_spec
    if (
        training.model_type != training.UNIGRAM
        or not (training.byte_fallback and normalizing.add_dummy_prefix)
        or normalizing.remove_extra_whitespaces
        or normalizing.precompiled_charsmap
    ):
        raise ValueError("its model of SentencePiece is of another kind than train_tokenizer makes")
    own = (proto.SentencePiece.NORMAL, proto.SentencePiece.USER_DEFINED)
    pieces = [(piece.piece, piece.score if piece.type in own else _NEVER) for piece in proto.pieces]
    backend = Tokenizer(models.Unigram(pieces, training.unk_id, byte_fallback=True))
    steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    backend.normalizer = normalizers.Sequence(steps)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return backend


def _difference(tokenizer: Tokenizer, backend: Any) -> str | None:
    """Describe the first text that a tokenizer and its copy encode otherwise."""
    for text in PROBES:
        [expected] = tokenizer.encode([text])
        found = backend.encode(text, add_special_tokens=False).ids
        if found != expected.tolist():
            return f"{text[:40]!r} would have other ids"
    return None


def _special_tokens(tokenizer: Tokenizer, backend: Any) -> dict[str, Any]:
    """Return the special tokens by the names of `transformers`."""
    if isinstance(tokenizer, HuggingFaceTokenizer) and tokenizer.special_tokens:
        return dict(tokenizer.special_tokens)
    ids = {
        "bos_token": tokenizer.start_id,
        "eos_token": tokenizer.end_id,
        "pad_token": tokenizer.pad_id,
    }
    if tokenizer.mask_id is not None and tokenizer.kind != "byte":  # where bytes have no names
        ids["mask_token"] = tokenizer.mask_id
    return {name: backend.id_to_token(number) for name, number in ids.items()}
