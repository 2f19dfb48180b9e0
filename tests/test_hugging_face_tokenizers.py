"""Tokenizers of Hugging Face folders give the ids and texts of transformers."""

import gzip
import json
from functools import cache
from pathlib import Path

import pytest

from functional_models.hugging_face.tokenizers import read_tokenizer

GOLDEN = Path(__file__).parent / "golden_tokenizers"
EXPECTED = json.loads(gzip.decompress((GOLDEN / "expected.json.gz").read_bytes()))
TEXTS, FOLDERS = EXPECTED["texts"], EXPECTED["folders"]


@cache
def read(name):
    return read_tokenizer(GOLDEN / name)


def first_unequal(found, expected):
    pairs = zip(TEXTS, found, expected, strict=True)
    return next(((t, list(a), b) for t, a, b in pairs if list(a) != b), None)


@pytest.mark.parametrize("name", FOLDERS)
def test_ids_are_those_of_transformers(name):
    tokenizer, expected = read(name), FOLDERS[name]
    assert first_unequal(tokenizer.encode(TEXTS), expected["plain"]) is None
    assert first_unequal(tokenizer.encode_sources(TEXTS), expected["ids"]) is None
    assert first_unequal(tokenizer.encode_prompts(TEXTS), expected["ids"]) is None
    assert tokenizer.vocabulary_size == expected["vocabulary_size"]


@pytest.mark.parametrize("name", FOLDERS)
def test_texts_are_those_of_transformers(name):
    tokenizer, expected = read(name), FOLDERS[name]
    kept = [i for i, text in enumerate(expected["decoded"]) if text is not None]
    assert len(kept) > len(TEXTS) / 2
    found = tokenizer.decode([expected["plain"][i] for i in kept])
    pairs = zip(kept, found, strict=True)
    assert [(TEXTS[i], t) for i, t in pairs if t != expected["decoded"][i]] == []
