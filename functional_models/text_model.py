"""Base class of language models, translators and encoders: spec, model, training, saving."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import keras
import numpy as np

import builders
import plots
from functional_models.checks import check_count
from functional_models.compiled import to_numpy
from functional_models.descriptions import spec_line
from functional_models.distribution import check_split
from functional_models.generation import Generator
from functional_models.lora import QUERY_AND_VALUE, enable_lora, freeze, merge_lora
from functional_models.model_folder import (
    ModelFolder,
    model_writer,
    read_model_folder,
    replace_model,
    restore_weights,
    write_model_folder,
)
from functional_models.processes import in_first_process, whole_weights
from functional_models.prompts import model_inputs
from functional_models.recipe import Recipe
from functional_models.text_outputs import AttentionMaps, Generated, token_labels
from functional_models.tokenizers import Tokenizer

if TYPE_CHECKING:
    from functional_models.batches import Batches
    from functional_models.training import Row


class TextModel(ABC):
    """A Functional model with its tokenizers.

    Attributes:
        spec: the spec of the model.
        model: the Keras model.
        tokenizers: tokenizers by role; `target_role` is the role of the output text.
        history: rows of the last `fit`; see `training.train`.
        folder: the folder that it was last loaded from or saved to; `None` without one.
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
        check_split(self.spec)
        self.model = builders.build(self.spec) if model is None else model
        self.history: list[Row] = []
        self.folder: Path | None = None

    def __repr__(self) -> str:
        parts = [spec_line(self.spec), f"{self.model.count_params():,} parameters"]
        tokenizers = dict.fromkeys(map(repr, self.tokenizers.values()))
        parts += [text.strip("<>") for text in tokenizers] or ["no tokenizer"]
        parts.append(keras.backend.backend())
        if self.folder is not None:
            parts.append(str(self.folder))
        return f"<{type(self).__name__}: {'; '.join(parts)}>"

    def _repr_html_(self) -> str:
        """Return the text and the diagram for the output of a notebook cell."""
        picture = plots.read_graph(self.model)._repr_svg_() or ""  # type: ignore[attr-defined]
        return f"<p><code>{html.escape(repr(self))}</code></p>{picture}"

    def _tokenizer(self, role: str) -> Tokenizer:
        if role not in self.tokenizers:
            raise ValueError(
                "this model has no tokenizer, because its source has none; give one: "
                "from_keras_hub(..., tokenizer=...)"
            )
        return self.tokenizers[role]

    @property
    def _target_tokenizer(self) -> Tokenizer:
        return self._tokenizer(self.target_role)

    @cached_property
    def _generator(self) -> Generator:
        return Generator(
            self.model,
            self.spec,
            end_id=self._target_tokenizer.end_id,
            vocabulary_size=self._target_tokenizer.vocabulary_size,
            suppressed=self._target_tokenizer.suppressed_ids,
            forces_end=self._target_tokenizer.ends_at_limit,
        )

    @cached_property
    def _probe(self) -> Any:
        return builders.build_probe(self.model, self.spec, "attention_scores")

    @abstractmethod
    def attention_maps(self, text: str, target: str | None = None) -> AttentionMaps:
        """Return the attention weights for a text.

        Args:
            text: the text to read, with `prefix_lm` as a prompt; for a translator, the source.
            target: the translation, which the decoder reads after its start token; by default the
                model's own greedy translation. For translators only.

        Raises:
            ValueError: a text that is empty or too long, or a target for a model without a source.
        """

    def _attention_maps(
        self, target: np.ndarray, source: np.ndarray | None = None
    ) -> AttentionMaps:
        """Run the probe graph on a single sequence, (t,), as a prompt, and its source, (s,)."""
        sources = None if source is None else np.asarray(source, "int32")[None]
        inputs = model_inputs(self.spec, np.asarray(target, "int32")[None], len(target), sources)
        labels: tuple[str, ...] = ()
        if source is not None:
            labels = token_labels(self._tokenizer("source_tokenizer"), source)
        scores = {
            name: to_numpy(keras.ops.cast(x, "float32"))[0]
            for name, x in self._probe(inputs, training=False).items()
        }
        return AttentionMaps(token_labels(self._target_tokenizer, target), labels, scores)

    def _vocabulary_fields(self) -> dict[str, tuple[str, int]]:
        """Return the spec fields that depend on a vocabulary size: field -> (role, size)."""
        return {"vocabulary_size": (self.target_role, self._target_tokenizer.vocabulary_size)}

    def _fitting_spec(self, spec: builders.TransformerSpec | str) -> builders.TransformerSpec:
        sizes = self._vocabulary_fields() if self.tokenizers else {}
        if isinstance(spec, str):
            given = {field: size for field, (_, size) in sizes.items()}
            given["pad_token_id"] = self._target_tokenizer.pad_id
            spec = builders.variant(spec, kind=self.kind, **given)
        if not isinstance(spec, builders.TransformerSpec):
            advice = (
                f"; {type(self).__name__}.wrap takes a model" if hasattr(spec, "layers") else ""
            )
            raise TypeError(
                f"{type(self).__name__} takes a TransformerSpec or the name of a variant, given "
                f"{type(spec).__name__}{advice}"
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
            # The text of a language model is packed and needs no padding.
            if spec.pad_token_id is None and self.kind == "decoder_only":
                continue
            if tokenizer.pad_id != spec.pad_token_id:
                raise ValueError(
                    f"pad_token_id={spec.pad_token_id}: the {role} pads with {tokenizer.pad_id}; "
                    f"use spec.replace(pad_token_id={tokenizer.pad_id})"
                )
        return spec

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Save spec, weights and tokenizers; an interrupted save leaves the previous model.

        Of several processes, all must call it, and the first one writes.

        Args:
            folder: a folder without a model; it is made if it is missing.
            overwrite: replace a model or a training run that the folder holds. Of an earlier save
                only the files that its `model.json` names are deleted.

        Raises:
            FileExistsError: the folder holds something else.
            BlockingIOError: another process or thread writes the folder.
            ValueError: `folder` is a file, or has a `model.json` that is not a manifest of a model.
        """
        content = ModelFolder(self.spec, self.model, self.tokenizers)
        with whole_weights(self.model):
            in_first_process(lambda: write_model_folder(folder, content, overwrite=overwrite))
        self.folder = Path(folder)

    def enable_lora(
        self,
        rank: int = 8,
        *,
        layers: str | Sequence[str] = QUERY_AND_VALUE,
        alpha: float | None = None,
    ) -> list[str]:
        """Add low-rank adapters to layers and freeze all other weights; return the layers' names.

        Generation, training and saving go on with the adapters (Hu et al. 2022, "LoRA").

        Args:
            rank: of the adapters.
            layers: patterns of the names of dense layers and embeddings, such as
                `"decoder.block_3.*"`; by default queries and values.
            alpha: an adapter adds alpha / rank times its product; by default the rank.

        Raises:
            ValueError: a value that is not allowed, a pattern without layers, or a model that has
                LoRA.
        """
        found = enable_lora(self.model, rank, layers, alpha)
        self._forget_graphs()
        return found

    def merge_lora(self) -> None:
        """Add the adapters to the weights of their layers, and remove them.

        Raises:
            ValueError: the model has no LoRA.
        """
        merge_lora(self.model)
        self._forget_graphs()

    def freeze(self, layers: str | Sequence[str]) -> list[str]:
        """Let layers whose names match patterns not train, and all others train.

        Args:
            layers: patterns, such as `"*embedding"`; `()` lets every layer train. They are not
                saved with the model.

        Returns:
            The names of the layers that do not train.

        Raises:
            ValueError: a pattern without layers, no layer left to train, or a model with LoRA.
        """
        return freeze(self.model, layers)

    def _forget_graphs(self) -> None:
        """Remove the graphs and compiled loops that know the former variables of the model."""
        for name in ("_generator", "_probe", "_packed", "_masked_graph", "_class_graph"):
            self.__dict__.pop(name, None)

    def export(self, folder: str | Path, *, overwrite: bool = False, **options: Any) -> Path:
        """Write a TensorFlow SavedModel from strings to strings, which runs without this package.

        Args:
            folder: a new folder.
            overwrite: replace an earlier export that the folder holds.
            options: `max_new_tokens` and `sampler` with its options, as in `generate` and
                `translate`; the default is `greedy`, and samplers that compare whole sequences
                are not supported. Draws start from `seed` whenever the SavedModel is loaded.

        Raises:
            FileExistsError: the folder holds something else.
            BlockingIOError: another process or thread exports to the folder.
            ValueError: another backend than TensorFlow, or an option that is not allowed.
            ImportError: the tokenizer needs tensorflow_text, which is not installed.
        """
        from functional_models.export import export_saved_model

        return export_saved_model(self, folder, overwrite=overwrite, **options)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load a model that `save` wrote.

        Raises:
            FileNotFoundError: the folder or one of its files is missing.
            ValueError: a newer format, damaged content, or a model of another kind.
        """
        content = read_model_folder(folder)
        if content.spec.kind != cls.kind:
            raise ValueError(
                f"{folder} holds a model of kind={content.spec.kind!r}, {cls.__name__} needs "
                f"{cls.kind!r}; use functional_models.load, which takes every kind"
            )
        loaded = cls.wrap(content.spec, content.model, dict(content.tokenizers))
        loaded.folder = Path(folder)
        return loaded

    @classmethod
    def wrap(cls, spec: builders.TransformerSpec, model: Any, tokenizers: Any) -> Self:
        """Return a text model around an existing Keras model."""
        made = cls.__new__(cls)
        TextModel.__init__(made, spec, tokenizers, model)
        return made

    def _stop_ids(self, stop_tokens: int | str | Sequence[int | str]) -> tuple[int, ...]:
        """Return the further ends of the tokenizer, and stop tokens, given as ids or as text."""
        if isinstance(stop_tokens, str) or not isinstance(stop_tokens, Iterable):
            stop_tokens = [stop_tokens]
        tokenizer = self._target_tokenizer
        found = list(tokenizer.end_ids[1:])
        for stop in stop_tokens:
            if not isinstance(stop, str):
                check_count("stop token", stop, least=0, most=tokenizer.vocabulary_size - 1)
                found.append(int(stop))
                continue
            ids = tokenizer.encode([stop])[0]
            if len(ids) != 1:
                raise ValueError(
                    f"stop token {stop!r} is {len(ids)} tokens of this tokenizer; give the text or "
                    "the id of a single token"
                )
            found.append(int(ids[0]))
        return tuple(found)

    def _text(self, prompt: np.ndarray, new: np.ndarray, stop_ids: Sequence[int] = ()) -> str:
        """Return the text that new tokens add to the text of a prompt."""
        if len(new) and new[-1] in stop_ids:
            new = new[:-1]
        return self._target_tokenizer.decode_continuation(prompt, new)

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
        """Return the text or the `Generated` of one prompt; for several sequences, a list."""
        texts: list[Any] = [before + self._text(prompt, new, stop_ids) for new in sequences]
        if scores:
            sources = None if source is None else np.repeat(source[None], len(sequences), axis=0)
            prompts = [prompt] * len(sequences)
            chances = self._generator.log_probabilities(prompts, sequences, sources)
            rows = zip(texts, sequences, chances, strict=True)
            texts = [Generated(*row) for row in rows]
        return texts[0] if len(texts) == 1 else texts

    @abstractmethod
    def check_data(self, data: Any) -> None:
        """Check that `evaluate` takes data, such as those of a test, before a long training.

        Args:
            data: as in `evaluate`.

        Raises:
            ValueError: as `evaluate`.
        """

    def _train(
        self,
        batches: Batches,
        recipe: Recipe,
        folder: str | Path | None,
        overwrite: bool,
        *,
        graph: Any = None,
        **options: Any,
    ) -> list[Row]:
        """Train the model, or a graph of the same layers from its inputs to logits."""
        from functional_models.training import train
        from functional_models.training_sizes import check_step_memory

        graph = self.model if graph is None else graph
        recipe = recipe.for_width(self.spec.hidden_dim)
        check_step_memory(self.spec, self.model.count_params(), recipe, batches.longest)
        if folder is None:
            self.history = train(graph, batches, recipe, **options)
            return self.history
        for tokenizer in self.tokenizers.values():
            _ = tokenizer.file_content  # raises now, not at the first report
        content = ModelFolder(self.spec, self.model, self.tokenizers)

        def save_best() -> None:
            with whole_weights(self.model):
                in_first_process(lambda: replace_model(Path(folder), content, of_run=True))

        with ExitStack() as stack:
            writer = model_writer(folder, overwrite=overwrite, resumes=True)
            in_first_process(lambda: stack.enter_context(writer))
            path = Path(folder)
            self.history = train(
                graph,
                batches,
                recipe,
                folder=path,
                overwrite=overwrite,
                save_best=save_best,
                identity={"spec": self.spec.to_dict()},
                **options,
            )
            restore_weights(self.model, path)  # the best weights, not always the last
        return self.history
