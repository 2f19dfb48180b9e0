"""Load, build or wrap a text model, of the class that its spec's `kind` requires."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import builders
from functional_models.causal_lm import CausalLM
from functional_models.model_folder import read_model_folder
from functional_models.text_encoder import TextEncoder
from functional_models.tokenizers import Tokenizer
from functional_models.translator import Translator

_CLASSES: dict[str, Any] = {cls.kind: cls for cls in (CausalLM, Translator, TextEncoder)}


def load(folder: str | Path) -> Any:
    """Load the `CausalLM`, `Translator` or `TextEncoder` that a folder holds.

    Raises:
        FileNotFoundError, ValueError: as `TextModel.load`.
    """
    content = read_model_folder(folder)
    model = wrap_model(content.spec, content.model, dict(content.tokenizers))
    model.folder = Path(folder)
    return model


def new_text_model(spec: builders.TransformerSpec, tokenizer: Any) -> Any:
    """Return an untrained text model with a single tokenizer."""
    return _CLASSES[spec.kind](spec, tokenizer)


def wrap_model(spec: builders.TransformerSpec, model: Any, tokenizers: dict[str, Tokenizer]) -> Any:
    """Return a text model around an existing Keras model."""
    return _CLASSES[spec.kind].wrap(spec, model, tokenizers)


@contextmanager
def precision(policy: Any) -> Iterator[None]:
    """Build the models of a `with` block under a dtype policy; `None`: that of Keras."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy or before)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def sized_for(
    spec: builders.TransformerSpec, tokenizer: Any, changes: Mapping[str, Any]
) -> builders.TransformerSpec:
    """Return the spec with the vocabulary size and padding of a tokenizer, then with changes."""
    size = tokenizer.vocabulary_size
    sizes: dict[str, Any] = {"vocabulary_size": size, "pad_token_id": tokenizer.pad_id}
    if spec.kind == "encoder_decoder":
        sizes["source_vocabulary_size"] = size
    return spec.replace(**{**sizes, **changes})
