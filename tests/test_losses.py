"""Loss and metrics compared with NumPy, weighted by token across batches."""

import keras
import numpy as np
import pytest

from functional_models.losses import (
    CrossEntropy,
    ExactMatch,
    Perplexity,
    TokenAccuracy,
    TokenCount,
    TokenCrossEntropy,
    token_metrics,
)

VOCABULARY = 31


def batch(rows, length, seed=0):
    """Return labels (b, t), logits (b, t, v), weights (b, t), with rows of unequal length."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, VOCABULARY, (rows, length), dtype="int32")
    logits = rng.normal(scale=3, size=(rows, length, VOCABULARY)).astype("float32")
    weights = np.arange(length) < rng.integers(1, length + 1, (rows, 1))
    return labels, logits, weights.astype("float32")


def reference_losses(labels, logits, smoothing=0.0):
    """Return the cross-entropy of each token with the smoothed distribution, in float64."""
    logits = logits.astype("float64")
    shifted = logits - logits.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    target = np.full(logits.shape, smoothing / logits.shape[-1])
    np.put_along_axis(
        target, labels[..., None], 1 - smoothing + smoothing / logits.shape[-1], axis=-1
    )
    return -(target * log_p).sum(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.37])
def test_the_loss_is_the_mean_over_tokens_with_weight(smoothing):
    labels, logits, weights = batch(5, 11)
    loss = TokenCrossEntropy(smoothing)(labels, logits, sample_weight=weights)
    expected = reference_losses(labels, logits, smoothing)[weights > 0].mean()
    np.testing.assert_allclose(float(loss), expected, rtol=1e-6)


def test_padding_does_not_change_the_loss():
    labels, logits, weights = batch(5, 11)
    before = float(TokenCrossEntropy(0.1)(labels, logits, sample_weight=weights))
    labels[weights == 0], logits[weights == 0] = 0, 1e4
    assert float(TokenCrossEntropy(0.1)(labels, logits, sample_weight=weights)) == before


def test_half_precision_logits_are_summed_in_full_precision():
    labels, logits, weights = batch(5, 11)
    half = keras.ops.cast(logits, "bfloat16")
    rounded = keras.ops.convert_to_numpy(keras.ops.cast(half, "float32"))
    loss = TokenCrossEntropy(0.1)(labels, half, sample_weight=weights)
    expected = reference_losses(labels, rounded, 0.1)[weights > 0].mean()
    np.testing.assert_allclose(float(loss), expected, rtol=1e-6)


def test_the_smoothed_loss_is_lowest_at_the_smoothed_distribution():
    smoothing = 0.2
    target = np.full((1, 1, 5), smoothing / 5, "float32")
    target[..., 3] += 1 - smoothing
    entropy = -(target * np.log(target)).sum()
    loss = TokenCrossEntropy(smoothing)(np.array([[3]]), np.log(target))
    np.testing.assert_allclose(float(loss), entropy, rtol=1e-6)


def test_metrics_are_means_over_the_tokens_of_all_batches():
    metrics = [*token_metrics(exact_match=True), Perplexity()]
    batches = [batch(5, 11, seed=1), batch(3, 2, seed=2), batch(7, 5, seed=3)]
    # Some rows are correct, so that accuracy and exact match are not 0.
    for labels, logits, _ in batches:
        logits[::2] = 20 * np.eye(VOCABULARY)[labels[::2]]
    batches[1][2][:] = 0  # all padding
    for labels, logits, weights in batches:
        for metric in metrics:
            metric.update_state(labels, logits, sample_weight=weights)
    found = {metric.name: float(metric.result()) for metric in metrics}

    losses, right, rows = [], [], []
    for labels, logits, weights in batches:
        counts = weights > 0
        hits = logits.argmax(-1) == labels
        losses.extend(reference_losses(labels, logits)[counts])
        right.extend(hits[counts])
        rows.extend(np.all(hits | ~counts, -1)[counts.any(-1)])
    assert found["tokens"] == len(losses)
    np.testing.assert_allclose(found["cross_entropy"], np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(found["perplexity"], np.exp(np.mean(losses)), rtol=1e-5)
    np.testing.assert_allclose(found["token_accuracy"], np.mean(right), rtol=1e-6)
    np.testing.assert_allclose(found["exact_match"], np.mean(rows), rtol=1e-6)
    assert 0 < found["exact_match"] < found["token_accuracy"] < 1


def test_exact_match_ignores_padding_only():
    labels = np.array([[3, 5, 0], [3, 5, 0]])
    logits = np.eye(VOCABULARY, dtype="float32")[[[3, 5, 7], [3, 6, 0]]]
    metric = ExactMatch()
    metric.update_state(labels, logits, sample_weight=np.array([[1, 1, 0], [1, 1, 0]]))
    assert float(metric.result()) == 0.5
    metric.reset_state()
    metric.update_state(labels, logits)
    assert float(metric.result()) == 0.0


def test_metrics_are_reset():
    labels, logits, weights = batch(5, 11)
    for metric in (ExactMatch(), TokenCount()):
        metric.update_state(labels, logits, sample_weight=weights)
        metric.reset_state()
        assert float(metric.result()) == 0


@pytest.mark.parametrize(
    "thing",
    [
        TokenCrossEntropy(0.1, 0.3),
        CrossEntropy(),
        TokenAccuracy(),
        Perplexity(),
        ExactMatch(),
        TokenCount(),
    ],
)
def test_losses_and_metrics_are_restored_from_their_config(thing):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(thing))
    assert type(again) is type(thing)
    assert again.name == thing.name
    labels, logits, weights = batch(5, 11)
    values = [float(each(labels, logits, sample_weight=weights)) for each in (thing, again)]
    assert values[0] == values[1]


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_label_smoothing_outside_of_0_to_1_raises(smoothing):
    with pytest.raises(ValueError, match="label_smoothing"):
        TokenCrossEntropy(smoothing)


def test_the_z_loss_is_the_squared_logarithm_of_the_sum_of_exponentials():
    labels, logits, weights = batch(5, 11)
    exact = logits.astype("float64")
    squares = np.log(np.exp(exact).sum(-1)) ** 2
    added = 0.3 * (squares * weights).sum() / weights.sum()
    plain, whole = (
        float(TokenCrossEntropy(z_loss=z)(labels, logits, sample_weight=weights)) for z in (0, 0.3)
    )
    assert whole - plain == pytest.approx(added, rel=1e-5)
    with pytest.raises(ValueError, match="z_loss=-1"):
        TokenCrossEntropy(z_loss=-1)
