"""The models that claims at initialisation are measured on, and the measurements.

`analysed_spec` is the setting of the analysis of Xiong et al. 2020: Xavier normal kernels; one head
with query and key kernels of zero, so that attention is the mean over the sequence; a feed-forward
layer as wide as the stream, with ReLU; and inputs of independent unit normal numbers. The output
projection of the head is Xavier normal too, which changes none of the expected values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import builders
from functional_models.seeding import own_random
from plots.measuring.gradients import gradient

if TYPE_CHECKING:
    import keras

TOKENS = 16
"""Tokens of a sequence, all different, so that their vectors are independent."""


def analysed_spec(
    norm_placement: str, num_layers: int, width: int, *, merge: str = "add"
) -> builders.TransformerSpec:
    """Return the spec of an encoder in the setting of the analysis.

    Input and output of every kernel are `width` wide, so that Xavier normal is a standard deviation
    of width^-0.5. The embeddings have it too, and are scaled to unit normal numbers.
    """
    return builders.TransformerSpec(
        kind="encoder_only",
        vocabulary_size=4 * TOKENS,
        num_layers=num_layers,
        hidden_dim=width,
        intermediate_dim=width,
        num_heads=1,
        positions="none",
        norm_placement=norm_placement,
        merge=merge,
        activation="relu",
        initializer="normal",
        initializer_range=width**-0.5,
        scale_embeddings=True,
        pad_token_id=None,
    )


def draw_weights(model: keras.Model, spec: builders.TransformerSpec, seed: int) -> None:
    """Give all kernels and embeddings new normal values, and queries and keys zero.

    They are drawn by NumPy, so that they are the same on every backend.
    """
    random = np.random.default_rng(seed)
    for layer in model.layers:
        for variable in layer.weights:
            if variable.name not in ("kernel", "embeddings"):
                continue
            values = random.standard_normal(variable.shape, "float32") * spec.initializer_range
            is_zero = layer.name.endswith((".query", ".key"))
            variable.assign(np.zeros_like(values) if is_zero else values)


def sequences() -> np.ndarray:
    """Return four sequences in which no token occurs twice, int (4, s)."""
    return np.arange(4 * TOKENS, dtype="int32").reshape(4, TOKENS)


def stream_sizes(
    spec: builders.TransformerSpec, seeds: int, sublayer: str = "feedforward"
) -> np.ndarray:
    """Return E|x|^2 / d of the sums that end a sublayer, before any norm: (seeds, blocks)."""
    import keras

    model = builders.build(spec)
    names = [f"encoder.block_{i}.{sublayer}.residual" for i in range(spec.num_layers)]
    sums = keras.Model(model.input, [model.get_layer(name).output for name in names])
    rows = []
    for seed in range(seeds):
        draw_weights(model, spec, seed)
        outputs = sums(sequences())
        arrays = [keras.ops.convert_to_numpy(x) for x in as_list(outputs)]
        rows.append([float(np.mean(np.square(x, dtype="float64"))) for x in arrays])
    return np.array(rows)


def as_list(outputs: Any) -> list[Any]:
    """Return the outputs of a model as a list; Keras returns a single one alone."""
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def last_gradient(model: keras.Model, seed: int) -> float:
    """Return the norm of the gradient of the last feed-forward kernel of the last block.

    The loss is that of one position, as in the theorem: the cross-entropy of a random target under
    a Xavier normal projection of the hidden state to d logits.
    """
    from keras import ops

    name = [layer.name for layer in model.layers if layer.name.endswith(".feedforward.down")][-1]
    d = model.get_layer(name).kernel.shape[-1]
    random = np.random.default_rng((seed, 1))
    readout = random.standard_normal((d, d), "float32") * d**-0.5
    target = random.integers(d, size=(1, 1)).astype("int32")

    def loss(outputs: Any) -> Any:
        logits = ops.matmul(outputs["hidden"][:, :1], readout)
        return ops.mean(ops.sparse_categorical_crossentropy(target, logits, from_logits=True))

    return kernel_gradients(model, [name], sequences()[:1], loss)[0]


def kernel_gradients(
    model: keras.Model, names: Sequence[str], inputs: Any, loss: Any
) -> list[float]:
    """Return the Frobenius norm of the gradient of the kernels of some layers.

    Args:
        model: the model.
        names: names of its layers.
        inputs: as the model takes them.
        loss: function of its outputs.
    """
    from keras import ops

    kernels = {name: model.get_layer(name).kernel for name in names}
    owners = {id(kernel): name for name, kernel in kernels.items()}
    fixed = [v.value for v in model.non_trainable_variables]

    def loss_at(values: Mapping[str, Any]) -> Any:
        trained = [
            values[owners[id(v)]] if id(v) in owners else v.value for v in model.trainable_variables
        ]
        return loss(model.stateless_call(trained, fixed, inputs)[0])

    at = {name: ops.convert_to_tensor(kernel.value) for name, kernel in kernels.items()}
    found = gradient(loss_at, at)
    return [float(np.linalg.norm(ops.convert_to_numpy(found[name]))) for name in names]


def gradients_by_block(spec: builders.TransformerSpec, seed: int) -> list[float]:
    """Return the norm of the gradient of the last feed-forward kernel of every decoder block.

    The model is new, with the initializer of its spec, and the loss is the mean cross-entropy of
    random tokens.
    """
    from keras import ops

    with own_random(seed):
        model = builders.build(spec)
    random = np.random.default_rng(seed)
    source, target = (
        random.integers(spec.vocabulary_size, size=(4, n)).astype("int32")
        for n in (TOKENS, TOKENS + 1)
    )
    inputs, labels = target[:, :-1], target[:, 1:]
    names = [f"decoder.block_{i}.feedforward.down" for i in range(spec.num_layers)]

    def loss(logits: Any) -> Any:
        return ops.mean(ops.sparse_categorical_crossentropy(labels, logits, from_logits=True))

    given = {"source": source, "target": inputs} if spec.kind == "encoder_decoder" else inputs
    return kernel_gradients(model, names, given, loss)


def norm_jacobian_sizes(norm: str, point: np.ndarray, scales: Sequence[float]) -> list[float]:
    """Return the spectral norm of the Jacobian of a norm at several multiples of a point (d)."""
    import keras
    from keras import ops

    from builders.norms import norm as wire_norm
    from builders.scope import LayerScope

    spec = analysed_spec("pre", 1, len(point)).replace(norm=norm)
    x = keras.Input(point.shape)
    model = keras.Model(x, wire_norm(LayerScope(spec), x))
    # One copy of the point for each output, so that the gradient of the trace has the rows of J.
    copies = np.tile(point, (len(point), 1))
    sizes = []
    for scale in scales:
        at = {"x": ops.convert_to_tensor(scale * copies)}
        rows = gradient(lambda at: ops.sum(ops.multiply(model(at["x"]), np.eye(len(point)))), at)
        sizes.append(float(np.linalg.norm(ops.convert_to_numpy(rows["x"]), 2)))
    return sizes
