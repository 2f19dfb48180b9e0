"""Generation with cached graphs, compared with forward passes and with exhaustive search.

The reference is a forward pass of the model over prompt and result, without a cache.
"""

import itertools

import keras_hub
import numpy as np
import pytest
from quick import slow_unless
from small_generators import (
    CONTRASTIVE,
    END,
    PROMPTS,
    ROOM,
    assert_best_continuations,
    assert_contrastive,
    assert_greedy,
    assert_log_probabilities,
    full_logits,
    generator_of,
    language_of_few_likely_tokens,
    log_softmax,
    run,
)
from small_models import as_array

from functional_models import generation
from functional_models.generation import Generator

SOURCE = np.array([[7, 5, 3, 11, 2, 0, 0], [13, 4, 0, 0, 0, 0, 0], [9, 9, 2, 6, 0, 0, 0]], "int32")
# Shared options, so that the loop is compiled only once.
BEAM = {"num_beams": 3, "length_penalty": 1.0, "num_return_sequences": 2}


@pytest.fixture(scope="module", autouse=True)
def all_loops_are_kept():
    """Keep the loops that other tests compiled."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(generation, "_MAX_LOOPS", 64)
        yield


@pytest.fixture(scope="module")
def language():
    return generator_of(seed=3)  # ends two of the prompts early


@pytest.fixture(scope="module")
def translation():
    return generator_of(kind="encoder_decoder", seed=1)


# Chosen tokens


GROUPED = {"num_key_value_heads": 1, "positions": "sinusoidal", "norm_placement": "post"}
WINDOW = {"num_layers": 2, "attention_window": 3, "num_key_value_heads": 1}


@pytest.fixture(scope="module")
def windowed():
    return generator_of(**WINDOW)


def test_greedy_chooses_the_likeliest_token_of_the_forward_pass(language):
    found = run(language, PROMPTS, number=11)
    assert_greedy(language, PROMPTS, found, 11)
    assert len({tuple(ids) for ids in found}) == 3


@pytest.mark.slow
def test_greedy_translation_equals_the_forward_pass(translation):
    found = run(translation, PROMPTS, number=11, source=SOURCE)
    assert_greedy(translation, PROMPTS, found, 11, SOURCE)
    others = run(translation, PROMPTS, number=11, source=SOURCE[::-1])
    assert_greedy(translation, PROMPTS, others, 11, SOURCE[::-1])
    assert found != others


@pytest.mark.slow
def test_greedy_with_a_window_shorter_than_prompts_and_continuations(windowed):
    found = run(windowed, PROMPTS, number=11)
    assert_greedy(windowed, PROMPTS, found, 11)
    assert min(map(len, found)) > 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("decoder_only", GROUPED),
        pytest.param("encoder_decoder", GROUPED | {"attention_window": 3}, marks=pytest.mark.slow),
    ],
)
def test_greedy_with_grouped_heads(kind, changes):
    generator = generator_of(kind=kind, **changes)
    source = SOURCE if kind == "encoder_decoder" else None
    found = run(generator, PROMPTS, number=11, source=source)
    assert_greedy(generator, PROMPTS, found, 11, source)
    assert max(map(len, found)) > 3


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("greedy", {}),
        pytest.param("beam", BEAM, marks=pytest.mark.slow),
        pytest.param("contrastive", CONTRASTIVE, marks=pytest.mark.slow),
    ],
)
def test_results_of_unequal_prompts_equal_those_of_single_prompts(language, name, options):
    sampler = language.sampler(name, **options)

    def outcome(prompts, limits):
        found = language(prompts, sampler, max_new_tokens=limits)
        return [[ids.tolist() for ids in sequences] for sequences in found]

    together = outcome(PROMPTS, 6)
    assert together == [outcome([prompt], 6)[0] for prompt in PROMPTS]
    assert outcome(PROMPTS[::-1], 6) == together[::-1]
    limits = [2, 6, 1]
    own = outcome(PROMPTS, limits)
    assert own == [outcome([p], n)[0] for p, n in zip(PROMPTS, limits, strict=True)]
    assert all(len(ids) <= n for row, n in zip(own, limits, strict=True) for ids in row)
    if name == "greedy":
        assert own == [[ids[:n] for ids in row] for row, n in zip(together, limits, strict=True)]


@pytest.mark.slow
def test_beams_with_a_window_and_grouped_heads_do_not_mix_rows(windowed):
    alone = [run(windowed, [prompt] * 3, "beam", **BEAM)[0] for prompt in PROMPTS]
    assert run(windowed, PROMPTS, "beam", **BEAM) == alone


@pytest.mark.slow
def test_contrastive_search_equals_the_reference(language):
    found = assert_contrastive(language)
    assert found != run(language, PROMPTS)


@pytest.mark.slow
def test_contrastive_search_reads_each_token_once_into_a_memory_that_adds_up():
    assert_contrastive(generator_of(mixer="gated_delta", seed=2))


@pytest.mark.slow
def test_wide_beams_find_the_best_continuations():
    found = assert_best_continuations(language_of_few_likely_tokens())
    assert len({len(ids) for row in found for ids in row}) > 1  # some end early


# Random samplers


@pytest.mark.parametrize(
    ("name", "options"),
    slow_unless(
        lambda name, _: name == "top_p",
        [("random", {}), ("top_k", {"k": 7}), ("top_p", {"p": 0.95})],
    ),
)
def test_a_seed_determines_the_tokens(language, name, options):
    options = {"temperature": 2.0, **options}
    first = run(language, PROMPTS, name, seed=3, **options)
    assert run(language, PROMPTS, name, seed=4, **options) != first
    assert run(language, PROMPTS, name, seed=3, **options) == first  # draws restart with every call
    without = [run(language, PROMPTS, name, **options) for _ in range(3)]
    assert without[0] != without[1] or without[1] != without[2]


@pytest.mark.slow
def test_draws_follow_the_distribution_of_the_model(language):
    rows = [PROMPTS[0]] * 2000
    (logits,) = full_logits(language, [PROMPTS[0]], [[0]])
    found = np.array(run(language, rows, "random", 1, seed=0))[:, 0]
    expected = np.exp(log_softmax(logits[0]))
    np.testing.assert_allclose(np.bincount(found, minlength=31) / 2000, expected, atol=0.04)


@pytest.mark.slow
def test_min_p_near_1_keeps_only_the_likeliest_token(language):
    assert run(language, PROMPTS, "random", min_p=0.999) == run(language, PROMPTS)


def test_the_repetition_penalty_applies_to_prompt_and_new_tokens(language):
    penalty = 1.7
    found = run(language, PROMPTS, repetition_penalty=penalty)
    rows = zip(PROMPTS, found, full_logits(language, PROMPTS, found), strict=True)
    for prompt, new, logits in rows:
        for i, token in enumerate(new):
            seen = np.unique([*prompt, *new[:i]])
            x = logits[i].copy()
            x[seen] = np.where(x[seen] > 0, x[seen] / penalty, x[seen] * penalty)
            assert x[token] >= x.max() - 1e-4
    assert found != run(language, PROMPTS)


@pytest.mark.slow
def test_rules_of_repeated_tokens_and_lengths_hold_in_compiled_loops(language):
    options = {"no_repeat_ngram_size": 2, "min_new_tokens": 4}
    stops = tuple(range(2, 31, 3))
    found = run(language, PROMPTS, stop_ids=stops, **options)
    ends = (END, *stops)
    rows = zip(PROMPTS, found, full_logits(language, PROMPTS, found), strict=True)
    for prompt, new, logits in rows:
        assert len(new) > 4
        for i, token in enumerate(new):
            row = [*prompt, *new[:i]]
            x = logits[i].copy()
            x[[b for a, b in itertools.pairwise(row) if a == row[-1]]] = -np.inf
            if i < 4:
                x[list(ends)] = -np.inf
            assert x[token] >= x.max() - 1e-4
    alone = [run(language, [prompt], stop_ids=stops, **options)[0] for prompt in PROMPTS]
    assert alone == found != run(language, PROMPTS, stop_ids=stops)


@pytest.mark.slow
def test_a_keras_hub_sampler_is_used_with_its_own_seeds(language):
    sampler = keras_hub.samplers.RandomSampler(seed=3)
    assert language.sampler(sampler) is sampler
    first = run(language, PROMPTS, keras_hub.samplers.RandomSampler(seed=3))
    assert run(language, PROMPTS, sampler) == first
    assert run(language, PROMPTS, sampler) != first


@pytest.mark.slow
def test_ids_beyond_the_vocabulary_are_never_chosen_or_counted(language):
    generator = Generator(language._model, language._spec, end_id=END, vocabulary_size=11)
    for name, options in [("greedy", {}), ("beam", BEAM)]:
        found = run(generator, PROMPTS, name, **options)
        assert max(itertools.chain(*found)) < 11 <= max(itertools.chain(*run(language, PROMPTS)))
        assert_log_probabilities(generator, PROMPTS, found, size=11)
        for x, new in zip(full_logits(generator, PROMPTS, found), found, strict=True):
            assert name != "greedy" or (x[:, :11].argmax(axis=-1) == new).all()


# Ends and limits


@pytest.mark.slow
def test_rows_include_their_end_token_or_stop_token(language):
    free = run(language, PROMPTS)
    stop = free[0][2]
    expected = [ids[: ids.index(stop) + 1] if stop in ids else ids for ids in free]
    assert expected != free
    assert run(language, PROMPTS, stop_ids=(stop,)) == expected
    other = Generator(language._model, language._spec, end_id=stop)
    assert run(other, PROMPTS) == expected


@pytest.mark.parametrize(
    ("name", "options"), [("greedy", {}), pytest.param("beam", BEAM, marks=pytest.mark.slow)]
)
def test_a_prompt_may_leave_room_for_a_single_token(language, name, options):
    longest = np.random.default_rng(0).integers(2, 31, ROOM - 1)
    found = run(language, [longest], name, 1, **options)
    assert len(found[0]) == 1
    assert_greedy(language, [longest], found, 1)


def test_a_prompt_of_one_token_can_be_continued_to_max_sequence_length(language):
    found = run(language, [PROMPTS[1]], number=ROOM - 1)
    assert_greedy(language, [PROMPTS[1]], found, ROOM - 1)


def test_a_single_new_token_is_the_first_of_several(language):
    assert run(language, PROMPTS, number=1) == [ids[:1] for ids in run(language, PROMPTS)]


# Streams


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("name", "options"), [("greedy", {}), ("random", {"seed": 5})])
def test_a_stream_ends_with_the_result_of_a_call(language, name, options):
    expected = run(language, PROMPTS, name, 15, **options)
    sampler = language.sampler(name, **options)
    before = [[]] * 3
    seen = 0
    for rows in language.stream(PROMPTS, sampler, max_new_tokens=15):
        rows = [row.tolist() for row in rows]
        assert all(new[: len(old)] == old for new, old in zip(rows, before, strict=True))
        before, seen = rows, seen + 1
    assert before == expected
    assert seen > 1


def test_other_calls_do_not_change_the_draws_of_a_stream(language):
    expected = run(language, PROMPTS, "random", 6, seed=3)
    stream = language.stream(PROMPTS, language.sampler("random", seed=3), max_new_tokens=6)
    next(stream)
    run(language, PROMPTS, "random", 6, seed=4)
    *_, rows = stream
    assert [row.tolist() for row in rows] == expected


@pytest.mark.parametrize("name", ["beam", "contrastive"])
def test_samplers_that_compare_whole_sequences_cannot_be_streamed(language, name):
    with pytest.raises(ValueError, match=r"compares whole sequences .*; stream with greedy"):
        language.stream(PROMPTS, language.sampler(name), max_new_tokens=3)


# Log-probabilities


@pytest.mark.parametrize(
    "kind", ["decoder_only", pytest.param("encoder_decoder", marks=pytest.mark.slow)]
)
def test_log_probabilities_equal_those_of_the_forward_pass(language, translation, kind):
    with_source = kind == "encoder_decoder"
    generator, source = (translation, SOURCE) if with_source else (language, None)
    samplers = [("random", {"seed": 1}), ("beam", BEAM)]
    for name, options in [("greedy", {}), *samplers[with_source:]]:
        found = run(generator, PROMPTS, name, 6, source, **options)
        assert_log_probabilities(generator, PROMPTS, found, source)


def test_compiled_loops_use_the_current_weights(language):
    samplers = {"greedy": {}, "beam": BEAM}
    before = [run(language, PROMPTS, name, **options) for name, options in samplers.items()]
    kernel = language._model.get_layer("logits").kernel
    value = as_array(kernel.value)
    kernel.assign(-value)
    try:
        after = [run(language, PROMPTS, name, **options) for name, options in samplers.items()]
        assert_greedy(language, PROMPTS, after[0], 6)
        assert after[0] != before[0]
        assert after[1] != before[1]
    finally:
        kernel.assign(value)
    again = [run(language, PROMPTS, name, **options) for name, options in samplers.items()]
    assert again == before


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "nucleus"}, "unknown sampler 'nucleus'.*; allowed: greedy, top_k"),
        ({"sampler": ["greedy"]}, "unknown sampler"),
        ({"temperature": 0}, "temperature=0: must be above 0"),
        ({"temperature": -1}, "temperature=-1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"sampler": "top_k", "k": 32}, "k=32: must be an integer, 1 to 31"),
        ({"sampler": "contrastive", "k": 32}, "k=32: must be an integer, 1 to 31"),
        ({"sampler": "beam", "num_beams": 32}, "num_beams=32: must be an integer, 1 to 31"),
        (
            {"sampler": "beam", "num_beams": 3, "num_return_sequences": 4},
            "num_return_sequences=4: must not be above num_beams=3",
        ),
        ({"num_return_sequences": 2}, "num_return_sequences=2: must be 1 with sampler 'greedy'"),
    ],
)
def test_bad_sampler_options_raise(language, options, message):
    with pytest.raises(ValueError, match=message):
        language.sampler(**{"sampler": "greedy", **options})
