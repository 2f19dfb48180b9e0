"""Generators of small models, their results, and what forward passes say of them."""

import numpy as np
from small_models import logits_of, random_model, small_spec

from functional_models.generation import Generator

END = 1
ROOM = 23  # max_sequence_length
PROMPTS = [np.array(ids) for ids in ([5, 7, 11], [3], [2, 3, 0, 7, 9, 4, 8])]


def generator_of(*, seed=0, **changes):
    spec = small_spec(**{"num_layers": 1, "max_sequence_length": ROOM, **changes})
    model = random_model(spec, seed)
    kernel = next(w for w in model.weights if w.path.endswith("logits/kernel"))
    kernel.assign(2 * kernel)  # larger differences between logits
    return Generator(model, spec, end_id=END)


def run(generator, prompts, name="greedy", number=6, source=None, stop_ids=(), **options):
    """Return the best sequence of each prompt."""
    sampler = generator.sampler(name, **options)
    limits = {"max_new_tokens": number, "source": source, "stop_ids": stop_ids}
    return [ids.tolist() for ids, *_ in generator(prompts, sampler, **limits)]


def full_logits(generator, prompts, sequences, source=None):
    """Return the logits (t, v) of the new tokens of each row, by a forward pass."""
    rows = [[*prompt, *new] for prompt, new in zip(prompts, sequences, strict=True)]
    tokens = np.zeros((len(rows), max(map(len, rows))), "int32")
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    inputs = tokens if source is None else {"source": source, "target": tokens}
    logits = logits_of(generator._model, inputs).astype("float64")
    return [
        logits[i, len(prompt) - 1 : len(row) - 1]
        for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True))
    ]


def log_softmax(logits):
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def assert_greedy(generator, prompts, found, number, source=None, tolerance=1e-4):
    """Check that every token is the likeliest one and that rows end at the end token only."""
    for logits, new in zip(full_logits(generator, prompts, found, source), found, strict=True):
        chosen = logits[np.arange(len(new)), new]
        assert (chosen >= logits.max(axis=-1) - tolerance).all()
        assert END not in new[:-1]
        assert len(new) == number or (len(new) < number and new[-1] == END)
