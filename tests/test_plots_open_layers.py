"""Composite layers are opened, compute the same, and say why when they stay closed."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import plots


def composite(name, base=layers.Layer):
    """Return a composite layer class of this name."""

    class Composite(base):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.up = layers.Dense(7, name="up")

        def build(self, shape):
            self.up.build(shape)

        def call(self, x):
            return x + self.up(x)

    return type(name, (Composite,), {})


def opened(*composites):
    x = y = keras.Input((5, 7), name="x")
    for layer in composites:
        y = layer(y)
    return [node.id for node in plots.read_graph(keras.Model(x, y), open_layers=True).nodes]


@pytest.mark.parametrize("name", ["Block", "AttentionBlock", "CausalSelfAttention"])
def test_a_composite_layer_is_opened_whatever_its_class_is_called(name):
    assert opened(composite(name)(name="one")) == ["x", "one.up", "one.add#1"]


@pytest.mark.parametrize("name", ["Block", "AttentionBlock"])
def test_a_composite_layer_that_declares_attention_stays_closed(name):
    cls = composite(name)
    cls.graph_declaration = {"role": "attention"}
    assert opened(cls(name="one")) == ["x", "one"]
    cls.graph_declaration = {"products": []}
    assert opened(cls(name="two")) == ["x", "two.up", "two.add#1"]


@pytest.mark.parametrize("name", ["Mixer", "MixerAttention"])
def test_attention_layers_of_query_and_value_stay_closed_and_those_of_one_tensor_are_opened(name):
    from keras_hub.src.models.llama.llama_attention import LlamaAttention

    attention, llama = (type(name, (c,), {}) for c in (layers.MultiHeadAttention, LlamaAttention))
    x = keras.Input((5, 6), name="x")
    y = attention(3, 2, name="first")(x, x)
    y = llama(num_query_heads=3, num_key_value_heads=1, name="second")(y)
    model = keras.Model(x, y)
    nodes = plots.read_graph(model, open_layers=True).nodes
    assert [node.id for node in nodes][:3] == ["x", "first", "second.query"]


@pytest.mark.parametrize("name", ["Block", "Tower"])
def test_layers_numbered_from_zero_keep_their_names_whatever_their_class_is_called(name):
    cls = composite(name)
    x = y = keras.Input((5, 7), name="x")
    for number in range(3):
        y = cls(name=f"block_{number}")(y)
    graph = plots.read_graph(keras.Model(x, y))
    assert [node.id for node in graph.nodes] == ["x", "block_0", "block_1", "block_2"]
    assert plots.fold(graph).repeats == {"block_0": 3}


# What a call may take and return


class TwoParts(layers.Layer):
    """A composite layer of two Dense layers; subclasses have the `call`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.up, self.down = layers.Dense(11, activation="relu"), layers.Dense(7)
        self.parts = [self.up, self.down]

    def build(self, shape):
        self.up.build(shape)
        self.down.build((*shape[:-1], 11))

    def compute_output_shape(self, shape, **kwargs):
        return shape


class WithoutTraining(TwoParts):
    def call(self, x):
        return x + self.down(self.up(x))


class Returning(layers.Layer):
    """A sublayer that returns a cache too, and refuses its argument when asked for shapes."""

    def __init__(self, cache=None, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.given = layers.Dense(7, activation="relu"), cache

    def build(self, shape):
        self.dense.build(shape)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)

    def call(self, x, cache=None):
        return self.dense(x), self.given


class WithCache(TwoParts):
    def __init__(self, cache=None, **kwargs):
        super().__init__(**kwargs)
        self.inner = Returning(cache)

    def build(self, shape):
        super().build(shape)
        self.inner.build(shape)

    def call(self, x):
        y, _ = self.inner(x, cache=None)
        return x + self.down(self.up(y))


class WithWeights(TwoParts):
    def build(self, shape):
        super().build(shape)
        self.scale = self.add_weight(shape=(7,), name="scale", initializer="ones")
        self.token = self.add_weight(shape=(1, 1, 7), name="token", trainable=False)

    def call(self, x):
        tokens = ops.tile(ops.cast(self.token, x.dtype), (1, 1, 1))
        return x + self.scale * self.down(self.up(x + tokens))


class WithListOfWeights(TwoParts):
    def build(self, shape):
        super().build(shape)
        self.scales = {"first": [self.add_weight(shape=(7,), name="scale")]}

    def call(self, x):
        return x + self.down(self.up(x * ops.cast(self.scales["first"][0], x.dtype)))


class WithCondition(TwoParts):
    """Weights in a function that an operation calls."""

    def call(self, x):
        scaled = ops.cond(ops.max(x) > 0, lambda: 2.0 * self.scale, lambda: 1.0 - self.scale)
        return x + self.down(self.up(x * scaled))

    def build(self, shape):
        super().build(shape)
        self.scale = self.add_weight(shape=(7,), name="scale", initializer="ones")


class WithMask(TwoParts):
    """The mask has the length at another axis than the sequence."""

    def call(self, x):
        scores = ops.matmul(x, ops.swapaxes(x, 1, 2)) + ops.expand_dims(ops.sum(x, -1), 1)
        return x + self.down(self.up(ops.matmul(scores, x)))


class WithSideEffects(TwoParts):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed = keras.random.SeedGenerator(5)

    def call(self, x):
        self.add_loss(ops.sum(x))
        noise = keras.random.normal(ops.shape(x), seed=self.seed)
        return x + self.down(self.up(x + 0.0 * noise))


class WithArray(TwoParts):
    """An array of the backend stands before an operator."""

    def call(self, x):
        return x + self.down(self.up(ops.arange(7.0) * x))


KINDS = {
    "training": (WithoutTraining, {"training": True}),
    "cache": (WithCache, {}),
    "weights": (WithWeights, {}),
    "list of weights": (WithListOfWeights, {}),
    "condition": (WithCondition, {}),
    "mask": (WithMask, {}),
    "side effects": (WithSideEffects, {}),
    "array": (WithArray, {}),
}


@pytest.mark.parametrize("length", [5, None])
@pytest.mark.parametrize(("kind", "arguments"), KINDS.values(), ids=KINDS)
def test_a_layer_opens_whatever_its_call_takes_and_computes_the_same(kind, arguments, length):
    x = keras.Input((length, 7), name="x")
    block = kind(name="block")
    model = keras.Model(x, layers.Dense(3, name="head")(block(x, **arguments)))
    records = [len(layer._inbound_nodes) for layer in block._flatten_layers()]
    graph = plots.read_graph(model, open_layers=True)
    assert graph.notes == ()
    assert {"block"} < {node.namespace for node in graph.nodes}
    assert len(plots.skip_paths(graph)) == 1
    assert (graph.parameters, graph.trainable_parameters) == (
        model.count_params(),
        sum(int(np.prod(v.shape)) for v in model.trainable_weights),
    )
    batch = np.random.default_rng(3).normal(size=(2, 5, 7)).astype("float32")
    values = plots.call_values(model, batch, open_layers=True)
    expected = keras.ops.convert_to_numpy(model(batch))
    np.testing.assert_allclose(values["head"][0], expected, rtol=1e-4, atol=1e-4)
    assert [len(layer._inbound_nodes) for layer in block._flatten_layers()] == records


def test_free_axes_stay_free_whatever_sizes_are_tried():
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    mask = keras.Input((1, None), name="mask")

    class Masked(TwoParts):
        def call(self, x, mask=None):
            scores = ops.matmul(x, ops.swapaxes(x, 1, 2)) + mask  # (b, t, t) and (b, 1, t)
            return x + self.down(self.up(ops.matmul(scores, x)))

    x = layers.Embedding(13, 7, name="words")(tokens)
    graph = plots.read_graph(
        keras.Model([tokens, mask], Masked(name="b")(x, mask)), open_layers=True
    )
    assert graph.notes == ()
    shapes = [node.outputs[0].shape for node in graph.nodes if node.namespace == "b"]
    assert set(shapes) == {(None, None, 7), (None, 7, None), (None, None, None), (None, None, 11)}


class Converted(TwoParts):
    def call(self, x):
        return x + self.down(self.up(ops.convert_to_tensor(np.asarray(x))))


class Hidden(TwoParts):
    def build(self, shape):
        super().build(shape)
        self.add_weight(shape=(1, 7), name="table")

    def call(self, x):
        return x + self.down(self.up(x + ops.cast(self.trainable_weights[0], "float32")))


class Looping(TwoParts):
    def call(self, x):
        steps = [ops.tanh(x[:, step]) for step in range(x.shape[1])]
        return x + self.down(self.up(ops.stack(steps, axis=1)))


class Branching(TwoParts):
    """A function that an operation calls takes a tensor, which no argument shows."""

    def call(self, x):
        y = self.up(x)
        return self.down(ops.cond(ops.max(x) > 0, lambda: y * 2, lambda: y))


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("kind", "length", "reason"),
    [
        (Branching, 5, "Branching stays closed: its call does not run on symbolic tensors"),
        (Converted, 5, "Converted stays closed: its call does not run on symbolic tensors"),
        (Hidden, 5, "Hidden stays closed: no call inside shows the use of its weight 'table'."),
        (Looping, None, "Looping stays closed: its call loops over an axis of variable size."),
        (Looping, 61, "Looping stays closed: its call unrolls a loop: it repeats one operation 61"),
    ],
)
def test_a_note_says_why_a_layer_stays_closed(kind, length, reason):
    x = keras.Input((length, 7), name="x")
    if length is None:
        built = kind(name="one")
        built.compute_output_spec = lambda x: keras.KerasTensor(x.shape, x.dtype)
        built.build((None, None, 7))
        built.built = True
    else:
        built = kind(name="one")
    graph = plots.read_graph(keras.Model(x, kind.__call__(built, x)), open_layers=True)
    (note,) = graph.notes
    assert (note.kind, note.about) == ("closed", ("one",))
    assert note.text.startswith(reason)
    assert plots.Graph.from_json(graph.to_json()) == graph


# Layers that return their input


def halved(z):
    return z / 2


class Droppath(layers.Layer):
    def call(self, x, training=None):
        return x * keras.random.uniform(ops.shape(x)) if training else x


OUTER = layers.Dense(7)
UNKNOWN = {
    "lambda": (lambda: layers.Lambda(lambda z: z), True),
    "constant factor": (lambda: layers.Lambda(halved, name="sine"), True),
    "stopped": (lambda: layers.Lambda(ops.stop_gradient), True),
    "drop path": (Droppath, True),
    "identity by name": (lambda: layers.Lambda(ops.sin, name="identity"), False),
    "reciprocal": (lambda: layers.Lambda(lambda z: 2 / z), False),
    "flipped": (lambda: layers.Lambda(lambda z: ops.flip(z, 1)), False),
    "another layer": (lambda: layers.Lambda(lambda z: OUTER(z)), False),
}


@pytest.mark.parametrize(("make", "is_identity"), UNKNOWN.values(), ids=UNKNOWN)
def test_a_layer_that_returns_its_input_is_found_by_calling_it(make, is_identity):
    x = keras.Input((5, 7), name="x")
    OUTER(x)
    merged = layers.Add()([make()(x), layers.Dense(7, activation="relu")(x)])
    model, records = keras.Model(x, merged), len(OUTER._inbound_nodes)
    assert len(plots.skip_paths(plots.read_graph(model))) == is_identity
    assert len(OUTER._inbound_nodes) == records


# What `call` computes beside symbolic tensors


def by_the_backend(x):
    """A function that takes no symbolic tensors."""
    from keras.src import backend

    return backend.nn.relu(x)


def step_by_step(x):
    for _ in range(60):
        x = ops.tanh(x)
    return x


class Residual(layers.Layer):
    """x + dense(function(x)), with a table of positions that is looked up by an array."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function
        self.dense = layers.Dense(7, name="projection")
        self.table = layers.Embedding(5, 7, name="table")

    def build(self, shape):
        self.dense.build(shape)
        self.table.build()

    def call(self, x):
        y = by_the_backend(x) if self.function == "backend" else step_by_step(x)
        return x + self.dense(y) + self.table(ops.arange(5))


@pytest.mark.parametrize(
    ("function", "name", "reason"),
    [
        ("backend", "by_the_backend#1", "takes no symbolic tensors"),
        ("loop", "step_by_step#1", "repeats its calls, as a loop does"),
    ],
)
def test_a_function_of_the_backend_or_with_a_loop_is_one_call(function, name, reason):
    x = keras.Input((5, 7), name="x")
    model = keras.Model(x, Residual(function, name="one")(x))
    graph = plots.read_graph(model, open_layers=True)
    assert {f"one.{name}", "one.projection", "one.table"} < set(graph.index)
    assert graph.node("one.table").constants[0].pattern == "counting"
    assert graph.parameters == model.count_params() == 7 * 8 + 5 * 7
    assert len(plots.skip_paths(graph)) == 1
    (note,) = graph.notes
    assert note.about == (f"one.{name}",)
    assert reason in note.text
    batch = np.random.default_rng(0).normal(size=(2, 5, 7)).astype("float32")
    opened, closed = (
        plots.activations(given, model=model, inputs=batch).overlay("activation RMS")
        for given in (graph, plots.read_graph(model))
    )
    ends = (overlay.number([*overlay.values.values()][-1]) for overlay in (opened, closed))
    assert next(ends) == pytest.approx(next(ends), rel=1e-5)


class Halves(layers.Layer):
    """Two layers, of which each call uses one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.up, self.down = layers.Dense(11, name="up"), layers.Dense(7, name="down")

    def build(self, shape):
        self.up.build((None, 7))
        self.down.build((None, 11))

    def call(self, x, first=True):
        return self.up(x) if first else self.down(x)


def test_a_layer_opens_if_its_calls_together_take_all_of_its_weights():
    x = keras.Input((7,), name="x")
    halves = Halves(name="both")
    model = keras.Model(x, halves(halves(x), first=False))
    graph = plots.read_graph(model, open_layers=True)
    assert list(graph.index) == ["x", "both.up", "both@2.down"]
    assert graph.parameters == model.count_params()
