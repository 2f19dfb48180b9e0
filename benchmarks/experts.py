"""Speed of a mixture of experts, relative to a dense model of the same active size.

    python benchmarks/experts.py             # on TensorFlow, three rounds
    KERAS_BACKEND=jax python benchmarks/experts.py --rounds 5 --decode

8 experts of 512 channels, 2 for each token, against one layer of 1,024 channels; otherwise the
sizes and the training step of `training.py`. With `--decode`, greedy generation of one row, too,
also of 64 experts, 2 for each token. The models take turns, so that changes in the speed of the
machine affect all; reported are the medians of the rounds, and of the ratios within a round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import training

DENSE: dict[str, Any] = {"intermediate_dim": training.INNER}
EXPERTS: dict[str, Any] = {
    "intermediate_dim": training.INNER // 2,
    "num_experts": 8,
    "num_active_experts": 2,
    "balance_loss": 0.01,
}
TRAINED = {"dense": DENSE, "8 experts": EXPERTS}
DECODED = {**TRAINED, "64 experts": {**EXPERTS, "num_experts": 64}}
NEW_TOKENS = 100


def spec_of(changes: dict[str, Any]) -> Any:
    import builders

    return builders.variant(
        "pre_norm_learned",
        kind="decoder_only",
        vocabulary_size=training.VOCABULARY,
        num_layers=training.LAYERS,
        hidden_dim=training.WIDTH,
        num_heads=training.HEADS,
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
    parser.add_argument("--decode", action="store_true")
    options = parser.parse_args()
    backend = keras.backend.backend()
    rounds = [
        {name: train(changes) for name, changes in TRAINED.items()} for _ in range(options.rounds)
    ]
    report(f"{backend} training", rounds)
    if options.decode:
        generators = {name: generator(changes) for name, changes in DECODED.items()}
        rounds = [{name: run() for name, run in generators.items()} for _ in range(options.rounds)]
        report(f"{backend} decoding", rounds)


if __name__ == "__main__":
    main()
