"""Namespaces in which calls are drawn: those of opened models, and those that names imply."""

import keras
import pytest
from keras import layers

import plots
from plots.hierarchy import find_namespaces
from plots.skips import mark_skip_paths

# Names without dots


def named(names, residual=()):
    """Return a stack of Dense layers of these names, with sums around those in `residual`."""
    x = keras.Input((7,), name="x")
    ends = [x]
    for name in names:
        y = layers.Dense(7, name=name)(ends[-1])
        ends.append(layers.Add()([y, ends[-1]]) if name in residual else y)
    return plots.read_graph(keras.Model(x, ends[-1]))


def namespaces_and_labels(graph):
    return [(node.namespace, node.label) for node in graph.nodes if node.class_name == "Dense"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (  # ResNet
            ["conv2_block1_1_conv", "conv2_block1_1_bn", "conv2_block2_out", "conv2_block2_in"],
            [
                ("conv2.block1", "1_conv"),
                ("conv2.block1", "1_bn"),
                ("conv2.block2", "out"),
                ("conv2.block2", "in"),
            ],
        ),
        (  # ConvNeXt
            ["tiny_stage_0_block_1_conv", "tiny_stage_0_block_1_norm", "tiny_stage_0_end"],
            [
                ("tiny_stage_0.block_1", "conv"),
                ("tiny_stage_0.block_1", "norm"),
                ("tiny_stage_0", "end"),
            ],
        ),
        (  # EfficientNet
            ["stem_conv", "block1a_conv", "block1a_bn", "block2d_conv", "block2d_bn"],
            [
                ("", "stem_conv"),
                ("block1a", "conv"),
                ("block1a", "bn"),
                ("block2d", "conv"),
                ("block2d", "bn"),
            ],
        ),
        (  # Xception: a layer named like the namespace is inside it
            ["block2_conv1", "block2_conv1_bn", "block2_pool"],
            [("block2.conv1", "conv1"), ("block2.conv1", "bn"), ("block2", "pool")],
        ),
        (["my_conv2d_in", "my_conv2d_out"], [("", "my_conv2d_in"), ("", "my_conv2d_out")]),
        (["block1_only", "block2_only"], [("", "block1_only"), ("", "block2_only")]),
        (["block_1", "block_2"], [("", "block_1"), ("", "block_2")]),
        (["a.up", "block1_a", "block1_b"], [("a", "up"), ("", "block1_a"), ("", "block1_b")]),
    ],
)
def test_numbered_names_without_dots_become_namespaces(names, expected):
    assert namespaces_and_labels(named(names)) == expected


def test_equal_prefixes_at_both_ends_of_a_model_are_no_namespace():
    names = ["side1_in", "block2_a", "block2_b", "side1_out"]
    assert [namespace for namespace, _ in namespaces_and_labels(named(names))] == [
        "",
        "block2",
        "block2",
        "",
    ]


def test_unnamed_calls_may_lie_between_the_calls_of_a_namespace():
    names = ["stage_0_a", "stage_0_b", "stage_0_c"]
    graph = named(names, residual=names)
    assert [namespace for namespace, _ in namespaces_and_labels(graph)] == ["stage_0"] * 3
    assert set(find_namespaces(graph).values()) == {"", "stage_0"}  # includes the sums between them
    assert find_namespaces(graph)["add#1"] == "stage_0"


def test_namespaces_of_a_nested_model_are_inside_its_own():
    x = keras.Input((7,), name="inner")
    y = layers.Dense(7, name="block1_a")(x)
    inner = keras.Model(x, layers.Dense(7, name="block1_b")(y), name="tower")
    x = keras.Input((7,), name="x")
    graph = plots.read_graph(keras.Model(x, inner(inner(x))), open_nested=True)
    assert namespaces_and_labels(graph) == [
        ("tower.block1", "a"),
        ("tower.block1", "b"),
        ("tower@2.block1", "a"),
        ("tower@2.block1", "b"),
    ]


def test_namespaces_of_flat_names_survive_serialisation():
    graph = named(["block1_a", "block1_b"])
    again = plots.Graph.from_json(graph.to_json())
    assert again == graph
    assert namespaces_and_labels(again) == [("block1", "a"), ("block1", "b")]


def test_a_merge_belongs_to_the_outer_block_if_its_siblings_end_in_one():
    x = keras.Input((7,), name="x")
    y = layers.Dense(7, name="stem")(x)
    for block in (2, 3, 5):  # as in Xception: numbered parts within numbered blocks
        z = y
        for part in (1, 2):
            z = layers.Dense(7, activation="relu", name=f"block{block}_part{part}_dense")(z)
            z = layers.LayerNormalization(name=f"block{block}_part{part}_norm")(z)
        y = layers.Add()([z, y])
    graph = plots.read_graph(keras.Model(x, layers.ReLU()(y)))
    found = {node.id: find_namespaces(graph)[node.id] for node in graph.nodes}
    merges = [found[f"add#{number}"] for number in (1, 2, 3)]
    assert merges == ["block2", "block3", "block5"]
    assert found["re_lu#1"] == ""  # no other block ends in one


# Opened models and layers


class Block(layers.Layer):
    """A composite layer without names."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.LayerNormalization()
        self.inner = keras.Sequential([layers.Dense(11, activation="relu"), layers.Dense(7)])

    def build(self, shape):
        self.norm.build(shape)
        self.inner.build(shape)

    def call(self, x):
        return x + self.inner(self.norm(x))


def functional(function, name=None):
    x = keras.Input((7,))
    return keras.Model(x, function(x), name=name)


def residual(x):
    inner = keras.Sequential([layers.Dense(11, activation="relu"), layers.Dense(7)])
    return layers.Add()([x, inner(x)])


def flat_names(x):
    for name in ("block1_a", "block1_b", "block2_a", "block2_b"):
        x = layers.Add()([x, layers.Dense(7, activation="relu", name=name)(x)])
    return layers.Dense(5)(x)


def thrice(x):
    shared = functional(residual)
    middle = keras.Sequential([shared, shared, layers.Dense(7), shared])
    return layers.Subtract()([middle(x), functional(middle)(x)])


def composite_layers(x):
    shared = Block()
    for layer in (shared, Block(name="ffn_3"), shared):
        x = x + layer(x)
    return x


INNER = (residual, flat_names, thrice, composite_layers)


def boxes_of(model):
    """Return id -> (namespace of the call, namespace in which it is drawn)."""
    graph = mark_skip_paths(plots.read_graph(model, open_nested=True, open_layers=True))
    seen = find_namespaces(graph)
    return {node.id: (node.namespace, seen[node.id]) for node in graph.nodes}


@pytest.mark.parametrize("name", [None, "tower", "tower_2", "my.tower_3"])
@pytest.mark.parametrize("function", INNER, ids=lambda function: function.__name__)
def test_every_call_of_a_model_has_the_boxes_of_the_model_itself(function, name):
    inner = functional(function, name)
    alone = {k: v for k, v in boxes_of(inner).items() if not k.startswith("input")}
    x = keras.Input((7,), name="x")
    last = layers.Subtract()([x, inner(x)]) if inner.output.shape[-1] == 7 else inner(x)
    model = keras.Model(x, [inner(layers.ReLU()(x)), last])
    found = boxes_of(model)
    expected = {}
    for place in ("", "@2"):
        around = (name or "functional#1") + place
        for node_id, spaces in alone.items():
            inside = tuple(f"{around}.{space}".rstrip(".") for space in spaces)
            expected[f"{around}.{node_id}"] = inside
    outside = {node_id: found.pop(node_id)[1] for node_id in list(found) if node_id not in expected}
    assert found == expected
    assert set(outside.values()) <= {"", "my"}  # not in the box of a neighbour


@pytest.mark.parametrize(
    "make",
    [
        lambda name: functional(residual, name),
        lambda name: keras.Sequential([layers.Dense(7, activation="relu")], name=name),
        lambda name: Block(name=name),
    ],
)
@pytest.mark.parametrize("stem", ["ffn_", "block", "stage_1_mlp_"])
def test_a_sum_around_an_opened_block_is_not_in_its_box(make, stem):
    x = y = keras.Input((7,), name="x")
    for number in range(3):
        y = layers.Add()([y, make(f"{stem}{number}")(y)])
    found = boxes_of(keras.Model(x, y))
    assert {found[f"add#{number}"] for number in (1, 2, 3)} == {("", "")}


def test_a_shared_model_of_one_layer_keeps_the_box_of_every_call():
    shared = functional(layers.Dense(5), "vision")
    a, b = keras.Input((7,), name="a"), keras.Input((7,), name="b")
    found = boxes_of(keras.Model([a, b], layers.Subtract()([shared(a), shared(b)])))
    assert {node_id: seen for node_id, (_, seen) in found.items()} == {
        "a": "",
        "b": "",
        "vision.dense#1": "vision",
        "vision@2.dense#1": "vision@2",
        "subtract#1": "",
    }


def test_calls_of_a_layer_shared_with_a_nested_model_stay_where_they_are():
    shared = layers.Dense(7, activation="relu")
    inner = functional(lambda x: shared(shared(x)), "inner")
    x = keras.Input((7,), name="x")
    graph = plots.read_graph(keras.Model(x, shared(inner(shared(x)))), open_nested=True)
    ids = ("dense#1", "inner.dense#1", "inner.dense#1@2", "dense#1@2")
    assert graph.ties == {"dense#1": ids}
    assert [find_namespaces(graph)[i] for i in ids] == ["", "inner", "inner", ""]


def test_the_boxes_of_opened_models_survive_serialisation():
    graph = plots.read_graph(functional(functional(residual, "tower_2")), open_nested=True)
    again = plots.Graph.from_json(graph.to_json())
    assert again == graph
    assert find_namespaces(again) == find_namespaces(graph)


# Blocks of which only the last call is named


def inception(widths):
    """Return modules of two branches; only the concatenation of each one is named."""
    x = y = keras.Input((11, 13, 7), name="x")
    for number, width in enumerate(widths):
        pooled = layers.AveragePooling2D(3, 1, "same")(y)
        branches = [layers.Conv2D(width, 1)(y), layers.Conv2D(5, 1)(pooled)]
        if number >= len(widths) - 2:  # numbered as in keras.applications
            halves = [layers.Conv2D(width, size, padding="same")(branches[0]) for size in (1, 3)]
            name = f"mixed{len(widths) - 2}_{number - len(widths) + 2}"
            branches[0] = layers.Concatenate(name=name)(halves)
        y = layers.Concatenate(name=f"mixed{number}")(branches)
    return plots.read_graph(keras.Model(x, layers.GlobalAveragePooling2D(name="pool")(y)))


def test_an_unnamed_branch_is_not_in_the_block_that_it_takes():
    graph = inception([2, 2, 2, 2, 3, 4])
    folded = plots.fold_blocks(graph)
    assert folded.repeats == {"mixed0": 4}
    boxes = {node.namespace: node.class_name for node in folded.nodes if node.namespace}
    assert boxes.keys() == {"mixed0"}
    pools = [node for node in folded.nodes if node.class_name == "AveragePooling2D"]
    assert [pool.namespace for pool in pools] == ["mixed0", "", ""]


def test_a_result_named_like_another_one_and_a_number_is_no_block_around_it():
    graph = inception([2, 3, 4])
    names = {"mixed1_0": "", "mixed1": "", "mixed1_1": ""}
    assert {node.id: node.namespace for node in graph.nodes if node.id in names} == names


def test_the_module_of_a_folded_block_has_another_name_than_the_block():
    outlined = plots.apply_plugins(inception([2, 2, 2, 2, 3, 4]), ["outline"])
    inside = [node.name for node in outlined.nodes if node.namespace == "mixed0"]
    assert inside == ["mixed0.branches"]
