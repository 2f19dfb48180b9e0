"""Properties of models that `plots.check` decides by running them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import plots
from plots.checking.visibility import frontier, visibility

TOKENS, WIDTH, HEADS = 23, 6, 2


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(1)


def ids(name=None, length=None):
    return keras.Input((length,), dtype="int32", name=name)


def embedded(tokens, mask_zero=False, positions=True):
    x = layers.Embedding(TOKENS, WIDTH, mask_zero=mask_zero)(tokens)
    if positions:
        x = x + layers.Embedding(64, WIDTH)(ops.cumsum(ops.ones_like(tokens), axis=1) - 1)
    return x


def attended(x, memory=None, **options):
    memory = x if memory is None else memory
    return x + layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(x, memory, **options)


def causal(x):
    return attended(x, use_causal_mask=True)


def tagger(*sublayers, length=None, positions=True, name=None):
    """Return a model from tokens to a score for each token of the vocabulary."""
    tokens = ids(length=length)
    x = embedded(tokens, positions=positions)
    for sublayer in sublayers:
        x = sublayer(x)
    return keras.Model(tokens, layers.Dense(TOKENS)(x), name=name)


def found(model, name, kinds=("finding", "remark")):
    return [c for c in plots.check(model) if c.property == name and c.note.kind in kinds]


def verdicts(model, name):
    return [c.verdict for c in plots.check(model) if c.property == name]


def by_hand(masked, length):
    """Return an attention made of operations, with `masked` applied to its scores."""

    def attend(x):
        query, key, value = (layers.Dense(WIDTH)(x) for _ in range(3))
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / WIDTH**0.5
        return x + ops.matmul(ops.softmax(masked(scores)), value)

    triangle = np.tri(length, dtype="float32")[None]
    return attend, triangle


# Causality ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (np.tri(7), "causal"),
        (np.tri(7, k=-1), "causal"),
        (np.eye(7), "itself"),
        (np.ones((7, 7)), "all"),
        (np.tri(7, k=1), "ahead"),
        (np.tri(7).T, "future"),
        (np.maximum(np.tri(7).T, np.arange(7)[:, None] == 6), "future"),  # one row fully masked
        (np.maximum(np.tri(7), np.arange(7)[None] < 3), "prefix"),
        (np.maximum(np.tri(7), np.arange(7)[:, None] == 0), "first"),
        (np.tri(7, k=1) * np.tri(7, k=1).T, "window"),
        (np.kron(np.tri(3), np.ones((2, 2))), "some"),
    ],
)
def test_matrices_of_dependences_are_named(matrix, expected):
    assert visibility(matrix.astype(bool), range(len(matrix))).kind == expected


@pytest.mark.parametrize(
    ("matrix", "length", "expected"),
    [
        (np.tri(14, 13, k=-1), 13, "i - 1"),
        (np.tri(11, 13, k=2), 13, "i + 2"),
        (np.tri(24, 24)[::2], 24, "2i"),
        (np.tri(13, 13).repeat(2, axis=0), 13, "i // 2"),
        (np.ones((14, 13)), 13, None),
        (np.tri(14, 13).T[:, ::-1].T, 13, None),
        (np.zeros((14, 13)), 13, None),
    ],
)
def test_the_last_position_that_outputs_of_another_length_see_is_found(matrix, length, expected):
    found = frontier(matrix.astype(bool), range(length), length)
    assert (found and found.text) == expected


def test_the_dependences_of_a_causal_model_are_shown_and_without_a_finding():
    model = tagger(causal, causal)
    checks = plots.check(model)
    assert {c.note.kind for c in checks} == {"description"}
    assert verdicts(model, "causality") == ["causal"]


LEAKS = {
    "inverted mask": lambda n: (
        lambda x: attended(x, attention_mask=np.triu(np.ones((1, n, n), bool), 1))
    ),
    "off by one": lambda n: lambda x: attended(x, attention_mask=np.tri(n, k=1, dtype=bool)[None]),
    "convolution": lambda n: lambda x: x + layers.Conv1D(WIDTH, 3, padding="same")(x),
    "mean": lambda n: lambda x: x + ops.mean(x, axis=1, keepdims=True),
    "norm": lambda n: lambda x: layers.LayerNormalization(axis=(1, 2))(x),
    "maximum": lambda n: lambda x: x + ops.max(x, axis=1, keepdims=True),
    "attention": lambda n: attended,
    "reversed": lambda n: lambda x: ops.flip(x, axis=1),
    "recurrence": lambda n: layers.Bidirectional(layers.GRU(WIDTH // 2, return_sequences=True)),
}


@pytest.mark.slow
@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("first", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_leak_beside_causal_attention_is_found_where_it_is(leak, first):
    sublayers = [LEAKS[leak](11), causal]
    model = tagger(*(sublayers if first else sublayers[::-1]), length=11)
    (check,) = found(model, "causality")
    assert check.note.kind == "finding"
    classes = {plots.read_graph(model).node(place).class_name for place in check.note.about}
    expected = {
        "convolution": "Conv1D",
        "mean": "Mean",
        "maximum": "Max",
        "norm": "LayerNormalization",
        "reversed": "Flip",
        "recurrence": "Bidirectional",
    }
    assert classes == {expected.get(leak, "MultiHeadAttention")}


def test_a_witness_shows_the_leak_in_the_model_itself():
    model = tagger(causal, attended)
    model.layers[-1].bias.assign(np.linspace(1, 2, TOKENS))  # zero weights are replaced in runs
    for layer in model.layers:
        for weight in layer.trainable_weights:
            if not np.any(keras.ops.convert_to_numpy(weight)):
                weight.assign(0.1 * np.random.default_rng(1).standard_normal(weight.shape))
    (check,) = found(model, "causality")
    witness = check.witness
    assert witness.exact
    before, after = (
        keras.ops.convert_to_numpy(model(x)) for x in (witness.inputs, witness.changed)
    )
    row, position, _ = witness.moved
    changed = np.argwhere(witness.inputs != witness.changed)
    assert changed.tolist() == [[row, changed[0, 1]]]
    assert changed[0, 1] > position
    assert abs(after - before)[witness.moved] == pytest.approx(witness.by, rel=1e-3)


@pytest.mark.parametrize(
    "masked",
    [
        lambda s, t: ops.where(t > 0, s, 1e-9),
        lambda s, t: s * t,
        lambda s, t: s + (1 - t) * -1.0,
        lambda s, t: s + t * -1e9,
    ],
    ids=["1e-9", "product", "weak", "inverted"],
)
def test_masks_that_do_not_mask_are_told_from_those_that_do(masked):
    attend, triangle = by_hand(lambda s: masked(s, triangle), 11)
    (check,) = found(tagger(attend, length=11), "causality")
    assert check.note.kind == "finding"


@pytest.mark.parametrize(
    "masked", [lambda s, t: ops.where(t > 0, s, -1e9), lambda s, t: s + (1 - t) * -1e4]
)
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_masks_that_mask_are_believed_in_every_precision(masked, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        attend, triangle = by_hand(lambda s: masked(s, ops.cast(triangle, s.dtype)), 11)
        model = tagger(attend, length=11)
    finally:
        keras.config.set_dtype_policy(before)
    assert not found(model, "causality")
    assert "causal" in verdicts(model, "causality")


def test_a_strict_mask_whose_first_row_masks_all_leaks_at_the_first_position():
    mask = np.tri(11, k=-1, dtype=bool)[None]
    (check,) = found(tagger(lambda x: attended(x, attention_mask=mask), length=11), "causality")
    assert check.note.kind == "finding"
    assert check.verdict == "first"


def test_a_prefix_is_no_finding_and_an_encoder_is_none():
    prefix = np.maximum(np.tri(11), np.arange(11)[None] < 4).astype(bool)[None]
    model = tagger(lambda x: attended(x, attention_mask=prefix), length=11, name="lm")
    assert not found(model, "causality")
    assert verdicts(model, "causality") == ["prefix"]
    tokens = ids()
    encoder = keras.Model(tokens, layers.Dense(5)(attended(embedded(tokens))))
    assert not found(encoder, "causality")
    assert verdicts(encoder, "causality") == ["all"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("causal_lm", "finding"),
        ("mini_gpt", "finding"),
        ("language_model", "finding"),
        ("bert", "remark"),
        ("masked_language_model", "remark"),
        ("non_autoregressive", "remark"),
        ("gpt_encoder", "remark"),
        (None, "remark"),
    ],
)
def test_a_name_is_a_claim_that_running_refutes(name, kind):
    (check,) = found(tagger(attended, name=name), "causality")
    assert check.note.kind == kind


def test_batch_statistics_leak_in_training_only():
    model = tagger(causal, layers.BatchNormalization())
    (check,) = found(model, "causality")
    assert "In training" in check.note.text
    assert check.witness.training
    assert "causal" in verdicts(model, "causality")


def translator(decoder, cross=attended):
    source, target = ids("source"), ids("target")
    memory = attended(embedded(source))
    x = cross(decoder(embedded(target)), memory)
    return keras.Model({"source": source, "target": target}, {"scores": layers.Dense(TOKENS)(x)})


def test_a_decoder_sees_all_of_the_source_and_no_later_target():
    model = translator(causal)
    assert not found(model, "causality")
    assert verdicts(model, "causality") == ["causal"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "name"),
    [
        (lambda: translator(attended), "target"),
        # The sum of memory and attention has the positions of the source.
        (lambda: translator(causal, lambda x, memory: attended(memory, x)), "source"),
        (lambda: translator(layers.Bidirectional(layers.LSTM(3, return_sequences=True))), "target"),
    ],
    ids=["no mask", "swapped", "bidirectional"],
)
def test_a_decoder_that_sees_later_targets_is_found(model, name):
    (check,) = found(model(), "causality")
    assert check.note.kind == "finding"
    assert repr(name) in check.note.text


@pytest.mark.parametrize(("second", "kinds"), [(attended, ["finding"]), (causal, [])])
def test_attention_to_the_future_after_a_one_way_recurrence_is_found(second, kinds):
    recurrent = layers.SimpleRNN(WIDTH, return_sequences=True)
    checks = found(tagger(recurrent, second, length=5, positions=False), "causality")
    assert [check.note.kind for check in checks] == kinds
    assert all(recurrent.name[:10] in check.note.text for check in checks)


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
