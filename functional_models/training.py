"""Training by `model.fit`: one recipe, one loop for language models and translation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras

from functional_models.batches import Batches, evaluation_data, training_data
from functional_models.callbacks import Checkpoint, Progress, Record, SampleText
from functional_models.losses import TokenCrossEntropy, token_metrics
from functional_models.schedules import SCHEDULES, schedule

Row = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained: the same recipe for several models is one budget for all.

    Attributes:
        steps: updates of the weights.
        batch_size: sequences of a batch.
        learning_rate: the peak of the schedule.
        schedule: `cosine`, `inverse_sqrt` or `constant`.
        warmup_steps: steps of linear warm-up.
        weight_decay: AdamW's; matrices only, no biases, norms or embeddings.
        beta_2: AdamW's second decay rate.
        clip_norm: the most that the norm of all gradients together may be.
        label_smoothing: share of the target that is spread over the vocabulary.
        report_every: steps between two reports; each evaluates, samples and saves.
        seed: of the weights, the dropout and the order of the data.

    Raises:
        ValueError: a value that is not allowed; names the field, the value and what is allowed.
    """

    steps: int = 2000
    batch_size: int = 32
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_steps: int = 100
    weight_decay: float = 0.01
    beta_2: float = 0.98
    clip_norm: float = 1.0
    label_smoothing: float = 0.0
    report_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            # An int is a float too, as in Python's own arithmetic; a bool is neither.
            kinds: Any = {"int": int, "float": (int, float), "str": str}[str(field.type)]
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise ValueError(f"{field.name}={value!r}: must be of type {field.type}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{field.name}={value!r}: must be finite")
        rules: dict[str, tuple[bool, str]] = {
            "steps": (self.steps >= 1, "1 or more"),
            "batch_size": (self.batch_size >= 1, "1 or more"),
            "learning_rate": (self.learning_rate > 0, "above 0"),
            "schedule": (self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            "warmup_steps": (self.warmup_steps >= 0, "0 or more"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "beta_2": (0 <= self.beta_2 < 1, "in [0, 1)"),
            "clip_norm": (self.clip_norm > 0, "above 0"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "in [0, 1)"),
            "report_every": (self.report_every >= 1, "1 or more"),
            "seed": (self.seed >= 0, "0 or more"),
        }
        for name, (fine, allowed) in rules.items():
            if not fine:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be {allowed}")

    def optimizer(self) -> keras.optimizers.Optimizer:
        """Return a new AdamW (Loshchilov and Hutter 2019) with the schedule of the recipe."""
        optimizer = keras.optimizers.AdamW(
            schedule(
                self.schedule,
                peak=self.learning_rate,
                warmup_steps=self.warmup_steps,
                steps=self.steps,
            ),
            weight_decay=self.weight_decay,
            beta_2=self.beta_2,
            epsilon=1e-9,
            global_clipnorm=self.clip_norm,
        )
        optimizer.exclude_from_weight_decay(
            var_names=["bias", "gamma", "beta", "scale", "embeddings"]
        )
        return optimizer


def train(
    model: keras.Model,
    batches: Batches,
    recipe: Recipe,
    *,
    validation: Batches | None = None,
    exact_match: bool = False,
    folder: str | Path | None = None,
    save_best: Callable[[], None] | None = None,
    sample: Callable[[], str] | None = None,
    progress: bool = True,
    callbacks: tuple[keras.callbacks.Callback, ...] = (),
    identity: Mapping[str, Any] | None = None,
) -> list[Row]:
    """Train a model by `model.fit`, resuming where a run in `folder` stopped.

    Args:
        model: from `builders`, or any model from token inputs to logits.
        batches: what to train on.
        recipe: how.
        validation: what to evaluate on at every report; the best of these is kept.
        exact_match: measure the share of whole sequences that are right, too.
        folder: holds the checkpoint of the run; `None` keeps nothing on disk.
        save_best: called whenever the validation loss (without validation: the training loss) is
            the lowest so far.
        sample: gives a text that shows what the model can do, printed at every report.
        progress: show a bar and a line per report.
        callbacks: more Keras callbacks.
        identity: JSON-ready; what else must be the same for a run to go on, such as the spec.

    Returns:
        One row per report: step, loss (nats per token since the last report, dropout on),
        token_accuracy, tokens_per_second (training only, compilation left out), seconds, and
        val_loss, val_token_accuracy, val_exact_match where measured.

    Raises:
        ValueError: the folder holds a run of another model, recipe or data, or the loss is no
            number any more.
    """
    loss = TokenCrossEntropy(recipe.label_smoothing)
    _compile(model, recipe.optimizer(), loss, exact_match)
    validate = None
    if validation is not None:
        validate = partial(evaluate, model, validation, exact_match=exact_match)
    record = Record(validate, save_best)
    checkpoint = None
    if folder is not None:
        run = {
            **dataclasses.asdict(recipe),
            **(identity or {}),
            "data": batches.fingerprint(),
            "validation data": validation and validation.fingerprint(),
            "model": _shapes(model),
        }
        checkpoint = Checkpoint(Path(folder), run, record)
        checkpoint.restore(model)
    watchers: list[keras.callbacks.Callback] = [record]
    bar = Progress(record, recipe.steps)
    if progress:
        watchers.append(bar)
    if sample is not None:
        watchers.append(SampleText(sample))
    watchers.extend(callbacks)
    if checkpoint is not None:
        watchers.append(checkpoint)  # last, so that a checkpoint follows all that it speaks of

    try:
        while (left := recipe.steps - record.step) > 0:
            every = min(recipe.report_every, left)
            model.fit(
                training_data(batches, record.step),
                steps_per_epoch=every,
                epochs=left // every,
                shuffle=False,  # batches come in their order already
                verbose=0,
                callbacks=watchers,
            )
    finally:
        bar.close()  # Keras does not end its callbacks on Ctrl-C
    return record.rows


def evaluate(model: keras.Model, batches: Batches, *, exact_match: bool = False) -> Row:
    """Measure a model on every example once.

    Returns:
        loss (nats per token), perplexity, token_accuracy, tokens, and exact_match if asked for.
    """
    wanted = {metric.name for metric in token_metrics(exact_match=exact_match)}
    compiled_here = model.compiled and isinstance(model.loss, TokenCrossEntropy)
    logs = _measure(model, batches) if compiled_here else {}
    if not wanted <= logs.keys():
        if model.compiled:  # by its owner in another way, which is left alone
            model = keras.Model(model.input, model.output)
        _compile(model, None, TokenCrossEntropy(), exact_match)
        logs = _measure(model, batches)
    row = {
        "loss": logs["cross_entropy"],
        "perplexity": math.exp(min(logs["cross_entropy"], 700)),
        "token_accuracy": logs["token_accuracy"],
        "tokens": logs["tokens"],
    }
    return {**row, "exact_match": logs["exact_match"]} if exact_match else row


def _measure(model: keras.Model, batches: Batches) -> Row:
    return model.evaluate(
        evaluation_data(batches), steps=batches.num_eval_batches, verbose=0, return_dict=True
    )


def _compile(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer | None,
    loss: keras.losses.Loss,
    exact_match: bool,
) -> None:
    model.compile(
        optimizer=optimizer or "sgd",
        loss=loss,
        weighted_metrics=token_metrics(exact_match=exact_match),
    )


def _shapes(model: keras.Model) -> list[str]:
    """Return what tells models apart in which a checkpoint fits."""
    return [f"{weight.path} {tuple(weight.shape)}" for weight in model.weights]
