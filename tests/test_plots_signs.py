"""What a merge or an operation does to its operands is on its box, and why a layer stays closed."""

import keras
import pytest
from keras import layers, ops

import plots
from plots.renderers import note_colour
from plots.renderers.html import page_data
from plots.renderers.labels import details_of


class Hidden(layers.Layer):
    """Finds a weight among all of its weights, where no symbolic tensor can replace it."""

    def build(self, shape):
        self.add_weight(shape=(1, shape[-1]))
        self.down = layers.Dense(shape[-1])
        self.down.build(shape)

    def call(self, x):
        return self.down(x + ops.cast(self.trainable_weights[0], "float32"))


def relu(x):
    return layers.Dense(7, activation="relu")(x)


def drawn(function, suffix, folder, **options):
    x = keras.Input((5, 7), name="x")
    plots.draw(keras.Model(x, function(x)), folder / f"drawn.{suffix}", **options)
    return (folder / f"drawn.{suffix}").read_text("utf-8")


MERGES = {
    "add": (lambda x: x + relu(x), "+", None),
    "subtract": (lambda x: x - relu(x), "−", "Dense"),
    "subtract from the branch": (lambda x: layers.Subtract()([relu(x), x]), "−", "x"),
    "average": (lambda x: layers.Average(name="named")([x, relu(x)]), "mean", None),
}


@pytest.mark.parametrize(("function", "sign", "subtracted"), MERGES.values(), ids=MERGES)
def test_a_merge_is_drawn_as_its_sign_in_every_format(function, sign, subtracted, tmp_path):
    dot = drawn(function, "dot", tmp_path)
    assert dot.count("shape=circle") == 1
    assert f'label="{sign}"' in dot
    mermaid = drawn(function, "mmd", tmp_path).replace("#43;", "+")
    assert f'(("{sign}"))' in mermaid
    text = drawn(function, "txt", tmp_path)
    assert ("⊖━╯" if sign == "−" else "⊕━╯") in text
    x = keras.Input((5, 7), name="x")
    graph = plots.read_graph(keras.Model(x, function(x)))
    data = page_data(graph)
    assert [call["sign"] for call in data["calls"].values() if call["sign"]] == [sign]
    away = {edge.id: graph.node(edge.source) for edge in graph.edges}
    assert [away[edge].shown_name for edge in data["subtracted"]] == [subtracted] * bool(subtracted)
    minus = sum("−" in line and "->" in line for line in dot.splitlines())
    assert minus == mermaid.count('|"−"|') == bool(subtracted)


@pytest.mark.parametrize(
    ("function", "details"),
    [
        (lambda x: 0.5 * x, "× 0.5"),
        (lambda x: x / 8, "/ 8"),
        (lambda x: 8 / x, "8 / x"),
        (lambda x: x - 1000, "− 1,000"),
        (lambda x: 1 - x, "1 − x"),
        (lambda x: x + 1, "+ 1"),
        (lambda x: ops.maximum(x, 0.0), "at least 0"),
        (lambda x: ops.minimum(6, x), "at most 6"),
        (lambda x: x * ops.ones(7), "× float32 (7,), ones"),
        (layers.Rescaling(0.1, offset=-1), "× 0.1, + -1"),
        (layers.Rescaling(1.0), ""),
        (lambda x: x * relu(x), ""),
        (lambda x: x[:, 1], ""),
    ],
)
def test_an_operation_shows_its_constant_operand(function, details):
    x = keras.Input((5, 7), name="x")
    graph = plots.read_graph(keras.Model(x, function(x)))
    assert details_of(graph.nodes[-1], graph) == details


def test_a_call_with_a_constant_operand_is_no_merge(tmp_path):
    for function in (lambda x: x + 1, lambda x: 2 - x):
        assert "circle" not in drawn(function, "dot", tmp_path)


def test_a_factor_that_varies_between_folded_blocks_is_only_in_the_note(tmp_path):
    def blocks(x):
        for k in range(1, 5):
            x = x + k / 10 * relu(x)
        return x

    text = drawn(blocks, "mmd", tmp_path, depth=2)
    assert "0.1–0.4" in text
    assert "× 0.1" not in text


def closed(x):
    for _ in range(3):
        x = x + Hidden()(x)
    return x


@pytest.mark.sampled(1)
@pytest.mark.parametrize("suffix", ["dot", "mmd", "txt", "model_explorer.json"])
@pytest.mark.parametrize("depth", [None, 1])
def test_every_format_says_why_a_layer_stays_closed_and_frames_nothing(suffix, depth, tmp_path):
    text = drawn(closed, suffix, tmp_path, open_layers=True, depth=depth)
    words = " ".join(text.replace("<br/>", " ").replace("#58;", ":").split())
    assert "Hidden stays closed: no call inside shows" in words
    assert note_colour("a word of a plugin") not in text


def test_the_diagnosis_gives_the_reason_in_place_of_advice_that_was_followed():
    x = keras.Input((5, 7), name="x")
    model = keras.Model(x, closed(x))
    advice = "read_graph(model, open_nested=True"
    assert advice in " ".join(plots.diagnosis_text(plots.read_graph(model)).split())
    text = " ".join(plots.diagnosis_text(plots.read_graph(model, open_layers=True)).split())
    assert text.count("Hidden stays closed: no call inside shows the use of its weight") == 1
    assert advice not in text
