"""Small hand-written models for the tests of `plots`; nothing here comes from `builders`."""

from __future__ import annotations

import keras
from keras import layers

import plots
from plots.renderers.dot import graph_to_dot

if keras.backend.backend() == "torch":
    import builders.torch_names  # noqa: F401 - PyTorch refuses dotted names without it

WIDTH, HEADS, HEAD_WIDTH, INNER, VOCABULARY, LENGTH = 7, 3, 5, 11, 13, 17


def attention(name: str, x, key_value, mask=None):
    def project(part, y):
        shape = (None, HEADS, HEAD_WIDTH)
        return layers.EinsumDense("bsd,dnh->bsnh", shape, bias_axes="nh", name=f"{name}.{part}")(y)

    query, key, value = project("query", x), project("key", key_value), project("value", key_value)
    mixed = keras.ops.dot_product_attention(query, key, value, mask=mask)
    return layers.EinsumDense("btnh,nhd->btd", (None, WIDTH), name=f"{name}.output")(mixed)


def sublayer(name: str, x, function, norm: str, residual: bool = True):
    """One residual block around `function`, normalised "pre", "post", "sandwich" or "none"."""
    y = x
    if norm in ("pre", "sandwich"):
        y = layers.LayerNormalization(name=f"{name}.norm")(y)
    y = function(y)
    if norm == "sandwich":
        y = layers.LayerNormalization(name=f"{name}.output_norm")(y)
    y = layers.Dropout(0.1, name=f"{name}.dropout")(y)
    if residual:
        y = layers.Add(name=f"{name}.residual")([x, y])
    if norm == "post":
        y = layers.LayerNormalization(name=f"{name}.norm")(y)
    return y


def feedforward(name: str, x):
    x = layers.Dense(INNER, activation="relu", name=f"{name}.up")(x)
    return layers.Dense(WIDTH, name=f"{name}.down")(x)


def block(name: str, x, norm: str, mask=None, encoded=None, residual: bool = True):
    own = f"{name}.self_attention"
    x = sublayer(own, x, lambda y: attention(own, y, y, mask), norm, residual)
    if encoded is not None:
        cross = f"{name}.cross_attention"
        x = sublayer(cross, x, lambda y: attention(cross, y, encoded), norm, residual)
    up = f"{name}.feedforward"
    return sublayer(up, x, lambda y: feedforward(up, y), norm, residual)


def embedded(name: str, tokens):
    ones = keras.ops.ones_like(tokens)
    positions = layers.Embedding(LENGTH, WIDTH, name=f"{name}.position_embedding")(
        keras.ops.cumsum(ones, axis=1) - 1
    )
    x = layers.Embedding(VOCABULARY, WIDTH, name=f"{name}.token_embedding")(tokens)
    x = layers.Add(name=f"{name}.add_positions")([x, positions])
    return layers.Dropout(0.1, name=f"{name}.embedding_dropout")(x)


def decoder_only(norm: str = "pre", blocks: int = 2, residual: bool = True) -> keras.Model:
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    index = keras.ops.cumsum(keras.ops.ones_like(tokens), axis=1)
    rows, columns = keras.ops.expand_dims(index, 2), keras.ops.expand_dims(index, 1)
    mask = keras.ops.expand_dims(keras.ops.greater_equal(rows, columns), 1)
    x = embedded("decoder", tokens)
    for number in range(blocks):
        x = block(f"decoder.block_{number}", x, norm, mask, residual=residual)
    if norm == "pre":
        x = layers.LayerNormalization(name="decoder.final_norm")(x)
    return keras.Model(tokens, layers.Dense(VOCABULARY, name="logits")(x), name=f"{norm}_norm")


def encoder_decoder(norm: str = "post", blocks: int = 2, residual: bool = True) -> keras.Model:
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    x = embedded("encoder", source)
    for number in range(blocks):
        x = block(f"encoder.block_{number}", x, norm, residual=residual)
    y = embedded("decoder", target)
    for number in range(blocks):
        y = block(f"decoder.block_{number}", y, norm, encoded=x, residual=residual)
    return keras.Model([source, target], layers.Dense(VOCABULARY, name="logits")(y), name="pair")


def top_level_blocks(norm: str = "pre", blocks: int = 2) -> keras.Model:
    """Return a model with blocks at the top level, named "block_0" and so on."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = layers.Embedding(VOCABULARY, WIDTH, name="token_embedding")(tokens)
    for number in range(blocks):
        x = block(f"block_{number}", x, norm)
    return keras.Model(tokens, layers.Dense(VOCABULARY, name="logits")(x), name=f"{norm}_norm")


def described() -> str:
    """All ids, edges, JSON and DOT of two models: has to be the same in every process."""
    x = keras.Input((3,))
    unnamed = keras.Model(x, layers.Dense(3)(x) + x)
    lines: list[str] = []
    for model in (encoder_decoder(), unnamed):
        graph = plots.read_graph(model)
        lines += [node.id for node in graph.nodes]
        lines += [str(edge) for edge in graph.edges]
        lines.append(graph.to_json())
        lines.append(graph_to_dot(graph).to_string())
    return "\n".join(lines)
