"""Published designs that look like mistakes get no finding."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from model_bricks import TOKENS, D, T, attend, causal, embedded, ffn, ids, norm, pre
from test_plots_diagnosis_right import findings_of

import plots


def test_slots_that_a_recurrent_cell_updates_have_a_way_around():
    """Locatello et al. 2020, algorithm 1, with a layer for the cell and no names."""
    x = keras.Input((23, D))
    key, value = layers.Dense(D)(x), layers.Dense(D)(x)
    slots = layers.Dense(D)(x[:, :5])
    query, cell = layers.Dense(D), layers.GRU(D)
    for _ in range(3):
        scores = ops.matmul(key, ops.transpose(query(norm(slots)), (0, 2, 1))) * D**-0.5
        weights = ops.softmax(scores) + 1e-8  # (b, n, slots)
        weights = weights / ops.sum(weights, axis=1, keepdims=True)
        new = ops.reshape(ops.matmul(ops.transpose(weights, (0, 2, 1)), value), (-1, 1, D))
        slots = cell(new, initial_state=[ops.reshape(slots, (-1, D))])
        slots = pre(ops.reshape(slots, (-1, 5, D)), ffn)
    assert not findings_of(keras.Model(x, layers.Dense(7)(slots)))


class WithDeviation(layers.Layer):
    """Adds a feature that is the deviation over the batch, in front or at the end."""

    def __init__(self, in_front, keeps=True):
        super().__init__()
        self.in_front, self.keeps = in_front, keeps

    def call(self, x):
        feature = ops.zeros_like(x[..., :1]) + ops.mean(ops.std(x, axis=0))
        kept = x if self.keeps else x - ops.mean(x, axis=0)
        return ops.concatenate([feature, kept] if self.in_front else [kept, feature], axis=-1)


@pytest.mark.parametrize("in_front", [False, True])
@pytest.mark.parametrize("keeps", [True, False])
def test_features_of_the_batch_beside_those_of_a_sample_are_a_remark(in_front, keeps):
    """Karras et al. 2018, section 3; a layer that changes a sample by the others is a mistake."""
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(7, 3, activation="relu")(image)
    x = layers.Conv2D(5, 3)(WithDeviation(in_front, keeps)(x))
    notes = [c.note for c in plots.check(keras.Model(image, layers.Dense(1)(layers.Flatten()(x))))]
    kinds = [note.kind for note in notes if "other samples of the batch" in note.text]
    assert kinds == ["remark" if keeps else "finding"]


class Fading(layers.Layer):
    """The mean of earlier steps, with weights that fall with the distance (RWKV-4, equation 16)."""

    def build(self, shape):
        self.decay = self.add_weight(shape=(shape[-1],), initializer="ones", name="decay")

    def call(self, x):
        older = np.maximum(np.arange(T)[:, None] - np.arange(T)[None], 0)[None, :, :, None]
        faded = -ops.exp(self.decay) * ops.convert_to_tensor(older, "float32")
        weights = ops.softmax(ops.where(np.tri(T)[None, :, :, None] > 0, faded, -1e9), axis=2)
        return ops.sum(weights * ops.expand_dims(x, 1), axis=2)


def test_an_exponential_of_a_weight_multiplies_no_noise():
    x = ids()
    y = layers.Embedding(TOKENS, D)(x)
    for _ in range(2):
        y = pre(y, lambda z: layers.Dense(D)(Fading()(z)))
        y = pre(y, ffn)
    assert not findings_of(keras.Model(x, layers.Dense(TOKENS)(norm(y))))


def test_a_norm_of_patches_is_over_features():
    """Yu et al. 2023, MEGABYTE, section 2.2: the vectors of five bytes are one of a patch."""
    x = keras.Input((15,), dtype="int32")
    y = ops.reshape(embedded_bytes(x), (-1, 3, 15))
    for _ in range(2):
        y = pre(pre(y, causal_of(15)), lambda z: layers.Dense(15)(layers.Dense(17, "relu")(z)))
    assert not [t for t in findings_of(keras.Model(x, norm(y))) if "norm over" in t]


def embedded_bytes(x):
    return layers.Embedding(TOKENS, 3)(x) + layers.Embedding(15, 3)(
        ops.cumsum(ops.ones_like(x)) - 1
    )


def causal_of(width):
    return lambda x: layers.MultiHeadAttention(3, width // 3)(x, x, use_causal_mask=True)


def test_a_squash_is_no_norm_by_mistake():
    """Sabour et al. 2017, Dynamic Routing Between Capsules, equation 1."""
    image = keras.Input((8, 8, 3))
    s = layers.Reshape((-1, 5))(layers.Conv2D(35, 3)(image))
    size = ops.sum(ops.square(s), axis=-1, keepdims=True)
    v = s * (size / (1.0 + size) / ops.sqrt(size + 1e-7))
    assert not findings_of(keras.Model(image, layers.Dense(7)(layers.Flatten()(v))))


def test_boxes_of_each_place_may_be_cut_apart():
    """Liu et al. 2016, SSD: 4 numbers for each of 3 boxes at each of 2 x 2 places."""
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(12, 3, strides=4, padding="same")(image)
    assert not findings_of(keras.Model(image, layers.Reshape((12, 4))(x)))


def test_an_attention_between_two_blocks_with_activations_is_no_exception():
    """Shen et al. 2021, Efficient Attention, section 4: two of three sums have a ReLU."""
    image = keras.Input((7, 7, D))

    def convolutions(x):
        y = layers.Conv2D(D, 3, padding="same", activation="relu")(x)
        return layers.ReLU()(x + layers.Conv2D(D, 3, padding="same")(y))

    x = convolutions(layers.Conv2D(D, 3, padding="same", activation="relu")(image))
    y = layers.Reshape((49, D))(x)
    x = x + layers.Reshape((7, 7, D))(attend(y))
    x = layers.GlobalAveragePooling2D()(convolutions(x))
    assert not [t for t in findings_of(keras.Model(image, layers.Dense(7)(x))) if "ReLU" in t]


def test_the_bias_of_pairs_is_no_mask_of_another_sequence():
    """Jumper et al. 2021, AlphaFold 2, supplement, algorithm 7."""
    rows, pairs = keras.Input((T, D)), keras.Input((T, T, 5))
    bias = layers.Dense(1)(norm(layers.Dense(7)(pairs)))

    def attention(x):
        query, key, value = (layers.Dense(D)(x) for _ in range(3))
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / D**0.5
        weights = ops.softmax(scores + ops.squeeze(bias, -1))
        return layers.Dense(D)(ops.matmul(weights, value))

    x = norm(pre(pre(layers.Dense(D)(rows), attention), ffn))
    assert not findings_of(keras.Model([rows, pairs], layers.Dense(7)(x)))


def test_a_vector_for_each_step_of_a_loop_is_no_table_of_positions():
    """Dehghani et al. 2019, Universal Transformers, equation 5, has one for positions and steps."""
    x = keras.Input((T, D))
    y = x + np.sin(np.arange(T * D, dtype="float32").reshape(1, T, D))
    attention, first, last = (
        layers.MultiHeadAttention(3, 2),
        layers.Dense(17, "relu"),
        layers.Dense(D),
    )
    for step in range(3):
        y = y + np.sin(1.7 * step + np.arange(D, dtype="float32"))
        y = norm(y + attention(y, y))
        y = norm(y + last(first(y)))
    assert not [t for t in findings_of(keras.Model(x, layers.Dense(7)(y))) if "same vector" in t]


class Ternary(layers.Layer):
    """Weights of -1, 0 and 1 by a straight-through estimator (Ma et al. 2024, BitNet b1.58)."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], D), name="kernel")

    def call(self, x):
        scale = ops.mean(ops.abs(self.kernel)) + 1e-5
        rounded = ops.clip(ops.round(self.kernel / scale), -1, 1) * scale
        return ops.matmul(x, self.kernel + ops.stop_gradient(rounded - self.kernel))


def test_a_straight_through_estimator_passes_gradients_to_its_weights():
    x = ids()
    y = embedded(x)
    for _ in range(2):
        y = pre(y, causal)
        y = pre(y, lambda z: layers.Dense(D)(ops.relu(Ternary()(z))))
    model = keras.Model(x, layers.Dense(TOKENS)(norm(y)))
    assert not findings_of(model)
    graph = plots.diagnose(plots.read_graph(model, open_layers=True))
    assert not [note.text for note in graph.notes if "Weights without" in note.text]


@pytest.mark.parametrize("returns", [True, False], ids=["between rows", "of a flattened vector"])
def test_attention_between_samples_as_wholes_may_be_meant(returns):
    """Somepalli et al. 2021, SAINT, section 3.1; without the way back, samples leak."""
    x = keras.Input((5, 3))

    def between(y):
        whole = ops.reshape(y, (-1, 15))
        query, key, value = (layers.Dense(15)(whole) for _ in range(3))
        weights = ops.softmax(ops.matmul(query, ops.transpose(key)) / 15**0.5)
        mixed = layers.Dense(15)(ops.matmul(weights, value))
        return ops.reshape(mixed, (-1, 5, 3)) if returns else mixed

    y = norm(pre(x, between)) if returns else between(x)
    found = [text for text in findings_of(keras.Model(x, layers.Dense(7)(y))) if "mixed" in text]
    assert bool(found) is not returns


def test_a_sparsemax_may_be_flat_for_a_few_samples():
    """Arik and Pfister 2021, TabNet, section 3: masks of features by a sparsemax."""
    x = keras.Input((11,))
    mask = ops.sparsemax(101 * layers.Dense(11)(x))
    assert not findings_of(keras.Model(x, layers.Dense(3)(x * mask)))
