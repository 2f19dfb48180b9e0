"""Beam search compared with exhaustive search and with a simple NumPy implementation."""

import copy
import itertools

import keras_hub
import numpy as np
import pytest
from keras import ops
from quick import slow_unless
from toy_language import (
    BACKEND,
    LENGTH_PENALTIES,
    STOP,
    Toy,
    assert_found,
    both_modes,
    columns_of,
    compiled,
    eager,
    enumerated,
    padded,
    plain_beam_search,
    search,
)

from functional_models.beam_search import BeamSearch


@pytest.mark.sampled(2)
@pytest.mark.parametrize("alpha", LENGTH_PENALTIES)
@pytest.mark.parametrize(
    ("steps", "size", "mode"),
    [
        (1, 7, eager),
        (3, 127, eager),
        pytest.param(4, 631, compiled, marks=pytest.mark.slow),
    ],
)
def test_wide_beams_find_the_n_best_of_all_sequences(steps, size, mode, alpha):
    # With this seed, sequences of unequal length are among the best whatever the penalty.
    toy = Toy(vocabulary_size=size, live=5, length=2 + steps, seed=14)
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


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("alpha", "offset", "beams", "number"),
    slow_unless(
        lambda alpha, offset, beams, number: beams > 1 and alpha > 0,
        [
            (alpha, offset, beams, number)
            for alpha, offset in ((0.0, 0), (0.6, 5), (1.0, 0))
            for beams, number in ((1, 1), (2, 1), (3, 2))
        ],
    ),
)
def test_narrow_beams_with_early_stopping_equal_plain_beam_search(alpha, offset, beams, number):
    length, prompts = 11, [*itertools.product([0, 2, 3, 4], repeat=2)]
    toy = Toy(length=length, seed=5)
    sampler = BeamSearch(beams, alpha, number, length_offset=offset)
    tokens, log_p = search(sampler, toy.next, prompts, length, mode=compiled)
    for row, prompt in enumerate(prompts):
        expected = plain_beam_search(
            toy, prompt, length - 2, beams=beams, number=number, alpha=alpha, offset=offset
        )
        assert_found((tokens[row], log_p[row]), expected, prompt, length)


def test_search_stops_when_no_beam_can_become_better():
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


@pytest.mark.sampled(1)
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
def test_logits_after_a_stop_token_do_not_matter(alpha):
    """Logits after a stop token do not matter."""
    toy = Toy(length=7, seed=2)

    def changed_next(tokens, cache, index):
        logits, _, _ = toy.next(tokens, cache, index)
        there = ops.arange(7, dtype="int32") < index
        ended = ops.any(ops.logical_and(ops.equal(tokens, STOP), there), axis=1)
        return ops.where(ended[:, None], ops.zeros_like(logits), logits), None, cache

    expected = search(BeamSearch(3, alpha, 3), toy.next, [(3, 2), (0, 4)], 7)
    found = search(BeamSearch(3, alpha, 3), changed_next, [(3, 2), (0, 4)], 7)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert (expected[0][:, :, -1] == STOP).any()
    assert len({tuple(row) for row in expected[0][0]}) == 3  # all hypotheses differ


@pytest.mark.sampled(1)
@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_results_of_prompts_of_unequal_length_equal_those_of_single_prompts(alpha):
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
    # The last prompt leaves nothing to generate: a single sequence of probability 1.
    assert log_p[3].tolist() == [0.0, -np.inf]


def test_a_given_column_after_free_ones_is_kept_without_cost():
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


def test_without_a_mask_the_prompt_ends_at_the_index():
    toy = Toy(length=7, seed=2)
    prompt = (3, STOP, 2)
    tokens, mask = columns_of([prompt], 7)
    for index in (3, np.int32(3), ops.convert_to_tensor(np.int32(3))):
        found = BeamSearch(3)(toy.next, tokens, index=index, stop_token_ids=[STOP])
        expected = BeamSearch(3)(toy.next, tokens, index=3, mask=mask, stop_token_ids=[STOP])
        np.testing.assert_array_equal(ops.convert_to_numpy(found), ops.convert_to_numpy(expected))
    assert ops.convert_to_numpy(found)[0, :3].tolist() == list(prompt)


def test_all_stop_tokens_end_a_sequence_and_the_first_fills_the_rest():
    toy = Toy(length=6, vocabulary_size=631, seed=13)
    stops = (STOP, 4)
    expected = enumerated(toy, (3, 2), 4, number=17, stops=stops)
    tokens, log_p = search(BeamSearch(625, 0.0, 17), toy.next, [(3, 2)], 6, stops=stops)
    assert_found((tokens[0], log_p[0]), expected, (3, 2), 6)
    assert {ids[-1] for ids, _ in expected if len(ids) < 4} == {STOP, 4}
    narrow = plain_beam_search(toy, (3, 2), 4, beams=3, number=3, stops=stops)
    tokens, log_p = search(BeamSearch(3, 0.0, 3), toy.next, [(3, 2)], 6, stops=stops)
    assert_found((tokens[0], log_p[0]), narrow, (3, 2), 6)


def test_without_stop_tokens_no_sequence_ends_early():
    toy = Toy(length=6, vocabulary_size=631, seed=3, stop_bonus=1.0)
    expected = enumerated(toy, (3, 2), 4, number=17, stops=())
    tokens, log_p = search(BeamSearch(625, 1.0, 17), toy.next, [(3, 2)], 6, stops=None)
    assert_found((tokens[0], log_p[0]), expected, (3, 2), 6)
    assert any(STOP in ids[:-1] for ids, _ in expected)


@pytest.mark.slow
@both_modes
def test_the_cache_is_reordered_with_its_beams(mode):
    """The model reads only its cache, and is wrong if that is not the prefix of the row."""
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


def test_a_call_returns_the_tokens_of_the_search():
    toy = Toy(length=7, seed=2)
    tokens, mask = columns_of([(3, 2), (0, 4)], 7)
    for number in (1, 3):
        sampler = BeamSearch(3, 0.6, number)
        expected, _ = search(sampler, toy.next, [(3, 2), (0, 4)], 7)
        found = sampler(toy.next, tokens, index=2, mask=mask, stop_token_ids=(STOP,))
        found = ops.convert_to_numpy(found)
        assert found.shape == ((2, 7) if number == 1 else (2, 3, 7))
        np.testing.assert_array_equal(found, expected[:, 0] if number == 1 else expected)


def test_missing_sequences_have_log_probability_minus_infinity():
    toy = Toy(length=4, live=2, seed=0)  # tokens 0 and 1, the stop
    tokens, log_p = search(BeamSearch(5, 0.0, 5), toy.next, [(0, 0, 0)], 4)
    assert sorted(tokens[0, :2, 3].tolist()) == [0, 1]
    np.testing.assert_allclose(np.exp(log_p[0]).sum(), 1, rtol=1e-5)
    assert np.isneginf(log_p[0, 2:]).all()
    assert not np.isnan(log_p).any()


def test_more_beams_than_tokens_raise():
    toy = Toy(length=5)
    with pytest.raises(ValueError, match=r"num_beams=11: must not be above .* vocabulary size, 7"):
        search(BeamSearch(11), toy.next, [(3, 2)], 5)


def test_beam_search_is_restored_from_its_config():
    sampler = BeamSearch(5, 0.6, 3, temperature=1.7, length_offset=5, early_stopping=True)
    config = BeamSearch.from_config(sampler.get_config()).get_config()
    assert config == {
        "num_beams": 5,
        "length_penalty": 0.6,
        "num_return_sequences": 3,
        "temperature": 1.7,
        "length_offset": 5,
        "early_stopping": True,
    }
