"""The post-processor of `tokenizer.json` that puts special tokens around texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]


def template(before: Sequence[str], after: Sequence[str], ids: Mapping[str, int]) -> Json:
    """Return the post-processor that puts special tokens around a text, or around a pair.

    Raises:
        ValueError: a special token is not in the vocabulary.
    """
    missing = [token for token in (*before, *after) if token not in ids]
    if missing:
        raise ValueError(f"the special token {missing[0]!r} is not in the vocabulary")

    def around(sequence: str) -> list[Json]:
        tokens = [[{"SpecialToken": {"id": t, "type_id": 0}} for t in x] for x in (before, after)]
        return [*tokens[0], {"Sequence": {"id": sequence, "type_id": 0}}, *tokens[1]]

    special = {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in (*before, *after)}
    pair = [*around("A"), *around("B")]
    kind = "TemplateProcessing"
    return {"type": kind, "single": around("A"), "pair": pair, "special_tokens": special}
