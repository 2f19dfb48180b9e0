"""nanoGPT's smallest published run: validation loss and time, this library next to PyTorch.

    python benchmarks/shakespeare.py input.txt      # tinyshakespeare, 1,115,394 bytes
    python benchmarks/shakespeare.py input.txt --contenders modern --seed 1

nanoGPT (github.com/karpathy/nanoGPT, README, "I only have a macbook") trains 4 layers of width 128
with 4 heads on blocks of 64 characters, 12 to a batch, for 2000 steps, and reports a validation
loss of 1.88 nats per character with 0.80 million parameters. Three contenders train on the same
text and split, each in a process of its own, one after the other:

* `torch`: that model and its training in plain PyTorch: learned positions, GELU, weights of normal
  numbers with 0.02, fused attention and AdamW (1e-3 to 1e-4 by cosine, warm-up 100, beta_2 0.99,
  weight decay 0.1, gradients clipped at 1.0), with a vocabulary of the 65 characters of the text.
* `same`: this library with the same optimizer. Its vocabulary is the 256 bytes, so that the
  feed-forward width is 480 instead of 512, for at most as many parameters. The initializer is
  Glorot uniform, which reached a lower loss in the same number of steps.
* `modern`: this library with rotary positions, RMS norms, a gated feed-forward, norms of queries
  and keys, and Muon, for 560 steps.

The loss is that of all held-out characters, in blocks of 64. The time is that of training alone,
with compilation and without evaluations. PyTorch is not among the packages of this project; install
it to compare.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


PARAMETERS = 800_000
BLOCK, BATCH, STEPS, MODERN_STEPS = 64, 12, 2000, 560
LAYERS, HEADS, WIDTH = 4, 4, 128
PEAK, LAST, WARMUP, DECAY, BETA_2 = 1e-3, 1e-4, 100, 0.1, 0.99
MUON_PEAK = 3e-3


def split(text: str) -> tuple[str, str]:
    """Return the first 90% of a text for training, the rest for validation."""
    border = int(0.9 * len(text))
    return text[:border], text[border:]


def ours(train: str, validation: str, seed: int, modern: bool) -> dict[str, Any]:
    """This library, as a user calls it."""
    import keras

    import builders
    import functional_models as fm

    choices: dict[str, Any] = {"intermediate_dim": 480, "initializer": "glorot_uniform"}
    if modern:
        choices |= {"intermediate_dim": 320, "feedforward": "glu", "activation": "silu"}
        choices |= {"positions": "rotary", "norm": "rms", "qk_norm": True}
        choices |= {"feedforward_bias": False}
    spec = builders.TransformerSpec(
        vocabulary_size=256,
        num_layers=LAYERS,
        num_heads=HEADS,
        hidden_dim=WIDTH,
        max_sequence_length=BLOCK,
        attention_bias=False,
        tie_embeddings=True,
        pad_token_id=None,  # blocks are packed
        **choices,
    )
    recipe = fm.Recipe(
        steps=MODERN_STEPS if modern else STEPS,
        batch_size=BATCH,
        optimizer="muon" if modern else "adamw",
        learning_rate=MUON_PEAK if modern else PEAK,
        warmup_steps=WARMUP,
        weight_decay=DECAY,
        beta_2=BETA_2,
        report_every=500,
        seed=seed,
    )
    keras.utils.set_random_seed(seed)
    lm = fm.CausalLM(spec, fm.train_tokenizer("byte", [train]))
    start = time.time()
    lm.fit(train, recipe=recipe, progress=False)
    seconds = time.time() - start
    loss = lm.evaluate(validation, progress=False)["loss"]
    return {"parameters": lm.model.count_params(), "loss": loss, "seconds": seconds}


def peer(train: str, validation: str, seed: int) -> dict[str, Any]:
    """nanoGPT's setting in plain PyTorch."""
    import torch
    from torch import nn
    from torch.nn import functional

    letters = sorted(set(train + validation))
    ids = {letter: number for number, letter in enumerate(letters)}
    tokens, held_out = (
        torch.tensor([ids[letter] for letter in text]) for text in (train, validation)
    )
    torch.manual_seed(seed)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList([nn.LayerNorm(WIDTH, bias=False) for _ in range(2)])
            self.heads = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
            self.mixed = nn.Linear(WIDTH, WIDTH, bias=False)
            self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
            self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, t, _ = x.shape
            split_heads = self.heads(self.norms[0](x)).view(b, t, 3, HEADS, -1)
            query, key, value = split_heads.permute(2, 0, 3, 1, 4)
            y = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            x = x + self.mixed(y.transpose(1, 2).reshape(b, t, WIDTH))
            return x + self.down(functional.gelu(self.up(self.norms[1](x))))

    class Peer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.letters = nn.Embedding(len(letters), WIDTH)
            self.places = nn.Embedding(BLOCK, WIDTH)
            self.blocks = nn.Sequential(*[Block() for _ in range(LAYERS)])
            self.norm = nn.LayerNorm(WIDTH, bias=False)
            for name, weight in self.named_parameters():
                if weight.ndim > 1:
                    ends_branch = name.endswith(("mixed.weight", "down.weight"))
                    scale = (2 * LAYERS) ** -0.5 if ends_branch else 1.0
                    nn.init.normal_(weight, std=0.02 * scale)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.letters(x) + self.places.weight[: x.shape[1]]
            return functional.linear(self.norm(self.blocks(y)), self.letters.weight)

    model = Peer()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, BETA_2), fused=True)

    def loss_of(given: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        rows = given[starts[:, None] + torch.arange(BLOCK + 1)]
        return functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())

    start = time.time()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        loss = loss_of(tokens, torch.randint(len(tokens) - BLOCK, (BATCH,)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    seconds = time.time() - start
    with torch.no_grad():
        starts = torch.arange(0, len(held_out) - BLOCK, BLOCK)
        losses = [float(loss_of(held_out, part)) * len(part) for part in starts.split(64)]
    size = sum(p.numel() for p in model.parameters())
    return {"parameters": size, "loss": sum(losses) / len(starts), "seconds": seconds}


def rate(step: int) -> float:
    """Return nanoGPT's learning rate: linear warm-up, then cosine."""
    if step < WARMUP:
        return PEAK * (step + 1) / (WARMUP + 1)
    done = (step - WARMUP) / (STEPS - WARMUP)
    return LAST + 0.5 * (1 + math.cos(math.pi * done)) * (PEAK - LAST)


def main() -> None:
    contenders = ("torch", "same", "modern")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="a text file, such as tinyshakespeare's input.txt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--contenders", nargs="+", default=[*contenders], choices=contenders)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()

    if options.worker:
        contender, path = options.worker
        train, validation = split(options.text.read_text(encoding="utf-8"))
        if contender == "torch":
            found = peer(train, validation, options.seed)
        else:
            found = ours(train, validation, options.seed, modern=contender == "modern")
        Path(path).write_text(json.dumps(found), encoding="utf-8")
        return
    environment = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count())}
    for contender in options.contenders:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "found.json"
            command = [sys.executable, __file__, *sys.argv[1:], "--worker", contender, str(path)]
            subprocess.run(command, env=environment, check=True)
            found = json.loads(path.read_text(encoding="utf-8"))
        assert found["parameters"] <= PARAMETERS + BLOCK * WIDTH, found
        print(
            f"{contender}: {found['parameters']:,} parameters, validation loss {found['loss']:.4f} "
            f"nats per character, {found['seconds']:.1f} s, seed {options.seed}",
            flush=True,
        )


if __name__ == "__main__":
    main()
