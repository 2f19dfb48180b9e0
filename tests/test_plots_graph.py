"""Reading Keras models into plain graphs."""

import json
import os

import keras
import plots_models
import pytest
from keras import layers
from python_process import ROOT, run_python

import plots


def edges_into(graph, node_id):
    return [(edge.source, edge.port) for edge in graph.incoming[node_id]]


def test_parallel_edges_are_kept_with_their_ports():
    x = keras.Input((5, 7), name="x")
    attended = layers.MultiHeadAttention(3, 2, name="attention")(x, x, key=x)
    graph = plots.read_graph(keras.Model(x, attended))
    assert edges_into(graph, "attention") == [("x", "query"), ("x", "value"), ("x", "key")]


def test_a_mask_has_its_own_port():
    x, mask = keras.Input((5, 7), name="x"), keras.Input((5, 5), dtype="bool", name="mask")
    attended = layers.MultiHeadAttention(3, 2, name="attention")(x, x, attention_mask=mask)
    graph = plots.read_graph(keras.Model([x, mask], attended))
    assert ("mask", "attention_mask") in edges_into(graph, "attention")


def test_a_layer_called_three_times_is_three_nodes_with_one_set_of_weights():
    x, shared = keras.Input((7,), name="x"), layers.Dense(7, name="shared")
    model = keras.Model(x, shared(shared(shared(x))))
    graph = plots.read_graph(model)
    assert graph.ties == {"shared": ("shared", "shared@2", "shared@3")}
    assert edges_into(graph, "shared@3") == [("shared@2", "inputs")]
    assert graph.parameters == model.count_params() == 7 * 7 + 7
    assert [graph.node(call).parameters for call in graph.ties["shared"]] == [56, 56, 56]


def test_every_call_has_its_own_shapes():
    x, y, shared = keras.Input((3, 7)), keras.Input((5, 7)), layers.Dense(11, name="shared")
    graph = plots.read_graph(keras.Model([x, y], [shared(x), shared(y)]))
    assert graph.node("shared").outputs == (plots.Tensor((None, 3, 11), "float32"),)
    assert graph.node("shared@2").outputs == (plots.Tensor((None, 5, 11), "float32"),)


def test_shapes_dtypes_configuration_and_namespace_are_read():
    graph = plots.read_graph(plots_models.decoder_only())
    up = graph.node("decoder.block_1.feedforward.up")
    assert (up.class_name, up.label) == ("Dense", "up")
    assert up.namespace == "decoder.block_1.feedforward"
    assert up.outputs == (plots.Tensor((None, None, 11), "float32"),)
    assert (up.parameters, up.trainable_parameters, up.trainable) == (7 * 11 + 11, 88, True)
    assert up.activation == "relu"
    assert up.config["units"] == 11
    assert graph.node("tokens").outputs == (plots.Tensor((None, None), "int32"),)
    json.dumps([dict(node.config) for node in graph.nodes])


def test_weights_of_frozen_layers_are_counted_separately():
    x, frozen = keras.Input((3,)), layers.Dense(5, name="frozen")
    model = keras.Model(x, layers.Dense(7)(frozen(x)))
    frozen.trainable = False
    graph = plots.read_graph(model)
    assert (graph.parameters, graph.trainable_parameters) == (20 + 42, 42)
    assert graph.node("frozen").trainable is False


def test_constants_are_kept():
    x = keras.Input((3,), name="x")
    graph = plots.read_graph(keras.Model(x, keras.ops.add(x * 2.0, keras.ops.ones((5, 3)))))
    assert graph.node("multiply#1").constants == (plots.Constant("x2", 2.0),)
    assert graph.node("add#1").constants == (plots.Constant("x2", None, (5, 3), "float32", "ones"),)


def test_calls_are_in_topological_order_with_the_encoder_before_the_decoder():
    graph = plots.read_graph(plots_models.encoder_decoder())
    assert all(graph.index[edge.source] < graph.index[edge.target] for edge in graph.edges)
    encoder = [graph.index[node.id] for node in graph.nodes if node.namespace.startswith("enc")]
    assert max(encoder) < graph.index["target"]
    assert graph.inputs == ("source", "target")
    assert graph.outputs == (("logits", 0),)


def test_an_unused_input_is_kept():
    x, unused = keras.Input((3,), name="x"), keras.Input((5,), name="unused")
    graph = plots.read_graph(keras.Model([x, unused], layers.Dense(7)(x)))
    assert graph.inputs == ("x", "unused")


def test_a_sequential_model_is_read():
    model = keras.Sequential([keras.Input((3,), name="x"), layers.Dense(5, name="a")])
    graph = plots.read_graph(model)
    assert [node.id for node in graph.nodes] == ["x", "a"]


def test_a_nested_model_is_one_node_or_opened():
    inner_x = keras.Input((7,), name="inner_x")
    inner = keras.Model(inner_x, layers.Dense(7, name="inside")(inner_x), name="inner")
    x = keras.Input((7,), name="x")
    model = keras.Model(x, inner(inner(x)))
    closed = plots.read_graph(model)
    assert [(node.id, node.kind) for node in closed.nodes] == [
        ("x", "input"),
        ("inner", "model"),
        ("inner@2", "model"),
    ]
    opened = plots.read_graph(model, open_nested=True)
    assert [node.id for node in opened.nodes] == ["x", "inner.inside", "inner@2.inside"]
    assert opened.ties == {"inner.inside": ("inner.inside", "inner@2.inside")}
    assert opened.outputs == (("inner@2.inside", 0),)
    assert closed.parameters == opened.parameters == model.count_params()


DESCRIBE_ELSEWHERE = """
import keras
import plots_models
for _ in range(3):  # advance the numbers in the names of Keras
    keras.layers.Dense(3)(keras.layers.Dense(3)(keras.Input((3,))) + 1.0)
print(plots_models.described())
"""


@pytest.mark.slow
def test_ids_and_diagrams_are_equal_in_every_process():
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    elsewhere = run_python(DESCRIBE_ELSEWHERE, PYTHONHASHSEED="12345", PYTHONPATH=paths)
    here = plots_models.described()
    assert elsewhere.strip() == here.strip()
    assert "dense#1" in here


def test_importing_plots_imports_no_large_package():
    heavy = ["keras", "tensorflow", "keras_hub", "pydot", "pygraphviz", "matplotlib", "builders"]
    code = f"import sys, plots; print([name for name in {heavy} if name in sys.modules])"
    assert run_python(code).strip() == "[]"


class Subclassed(keras.Model):
    def call(self, x):
        return x


NOWHERE = keras.KerasTensor((None, 3), name="nowhere")


def in_the_middle():
    between = keras.ops.relu(keras.Input((3,)))
    between.name = "between"
    return keras.Function(between, layers.Dense(5)(between))


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (Subclassed, TypeError, "no graph to read. Build it with the Functional API"),
        (lambda: keras.Sequential([layers.Dense(3)]), ValueError, "not built"),
        (lambda: layers.Dense(3), TypeError, "got a .*Dense"),
        (in_the_middle, ValueError, "begins at 'between', which is not a keras.Input"),
        (
            lambda: keras.Function(NOWHERE, NOWHERE * 2.0),
            ValueError,
            "'nowhere', which is not a keras",
        ),
        (lambda: "model.keras", TypeError, "keras.models.load_model"),
        (lambda: None, TypeError, "got a .*NoneType"),
    ],
)
def test_a_model_without_graph_raises_an_error_with_a_remedy(make, error, says):
    with pytest.raises(error, match=says):
        plots.read_graph(make())


def test_an_unknown_id_raises_an_error():
    graph = plots.read_graph(keras.Sequential([keras.Input((3,)), layers.Dense(5)]))
    with pytest.raises(KeyError, match="no node with id 'nowhere'"):
        graph.node("nowhere")


class Residual(layers.Layer):
    """A residual block that hides its data flow in `call`, as most Transformer code does."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.LayerNormalization(name="norm")
        self.attention = layers.MultiHeadAttention(3, 5, name="attention")

    def build(self, shape):
        self.norm.build(shape)
        self.attention.build(shape, shape)

    def call(self, x):
        batch, length, _ = keras.ops.shape(x)
        mask = keras.ops.tril(keras.ops.ones((batch, length, length), "bool"))  # needs numbers
        y = self.norm(x)
        return x + self.attention(y, y, attention_mask=mask)


class Stubborn(Residual):
    def call(self, x):
        return keras.ops.convert_to_tensor(keras.ops.convert_to_numpy(super().call(x)))

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


def test_a_composite_layer_is_opened_with_its_variable_axes():
    x = keras.Input((None, 7), name="x")
    model = keras.Model(x, Residual(7, name="block_1")(Residual(7, name="block_0")(x)))
    closed, opened = plots.read_graph(model), plots.read_graph(model, open_layers=True)
    assert [node.id for node in closed.nodes] == ["x", "block_0", "block_1"]
    assert [path.target for path in plots.skip_paths(opened)] == ["block_0.add#1", "block_1.add#1"]
    assert {node.outputs[0].shape for node in opened.nodes} == {(None, None, 7)}
    (mask,) = [c for c in opened.node("block_1.attention").constants if c.port == "attention_mask"]
    assert mask.pattern == "lower triangular"
    assert opened.parameters == closed.parameters == model.count_params()
    assert plots.fold(opened).repeats == {"block_0": 2}


def test_a_layer_whose_call_needs_values_stays_one_node():
    x = keras.Input((None, 7), name="x")
    model = keras.Model(x, Stubborn(7, name="block_0")(x))
    assert [node.id for node in plots.read_graph(model, open_layers=True).nodes] == ["x", "block_0"]


class Tower(keras.Model):
    """A subclassed model that is used as a layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = Residual(7, name="block_0")
        self.unused = layers.Dropout(0.1, name="unused")

    def build(self, shape):
        self.block.build(shape)

    def call(self, x):
        self.unused(x)
        return self.block(x)


class Failing(Tower):
    def call(self, x):
        super().call(x)
        raise RuntimeError("not on symbolic tensors")

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


def test_a_subclassed_model_used_as_a_layer_is_opened():
    x = keras.Input((None, 7), name="x")
    model = keras.Model(x, Tower(name="my_tower")(x))
    assert [node.id for node in plots.read_graph(model).nodes] == ["x", "my_tower"]
    graph = plots.read_graph(model, open_layers=True)
    assert [node.id for node in graph.nodes] == [
        "x",
        "my_tower.block_0.norm",
        "my_tower.block_0.attention",
        "my_tower.block_0.add#1",
    ]
    assert graph.parameters == model.count_params()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("make", [Tower, Failing])
def test_opening_layers_leaves_no_records_of_calls(make):
    x = keras.Input((None, 7), name="x")
    tower = make(name="tower")
    model = keras.Model(x, tower(x))
    parts = [tower, *tower._flatten_layers()]

    def records():
        return [(len(part._inbound_nodes), len(part._outbound_nodes)) for part in parts]

    before = records()
    for _ in range(2):
        plots.read_graph(model, open_layers=True)
    assert records() == before
