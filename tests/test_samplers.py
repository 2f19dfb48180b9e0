"""Samplers against plain enumeration and NumPy formulas, on small made-up distributions."""

import copy
import functools
import itertools
import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops

from functional_models.beam_search import BeamSearch
from functional_models.logit_processors import MinP, ProcessedSampler, RepetitionPenalty
from functional_models.samplers import SAMPLERS, check_count, make_sampler

STOP = 1
BACKEND = keras.backend.backend()
LENGTH_PENALTIES = (0.0, 0.6, 1.0)


class Toy:
    """A language model that is a formula of the whole prefix: every token at every place counts.

    Tokens from `live` on are impossible, so that a vocabulary can be larger than what must be
    enumerated.
    """

    def __init__(self, *, vocabulary_size=7, live=5, length=7, stop_bonus=0.5, seed=0):
        rng = np.random.default_rng(seed)
        self.size, self.live, self.length = vocabulary_size, live, length
        self.of_token = rng.normal(size=(length, live, 3)).astype("float32")
        self.kernel = rng.normal(size=(3, live)).astype("float32") * 1.7
        self.bias = np.zeros(live, "float32")
        self.bias[STOP] = stop_bonus

    def next(self, tokens, cache, index):
        """Logits (b, v) by Keras operations, in a keras-nlp sampler's terms; the cache is kept."""
        one_hot = self.one_hot(tokens)
        there = ops.cast(ops.arange(self.length) < index, "float32")
        features = ops.einsum("blv,lvd,l->bd", one_hot, ops.convert_to_tensor(self.of_token), there)
        return self.logits(features), None, cache

    def one_hot(self, tokens):
        # An impossible token may stand in an impossible beam; what it counts as does not matter.
        possible = ops.minimum(ops.cast(tokens, "int32"), self.live - 1)
        return ops.one_hot(possible, self.live, dtype="float32")

    def logits(self, features):
        kernel, bias = ops.convert_to_tensor(self.kernel), ops.convert_to_tensor(self.bias)
        logits = ops.matmul(ops.tanh(features), kernel) + bias
        rest = ((0, 0), (0, self.size - self.live))
        return ops.pad(logits, rest, constant_values=-1e9)

    @functools.cache  # noqa: B019 - toys are small
    def log_probabilities(self, prefix):
        """float64 (live,), by NumPy."""
        features = sum(self.of_token[j, token].astype("float64") for j, token in enumerate(prefix))
        logits = np.tanh(features) @ self.kernel + self.bias
        return logits - np.log(np.exp(logits).sum())

    def log_probability(self, prompt, generated):
        steps = range(len(generated))
        return sum(self.log_probabilities((*prompt, *generated[:i]))[generated[i]] for i in steps)


def score(log_p, length, alpha):
    return log_p / ((5 + length) / 6) ** alpha


def enumerated(toy, prompt, steps, *, number, alpha=0.0, stops=(STOP,)):
    """The best of all continuations, each up to its stop token or `steps` long."""
    going, ended = [()], []
    for _ in range(steps):
        longer = [(*ids, token) for ids in going for token in range(toy.live)]
        ended += [ids for ids in longer if ids[-1] in stops]
        going = [ids for ids in longer if ids[-1] not in stops]
    found = [(ids, toy.log_probability(prompt, ids)) for ids in ended + going]
    return sorted(found, key=lambda pair: -score(pair[1], len(pair[0]), alpha))[:number]


def plain_beam_search(toy, prompt, steps, *, beams, number, alpha=0.0, stops=(STOP,)):
    """Beam search with lists, always to the last step: every hypothesis is kept."""
    going, ended = [((), 0.0)], []
    for _ in range(steps):
        candidates = [
            ((*ids, token), log_p + toy.log_probabilities((*prompt, *ids))[token])
            for ids, log_p in going
            for token in range(toy.live)
        ]
        candidates.sort(key=lambda pair: -pair[1])
        ended += [pair for pair in candidates[:beams] if pair[0][-1] in stops]
        going = [pair for pair in candidates if pair[0][-1] not in stops][:beams]
    return sorted(ended + going, key=lambda p: -score(p[1], len(p[0]), alpha))[:number]


def padded(prompt, ids, length):
    row = [*prompt, *ids]
    return row + [STOP] * (length - len(row))


def compiled(function):
    """Compile a function of tensors as generation does; torch runs as it is."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True, autograph=False)
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    return function


def eager(function):
    return function


both_modes = pytest.mark.parametrize("mode", [eager, compiled])


def columns_of(prompts, length):
    """Prompts as tokens (b, length) and the mask of what is given."""
    tokens = np.zeros((len(prompts), length), "int32")
    mask = np.zeros((len(prompts), length), bool)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
        mask[row, : len(prompt)] = True
    return tokens, mask


def search(sampler, next, prompts, length, *, cache=None, stops=(STOP,), mode=eager):
    """Run `search` from the end of the shortest prompt; give NumPy tokens and log-probabilities."""

    @mode
    def run(tokens, mask, index, *leaves):
        given = None if cache is None else dict(zip(cache, leaves, strict=True))
        return sampler.search(next, tokens, given, index, mask=mask, stop_token_ids=stops)

    tokens, mask = columns_of(prompts, length)
    arrays = [tokens, mask, np.int32(min(map(len, prompts))), *(cache or {}).values()]
    found = run(*(ops.convert_to_tensor(array) for array in arrays))
    return tuple(ops.convert_to_numpy(x) for x in found)


def assert_found(found, expected, prompt, length):
    tokens, log_p = found
    assert tokens.tolist() == [padded(prompt, ids, length) for ids, _ in expected]
    np.testing.assert_allclose(log_p, [log_p for _, log_p in expected], rtol=1e-5, atol=1e-5)


# --- beam search -----------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", LENGTH_PENALTIES)
@pytest.mark.parametrize(
    ("steps", "size", "mode"),
    [
        (1, 7, eager),
        (3, 127, eager),
        pytest.param(4, 631, compiled, marks=pytest.mark.slow),
    ],
)
def test_a_beam_wide_enough_gives_the_n_best_of_all_sequences(steps, size, mode, alpha):
    toy = Toy(vocabulary_size=size, live=5, length=2 + steps, seed=steps)
    number = 5 if steps == 1 else 17
    sampler = BeamSearch(5**steps, alpha, number)
    expected = enumerated(toy, (3, 2), steps, number=number, alpha=alpha)
    tokens, log_p = search(sampler, toy.next, [(3, 2)], 2 + steps, mode=mode)
    assert_found((tokens[0], log_p[0]), expected, (3, 2), 2 + steps)
    assert steps == 1 or len({len(ids) for ids, _ in expected}) > 1  # some end early


def test_the_length_penalty_changes_which_sequence_is_best():
    toy = Toy(vocabulary_size=127, length=5, seed=2)
    best = [enumerated(toy, (3, 2), 3, number=1, alpha=alpha)[0][0] for alpha in (0.0, 1.0)]
    assert len(best[0]) < len(best[1])
    for alpha, ids in zip((0.0, 1.0), best, strict=True):
        tokens, _ = search(BeamSearch(125, alpha), toy.next, [(3, 2)], 5)
        assert tokens[0, 0].tolist() == padded((3, 2), ids, 5)


@pytest.mark.parametrize("alpha", LENGTH_PENALTIES)
@pytest.mark.parametrize(("beams", "number"), [(1, 1), (2, 1), (3, 2)])
def test_narrow_beams_and_early_stopping_give_what_plain_beam_search_to_the_end_gives(
    alpha, beams, number
):
    length, prompts = 11, [*itertools.product([0, 2, 3, 4], repeat=2)]
    toy = Toy(length=length, seed=5)
    sampler = BeamSearch(beams, alpha, number)
    tokens, log_p = search(sampler, toy.next, prompts, length, mode=compiled)
    for row, prompt in enumerate(prompts):
        expected = plain_beam_search(
            toy, prompt, length - 2, beams=beams, number=number, alpha=alpha
        )
        assert_found((tokens[row], log_p[row]), expected, prompt, length)


def test_a_search_stops_as_soon_as_no_beam_can_become_better():
    asked = []

    def next(tokens, cache, index):
        asked.append(int(index))
        likely = STOP if int(index) == 3 else 2
        row = np.full(7, -9.0, "float32")
        row[likely] = 9.0
        return ops.broadcast_to(ops.convert_to_tensor(row), (tokens.shape[0], 7)), None, cache

    if BACKEND == "jax":
        import jax

        with jax.disable_jit():
            tokens, _ = search(BeamSearch(2), next, [(3, 2)], 97, mode=eager)
    else:
        tokens, _ = search(BeamSearch(2), next, [(3, 2)], 97, mode=eager)
    assert tokens[0, 0].tolist() == [3, 2, 2] + 94 * [STOP]
    assert asked == [2, 3]


@pytest.mark.parametrize("seed", range(3))
def test_one_beam_is_greedy_search(seed):
    toy = Toy(length=11, seed=seed)
    prompts = [*itertools.product([0, 2, 3, 4], repeat=2)]
    tokens, mask = columns_of(prompts, 11)
    greedy = keras_hub.samplers.GreedySampler()(
        toy.next, tokens, index=2, mask=mask, stop_token_ids=(STOP,)
    )
    found, log_p = search(BeamSearch(1), toy.next, prompts, 11)
    greedy = ops.convert_to_numpy(greedy)
    for row in range(len(prompts)):
        (ends,) = np.nonzero(greedy[row] == STOP)
        kept = ends[0] + 1 if len(ends) else 11
        assert found[row, 0].tolist() == padded((), greedy[row, :kept], 11)
        expected = toy.log_probability(tuple(greedy[row, :2]), tuple(greedy[row, 2:kept]))
        np.testing.assert_allclose(log_p[row, 0], expected, rtol=1e-5)
    assert (greedy == STOP).any()


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_what_follows_the_end_changes_nothing(alpha):
    """One model goes on after an end at a high price, the other for nothing."""
    toy = Toy(length=7, seed=2)

    def dear(tokens, cache, index):
        logits, _, _ = toy.next(tokens, cache, index)
        there = ops.arange(7, dtype="int32") < index
        ended = ops.any(ops.logical_and(ops.equal(tokens, STOP), there), axis=1)
        return ops.where(ended[:, None], ops.zeros_like(logits), logits), None, cache

    expected = search(BeamSearch(3, alpha, 3), toy.next, [(3, 2), (0, 4)], 7)
    found = search(BeamSearch(3, alpha, 3), dear, [(3, 2), (0, 4)], 7)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert (expected[0][:, :, -1] == STOP).any()
    assert len({tuple(row) for row in expected[0][0]}) == 3  # no hypothesis is there twice


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_prompts_of_unequal_length_are_kept_and_get_what_each_gets_alone(alpha):
    toy = Toy(length=11, seed=7)
    prompts = [(3,), (2, STOP, 4, 0, 3), (4, 4, 2), (0, 2, 3, 3, 2, 4, 0, 2, 2, 3, 4)]
    sampler = BeamSearch(3, alpha, 2)
    tokens, log_p = search(sampler, toy.next, prompts, 11)
    for row, prompt in enumerate(prompts):
        assert tokens[row, 0, : len(prompt)].tolist() == list(prompt)
        alone, alone_log_p = search(sampler, toy.next, [prompt], 11)
        np.testing.assert_allclose(log_p[row], alone_log_p[0], rtol=1e-5)
        possible = np.isfinite(log_p[row])
        np.testing.assert_array_equal(tokens[row][possible], alone[0][possible])
        if len(prompt) < 11:
            expected = plain_beam_search(
                toy, prompt, 11 - len(prompt), beams=3, number=2, alpha=alpha
            )
            assert_found((tokens[row], log_p[row]), expected, prompt, 11)
    # Nothing is left to generate in the last: one sequence of probability 1, and no other.
    assert log_p[3].tolist() == [0.0, -np.inf]


def test_a_column_given_after_free_ones_is_kept_and_costs_nothing():
    toy = Toy(length=5, vocabulary_size=29, seed=11, stop_bonus=-99.0)
    tokens = np.array([[3, 0, 4, 0, 0]], "int32")
    mask = np.array([[True, False, True, False, False]])
    found, log_p = BeamSearch(25, 0.6, 23).search(
        toy.next, tokens, index=1, mask=mask, stop_token_ids=(STOP,)
    )
    choices = []
    for a, b, c in itertools.product([0, 2, 3, 4], repeat=3):
        free = toy.log_probabilities((3,))[a] + toy.log_probabilities((3, a, 4))[b]
        free += toy.log_probabilities((3, a, 4, b))[c]
        choices.append((free, [3, a, 4, b, c]))
    choices.sort(reverse=True)
    assert ops.convert_to_numpy(found)[0].tolist() == [row for _, row in choices[:23]]
    np.testing.assert_allclose(
        ops.convert_to_numpy(log_p)[0], [log_p for log_p, _ in choices[:23]], rtol=1e-5
    )


def test_without_a_mask_what_stands_before_the_index_is_the_prompt():
    toy = Toy(length=7, seed=2)
    prompt = (3, STOP, 2)
    tokens, mask = columns_of([prompt], 7)
    for index in (3, np.int32(3), ops.convert_to_tensor(np.int32(3))):
        found = BeamSearch(3)(toy.next, tokens, index=index, stop_token_ids=[STOP])
        expected = BeamSearch(3)(toy.next, tokens, index=3, mask=mask, stop_token_ids=[STOP])
        np.testing.assert_array_equal(ops.convert_to_numpy(found), ops.convert_to_numpy(expected))
    assert ops.convert_to_numpy(found)[0, :3].tolist() == list(prompt)


def test_several_stop_tokens_all_end_and_the_first_fills():
    toy = Toy(length=6, vocabulary_size=631, seed=13)
    stops = (STOP, 4)
    expected = enumerated(toy, (3, 2), 4, number=17, stops=stops)
    tokens, log_p = search(BeamSearch(625, 0.0, 17), toy.next, [(3, 2)], 6, stops=stops)
    assert_found((tokens[0], log_p[0]), expected, (3, 2), 6)
    assert {ids[-1] for ids, _ in expected if len(ids) < 4} == {STOP, 4}
    narrow = plain_beam_search(toy, (3, 2), 4, beams=3, number=3, stops=stops)
    tokens, log_p = search(BeamSearch(3, 0.0, 3), toy.next, [(3, 2)], 6, stops=stops)
    assert_found((tokens[0], log_p[0]), narrow, (3, 2), 6)


def test_without_stop_tokens_nothing_ends():
    toy = Toy(length=6, vocabulary_size=631, seed=3, stop_bonus=1.0)
    expected = enumerated(toy, (3, 2), 4, number=17, stops=())
    tokens, log_p = search(BeamSearch(625, 1.0, 17), toy.next, [(3, 2)], 6, stops=None)
    assert_found((tokens[0], log_p[0]), expected, (3, 2), 6)
    assert any(STOP in ids[:-1] for ids, _ in expected)


@both_modes
def test_a_cache_follows_its_beams(mode):
    """The model reads its cache only, and goes wrong where the cache is not the row's prefix."""
    toy = Toy(length=11, seed=17)
    prompts = [(3, 2), (0, 4), (4, 4, 2)]

    def cached_next(tokens, cache, index):
        here = ops.arange(11, dtype="int32") == index - 1
        seen = ops.where(here, tokens, cache["seen"])  # (b * n, L)
        rows = toy.one_hot(ops.take(tokens, index - 1, axis=1))
        table = ops.take(ops.convert_to_tensor(toy.of_token), index - 1, axis=0)
        features = cache["features"] + ops.matmul(rows, table)[:, None]  # (b * n, 1, 3)
        before = ops.arange(11, dtype="int32") < index
        same = ops.all(ops.logical_or(ops.equal(seen, tokens), ~before), axis=1)
        logits = ops.where(same[:, None], toy.logits(features[:, 0]), 0.0)
        return logits, None, {"seen": seen, "features": features}

    cache = {
        "seen": columns_of([prompt[:1] for prompt in prompts], 11)[0],
        "features": np.stack([toy.of_token[:1, prompt[0]] for prompt in prompts]),
    }
    sampler = BeamSearch(3, 0.6, 2)
    expected = search(sampler, toy.next, prompts, 11, mode=mode)
    found = search(sampler, cached_next, prompts, 11, cache=cache, mode=mode)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)


def test_temperature_divides_the_logits():
    toy = Toy(length=5, seed=19)
    hot = copy.copy(toy)
    hot.kernel, hot.bias = toy.kernel / 1.7, toy.bias / 1.7
    expected = search(BeamSearch(3, 0.6, 3), hot.next, [(3, 2)], 5)
    found = search(BeamSearch(3, 0.6, 3, temperature=1.7), toy.next, [(3, 2)], 5)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)


def test_calling_gives_the_tokens_of_the_search_alone():
    toy = Toy(length=7, seed=2)
    tokens, mask = columns_of([(3, 2), (0, 4)], 7)
    for number in (1, 3):
        sampler = BeamSearch(3, 0.6, number)
        expected, _ = search(sampler, toy.next, [(3, 2), (0, 4)], 7)
        found = sampler(toy.next, tokens, index=2, mask=mask, stop_token_ids=(STOP,))
        found = ops.convert_to_numpy(found)
        assert found.shape == ((2, 7) if number == 1 else (2, 3, 7))
        np.testing.assert_array_equal(found, expected[:, 0] if number == 1 else expected)


def test_fewer_possible_sequences_than_asked_for_are_told_by_their_probability():
    toy = Toy(length=4, live=2, seed=0)  # tokens 0 and 1, the stop
    tokens, log_p = search(BeamSearch(5, 0.0, 5), toy.next, [(0, 0, 0)], 4)
    assert sorted(tokens[0, :2, 3].tolist()) == [0, 1]
    np.testing.assert_allclose(np.exp(log_p[0]).sum(), 1, rtol=1e-5)
    assert np.isneginf(log_p[0, 2:]).all()
    assert not np.isnan(log_p).any()


def test_more_beams_than_tokens_are_refused_when_the_search_meets_the_logits():
    toy = Toy(length=5)
    with pytest.raises(ValueError, match=r"num_beams=11: must not be above .* vocabulary, 7"):
        search(BeamSearch(11), toy.next, [(3, 2)], 5)


def test_a_beam_search_is_made_again_from_its_config():
    sampler = BeamSearch(5, 0.6, 3, temperature=1.7)
    config = BeamSearch.from_config(sampler.get_config()).get_config()
    assert config == {
        "num_beams": 5,
        "length_penalty": 0.6,
        "num_return_sequences": 3,
        "temperature": 1.7,
    }


# --- logit processors ------------------------------------------------------------------------

LOGITS = np.array(
    [[2.0, -1.0, 0.5, 3.0, -2.0, 0.0, 1.5], [0.3, 1.0, -0.7, -3.0, 2.5, 1.1, -0.2]], "float32"
)
ROWS = np.array([[3, 1, 3, 0, 6], [-1, -1, 4, 2, 5]], "int32")


@both_modes
@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3])
def test_the_repetition_penalty_is_that_of_tokens_that_are_there(penalty, mode):
    for index in range(6):
        expected = LOGITS.copy()
        for row in range(2):
            for token in {token for token in ROWS[row, :index] if token >= 0}:
                x = LOGITS[row, token]
                expected[row, token] = x / penalty if x > 0 else x * penalty
        found = mode(RepetitionPenalty(penalty))(
            *(ops.convert_to_tensor(array) for array in (LOGITS, ROWS, np.int32(index)))
        )
        np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=1e-6)


def softmax(x):
    powers = np.exp(x.astype("float64") - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.3])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.99])
def test_min_p_drops_what_is_far_less_likely_than_the_likeliest(p, temperature):
    found = ops.convert_to_numpy(MinP(p, temperature=temperature)(LOGITS, ROWS, 3))
    probabilities = softmax(LOGITS / temperature)
    kept = probabilities >= p * probabilities.max(axis=1, keepdims=True)
    np.testing.assert_array_equal(found[kept], LOGITS[kept])
    sampler = keras_hub.samplers.RandomSampler(temperature=temperature)
    after = ops.convert_to_numpy(sampler.compute_probabilities(found))
    assert (after[~kept] == 0).all()
    np.testing.assert_allclose(after.sum(axis=1), 1, rtol=1e-6)
    assert kept.all() if p == 0 else not kept.all()


@pytest.mark.parametrize("name", ["random", "top_k", "top_p"])
def test_min_p_never_lets_a_dropped_token_be_drawn(name):
    sampler = make_sampler(name, temperature=1.7, k=7, p=1.0, min_p=0.2, seed=0)
    probabilities = softmax(LOGITS[:1] / 1.7)[0]
    kept = np.flatnonzero(probabilities >= 0.2 * probabilities.max())

    def next(tokens, cache, index):
        return ops.broadcast_to(LOGITS[:1], (tokens.shape[0], 7)), None, cache

    tokens = np.zeros((499, 5), "int32")
    drawn = ops.convert_to_numpy(sampler(next, ops.convert_to_tensor(tokens), index=1))[:, 1:]
    assert set(drawn.ravel()) == set(kept)
    shares = np.bincount(drawn.ravel(), minlength=7) / drawn.size
    expected = np.where(np.isin(np.arange(7), kept), probabilities, 0)
    np.testing.assert_allclose(shares, expected / expected.sum(), atol=0.05)


@both_modes
@pytest.mark.parametrize("name", ["greedy", "beam"])
def test_a_sampler_sees_processed_logits(name, mode):
    toy = Toy(length=11, seed=5)
    penalty = RepetitionPenalty(3.0)

    def penalised_next(tokens, cache, index):
        logits, _, cache = toy.next(tokens, cache, index)
        return penalty(logits, tokens, index), None, cache

    inner = make_sampler(name, num_beams=3, length_penalty=0.6)
    arrays = [ops.convert_to_tensor(array) for array in columns_of([(3, 2), (0, 4)], 11)]

    def run(sampler, next):
        generate = mode(
            lambda tokens, mask: sampler(
                next=next, prompt=tokens, index=2, mask=mask, stop_token_ids=(STOP,)
            )
        )
        return ops.convert_to_numpy(generate(*arrays)).tolist()

    found = run(ProcessedSampler(inner, [penalty]), toy.next)
    assert found == run(inner, penalised_next)
    assert found == run(make_sampler(inner, repetition_penalty=3.0), toy.next)
    assert found != run(inner, toy.next)


def test_a_processed_beam_search_tells_log_probabilities_of_processed_logits():
    toy = Toy(vocabulary_size=29, length=4, seed=2)
    sampler = make_sampler("beam", num_beams=25, num_return_sequences=3, temperature=2.0, min_p=0.2)
    tokens, log_p = search(sampler, toy.next, [(3, 2)], 4)
    for ids, found in zip(tokens[0].tolist(), log_p[0], strict=True):
        expected = 0.0
        for column in (2, 3) if ids[2] != STOP else (2,):
            p = softmax(toy.log_probabilities(tuple(ids[:column])) / 2.0)
            p = np.where(p >= 0.2 * p.max(), p, 0)
            expected += np.log(p[ids[column]] / p.sum())
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_loop_of_ones_own_can_process_the_logits_too():
    sampler = make_sampler("greedy", repetition_penalty=9.0)
    logits = sampler.process(LOGITS.astype("float16"), ROWS, 3)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    chosen = sampler.get_next_token(sampler.compute_probabilities(logits))
    assert ops.convert_to_numpy(chosen).tolist() == [0, 5]  # without the penalty: 3, 4
    assert ops.convert_to_numpy(sampler.process(LOGITS, ROWS, 3)).argmax(axis=1).tolist() == [0, 5]


def test_a_processed_sampler_is_the_wrapped_one_in_all_else():
    inner = keras_hub.samplers.TopKSampler(k=3, seed=5, temperature=1.7)
    sampler = ProcessedSampler(inner, [RepetitionPenalty(1.3)])
    assert isinstance(sampler, keras_hub.samplers.Sampler)
    assert sampler.temperature == 1.7
    assert sampler.k == 3
    assert sampler.seed_generator is inner.seed_generator
    assert [v is w for v, w in zip(sampler.variables, inner.variables, strict=True)] == [True]
    assert sampler.get_config() == inner.get_config()
    assert copy.copy(sampler).processors == sampler.processors
    assert not hasattr(sampler, "num_beams")


def test_wrapping_a_processed_sampler_joins_the_processors_in_order():
    first, second = RepetitionPenalty(1.3), MinP(0.3)
    inner = keras_hub.samplers.GreedySampler()
    sampler = ProcessedSampler(ProcessedSampler(inner, [second]), [first])
    assert sampler.sampler is inner
    assert sampler.processors == (first, second)


# --- samplers by name ------------------------------------------------------------------------


def test_every_name_makes_its_sampler_with_its_options():
    made = {
        name: make_sampler(
            name,
            temperature=1.7,
            k=3,
            p=0.7,
            alpha=0.3,
            num_beams=5,
            length_penalty=0.6,
            seed=11,
        )
        for name in SAMPLERS
    }
    configs = {name: (type(made[name]).__name__, made[name].get_config()) for name in SAMPLERS}
    hot = {"temperature": 1.7}
    beams = {"num_beams": 5, "length_penalty": 0.6, "num_return_sequences": 1}
    assert configs == {
        "greedy": ("GreedySampler", hot),
        "top_k": ("TopKSampler", hot | {"k": 3, "seed": 11}),
        "top_p": ("TopPSampler", hot | {"p": 0.7, "k": None, "seed": 11}),
        "random": ("RandomSampler", hot | {"seed": 11}),
        "contrastive": ("ContrastiveSampler", hot | {"k": 3, "alpha": 0.3}),
        "beam": ("BeamSearch", hot | beams),
    }


def test_an_instance_is_returned_as_it_is_and_wrapped_only_for_processors():
    sampler = keras_hub.samplers.RandomSampler(seed=3, temperature=1.7)
    assert make_sampler(sampler) is sampler
    wrapped = make_sampler(sampler, repetition_penalty=1.3, min_p=0.1)
    assert wrapped.sampler is sampler
    assert [type(processor) for processor in wrapped.processors] == [RepetitionPenalty, MinP]
    assert wrapped.processors[1].temperature == 1.7
    several = BeamSearch(5, num_return_sequences=3)
    assert make_sampler(several, num_return_sequences=3) is several
    assert make_sampler(several) is several


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "nucleus"}, "unknown sampler 'nucleus'; allowed: greedy, top_k, top_p, ran"),
        ({"sampler": None}, "unknown sampler None"),
        ({"sampler": ["greedy"]}, "unknown sampler"),
        ({"temperature": 0}, "temperature=0: must be above 0; for no chance, use greedy"),
        ({"temperature": -0.1}, r"temperature=-0\.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"temperature": True}, "temperature=True"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"k": 0}, "k=0: must be a whole number, 1 or more"),
        ({"k": 2.5}, r"k=2\.5"),
        ({"p": 0.0}, r"p=0\.0: must be above 0"),
        ({"p": 1.5}, r"p=1\.5"),
        ({"p": None}, "p=None"),
        ({"alpha": -0.1}, r"alpha=-0\.1: must be 0 to 1"),
        ({"alpha": 1.1}, r"alpha=1\.1"),
        ({"num_beams": 0}, "num_beams=0"),
        ({"num_beams": True}, "num_beams=True"),
        ({"length_penalty": -1}, "length_penalty=-1: must be 0 to 10"),
        ({"length_penalty": 11}, "length_penalty=11"),
        ({"num_return_sequences": 0}, "num_return_sequences=0: must be a whole number, 1 or more"),
        ({"num_return_sequences": 2}, "num_return_sequences=2: must be 1 with sampler 'greedy'"),
        (
            {"sampler": "beam", "num_beams": 3, "num_return_sequences": 5},
            "num_return_sequences=5: must not be above num_beams=3",
        ),
        ({"repetition_penalty": 0}, "repetition_penalty=0: must be above 0"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty=nan"),
        ({"min_p": 1}, "min_p=1: must be 0 or more, and below 1"),
        ({"min_p": -0.1}, r"min_p=-0\.1"),
        ({"seed": -1}, "seed=-1: must be a whole number, 0 or more"),
        ({"seed": "x"}, "seed='x'"),
    ],
)
def test_a_bad_option_is_named_with_its_value_and_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(**options)


def test_an_instance_that_returns_one_sequence_cannot_return_two():
    with pytest.raises(ValueError, match="num_return_sequences=2: must be 1 with sampler"):
        make_sampler(keras_hub.samplers.GreedySampler(), num_return_sequences=2)


def test_speculative_sampling_is_refused_because_there_is_no_draft_model():
    with pytest.raises(ValueError, match="needs a draft model, and there is none; allowed: greedy"):
        make_sampler(keras_hub.samplers.SpeculativeSampler())


@pytest.mark.parametrize("value", [np.int32(3), np.int64(3), 3])
def test_whole_numbers_of_every_kind_are_counts(value):
    check_count("k", value, most=3)
    with pytest.raises(ValueError, match="must be a whole number, 1 to 2"):
        check_count("k", value, most=2)
    with pytest.raises(ValueError, match="k="):
        check_count("k", np.float32(value))


def test_the_names_and_the_checks_cost_no_import_of_a_numeric_library():
    code = (
        "import sys, functional_models.samplers\n"
        "print(sorted({'numpy', 'keras', 'keras_hub', 'tensorflow', 'jax', 'torch'}"
        " & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
