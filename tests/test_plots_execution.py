"""Call by call, models compute the same values, and every edge has its gradient."""

import importlib.util
import os
import subprocess
import sys
from collections import OrderedDict, namedtuple
from functools import cache
from pathlib import Path

import keras
import numpy as np
import plots_models
import pytest
from keras import layers, ops
from small_models import dtype_policy_scope, small_spec

import builders  # makes dotted names possible on PyTorch, too
import plots
from plots.measuring.execution import Execution
from plots.measuring.gradients import loss_of_outputs

keras.utils.set_random_seed(0)
DECODER = plots_models.decoder_only()


def masked_translator():
    """Implicit masks everywhere; both cross-attentions take them off the same encoder output."""
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    x = layers.Embedding(11, 7, mask_zero=True)(source)
    y = layers.Embedding(13, 7, mask_zero=True)(target)
    y = layers.Add()([y, layers.MultiHeadAttention(2, 3)(y, y, use_causal_mask=True)])
    for _ in range(2):
        y = layers.Add()([y, layers.MultiHeadAttention(2, 3)(y, x)])
    # In the order of the arguments the first pooling would come before the attention that takes
    # the mask off what it pools; Keras computes it afterwards.
    pooled = layers.GlobalAveragePooling1D()(y)
    other = layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(2, 3)(y, y))
    return keras.Model([source, target], {"pooled": layers.Concatenate()([pooled, other]), "y": y})


def nested():
    x = keras.Input((5, 7), name="x")
    inner = keras.Sequential([keras.Input((7,)), layers.Dense(7, "relu"), layers.Dense(7)])
    row, column = keras.Input((7,)), keras.Input((7,))
    two = keras.Model([row, column], [row + layers.Dense(7)(column), row * 2.0])
    y = layers.TimeDistributed(inner)(x) + layers.TimeDistributed(layers.Dense(7))(x)
    first, second = two([y[:, 0], y[:, 1]])
    return keras.Model(x, [inner(two([second, first])[0]), inner(first)])


class Block(layers.Layer):
    """A layer made of layers, that asks for the size of an axis that is free."""

    def __init__(self):
        super().__init__()
        self.attention = layers.MultiHeadAttention(2, 3, name="attention")
        self.up, self.down = layers.Dense(11, "relu", name="up"), layers.Dense(7, name="down")

    def build(self, shape):
        self.attention.build(shape, shape)
        self.up.build(shape)
        self.down.build((*shape[:-1], 11))

    def call(self, x):
        x = x + self.attention(x, x)
        rows = ops.reshape(x, (-1, ops.shape(x)[1] * 7))
        return x + self.down(self.up(ops.reshape(rows, ops.shape(x))))


def blocks():
    x = keras.Input((None, 7), name="x")
    return keras.Model(x, layers.Dense(5)(Block()(Block()(x))))


def of_all_sorts():
    image, scale = keras.Input((9, 9, 3), name="image"), keras.Input((), name="scale")
    x = layers.BatchNormalization()(layers.Conv2D(5, 3)(image))
    parts = ops.split(x, [2], axis=-1)
    joined = ops.concatenate(parts[::-1], axis=-1) * ops.reshape(scale, (-1, 1, 1, 1))
    return keras.Model({"image": image, "scale": scale}, ops.mean(ops.relu(joined), axis=(1, 2)))


Pair = namedtuple("Pair", ["left", "right"])


class Difference(layers.Layer):
    """Takes its tensors by the names of a named tuple, and the order in a dictionary matters."""

    def call(self, pair, others):
        return pair.left - pair.right * next(iter(others.values()))


def structured_arguments():
    left, right = keras.Input((7,), name="left"), keras.Input((7,), name="right")
    others = OrderedDict(z=left, a=right)
    return keras.Model([left, right], Difference()(Pair(right, left), others))


def fitted():
    """Nested models whose inputs have one axis more or fewer, or are integers."""
    one, none = keras.Input((1,)), keras.Input(())
    wider, narrower = keras.Model(one, layers.Dense(5)(one)), keras.Model(none, none * 2.0 + 1.0)
    number = keras.Input((), dtype="int32")
    rounded = keras.Model(number, layers.Embedding(7, 5)(number))
    x, y = keras.Input(()), keras.Input((1,))
    return keras.Model([x, y], [wider(x), narrower(y), rounded(ops.clip(ops.abs(x), 0, 6))])


MODELS = {
    "fitted": fitted,
    "decoder": lambda: DECODER,
    "translator": plots_models.encoder_decoder,
    "masks": masked_translator,
    "nested": nested,
    "blocks": blocks,
    "all sorts": of_all_sorts,
    "structured": structured_arguments,
    "sequential": lambda: keras.Sequential([keras.Input((3,)), layers.Dense(5)]),
}


@cache
def model_of(name):
    return MODELS[name]()


def as_called(model, inputs):
    structure = getattr(model, "_inputs_struct", None)
    named = [inputs[tensor.name] for tensor in model.inputs]
    return inputs if isinstance(structure, dict) else named if len(named) > 1 else named[0]


def arrays(outputs):
    return [ops.convert_to_numpy(output) for output in keras.tree.flatten(outputs)]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("opened", [False, True], ids=["closed", "opened"])
@pytest.mark.parametrize("name", MODELS)
def test_values_of_the_last_calls_are_the_outputs_of_the_model(name, opened):
    model = model_of(name)
    inputs = plots.random_inputs(model, seed=3)
    if name == "masks":
        inputs["source"][0, 2:] = inputs["target"][1, 5:] = 0
    values = plots.call_values(model, inputs, opened, opened)
    graph = plots.read_graph(model, opened, opened)
    found = [values[node_id][output] for node_id, output in graph.outputs]
    for actual, expected in zip(found, arrays(model(as_called(model, inputs))), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


def test_gradients_of_weights_and_of_chosen_edges():
    x = keras.Input((3,), name="x")
    hidden = layers.Dense(5, use_bias=False, name="first")(x)
    model = keras.Model(x, layers.Dense(2, name="second")(hidden))
    batch = np.arange(21.0, dtype="float32").reshape(7, 3)
    execution = Execution.of(model, batch)
    first, second = (model.get_layer(name).kernel for name in ("first", "second"))
    edge = "first -> second.inputs"
    found = execution.gradients(lambda outputs: ops.sum(outputs[0]), [edge], [first, second])
    assert found.keys() == {edge, first.path, second.path}
    weights = ops.convert_to_numpy(first), ops.convert_to_numpy(second)
    along = np.ones((7, 2)) @ weights[1].T
    np.testing.assert_allclose(found[edge], along, rtol=1e-5)
    np.testing.assert_allclose(found[first.path], batch.T @ along, rtol=1e-5)
    expected = (batch @ weights[0]).T @ np.ones((7, 2))
    np.testing.assert_allclose(found[second.path], expected, rtol=1e-4)


def test_the_value_of_every_layer_is_the_output_of_a_model_that_ends_there():
    names = [layer.name for layer in DECODER.layers[1:]]
    ending = keras.Model(DECODER.inputs, [DECODER.get_layer(name).output for name in names])
    inputs = plots.random_inputs(DECODER)
    values = plots.call_values(DECODER, inputs)
    for name, expected in zip(names, arrays(ending([inputs["tokens"]])), strict=True):
        np.testing.assert_allclose(values[name][0], expected, rtol=1e-6, atol=1e-6)


def test_every_call_has_a_value_except_inside_of_time_distributed_models():
    model = model_of("nested")
    assert plots.call_values(model).keys() == plots.read_graph(model).index.keys()
    opened = plots.read_graph(model, open_nested=True)
    missing = opened.index.keys() - plots.call_values(model, open_nested=True).keys()
    assert missing == {"time_distributed#1.dense#1"}


def test_calls_inside_of_layers_are_computed_for_the_sizes_of_the_batch():
    model = model_of("blocks")
    x = np.random.default_rng(3).normal(size=(3, 13, 7)).astype("float32")
    values = plots.call_values(model, x, open_layers=True)
    assert values.keys() == plots.read_graph(model, open_layers=True).index.keys()
    assert values["block#1.reshape#1"][0].shape == (3, 13 * 7)
    (expected,) = arrays(model.layers[2].down(values["block#2.up"][0]))
    np.testing.assert_allclose(values["block#2.down"][0], expected, atol=1e-6)
    assert "block#1.add#1 -> block#1.add#2.x1" in plots.edge_gradients(model, x, open_layers=True)
    assert [*plots.attention_maps(model, x, open_layers=True)] == [
        "block#1.attention",
        "block#2.attention",
    ]
    assert len(plots.depth_profile(model, x).places) == 4


@pytest.mark.parametrize("factor", [2, 1.01])
def test_opened_layers_that_compute_something_else_are_an_error(factor):
    class TwoFaced(Block):
        def call(self, x):
            return super().call(x) * (1 if isinstance(x, keras.KerasTensor) else factor)

    tokens = keras.Input((None,), dtype="int32")
    model = keras.Model(tokens, TwoFaced()(layers.Embedding(11, 7)(tokens)))
    with pytest.raises(ValueError, match="read it with open_layers=False"):
        plots.call_values(model, np.array([[3, 5, 0]]), open_layers=True)


def test_opened_layers_may_differ_by_rounding_in_half_precision():
    with dtype_policy_scope("mixed_bfloat16"):
        model = blocks()
    x = np.random.default_rng(5).normal(size=(3, 13, 7)).astype("float32")
    assert "block#1.up" in plots.call_values(model, x, open_layers=True)


def test_implicit_masks_of_padding_reach_later_calls():
    model = model_of("masks")
    inputs = {"source": np.full((1, 5), 3), "target": np.full((1, 4), 3)}
    padded = {"source": np.array([[3, 3, 3, 3, 3, 0, 0]]), "target": np.array([[3, 3, 3, 3]])}
    first = plots.call_values(model, inputs)["add#2"][0]
    np.testing.assert_allclose(plots.call_values(model, padded)["add#2"][0], first, atol=1e-6)


def test_a_value_that_two_calls_take_has_a_gradient_on_each_edge():
    x = keras.Input((5,), name="x")
    branch = layers.Dense(5, name="branch")
    model = keras.Model(x, layers.Add(name="merge")([x, branch(x)]))
    weight = np.random.default_rng(1).normal(size=(3, 5)).astype("float32")
    found = plots.edge_gradients(
        model, np.ones((3, 5), "float32"), loss=lambda y: ops.sum(y * ops.convert_to_tensor(weight))
    )
    kernel = ops.convert_to_numpy(branch.kernel)
    expected = {
        "x -> branch.inputs": weight @ kernel.T,
        "x -> merge.inputs.0": weight,
        "branch -> merge.inputs.1": weight,
    }
    assert found.keys() == expected.keys()
    for edge, gradient in expected.items():
        np.testing.assert_allclose(found[edge], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["decoder", "masks"])
def test_gradients_predict_how_the_loss_changes_with_the_embedding(name):
    model = model_of(name)
    inputs = plots.random_inputs(model, seed=5)
    if name == "masks":  # no query is padding: of those PyTorch's own gradients are wrong
        inputs["source"][1, 5:] = 0
    loss = loss_of_outputs(model, None, None, seed=7)
    embedding = next(n for n in plots.read_graph(model).nodes if n.config.get("input_dim") == 13)
    table = model.get_layer(embedding.name).embeddings
    before = ops.convert_to_numpy(table.value).copy()
    start, direction = np.random.default_rng(11).normal(size=(2, *table.shape))
    step, losses = 1e-3, []
    for sign in (1, -1):
        table.assign(start + sign * step * direction)
        outputs = keras.tree.flatten(model(as_called(model, inputs)))
        losses.append(float(ops.convert_to_numpy(loss(outputs))))
    table.assign(start)
    execution = Execution.of(model, inputs)
    gradient = execution.summed_gradients(execution.gradients(loss))[embedding.id, 0]
    table.assign(before)
    tokens = inputs["target" if name == "masks" else "tokens"]
    slope = (losses[0] - losses[1]) / (2 * step)
    assert (gradient * direction[tokens]).sum() == pytest.approx(slope, rel=2e-2)


def test_the_gradient_of_a_value_is_the_sum_of_those_on_its_edges():
    execution = Execution.of(DECODER)
    on_edges = execution.gradients(loss_of_outputs(DECODER, None, None, seed=0))
    merge = "decoder.block_0.self_attention.residual"
    skip = "decoder.block_0.feedforward.residual"
    parts = [on_edges[e.id] for e in execution.graph.outgoing[merge]]
    assert len(parts) == 2
    summed = execution.summed_gradients(on_edges)
    np.testing.assert_allclose(summed[merge, 0], parts[0] + parts[1], rtol=1e-6)
    # A merge passes its gradient on, along the skip path as along the branch.
    np.testing.assert_allclose(parts[1], summed[skip, 0], rtol=1e-6)
    assert np.sqrt(np.mean(on_edges["output 0"] ** 2)) == pytest.approx(1, rel=0.1)


def test_a_value_that_the_loss_does_not_depend_on_has_a_gradient_of_zero():
    x = keras.Input((3,), name="x")
    model = keras.Model(x, [layers.Dense(5, name="a")(x), layers.Dense(7, name="b")(x)])
    found = plots.edge_gradients(model, loss=lambda outputs: ops.sum(outputs[0]))
    assert found["x -> a.inputs"].any()
    assert not found["x -> b.inputs"].any()


def test_gradients_of_the_compiled_loss_are_those_of_the_same_loss_given():
    x = keras.Input((3,), name="x")
    model = keras.Model(x, [layers.Dense(5, name="a")(x), layers.Dense(5, name="b")(x)])
    model.compile(loss=["mse", "mae"])
    one = keras.Model(x, model.outputs[0])
    inputs, targets = np.ones((2, 3)), np.zeros((2, 5))
    both = plots.edge_gradients(model, inputs, targets=[targets, targets])
    edge = "x -> a.inputs"
    given = plots.edge_gradients(one, inputs, targets=targets, loss="mse")[edge]
    np.testing.assert_allclose(both[edge], given, rtol=1e-5, atol=1e-6)
    assert both["x -> b.inputs"].any()
    model.evaluate(inputs, [targets, targets], verbose=0)  # and its own metrics are there


def test_values_at_padding_have_a_gradient_of_zero():
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = layers.Embedding(11, 7, mask_zero=True, name="table")(tokens)
    y = layers.Dense(5, name="y")
    model = keras.Model(tokens, y(x))
    model.compile(loss="mse")
    given = np.array([[3, 5, 7, 0, 0], [2, 3, 0, 0, 0]])
    targets = np.random.default_rng(1).normal(size=(2, 5, 5)).astype("float32")
    (found,) = plots.edge_gradients(model, given, targets=targets).values()
    real = (given > 0)[..., None]
    error = (arrays(model(given))[0] - targets) * real
    expected = 2 / 5 * error / real.sum() @ ops.convert_to_numpy(y.kernel).T
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_measuring_does_not_change_the_model():
    model = model_of("all sorts")
    before = [ops.convert_to_numpy(weight).copy() for weight in model.variables]
    plots.edge_gradients(model)
    for weight, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), value)


@pytest.mark.parametrize(
    "inputs",
    [{"tokens": [[3, 5, 7]]}, [[3, 5, 7]], [np.array([[3, 5, 7]])], np.array([[3, 5, 7]])],
    ids=["by name", "numbers", "list", "array"],
)
def test_inputs_are_accepted_by_name_as_a_list_and_as_an_array(inputs):
    expected = arrays(DECODER(np.array([[3, 5, 7]])))[0]
    np.testing.assert_allclose(plots.call_values(DECODER, inputs)["logits"][0], expected, atol=1e-6)


def unweighted():
    return builders.build_decoder_only(small_spec(), abstract=True)


def decisions():
    x = keras.Input((3,), name="x")
    return keras.Model(x, ops.argmax(layers.Dense(5)(x), axis=-1))


@pytest.mark.parametrize(
    ("make", "options", "error", "says"),
    [
        (decisions, {}, ValueError, "returns int32, but only floats have gradients"),
        (unweighted, {}, ValueError, "no weights, only their shapes"),
        (
            lambda: DECODER,
            {"inputs": {"word": [1]}},
            ValueError,
            r"has the shape \(None, N",
        ),
        (lambda: DECODER, {"inputs": [np.ones(3)] * 2}, ValueError, "has the inputs 'tokens', but"),
        (
            lambda: DECODER,
            {"inputs": np.ones(3)},
            ValueError,
            r"the shape \(None, None\)",
        ),
        (lambda: DECODER, {"targets": [1]}, ValueError, "was not compiled with a loss"),
        (lambda: DECODER, {"loss": "mse"}, TypeError, "compares outputs with targets"),
        (lambda: keras.Sequential([layers.Dense(3)]), {}, ValueError, "not built"),
    ],
    ids=[
        "decisions",
        "abstract",
        "name",
        "two for one",
        "rank",
        "targets",
        "no targets",
        "not built",
    ],
)
def test_invalid_models_inputs_and_losses_are_errors(make, options, error, says):
    with pytest.raises(error, match=says):
        plots.edge_gradients(make(), **options)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="once is enough")
def test_measuring_works_on_pytorch():
    tests = Path(__file__).parent
    files = [
        str(tests / f"test_plots_{name}.py")
        for name in ("execution", "random_inputs", "depth", "attention_maps", "attentions")
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *files],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        cwd=tests.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
