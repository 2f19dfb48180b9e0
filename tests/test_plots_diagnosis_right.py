"""Unusual models that are right, and get no finding."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from model_bricks import TOKENS, D, T, Table, attend, by_hand, causal, embedded, ffn, ids, norm, pre

import plots


def findings_of(model):
    return [note.text for note in plots.diagnose(model).notes if note.kind == "finding"]


def test_linear_branches_need_no_norm():
    x = ids()
    y = embedded(x)
    for _ in range(2):
        y = pre(pre(y, causal), ffn)
        before = ops.pad(y[:, :-1], ((0, 0), (1, 0), (0, 0)))
        y = y + layers.Dense(D)(before)
    assert findings_of(keras.Model(x, layers.Dense(TOKENS)(norm(y)))) == []
    x = ids()
    y = embedded(x)
    for _ in range(2):
        y = pre(y, attend)
        y = y + ffn(y)
    (text,) = findings_of(keras.Model(x, layers.Dense(TOKENS)(norm(y))))
    assert "norms of one residual stream are mixed" in text


class Codebook(layers.Layer):
    """Returns the nearest of trained vectors (van den Oord et al. 2017, section 3.1)."""

    def build(self, shape):
        self.vectors = self.add_weight(shape=(11, shape[-1]))

    def compute_output_shape(self, shape):
        return shape


class Trained(Codebook):
    def call(self, x):
        y = nearest(self.vectors, x)
        self.add_loss(ops.mean(ops.square(y - ops.stop_gradient(x))))
        return x + ops.stop_gradient(y - x)


class Untrained(Codebook):
    def call(self, x):
        return x + ops.stop_gradient(nearest(self.vectors, x) - x)


def nearest(vectors, x):
    distances = ops.sum(ops.square(ops.expand_dims(x, 1) - vectors), axis=-1)
    return ops.take(vectors, ops.argmin(distances, axis=-1), axis=0)


def test_weights_with_a_loss_of_their_own_need_no_gradient_of_the_outputs():
    def model(codebook):
        x = keras.Input((5,))
        code = layers.Dense(3)(layers.Dense(7, activation="relu")(x))
        return keras.Model(x, layers.Dense(5)(codebook()(code)))

    assert findings_of(model(Trained)) == []
    (text,) = findings_of(model(Untrained))
    assert "Weights without a gradient" in text


def test_a_value_that_padding_becomes_may_be_masked():
    x = keras.Input((T, 5))
    y = layers.Masking(-1.0)(layers.Rescaling(1 / 7, offset=-1.0)(x))
    assert findings_of(keras.Model(x, layers.Dense(3)(layers.LSTM(7)(y)))) == []
    y = layers.Masking(2.0)(layers.Rescaling(1 / 7, offset=-1.0)(x))
    (text,) = findings_of(keras.Model(x, layers.Dense(3)(layers.LSTM(7)(y))))
    assert "A mask that hides nothing" in text


class WithLoss(layers.Layer):
    """Returns probabilities, and adds a loss of labels."""

    def call(self, labels, logits):
        chosen = ops.one_hot(labels, 7)
        self.add_loss(-ops.mean(ops.sum(chosen * ops.log_softmax(logits), axis=-1)))
        return ops.softmax(logits)

    def compute_output_shape(self, labels_shape, logits_shape):
        return logits_shape


def test_an_input_may_go_into_a_loss_that_a_layer_adds():
    x, labels = keras.Input((5,)), keras.Input((), dtype="int32")
    model = keras.Model([x, labels], WithLoss()(labels, layers.Dense(7)(x)))
    assert findings_of(model) == []


def test_an_attention_whose_width_is_the_length_of_an_input_is_causal():
    past, future = keras.Input((D, 3)), keras.Input((5, 3))
    x = norm(layers.Dense(D)(layers.Concatenate(axis=1)([past, future])))
    x = x + layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)
    assert findings_of(keras.Model([past, future], layers.Dense(2)(norm(x)))) == []


def test_roots_of_weights_of_edges_are_remarks():
    nodes, edges = keras.Input((7, 5)), keras.Input((7, 7))
    degrees = ops.rsqrt(ops.sum(edges, axis=-1, keepdims=True) + 1)
    x = ops.matmul(edges * degrees, layers.Dense(11, activation="relu")(nodes))
    diagnosed = plots.diagnose(keras.Model([nodes, edges], layers.Dense(2)(x)))
    texts = {note.kind: note.text for note in diagnosed.notes if "NaN" in note.text}
    assert (
        "For the same inputs without signs all numbers of the outputs are finite" in texts["remark"]
    )
    assert "finding" not in texts


def test_what_a_norm_multiplies_by_may_be_divided_out_again():
    def squash(s):
        square = ops.sum(ops.square(s), axis=-1, keepdims=True)
        return s * square / (1 + square) / ops.sqrt(square + 1e-7)

    image = keras.Input((9, 9, 1))
    x = layers.Conv2D(15, 5, activation="relu")(image)
    vectors = squash(layers.Reshape((75, 5))(x))
    assert findings_of(keras.Model(image, layers.Dense(2)(layers.Flatten()(vectors)))) == []


def test_samples_that_an_output_compares_are_not_said_to_be_independent():
    x, y = keras.Input((7,)), keras.Input((5,))
    pairs = ops.matmul(layers.Dense(3)(x), ops.transpose(layers.Dense(3)(y)))
    a, b = layers.Dense(3)(x), layers.Dense(3)(y)
    products = ops.matmul(ops.transpose(a), b)  # as of features: no axis of samples is left
    for outputs, expected in (
        (pairs, "compare each sample of a batch with each other"),
        ([pairs, a], "samples of a batch are independent, but for the pairs of samples"),
        (products, ""),
    ):
        texts = [c.note.text for c in plots.check(keras.Model([x, y], outputs))]
        said = [text for text in texts if "sample" in text]
        assert len(said) == bool(expected)
        assert all(expected in text for text in said)


def test_lengths_leave_keys_whose_queries_get_a_gradient():
    frames, length = keras.Input((11, 6)), keras.Input((1,), dtype="int32")
    is_real = ops.less(np.arange(11, dtype="int32")[None], length)
    x = layers.Dense(D)(frames)
    x = x + layers.MultiHeadAttention(2, 5)(norm(x), norm(x), attention_mask=is_real[:, None])
    model = keras.Model([frames, length], layers.Dense(3)(norm(x)))
    assert [c for c in plots.check(model) if c.verdict == "dead"] == []


def test_a_scale_that_is_put_back_is_no_product_for_a_sum():
    series = keras.Input((23, 1))
    scale = ops.cumsum(ops.abs(series), axis=1) + 1.0
    x = layers.Conv1D(7, 3, padding="causal", activation="relu")(series / scale)
    model = keras.Model(series, layers.Dense(1)(x) * scale)
    notes = plots.diagnose(model).notes
    assert not any("product in the place of a sum" in note.text for note in notes)


def test_sums_of_two_maps_of_one_tensor_are_no_residual_paths():
    x = keras.Input((11, 7))
    h = layers.Dense(13)(x)
    scores = layers.Dense(1)(h) + ops.transpose(layers.Dense(1)(h), (0, 2, 1))
    y = ops.matmul(ops.softmax(layers.LeakyReLU()(scores)), h)
    assert plots.skip_paths(plots.read_graph(keras.Model(x, y))) == ()


class MaskedInTraining(layers.Layer):
    def __init__(self):
        super().__init__()
        self.attend = layers.MultiHeadAttention(2, 5)

    def build(self, shape):
        self.attend.build(shape, shape)

    def call(self, x, training=False):
        return self.attend(x, x, use_causal_mask=bool(training))


def test_attention_that_is_causal_in_training_alone_is_a_mistake():
    tokens = ids()
    x = embedded(tokens)
    x = x + MaskedInTraining()(norm(x))
    (text,) = findings_of(keras.Model(tokens, layers.Dense(TOKENS)(norm(x))))
    assert "in inference alone" in text


def test_inputs_without_names_have_those_of_the_graph():
    x = keras.Input((T, D))
    model = keras.Model(x, layers.LSTM(7, return_sequences=True)(x))
    texts = [check.note.text for check in plots.check(model)]
    assert any("of 'input_layer#1'" in text for text in texts)
    assert not any("keras_tensor" in text for text in texts)


def test_a_skip_path_around_a_shortened_stack_is_no_sublayer():
    tokens = keras.Input((T // 4 * 4,), dtype="int32")
    x = pre(pre(layers.Embedding(TOKENS, D)(tokens), causal), ffn)
    short = layers.AveragePooling1D(4)(layers.ZeroPadding1D((3, 0))(x)[:, :-3])
    x = x + layers.UpSampling1D(4)(pre(pre(short, causal), ffn))
    x = norm(pre(pre(x, causal), ffn))
    text = plots.diagnosis_text(plots.read_graph(keras.Model(tokens, layers.Dense(TOKENS)(x))))
    assert text.startswith("Pre-norm Transformer decoder")


def test_attention_between_samples_is_a_remark():
    x = keras.Input((6, D))
    y = ops.reshape(norm(x), (1, -1, 6 * D))
    y = ops.reshape(layers.MultiHeadAttention(2, 5)(y, y), (-1, 6, D))
    diagnosed = plots.diagnose(keras.Model(x, layers.Dense(2)(norm(x + y))))
    (note,) = [note for note in diagnosed.notes if "other samples of the batch" in note.text]
    assert note.kind == "remark"


class TokenInFront(layers.Layer):
    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]))

    def call(self, x):
        return ops.concatenate([ops.broadcast_to(self.token, ops.shape(x[:, :1])), x], axis=1)


@pytest.mark.parametrize("is_flipped", [True, False])
def test_a_class_token_may_be_moved_to_the_end(is_flipped):
    x = keras.Input((7, 3))
    y = TokenInFront()(layers.Dense(D)(x))
    y = layers.Lambda(lambda t: ops.flip(t, axis=1))(y) if is_flipped else y
    y = norm(pre(pre(y, attend), ffn))[:, -1]
    texts = findings_of(keras.Model(x, layers.Dense(2)(y)))
    assert any("does not read the class token" in text for text in texts) != is_flipped


@pytest.mark.parametrize(("order", "number"), [(1, 0), (float("inf"), 0), (2, 1), (None, 1)])
def test_only_a_euclidean_distance_is_a_root(order, number):
    first, second = keras.Input((5,)), keras.Input((5,))
    code = layers.Dense(7, activation="tanh")
    distance = ops.norm(code(first) - code(second), ord=order, axis=-1, keepdims=True)
    found = findings_of(keras.Model([first, second], layers.Dense(3)(distance)))
    assert ["root of 0" in text for text in found] == [True] * number


def test_a_matrix_that_is_added_to_an_adjacency_is_no_table_of_positions():
    nodes, edges = keras.Input((11, 5)), keras.Input((11, 11))
    with_loops = edges + np.eye(11, dtype="float32")[None]
    mixed = ops.matmul(with_loops, layers.Dense(7)(nodes))
    assert findings_of(keras.Model([nodes, edges], layers.Dense(3)(ops.relu(mixed)))) == []


@pytest.mark.parametrize("width", [7, 11])  # the latter is the length, too
def test_a_causal_attention_with_heads_as_wide_as_the_sequence_is_long_is_causal(width):
    x = ids()
    y = embedded(x)
    query, key, value = (
        ops.transpose(ops.reshape(layers.Dense(2 * width)(y), (-1, 11, 2, width)), (0, 2, 1, 3))
        for _ in range(3)
    )
    scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) / width**0.5
    scores = ops.where(np.tri(11, dtype="bool"), scores, -1e9)
    mixed = ops.transpose(ops.matmul(ops.softmax(scores), value), (0, 2, 1, 3))
    model = keras.Model(x, layers.Dense(TOKENS)(ops.reshape(mixed, (-1, 11, 2 * width))))
    assert findings_of(model) == []
    assert any("(causal)" in check.note.text for check in plots.check(model))


class Gain(layers.Layer):
    """A gain near 0 at the end of a branch (Touvron et al. 2021, Going deeper, section 2.1)."""

    def build(self, shape):
        self.gain = self.add_weight(shape=shape[-1:], initializer=keras.initializers.Constant(1e-6))

    def call(self, x):
        return x * self.gain


def test_an_input_of_a_branch_with_a_gain_near_0_has_an_effect():
    x, memory = ids(), keras.Input((7, D))
    y = embedded(x)
    for _ in range(2):
        y = y + Gain()(attend(norm(y), layers.Dense(D)(memory)))
        y = y + Gain()(ffn(norm(y)))
    assert findings_of(keras.Model([x, memory], layers.Dense(TOKENS)(norm(y)))) == []


class LongConvolution(layers.Layer):
    """A causal convolution as long as the sequence, by Fourier transforms (Poli et al. 2023)."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[1], shape[2]))

    def call(self, x):
        length = x.shape[1]
        given, kernel = (
            ops.rfft(ops.transpose(array, axes), fft_length=2 * length)
            for array, axes in ((x, (0, 2, 1)), (self.kernel[None], (0, 2, 1)))
        )
        product = (
            given[0] * kernel[0] - given[1] * kernel[1],
            given[0] * kernel[1] + given[1] * kernel[0],
        )
        return ops.transpose(ops.irfft(product, fft_length=2 * length)[..., :length], (0, 2, 1))

    def compute_output_shape(self, shape):
        return shape


def test_the_rounding_of_a_fourier_transform_is_no_look_at_the_future():
    x = ids()
    y = embedded(x)
    for _ in range(2):
        y = y + LongConvolution()(layers.Conv1D(D, 3, padding="causal")(norm(y)))
        y = pre(y, ffn)
    model = keras.Model(x, layers.Dense(TOKENS)(norm(y)))
    assert findings_of(model) == []
    assert [c.verdict for c in plots.check(model) if c.property == "causality"] == ["causal"]


def test_an_input_that_only_masks_is_of_the_sequence_that_it_masks_in_every_block():
    """Such as the number of the graph that a node is part of, in a batch of joined graphs."""
    nodes, number = keras.Input((T, D)), keras.Input((T,), dtype="int32")
    same = ops.equal(ops.expand_dims(number, 1), ops.expand_dims(number, 2))
    hidden = ops.where(same, 0.0, -1e9)
    y = layers.Dense(D)(nodes)
    for _ in range(2):
        y = pre(y, lambda y: by_hand(y, lambda scores: scores + hidden))
        y = pre(y, ffn)
    assert findings_of(keras.Model([nodes, number], layers.Dense(7)(norm(y)))) == []


def test_features_that_are_chosen_from_the_input_again_need_no_skip_path():
    """The steps of a TabNet mask the table anew, read it, and add to what the others decide."""
    table = keras.Input((31,))
    shared = layers.Dense(22, use_bias=False)

    def read(x):
        y = ops.relu(shared(x))
        return y + ops.relu(layers.Dense(22)(y))

    y, decisions = read(table), []
    for _ in range(3):
        y = read(table * ops.softmax(layers.Dense(31, use_bias=False)(y)))
        decisions.append(ops.relu(y))
    assert findings_of(keras.Model(table, layers.Dense(3)(layers.Add()(decisions)))) == []


def test_the_first_attention_of_latent_vectors_needs_no_norm():
    series = keras.Input((T, D))
    x = Table()(series)
    x = x + attend(x, layers.Dense(D)(series))
    for f in (ffn, attend, ffn):
        x = pre(x, f)
    assert findings_of(keras.Model(series, layers.Dense(7)(norm(x)))) == []


def test_a_head_for_each_of_two_towers_is_meant():
    first, second = keras.Input((5,)), keras.Input((5,))
    begin, middle = layers.Dense(11, activation="tanh"), layers.Dense(17, activation="tanh")
    heads = [layers.Dense(3)(middle(begin(x))) for x in (first, second)]
    model = keras.Model([first, second], layers.Dot(-1)(heads))
    assert findings_of(model) == []
