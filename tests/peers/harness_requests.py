"""Requests of the evaluation harness, models to ask, and the answers by NumPy.

References are computed without the harness's code, from the logits of one request at a time.
"""

from pathlib import Path

import numpy as np
from lm_eval.api.instance import Instance
from small_text_models import text_model
from test_harness import reference

import functional_models as fm

ROOT = Path(__file__).parent.parent.parent
TOKENIZERS = ROOT / "tests" / "golden_tokenizers"
LONGEST = 19
"""The maximum length of `text_model`."""

LETTERS = b"abcdefghijklmnopqrstuvwxyz"
PAIRS = [
    ("the quick", " brown fox"),
    ("the quick brown", " fox"),
    ("the lazy ", "dog"),  # whose space belongs to the continuation
    ("", "the"),
    (" ", "the"),
    ("a", "b"),
    ("the quick brown fox jumps over", " the"),  # of which the model reads the end
    ("x" * 40, "y" * LONGEST),  # as many as it can read, after one more
    ("the", " quick brown fox"),
]


def ask(model, kind, *arguments, **options):
    """Return the answers of a model to requests of one kind."""
    requests = [Instance(kind, {}, of_request, 0) for of_request in arguments]
    return getattr(model, kind)(requests, disable_tqdm=True, **options)


def random_model(tokenizer=None, seed=0, **changes):
    """Return a model of random weights, whose predictions differ from place to place."""
    # In one layer, it would make no difference what a prefix attends to.
    lm = text_model("decoder_only", seed, **{"dropout": 0.0, "num_layers": 2, **changes})
    if tokenizer is not None:
        size, pad = tokenizer.vocabulary_size, tokenizer.pad_id
        lm = fm.CausalLM(lm.spec.replace(vocabulary_size=size, pad_token_id=pad), tokenizer)
    rng = np.random.default_rng(seed)
    for weight in lm.model.trainable_weights:
        values = rng.normal(size=weight.shape, scale=0.5)
        if weight.path == "logits/kernel" and tokenizer is None:
            values[:, list(LETTERS)] *= 4  # so that bytes are whole characters
        weight.assign(values)
    return lm


def assert_equal_answers(found, expected):
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    totals = [total for total, _ in expected]
    np.testing.assert_allclose([total for total, _ in found], totals, rtol=2e-5)


def reference_of_bytes(lm, context, continuation):
    """Return the answer to a request of a model on bytes, whose end token is 3."""
    words = context.rstrip()
    before, after = [*words.encode()] or [3], [*(context[len(words) :] + continuation).encode()]
    return reference(lm, before[-(LONGEST + 1 - len(after)) :], after)


def rolling_reference(lm, text):
    """Return the log-likelihood of a text of bytes, window after window, after the end token."""
    tokens = [3, *text.encode()]
    total, done = 0.0, 1
    while done < len(tokens):
        end = min(done + LONGEST, len(tokens))
        start = max(0, end - 1 - LONGEST)  # a later window is full, and begins before `done`
        total += reference(lm, tokens[start:done], tokens[done:end])[0]
        done = end
    return total
