"""Generation with a prefix language model, whose prompt is read in both directions.

The reference is a forward pass of the model over prompt and result, with the prompt as prefix.
"""

import pytest
from small_generators import (
    CONTRASTIVE,
    PROMPTS,
    assert_best_continuations,
    assert_contrastive,
    assert_greedy,
    assert_log_probabilities,
    generator_of,
    language_of_few_likely_tokens,
    run,
)

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
    assert_log_probabilities(language, PROMPTS, run(language, PROMPTS))


@pytest.mark.slow
def test_contrastive_search_equals_the_reference(language):
    assert_contrastive(language)


@pytest.mark.slow
def test_wide_beams_find_the_best_continuations():
    assert_best_continuations(language_of_few_likely_tokens(prefix_lm=True, num_layers=2))
