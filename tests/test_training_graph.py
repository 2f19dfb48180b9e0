"""The graph of a training step against the model it trains, compiled by Keras in the usual way."""

import keras
import numpy as np
import pytest
from keras import layers

import builders
from functional_models import TokenCrossEntropy, cross_entropy
from functional_models.losses import token_metrics
from functional_models.training_graph import TrainingGraph, result_metrics

ROWS, LENGTH = 3, 7


def decoder(precision="float32", **fields):
    sizes = {"vocabulary_size": 23, "num_layers": 1, "hidden_dim": 12, "num_heads": 2}
    sizes |= {"intermediate_dim": 17, "max_sequence_length": LENGTH, "pad_token_id": None}
    keras.config.set_dtype_policy(precision)
    try:
        return builders.build_decoder_only(
            "pre_norm_learned", **{**sizes, "dropout": 0.0, **fields}
        )
    finally:
        keras.config.set_dtype_policy("float32")


def foreign():
    x = keras.Input((LENGTH,), dtype="int32")
    y = layers.Embedding(23, 5)(x)
    y = layers.Add()([y, layers.Dense(5, activation="gelu")(y)])
    return keras.Model(x, layers.Dense(23, kernel_regularizer=keras.regularizers.L2(0.1))(y))


def with_activation():
    x = keras.Input((LENGTH,), dtype="int32")
    return keras.Model(x, layers.Dense(23, activation="tanh")(layers.Embedding(23, 5)(x)))


class Doubled(layers.ReversibleEmbedding):
    def call(self, inputs, reverse=False):
        return 2 * super().call(inputs, reverse=reverse)


def tied(embedding):
    x = keras.Input((LENGTH,), dtype="int32")
    y = embedding(x)
    y = layers.Add()([y, layers.Dense(5, activation="gelu")(y)])
    return keras.Model(x, embedding(y, reverse=True))


MODELS = {
    "a subclass of a tied embedding": lambda: tied(Doubled(23, 5)),
    "a mask that the head drops": lambda: tied(layers.ReversibleEmbedding(23, 5, mask_zero=True)),
    "a mask that the head keeps": lambda: keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32"),
            layers.Embedding(23, 5, mask_zero=True),
            layers.Dense(23),
        ]
    ),
    "bias": decoder,
    "no bias": lambda: decoder(logit_bias=False, activation="gelu_tanh"),
    "tied": lambda: decoder(tie_embeddings=True, logit_bias=False),
    "tied with bias": lambda: decoder(tie_embeddings=True),
    "soft cap": lambda: decoder(logit_soft_cap=2.0),
    "narrow embedding": lambda: decoder(tie_embeddings=True, embedding_dim=5, activation="silu"),
    "foreign": foreign,
    "activation": with_activation,
    "sequential": lambda: keras.Sequential(
        [keras.Input((LENGTH,), dtype="int32"), layers.Embedding(23, 5), layers.Dense(23)]
    ),
}


def batch(seed=0):
    random = np.random.default_rng(seed)
    tokens, labels = random.integers(0, 23, (2, ROWS, LENGTH)).astype("int32")
    weights = random.integers(0, 2, (ROWS, LENGTH)).astype("float32")
    return tokens, labels, weights


def step(model, data, smoothing=0.0, **options):
    """Return the logs and the new weights of one usual step, and restore the weights."""
    before = model.get_weights()
    model.compile(
        keras.optimizers.SGD(0.1),
        TokenCrossEntropy(smoothing, z_loss=smoothing),
        weighted_metrics=token_metrics(exact_match=True),
        **options,
    )
    logs = model.train_on_batch(*data, return_dict=True)
    after = model.get_weights()
    model.set_weights(before)
    return logs, after


def step_of_graph(model, data, smoothing=0.0, fuses=True, **options):
    """Return the same for a `TrainingGraph`."""
    before = model.get_weights()
    losses = {"label_smoothing": smoothing, "z_loss": smoothing}
    graph = TrainingGraph(model, **losses, tokens=ROWS * LENGTH, exact_match=True)
    graph.fuses = graph.fuses_loss = fuses
    metrics = result_metrics(exact_match=True)
    graph.compile(keras.optimizers.SGD(0.1), weighted_metrics=metrics, **options)
    inputs, labels, weights = data
    everything = {"inputs": inputs, "labels": labels, "weights": weights}
    logs = graph.train_on_batch(everything, labels, weights, return_dict=True)
    after = model.get_weights()
    model.set_weights(before)
    return logs, after


def assert_equal_steps(found, expected, rtol=1e-5, atol=1e-6):
    assert found[0].keys() == expected[0].keys()
    for name, value in expected[0].items():
        np.testing.assert_allclose(found[0][name], value, rtol=rtol, atol=atol, err_msg=name)
    for new, old in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(new, old, rtol=rtol, atol=atol)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("name", "fuses"), [*((name, True) for name in MODELS), ("bias", False), ("tied", False)]
)
def test_a_step_equals_one_of_keras(name, fuses, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK", 5)  # 21 tokens: the last chunk is not full
    model = MODELS[name]()
    found = step_of_graph(model, batch(), 0.1, fuses, run_eagerly=True)
    assert_equal_steps(found, step(model, batch(), 0.1, run_eagerly=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [pytest.param({"jit_compile": False}, marks=pytest.mark.slow), {"jit_compile": True}],
)
def test_a_step_runs_compiled(options, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK", 5)
    model = decoder()
    expected = step(model, batch(), run_eagerly=True)
    assert_equal_steps(step_of_graph(model, batch(), **options), expected)


@pytest.mark.parametrize(
    "precision", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)]
)
def test_half_precision_rounds_a_step_no_more_than_keras_does(precision):
    # Without a kink that rounding could cross.
    full, half = (
        decoder(policy, num_layers=2, activation="gelu") for policy in ("float32", precision)
    )
    half.set_weights(full.get_weights())
    expected = step(full, batch(), run_eagerly=True)

    def error(found):
        return np.sqrt(
            sum(np.sum((new - old) ** 2) for new, old in zip(found[1], expected[1], strict=True))
        )

    ours = step_of_graph(half, batch(), run_eagerly=True)
    assert ours[0]["cross_entropy"] == pytest.approx(expected[0]["cross_entropy"], rel=0.01)
    assert error(ours) < 3 * error(step(half, batch(), run_eagerly=True))


def test_no_array_has_the_logits_of_all_tokens(monkeypatch):
    """The largest array has the tokens of a chunk, wherever the gradient is computed."""
    sizes = []
    product = cross_entropy._product

    def measured(x, table, *, transposed):
        y = product(x, table, transposed=transposed)
        sizes.append(y.shape)
        return y

    monkeypatch.setattr(cross_entropy, "_product", measured)
    monkeypatch.setattr(cross_entropy, "CHUNK", 5)
    step_of_graph(MODELS["foreign"](), batch(), run_eagerly=True)
    assert {shape[0] for shape in sizes} == {5}
    assert {shape[1] for shape in sizes} == {5, 23}  # gradients of features, and logits


def test_ties_are_right_and_only_the_first_of_them_an_exact_match():
    ids = keras.Input((2,), dtype="int32")
    model = keras.Model(ids, layers.Embedding(3, 3, weights=[np.ones((3, 3))])(ids))
    graph = TrainingGraph(model, tokens=4, exact_match=True)
    graph.compile(weighted_metrics=result_metrics(exact_match=True))
    tokens, weights = np.zeros((2, 2), "int32"), np.ones((2, 2), "float32")
    labels = np.array([[0, 0], [0, 2]], "int32")
    everything = {"inputs": tokens, "labels": labels, "weights": weights}
    logs = graph.test_on_batch(everything, labels, weights, return_dict=True)
    assert (logs["token_accuracy"], logs["exact_match"]) == (1, 0.5)


@pytest.mark.slow
def test_weights_of_tokens_are_not_rounded_to_the_precision_of_the_model():
    model = decoder("mixed_bfloat16", num_layers=2)
    tokens, labels, weights = batch()
    odd = weights + np.float32(1.001)  # bfloat16 would make it 1
    losses = [step_of_graph(model, (tokens, labels, w))[0]["loss"] for w in (odd, np.round(odd))]
    assert losses[0] != losses[1]


def test_the_layers_of_a_model_stay_as_they_are():
    model = MODELS["foreign"]()
    before = [len(layer._inbound_nodes) for layer in model.layers]
    step_of_graph(model, batch(), run_eagerly=True)
    assert [len(layer._inbound_nodes) for layer in model.layers] == before
    assert model.layers[1].output is not None
