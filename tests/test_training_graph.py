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


def decoder(**fields):
    sizes = {"vocabulary_size": 23, "num_layers": 2, "hidden_dim": 12, "num_heads": 2}
    sizes |= {"intermediate_dim": 17, "max_sequence_length": LENGTH, "pad_token_id": None}
    return builders.build_decoder_only("pre_norm_learned", **sizes, dropout=0.0, **fields)


def foreign():
    x = keras.Input((LENGTH,), dtype="int32")
    y = layers.Embedding(23, 5)(x)
    y = layers.Add()([y, layers.Dense(5, activation="gelu")(y)])
    return keras.Model(x, layers.Dense(23, kernel_regularizer=keras.regularizers.L2(0.1))(y))


def with_activation():
    x = keras.Input((LENGTH,), dtype="int32")
    return keras.Model(x, layers.Dense(23, activation="tanh")(layers.Embedding(23, 5)(x)))


MODELS = {
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
        TokenCrossEntropy(smoothing),
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
    graph = TrainingGraph(model, label_smoothing=smoothing, tokens=ROWS * LENGTH, exact_match=True)
    graph.fuses = fuses
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


@pytest.mark.parametrize("fuses", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_step_equals_one_of_keras(name, fuses, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK", 5)  # 21 tokens: the last chunk is not full
    model = MODELS[name]()
    smoothing = 0.1 if fuses else 0.0
    found = step_of_graph(model, batch(), smoothing, fuses)
    assert_equal_steps(found, step(model, batch(), smoothing))


@pytest.mark.parametrize("options", [{"run_eagerly": True}, {"jit_compile": True}])
def test_a_step_runs_eagerly_and_compiled_whole(options, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK", 5)
    model = decoder(attention_dropout=0.0)
    assert_equal_steps(step_of_graph(model, batch(), **options), step(model, batch()))
