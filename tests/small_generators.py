"""Generators of small models, their results, and what forward passes say of them."""

import itertools

import numpy as np
from small_models import as_array, logits_of, random_model, small_spec

import builders
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


def inputs_after(generator, prompts, tokens, source=None):
    """Return the inputs of the model for tokens (b, t) that begin with prompts."""
    if source is not None:
        return {"source": source, "target": tokens}
    if generator._spec.prefix_lm:
        return {"tokens": tokens, "prefix_length": np.array([*map(len, prompts)], "int32")}
    return tokens


def full_logits(generator, prompts, sequences, source=None):
    """Return the logits (t, v) of the new tokens of each row, by a forward pass."""
    rows = [[*prompt, *new] for prompt, new in zip(prompts, sequences, strict=True)]
    tokens = np.zeros((len(rows), max(map(len, rows))), "int32")
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    inputs = inputs_after(generator, prompts, tokens, source)
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


def assert_log_probabilities(generator, prompts, found, source=None, size=None):
    """Check the log probabilities of sequences, of the first `size` tokens, by a forward pass."""
    scores = generator.log_probabilities(prompts, [np.array(new) for new in found], source)
    logits = full_logits(generator, prompts, found, source)
    for x, new, score in zip(logits, found, scores, strict=True):
        expected = log_softmax(x[:, :size])[np.arange(len(new)), new]
        assert score.dtype == "float32"
        np.testing.assert_allclose(score, expected, rtol=1e-4, atol=1e-4)


# Searches ---------------------------------------------------------------------------------------


CONTRASTIVE = {"k": 3, "alpha": 0.5}


def assert_contrastive(generator):
    """Check contrastive search by forward passes, and return its results."""
    expected = [contrastive_reference(generator, p.tolist(), 6, **CONTRASTIVE) for p in PROMPTS]
    assert run(generator, PROMPTS, "contrastive", **CONTRASTIVE) == expected
    return expected


def contrastive_reference(generator, prompt, number, k, alpha):
    """Return contrastive search (Su et al. 2022, equation 5) by forward passes."""

    def read(rows):
        inputs = inputs_after(generator, [prompt] * len(rows), np.array(rows, "int32"))
        hidden = probe(inputs, training=False)["decoder.final_norm"]
        return as_array(hidden).astype("float64"), logits_of(generator._model, inputs)

    probe = builders.build_probe(generator._model, generator._spec, "decoder.final_norm")
    tokens = list(prompt)
    while len(tokens) < len(prompt) + number and tokens[-1] != END:
        logits = read([tokens])[1][0, -1].astype("float64")
        chances = np.exp(log_softmax(logits))
        candidates = np.argsort(-chances)[:k]
        hidden = read([[*tokens, token] for token in candidates])[0]
        hidden /= np.linalg.norm(hidden, axis=-1, keepdims=True)
        similarity = np.einsum("btd,bd->bt", hidden[:, :-1], hidden[:, -1]).max(axis=1)
        scores = (1 - alpha) * chances[candidates] - alpha * similarity
        tokens.append(int(candidates[scores.argmax()]))
    return tokens[len(prompt) :]


LIKELY = 5
LIMIT = 3


def language_of_few_likely_tokens(**changes):
    """Return a generator with 5 possible tokens of 31."""
    generator = generator_of(logit_bias=True, seed=1, **changes)
    bias = next(w for w in generator._model.weights if tuple(w.shape) == (31,))
    bias.assign(np.where(np.arange(31) < LIKELY, as_array(bias.value), -60.0))
    return generator


def assert_best_continuations(generator):
    """Check that wide beams find the best sequences of all, and return them."""
    prompts = [np.array([2, 3]), np.array([4]), np.array([3, 3, 2])]
    expected = exhaustive(generator, prompts, 2.0)
    options = {"num_beams": 25, "num_return_sequences": 3, "length_penalty": 2.0}
    found = generator(prompts, generator.sampler("beam", **options), max_new_tokens=LIMIT)
    assert [[ids.tolist() for ids in row] for row in found] == [row[:3] for row in expected]
    return found


def exhaustive(generator, prompts, alpha):
    """Return all continuations of each prompt, sorted by log P / t ** alpha."""
    paths = set()
    for ids in itertools.product(range(LIKELY), repeat=LIMIT):
        paths.add(ids[: ids.index(END) + 1] if END in ids else ids)
    paths = sorted(paths)
    ranked = []
    for prompt in prompts:
        logits = full_logits(generator, [prompt] * len(paths), paths)
        scores = [
            log_softmax(x)[np.arange(len(path)), path].sum() / len(path) ** alpha
            for x, path in zip(logits, paths, strict=True)
        ]
        ranked.append([list(paths[i]) for i in np.argsort(scores)[::-1]])
    return ranked
