"""Training and evaluation with `model.fit` and `model.evaluate`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import keras

from functional_models.averages import Averages
from functional_models.batches import Batches
from functional_models.callbacks import (
    Checkpoint,
    DivergedError,
    LastReport,
    Record,
    Row,
    SampleText,
)
from functional_models.distribution import check_batch_size, check_is_distributed
from functional_models.fit_data import evaluation_data, training_data
from functional_models.losses import TokenCrossEntropy, token_metrics
from functional_models.memory import keep_again
from functional_models.optimizers import make_optimizer
from functional_models.processes import (
    check_is_same,
    is_first_process,
    is_shared,
    reports_lost_processes,
)
from functional_models.progress import Progress, header
from functional_models.reading import Reading
from functional_models.recipe import Recipe
from functional_models.training_graph import TrainingGraph, result_metrics

# Compiled graphs of models, with and without exact match: repeated evaluation traces once.
_EVALUATORS: WeakKeyDictionary[keras.Model, dict[Any, TrainingGraph]] = WeakKeyDictionary()


@reports_lost_processes()
def train(
    model: keras.Model,
    batches: Batches,
    recipe: Recipe,
    *,
    validation: Batches | None = None,
    exact_match: bool = False,
    folder: str | Path | None = None,
    overwrite: bool = False,
    save_best: Callable[[], None] | None = None,
    sample: Callable[[], str] | None = None,
    progress: bool = True,
    callbacks: tuple[keras.callbacks.Callback, ...] = (),
    identity: Mapping[str, Any] | None = None,
) -> list[Row]:
    """Train a model with `model.fit`; resume an interrupted run of `folder`.

    A finished run goes on if the recipe has more steps, with the learning rate of the longer
    schedule.

    Args:
        model: a model from `builders`, or any Functional model from token inputs to logits.
        batches: training data.
        recipe: hyperparameters.
        validation: data to evaluate on at every report; its loss selects the best weights.
        exact_match: also measure the share of sequences without any wrong token.
        folder: folder of the checkpoint; `None` writes no files.
        overwrite: replace the checkpoint of another run.
        save_best: called whenever the validation loss (without validation: the training loss) is
            the lowest so far.
        sample: returns a text that is printed at every report.
        progress: show a header, a living line and a line per report; see `Progress`.
        callbacks: further Keras callbacks.
        identity: JSON-compatible; further properties that a resumed run must share, such as the
            spec.

    Returns:
        One row per report: step, loss (nats per token since the last report, with dropout),
        token_accuracy, tokens_per_second (training only, without compilation), seconds, and if
        measured val_loss, val_token_accuracy, val_exact_match.

    Raises:
        DivergedError: the loss or a weight is not finite. The model is as at the last report.
        ValueError: the folder holds a run of another model, recipe or data; or several devices do
            not divide the batch; or several processes have different models, recipes or data.
        ConnectionError: the computation with other processes failed.
    """
    parts = recipe.gradient_accumulation
    check_batch_size(recipe.batch_size, parts)
    optimizer = make_optimizer(recipe, model)
    averages = Averages(model, optimizer)
    model.compile(
        optimizer=optimizer,
        loss=TokenCrossEntropy(recipe.label_smoothing, recipe.z_loss),
        weighted_metrics=token_metrics(exact_match=exact_match),
    )
    graph = _compiled_graph(model, batches, exact_match, optimizer, recipe)
    validate = None
    if validation is not None:
        most = recipe.validation_batches
        validate = partial(evaluate, model, validation, exact_match=exact_match, most=most)
    record = Record(validate, save_best, parts=parts, averages=averages)
    checkpoint = None
    if folder is not None or is_shared():
        run = {
            **dataclasses.asdict(recipe),
            **(identity or {}),
            "data": batches.fingerprint(),
            "validation data": validation and validation.fingerprint(),
            "dtype": model.dtype_policy.name,
            "model": [f"{weight.path} {tuple(weight.shape)}" for weight in model.weights],
            "trained weights": [weight.path for weight in model.trainable_weights],
        }
        check_is_same("data, recipes or models", json.dumps(run))
        if folder is not None:
            checkpoint = Checkpoint(Path(folder), run, record)
            checkpoint.start(model, overwrite=overwrite)
    watchers: list[keras.callbacks.Callback] = [record]
    bar = Progress(record, recipe.steps)
    if progress and is_first_process():
        watchers.append(bar)
        print(header(model, batches, recipe, validation), flush=True)
        if record.step == recipe.steps:
            print(f"{folder} holds this run, finished; more steps would continue it", flush=True)
        elif record.step:
            print(f"going on from step {record.step:,} of {folder}", flush=True)
    if sample is not None:
        watchers.append(SampleText(sample, averages))
    watchers.extend(callbacks)
    kept = checkpoint or LastReport(model)
    watchers.append(kept)  # last, so that it saves the results of all others

    try:
        while (left := recipe.steps - record.step) > 0:
            every = min(recipe.report_every, left)
            reports = len(record.rows)
            graph.fit(
                training_data(batches, record.step, labelled=True, parts=parts),
                steps_per_epoch=every * parts,
                initial_epoch=reports,
                epochs=reports + left // every,
                shuffle=False,  # batches are ordered already
                verbose=0,
                callbacks=_callbacks_of(model, graph, watchers),
            )
            if model.stop_training:  # by a callback, such as EarlyStopping
                break
    except DivergedError:
        kept.go_back()
        raise
    finally:
        bar.close()  # Keras does not call on_train_end after Ctrl-C
        if checkpoint is not None and not record.has_begun:
            checkpoint.withdraw()
    averages.keep()
    return record.rows


def evaluate(
    model: keras.Model,
    batches: Batches,
    *,
    exact_match: bool = False,
    most: int | None = None,
    progress: bool = False,
) -> Row:
    """Evaluate a model on every example once.

    The model stays compiled as it was, or uncompiled. It must be a Functional or Sequential model.

    Args:
        model: the model.
        batches: the examples.
        exact_match: count rows without a mistake, too.
        most: batches, evenly spread, that are evaluated if there are more; by default all.
        progress: show the progress where it takes long.

    Returns:
        loss (nats per token), perplexity, token_accuracy, tokens, and exact_match on request.
    """
    evaluators = _EVALUATORS.setdefault(model, {})
    # Quantization and LoRA replace variables.
    key = exact_match, id(batches.wiring), *map(id, model.variables)
    if key not in evaluators:
        evaluators[key] = _compiled_graph(model, batches, exact_match)
    number = min(batches.num_eval_batches, most or batches.num_eval_batches)
    with Reading("evaluating", number, "batches", shown=progress and is_first_process()) as reading:
        logs = evaluators[key].evaluate(
            evaluation_data(batches, labelled=True, most=most, reading=reading),
            steps=number,
            verbose=0,
            return_dict=True,
        )
    row = {
        "loss": logs["cross_entropy"],
        "perplexity": math.exp(min(logs["cross_entropy"], 700)),
        "token_accuracy": logs["token_accuracy"],
        "tokens": logs["tokens"],
    }
    return {**row, "exact_match": logs["exact_match"]} if exact_match else row


def bits_per_character(loss: float, tokens: float, characters: int) -> Row:
    """Convert a loss in nats per token to bits per character of a text.

    Returns:
        bits_per_character; nothing for a text without characters.
    """
    if not characters:
        return {}
    return {"bits_per_character": loss * tokens / (characters * math.log(2))}


def _compiled_graph(
    model: keras.Model,
    batches: Batches,
    exact_match: bool,
    optimizer: keras.optimizers.Optimizer | None = None,
    recipe: Recipe | None = None,
) -> TrainingGraph:
    """Return the graph that evaluates a model on batches, or trains it."""
    check_is_distributed(model)
    parts = recipe.gradient_accumulation if recipe else 1
    graph = TrainingGraph(
        model,
        batches.wiring,
        label_smoothing=recipe.label_smoothing if recipe else 0.0,
        z_loss=recipe.z_loss if recipe else 0.0,
        tokens=batches.batch_size * batches.longest // parts,
        exact_match=exact_match,
    )
    graph.compile(
        # Evaluation has no optimizer, but Keras wants one.
        optimizer=optimizer or "sgd",
        weighted_metrics=result_metrics(exact_match=exact_match),
    )
    return graph


def _callbacks_of(
    model: keras.Model, graph: TrainingGraph, watchers: Sequence[keras.callbacks.Callback]
) -> keras.callbacks.CallbackList:
    """Return callbacks that see the model, and not the graph that trains it."""
    model.stop_training = False
    if keras.backend.backend() == "jax":
        # Within an epoch the graph has the state, and callbacks may ask the model for it.
        model.jax_state_sync = graph.jax_state_sync

    def stop(*_: Any, **__: Any) -> None:
        graph.stop_training = model.stop_training

    def after(batch: int, **_: Any) -> None:
        stop()
        if batch == 0:  # all iterators exist now
            keep_again()

    follow = keras.callbacks.LambdaCallback(on_train_batch_end=after, on_epoch_end=stop)
    return keras.callbacks.CallbackList([*watchers, follow], add_history=True, model=model)
