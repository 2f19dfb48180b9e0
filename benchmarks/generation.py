"""Speed of greedy generation: this library, KerasHub, Hugging Face, a `model.predict` loop.

    python benchmarks/generation.py                  # on TensorFlow, seven rounds
    KERAS_BACKEND=jax python benchmarks/generation.py
    python benchmarks/generation.py --only flat      # time per token by position

Equal sizes, 8 prompt tokens, 120 new ones, batches of 1 and 16, float32. Every contender runs in
its own process and is compiled before the first round. In a round each generates once, in turns, so
that changes in the speed of the machine affect all. Reports the median of the rounds, and the
median of the ratios of this library to each peer in the same round. Hugging Face needs
`pip install transformers torch` and is skipped without it.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

VOCABULARY, WIDTH, HEADS, INNER, LAYERS = 8000, 256, 4, 1024, 4
PROMPT, NEW = 8, 120
LENGTH = PROMPT + NEW
NO_END = VOCABULARY  # never generated, so that there is no early end

Run = Callable[[], Any]


def prompts(rows: int, length: int = PROMPT) -> np.ndarray:
    return np.random.default_rng(0).integers(1, VOCABULARY, (rows, length), dtype="int32")


def our_generator(max_length: int) -> Any:
    import builders
    from functional_models.generation import Generator

    spec = builders.TransformerSpec(
        vocabulary_size=VOCABULARY,
        num_layers=LAYERS,
        hidden_dim=WIDTH,
        intermediate_dim=INNER,
        num_heads=HEADS,
        max_sequence_length=max_length,
        activation="gelu_tanh",
        tie_embeddings=True,
        pad_token_id=None,
    )
    return Generator(builders.build(spec), spec, end_id=NO_END)


def ours(rows: int) -> Run:
    generate = our_generator(LENGTH)
    greedy, tokens = generate.sampler("greedy"), list(prompts(rows))

    def run() -> None:
        found = generate(tokens, greedy, max_new_tokens=NEW)
        assert all(len(row) == NEW for [row] in found)

    return run


def keras_hub(rows: int, jit_compile: bool | None = None) -> Run:
    import keras_hub as hub

    backbone = hub.models.GPT2Backbone(
        vocabulary_size=VOCABULARY,
        num_layers=LAYERS,
        num_heads=HEADS,
        hidden_dim=WIDTH,
        intermediate_dim=INNER,
        max_sequence_length=LENGTH,
        dropout=0.0,
    )
    model = hub.models.GPT2CausalLM(backbone, preprocessor=None)
    model.compile(sampler="greedy", **({} if jit_compile is None else {"jit_compile": jit_compile}))
    tokens = np.zeros((rows, LENGTH), "int32")
    tokens[:, :PROMPT] = prompts(rows)
    inputs = {"token_ids": tokens, "padding_mask": np.arange(LENGTH)[None] < [[PROMPT]] * rows}

    def run() -> None:
        model.generate(inputs, stop_token_ids=None)

    return run


def keras_hub_xla(rows: int) -> Run:
    return keras_hub(rows, jit_compile=True)


def hugging_face(rows: int) -> Run:
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count() or 1)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=LENGTH,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        n_inner=INNER,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    tokens = torch.from_numpy(prompts(rows).astype("int64"))
    mask = torch.ones_like(tokens)

    def run() -> None:
        found = model.generate(
            tokens, attention_mask=mask, do_sample=False, max_new_tokens=NEW, pad_token_id=0
        )
        assert found.shape == (rows, LENGTH)

    return run


def predict_loop(rows: int, new: int = 12) -> Run:
    """Return a loop of `model.predict` on the padded prefix, for the first 12 tokens."""
    model = our_generator(LENGTH)._model

    def run() -> int:
        tokens = np.zeros((rows, LENGTH), "int32")
        tokens[:, :PROMPT] = prompts(rows)
        for index in range(PROMPT, PROMPT + new):
            logits = model.predict(tokens, batch_size=rows, verbose=0)
            tokens[:, index] = logits[:, index - 1].argmax(-1)
        return new

    return run


CONTENDERS: dict[str, Callable[[int], Run]] = {
    "ours": ours,
    "keras_hub": keras_hub,
    "keras_hub_xla": keras_hub_xla,
    "hugging_face": hugging_face,
    "predict_loop": predict_loop,
}


class Worker:
    """A contender in its own process, compiled, that generates on request."""

    def __init__(self, name: str, rows: int) -> None:
        command = [sys.executable, __file__, "--worker", name, "--batches", str(rows)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.first_call = self._answer()

    def seconds(self) -> float:
        assert self._process.stdin is not None
        print("go", file=self._process.stdin, flush=True)
        return self._answer()

    def stop(self) -> None:
        self._process.communicate()

    def _answer(self) -> float:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process ended")
        return float(line)


def work(name: str, rows: int) -> None:
    """Generate once, and then once for every line of stdin; print the seconds of each.

    A contender that generates fewer tokens returns their number, and its time is scaled up.
    """
    run = CONTENDERS[name](rows)
    for _ in itertools.chain([None], sys.stdin):
        start = time.perf_counter()
        tokens = run() or NEW
        print((time.perf_counter() - start) * NEW / tokens, flush=True)


def compare(rows: int, rounds: int, names: list[str]) -> None:
    workers: dict[str, Worker] = {}
    for name in names:
        try:
            workers[name] = Worker(name, rows)
        except RuntimeError as error:
            print(f"{name} is skipped: {error}")
    speeds = [
        {name: rows * NEW / worker.seconds() for name, worker in workers.items()}
        for _ in range(rounds)
    ]
    print(f"\n| batch {rows} | tokens/s | ratio | first call |\n| --- | --- | --- | --- |")
    for name, worker in workers.items():
        median = statistics.median(row[name] for row in speeds)
        ratio = statistics.median(row["ours"] / row[name] for row in speeds)
        print(f"| {name} | {median:,.0f} | {ratio:.2f} | {worker.first_call:.1f} s |")
        worker.stop()
    print(flush=True)


def flat() -> None:
    """Print the time per token by position, first calls, and calls without compilation."""
    import keras

    new = 1000
    generate = our_generator(1024)
    greedy = generate.sampler("greedy")

    def pieces(length: int) -> list[float]:
        ticks = [time.perf_counter()]
        tokens = list(prompts(1, length))
        for _ in generate.stream(tokens, greedy, max_new_tokens=new, pieces=10):
            ticks.append(time.perf_counter())
        return [float(step) for step in np.diff(ticks)]

    first = sum(pieces(PROMPT))
    times = pieces(PROMPT)
    other = sum(pieces(PROMPT + 5))
    print(
        f"{new} tokens on {keras.backend.backend()}, milliseconds per token, for every 100 tokens:"
    )
    print("  " + ", ".join(f"{1000 * step / 100:.2f}" for step in times))
    print(f"  last hundred / first hundred: {times[-1] / times[0]:.2f}")
    print(f"  first call {first:.1f} s, second {sum(times):.1f} s, without compilation;")
    print(f"  a prompt of another length in the same bucket: {other:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS)
    parser.add_argument("--only", choices=["compare", "flat"])
    parser.add_argument("--worker", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.batches[0])
        return
    import keras

    names = options.contenders or list(CONTENDERS)
    if keras.backend.backend() != "tensorflow" and not options.contenders:
        names = ["ours", "keras_hub", "hugging_face"]  # KerasHub is always compiled on JAX
    if options.only != "flat":
        for rows in options.batches:
            compare(rows, options.rounds, names)
    if options.only != "compare":
        flat()


if __name__ == "__main__":
    main()
