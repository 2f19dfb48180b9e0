"""Speed of a training step: this library, a KerasHub stack, a plain PyTorch GPT.

    python benchmarks/training.py            # float32 and bfloat16, three rounds
    python benchmarks/training.py --rounds 1 --contenders tensorflow torch
    python benchmarks/training.py --vocabulary 50257 --contenders tensorflow keras
    python benchmarks/training.py --products # the speed of matrix products alone

Equal sizes, equal tokens, AdamW, no dropout, threads on all CPUs, and freed memory is kept. This
library runs as `fit` runs it, on each backend: with its metrics and with clipping of gradients.
`keras` is its model compiled and fitted in the usual way, with the same metrics; the others compute
the loss only. Every measurement runs in its own process, and the contenders take turns, so that
changes in the speed of the machine affect all. A measurement is the tokens per second of the median
step, and the peak of the memory of the process. Reports the median of the rounds, and the median of
the ratios of the first contender to each in the same round. PyTorch is not among the packages of
this project; install it to compare.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

BATCH, LENGTH, VOCABULARY, WIDTH, HEADS, INNER, LAYERS = 32, 128, 8000, 256, 4, 1024, 4
WARMUP_STEPS, TIMED_STEPS = 3, 12


def random_tokens(steps: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCABULARY, (steps, BATCH, LENGTH + 1))


def batches() -> Any:
    from functional_models.batches import TokenBatches

    return TokenBatches(random_tokens(40).ravel(), block=LENGTH, batch_size=BATCH)


def tick(ends: list[float]) -> Any:
    """Return a callback that notes the time at the end of each step."""
    import keras

    return keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: ends.append(time.time())
    )


def tokens_per_second(step_ends: list[float]) -> float:
    """Return the speed of the median step after the warm-up."""
    return BATCH * LENGTH / float(np.median(np.diff(step_ends[WARMUP_STEPS - 1 :])))


def small_gpt(layers: int = LAYERS) -> Any:
    """Return this library's model."""
    import builders

    return builders.build_decoder_only(
        "pre_norm_learned",
        vocabulary_size=VOCABULARY,
        num_layers=layers,
        hidden_dim=WIDTH,
        intermediate_dim=INNER,
        num_heads=HEADS,
        max_sequence_length=LENGTH,
        activation="gelu_tanh",
        dropout=0.0,
        embedding_dropout=0.0,
        logit_bias=False,
        pad_token_id=None,
    )


def ours(precision: str) -> float:
    """This library, as `fit` of a text model runs it on the command line."""
    from functional_models.memory import keep_freed_memory
    from functional_models.recipe import Recipe
    from functional_models.training import train

    keep_freed_memory()
    set_precision(precision)
    recipe = Recipe(
        steps=WARMUP_STEPS + TIMED_STEPS,
        report_every=WARMUP_STEPS + TIMED_STEPS,
        learning_rate=1e-4,
        schedule="constant",
        warmup_steps=0,
    )
    ends: list[float] = []
    train(small_gpt(), batches(), recipe, progress=False, callbacks=(tick(ends),))
    return tokens_per_second(ends)


def set_precision(precision: str) -> None:
    import keras

    keras.config.set_dtype_policy({"float32": "float32", "bfloat16": "mixed_bfloat16"}[precision])


def keras_hub(precision: str) -> float:
    import keras
    import keras_hub as hub

    set_precision(precision)
    tokens = keras.Input((None,), dtype="int32")
    x = hub.layers.TokenAndPositionEmbedding(VOCABULARY, LENGTH, WIDTH)(tokens)
    for _ in range(LAYERS):
        x = hub.layers.TransformerDecoder(
            INNER, HEADS, activation=keras.activations.gelu, normalize_first=True
        )(x)
    x = keras.layers.LayerNormalization()(x)
    return train_keras(keras.Model(tokens, keras.layers.Dense(VOCABULARY, use_bias=False)(x)))


def usual(precision: str) -> float:
    """This library's model, compiled and fitted as any Keras model, with the same metrics."""
    from functional_models.losses import token_metrics

    set_precision(precision)
    return train_keras(small_gpt(), weighted_metrics=token_metrics())


def train_keras(model: Any, **options: Any) -> float:
    """Return tokens per second of `model.fit` with Keras' own loss."""
    import keras

    from functional_models.fit_data import training_data

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.AdamW(1e-4), loss=loss, **options)
    ends: list[float] = []
    steps = WARMUP_STEPS + TIMED_STEPS
    model.fit(
        training_data(batches()),
        steps_per_epoch=steps,
        shuffle=False,
        verbose=0,
        callbacks=[tick(ends)],
    )
    return tokens_per_second(ends)


def plain_torch(precision: str, *, compiled: bool = False) -> float:
    """A plain PyTorch GPT: fused attention, autocast for bfloat16, eager or `torch.compile`."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, t, d = x.shape
            q, k, v = (
                part.view(b, t, HEADS, d // HEADS).transpose(1, 2)
                for part in self.qkv(self.norm_1(x)).split(d, dim=2)
            )
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(b, t, d))
            return x + self.down(functional.gelu(self.up(self.norm_2(x)), approximate="tanh"))

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(VOCABULARY, WIDTH)
            self.positions = nn.Embedding(LENGTH, WIDTH)
            self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
            self.norm = nn.LayerNorm(WIDTH)
            self.logits = nn.Linear(WIDTH, VOCABULARY, bias=False)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
            return self.logits(self.norm(self.blocks(x)))

    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(rows[:, :-1])
        return functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())

    step = torch.compile(loss_of) if compiled else loss_of
    tokens = torch.from_numpy(random_tokens(WARMUP_STEPS + TIMED_STEPS))
    ends = []
    for rows in tokens:
        loss = step(rows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        ends.append(time.time())
    return tokens_per_second(ends)


# Each with the Keras backend that it needs.
CONTENDERS: dict[str, tuple[str, Callable[[str], float]]] = {
    "tensorflow": ("tensorflow", ours),
    "jax": ("jax", ours),
    "keras_torch": ("torch", ours),
    "keras": ("tensorflow", usual),
    "keras_hub": ("tensorflow", keras_hub),
    "torch": ("torch", plain_torch),
    "torch_compile": ("torch", functools.partial(plain_torch, compiled=True)),
}


def products() -> None:
    """Print the speed of TensorFlow's matrix products, of the sizes of the model."""
    import tensorflow as tf

    for dtype in ("float32", "bfloat16"):
        for shape in ((WIDTH, VOCABULARY), (WIDTH, INNER), (WIDTH, WIDTH)):
            rows = BATCH * LENGTH
            x, y = tf.ones((rows, shape[0]), dtype), tf.ones(shape, dtype)
            product = tf.function(tf.matmul)
            times = []
            for _ in range(10):
                start = time.perf_counter()
                product(x, y)
                times.append(time.perf_counter() - start)
            speed = 2 * rows * shape[0] * shape[1] / min(times) / 1e9
            print(f"{dtype:>9} ({rows}, {shape[0]}) x {shape}: {speed:,.0f} GFLOP/s")


def measure(contender: str, precision: str, vocabulary: int) -> dict[str, float]:
    """Run a contender in its own process; return its speed and memory, NaN if it failed."""
    command = [sys.executable, __file__, "--worker", contender, "--precisions", precision]
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "KERAS_BACKEND": CONTENDERS[contender][0],
        # PyTorch would use one thread where two CPUs share a core.
        "OMP_NUM_THREADS": str(os.cpu_count()),
        # As `keep_freed_memory` does, for all.
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
        "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
        "MALLOC_TOP_PAD_": str(1 << 26),
    }
    done = subprocess.run(
        [*command, "--vocabulary", str(vocabulary)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        print(f"{contender} {precision} failed:\n{done.stderr[-800:]}", file=sys.stderr)
        return {"tokens/s": float("nan"), "MB": float("nan")}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    global VOCABULARY
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--products", action="store_true")
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    VOCABULARY = options.vocabulary
    if options.products:
        products()
        return
    if options.worker:
        speed = CONTENDERS[options.worker][1](options.precisions[0])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        print(json.dumps({"tokens/s": speed, "MB": peak}))
        return

    for precision in options.precisions:
        rounds = []
        for number in range(options.rounds):
            rounds.append({c: measure(c, precision, VOCABULARY) for c in options.contenders})
            figures = ", ".join(f"{c} {row['tokens/s']:,.0f}" for c, row in rounds[-1].items())
            print(f"{precision} round {number + 1}: {figures} tokens/s", flush=True)
        first = options.contenders[0]
        for contender in options.contenders:
            speed = statistics.median(row[contender]["tokens/s"] for row in rounds)
            memory = statistics.median(row[contender]["MB"] for row in rounds)
            ratio = statistics.median(
                row[first]["tokens/s"] / row[contender]["tokens/s"] for row in rounds
            )
            print(
                f"{precision:>9} {contender:>13}: {speed:>8,.0f} tokens/s, {first} / it "
                f"{ratio:.2f}; {memory:,.0f} MB"
            )


if __name__ == "__main__":
    main()
