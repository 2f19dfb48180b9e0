"""Small hand-made Transformers, with and without known faults, and their findings."""

import keras
import numpy as np
from keras import layers, ops

import plots

LENGTH, WIDTH, INNER, HEADS, HEAD_WIDTH, TOKENS, CLASSES = 11, 14, 23, 3, 5, 31, 7


def findings_of(model):
    return plots.findings(plots.read_graph(model, open_nested=True))


def remarks_of(model):
    notes = plots.diagnose(plots.read_graph(model, open_nested=True)).notes
    return tuple(note for note in notes if note.kind == "remark")


def the_finding(model):
    """The only finding, after a check that it has places, a reason and a reference."""
    (finding,) = findings_of(model)
    assert finding.about
    assert any(place.rpartition(".")[0] in finding.text for place in finding.about)
    assert len(finding.text) > 60
    assert finding.reference
    return finding


def sublayer(name, x, function, norm):
    """One sublayer with its norm "pre", "post", "output" or "none", or with "no skip" path."""

    def normed(y):
        return layers.LayerNormalization(name=f"{name}.norm")(y)

    def merged(y):
        return layers.Add(name=f"{name}.merge")([x, y])

    return {
        "pre": lambda: merged(function(normed(x))),
        "post": lambda: normed(merged(function(x))),
        "output": lambda: merged(normed(function(x))),
        "none": lambda: merged(function(x)),
        "no skip": lambda: function(normed(x)),
    }[norm]()


def attention(name, memory=None, **masks):
    """Attention of y to a memory, or to itself."""
    layer = layers.MultiHeadAttention(HEADS, HEAD_WIDTH, name=f"{name}.layer")
    return lambda y: layer(y, y if memory is None else memory, **masks)


def feedforward(name, width=WIDTH):
    up = layers.Dense(INNER, activation="relu", name=f"{name}.up")
    down = layers.Dense(width, name=f"{name}.down")
    return lambda y: down(up(y))


def block(name, x, norms=("pre", "pre"), **masks):
    x = sublayer(f"{name}.attention", x, attention(f"{name}.attention", **masks), norms[0])
    return sublayer(f"{name}.feedforward", x, feedforward(f"{name}.feedforward"), norms[1])


def embedded(tokens, name="embedding", **options):
    """Token embeddings plus positions that are computed from the tokens' shape."""
    index = ops.cumsum(ops.ones_like(tokens), axis=1) - 1
    positions = layers.Embedding(LENGTH, WIDTH, name=f"{name}.positions")(index)
    x = layers.Embedding(TOKENS, WIDTH, name=f"{name}.tokens", **options)(tokens)
    return layers.Add(name=f"{name}.add")([x, positions])


def tokens_input(name="tokens"):
    return keras.Input((LENGTH,), dtype="int32", name=name)


def encoder(norms, final_norm=True, **masks):
    """An encoder with the given norm for each of its sublayers, two in a block."""
    tokens = tokens_input()
    x = embedded(tokens)
    for number in range(len(norms) // 2):
        x = block(f"block_{number}", x, norms[2 * number : 2 * number + 2], **masks)
    if final_norm:
        x = layers.LayerNormalization(name="final_norm")(x)
    return keras.Model(tokens, layers.Dense(CLASSES, name="logits")(x), name="tagger")


def seen_before(tokens):
    """Whether the key is not after the query, (b, t, t), computed in the graph."""
    index = ops.cumsum(ops.ones_like(tokens), axis=1)
    return ops.expand_dims(index, 2) >= ops.expand_dims(index, 1)


def not_padding(tokens):
    """Whether the key is a token, (b, 1, t)."""
    return ops.expand_dims(ops.not_equal(tokens, 0), 1)


def before_length(tokens):
    """Whether the key is before the first padding, (b, 1, t), by the length of the sequence."""
    length = ops.sum(ops.cast(ops.not_equal(tokens, 0), "int32"), axis=1, keepdims=True)
    return ops.expand_dims(ops.cumsum(ops.ones_like(tokens), axis=1) <= length, 1)


def by_layer(tokens=None, **masks):
    return attention("attention", **masks)


def by_dot_product(**masks):
    layer = layers.Attention(name="attention")
    return lambda x: layer([x / WIDTH**0.5, x], **masks)


def fused(**masks):
    def attend(x):
        heads = layers.Reshape((LENGTH, HEADS, HEAD_WIDTH))
        parts = [heads(layers.Dense(HEADS * HEAD_WIDTH)(x)) for _ in range(3)]
        mixed = ops.dot_product_attention(*parts, **masks)
        return layers.Dense(WIDTH)(layers.Reshape((LENGTH, HEADS * HEAD_WIDTH))(mixed))

    return attend


def in_steps(masked):
    """A product, a mask by `masked`, a softmax, and another product."""

    def attend(x):
        query, key, value = (layers.Dense(WIDTH)(x) for _ in range(3))
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / WIDTH**0.5
        weights = layers.Dropout(0.1)(layers.Softmax()(masked(scores)))
        return ops.matmul(weights, value)

    return attend


TRIANGLE = np.tri(LENGTH) == 1
CAUSAL = {
    "layer, switch": lambda tokens: by_layer(use_causal_mask=True),
    "layer, computed mask": lambda tokens: by_layer(attention_mask=seen_before(tokens)),
    "layer, constant mask": lambda tokens: by_layer(attention_mask=TRIANGLE[None]),
    "layer, both masks": lambda tokens: by_layer(
        attention_mask=ops.logical_and(seen_before(tokens), not_padding(tokens))
    ),
    "dot product, switch": lambda tokens: by_dot_product(use_causal_mask=True),
    "fused, switch": lambda tokens: fused(is_causal=True),
    "fused, constant mask": lambda tokens: fused(mask=TRIANGLE[None, None]),
    "steps, where": lambda tokens: in_steps(lambda s: ops.where(seen_before(tokens), s, -1e9)),
    "steps, added": lambda tokens: in_steps(
        lambda s: s + ops.convert_to_tensor(np.where(TRIANGLE, 0, -1e9).astype("float32"))
    ),
    "steps, tril": lambda tokens: in_steps(
        lambda s: ops.where(ops.tril(ops.ones_like(s)) > 0, s, -1e9)
    ),
}
LEAKING = {
    "layer": lambda tokens: by_layer(),
    "layer, padding mask": lambda tokens: by_layer(attention_mask=not_padding(tokens)),
    "layer, mask by length": lambda tokens: by_layer(attention_mask=before_length(tokens)),
    "dot product": lambda tokens: by_dot_product(),
    "fused": lambda tokens: fused(),
    "fused, padding mask": lambda tokens: fused(mask=ops.expand_dims(not_padding(tokens), 1)),
    "steps": lambda tokens: in_steps(lambda s: s),
    "steps, padding mask": lambda tokens: in_steps(
        lambda s: s + (1.0 - ops.cast(not_padding(tokens), "float32")) * -1e9
    ),
}


def language_model(attend, name="tiny_gpt"):
    tokens = tokens_input()
    x = sublayer("sublayer", embedded(tokens), attend(tokens), "pre")
    x = layers.LayerNormalization(name="final_norm")(x)
    return keras.Model(tokens, layers.Dense(TOKENS, name="logits")(x), name=name)


def translator(causal=True, **cross_masks):
    source, target = tokens_input("source"), tokens_input("target")
    memory = layers.LayerNormalization(name="encoder_norm")(
        block("encoder_block", embedded(source, "source_embedding"))
    )
    x = embedded(target, "target_embedding")
    for name in ("first", "second"):
        own, cross = f"{name}.self", f"{name}.cross"
        x = sublayer(own, x, attention(own, use_causal_mask=causal), "pre")
        x = sublayer(cross, x, attention(cross, memory, **cross_masks), "pre")
    logits = layers.Dense(TOKENS)(layers.LayerNormalization(name="decoder_norm")(x))
    return keras.Model([source, target], logits, name="translator")
