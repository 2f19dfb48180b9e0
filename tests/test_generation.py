"""Generation against the full forward pass, step by step, and against exhaustive search."""

import itertools

import keras_hub
import numpy as np
import pytest
from small_models import random_model, small_spec

from functional_models.generation import Generator, make_sampler

END = 1
SOURCE = np.array([[7, 5, 3, 11, 2, 0, 0], [13, 4, 0, 0, 0, 0, 0]], "int32")


def generator_of(**changes):
    spec = small_spec(num_layers=1, max_sequence_length=13, **changes)
    model = random_model(spec)
    for weight in model.weights:  # sharp logits, so that no two are close
        if weight.path.endswith("logits/kernel"):
            weight.assign(2 * weight)
    return Generator(model, max_length=13, end_id=END)


@pytest.fixture(scope="module")
def language():
    return generator_of()


@pytest.fixture(scope="module")
def translation():
    return generator_of(kind="encoder_decoder")


def logits_after(generator, tokens, source=None):
    tokens = np.asarray([tokens], "int32")
    inputs = tokens if source is None else {"source": source[None], "target": tokens}
    return np.asarray(generator._model(inputs, training=False))[0, -1].astype("float64")


def greedy_reference(generator, prompt, number, source=None):
    """The likeliest next token of the whole prefix, again and again."""
    tokens = list(prompt)
    for _ in range(number):
        tokens.append(int(logits_after(generator, tokens, source).argmax()))
        if tokens[-1] == END:
            return tokens[len(prompt) : -1]
    return tokens[len(prompt) :]


PROMPTS = [np.array(ids) for ids in ([5, 7, 11], [3], [2, 3, 5, 7, 9])]


def run(generator, prompts, name="greedy", number=6, source=None, **options):
    sampler = generator.sampler(name, **options)
    found = generator(prompts, sampler, max_new_tokens=number, source=source)
    return [ids.tolist() for ids in found]


def test_greedy_is_the_likeliest_token_of_the_full_forward_pass_at_every_step(language):
    expected = [greedy_reference(language, prompt, 6) for prompt in PROMPTS]
    assert run(language, PROMPTS) == expected
    assert len({tuple(ids) for ids in expected}) == 3


def test_prompts_of_unequal_length_get_what_each_gets_alone(language):
    alone = [run(language, [prompt])[0] for prompt in PROMPTS]
    assert run(language, PROMPTS) == alone
    assert run(language, PROMPTS[::-1]) == alone[::-1]


def test_greedy_translation_follows_the_full_forward_pass(translation):
    starts = [np.array([2]), np.array([2])]
    expected = [greedy_reference(translation, [2], 8, source) for source in SOURCE]
    assert run(translation, starts, number=8, source=SOURCE) == expected
    assert expected[0] != expected[1]


def test_more_padding_of_the_source_changes_nothing(translation):
    padded = np.pad(SOURCE, ((0, 0), (0, 4)))
    starts = [np.array([2]), np.array([2])]
    for name in ("greedy", "beam"):
        assert run(translation, starts, name, 8, SOURCE) == run(
            translation, starts, name, 8, padded
        )


def test_each_prompt_has_its_own_limit(language):
    longest = run(language, PROMPTS, number=6)
    found = language(PROMPTS, language.sampler("greedy"), max_new_tokens=[2, 6, 1])
    assert [ids.tolist() for ids in found] == [
        ids[:limit] for ids, limit in zip(longest, [2, 6, 1], strict=True)
    ]


def test_generation_stops_at_the_end_token_and_leaves_it_out(language):
    (free,) = run(language, [PROMPTS[0]])
    assert len(set(free)) > 2
    end = free[2]
    stopping = Generator(language._model, max_length=13, end_id=end)
    (found,) = run(stopping, [PROMPTS[0]])
    assert found == free[: free.index(end)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("top_k", {"k": 1}),
        ("top_p", {"p": 1e-6}),
        ("random", {"temperature": 1e-4}),
        ("beam", {"num_beams": 1}),
    ],
)
def test_samplers_left_without_a_choice_are_greedy(language, name, options):
    assert run(language, PROMPTS, name, **options) == run(language, PROMPTS)


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(language):
    first = run(language, PROMPTS, "random", seed=3)
    other = run(language, PROMPTS, "random", seed=4)
    assert run(language, PROMPTS, "random", seed=3) == first
    assert other != first
    without = [run(language, PROMPTS, "random") for _ in range(3)]
    assert without[0] != without[1] or without[1] != without[2]


def test_draws_follow_the_distribution_of_the_model(language):
    logits = logits_after(language, PROMPTS[0])
    expected = np.exp(logits - logits.max())
    expected /= expected.sum()
    found = language([PROMPTS[0]] * 2000, language.sampler("random", seed=0), max_new_tokens=1)
    # An end token leaves no token at all.
    counts = np.bincount([ids[0] if len(ids) else END for ids in found], minlength=31)
    np.testing.assert_allclose(counts / 2000, expected, atol=0.04)
    (three,) = np.nonzero(
        np.bincount(
            [
                ids[0] if len(ids) else END
                for ids in language(
                    [PROMPTS[0]] * 2000, language.sampler("top_k", k=3, seed=0), max_new_tokens=1
                )
            ]
        )
    )
    assert set(three) <= set(np.argsort(logits)[-3:])


def exhaustive(generator, prompt, number):
    """The likeliest of all continuations, each ending at its end token or after so many."""
    best, best_score = None, -np.inf
    waiting = [((), 0.0)]
    for _ in range(number):
        longer = []
        for ids, score in waiting:
            logits = logits_after(generator, [*prompt, *ids])
            log_p = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
            longer += [((*ids, token), score + log_p[token]) for token in range(len(logits))]
        for ids, score in longer:
            if ids[-1] == END and score > best_score:
                best, best_score = ids[:-1], score
        waiting = [(ids, score) for ids, score in longer if ids[-1] != END]
    for ids, score in waiting:
        if score > best_score:
            best, best_score = ids, score
    return list(best)


def test_a_beam_wide_enough_finds_the_likeliest_continuation_also_one_that_ends_early():
    spec = small_spec(num_layers=1, vocabulary_size=5, max_sequence_length=13)
    found, ended = [], 0
    prompts = [np.array(p) for p in itertools.product([2, 3, 4], [2, 3, 4])]
    generator = Generator(random_model(spec, seed=5), max_length=5, end_id=END)
    expected = [exhaustive(generator, prompt, 3) for prompt in prompts]
    found = run(generator, prompts, "beam", 3, num_beams=25)
    ended = sum(len(ids) < 3 for ids in expected)
    assert found == expected
    assert 0 < ended < len(prompts)  # both kinds are there
    assert expected != [greedy_reference(generator, prompt, 3) for prompt in prompts]


def test_beams_of_prompts_of_unequal_length_are_those_of_each_alone(language):
    alone = [run(language, [prompt], "beam", num_beams=3)[0] for prompt in PROMPTS]
    assert run(language, PROMPTS, "beam", num_beams=3) == alone


def test_a_sampler_of_keras_nlp_is_taken_as_it_is_and_goes_on_with_its_draws(language):
    sampler = keras_hub.samplers.RandomSampler(seed=3)
    assert language.sampler(sampler) is sampler
    assert make_sampler(sampler) is sampler
    by_name = run(language, PROMPTS, "random", seed=3)
    assert run(language, PROMPTS, sampler) == by_name
    assert run(language, PROMPTS, sampler) != by_name


def test_the_same_options_do_not_compile_again(language, monkeypatch):
    run(language, PROMPTS, "top_k", k=4, seed=0)
    traced = []
    next_logits = language._next_logits
    monkeypatch.setattr(
        language, "_next_logits", lambda *given: traced.append(1) or next_logits(*given)
    )
    run(language, PROMPTS, "top_k", k=4, seed=1)
    run(language, [PROMPTS[0]] * 3, "top_k", k=4)
    assert not traced
    run(language, PROMPTS, "top_k", k=2)  # another graph
    assert traced


def test_generation_uses_the_weights_of_the_moment(language):
    before = run(language, PROMPTS)
    kernel = language._model.get_layer("logits").kernel
    value = np.array(kernel.numpy())
    kernel.assign(-value)
    try:
        assert run(language, PROMPTS) != before
    finally:
        kernel.assign(value)
    assert run(language, PROMPTS) == before


def test_only_some_compiled_loops_are_kept(language, monkeypatch):
    monkeypatch.setattr(language, "_compiled", lambda sampler: lambda *arrays: arrays[0])
    monkeypatch.setattr(language, "_loops", {})
    for k in range(1, 20):
        run(language, PROMPTS, "top_k", k=k)
    assert len(language._loops) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "nucleus"}, "unknown sampler 'nucleus'; allowed: greedy, top_k"),
        ({"sampler": None}, "unknown sampler None"),
        ({"sampler": ["greedy"]}, "unknown sampler"),
        ({"temperature": 0}, "temperature=0: must be above 0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"sampler": "top_k", "k": 0}, "k=0: must be a whole number, 1 or more"),
        ({"sampler": "top_k", "k": 2.5}, r"k=2\.5"),
        ({"sampler": "top_k", "k": 32}, "k=32: must be a whole number, 1 to 31"),
        ({"sampler": "top_p", "p": 0.0}, r"p=0\.0: must be above 0"),
        ({"sampler": "top_p", "p": 1.5}, r"p=1\.5"),
        ({"sampler": "beam", "num_beams": 0}, "num_beams=0"),
        ({"sampler": "random", "seed": -1}, "seed=-1: must be a whole number, 0 or more"),
        ({"sampler": "random", "seed": "x"}, "seed='x'"),
    ],
)
def test_a_bad_option_of_a_sampler_is_named_with_its_value(language, options, message):
    with pytest.raises(ValueError, match=message):
        language.sampler(**{"sampler": "greedy", **options})
