"""Optimizers of recipes: Muon's matrices, gradient accumulation, averages of weights."""

import dataclasses

import keras
import numpy as np
import pytest
from small_text_models import corpus, text_model

import builders
import functional_models as fm
from functional_models import training
from functional_models.optimizers import MatrixMuon, hidden_matrices, make_optimizer
from functional_models.recipe import OPTIMIZERS, Recipe

RECIPE = Recipe(steps=11, report_every=4, batch_size=6, warmup_steps=4, learning_rate=0.01)


def weights_of(model):
    return {weight.path: np.array(weight.numpy()) for weight in model.trainable_weights}


def assert_close(found, expected, atol):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=atol, err_msg=name)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "muon")) for name in OPTIMIZERS]
)
def test_every_optimizer_trains_and_is_restored_from_its_config(name):
    model = text_model("decoder_only", dropout=0.0)
    rows = model.fit(
        corpus("decoder_only"), steps=24, report_every=8, optimizer=name, progress=False
    )
    losses = [row["loss"] for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.1
    made = model.model.optimizer
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    assert type(again) is type(made)
    assert again.get_config() == made.get_config()


def test_muon_trains_the_matrices_between_embedding_and_logits():
    spec = builders.TransformerSpec(
        vocabulary_size=31,
        num_layers=1,
        hidden_dim=14,
        num_heads=2,
        intermediate_dim=23,
        num_experts=3,
        num_active_experts=2,
        tie_embeddings=False,
    )
    model = builders.build(spec)
    shapes = {weight.path: tuple(weight.shape) for weight in model.trainable_weights}
    found = hidden_matrices(model)
    assert {path: found[path] for path in found if "attention" in path} == {
        "decoder.block_0.self_attention.query/kernel": (14, 14),  # (14, 2, 7)
        "decoder.block_0.self_attention.key/kernel": (14, 14),
        "decoder.block_0.self_attention.value/kernel": (14, 14),
        "decoder.block_0.self_attention.output/kernel": (14, 14),  # (2, 7, 14)
    }
    others = {path for path in shapes if len(shapes[path]) > 1} - found.keys()
    of_words = {(31, 14), (14, 31)}
    assert {shapes[path] for path in others if "bias" not in path} == {*of_words, (512, 14)}
    experts = [shape for shape in found.values() if len(shape) == 3]
    assert sorted(experts) == [(3, 14, 23), (3, 23, 14)]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_factors_scale_updates_and_decay_of_their_layers(name):
    def changes(factors):
        model = text_model("decoder_only", dropout=0.0).model
        random = np.random.default_rng(7)
        for weight in model.trainable_weights:
            weight.assign(random.normal(size=weight.shape))
        recipe = dataclasses.replace(
            RECIPE,
            optimizer=name,
            # Muon decays the new weights, and Adafactor scales by them: neither is linear.
            weight_decay=0.3 if name in ("adamw", "lion") else 0.0,
            warmup_steps=0,
            learning_rate_factors=factors,
        )
        optimizer = make_optimizer(recipe, model)
        before = weights_of(model)
        gradients = [random.normal(size=w.shape).astype("float32") for w in before.values()]
        tensors = [keras.ops.convert_to_tensor(gradient) for gradient in gradients]
        optimizer.apply(tensors, model.trainable_weights)
        return {path: after - before[path] for path, after in weights_of(model).items()}

    usual = changes("")
    found = changes("*=0.25 *attention.query=4 *norm=0.5 *attention.query=2")
    expected = {}
    for path, change in usual.items():
        layer = path.rpartition("/")[0]
        factor = 2 if layer.endswith("attention.query") else 0.5 if layer.endswith("norm") else 0.25
        expected[path] = factor * change
    assert {2, 0.5, 0.25} <= {round(np.max(expected[p]) / np.max(usual[p]), 3) for p in usual}
    assert_close(found, expected, atol=1e-6)


def test_factors_of_no_layer_are_refused():
    model = text_model("decoder_only").model
    with pytest.raises(ValueError, match=r"learning_rate_factors='\*head'.*matches no layer"):
        make_optimizer(dataclasses.replace(RECIPE, learning_rate_factors="*head=2"), model)
    for text in ("*embedding", "*embedding=0", "=2", "*norm=x", "*norm=-1", "*norm=inf"):
        with pytest.raises(ValueError, match="names with factors above 0"):
            Recipe(learning_rate_factors=text)


def orthogonalized(matrix, steps=5):
    """Return the iterate of Jordan et al. 2024 in float64."""
    x = matrix.astype("float64") / np.linalg.norm(matrix)
    x = x.T if (is_tall := x.shape[0] > x.shape[1]) else x
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if is_tall else x


@pytest.mark.parametrize(
    ("shape", "matrices"), [((11, 2, 3), (11, 6)), ((2, 3, 11), (6, 11)), ((3, 5, 7), (3, 5, 7))]
)
def test_a_step_of_muon_is_orthogonal_and_as_large_as_one_of_adam(shape, matrices):
    rng = np.random.default_rng(0)
    start, gradient = rng.standard_normal((2, *shape)).astype("float32")
    variable = keras.Variable(start, name="kernel")
    optimizer = MatrixMuon(0.1, matrices={variable.path: matrices}, weight_decay=None)
    optimizer.build([variable])
    optimizer.apply([keras.ops.convert_to_tensor(gradient)])
    # The first direction of Nesterov is 1.95 times the gradient, which no scale changes.
    each = gradient.reshape(-1, *matrices[-2:])
    scale = 0.1 * 0.2 * np.sqrt(max(matrices[-2:]))
    expected = start - scale * np.stack([orthogonalized(g) for g in each]).reshape(shape)
    np.testing.assert_allclose(variable.numpy(), expected, atol=1e-4)


def sgd(recipe, model):
    parts = recipe.gradient_accumulation
    return keras.optimizers.SGD(0.5, gradient_accumulation_steps=parts if parts > 1 else None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["decoder_only", "encoder_decoder"])
def test_a_batch_in_parts_is_trained_as_the_whole(kind, monkeypatch):
    # Adam would divide the rounding errors of gradients by their size.
    monkeypatch.setattr(training, "make_optimizer", sgd)
    recipe = dataclasses.replace(RECIPE, steps=5, report_every=3)
    found, rows = [], []
    for parts in (1, 3):
        model = text_model(kind, dropout=0.0)
        # Pairs of unequal lengths: parts have unequal numbers of labels.
        changes = {"recipe": recipe, "gradient_accumulation": parts, "progress": False}
        rows.append(model.fit(corpus(kind), **changes))
        found.append(weights_of(model.model))
        assert int(model.model.optimizer.iterations) == 5
    assert_close(found[1], found[0], atol=2e-6)
    assert [row["step"] for row in rows[1]] == [3, 5]
    for name in ("loss", "val_loss", "token_accuracy"):
        values = [[row[name] for row in each] for each in rows]
        np.testing.assert_allclose(values[1], values[0], rtol=1e-4)


class EveryStep(keras.callbacks.Callback):
    """Records the trained weights after every step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(weights_of(self.model))


@pytest.mark.slow
def test_averages_are_evaluated_saved_and_kept_and_training_goes_on_from_the_weights(tmp_path):
    plain, averaged = EveryStep(), EveryStep()
    text_model("decoder_only").fit(
        corpus("decoder_only"), recipe=RECIPE, progress=False, callbacks=(plain,)
    )
    model = text_model("decoder_only")
    changes = {"ema_decay": 0.7, "progress": False, "callbacks": (averaged,)}
    rows = model.fit(corpus("decoder_only"), recipe=RECIPE, folder=tmp_path, **changes)
    # The last report is after 3 steps of its own; no report disturbs the training.
    for one, other in zip(plain.seen, averaged.seen, strict=True):
        assert_close(other, one, atol=0)
    average = plain.seen[0]
    averages = [average]
    for weights in plain.seen[1:]:
        average = {name: 0.7 * average[name] + 0.3 * weights[name] for name in weights}
        averages.append(average)
    best = min(rows, key=lambda row: row["val_loss"])
    expected = averages[best["step"] - 1]
    assert_close(weights_of(model.model), expected, atol=1e-6)
    loaded = fm.load(tmp_path)
    assert_close(weights_of(loaded.model), expected, atol=1e-6)
    found = loaded.evaluate(corpus("decoder_only").validation, batch_size=6)
    assert found["loss"] == pytest.approx(best["val_loss"], rel=1e-5)


@pytest.mark.slow
def test_a_run_with_averages_goes_on_where_it_was_stopped(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == 6:
                raise KeyboardInterrupt

    settings = {"recipe": RECIPE, "ema_decay": 0.7, "progress": False}
    whole = text_model("decoder_only")
    whole.fit(corpus("decoder_only"), **settings)
    with pytest.raises(KeyboardInterrupt):
        text_model("decoder_only").fit(
            corpus("decoder_only"), **settings, folder=tmp_path, callbacks=(Stop(),)
        )
    resumed = text_model("decoder_only", seed=3)
    rows = resumed.fit(corpus("decoder_only"), **settings, folder=tmp_path)
    assert rows[-1]["val_loss"] == min(row["val_loss"] for row in rows)
    assert_close(weights_of(resumed.model), weights_of(whole.model), atol=0)


def test_muon_refuses_a_kernel_that_is_no_matrix():
    # A kernel for each position, whose axis is in the middle.
    layer = keras.layers.EinsumDense("abc,cbd->abd", (3, 5))
    model = keras.Sequential([keras.Input((3, 7)), layer, keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="no matrix that Muon can train"):
        make_optimizer(dataclasses.replace(RECIPE, optimizer="muon"), model)
