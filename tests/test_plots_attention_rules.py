"""Mistakes in attention are found however it is written, and the corrected twins are fine."""

import keras
import numpy as np
import pytest
from hand_made_transformers import findings_of, remarks_of
from keras import layers, ops

T, D, N, H, V = 11, 15, 3, 5, 31  # length, width, heads, width of a head, tokens
TRIANGLE = np.tri(T) == 1


def texts_of(model):
    return [" ".join(note.text for note in found(model)) for found in (findings_of, remarks_of)]


def tokens(length=T):
    return keras.Input((length,), dtype="int32")


def embedded(ids, length=T):
    index = ops.cumsum(ops.ones_like(ids), axis=1) - 1
    return layers.Embedding(V, D)(ids) + layers.Embedding(length, D)(index)


def encoder(attend):
    ids = tokens()
    x = embedded(ids)
    x = x + attend(layers.LayerNormalization()(x))
    return keras.Model(ids, layers.Dense(7)(layers.LayerNormalization()(x)))


def split(x):
    y = ops.reshape(layers.Dense(N * H)(x), (-1, T, N, H))
    return ops.transpose(y, (0, 2, 1, 3))


def split_by_layers(x):
    return layers.Permute((2, 1, 3))(layers.Reshape((T, N, H))(layers.Dense(N * H)(x)))


def merged(y):
    return layers.Dense(D)(ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (-1, T, N * H)))


def by_hand(axis):
    """A softmax of exp and sum."""

    def weigh(scores):
        powers = ops.exp(scores - ops.max(scores, axis=axis, keepdims=True))
        return powers / ops.sum(powers, axis=axis, keepdims=True)

    return weigh


def attention(
    weigh=ops.softmax,
    scale=H**-0.5,
    split=split,
    merged=merged,
    masked=lambda s: s,
    after=lambda w: w,
    query=lambda q: q,
):
    def attend(x):
        q, k, v = query(split(x)), split(x), split(x)
        scores = ops.matmul(q, ops.swapaxes(k, -1, -2))
        scores = scores if scale == 1 else scores * scale
        return merged(ops.matmul(after(weigh(masked(scores))), v))

    return attend


def by_einsum(weigh, values="bnts,bsnh->btnh"):
    def attend(x):
        q, k, v = (layers.EinsumDense("btd,dnh->btnh", (T, N, H))(x) for _ in range(3))
        weights = weigh(ops.einsum("btnh,bsnh->bnts", q * H**-0.5, k))
        y = ops.einsum(values, weights, v)
        return layers.EinsumDense("btnh,nhd->btd", (T, D))(y)

    return attend


def single_head(weigh):
    def attend(x):
        q, k, v = (layers.Dense(D)(x) for _ in range(3))
        scores = layers.Dot(axes=2)([q, k]) / D**0.5
        return layers.Dot(axes=(2, 1))([weigh(scores), v])

    return attend


# --- axes ---------------------------------------------------------------------------------------


def softmaxes(axis):
    return {
        "operation": attention(lambda s: ops.softmax(s, axis=axis)),
        "layer": attention(layers.Softmax(axis=axis)),
        "by hand": attention(by_hand(axis)),
        "einsum": by_einsum(lambda s: ops.softmax(s, axis=axis)),
        "single head": single_head(lambda s: ops.softmax(s, axis=-1 if axis == -1 else 1)),
    }


@pytest.mark.sampled(2)
@pytest.mark.parametrize("form", softmaxes(-1))
def test_a_softmax_over_queries_or_heads_is_found(form):
    for axis in (-2, 1):
        assert "a sum over axis" in texts_of(encoder(softmaxes(axis)[form]))[0]
    assert texts_of(encoder(softmaxes(-1)[form])) == ["", ""]


def test_weights_that_are_normalised_again_may_come_from_a_softmax_over_queries():
    """As in slot attention, Locatello et al. 2020."""

    def renormalised(weights):
        weights = weights + 1e-8
        return weights / ops.sum(weights, axis=-1, keepdims=True)

    slots = attention(lambda s: ops.softmax(s, axis=-2), after=renormalised)
    assert texts_of(encoder(slots)) == ["", ""]


def test_an_einsum_that_does_not_mix_the_values_is_found():
    not_mixed = by_einsum(ops.softmax, "bnts,btnh->btnh")
    assert "values are not mixed" in texts_of(encoder(not_mixed))[0]


@pytest.mark.parametrize(
    ("split", "merged"),
    [
        (lambda x: ops.reshape(layers.Dense(N * H)(x), (-1, N, T, H)), merged),
        (lambda x: layers.Reshape((N, T, H))(layers.Dense(N * H)(x)), merged),
        (split, lambda y: layers.Dense(D)(ops.reshape(y, (-1, T, N * H)))),
        (split_by_layers, lambda y: layers.Dense(D)(layers.Reshape((T, N * H))(y))),
    ],
)
def test_reshapes_that_mix_heads_and_positions_are_found(split, merged):
    model = encoder(attention(split=split, merged=merged))
    assert "mixes heads and positions" in texts_of(model)[0]


def test_reshapes_into_heads_and_windows_are_fine():
    assert texts_of(encoder(attention(split=split_by_layers))) == ["", ""]
    x = keras.Input((14, 14, 6))
    y = ops.reshape(x, (-1, 2, 7, 2, 7, 6))
    y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, 49, 6))
    y = layers.MultiHeadAttention(2, 3)(y, y)
    y = ops.transpose(ops.reshape(y, (-1, 2, 2, 7, 7, 6)), (0, 1, 3, 2, 4, 5))
    y = ops.reshape(y, (-1, 14, 14, 6))
    assert texts_of(keras.Model(x, x + y)) == ["", ""]


@pytest.mark.parametrize("weigh", [ops.softmax, layers.Softmax(), by_hand(-1)])
def test_attention_between_heads_is_found_if_the_transpose_is_missing(weigh):
    not_split = lambda x: layers.Reshape((T, N, H))(layers.Dense(N * H)(x))  # noqa: E731
    joined = lambda y: layers.Dense(D)(layers.Reshape((T, N * H))(y))  # noqa: E731
    model = encoder(attention(weigh, split=not_split, merged=joined))
    assert "Attention between heads" in texts_of(model)[0]
    assert texts_of(encoder(attention(weigh))) == ["", ""]


@pytest.mark.parametrize(
    "turned",
    [
        lambda x: ops.transpose(x, (1, 0, 2)),
        lambda x: ops.swapaxes(x, 0, 1),
        lambda x: ops.moveaxis(x, 1, 0),
    ],
)
def test_attention_over_the_batch_is_found(turned):
    def attend(x):
        return turned(layers.MultiHeadAttention(N, H)(*[turned(x)] * 2))

    assert "Attention over the batch" in texts_of(encoder(attend))[0]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3)])
def test_the_fused_operation_takes_heads_after_positions(order):
    def attend(x):
        parts = (layers.Reshape((T, N, H))(layers.Dense(N * H)(x)) for _ in range(3))
        y = ops.dot_product_attention(*(ops.transpose(part, order) for part in parts))
        return layers.Dense(D)(layers.Reshape((T, N * H))(ops.transpose(y, order)))

    found = texts_of(encoder(attend))[0]
    assert ("Attention between heads" in found) == (order[1] == 2)


# --- scores -------------------------------------------------------------------------------------

SCALES = {
    "not scaled": attention(scale=1),
    "by the width of the model": attention(scale=D**-0.5),
    "multiplied by sqrt(h)": attention(scale=H**0.5),
    "by 1/h": attention(scale=1 / H),
    "2 times": attention(query=lambda q: q / H**0.5),
}


@pytest.mark.parametrize("words", SCALES)
def test_a_scale_other_than_that_of_a_head_is_a_remark(words):
    found, remarks = texts_of(encoder(SCALES[words]))
    assert not found
    assert words in remarks


@pytest.mark.parametrize(
    "attend",
    [
        attention(scale=1, query=lambda q: q * H**-0.5),
        attention(scale=1, query=lambda q: layers.Rescaling(1.0)(q) / np.sqrt(H)),
        attention(scale=1, query=layers.UnitNormalization()),
        attention(scale=10.0, query=lambda q: q / ops.norm(q, axis=-1, keepdims=True)),
    ],
)
def test_scores_may_be_scaled_at_the_queries_or_normalised(attend):
    assert texts_of(encoder(attend)) == ["", ""]


WRONG_MASKS = {
    "0 before the softmax": attention(masked=lambda s: ops.where(TRIANGLE, s, 0.0)),
    "1e-9": attention(masked=lambda s: ops.where(TRIANGLE, s, 1e-9)),
    "multiplied": attention(masked=lambda s: s * TRIANGLE.astype("float32")),
    "multiplied by a layer": attention(
        masked=lambda s: layers.Multiply()([s, ops.cast(ops.tril(ops.ones_like(s)) > 0, "float32")])
    ),
    "after the softmax": attention(after=lambda w: ops.where(TRIANGLE, w, 0.0)),
    "multiplied after": attention(after=lambda w: w * TRIANGLE.astype("float32")),
    "ones": attention(masked=lambda s: ops.where(np.ones((T, T), "bool"), s, -1e9)),
    "future": attention(masked=lambda s: ops.where(~TRIANGLE, s, -1e9)),
    "layer, ones": lambda x: layers.MultiHeadAttention(N, H)(
        x, x, attention_mask=np.ones((1, T, T), "bool")
    ),
    "layer, future": lambda x: layers.MultiHeadAttention(N, H)(
        x, x, attention_mask=~TRIANGLE[None]
    ),
}
RIGHT_MASKS = {
    "where": attention(masked=lambda s: ops.where(TRIANGLE, s, -1e9)),
    "where hidden": attention(masked=lambda s: ops.where(~TRIANGLE, -1e9, s)),
    "added": attention(masked=lambda s: s + np.where(TRIANGLE, 0, -1e9).astype("float32")),
    "multiplied and added": attention(
        masked=lambda s: s * TRIANGLE.astype("float32") + np.where(TRIANGLE, 0, -1e9)
    ),
    "normalised again": attention(
        after=lambda w: (m := w * TRIANGLE.astype("float32")) / ops.sum(m, -1, keepdims=True)
    ),
    "of queries": attention(after=lambda w: w * ops.cast(w[:, :, :, :1] > 0, "float32")),
    "layer": lambda x: layers.MultiHeadAttention(N, H)(x, x, attention_mask=TRIANGLE[None]),
}


@pytest.mark.parametrize("form", [*WRONG_MASKS, *RIGHT_MASKS])
def test_masks_that_hide_nothing_or_the_past_are_found(form):
    model = encoder((WRONG_MASKS | RIGHT_MASKS)[form])
    assert bool(texts_of(model)[0]) == (form in WRONG_MASKS)


# --- queries, keys and values -------------------------------------------------------------------


def translator(cross, causal=True):
    source, target = tokens(), tokens()
    memory, x = embedded(source), embedded(target)
    y = layers.LayerNormalization()(memory)
    memory = memory + layers.MultiHeadAttention(N, H)(y, y, attention_mask=padding(source))
    memory = layers.LayerNormalization()(memory)
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(N, H)(y, y, use_causal_mask=causal)
        x = x + cross(layers.LayerNormalization()(x), memory, source, target)
    logits = layers.Dense(V)(layers.LayerNormalization()(x))
    return keras.Model([source, target], logits)


def padding(ids):
    return ops.expand_dims(ops.not_equal(ids, 0), 1)


def mha(query, memory, **masks):
    return layers.MultiHeadAttention(N, H)(query, memory, **masks)


def stepwise(x, memory, mask):
    q, k, v = (layers.Dense(D)(y) for y in (x, memory, memory))
    scores = ops.matmul(q, ops.swapaxes(k, 1, 2)) * D**-0.5
    return ops.matmul(ops.softmax(ops.where(mask, scores, -1e9)), v)


CROSS = {
    "swapped": lambda x, m, s, t: mha(m, x),
    "another sequence": lambda x, m, s, t: mha(x, m, attention_mask=padding(t)),
    "another sequence ": lambda x, m, s, t: stepwise(x, m, padding(t)),
    "on queries": lambda x, m, s, t: mha(x, m, attention_mask=ops.swapaxes(padding(t), 1, 2)),
    "on queries, not": lambda x, m, s, t: stepwise(x, m, ops.not_equal(t, 0)[:, :, None]),
    "causal mask on a cross": lambda x, m, s, t: mha(x, m, use_causal_mask=True),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("words", CROSS)
def test_mistakes_in_cross_attention_are_found(words):
    assert words.strip() in texts_of(translator(CROSS[words]))[0]


def test_cross_attention_with_the_mask_of_the_source_is_fine():
    assert texts_of(translator(lambda x, m, s, t: mha(x, m, attention_mask=padding(s))))[0] == ""
    assert texts_of(translator(lambda x, m, s, t: stepwise(x, m, padding(s))))[0] == ""
    both = lambda x, m, s, t: mha(  # noqa: E731
        x, m, attention_mask=ops.logical_and(padding(s), ops.swapaxes(padding(t), 1, 2))
    )
    assert texts_of(translator(both))[0] == ""


def test_swapped_keys_and_values_are_found():
    def detr(order):
        x, where = keras.Input((T, D)), keras.Input((T, D))
        q = x + where
        given = {"value": x, "key": q} if order == "right" else {"value": q, "key": x}
        return keras.Model([x, where], layers.MultiHeadAttention(N, H)(q, **given))

    assert "Keys and values are swapped" in texts_of(detr("wrong"))[0]
    assert texts_of(detr("right")) == ["", ""]


NORMED = {
    "layer": lambda y, x: layers.MultiHeadAttention(N, H)(y, x),
    "dropout": lambda y, x: layers.MultiHeadAttention(N, H)(layers.Dropout(0.1)(y), x),
    "steps": lambda y, x: stepwise(y, x, TRIANGLE),
    "fused": lambda y, x: ops.reshape(
        ops.dot_product_attention(
            *(ops.reshape(layers.Dense(N * H)(z), (-1, T, N, H)) for z in (y, x, x))
        ),
        (-1, T, N * H),
    ),
}


@pytest.mark.parametrize("form", NORMED)
def test_a_norm_on_queries_alone_is_found(form):
    def model(wrong):
        ids = tokens()
        x = embedded(ids)
        y = layers.LayerNormalization()(x)
        x = x + NORMED[form](y, x if wrong else y)
        return keras.Model(ids, layers.Dense(7)(layers.LayerNormalization()(x)))

    assert "A norm on the queries alone" in texts_of(model(True))[0]
    assert texts_of(model(False)) == ["", ""]
