"""Where a long text can be cut without a change of its tokens.

A text is cut at a single space between two letters, for tokenizers of which this is proven by their
parts; texts of other tokenizers are encoded as a whole. The proof, for `...a b...`:

- No added token has such a space in it, or takes spaces next to its letters: none is at the cut.
- The normalizer changes characters one by one there, since Unicode composes nothing with a space,
  and letters stay letters.
- The pre-tokenizer separates words before spaces: none of the listed regular expressions matches a
  letter and then white space, and each looks ahead of white space only. Where it does not separate,
  no merge of the byte-pair model joins a letter and the sign of a space.
- The second part begins with its space, before which nothing is put; or without it, if the
  normalizer puts one before every text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]

CHUNK = 1 << 16
"""Number of characters after which a text is cut at the next place."""

# Letters that no form of Unicode changes to anything but letters: Latin, Greek, Cyrillic, Hebrew,
# Arabic and Korean.
_RANGES = ("AZ", "az", "ÀÖ", "Øö", "øɏ", "ΑΡ", "Σω", "Ая", "את", "غي", "가힣")
_LETTERS = "".join(f"{ends[0]}-{ends[1]}" for ends in _RANGES)
_PLACE = re.compile(f"(?<=[{_LETTERS}]) (?=[{_LETTERS}])")
_SPACE = "▁"

# Llama 3's, Qwen's and DeepSeek-V3's; digits may be in groups of up to three.
_SPLITS = (
    *(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        for digits in (r"\p{N}", r"\p{N}{1,3}")
    ),
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"""
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_OF_OTHERS = (r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+")
"""Match neither a space nor a letter at a place."""
_BY_CHARACTER = ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer")


class Cuts:
    """Cuts the texts of a tokenizer.

    Args:
        content: the content of its `tokenizer.json`.
        normalize: its normalizer.

    Attributes:
        allowed: whether texts can be cut.
    """

    def __init__(self, content: Json, normalize: Callable[[str], str] = str) -> None:
        normalizers = _steps(content.get("normalizer"), "normalizers")
        self._drops_space = any(step["type"] == "Prepend" for step in normalizers)
        self.allowed = (
            all(map(_normalizes_by_character, normalizers))
            and not any(map(_may_be_at_a_cut, content.get("added_tokens") or []))
            and _keeps_words_apart(content)
            and all(map(_begins_and_ends_with_letters, map(normalize, _letters())))
        )

    def chunks(self, pieces: Iterable[str]) -> Iterator[str]:
        """Yield a text in chunks of about `CHUNK` characters; `pieces` are of any length."""
        if not self.allowed:
            yield "".join(pieces)
            return
        text, looked = "", 0  # no place before `looked`
        for piece in pieces:
            text += piece
            while len(text) > CHUNK:
                found = _PLACE.search(text, max(looked, CHUNK))
                if found is None:
                    looked = len(text) - 1
                    break
                yield text[: found.start()]
                text, looked = text[found.start() + self._drops_space :], 0
        yield text


def _steps(part: Json | None, name: str) -> list[Json]:
    """Return the steps of a normalizer or pre-tokenizer, without sequences in sequences."""
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    return [step for inner in part[name] for step in _steps(inner, name)]


def _normalizes_by_character(step: Json) -> bool:
    kind, pattern = step["type"], step.get("pattern")
    if kind == "Replace":
        return pattern in ({"String": " "}, {"Regex": " {2,}"}) and step["content"] == _SPACE
    if kind == "Strip":  # of the end, where a chunk has a letter
        return not step["strip_left"]
    return kind in (*_BY_CHARACTER, "Precompiled") or (
        kind == "Prepend" and step["prepend"] == _SPACE
    )


def _letters() -> Iterator[str]:
    """Yield the letters around places, of the many Korean ones every hundredth."""
    for ends in _RANGES:
        step = 100 if ends == "가힣" else 1
        yield from map(chr, range(ord(ends[0]), ord(ends[1]) + 1, step))


def _begins_and_ends_with_letters(text: str) -> bool:
    """Return whether a normalized letter has letters at both ends; Llama's space may be before."""
    text = text.removeprefix(_SPACE)
    return text[:1].isalpha() and unicodedata.category(text[-1])[0] in "LM"


def _may_be_at_a_cut(token: Json) -> bool:
    """Return whether an added token has a space as at a cut, or takes spaces next to letters."""
    text = token["content"]
    spaces = f" {_SPACE}" if token.get("normalized", True) else " "  # as a normalizer writes them
    return (
        re.search(rf"(?<!\W)[{spaces}](?!\W)", text) is not None  # between letters or at an end
        or (token["lstrip"] and text[:1].isalpha())
        or (token["rstrip"] and text[-1:].isalpha())
    )


def _keeps_words_apart(content: Json) -> bool:
    model = content["model"]
    steps = _steps(content.get("pre_tokenizer"), "pretokenizers")
    splits = [_splits_words(step) for step in steps]
    if any(splits):
        return not any(split is None for split in splits) and not model.get("dropout")
    if any(split is None for split in splits) or model.get("type") != "BPE" or model.get("dropout"):
        return False
    pairs = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
    return all(not right.startswith(_SPACE) or left.endswith(_SPACE) for left, right in pairs)


def _splits_words(step: Json) -> bool | None:
    """Return whether a step separates words before spaces; None for an unknown step."""
    kind = step["type"]
    if kind == "ByteLevel":
        return bool(step.get("use_regex", True))
    if kind == "Metaspace":
        return bool(step.get("split", True)) if step["replacement"] == _SPACE else None
    if kind == "Split" and step["pattern"] == {"String": " "}:
        return False  # of Gemma, whose normalizer has left no space
    if kind == "Split":
        pattern = step["pattern"].get("Regex")
        known = pattern in (*_SPLITS, *_OF_OTHERS) and not step["invert"]
        return pattern in _SPLITS if known and step["behavior"] == "Isolated" else None
    return {"BertPreTokenizer": True, "WhitespaceSplit": True, "Digits": False}.get(kind)
