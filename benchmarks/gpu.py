"""A GPU: nanoGPT's character-level setting, and GPT-2 small in training and generation.

    python benchmarks/gpu.py input.txt             # tinyshakespeare, for instance
    python benchmarks/gpu.py input.txt --quick     # tiny sizes, to test it on a CPU
    python benchmarks/gpu.py input.txt --only training torch

Runs on JAX (or on the backend of KERAS_BACKEND), from token arrays, without TensorFlow. Each part
has a process of its own, one after the other, so that it has the memory of the device to itself.

1. `nanogpt` (github.com/karpathy/nanoGPT, README, "quick start"): 6 layers of width 384 with 6
   heads, blocks of 256 characters, 64 to a batch, 5000 steps, dropout 0.2. Published: a best
   validation loss of 1.4697 in about 3 minutes on one A100.
2. `training`, and `unfused` with Keras' fused attention off: `gpt2_small` on random tokens, blocks
   of 1024, without dropout, in mixed_bfloat16: tokens per second, and model FLOPs utilization
   (Chowdhery et al. 2022, "PaLM", appendix B).
3. `torch`: the same model, batches and optimizer in plain PyTorch, as nanoGPT trains it: fused
   attention, `torch.compile`, autocast to bfloat16, AdamW in one kernel.
4. `generation`: greedy tokens of `gpt2_small` in bfloat16 for 1, 16 and 256 prompts, and the share
   of the memory bandwidth that reading all weights and caches once for each token takes.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import builders
from functional_models.batches import TokenBatches
from functional_models.recipe import Recipe
from functional_models.training import train

PEAKS = {
    "H100 PCIe": (756.0, 2.0),
    "H100": (989.0, 3.35),
    "H200": (989.0, 4.8),
    "A100": (312.0, 2.039),
    "L40S": (362.0, 0.864),
    "L4": (121.0, 0.3),
    "RTX 4090": (165.0, 1.008),
}
"""Part of a device's name -> its dense bfloat16 TFLOP/s and memory TB/s, of the data sheets."""

NO_END = -1
NEW_TOKENS = 256
BATCH_SIZES = (64, 32, 16, 8, 4)
"""Batch sizes of `gpt2_small` that are tried, until one fits."""
OUT_OF_MEMORY = 3
"""Exit code of a part that needs more memory than the device has."""


def nanogpt(vocabulary_size: int, quick: bool) -> tuple[builders.TransformerSpec, Recipe]:
    """Return the model and recipe of nanoGPT's `config/train_shakespeare_char.py`."""
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
        warmup_steps=100 if not quick else 10,
        weight_decay=0.1,
        beta_2=0.99,
        report_every=20 if quick else 250,
    )
    return spec, recipe


def gpt2_small(quick: bool) -> builders.TransformerSpec:
    """Return GPT-2 small without dropout."""
    spec = builders.variant("gpt2_small", dropout=0.0, attention_dropout=0.0, embedding_dropout=0.0)
    tiny = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "max_sequence_length": 16}
    return spec.replace(**tiny, vocabulary_size=101) if quick else spec


def short_recipe(options: argparse.Namespace) -> Recipe:
    return Recipe(
        steps=9 if options.quick else 100,
        batch_size=2 if options.quick else options.batch_size,
        learning_rate=3e-4,
        warmup_steps=0,
        report_every=3 if options.quick else 20,
    )


def random_tokens(spec: builders.TransformerSpec, recipe: Recipe) -> np.ndarray:
    """Return so many that none is seen twice, which excludes memorization."""
    count = (recipe.steps + 1) * recipe.batch_size * spec.max_sequence_length + 1
    return np.random.default_rng(0).integers(0, spec.vocabulary_size, count, dtype="int32")


def device_name(part: str) -> str:
    """Return the name of the device that a part runs on."""
    if part == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    if keras.backend.backend() == "jax":
        import jax

        return str(jax.devices()[0].device_kind)
    return str(keras.distribution.list_devices()[0])


def peaks(options: argparse.Namespace, device: str) -> tuple[float | None, float | None]:
    """Return the TFLOP/s and TB/s of a device, where they are given or known."""
    known = (peak for name, peak in PEAKS.items() if name.lower() in device.lower())
    tflops, bandwidth = next(known, (None, None))
    return options.peak_tflops or tflops, options.peak_bandwidth or bandwidth


def share(value: float, peak: float | None, unit: str) -> str:
    """Return a value with its share of the peak, or what to give where that is not known."""
    if peak is None:
        return f"{value:.4g} {unit} (the peak of this device is unknown; give it)"
    return f"{value:.4g} {unit}, {value / peak:.1%} of {peak:g}"


def run_nanogpt(options: argparse.Namespace) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    text = np.frombuffer(options.text.read_bytes(), np.uint8)
    characters, tokens = np.unique(text, return_inverse=True)
    tokens = tokens.astype("int32")
    border = int(0.9 * len(tokens))
    spec, recipe = nanogpt(len(characters), options.quick)
    parts = [tokens[:border], tokens[border:]]
    if options.quick:
        parts = [part[:4096] for part in parts]
    training, validation = (
        TokenBatches(part, block=spec.max_sequence_length, batch_size=recipe.batch_size)
        for part in parts
    )
    keras.utils.set_random_seed(recipe.seed)
    model = builders.build(spec)
    start = time.time()
    rows = train(model, training, recipe, validation=validation, progress=False)
    minutes = (time.time() - start) / 60
    best = min(rows, key=lambda row: row["val_loss"])
    speed = statistics.median(row["tokens_per_second"] for row in rows)
    print(
        f"nanogpt: {model.count_params():,} parameters, best validation loss "
        f"{best['val_loss']:.4f} at step {best['step']:,} (last {rows[-1]['val_loss']:.4f}), "
        f"{minutes:.1f} minutes with compilation and {len(rows)} evaluations, {speed:,.0f} tokens/s"
    )


def run_training(options: argparse.Namespace, fused: bool = True) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    if not fused:
        keras.config.disable_flash_attention()
    spec, recipe = gpt2_small(options.quick), short_recipe(options)
    batches = TokenBatches(
        random_tokens(spec, recipe), block=spec.max_sequence_length, batch_size=recipe.batch_size
    )
    keras.utils.set_random_seed(recipe.seed)
    model = builders.build(spec)
    start = time.time()
    rows = train(model, batches, recipe, progress=False)
    minutes = (time.time() - start) / 60
    speed = statistics.median(row["tokens_per_second"] for row in rows[1:])  # the first compiles
    report_training(options, "training" if fused else "unfused", rows[-1]["loss"], minutes, speed)


def report_training(
    options: argparse.Namespace, name: str, loss: float, minutes: float, speed: float
) -> None:
    """Print the speed of a training run of `gpt2_small`, with its share of the device's peak."""
    spec = gpt2_small(options.quick)
    length = spec.max_sequence_length
    tflops = speed * builders.count_flops(spec, length).training / length / 1e12
    print(
        f"{name}: gpt2_small, batch {short_recipe(options).batch_size}, loss {loss:.4f} (random "
        f"tokens: not below {np.log(spec.vocabulary_size):.4f} on average), {minutes:.1f} minutes "
        f"with compilation, {speed:,.0f} tokens/s, "
        f"{share(tflops, peaks(options, options.device)[0], 'model TFLOP/s')}"
    )


def run_torch(options: argparse.Namespace) -> None:
    """Train the same model in plain PyTorch."""
    import torch
    from torch import nn
    from torch.nn import functional

    spec, recipe = gpt2_small(options.quick), short_recipe(options)
    width, heads, length = spec.hidden_dim, spec.num_heads, spec.max_sequence_length
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(recipe.seed)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, t, _ = x.shape
            parts = self.qkv(self.norms[0](x)).split(width, dim=2)
            q, k, v = (part.view(b, t, heads, -1).transpose(1, 2) for part in parts)
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(b, t, width))
            hidden = functional.gelu(self.up(self.norms[1](x)), approximate="tanh")
            return x + self.down(hidden)

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(spec.vocabulary_size, width)
            self.positions = nn.Embedding(length, width)
            self.blocks = nn.Sequential(*(Block() for _ in range(spec.num_layers)))
            self.norm = nn.LayerNorm(width)
            for table in (self.tokens, self.positions):
                nn.init.normal_(table.weight, std=0.02)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            x = self.tokens(rows[:, :-1]) + self.positions.weight
            logits = functional.linear(self.norm(self.blocks(x)), self.tokens.weight)
            return functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())

    model = GPT().to(device)
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), fused=True)
    loss_of = model if options.quick else torch.compile(model)
    tokens = torch.from_numpy(random_tokens(spec, recipe).astype("int64"))
    start, ends = time.time(), []
    for step in range(recipe.steps):
        first = step * recipe.batch_size * length
        rows = tokens[first : first + recipe.batch_size * length + 1].unfold(0, length + 1, length)
        rows = rows.to(device, non_blocking=True)
        with torch.autocast(device, torch.bfloat16):
            loss = loss_of(rows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % recipe.report_every == 0:
            last = loss.item()  # waits for the device
            ends.append(time.time())
    steps = [(after - before) / recipe.report_every for before, after in pairwise(ends)]
    speed = recipe.batch_size * length / statistics.median(steps)
    report_training(options, "torch", last, (ends[-1] - start) / 60, speed)


def run_generation(options: argparse.Namespace) -> None:
    from functional_models.generation import Generator

    keras.config.set_dtype_policy("bfloat16")
    spec = gpt2_small(options.quick).replace(pad_token_id=None)
    new = 8 if options.quick else NEW_TOKENS
    keras.utils.set_random_seed(0)
    model = builders.build(spec)
    generate = Generator(model, spec, end_id=NO_END)
    greedy = generate.sampler("greedy")
    for rows in (1, 3) if options.quick else (1, 16, 256):
        prompts = np.random.default_rng(0).integers(0, spec.vocabulary_size, (rows, 8), "int32")
        seconds = []
        for _ in range(4):
            start = time.time()
            found = generate([*prompts], greedy, max_new_tokens=new)
            seconds.append(time.time() - start)
        assert all(len(row) == new for [row] in found)
        speed = new / statistics.median(seconds[1:])  # the first compiles
        read = 2 * model.count_params() + rows * builders.count_cache_bytes(
            spec, 8 + new, "bfloat16"
        )
        print(
            f"generation: gpt2_small, {rows} prompts, {rows * speed:,.0f} tokens/s, "
            f"{share(read * speed / 1e12, peaks(options, options.device)[1], 'TB/s')}"
        )


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "nanogpt": run_nanogpt,
    "training": run_training,
    "unfused": lambda options: run_training(options, fused=False),
    "torch": run_torch,
    "generation": run_generation,
}
TRAINS = ("training", "unfused", "torch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="a text file, such as tinyshakespeare's input.txt")
    parser.add_argument(
        "--batch-size", type=int, help="batch size of gpt2_small; default: the largest that fits"
    )
    parser.add_argument("--peak-tflops", type=float, help="dense bfloat16 peak of the device")
    parser.add_argument("--peak-bandwidth", type=float, help="memory bandwidth in TB/s")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, for a test")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()

    if options.part:
        run_part(options)
        return
    # This process asks for no device: JAX would take most of its memory.
    print(f"backend {keras.backend.backend()}, Keras {keras.version()}", flush=True)
    if "torch" in options.only and importlib.util.find_spec("torch") is None:
        print("torch: PyTorch is not installed, so there is nothing to compare with", flush=True)
        options.only.remove("torch")
    sizes = [options.batch_size] if options.batch_size else [*BATCH_SIZES]
    failed = []
    for part in options.only:
        start = time.time()
        code = run_in_a_process(part, sizes[0])
        while code == OUT_OF_MEMORY and part in TRAINS and sizes[1:]:
            print(f"  {part}: a batch of {sizes.pop(0)} does not fit", flush=True)
            code = run_in_a_process(part, sizes[0])
        failed += [part] if code else []
        print(f"  {part}: {time.time() - start:.0f} s in all", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def run_part(options: argparse.Namespace) -> None:
    options.device = device_name(options.part)
    print(f"device {options.device}", flush=True)
    try:
        PARTS[options.part](options)
    except Exception as error:
        if not any(text in str(error).lower() for text in ("resource_exhausted", "out of memory")):
            raise
        sys.exit(OUT_OF_MEMORY)


def run_in_a_process(part: str, batch_size: int) -> int:
    """Run a part with the options of this process, and return its exit code."""
    more = ["--part", part, "--batch-size", str(batch_size)]
    return subprocess.run([sys.executable, __file__, *sys.argv[1:], *more], check=False).returncode


if __name__ == "__main__":
    main()
