"""Make tests/golden/samplers.json: probabilities of tokens after the processors of `generate`.

Needs torch and transformers (`pip install '.[peers]'`):

    python tests/peers/make_samplers.py
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

GOLDEN = Path(__file__).parent.parent / "golden" / "samplers.json"

SETTINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.7},
    {"top_k": 3},
    {"top_k": 3, "temperature": 1.7},
    {"top_p": 0.5},
    {"top_p": 0.7, "temperature": 1.7},
    {"top_p": 0.05},
    {"min_p": 0.1, "temperature": 1.7},
    {"top_k": 5, "top_p": 0.6},
    {"top_k": 5, "min_p": 0.2, "temperature": 1.3},
    {"top_p": 0.9, "min_p": 0.2},
    {"top_p": 0.75, "min_p": 0.05, "temperature": 2.3},
    {"top_k": 7, "top_p": 0.8, "min_p": 0.15, "temperature": 1.9},
    {"repetition_penalty": 1.3, "top_k": 5, "top_p": 0.9},
    {"repetition_penalty": 0.6, "min_p": 0.3, "temperature": 0.6},
    {"no_repeat_ngram_size": 1, "temperature": 1.7},
    {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "top_k": 5, "top_p": 0.9},
    {"no_repeat_ngram_size": 3},
)
TOKENS = [[2, 5, 2, 9, 2], [7, 3, 10, 4, 4], [4, 8, 6, 4, 8], [3, 2, 0, 9, 5]]


def make_logits(rows: int, size: int, seed: int = 0) -> np.ndarray:
    """Return logits (rows, size) of two decimals; one row has equal ones, and one a flat top."""
    logits = np.random.default_rng(seed).normal(scale=1.7, size=(rows, size)).round(2)
    logits[1] = logits[1].round()
    logits[2, : size // 2] = 0.5  # of equal probability
    return logits.astype("float32")


def probabilities(
    settings: dict[str, Any], logits: np.ndarray, tokens: list[list[int]]
) -> np.ndarray:
    """Return the probabilities (b, v) that `generate` draws from."""
    size = logits.shape[1]
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=size, n_positions=8, n_embd=2, n_layer=1, n_head=1)
    )
    config = transformers.GenerationConfig(
        do_sample=True, pad_token_id=0, eos_token_id=1, **{"top_k": 0, **settings}
    )
    model._prepare_special_tokens(config, device="cpu")
    given = torch.tensor(tokens)
    process = model._get_logits_processor(config, given.shape[1], device="cpu")
    with torch.no_grad():
        found = process(given, torch.from_numpy(logits.copy()))
    return found.softmax(-1).numpy()


def main() -> None:
    logits = make_logits(4, 11)
    rows = [
        {"settings": settings, "probabilities": probabilities(settings, logits, TOKENS).tolist()}
        for settings in SETTINGS
    ]
    for row in rows:
        row["probabilities"] = [[float(f"{p:.7g}") for p in ps] for ps in row["probabilities"]]
    content = {"logits": logits.round(2).astype("float64").round(2).tolist(), "tokens": TOKENS}
    lines = ",\n".join(json.dumps(row) for row in rows)
    head = json.dumps(content)[:-1]
    GOLDEN.write_text(f'{head},\n"cases": [\n{lines}\n]}}\n')
    print(f"{GOLDEN}: {GOLDEN.stat().st_size / 1e3:.1f} kB")


if __name__ == "__main__":
    main()
