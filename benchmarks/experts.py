"""Speed of a mixture of experts, relative to a dense model of the same active size.

    python benchmarks/experts.py             # on TensorFlow, three rounds
    python benchmarks/experts.py --decode    # greedy generation of one row instead
    KERAS_BACKEND=jax python benchmarks/experts.py --decode --width 2048 --layers 2 --rounds 5

8 experts, 2 for each token, each half as wide as the one layer that they are compared with, which
is four times as wide as the model; otherwise the sizes and the training step of `training.py`.
With `--decode` also 64 experts, 2 for each token. The models take turns, so that changes in the
speed of the machine affect all; reported are the medians of the rounds, and of the ratios within a
round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import training

NEW_TOKENS = 100


def contenders(width: int, layers: int, numbers: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """Return the changes of the spec for the dense model, and for such numbers of experts."""
    sizes = {"hidden_dim": width, "num_layers": layers, "num_heads": width // 64}
    dense = {**sizes, "intermediate_dim": 4 * width}
    experts = {"intermediate_dim": 2 * width, "num_active_experts": 2, "balance_loss": 0.01}
    mixtures = {f"{n} experts": {**sizes, **experts, "num_experts": n} for n in numbers}
    return {"dense": dense, **mixtures}


def spec_of(changes: dict[str, Any]) -> Any:
    import builders

    return builders.variant(
        "pre_norm_learned",
        kind="decoder_only",
        vocabulary_size=training.VOCABULARY,
        max_sequence_length=training.LENGTH,
        activation="gelu_tanh",
        dropout=0.0,
        embedding_dropout=0.0,
        logit_bias=False,
        pad_token_id=None,
        **changes,
    )


def train(changes: dict[str, Any]) -> float:
    """Return the tokens per second of the median training step."""
    import builders
    from functional_models.recipe import Recipe
    from functional_models.training import train

    steps = training.WARMUP_STEPS + training.TIMED_STEPS
    recipe = Recipe(
        steps=steps,
        report_every=steps,
        learning_rate=1e-4,
        schedule="constant",
        warmup_steps=0,
    )
    ends: list[float] = []
    model = builders.build(spec_of(changes))
    train(model, training.batches(), recipe, progress=False, callbacks=(training.tick(ends),))
    return training.tokens_per_second(ends)


def generator(changes: dict[str, Any]) -> Callable[[], float]:
    """Return a function that returns the tokens per second of greedy generation."""
    import functional_models as fm

    tokenizer = fm.train_tokenizer("byte", [])
    lm = fm.CausalLM(spec_of(changes).replace(vocabulary_size=tokenizer.vocabulary_size), tokenizer)

    def run() -> float:
        start = time.perf_counter()
        lm.generate("Once upon a time", "greedy", max_new_tokens=NEW_TOKENS)
        return NEW_TOKENS / (time.perf_counter() - start)

    run()  # compiles
    return run


def report(title: str, rounds: list[dict[str, float]]) -> None:
    for name in rounds[0]:
        speed = statistics.median(row[name] for row in rounds)
        ratio = statistics.median(row[name] / row["dense"] for row in rounds)
        each = ", ".join(f"{row[name]:,.0f}" for row in rounds)
        print(f"{title} {name:>10}: {speed:>8,.0f} tokens/s, {ratio:.2f} of dense ({each})")


def main() -> None:
    import keras

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--decode", action="store_true", help="generate instead of training")
    parser.add_argument("--width", type=int, default=training.WIDTH, help="a multiple of 64")
    parser.add_argument("--layers", type=int, default=training.LAYERS)
    options = parser.parse_args()
    numbers = (8, 64) if options.decode else (8,)
    models = contenders(options.width, options.layers, numbers)
    runs: dict[str, Callable[[], float]]
    if options.decode:
        runs = {name: generator(changes) for name, changes in models.items()}
    else:
        runs = {name: partial(train, changes) for name, changes in models.items()}
    rounds = [{name: run() for name, run in runs.items()} for _ in range(options.rounds)]
    what = "decoding" if options.decode else "training"
    report(f"{keras.backend.backend()} {what}", rounds)


if __name__ == "__main__":
    main()
