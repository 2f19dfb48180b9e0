"""Compare tokenizers that this project writes with what AutoTokenizer reads from them.

Needs this project and transformers 4.57 or 5 in one environment:

    python tests/peers/written_tokenizers.py
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch_first  # noqa: F401
import transformers

import builders
from functional_models.hugging_face.tokenizers import HuggingFaceTokenizer, read_tokenizers
from functional_models.hugging_face.tokenizers_export import tokenizer_files
from functional_models.tokenizer_base import Tokenizer
from functional_models.tokenizer_training import train_tokenizer

GOLDEN = Path(__file__).parent.parent / "golden_tokenizers"
EXPECTED = json.loads(gzip.decompress((GOLDEN / "expected.json.gz").read_bytes()))
SPEC = builders.variant("pre_norm_learned", kind="decoder_only", vocabulary_size=1000)
TEXTS = [text.translate(str.maketrans("", "", "\x00\x02\x03")) for text in EXPECTED["texts"]]


def tokenizers() -> Iterator[tuple[str, Mapping[str, Tokenizer]]]:
    for name in EXPECTED["folders"]:
        yield name, read_tokenizers(GOLDEN / name, "encoder_decoder")
    yield "trained byte_pair", {"tokenizer": train_tokenizer("byte_pair", TEXTS, 500)}
    yield "trained byte", {"tokenizer": train_tokenizer("byte", [])}
    yield "trained word_piece", {"tokenizer": train_tokenizer("word_piece", TEXTS, 800)}
    yield "trained sentence_piece", {"tokenizer": train_tokenizer("sentence_piece", TEXTS, 800)}


def first_difference(roles: Mapping[str, Tokenizer], folder: str) -> str | None:
    """Return the first text that AutoTokenizer encodes otherwise, or a chat that differs."""
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = next(iter(roles.values()))
    for text, ids in zip(TEXTS, ours.encode_sources(TEXTS), strict=True):
        if theirs(text).input_ids != ids.tolist():
            return f"{text!r}: {ids.tolist()}, transformers {theirs(text).input_ids}"
    if isinstance(ours, HuggingFaceTokenizer) and ours.templates:
        for messages in EXPECTED["conversations"]:
            options = {"tokenize": False, "add_generation_prompt": True}
            text = theirs.apply_chat_template(messages, **options)
            if text != ours.format_chat(messages):
                return f"{text!r}: {ours.format_chat(messages)!r}"
    return None


def main() -> None:
    failed = False
    for name, roles in tokenizers():
        with tempfile.TemporaryDirectory() as folder:
            for file, content in tokenizer_files(roles, SPEC).items():
                encoded = content if isinstance(content, bytes) else content.encode()
                (Path(folder) / file).write_bytes(encoded)
            found = first_difference(roles, folder)
        print(f"{name}: {found or 'equal'}")
        failed |= found is not None
    sys.exit(failed)


if __name__ == "__main__":
    main()
