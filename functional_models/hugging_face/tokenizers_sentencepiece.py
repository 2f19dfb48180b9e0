"""Models of SentencePiece in the form of `tokenizer.json`.

As in `convert_slow_tokenizer` of `transformers` 4.57, which makes its fast tokenizers. They differ
from SentencePiece itself in rare texts, such as those with several spaces in a row.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from functional_models.hugging_face.tokenizers_settings import Settings
from functional_models.hugging_face.tokenizers_template import template

Json = dict[str, Any]
Pieces = list[tuple[str, float]]

_UNIGRAM, _BYTE_PAIR = 1, 2  # types of models
_CONTROL, _USER_DEFINED = 3, 4  # types of pieces
_SPACE = "▁"
_FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")

# The languages of mBART and of mBART-50, then the mask, in the order of their ids.
_MBART = (
    "ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT "
    "lv_LV my_MM ne_NP nl_XX ro_RO ru_RU si_LK tr_TR vi_VN zh_CN "
)
_MBART_50 = _MBART + (
    "af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF "
    "pt_XX sv_SE sw_KE ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI "
)


@dataclass(frozen=True)
class _Family:
    """How a class numbers the pieces of a model, and what it puts around a text.

    Attributes:
        first: tokens before the pieces.
        skipped: number of pieces that the first tokens replace.
        last: tokens after the pieces.
        unknown: id of the unknown token; by default that of the model.
        before: tokens before a text.
        after: tokens after a text.
        splits_words: whether words are separated before spaces are replaced.
    """

    first: tuple[str, ...] = ()
    skipped: int = 0
    last: tuple[str, ...] = ()
    unknown: int | None = None
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ("</s>",)
    splits_words: bool = False


SENTENCEPIECE_CLASSES = (
    "T5",
    "Llama",
    "Gemma",
    "XLMRoberta",
    "Camembert",
    "MBart",
    "MBart50",
    "Pegasus",
)


def _family(settings: Settings) -> _Family:
    language = str(settings.get("src_lang") or "en_XX")
    if settings.class_name == "T5":
        number = settings.get("extra_ids", 100)
        return _Family(last=tuple(f"<extra_id_{i}>" for i in reversed(range(number))))
    if settings.class_name == "Pegasus":
        return _pegasus(settings)
    fairseq = _Family(_FAIRSEQ, skipped=3, unknown=3)
    families = {
        "Llama": _Family(unknown=0, after=()),
        "Gemma": _Family(unknown=3, after=()),
        "XLMRoberta": replace(fairseq, last=("<mask>",), before=("<s>",)),
        "MBart": replace(fairseq, last=(*_MBART.split(), "<mask>"), after=("</s>", language)),
        "MBart50": replace(fairseq, last=(*_MBART_50.split(), "<mask>"), before=(language,)),
        "Camembert": _Family(
            ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"),
            skipped=1,
            last=("<mask>",),
            unknown=3,
            before=("<s>",),
        ),
    }
    return families[settings.class_name]


def _pegasus(settings: Settings) -> _Family:
    """Return Pegasus' family, whose first `offset` ids are only used in training."""
    offset, sentence, mask = (
        settings.get("offset", 103),
        settings.token("mask_token_sent"),
        settings.token("mask_token"),
    )
    first = [settings.token("pad_token"), settings.token("eos_token"), sentence, mask]
    unused = [f"<unk_{i}>" for i in range(2, offset)]
    named = tuple(str(token) for token in first if token)
    return _Family((*named, *unused), skipped=2, unknown=2 + offset, splits_words=True)


def sentencepiece_json(settings: Settings, path: Path) -> Json:
    """Return the content of `tokenizer.json` for a model of one of `SENTENCEPIECE_CLASSES`.

    Raises:
        ValueError: the model is damaged, or of words or characters.
    """
    family = _family(settings)
    proto = _model(path)
    pieces = _numbered(proto, family)
    if settings.class_name == "Gemma":
        pieces = _with_tab(pieces)
    with_bytes = settings.class_name in ("Llama", "Gemma")
    unknown = proto.trainer_spec.unk_id if family.unknown is None else family.unknown
    ids = {piece: i for i, (piece, _) in enumerate(pieces)}
    if proto.trainer_spec.model_type == _UNIGRAM:
        model = {"type": "Unigram", "unk_id": unknown, "vocab": [list(p) for p in pieces]}
    elif proto.trainer_spec.model_type == _BYTE_PAIR:
        merges = _merges(pieces, ids)
        unk_piece = proto.trainer_spec.unk_piece
        model = {"type": "BPE", "vocab": ids, "merges": merges, "unk_token": unk_piece}
        model["fuse_unk"] = True
    else:
        raise ValueError(f"{path} is a model of words or characters, which has no conversion")
    parts = _PARTS.get(settings.class_name, _common_parts)(settings, proto, family)
    post_processor = template(family.before, family.after, ids) if family.after else None
    return {
        "added_tokens": _added_tokens(proto, ids),
        "model": {**model, "byte_fallback": with_bytes},
        "post_processor": post_processor,
        **parts,
    }


def _model(path: Path) -> Any:
    try:
        module: Any = import_module("sentencepiece.sentencepiece_model_pb2")
        proto = module.ModelProto.FromString(path.read_bytes())
    except Exception as error:  # protobuf has no common class of errors
        raise ValueError(
            f"{path} is damaged: it is no model of SentencePiece ({type(error).__name__})"
        ) from None
    if not proto.pieces:
        raise ValueError(f"{path} is damaged: its model has no pieces")
    return proto


def _numbered(proto: Any, family: _Family) -> Pieces:
    """Return the pieces in the order of ids, each with its score."""
    # Pegasus' and Camembert's further unknown tokens are never to be used.
    unused = ("<unk_", "<unk>NOTUSED")
    first = [(token, -100.0 if token.startswith(unused) else 0.0) for token in family.first]
    pieces = [(piece.piece, piece.score) for piece in proto.pieces[family.skipped :]]
    return [*first, *pieces, *((token, 0.0) for token in family.last)]


def _with_tab(pieces: Pieces) -> Pieces:
    """Return Gemma's pieces with a tab, which its first versions lack, in place of its byte."""
    if any(piece == "\t" for piece, _ in pieces):
        return pieces
    return [("\t", 0.0) if piece == "<0x09>" else (piece, score) for piece, score in pieces]


def _merges(pieces: Pieces, ids: Mapping[str, int]) -> list[list[str]]:
    """Return the merges that make the pieces, the highest score first."""
    found: list[tuple[str, str, float]] = []
    for piece, score in dict(pieces).items():
        cuts = [(piece[:i], piece[i:], score) for i in range(1, len(piece))]
        cuts = [cut for cut in cuts if cut[0] in ids and cut[1] in ids]
        found += sorted(cuts, key=lambda cut: (ids[cut[0]], ids[cut[1]]))
    found.sort(key=lambda cut: (cut[2], len(cut[0]), len(cut[1])), reverse=True)
    return [[left, right] for left, right, _ in found]


def _added_tokens(proto: Any, ids: Mapping[str, int]) -> list[Json]:
    """Return control and user-defined pieces, which are found in texts before all else."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    turns = ("<start_of_turn>", "<end_of_turn>")  # Gemma's
    return [
        {
            "id": ids[piece.piece],
            "content": piece.piece,
            "special": piece.type == _CONTROL or piece.piece in turns,
            **flags,
        }
        for piece in proto.pieces
        if piece.type in (_CONTROL, _USER_DEFINED) and piece.piece in ids
    ]


# Normalizer, pre-tokenizer and decoder -----------------------------------------------------------


def _common_parts(settings: Settings, proto: Any, family: _Family) -> Json:
    steps: list[Json] = [
        {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": _SPACE},
    ]
    if proto.normalizer_spec.precompiled_charsmap:
        encoded = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()
        steps.insert(0, {"type": "Precompiled", "precompiled_charsmap": encoded})
    scheme = _prepend_scheme(settings) if settings.class_name == "T5" else "always"
    metaspace = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": scheme}
    pre_tokenizer: Json = {**metaspace, "split": True}
    if family.splits_words:
        both = [{"type": "WhitespaceSplit"}, pre_tokenizer]
        pre_tokenizer = {"type": "Sequence", "pretokenizers": both}
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": pre_tokenizer,
        "decoder": {**metaspace, "split": True},
    }


def _llama_parts(settings: Settings, proto: Any, family: _Family) -> Json:
    prepends = settings.get("add_prefix_space") is not False
    replaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prepend = [{"type": "Prepend", "prepend": _SPACE}] if prepends else []
    found: Json = {
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replaces]},
        "pre_tokenizer": None,
        "decoder": _decoder(strip=prepends),
    }
    if settings.get("legacy") is False:
        found["normalizer"] = None
        found["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": _SPACE,
            "prepend_scheme": _prepend_scheme(settings),
            "split": False,
        }
    return found


def _gemma_parts(settings: Settings, proto: Any, family: _Family) -> Json:
    return {
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "decoder": _decoder(strip=False),
    }


_PARTS = {"Llama": _llama_parts, "Gemma": _gemma_parts}


def _decoder(*, strip: bool) -> Json:
    steps: Sequence[Json] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if strip else []),
    ]
    return {"type": "Sequence", "decoders": steps}


def _prepend_scheme(settings: Settings) -> str:
    if settings.get("add_prefix_space") is False:
        return "never"
    return "first" if settings.get("legacy") is False else "always"
