"""Generation with a prefix language model, whose prompt is read in both directions.

The reference is a forward pass of the model over prompt and result, with the prompt as prefix.
"""

import numpy as np
import pytest
from small_generators import (
    LIMIT,
    PROMPTS,
    assert_greedy,
    contrastive_reference,
    exhaustive,
    full_logits,
    generator_of,
    language_of_few_likely_tokens,
    log_softmax,
    run,
)

CONTRASTIVE = {"k": 3, "alpha": 0.5}
WINDOW = {"num_layers": 2, "attention_window": 3, "positions": "rotary", "rotary_dim": 4}


@pytest.fixture(scope="module")
def language():
    return generator_of(prefix_lm=True, num_layers=2, seed=3)


def test_greedy_chooses_the_likeliest_token_of_the_forward_pass(language):
    found = run(language, PROMPTS, number=9)
    assert_greedy(language, PROMPTS, found, 9)
    causal = generator_of(num_layers=2, seed=3)
    assert run(causal, PROMPTS, number=9) != found  # the same weights


@pytest.mark.slow
def test_greedy_with_a_window_shorter_than_the_prompts():
    windowed = generator_of(prefix_lm=True, **WINDOW)
    found = run(windowed, PROMPTS, number=9)
    assert_greedy(windowed, PROMPTS, found, 9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("greedy", {}),
        pytest.param("beam", {"num_beams": 3}, marks=pytest.mark.slow),
        pytest.param("contrastive", CONTRASTIVE, marks=pytest.mark.slow),
    ],
)
def test_results_of_unequal_prompts_equal_those_of_single_prompts(language, name, options):
    together = run(language, PROMPTS, name, **options)
    assert together == [run(language, [prompt], name, **options)[0] for prompt in PROMPTS]


def test_a_stream_ends_with_the_result_of_a_call(language):
    *_, last = language.stream(PROMPTS, language.sampler("greedy"), max_new_tokens=6)
    assert [ids.tolist() for ids in last] == run(language, PROMPTS)


def test_log_probabilities_are_those_of_the_forward_pass(language):
    found = run(language, PROMPTS)
    scores = language.log_probabilities(PROMPTS, [np.array(new) for new in found])
    rows = zip(full_logits(language, PROMPTS, found), found, scores, strict=True)
    for logits, new, score in rows:
        expected = log_softmax(logits)[np.arange(len(new)), new]
        np.testing.assert_allclose(score, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_contrastive_search_equals_the_reference(language):
    expected = [contrastive_reference(language, p.tolist(), 6, 3, 0.5) for p in PROMPTS]
    assert run(language, PROMPTS, "contrastive", **CONTRASTIVE) == expected


@pytest.mark.slow
def test_wide_beams_find_the_best_continuations():
    generator = language_of_few_likely_tokens(prefix_lm=True, num_layers=2)
    prompts = [np.array([2, 3]), np.array([4]), np.array([3, 3, 2])]
    expected = exhaustive(generator, prompts, 2.0)
    options = {"num_beams": 25, "num_return_sequences": 3, "length_penalty": 2.0}
    found = generator(prompts, generator.sampler("beam", **options), max_new_tokens=LIMIT)
    assert [[ids.tolist() for ids in row] for row in found] == [row[:3] for row in expected]
