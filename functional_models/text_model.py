"""What language models, translators and encoders share: a spec, a model, training, saving."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

import builders
from functional_models.attention import AttentionMaps
from functional_models.generation import Generator
from functional_models.model_folder import (
    ModelFolder,
    make_folder,
    read_model_folder,
    restore_weights,
    write_model_folder,
)
from functional_models.samplers import check_count
from functional_models.tokenizers import Tokenizer

if TYPE_CHECKING:
    from functional_models.training import Recipe, Row


@dataclass(frozen=True)
class Generated:
    """What a model wrote, and what it thinks of it.

    Attributes:
        text: without the end.
        tokens: int32 (t,), with the end token or stop token that closed it, if one did.
        log_probabilities: float32 (t,), the model's own, whatever the sampler made of them.
    """

    text: str
    tokens: np.ndarray
    log_probabilities: np.ndarray

    @property
    def log_probability(self) -> float:
        """The log-probability of the whole: the sum."""
        return float(self.log_probabilities.sum())


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

    def _tokenizer(self, role: str) -> Tokenizer:
        if role not in self.tokenizers:
            raise ValueError(
                "this model has no tokenizer, since none came with its weights; give one: "
                "from_keras_hub(..., tokenizer=...)"
            )
        return self.tokenizers[role]

    @property
    def _writer(self) -> Tokenizer:
        return self._tokenizer(self.target_role)

    @cached_property
    def _generator(self) -> Generator:
        return Generator(
            self.model,
            self.spec,
            end_id=self._writer.end_id,
            vocabulary_size=self._writer.vocabulary_size,
        )

    @cached_property
    def _probe(self) -> Any:
        return builders.build_probe(self.model, self.spec, "attention_scores")

    @abstractmethod
    def attention_maps(self, text: str, target: str | None = None) -> AttentionMaps:
        """Return where the model looks while it reads; see `functional_models.attention_maps`."""

    def _vocabulary_fields(self) -> dict[str, tuple[str, int]]:
        """Return which spec field must hold which tokenizer's size: field -> (role, size)."""
        return {"vocabulary_size": (self.target_role, self._writer.vocabulary_size)}

    def _fitting_spec(self, spec: builders.TransformerSpec | str) -> builders.TransformerSpec:
        sizes = self._vocabulary_fields() if self.tokenizers else {}
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

    def export(self, folder: str | Path, **options: Any) -> Path:
        """Write a TensorFlow SavedModel: strings in, strings out, without any Python of ours.

        Args:
            folder: a new one, or an earlier export, which is replaced.
            options: `max_new_tokens` and `sampler` with its options, as in `generate` and
                `translate`, but with `greedy` as the default and no sampler that compares whole
                sequences. Draws begin at `seed` whenever the SavedModel is loaded.

        Raises:
            ValueError: another backend than TensorFlow, a folder with something else in it, or
                an option that is not allowed.
            ImportError: the tokenizer needs tensorflow_text, and it is not there.
        """
        from functional_models.export import export_saved_model

        return export_saved_model(self, folder, **options)

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
        return cls._of(content.spec, content.model, dict(content.tokenizers))

    @classmethod
    def _of(cls, spec: builders.TransformerSpec, model: Any, tokenizers: Any) -> Self:
        made = cls.__new__(cls)
        TextModel.__init__(made, spec, tokenizers, model)
        return made

    def _stop_ids(self, stop_tokens: int | str | Sequence[int | str]) -> tuple[int, ...]:
        """Return the ids of stop tokens, each given as an id or as the text of one token."""
        if isinstance(stop_tokens, str) or not isinstance(stop_tokens, Iterable):
            stop_tokens = [stop_tokens]
        found = []
        for stop in stop_tokens:
            if not isinstance(stop, str):
                check_count("stop token", stop, least=0, most=self._writer.vocabulary_size - 1)
                found.append(int(stop))
                continue
            ids = self._writer.encode([stop])[0]
            if len(ids) != 1:
                raise ValueError(
                    f"stop token {stop!r} is {len(ids)} tokens of this tokenizer; must be one, as "
                    "its text or as its id"
                )
            found.append(int(ids[0]))
        return tuple(found)

    def _text(self, prompt: np.ndarray, new: np.ndarray, stop_ids: Sequence[int] = ()) -> str:
        """Return the text of new tokens after a prompt's: with it, it is the text of both."""
        if len(new) and new[-1] in stop_ids:
            new = new[:-1]
        before, both = self._writer.decode([prompt, np.concatenate([prompt, new])])
        return both[len(before) :] if both.startswith(before) else self._writer.decode([new])[0]

    def _generated(
        self,
        prompt: np.ndarray,
        sequences: Sequence[np.ndarray],
        *,
        before: str = "",
        stop_ids: Sequence[int] = (),
        scores: bool = False,
        source: np.ndarray | None = None,
    ) -> Any:
        """Return one prompt's outcome: a text or a `Generated`; a list of them if more than one."""
        texts: list[Any] = [before + self._text(prompt, new, stop_ids) for new in sequences]
        if scores:
            sources = None if source is None else np.repeat(source[None], len(sequences), axis=0)
            prompts = [prompt] * len(sequences)
            chances = self._generator.log_probabilities(prompts, sequences, sources)
            rows = zip(texts, sequences, chances, strict=True)
            texts = [Generated(*row) for row in rows]
        return texts[0] if len(texts) == 1 else texts

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


class TextPieces:
    """Cuts a growing text into pieces, each given out once it will not change any more.

    The bytes of a character can be several tokens: until the last of them is there, the text ends
    in U+FFFD, which is held back.
    """

    def __init__(self) -> None:
        self._sent = self._text = ""

    def grown(self, text: str) -> str:
        """Return what is new in a text that has grown."""
        self._text, whole = text, text.rstrip("\ufffd")
        if not whole.startswith(self._sent):
            return ""
        new, self._sent = whole[len(self._sent) :], whole
        return new

    def rest(self) -> str:
        """Return what was held back, now that the text is whole."""
        pairs = enumerate(zip(self._sent, self._text, strict=False))
        same = next((i for i, (a, b) in pairs if a != b), min(len(self._sent), len(self._text)))
        return self._text[same:]


def make_recipe(recipe: Recipe | None, changes: dict[str, Any]) -> Recipe:
    """Return a recipe with `changes` made to it, or to the default.

    Raises:
        ValueError: an unknown field, or a value that is not allowed.
        TypeError: `recipe` is none.
    """
    from builders.errors import unknown_name
    from functional_models.training import Recipe

    if recipe is not None and not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a Recipe, given {recipe!r}; write fit(..., steps=500)")
    allowed = [field.name for field in dataclasses.fields(Recipe)]
    for name in changes:
        if name not in allowed:
            raise ValueError(unknown_name("recipe field", name, allowed))
    return dataclasses.replace(recipe or Recipe(), **changes)


def new_text_model(spec: builders.TransformerSpec, tokenizer: Any) -> Any:
    """Return a new text model, of the class that the spec is for, with one tokenizer."""
    return _classes()[spec.kind](spec, tokenizer)


def load(folder: str | Path) -> Any:
    """Load a `CausalLM`, a `Translator` or a `TextEncoder`, whichever the folder holds.

    Raises:
        FileNotFoundError, ValueError: as `TextModel.load`.
    """
    content = read_model_folder(folder)
    return _classes()[content.spec.kind]._of_folder(content, folder)


def text_model_of(
    spec: builders.TransformerSpec, model: Any, tokenizers: dict[str, Tokenizer]
) -> Any:
    """Return a text model, of the class that the spec is for, around a Keras model."""
    return _classes()[spec.kind]._of(spec, model, tokenizers)


def _classes() -> dict[str, Any]:
    from functional_models.causal_lm import CausalLM
    from functional_models.text_encoder import TextEncoder
    from functional_models.translator import Translator

    return {cls.kind: cls for cls in (CausalLM, Translator, TextEncoder)}
