"""Properties of models that `plots.check` decides by running them, besides causality."""

import keras
import numpy as np
import pytest
from checked_models import (
    HEADS,
    TOKENS,
    WIDTH,
    attended,
    causal,
    embedded,
    found,
    ids,
    tagger,
    verdicts,
)
from keras import layers, ops

import plots
from plots.checking import trials


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(1)


# Padding ------------------------------------------------------------------------------------------


def padded(attend, pool=False, mask_zero=False, between=lambda x: x):
    tokens = ids()
    x = between(embedded(tokens, mask_zero, positions=False))
    x = attend(x, ops.not_equal(tokens, 0)) if attend else x
    return keras.Model(tokens, layers.Dense(5)(layers.GlobalAveragePooling1D()(x) if pool else x))


PADDED = {
    "keys": (padded, lambda x, real: attended(x, attention_mask=real[:, None]), False),
    "queries": (padded, lambda x, real: attended(x, attention_mask=real[:, :, None]), True),
    "inverted": (
        padded,
        lambda x, real: attended(x, attention_mask=ops.logical_not(real)[:, None]),
        True,
    ),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("case", PADDED)
def test_padding_matters_unless_keys_are_masked(case):
    make, attend, matters = PADDED[case]
    assert verdicts(make(attend), "padding") == (["seen"] if matters else ["ignored"])


@pytest.mark.parametrize(("between", "kinds"), [(ops.tanh, ["finding"]), (layers.ReLU(), [])])
def test_a_mask_that_is_lost_before_pooling_is_found(between, kinds):
    model = padded(None, pool=True, mask_zero=True, between=between)
    checks = found(model, "padding")
    assert [c.note.kind for c in checks] == kinds
    assert all("global_average" in place for c in checks for place in c.note.about)


def test_a_mask_that_is_an_input_is_tried():
    tokens, mask = ids("tokens"), keras.Input((None,), dtype="bool", name="padding_mask")
    for used in (True, False):
        x = embedded(tokens)
        x = attended(x, attention_mask=mask[:, None]) if used else attended(x)
        pooled = ops.sum(x * ops.cast(mask, "float32")[..., None], axis=1)
        model = keras.Model([tokens, mask], layers.Dense(3)(pooled))
        assert verdicts(model, "padding") == ["ignored" if used else "seen"]


def test_the_witness_of_more_padding_is_two_batches_for_the_model_itself():
    tokens = ids()
    real = ops.cast(ops.not_equal(tokens, 0), "float32")[..., None]
    model = keras.Model(tokens, layers.Dense(3)(ops.mean(embedded(tokens) * real, axis=1)))
    (check,) = found(model, "padding")
    assert "mean#1" in check.note.about
    witness = check.witness
    assert witness.exact
    shorter, longer = witness.inputs, witness.changed
    np.testing.assert_array_equal(longer[:, : shorter.shape[1]], shorter)
    assert not longer[:, shorter.shape[1] :].any()
    before, after = (keras.ops.convert_to_numpy(model(x)) for x in (shorter, longer))
    assert abs(after - before)[witness.moved] == pytest.approx(witness.by, rel=1e-3)


# Order and batch ----------------------------------------------------------------------------------


def test_an_encoder_of_tokens_without_positions_gets_a_remark():
    tokens = ids()
    for positions in (True, False):
        pooled = layers.GlobalAveragePooling1D()(attended(embedded(tokens, positions=positions)))
        checks = found(keras.Model(tokens, layers.Dense(3)(pooled)), "order")
        assert [c.note.kind for c in checks] == ([] if positions else ["remark"])


def test_positions_that_are_all_the_same_are_found():
    tokens = ids()
    index = ops.cumsum(ops.ones_like(tokens)[:, :, None], axis=2)[:, :, 0]
    x = layers.Embedding(TOKENS, WIDTH)(tokens) + layers.Embedding(64, WIDTH)(index)
    model = keras.Model(tokens, layers.Dense(3)(layers.GlobalMaxPooling1D()(attended(x))))
    (check,) = found(model, "order")
    assert check.note.kind == "finding"
    assert check.note.about == ("embedding#2",)


def test_a_causal_model_needs_no_positions_and_a_set_of_vectors_may_need_none():
    assert verdicts(tagger(causal, positions=False), "order") == ["known"]
    vectors = keras.Input((7, 3))
    model = keras.Model(vectors, layers.Dense(2)(attended(layers.Dense(WIDTH)(vectors))))
    (check,) = found(model, "order")
    assert (check.note.kind, check.verdict) == ("remark", "unknown")
    assert "A set of points needs none; a series of steps does." in check.note.text


def test_samples_that_are_counted_or_mixed_are_found():
    tokens = ids()
    index = ops.cumsum(ops.ones_like(tokens), axis=0) - 1
    x = layers.Embedding(TOKENS, WIDTH)(tokens) + layers.Embedding(64, WIDTH)(index)
    (counted,) = found(keras.Model(tokens, layers.Dense(3)(attended(x))), "batch")
    assert counted.verdict == "counted"
    assert counted.note.about == ("cumsum#1",)
    turned = ops.transpose(attended(ops.transpose(embedded(tokens), (1, 0, 2))), (1, 0, 2))
    (mixed,) = found(keras.Model(tokens, layers.Dense(3)(turned)), "batch")
    assert mixed.verdict == "mixed"
    assert mixed.note.kind == "finding"


# Weights and numbers ------------------------------------------------------------------------------


def test_weights_behind_a_softmax_of_one_score_are_dead():
    for axis, kinds in ((-1, ["finding"]), (1, [])):
        series = keras.Input((7, 3))
        weights = layers.Softmax(axis=axis)(layers.Dense(1)(series))
        model = keras.Model(series, layers.Dense(2)(ops.sum(weights * series, axis=1)))
        checks = found(model, "dead weights")
        assert [c.note.kind for c in checks] == kinds
        assert all("dense#1" in c.note.about for c in checks)
    # Also as an activation, and where the mask of the tokens goes with the weights.
    tokens = ids()
    x = layers.Embedding(TOKENS, WIDTH, mask_zero=True)(tokens)
    weights = layers.Dense(1, activation="softmax")(x)
    model = keras.Model(tokens, layers.Dense(3)(weights * x))
    (check,) = found(model, "dead weights")
    assert check.note.kind == "finding"
    assert "softmax over an axis of size 1 is always 1" in check.note.text


def test_gates_that_are_zero_hide_nothing_and_units_that_are_off_are_no_mistake():
    tokens = ids()
    gated = layers.Dense(WIDTH, kernel_initializer="zeros")(attended(embedded(tokens)))
    model = keras.Model(tokens, layers.Dense(3)(embedded(tokens) + gated))
    assert verdicts(model, "dead weights") == ["alive"]
    assert verdicts(model, "causality") == ["all"]
    x = keras.Input((3,))
    off = layers.ReLU()(layers.Dense(4, kernel_initializer="ones")(ops.abs(x) * -1.0))
    assert not found(keras.Model(x, layers.Dense(2)(off)), "dead weights")


@pytest.mark.slow
def test_shared_layers_are_found_where_no_design_shares_them():
    def block(x, norm, attention):
        return norm(x + attention(x, x))

    def stack(share_norm, share_attention):
        x = keras.Input((7, WIDTH))
        norm, attention = layers.LayerNormalization(), layers.MultiHeadAttention(HEADS, 3)
        y = x
        for _ in range(3):
            own = norm if share_norm else layers.LayerNormalization()
            y = block(y, own, attention if share_attention else layers.MultiHeadAttention(HEADS, 3))
        return keras.Model(x, y)

    kinds = {
        case: [c.note.kind for c in found(stack(*case), "sharing")]
        for case in ((True, False), (True, True), (False, True), (False, False))
    }
    assert kinds == {
        (True, False): ["finding"],
        (True, True): ["remark"],
        (False, True): ["remark"],
        (False, False): [],
    }


def test_one_layer_for_self_and_cross_attention_is_found():
    attention = layers.MultiHeadAttention(HEADS, 3)
    source, target = ids("source"), ids("target")
    x = embedded(target)
    x = x + attention(x, x, use_causal_mask=True)
    x = x + attention(x, embedded(source))
    (check,) = found(keras.Model([source, target], layers.Dense(TOKENS)(x)), "sharing")
    assert check.note.kind == "finding"


def test_calls_of_one_layer_that_differ_in_their_mask_are_not_said_to_be_equal():
    attention = layers.MultiHeadAttention(HEADS, 3)
    x = embedded(tokens := ids())
    both = attention(x, x) + attention(x, x, use_causal_mask=True)
    (check,) = found(keras.Model(tokens, layers.Dense(TOKENS)(both)), "sharing")
    assert "with a causal mask and without" in check.note.text


def test_the_first_call_that_returns_no_number_is_named():
    x = keras.Input((5,))
    model = keras.Model(x, layers.Dense(3)(ops.sqrt(layers.Dense(4)(x))))
    (check,) = found(model, "numbers")
    assert check.note.about == ("sqrt#1",)


# The model, and the diagnosis ---------------------------------------------------------------------


def test_weights_and_states_stay_as_they_are():
    x = layers.Dropout(0.3, seed=5)(embedded(tokens := ids()))
    x = layers.BatchNormalization()(causal(x))
    model = keras.Model(tokens, layers.Dense(TOKENS, kernel_initializer="zeros")(x))
    before = [np.array(v) for v in model.variables]
    assert any(v.name == "seed_generator_state" for v in model.variables)
    plots.check(model)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, np.array(variable))


def test_a_fixed_batch_and_an_image_are_run():
    tokens = keras.Input(batch_shape=(3, 11), dtype="int32")
    model = keras.Model(tokens, layers.Dense(TOKENS)(causal(embedded(tokens))))
    assert verdicts(model, "causality") == ["causal"]
    image = keras.Input((9, 9, 3))
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(image))
    kinds = {c.note.kind for c in plots.check(keras.Model(image, layers.Dense(2)(pooled)))}
    assert kinds == {"description"}


def test_a_model_with_only_the_shapes_of_its_weights_is_refused_and_described():
    with keras.StatelessScope(initialize_variables=False):
        model = tagger(causal)
    with pytest.raises(ValueError, match="no weights, only their shapes"):
        plots.check(model)
    assert "Nothing was run" in plots.diagnosis_text(model)


def test_a_diagnosis_of_a_model_says_what_running_shows():
    class CausalMask(layers.Layer):
        def call(self, x):
            return ops.ones((1, 11, 11), "bool")

    model = tagger(lambda x: attended(x, attention_mask=CausalMask()(x)), length=11)
    (finding,) = plots.findings(model)
    assert "CausalMask" in finding.text or "causal_mask" in finding.text
    text = plots.diagnosis_text(model)
    assert " causal self-attention" not in text
    assert "sees all positions" in " ".join(text.split())
    good = tagger(causal, layers.LayerNormalization(), causal, layers.LayerNormalization())
    assert plots.findings(good) == ()
    graph = plots.diagnose(good)
    assert "(causal)" in plots.diagnosis_text(graph)
    assert not any(note.kind == "sees" for note in graph.notes)
    assert plots.diagnose(plots.read_graph(good)) == plots.diagnose(plots.read_graph(good))


def test_a_model_is_read_as_often_for_many_attentions_as_for_one(monkeypatch):
    def reads(blocks):
        tokens = keras.Input((7,), dtype="int32")
        x = layers.Embedding(23, 6)(tokens)
        for _ in range(blocks):
            x = x + layers.MultiHeadAttention(2, 3)(x, x)
        read.clear()
        plots.check(keras.Model(tokens, layers.Dense(3)(x)))
        return len(read)

    def counted(*args, **options):
        read.append(args)
        return original(*args, **options)

    read, original = [], trials.read_calls
    monkeypatch.setattr(trials, "read_calls", counted)
    assert reads(1) == reads(5) > 0
