"""What language models and translators share: a spec, a model, training, saving."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import builders
from functional_models.model_folder import (
    ModelFolder,
    make_folder,
    read_model_folder,
    restore_weights,
    write_model_folder,
)
from functional_models.tokenizers import Tokenizer

if TYPE_CHECKING:
    from functional_models.training import Recipe, Row


class TextModel(ABC):
    """A Functional model with the tokenizers that text goes through.

    Attributes:
        spec: what the model was built from.
        model: the Keras model.
        tokenizers: by role; `target_role` is that of the text that the model writes.
        history: rows of the last `fit`; see `training.train`.
    """

    kind: ClassVar[str]
    target_role: ClassVar[str]

    def __init__(
        self,
        spec: builders.TransformerSpec | str,
        tokenizers: dict[str, Tokenizer],
        model: Any = None,
    ) -> None:
        self.tokenizers = tokenizers
        self.spec = self._fitting_spec(spec)
        self.model = builders.build(self.spec) if model is None else model
        self.history: list[Row] = []

    @property
    def _writer(self) -> Tokenizer:
        return self.tokenizers[self.target_role]

    def _vocabulary_fields(self) -> dict[str, tuple[str, int]]:
        """Return which spec field must hold which tokenizer's size: field -> (role, size)."""
        return {"vocabulary_size": (self.target_role, self._writer.vocabulary_size)}

    def _fitting_spec(self, spec: builders.TransformerSpec | str) -> builders.TransformerSpec:
        sizes = self._vocabulary_fields()
        if isinstance(spec, str):
            given = {field: size for field, (_, size) in sizes.items()}
            given["pad_token_id"] = self._writer.pad_id
            spec = builders.variant(spec, kind=self.kind, **given)
        if not isinstance(spec, builders.TransformerSpec):
            raise TypeError(
                f"{type(self).__name__} takes a TransformerSpec or the name of a variant, given "
                f"{type(spec).__name__}"
            )
        if spec.kind != self.kind:
            raise ValueError(
                f"{type(self).__name__} takes a spec of kind={self.kind!r}, given {spec.kind!r}; "
                f"use spec.replace(kind={self.kind!r})"
            )
        for field, (role, size) in sizes.items():
            if getattr(spec, field) < size:
                raise ValueError(
                    f"{field}={getattr(spec, field)}: the {role} has {size} tokens; "
                    f"use spec.replace({field}={size})"
                )
        for role, tokenizer in self.tokenizers.items():
            # A language model's text is packed, so that it may do without any padding.
            if spec.pad_token_id is None and self.kind == "decoder_only":
                continue
            if tokenizer.pad_id != spec.pad_token_id:
                raise ValueError(
                    f"pad_token_id={spec.pad_token_id}: the {role} pads with {tokenizer.pad_id}; "
                    f"use spec.replace(pad_token_id={tokenizer.pad_id})"
                )
        return spec

    def save(self, folder: str | Path) -> None:
        """Save spec, weights and tokenizers; the folder holds the old model or the new one."""
        write_model_folder(folder, ModelFolder(self.spec, self.model, self.tokenizers))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load what `save` wrote.

        Raises:
            FileNotFoundError: there is no such folder, or a file of it is missing.
            ValueError: a newer format, damaged content, or a model of another kind.
        """
        return cls._of_folder(read_model_folder(folder), folder)

    @classmethod
    def _of_folder(cls, content: ModelFolder, folder: str | Path) -> Self:
        if content.spec.kind != cls.kind:
            raise ValueError(
                f"{folder} holds a model of kind={content.spec.kind!r}, {cls.__name__} needs "
                f"{cls.kind!r}; use functional_models.load, which takes either"
            )
        loaded = cls.__new__(cls)
        TextModel.__init__(loaded, content.spec, dict(content.tokenizers), content.model)
        loaded._ready()
        return loaded

    @abstractmethod
    def _ready(self) -> None:
        """Make what generation needs, once the model is there."""

    def _train(
        self,
        batches: Any,
        recipe: Recipe,
        folder: str | Path | None,
        **options: Any,
    ) -> list[Row]:
        from functional_models.training import train

        if folder is not None:
            make_folder(folder)
            options["save_best"] = lambda: self.save(folder)
            options["identity"] = {"spec": self.spec.to_dict()}
        self.history = train(self.model, batches, recipe, folder=folder, **options)
        if folder is not None:
            restore_weights(self.model, folder)  # the best, which need not be the last
        return self.history


def make_recipe(recipe: Recipe | None, changes: dict[str, Any]) -> Recipe:
    """Return a recipe with `changes` made to it, or to the default.

    Raises:
        ValueError: an unknown field, or a value that is not allowed.
        TypeError: `recipe` is none.
    """
    from builders.registry import unknown_name
    from functional_models.training import Recipe

    if recipe is not None and not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a Recipe, given {recipe!r}; write fit(..., steps=500)")
    allowed = [field.name for field in dataclasses.fields(Recipe)]
    for name in changes:
        if name not in allowed:
            raise ValueError(unknown_name("recipe field", name, allowed))
    return dataclasses.replace(recipe or Recipe(), **changes)


def new_text_model(spec: builders.TransformerSpec, tokenizer: Any) -> Any:
    """Return a new `CausalLM` or `Translator`, whichever the spec is for, with one tokenizer."""
    return _classes()[spec.kind](spec, tokenizer)


def load(folder: str | Path) -> Any:
    """Load a `CausalLM` or a `Translator`, whichever the folder holds.

    Raises:
        FileNotFoundError, ValueError: as `TextModel.load`.
    """
    content = read_model_folder(folder)
    return _classes()[content.spec.kind]._of_folder(content, folder)


def _classes() -> dict[str, Any]:
    from functional_models.causal_lm import CausalLM
    from functional_models.translator import Translator

    return {CausalLM.kind: CausalLM, Translator.kind: Translator}
