"""What the evaluation harness needs and can be tested without it; `tests/peers` runs it."""

import sys

import numpy as np
import pytest
from conflicting_specs import EXPERTS, LONGROPE
from small_models import logits_of
from small_text_models import text_model

import functional_models as fm
from functional_models.harness_settings import Settings, read_settings
from functional_models.row_scores import Row, RowScorer, in_batches

# --- rows of several lengths -------------------------------------------------------------------

LENGTH = 37
"""The maximum length of the models, above two buckets of lengths."""

BORDER = 19
MODELS = {
    "learned": {},
    "rotary": {"hidden_dim": 12, "positions": "rotary", "norm": "rms"},
    "padding that is masked": {"pad_token_id": 0, "mask_target_padding": True},
    "experts": {**EXPERTS, "expert_dim": 5, "capacity_factor": 0.5},
    "gated deltas": {"mixer": "gated_delta", "positions": "none"},
    "windows": {"attention_window": 5},
    "longrope": {"hidden_dim": 12, **LONGROPE, "rotary_original_length": BORDER},
    "prefixes": {"prefix_lm": True, "num_layers": 2},
}


def model_of(name):
    lm = text_model("decoder_only", **{"max_sequence_length": LENGTH, **MODELS[name]})
    rng = np.random.default_rng(3)
    for weight in lm.model.trainable_weights:  # so that predictions differ from place to place
        weight.assign(rng.normal(size=weight.shape, scale=0.7))
    return lm


def reference(lm, context, continuation):
    """Return the log-likelihood of a continuation, and whether it is greedy, by NumPy."""
    tokens = np.array([*context, *continuation], "int32")
    inputs = tokens[None, :-1]
    if lm.spec.prefix_lm:
        inputs = {"tokens": inputs, "prefix_length": np.array([len(context)], "int32")}
    logits = logits_of(lm.model, inputs)[0, len(context) - 1 :].astype("float64")
    chosen = logits[np.arange(len(continuation)), continuation]
    totals = np.log(np.exp(logits).sum(axis=-1))
    return (chosen - totals).sum(), bool((logits.argmax(axis=-1) == continuation).all())


def random_pair(rng):
    length = rng.integers(2, LENGTH + 2)
    tokens = rng.integers(1, 256, length)
    cut = rng.integers(1, length)
    return tokens[:cut].tolist(), tokens[cut:].tolist()


def row_of(lm, context, continuation):
    tokens = [*context, *continuation[:-1]]
    return Row(tuple(tokens), len(context) if lm.spec.prefix_lm else 0)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", MODELS)
def test_rows_in_batches_have_the_scores_of_each_alone(name):
    lm = model_of(name)
    rng = np.random.default_rng(5)
    pairs = [random_pair(rng) for _ in range(11)]
    # The continuation that is greedy, for which the flag is true.
    context, (first, *_) = pairs[0]
    likeliest = RowScorer(lm.model, lm.spec)([row_of(lm, context, [first])], 1)[0].likeliest[-1]
    pairs.append((context, [int(likeliest)]))
    expected = [reference(lm, *pair) for pair in pairs]
    assert [greedy for _, greedy in expected] == [False] * 11 + [True]
    scorer = RowScorer(lm.model, lm.spec)
    rows = {number: row_of(lm, *pair) for number, pair in enumerate(pairs)}
    borders = lm.spec.length_borders
    for batch in in_batches(rows, lambda number: len(rows[number].tokens), 5, borders):
        found = scorer([rows[number] for number in batch], 5)
        for number, scores in zip(batch, found, strict=True):
            total, greedy = scores.of(pairs[number][1])
            assert total == pytest.approx(expected[number][0], rel=2e-5)
            assert greedy == expected[number][1]


def test_of_equal_logits_the_first_token_is_greedy():
    lm = text_model("decoder_only")
    for weight in lm.model.trainable_weights:
        weight.assign(np.zeros(weight.shape))
    (scores,) = RowScorer(lm.model, lm.spec)([Row((5, 7, 11))], 1)
    assert scores.of([0]) == (pytest.approx(-np.log(256)), True)
    assert scores.of([1]) == (pytest.approx(-np.log(256)), False)


@pytest.mark.parametrize("size", [1, 3, 20])
def test_batches_hold_every_item_once_on_one_side_of_a_border(size):
    lengths = np.random.default_rng(7).integers(1, 40, 17)
    batches = list(in_batches(range(17), lambda i: lengths[i], size, {BORDER, 29}))
    assert sorted(i for batch in batches for i in batch) == list(range(17))
    assert max(map(len, batches)) <= size
    longest = [max(lengths[batch]) for batch in batches]
    assert longest == sorted(longest, reverse=True)
    for batch in batches:
        for border in (BORDER, 29):
            assert len({bool(lengths[i] > border) for i in batch}) == 1


# --- settings of generation --------------------------------------------------------------------

OF_TASKS = {
    "nothing": ({}, ((), 7, "greedy", {})),
    "texts": ({"until": ["\n", "Q:"], "max_gen_toks": 11}, (("\n", "Q:"), 11, "greedy", {})),
    "a text": ({"until": "\n", "max_new_tokens": 5}, (("\n",), 5, "greedy", {})),
    "no texts": ({"until": None, "do_sample": None}, ((), 7, "greedy", {})),
    "the first limit": ({"max_tokens": 3, "max_new_tokens": 5}, ((), 5, "greedy", {})),
    "a temperature": ({"temperature": 0.7}, ((), 7, "random", {"temperature": 0.7})),
    "no temperature": ({"do_sample": True}, ((), 7, "random", {"temperature": 1.0})),
    "no draws": ({"do_sample": False, "temperature": 1, "top_p": 0.9}, ((), 7, "greedy", {})),
    "a temperature of 0": ({"temperature": 0.0, "num_beams": 1}, ((), 7, "greedy", {})),
    "top p": (
        {"temperature": 0.2, "top_p": 0.95, "top_k": 0},
        ((), 7, "top_p", {"temperature": 0.2, "p": 0.95}),
    ),
    "top k": (
        {"do_sample": True, "temperature": 0.5, "top_k": 13, "top_p": 1.0},
        ((), 7, "top_k", {"temperature": 0.5, "k": 13}),
    ),
    "both": (
        {"temperature": 0.5, "top_k": 13, "top_p": 0.5},
        ((), 7, "top_p", {"temperature": 0.5, "k": 13, "p": 0.5}),
    ),
}


@pytest.mark.parametrize("name", OF_TASKS)
def test_settings_of_tasks_are_samplers_here(name):
    given, (until, limit, sampler, options) = OF_TASKS[name]
    assert read_settings(given, 19, 7) == Settings(until, limit, sampler, tuple(options.items()))
    fm.make_sampler(sampler, **options)  # takes the options


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"untill": ["\n"]}, "unknown option of generation 'untill' .did you mean 'until'"),
        ({"length_penalty": 2}, "unknown option of generation 'length_penalty'"),
        ({"num_beams": 4}, "num_beams=4: the harness generates with 1 only"),
        ({"until": 5}, "until=5: must be a text, or a list of texts"),
        ({"until": ["a", 5]}, "until=.'a', 5.: must be a text"),
        ({"max_gen_toks": 0}, "max_gen_toks=0: must be an integer, 1 or more"),
        ({"max_gen_toks": 19}, "max_gen_toks=19: with max_sequence_length=19, at most 18"),
        ({"do_sample": "False"}, "do_sample='False': must be true or false"),
        ({"do_sample": True, "temperature": 0.0}, "temperature=0.0: must be above 0"),
        ({"temperature": "hot"}, "temperature='hot': must be above 0"),
        ({"temperature": 0.5, "top_p": 1.5}, "p=1.5: must be above 0 and at most 1"),
        ({"temperature": 0.5, "top_k": -1}, "top_k=-1: must be an integer"),
    ],
)
def test_other_settings_are_refused_by_name(given, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_settings(given, 19, 7)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "cut"), [("one\ntwo", "one"), ("one END\n", "one "), ("one", "one"), ("\n", "")]
)
def test_a_text_ends_before_its_first_stop(text, cut):
    assert Settings(("\n", "", "END"), 7, "greedy", ()).cut(text) == cut


# --- errors ------------------------------------------------------------------------------------


def test_without_the_package_an_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ImportError, match=r"pip install 'functional-models\[harness\]'") as caught:
        fm.harness_model(text_model("decoder_only"))
    assert "\n" not in str(caught.value)


def test_other_models_and_sizes_are_refused():
    with pytest.raises(TypeError, match="harness_model takes a CausalLM, given Translator"):
        fm.harness_model(text_model("encoder_decoder"))
    lm = text_model("decoder_only")
    with pytest.raises(ValueError, match="batch_size=0: must be an integer, 1 or more"):
        fm.harness_model(lm, batch_size=0)
    without = fm.CausalLM.wrap(lm.spec, lm.model, {})
    with pytest.raises(ValueError, match="this model has no tokenizer"):
        fm.harness_model(without)
