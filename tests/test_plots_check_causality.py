"""Causality: which positions see later ones, as `plots.check` finds by running models."""

import keras
import numpy as np
import pytest
from checked_models import TOKENS, WIDTH, attended, causal, embedded, found, ids, tagger, verdicts
from keras import layers, ops

import plots
from plots.checking.visibility import frontier, visibility


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(1)


def by_hand(masked, length):
    """Return an attention made of operations, with `masked` applied to its scores."""

    def attend(x):
        query, key, value = (layers.Dense(WIDTH)(x) for _ in range(3))
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / WIDTH**0.5
        return x + ops.matmul(ops.softmax(masked(scores)), value)

    triangle = np.tri(length, dtype="float32")[None]
    return attend, triangle


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


@pytest.mark.sampled(2)
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


@pytest.mark.sampled(1)
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


@pytest.mark.sampled(3)
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


class OtherInTraining(layers.Layer):
    def call(self, x, training=None):
        return 2 * x if training else x


def dropped_in_the_order_of_values(x):
    """A dropout of rows (b t, d) that are sorted, as those of a mixture of experts."""
    rows = ops.reshape(x, (-1, WIDTH))
    order = ops.argsort(rows[:, 0])
    dropped = layers.Dropout(0.5)(ops.take(rows, order, axis=0))
    return ops.reshape(ops.take(dropped, ops.argsort(order), axis=0), (-1, 11, WIDTH))


def test_noise_that_is_drawn_in_another_order_is_no_leak():
    model = tagger(OtherInTraining(), causal, dropped_in_the_order_of_values, length=11)
    assert not found(model, "causality")
    assert verdicts(model, "causality") == ["causal"]


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
