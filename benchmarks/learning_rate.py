"""Validation loss by width and learning rate: the measurement behind `default_learning_rate`.

    python benchmarks/learning_rate.py input.txt      # tinyshakespeare, 1,115,394 bytes

Every run trains the default decoder, of 2 layers, from the same seed on the same batches: 32 rows
of 64 tokens of a byte-pair vocabulary of 1000. Only the width and the peak of the schedule differ.
"""

from __future__ import annotations

import argparse
import os
from itertools import product
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import builders
import functional_models as fm
from functional_models.recipe import default_learning_rate

VOCABULARY, LENGTH, HEAD_DIM = 1000, 64, 32
EVALUATED = 40_000  # characters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, help="a text file, such as tinyshakespeare's input.txt")
    parser.add_argument("--variant", default="pre_norm_learned")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--warmup", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    text = options.text.read_text(encoding="utf-8")
    cut = int(0.9 * len(text))
    tokenizer = fm.train_tokenizer("byte_pair", [text[:cut]], vocabulary_size=VOCABULARY)
    (train,), (held_out,) = (
        tokenizer.encode([part]) for part in (text[:cut], text[cut : cut + EVALUATED])
    )
    for width, rate in product(options.widths, options.rates):
        keras.utils.set_random_seed(options.seed)
        spec = builders.variant(
            options.variant,
            kind="decoder_only",
            vocabulary_size=VOCABULARY,
            num_layers=options.layers,
            hidden_dim=width,
            intermediate_dim=4 * width,
            num_heads=max(width // HEAD_DIM, 1),
            max_sequence_length=LENGTH,
        )
        lm = fm.CausalLM(spec, tokenizer)
        recipe = fm.Recipe(
            steps=options.steps,
            learning_rate=rate,
            warmup_steps=options.warmup,
            report_every=options.steps,
            seed=options.seed,
        )
        try:
            lm.fit(train, recipe=recipe, progress=False)
            loss = f"{lm.evaluate(held_out)['loss']:.3f}"
        except ValueError as error:  # the loss is not finite
            loss = str(error)
        default = f"(default {default_learning_rate(width):.4f})"
        print(f"width {width:>5} | rate {rate:.4f} {default} | loss {loss}", flush=True)
        keras.backend.clear_session()


if __name__ == "__main__":
    main()
