"""Two runs for a GPU: nanoGPT's character-level setting, and the speed of GPT-2 small.

    python benchmarks/gpu.py input.txt             # tinyshakespeare, for instance
    python benchmarks/gpu.py input.txt --quick     # tiny sizes, to test it on a CPU

Runs on JAX (or on the backend of KERAS_BACKEND), from token arrays, without TensorFlow, in
mixed_bfloat16, with `functional_models.training.train`.

1. nanoGPT (github.com/karpathy/nanoGPT, README, "quick start"): 6 layers of width 384 with 6 heads,
   blocks of 256 characters, 64 to a batch, 5000 steps, dropout 0.2. Published: a best validation
   loss of 1.4697 in about 3 minutes on one A100.
2. `gpt2_small` on random tokens, blocks of 1024, without dropout: tokens per second, and model
   FLOPs utilization (Chowdhery et al. 2022, "PaLM", appendix B).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import builders
from functional_models.batches import TokenBatches
from functional_models.recipe import Recipe
from functional_models.training import train

# Dense bfloat16 peaks of the data sheets; the first name that is part of the device's name.
PEAK_TFLOPS = {
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "H200": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "RTX 4090": 165.0,
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A model and its training recipe."""

    spec: builders.TransformerSpec
    recipe: Recipe


def nanogpt(vocabulary_size: int, quick: bool) -> Setting:
    """Return the setting of nanoGPT's `config/train_shakespeare_char.py`."""
    spec = builders.TransformerSpec(
        vocabulary_size=vocabulary_size,
        num_layers=2 if quick else 6,
        num_heads=2 if quick else 6,
        hidden_dim=32 if quick else 384,
        max_sequence_length=16 if quick else 256,
        attention_bias=False,
        dropout=0.2,
        attention_dropout=0.2,
        embedding_dropout=0.2,
        tie_embeddings=True,
        pad_token_id=None,
    )
    recipe = Recipe(
        steps=40 if quick else 5000,
        batch_size=8 if quick else 64,
        learning_rate=1e-3,
        warmup_steps=100,
        weight_decay=0.1,
        beta_2=0.99,
        report_every=20 if quick else 250,
    )
    return Setting(spec=spec, recipe=recipe)


def gpt2_small(batch_size: int, quick: bool) -> Setting:
    """Return GPT-2 small without dropout, for a short run."""
    spec = builders.variant("gpt2_small", dropout=0.0, attention_dropout=0.0, embedding_dropout=0.0)
    if quick:
        spec = spec.replace(
            num_layers=2, num_heads=2, hidden_dim=32, vocabulary_size=101, max_sequence_length=16
        )
    recipe = Recipe(
        steps=9 if quick else 100,
        batch_size=2 if quick else batch_size,
        learning_rate=3e-4,
        report_every=3 if quick else 20,
    )
    return Setting(spec=spec, recipe=recipe)


def device_name() -> str:
    if keras.backend.backend() == "jax":
        import jax

        return str(jax.devices()[0].device_kind)
    return str(keras.distribution.list_devices()[0])


def run_nanogpt(path: Path, quick: bool) -> None:
    text = np.frombuffer(path.read_bytes(), np.uint8)
    characters, tokens = np.unique(text, return_inverse=True)
    tokens = tokens.astype("int32")
    border = int(0.9 * len(tokens))
    setting = nanogpt(len(characters), quick)
    recipe, block = setting.recipe, setting.spec.max_sequence_length
    parts = [tokens[:border], tokens[border:]]
    if quick:
        parts = [part[:4096] for part in parts]
    training, validation = (
        TokenBatches(part, block=block, batch_size=recipe.batch_size) for part in parts
    )

    keras.utils.set_random_seed(recipe.seed)
    model = builders.build(setting.spec)
    start = time.time()
    rows = train(model, training, recipe, validation=validation)
    minutes = (time.time() - start) / 60
    best = min(rows, key=lambda row: row["val_loss"])
    speed = statistics.median(row["tokens_per_second"] for row in rows)
    print(
        f"nanoGPT setting: {model.count_params():,} parameters, best validation loss "
        f"{best['val_loss']:.4f} at step {best['step']:,} (last {rows[-1]['val_loss']:.4f}), "
        f"{minutes:.1f} minutes with compilation and {len(rows)} evaluations, {speed:,.0f} tokens/s"
    )


def run_gpt2_small(batch_size: int, quick: bool, peak_tflops: float | None) -> None:
    setting = gpt2_small(batch_size, quick)
    spec, recipe = setting.spec, setting.recipe
    # So many that no token occurs twice, which excludes memorization.
    count = (recipe.steps + 1) * recipe.batch_size * spec.max_sequence_length + 1
    tokens = np.random.default_rng(0).integers(0, spec.vocabulary_size, count, dtype="int32")
    batches = TokenBatches(tokens, block=spec.max_sequence_length, batch_size=recipe.batch_size)

    keras.utils.set_random_seed(recipe.seed)
    model = builders.build(spec)
    start = time.time()
    rows = train(model, batches, recipe)
    minutes = (time.time() - start) / 60
    speed = statistics.median(row["tokens_per_second"] for row in rows[1:])  # the first compiles
    length = spec.max_sequence_length
    tflops = speed * builders.count_flops(spec, length).training / length / 1e12
    print(
        f"gpt2_small: {model.count_params():,} parameters, batch {recipe.batch_size}, loss "
        f"{rows[-1]['loss']:.4f} (random tokens: not below {np.log(spec.vocabulary_size):.4f} on "
        f"average), {minutes:.1f} minutes with compilation, {speed:,.0f} tokens/s, "
        f"{tflops:.4g} model TFLOP/s"
    )
    if peak_tflops is None:
        print("model FLOPs utilization: the peak of this device is unknown; give --peak-tflops")
    else:
        print(f"model FLOPs utilization: {tflops / peak_tflops:.1%} of {peak_tflops:g} TFLOP/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="a text file, such as tinyshakespeare's input.txt")
    parser.add_argument(
        "--batch-size", type=int, default=16, help="batch size of gpt2_small; default: 16"
    )
    parser.add_argument("--peak-tflops", type=float, help="dense bfloat16 peak of the device")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, for a test")
    options = parser.parse_args()

    keras.config.set_dtype_policy("mixed_bfloat16")
    device = device_name()
    known = (peak for name, peak in PEAK_TFLOPS.items() if name.lower() in device.lower())
    peak_tflops = options.peak_tflops or next(known, None)
    print(f"device {device}, backend {keras.backend.backend()}, Keras {keras.version()}")
    run_nanogpt(options.text, options.quick)
    run_gpt2_small(options.batch_size, options.quick, peak_tflops)


if __name__ == "__main__":
    main()
