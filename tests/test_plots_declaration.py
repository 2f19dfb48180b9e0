"""What layers declare about their calls: letters, costs and roles without a rule by class."""

import inspect
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops
from products import flops_of, requires_graph_tracing, traced_flops
from small_models import small_spec

import builders
import builders.decode
import builders.models  # these two import all layers
import plots
from plots.layers import ROLES
from plots.reading import tracing

# Layers of a user -------------------------------------------------------------------------------


class Mix(layers.Layer):
    """Scores of queries and keys, and what they mix, in an order of its own."""

    graph_declaration = {  # noqa: RUF012 - as a user writes it
        "signature": "btnh,sbkh,bts -> nbth, bnts",
        "products": ["btnh,sbkh->bnts", "bnts,sbkh->nbth"],
        "role": "attention",
    }

    def call(self, query, key, mask=None, training=None):
        scores = ops.einsum("btnh,sbnh->bnts", query, key)
        if mask is not None:
            scores = ops.where(mask[:, None], scores, -1e9)
        return ops.einsum("bnts,sbnh->nbth", ops.softmax(scores), key), scores


def mixed(layer, with_mask=True):
    query, key = keras.Input((None, 3, 5), name="query"), keras.Input((None, 3, 5), name="key")
    mask = keras.Input((None, None), dtype="bool", name="mask")
    key_first = ops.transpose(key, (1, 0, 2, 3))
    outputs = layer(query, key_first, mask if with_mask else None)
    return keras.Model([query, key, mask] if with_mask else [query, key], outputs)


@pytest.mark.parametrize("with_mask", [True, False])
def test_a_user_layer_gets_letters_and_flops_from_its_declaration(with_mask):
    graph = plots.flops(plots.shapes(plots.read_graph(mixed(Mix(), with_mask))))
    (node,) = (node for node in graph.nodes if node.class_name == "Mix")
    assert ["".join(t.letters) for t in node.outputs] == ["nbth", "bnts"]
    letters = {i: "".join(graph.node(i).outputs[0].letters) for i in graph.inputs}
    assert letters == {"query": "btnh", "key": "bsnh"} | ({"mask": "bts"} if with_mask else {})
    assert graph.letters == {"b": None, "t": None, "s": None, "n": 3, "h": 5}
    assert graph.overlay("flops").values == {node.id: {"b s t": 2 * 2 * 3 * 5}}
    assert not graph.notes
    assert node.role == "attention"
    assert plots.Graph.from_json(graph.to_json()) == graph


class FeedForward(layers.Layer):
    """A hidden width that no tensor of the call has."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.up = self.add_weight(shape=(shape[-1], self.units), name="up")
        self.down = self.add_weight(shape=(self.units, shape[-1]), name="down")

    @property
    def graph_declaration(self):
        return {
            "signature": "...d->...d",
            "products": ["...d,df->...f", "...f,fd->...d"],
            "sizes": {"f": self.units},
        }

    def call(self, x):
        return ops.matmul(ops.relu(ops.matmul(x, self.up)), self.down)


def model_of(layer, *shapes):
    inputs = [keras.Input(shape, name=f"x{number}") for number, shape in enumerate(shapes)]
    return keras.Model(inputs, layer(*inputs))


def test_sizes_that_no_tensor_has_are_declared_by_a_property():
    x = keras.Input((None, 11, 7), name="x")
    model = keras.Model(x, x + FeedForward(13, name="y")(x))
    graph = plots.flops(plots.shapes(plots.read_graph(model)))
    assert graph.overlay("flops").whole == {"b t": 2 * 2 * 11 * 7 * 13}
    assert "".join(graph.node("y").outputs[0].letters) == "bt11d"


class Rows(layers.Layer):
    """Joins the axes of its input but the last."""

    graph_declaration = {"signature": "btd->md", "sizes": {"m": "bt"}, "products": []}  # noqa: RUF012

    def call(self, x):
        return ops.reshape(x, (-1, x.shape[-1]))


def test_sizes_that_are_products_of_others_are_declared_by_their_letters():
    x = keras.Input((None, 7), name="x")
    model = keras.Model(x, layers.Dense(5, name="z")(Rows(name="y")(x)))
    graph = plots.flops(plots.shapes(plots.read_graph(model)))
    assert graph.overlay("flops").whole == {"b t": 2 * 7 * 5}
    assert graph.node("y").outputs[0].letters[0] == "b·t"


class Join(layers.Layer):
    graph_declaration = {"signature": "btd,bsd,->bts"}  # noqa: RUF012

    def call(self, inputs, factor=1.0):
        return factor * ops.matmul(inputs[0], ops.swapaxes(inputs[1], 1, 2))


def test_a_list_of_tensors_counts_as_its_items():
    x, y = keras.Input((None, 7), name="x"), keras.Input((None, 7), name="y")
    graph = plots.shapes(plots.read_graph(keras.Model([x, y], Join(name="z")([x, y], factor=2.0))))
    assert "".join(graph.node("z").outputs[0].letters) == "bts"
    assert graph.node("z").declaration.inputs == {"inputs.0": "btd", "inputs.1": "bsd"}
    assert [note.about for note in plots.flops(graph).notes] == [("z",)]  # of products it says none


class Inherits(Mix):
    """The same call."""


class Overrides(Mix):
    def call(self, query, key, mask=None):
        return query, query


class DeclaresAnew(Overrides):
    graph_declaration = Mix.graph_declaration

    def call(self, query, key, mask=None):
        return Mix.call(self, query, key, mask)


def test_a_subclass_inherits_a_declaration_unless_it_overrides_call():
    def declaration(layer):
        graph = plots.read_graph(mixed(layer))
        return next(
            node.declaration for node in graph.nodes if node.class_name == type(layer).__name__
        )

    declared = declaration(Mix())
    assert declared is not None
    assert [declaration(cls()) for cls in (Inherits, Overrides, DeclaresAnew)] == [
        declared,
        None,
        declared,
    ]


def test_roles_say_what_a_call_is_in_the_place_of_a_name():
    class A1(layers.Layer):
        graph_declaration = {"role": "rotary_positions", "products": []}  # noqa: RUF012

        def call(self, x):
            return -x

    class A2(layers.Layer):
        graph_declaration = {"role": "norm"}  # noqa: RUF012

        def call(self, x):
            return x / 2

    class A3(layers.Layer):
        graph_declaration = {"role": "add"}  # noqa: RUF012

        def call(self, x, y):
            return x + y

    class A4(layers.Layer):
        graph_declaration = {"role": "identity"}  # noqa: RUF012

        def call(self, x):
            return x

    class A5(layers.Layer):
        graph_declaration = {"role": "causal_mask"}  # noqa: RUF012

        def call(self, x):
            length = ops.shape(x)[1]
            return ops.tril(ops.ones((1, length, length), dtype="bool"))

    x = keras.Input((11, 7), name="x")
    y = A2(name="a2")(x)
    y = layers.MultiHeadAttention(3, 5)(A1(name="a1")(y), y, attention_mask=A5(name="a5")(y))
    graph = plots.read_graph(keras.Model(x, A3(name="a3")(x, A4(name="a4")(y))))
    (path,) = plots.skip_paths(graph)
    assert (path.target, path.placement) == ("a3#1", "pre")
    text = plots.diagnosis_text(graph)
    assert "Pre-norm Transformer decoder" in text
    assert "causal self-attention" in text
    assert "rotary positions" in text


# Malformed declarations -------------------------------------------------------------------------

MALFORMED = {
    "a text": ("btd->btd", "it is 'btd->btd', but must be a dict with the keys 'signature'"),
    "an unknown key": ({"signatur": "btd->btd"}, "the key 'signatur'; allowed are 'signature', "),
    "no arrow": ({"signature": "btd"}, "\"signature\" is 'btd', but must be like"),
    "no text": ({"signature": ["btd"]}, "\"signature\" is ['btd'], but must be like"),
    "two ellipses": ({"signature": "...b...->b"}, "must be like"),
    "more arguments": ({"signature": "btd,b->btd"}, "2 arguments, but `call` takes 1: x"),
    "another rank": ({"signature": "bd->bd"}, "'bd' for x, whose shape is (None, 11, 7)"),
    "more outputs": ({"signature": "btd->btd,bt"}, "has 2 outputs, but there are 1"),
    "two sizes": ({"signature": "btt->btt"}, "shape is (None, 11, 7), but 't' is 11"),
    "a size that is 1": ({"signature": "b1d->b1d"}, "shape is (None, 11, 7), but '1' is 1"),
    "one equation": ({"products": "btd,df->btf"}, "but must be a list of equations"),
    "three operands": ({"signature": "btd->btd", "products": ["b,t,d->b"]}, "of two operands"),
    "no equation": ({"signature": "btd->btd", "products": [3]}, '"products" has 3, but must'),
    "a product without a result": (
        {"signature": "btd->btd", "products": ["btd,btd"]},
        "\"products\" has 'btd,btd', but must have equations of two operands",
    ),
    "a letter without a size": (
        {"signature": "btd->btd", "products": ["btd,df->btf"]},
        '\'f\' is in no tensor of "signature": give its size in "sizes"',
    ),
    "a size of a word": ({"sizes": {"width": 7}}, "must map letters to ints, 1 or more"),
    "a size of unknown letters": (
        {"signature": "btd->btd", "sizes": {"m": "bx"}},
        "\"sizes\" is {'m': 'bx'}, but 'x' is in no tensor",
    ),
    "a size that is no product": (
        {"signature": "btd->btd", "sizes": {"d": "tt"}},
        "\"sizes\" has 'd' = t*t = 121, but it is 7",
    ),
    "a size of nothing": ({"sizes": {"f": 0}}, "\"sizes\" is {'f': 0}"),
    "an unknown role": ({"role": "atention"}, "\"role\" is 'atention'; allowed are 'add', "),
    "a role that is no text": ({"role": ["add"]}, "\"role\" is ['add']; allowed are"),
}


class Declares(layers.Layer):
    def __init__(self, given, **kwargs):
        super().__init__(**kwargs)
        self.given = given

    @property
    def graph_declaration(self):
        if isinstance(self.given, Exception):
            raise self.given
        return self.given

    def call(self, x):
        return -x


@pytest.mark.parametrize(("given", "message"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_declaration_is_ignored_with_a_warning(given, message):
    model = model_of(Declares(given, name="y"), (11, 7))
    with pytest.warns(UserWarning, match="Declares 'y' is ignored") as caught:
        graph = plots.read_graph(model)
    assert [message in str(warning.message) for warning in caught] == [True]
    assert "\n" not in str(caught[0].message)
    assert graph.node("y").declaration is None
    assert "".join(plots.shapes(graph).node("y").outputs[0].letters) == "b117"


def test_a_declaration_that_fails_is_ignored_with_a_warning():
    model = model_of(Declares(RuntimeError("not built"), name="y"), (11, 7))
    with pytest.warns(UserWarning, match="Declares 'y' is ignored: RuntimeError: not built"):
        assert "y" in plots.to_text(plots.read_graph(model))


@pytest.mark.parametrize("given", [None, {}, {"signature": None, "products": None, "role": ""}])
def test_an_empty_declaration_says_nothing(given):
    graph = plots.flops(
        plots.shapes(plots.read_graph(model_of(Declares(given, name="y"), (11, 7))))
    )
    assert "".join(graph.node("y").outputs[0].letters) == "b117"
    assert graph.node("y").role == ""


def test_letters_of_an_optional_argument_that_is_missing_leave_products_uncounted():
    class Optional(layers.Layer):
        graph_declaration = {  # noqa: RUF012
            "signature": "btd,bsd->btd",
            "products": ["btd,bsd->bts"],
        }

        def call(self, x, memory=None):
            return x

    graph = plots.flops(plots.read_graph(model_of(Optional(name="y"), (None, 7))))
    assert [note.about for note in graph.notes] == [("y",)]


# Layers of builders -----------------------------------------------------------------------------

SIZES = {"b": 2, "t": 11, "s": 13, "n": 6, "k": 3, "h": 10, "d": 14, "v": 19, "a": 2}
SIZES |= {"m": 44, "e": 44, "i": 7, "j": 23}  # m = b t a; every expert has one row
SIZES |= {"1": 1, "u": 9, "l": 5, "r": 4, "g": 6, "w": 8}  # h = r + g
NEW = {  # arguments of the classes that need some
    "ALiBiBias": [(SIZES["n"],)],
    "AttentionTemperature": [(0.1, 5)],
    "CacheUpdate": [(1,), (2,), (3,)],
    "CausalConvolution": [(SIZES["w"] + 1,)],
    "ClampedGate": [("silu", 1.5)],
    "ConnectionWeights": [(1, 1e-5)],
    "CoordinateVectors": [(17, SIZES["d"])],
    "Dispatch": [(SIZES["e"],)],
    "ExpertCapacity": [(1.5, SIZES["e"])],
    "ExpertDense": [(SIZES["e"], SIZES["j"])],
    "GatedNorm": [(1e-5,)],
    "KernelOf": [
        (
            layers.EinsumDense("bsl,lnh->bsnh", (None, SIZES["n"], SIZES["h"])),
            SIZES["l"],
            to_latents,
        )
        for to_latents in (True, False)
    ],
    "LearnedPositions": [(17, SIZES["d"])],
    "LearnedScale": [((1,),), ((SIZES["d"],), 0.5)],
    "OpenStreams": [(SIZES["m"],)],
    "PaddingMask": [(0,)],
    "RelativePositionBias": [(SIZES["n"], 8, 20, True)],
    "RotaryPositions": [([1.0, 0.5],)],
    "RouterLosses": [(0.1, 0.1)],
    "Scale": [(0.5,)],
    "SeenPositions": [(0,)],
    "SinusoidalPositions": [(17, SIZES["d"], True)],
    "SlotMask": [(None,), (3,)],
    "SoftCap": [(5.0,)],
    "StepTowards": [((SIZES["d"],), 0.05)],
    "TopExperts": [(SIZES["a"],)],
    "UnitNorm": [(1e-5,)],
    "WeightedStreams": [("btmd,btm->btd",), ("btid,btij->btjd",), ("btd,btm->btmd",)],
    "WindowMask": [(5,)],
}
INTEGERS = {
    "chosen",
    "places",
    "sizes",
    "tokens",
    "positions",
    "slots",
    "queries",
    "keys",
    "index",
    "start",
    "starts",
    "documents",
}
MASKS = {"mask", "first", "second"}


def layers_of_builders():
    """Classes of layers that builders defines, without those of whole models."""
    found, waiting = set(), [layers.Layer]
    while waiting:
        waiting += (subclasses := waiting.pop().__subclasses__())
        found |= {c for c in subclasses if c.__module__.startswith("builders.")}
    return sorted((c for c in found if not issubclass(c, keras.Model)), key=lambda c: c.__name__)


DECLARING = [c for c in layers_of_builders() if hasattr(c, "graph_declaration")]
LIKE_KERAS = ["TokenEmbedding"]  # has no signature, and the products of its base class
WITH_SIGNATURE = [c for c in DECLARING if c.__name__ not in LIKE_KERAS]
CASES = [(c, args) for c in WITH_SIGNATURE for args in NEW.get(c.__name__, [()])]


def arguments_for(layer):
    """The shape and dtype of every argument of a declaring layer's call, by name."""
    operands = layer.graph_declaration["signature"].split("->")[0].replace("...", "btd").split(",")
    given = {}
    names = [name for name in inspect.signature(layer.call).parameters if name != "training"]
    for number, name in enumerate(names):
        letters = operands[number] if number < len(operands) else ""
        dtype = "int32" if name in INTEGERS else "bool" if name in MASKS else "float32"
        given[name] = tuple(SIZES[letter] for letter in letters), dtype
    return given


@pytest.mark.parametrize(("cls", "args"), CASES, ids=lambda value: getattr(value, "__name__", None))
def test_shapes_that_a_layer_returns_are_those_that_it_declares(cls, args):
    layer = cls(*args)
    given = [np.ones(shape, dtype) for shape, dtype in arguments_for(layer).values()]
    outputs = keras.tree.flatten(layer(*given))
    declared = layer.graph_declaration["signature"].split("->")[1].replace("...", "btd").split(",")
    assert [tuple(o.shape) for o in outputs] == [tuple(SIZES[a] for a in axes) for axes in declared]
    assert layer.graph_declaration.get("role", "add") in ROLES


# The graph of the others does not say how many rows each expert has; `test_experts` counts them.
OF_KNOWN_ROWS = [(c, args) for c, args in CASES if c.__name__ != "ExpertDense"]


@requires_graph_tracing
@pytest.mark.parametrize(
    ("cls", "args"), OF_KNOWN_ROWS, ids=lambda value: getattr(value, "__name__", None)
)
def test_products_that_a_layer_computes_are_those_that_it_declares(cls, args):
    layer = cls(*args)
    given = arguments_for(layer)
    inputs = [keras.Input(batch_shape=shape, dtype=dtype) for shape, dtype in given.values()]
    declared = flops_of(keras.Model(inputs, layer(*inputs)))
    computed = traced_flops(lambda *x: layer(*x), *given.values())
    assert declared == computed
    assert (computed > 0) == bool(layer.graph_declaration.get("products"))


def test_every_layer_of_builders_declares_unless_it_is_one_of_keras():
    def is_of_keras(cls):
        bases = [base for base in cls.__mro__ if base.__module__.startswith("keras.")]
        return bases[0] is not layers.Layer

    silent = {*layers_of_builders()} - {*DECLARING}
    silent -= {base for c in DECLARING for base in c.__mro__}
    assert {c.__name__ for c in silent if not is_of_keras(c)} == {"Renamed"}


def test_the_documentation_names_every_role():
    text = (Path(__file__).parent.parent / "docs" / "plots.md").read_text("utf-8")
    assert [role for role in ROLES if f"`{role}`" not in text] == []


def test_equal_layers_that_declare_are_traced_once(monkeypatch):
    """A trace of the experts of a large mixture takes a product for each of them."""
    traced = []

    def traced_call(call, *args):
        traced.append(type(call.operation).__name__)
        return tracing.traced_call(call, *args)

    def traces(blocks):
        traced.clear()
        spec = small_spec(**few, num_layers=blocks)
        plots.read_graph(builders.build(spec, abstract=True))
        return list(traced)

    few = {"num_experts": 2, "num_active_experts": 1, "feedforward_bias": False}
    monkeypatch.setattr("plots.reading.reader.traced_call", traced_call)
    assert traces(1) == traces(3)
    assert "ExpertDense" in traced
