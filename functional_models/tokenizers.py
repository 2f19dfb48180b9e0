"""Tokenizers with a common interface, and the padding, start and end ids of models.

Four kinds can be trained on any text (`tokenizer_training`):

| kind | ids | lossless |
| --- | --- | --- |
| `byte` | the 256 bytes of UTF-8 | yes |
| `byte_pair` | bytes, and merges of frequent pairs (GPT-2) | yes |
| `sentence_piece` | pieces of a unigram model, bytes of rare characters | except U+2581, a space |
| `word_piece` | words and parts of words (BERT) | no: spaces and unknown characters are lost |

They run on KerasHub's pure Python path and do not need TensorFlow; only training `word_piece` does.
Further kinds, `hugging_face` and `hugging_face_pieces`, are read from folders of Hugging Face
(`hugging_face.tokenizers`).
All of them are saved and loaded (`tokenizer_files`).
"""

from __future__ import annotations

import os
from typing import Any

from functional_models.checks import check_path
from functional_models.hugging_face.tokenizers import HuggingFaceTokenizer
from functional_models.hugging_face.tokenizers_pieces import PieceTokenizer
from functional_models.keras_hub_tokenizer import KerasHubTokenizer, wrapped_keras_tokenizer
from functional_models.tokenizer_base import Tokenizer
from functional_models.tokenizer_files import read_tokenizer_file

_FURTHER_CLASSES = {"hugging_face": HuggingFaceTokenizer, "hugging_face_pieces": PieceTokenizer}


def load_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
    """Load a tokenizer that `Tokenizer.save` wrote.

    Raises:
        FileNotFoundError: the folder or its `tokenizer.json` is missing.
        ValueError: `tokenizer.json` is damaged, or of another format.
    """
    path = check_path("the folder of a tokenizer", folder)
    found: Tokenizer = read_tokenizer_file(path, _FURTHER_CLASSES, default=KerasHubTokenizer)
    return found


def as_tokenizer(tokenizer: Any) -> Tokenizer:
    """Return a `Tokenizer` as it is; wrap a KerasHub tokenizer with its special ids.

    Without a padding token in the vocabulary (GPT-2, Llama), the end token is the padding; without
    a start token (GPT-2), it is the start.

    Raises:
        TypeError: `tokenizer` is neither.
        ValueError: it has no end token, or adds padding, start or end by itself.
    """
    return tokenizer if isinstance(tokenizer, Tokenizer) else wrapped_keras_tokenizer(tokenizer)
