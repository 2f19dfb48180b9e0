"""Short training runs that claims are measured on, each with a result on file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import builders
from functional_models.checks import read_manifest
from functional_models.recipe import Recipe, default_learning_rate
from plots.files import write_whole

if TYPE_CHECKING:
    import keras

    from functional_models.batches import TokenBatches

RUNS = "runs.json"
FORMAT = 1
WIDTH, BLOCKS, LENGTH, BATCH = 64, 6, 64, 16
BYTES = 256
"""The vocabulary: text is read as bytes, so that no tokenizer has to be trained."""
VALIDATION_BATCHES = 16
RATE = default_learning_rate(WIDTH)
"""The default peak learning rate of `functional-models train` at this width, 0.0078."""
REPORTS = 10


@dataclass(frozen=True)
class Run:
    """The result of a run.

    Attributes:
        loss: on held-out text, in nats per byte; ln 256, that of equal probabilities, if the run
            diverged or ended above it.
        steps: of the reports.
        losses: training losses since the report before.
        variances: variance of the stream after the last block, before and after the training.
    """

    loss: float
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    variances: tuple[float, float]


class Trainer:
    """Trains decoders on the embedded corpus, with equal recipes but for what a claim varies.

    Runs that the folder has are not trained again.

    Args:
        steps: of every run.
        seeds: number of runs of each setting, with seeds 0, 1, ...; the seed decides the weights
            and the order of the data.
        folder: folder of `runs.json`; `None` keeps no file.
        report: takes a line of text after every run.
    """

    def __init__(
        self,
        steps: int,
        seeds: int,
        folder: Path | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.steps = steps
        self.seeds = seeds
        self._path = folder and folder / RUNS
        self._report = report
        self._known: dict[str, dict[str, Any]] = {}
        if self._path and self._path.exists():
            self._known = read_manifest(self._path, FORMAT).get("runs", {})
        self._model: tuple[builders.TransformerSpec, keras.Model] | None = None

    def warmup(self, share: float = 1.0) -> int:
        """Return a share of the usual warm-up: a third of the steps."""
        return round(share * self.steps / 3)

    def runs(self, *, rate: float = RATE, warmup: int | None = None, **changes: Any) -> list[Run]:
        """Return the runs of a setting, one for each seed.

        Args:
            rate: peak learning rate.
            warmup: steps of linear warm-up; by default a third of all.
            changes: spec fields that differ from pre-norm.
        """
        spec = builders.TransformerSpec(
            vocabulary_size=BYTES,
            num_layers=BLOCKS,
            hidden_dim=WIDTH,
            num_heads=4,
            activation="relu",
            max_sequence_length=LENGTH,
            pad_token_id=None,
        ).replace(**changes)
        found = []
        for seed in range(self.seeds):
            recipe = Recipe(
                steps=self.steps,
                batch_size=BATCH,
                learning_rate=rate,
                warmup_steps=self.warmup() if warmup is None else warmup,
                weight_decay=0.0,
                clip_norm=1e9,  # none
                report_every=max(self.steps // REPORTS, 1),
                seed=seed,
            )
            found.append(self._run(spec, recipe, changes))
        return found

    def _run(
        self, spec: builders.TransformerSpec, recipe: Recipe, changes: Mapping[str, Any]
    ) -> Run:
        import keras

        described = [spec.to_json(), json.dumps(asdict(recipe)), keras.backend.backend()]
        key = hashlib.sha256("\0".join(described).encode()).hexdigest()[:16]
        if key not in self._known:
            run = self._train(spec, recipe)
            self._known[key] = asdict(run)
            if self._path:
                content = {"format": FORMAT, "runs": self._known}
                write_whole(self._path, json.dumps(content, indent=1) + "\n")
            what = [f"{name}={value}" for name, value in changes.items()]
            what += [f"rate {recipe.learning_rate:.2g}", f"warm-up {recipe.warmup_steps}"]
            self._report(f"{', '.join(what)}, seed {recipe.seed}: loss {run.loss:.4f}")
        saved = self._known[key]
        variances: Any = tuple(saved["variances"])
        return Run(saved["loss"], tuple(saved["steps"]), tuple(saved["losses"]), variances)

    def _train(self, spec: builders.TransformerSpec, recipe: Recipe) -> Run:
        from functional_models.batches import TokenBatches
        from functional_models.callbacks import DivergedError
        from functional_models.training import evaluate, train

        model = self._new_model(spec, recipe.seed)
        sizes = {"block": LENGTH, "batch_size": BATCH}
        batches = TokenBatches(self._tokens[0], seed=recipe.seed, **sizes)
        held_out = TokenBatches(self._tokens[1], **sizes)
        before = stream_variance(model, held_out)
        rows: list[dict[str, float]] = []
        loss = math.log(BYTES)
        try:
            rows = train(model, batches, recipe, progress=False)
            loss = min(loss, evaluate(model, held_out)["loss"])
        except DivergedError:
            pass  # its reports are lost: they say no more than the loss
        variances = before, stream_variance(model, held_out)
        return Run(
            loss,
            tuple(int(row["step"]) for row in rows),
            tuple(row["loss"] for row in rows),
            variances,
        )

    def _new_model(self, spec: builders.TransformerSpec, seed: int) -> keras.Model:
        """Return a model with new weights; the last one if it has the same spec.

        So its evaluation is compiled once for all seeds.
        """
        import keras

        keras.utils.set_random_seed(seed)
        new = builders.build(spec)
        if self._model is None or self._model[0] != spec:
            self._model = spec, new
        else:
            self._model[1].set_weights(new.get_weights())
        return self._model[1]

    @cached_property
    def _tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """The bytes of the training text, and the first ones of the held-out text."""
        from functional_models.corpora import load_text_corpus
        from functional_models.tokenizer_training import train_tokenizer

        corpus, tokenizer = load_text_corpus(progress=False), train_tokenizer("byte", [])
        train, held_out = (
            np.asarray(tokenizer.encode_together(text, end=True))
            for text in (corpus.train, corpus.validation)
        )
        return train, held_out[: VALIDATION_BATCHES * BATCH * LENGTH + 1]


def stream_variance(model: keras.Model, batches: TokenBatches) -> float:
    """Return the variance of the stream after the last block, before a norm; or of the last branch.

    It is infinite where numbers overflow.
    """
    import keras

    block = f"decoder.block_{BLOCKS - 1}.feedforward"
    names = [layer.name for layer in model.layers]
    last = f"{block}.residual" if f"{block}.residual" in names else f"{block}.down"
    stream = keras.Model(model.input, model.get_layer(last).output)
    inputs, _, _ = next(iter(batches.eval_batches()))
    values = keras.ops.convert_to_numpy(stream(inputs))
    variance = float(np.var(values, dtype="float64"))
    return variance if math.isfinite(variance) else math.inf
