"""Skips across blocks, mixed streams and looped blocks are found and drawn as what they are."""

from itertools import pairwise

import keras
import pytest
from keras import layers, ops

import builders
import plots
from plots.hierarchy import find_namespaces
from plots.skips import mark_skip_paths


class Factor(layers.Layer):
    """One trained number times its input, as a model of someone else may write it."""

    def build(self, input_shape):
        self.factor = self.add_weight(shape=(1,), initializer="ones", name="factor")

    def call(self, x):
        return x * self.factor


class MixingWeights(layers.Layer):
    """Weights (b, t, m, m) of streams (b, t, m, d)."""

    def build(self, input_shape):
        *_, m, d = input_shape
        self.kernel = self.add_weight(shape=(d, m), initializer="zeros", name="kernel")

    def call(self, streams):
        return ops.tanh(ops.matmul(streams, self.kernel))


def block(x, name):
    branch = layers.Dense(5, "relu", name=f"{name}_dense")(x)
    return layers.Add(name=f"{name}_add")([x, branch])


def paths_of(model):
    return [(path.source, path.target) for path in plots.skip_paths(plots.read_graph(model))]


def unet(scale):
    """Return four residual blocks, the last two of which add the scaled streams of the others."""
    x = inputs = keras.Input((5,), name="x")
    streams = []
    for number in range(2):
        x = block(x, f"down_{number}")
        streams.append(x)
    for number in range(2):
        x = layers.Add(name=f"skip_{number}")([x, scale(number)(streams.pop())])
        x = block(x, f"up_{number}")
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


SCALES = {
    "constant": lambda number: layers.Rescaling(0.5, name=f"scale_{number}"),
    "trained": lambda number: Factor(name=f"scale_{number}"),
}


@pytest.mark.parametrize("kind", SCALES)
def test_a_scaled_stream_that_is_added_past_blocks_is_a_long_skip_path(kind):
    """In the middle, x + w x adds one value to itself, and closes no path."""
    assert paths_of(unet(SCALES[kind])) == [
        ("x", "down_0_add"),
        ("down_0_add", "down_1_add"),
        ("skip_0", "up_0_add"),
        ("down_0_add", "skip_1"),
        ("skip_1", "up_1_add"),
    ]


def test_the_stream_of_a_unet_is_one_line_with_the_skip_beside_it():
    graph = mark_skip_paths(plots.read_graph(unet(SCALES["constant"])))
    line = ["x", "down_0_add", "down_1_add", "skip_0", "up_0_add", "skip_1", "up_1_add", "head"]
    drawn = {*pairwise(line), ("down_0_add", "scale_1"), ("scale_1", "skip_1")}
    assert {*graph.stream} == drawn


def test_values_that_later_branches_add_are_skip_paths_from_the_first_branch():
    x = inputs = keras.Input((5,), name="x")
    first = None
    for number in range(3):
        value = layers.Dense(7, name=f"value_{number}")(x)
        if first is not None:
            value = layers.Add(name=f"mixed_{number}")([value, first])
        first = value if first is None else first
        branch = layers.Dense(5, name=f"out_{number}")(layers.ReLU(name=f"relu_{number}")(value))
        x = layers.Add(name=f"add_{number}")([x, branch])
    assert paths_of(keras.Model(inputs, x)) == [
        ("x", "add_0"),
        ("value_0", "mixed_1"),
        ("add_0", "add_1"),
        ("value_0", "mixed_2"),
        ("add_1", "add_2"),
    ]


def test_streams_that_are_mixed_by_their_own_weights_are_projected_skip_paths():
    x = inputs = keras.Input((None, 3, 5), name="streams")
    for number in range(2):
        mixed = ops.einsum("btid,btij->btjd", x, MixingWeights(name=f"weights_{number}")(x))
        branch = layers.Dense(5, "relu", name=f"dense_{number}")(x)
        x = layers.Add(name=f"add_{number}")([mixed, branch])
    paths = plots.skip_paths(plots.read_graph(keras.Model(inputs, x)))
    assert [(p.source, p.target) for p in paths] == [("streams", "add_0"), ("add_0", "add_1")]
    assert all(path.projected for path in paths)


@pytest.mark.parametrize(
    ("name", "layers_of_model", "number"),
    [
        ("unet_skips", 4, 2 * 4 + 1),  # in the middle, x + w x is none
        ("embedding_skips", 3, 2 * 3 + 2),
        ("value_residual", 3, 2 * 3 + 2),
        ("shared_blocks", 3, 2 * 3),
        ("hyper_connections", 3, 2 * 3),
    ],
)
def test_the_skip_paths_of_variants_across_blocks_are_found(name, layers_of_model, number):
    changes = {"kind": "decoder_only", "num_layers": layers_of_model}
    model = builders.build(name, abstract=True, **changes)
    assert len(paths_of(model)) == number


def test_folding_shows_a_skip_from_the_embedding_and_a_loop_as_one_block():
    changes = {"kind": "decoder_only", "num_layers": 4, "abstract": True}
    graph = mark_skip_paths(plots.read_graph(builders.build("embedding_skips", **changes)))
    folded = plots.fold_blocks(graph)
    assert folded.repeats == {"decoder.block_1": 3}  # block 0 has one input, the others two
    assert ("decoder.add_positions", "decoder.block_1.skip_scale_from_embedding") in folded.stream
    looped = plots.fold_blocks(plots.read_graph(builders.build("shared_blocks", **changes)))
    assert looped.repeats == {"decoder.block_0": 4}
    assert "the same weights in all 4 blocks" in {note.text for note in looped.notes}


@pytest.mark.parametrize(("number", "distinct", "passes"), [(4, 2, 2), (6, 3, 2), (7, 3, 2)])
def test_a_pass_through_several_shared_blocks_is_one_frame(number, distinct, passes):
    changes = {"kind": "decoder_only", "num_layers": number, "distinct_blocks": distinct}
    graph = plots.read_graph(builders.build("shared_blocks", abstract=True, **changes))
    spaces = find_namespaces(graph)
    for index in range(number):
        call = f"@{index // distinct + 1}" if index >= distinct else ""
        place = f"decoder.block_{index % distinct}"
        assert spaces[f"{place}.feedforward.up{call}"] == f"{place}{call}.feedforward"
    folded = plots.fold_blocks(graph)
    assert folded.repeats == {"decoder.pass_1": passes}
    [note] = folded.notes
    assert note.text == f"the same weights in all {passes} passes"
    closed = plots.fold(plots.read_graph(builders.build("shared_blocks", abstract=True, **changes)))
    assert note.text in {note.text for note in closed.notes}  # of the box, not of a call in it
    inside = {name.rpartition(".")[0] for name in find_namespaces(folded).values()}
    assert {f"decoder.pass_1.block_{index}" for index in range(distinct)} <= inside


def test_the_steps_of_a_universal_transformer_are_on_its_one_block():
    model = builders.build("universal_transformer", kind="decoder_only", abstract=True)
    folded = plots.fold_blocks(mark_skip_paths(plots.read_graph(model)))
    assert folded.repeats == {"decoder.block_0": 6}
    [steps] = (note for note in folded.notes if "step" in note.text)
    assert (steps.about, steps.text) == (("decoder.block_0.coordinates",), "step 1–6")
    assert len(folded.skip_paths) == 2


def test_towers_that_share_their_layers_are_no_passes():
    """Neither call depends on the other one."""
    one, two = (keras.Input((7,), name=name) for name in ("one", "two"))
    first = layers.Dense(7, "relu", name="tower.first")
    second = layers.Dense(5, name="tower.second")
    model = keras.Model([one, two], [second(first(one)), second(first(two))])
    assert {*find_namespaces(plots.read_graph(model)).values()} == {"tower", ""}
