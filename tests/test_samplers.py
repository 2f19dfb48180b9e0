"""Samplers by name, and logit processors."""

import copy
import itertools
import json
import re
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest
from keras import ops
from python_process import run_python
from quick import slow_unless
from toy_language import (
    STOP,
    Toy,
    both_modes,
    columns_of,
    compiled,
    eager,
    search,
)

from functional_models.beam_search import BeamSearch
from functional_models.checks import check_count
from functional_models.hugging_face.generation_settings import OPTIONS
from functional_models.logit_processors import MinP, RepetitionPenalty
from functional_models.processed_sampler import ProcessedSampler
from functional_models.samplers import _OPTIONS, SAMPLERS, make_sampler

# --- logit processors ------------------------------------------------------------------------

LOGITS = np.array(
    [[2.0, -1.0, 0.5, 3.0, -2.0, 0.0, 1.5], [0.3, 1.0, -0.7, -3.0, 2.5, 1.1, -0.2]], "float32"
)
ROWS = np.array([[3, 1, 3, 0, 6], [-1, -1, 4, 2, 5]], "int32")


@pytest.mark.parametrize(
    ("penalty", "mode"),
    slow_unless(
        lambda penalty, mode: mode is eager or penalty == 1.3,
        itertools.product((0.5, 1.0, 1.3), (eager, compiled)),
    ),
)
def test_the_repetition_penalty_applies_to_tokens_before_the_index(penalty, mode):
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
def test_min_p_drops_tokens_far_less_likely_than_the_likeliest(p, temperature):
    found = ops.convert_to_numpy(MinP(p, temperature=temperature)(LOGITS, ROWS, 3))
    probabilities = softmax(LOGITS / temperature)
    kept = probabilities >= p * probabilities.max(axis=1, keepdims=True)
    np.testing.assert_array_equal(found[kept], LOGITS[kept])
    sampler = keras_hub.samplers.RandomSampler(temperature=temperature)
    after = ops.convert_to_numpy(sampler.compute_probabilities(found))
    assert (after[~kept] == 0).all()
    np.testing.assert_allclose(after.sum(axis=1), 1, rtol=1e-6)
    assert kept.all() if p == 0 else not kept.all()


GOLDEN = json.loads((Path(__file__).parent / "golden" / "samplers.json").read_text())


def sampler_of(settings):
    """Return the sampler for settings of `generate` of Hugging Face."""
    name = "top_p" if "top_p" in settings else "top_k" if "top_k" in settings else "random"
    return make_sampler(name, seed=0, **{OPTIONS[key][0]: x for key, x in settings.items()})


@pytest.mark.parametrize(
    ("case", "mode"),
    slow_unless(
        lambda case, mode: mode is eager or len(case["settings"]) == 4,
        itertools.product(GOLDEN["cases"], (eager, compiled)),
    ),
)
def test_tokens_are_drawn_with_the_probabilities_of_hugging_face(case, mode):
    """`tests/peers/make_samplers.py` wrote the probabilities after its processors."""
    sampler = sampler_of(case["settings"])

    def probabilities(logits, tokens, index):
        if isinstance(sampler, ProcessedSampler):
            logits = sampler.process(logits, tokens, index)
        return sampler.compute_probabilities(logits)

    logits, tokens = np.array(GOLDEN["logits"], "float32"), np.array(GOLDEN["tokens"], "int32")
    arrays = (ops.convert_to_tensor(array) for array in (logits, tokens, np.int32(5)))
    found = ops.convert_to_numpy(mode(probabilities)(*arrays))
    expected = np.array(case["probabilities"])
    np.testing.assert_array_equal(found > 0, expected > 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"), [("random", {}), ("top_k", {"k": 7}), ("top_p", {"p": 1.0})]
)
def test_tokens_dropped_by_min_p_are_never_drawn(name, options):
    sampler = make_sampler(name, temperature=1.7, **options, min_p=0.2, seed=0)
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


@pytest.mark.parametrize(("number", "tokens"), [(0.0, [1, 0]), (1 - 2**-24, [4, 3]), (0.5, [2, 0])])
def test_a_token_without_probability_is_not_drawn_at_the_ends_either(monkeypatch, number, tokens):
    probabilities = np.array([[0, 0.3, 0.3, 0, 0.4, 0, 0], [0.6, 0, 0, 0.4, 0, 0, 0]], "float32")
    uniform = np.full((2, 1), number, "float32")
    monkeypatch.setattr(keras.random, "uniform", lambda shape, seed: ops.convert_to_tensor(uniform))
    found = make_sampler("random", seed=0).get_next_token(ops.convert_to_tensor(probabilities))
    assert ops.convert_to_numpy(found).tolist() == tokens


@pytest.mark.sampled(1)
@both_modes
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("greedy", {}),
        pytest.param("beam", {"num_beams": 3, "length_penalty": 0.6}, marks=pytest.mark.slow),
    ],
)
def test_samplers_use_processed_logits(name, options, mode):
    toy = Toy(length=11, seed=5)
    penalty = RepetitionPenalty(3.0)

    def penalised_next(tokens, cache, index):
        logits, _, cache = toy.next(tokens, cache, index)
        return penalty(logits, tokens, index), None, cache

    inner = make_sampler(name, **options)
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


def test_log_probabilities_of_beam_search_are_those_of_processed_logits():
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


def test_custom_loops_can_process_logits():
    sampler = make_sampler("greedy", repetition_penalty=9.0)
    logits = sampler.process(LOGITS.astype("float16"), ROWS, 3)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    chosen = sampler.get_next_token(sampler.compute_probabilities(logits))
    assert ops.convert_to_numpy(chosen).tolist() == [0, 5]  # without the penalty: 3, 4
    assert ops.convert_to_numpy(sampler.process(LOGITS, ROWS, 3)).argmax(axis=1).tolist() == [0, 5]


def test_a_processed_sampler_has_the_attributes_of_the_wrapped_one():
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


def test_wrapping_a_processed_sampler_concatenates_the_processors():
    first, second = RepetitionPenalty(1.3), MinP(0.3)
    inner = keras_hub.samplers.GreedySampler()
    sampler = ProcessedSampler(ProcessedSampler(inner, [second]), [first])
    assert sampler.sampler is inner
    assert sampler.processors == (first, second)


# --- samplers by name ------------------------------------------------------------------------


def test_samplers_are_created_by_name_with_their_options():
    hot = {"temperature": 1.7}
    given = {"k": 3, "p": 0.7, "alpha": 0.3, "num_beams": 5, "length_penalty": 0.6, "seed": 11}
    given |= hot
    made = {
        name: make_sampler(
            name,
            **{option: value for option, value in given.items() if option in _OPTIONS[name]},
        )
        for name in SAMPLERS
    }
    configs = {name: (type(made[name]).__name__, made[name].get_config()) for name in SAMPLERS}
    beams = {
        **{"num_beams": 5, "num_return_sequences": 1, "length_penalty": 0.6},
        **{"length_offset": 0.0, "early_stopping": "never"},
    }
    assert configs == {
        "greedy": ("GreedySampler", {"temperature": 1.0}),
        "top_k": ("ProcessedSampler", hot | {"seed": 11}),
        "top_p": ("ProcessedSampler", hot | {"seed": 11}),
        "random": ("InverseSampler", hot | {"seed": 11}),
        "contrastive": ("ContrastiveSampler", hot | {"k": 3, "alpha": 0.3}),
        "beam": ("BeamSearch", hot | beams),
    }
    assert repr(made["top_k"].processors) == "(TopK(3),)"
    assert repr(made["top_p"].processors) == "(TopK(3), TopP(0.7, temperature=1.7))"
    assert {type(made[name].sampler) for name in ("top_k", "top_p")} == {type(made["random"])}


def test_instances_are_wrapped_only_for_processors():
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
        (
            {"sampler": "nucleus"},
            r"'nucleus' \(did you mean 'top_p'\?\); allowed: greedy, top_k",
        ),
        ({"sampler": None}, "unknown sampler None"),
        ({"sampler": ["greedy"]}, "unknown sampler"),
        ({"temperature": 0}, "temperature=0: must be above 0; for deterministic output use greedy"),
        ({"temperature": 1e39}, r"temperature=1e\+39: must be at most 3e\+38"),
        ({"repetition_penalty": 10**400}, "must be at most 3e"),
        ({"temperature": -0.1}, r"temperature=-0\.1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"temperature": True}, "temperature=True"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"k": 0}, "k=0: must be an integer, 1 or more"),
        ({"k": 2.5}, r"k=2\.5"),
        ({"p": 0.0}, r"p=0\.0: must be above 0"),
        ({"p": 1.5}, r"p=1\.5"),
        ({"p": "all"}, "p='all'"),
        ({"alpha": -0.1}, r"alpha=-0\.1: must be 0 to 1"),
        ({"alpha": 1.1}, r"alpha=1\.1"),
        ({"num_beams": 0}, "num_beams=0"),
        ({"num_beams": True}, "num_beams=True"),
        ({"length_penalty": -1}, "length_penalty=-1: must be 0 to 10"),
        ({"length_penalty": 11}, "length_penalty=11"),
        ({"length_offset": -1}, "length_offset=-1: must be 0 to 1000"),
        ({"early_stopping": "always"}, "early_stopping='always': must be 'never', False or True"),
        ({"early_stopping": 1}, "early_stopping=1: must be"),
        ({"num_return_sequences": 0}, "num_return_sequences=0: must be an integer, 1 or more"),
        ({"num_return_sequences": 2}, "num_return_sequences=2: must be 1 with sampler 'greedy'"),
        (
            {"sampler": "beam", "num_beams": 3, "num_return_sequences": 5},
            "num_return_sequences=5: must not be above num_beams=3",
        ),
        ({"repetition_penalty": 0}, "repetition_penalty=0: must be above 0"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty=nan"),
        ({"min_p": 1}, "min_p=1: must be at least 0 and below 1"),
        ({"min_p": -0.1}, r"min_p=-0\.1"),
        ({"seed": -1}, "seed=-1: must be an integer, 0 to 4294967295"),
        ({"seed": "x"}, "seed='x'"),
    ],
)
def test_bad_options_raise_with_value_and_allowed_values(options, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(**options)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_option_that_a_sampler_does_not_use_raises_and_names_those_that_do(sampler):
    users = {"k": {"top_k", "top_p", "contrastive"}, "p": {"top_p"}, "num_beams": {"beam"}}
    for name, of in users.items():
        if sampler in of:
            make_sampler(sampler, **{name: 1})
            continue
        with pytest.raises(ValueError, match=f"{name} is an option of .*, and .* {sampler}") as e:
            make_sampler(sampler, **{name: 1})
        assert of == set(re.findall(r"\w+", str(e.value))) & set(SAMPLERS) - {sampler}
    make_sampler(sampler, seed=3, num_return_sequences=1, min_p=0.1)  # of all


def test_an_option_of_a_sampler_that_exists_raises():
    with pytest.raises(ValueError, match=r"temperature has no effect on .*TopK"):
        make_sampler(keras_hub.samplers.TopKSampler(k=3), temperature=2.0)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("temprature", "temperature"), ("top_k", "k"), ("num_beam", "num_beams"), ("Seed", "seed")],
)
def test_a_misspelt_option_gets_the_closest_one(given, meant):
    with pytest.raises(TypeError, match=rf"make_sampler: .*'{given}' \(did you mean '{meant}'"):
        make_sampler("top_k", **{given: 3})


def test_an_instance_that_returns_one_sequence_cannot_return_two():
    with pytest.raises(ValueError, match="num_return_sequences=2: must be 1 with sampler"):
        make_sampler(keras_hub.samplers.GreedySampler(), num_return_sequences=2)


def test_speculative_sampling_raises():
    with pytest.raises(ValueError, match="with a draft model is not supported; allowed: greedy"):
        make_sampler(keras_hub.samplers.SpeculativeSampler())


@pytest.mark.parametrize("value", [np.int32(3), np.int64(3), 3])
def test_integers_of_every_type_are_counts(value):
    check_count("k", value, most=3)
    with pytest.raises(ValueError, match="must be an integer, 1 to 2"):
        check_count("k", value, most=2)
    with pytest.raises(ValueError, match="k="):
        check_count("k", np.float32(value))


def test_importing_samplers_imports_no_numeric_library():
    code = (
        "import sys, functional_models.samplers\n"
        "print(sorted({'numpy', 'keras', 'keras_hub', 'tensorflow', 'jax', 'torch'}"
        " & set(sys.modules)))"
    )
    assert run_python(code).strip() == "[]"
