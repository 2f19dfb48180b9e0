"""Diagnoses of norms and skip paths, descriptions of models, and rules of other packages."""

import keras
import numpy as np
import pytest
from hand_made_transformers import (
    CAUSAL,
    CLASSES,
    HEAD_WIDTH,
    HEADS,
    INNER,
    LENGTH,
    WIDTH,
    attention,
    block,
    encoder,
    feedforward,
    findings_of,
    language_model,
    remarks_of,
    sublayer,
    the_finding,
    translator,
)
from keras import layers, ops
from small_graphs import made

import plots
from plots import attentions, renderers
from plots.diagnosis import rules
from plots.renderers import boxes

pytestmark = pytest.mark.usefixtures("fixed_seed")


def described(model):
    return plots.diagnosis_text(plots.read_graph(model)).partition("\n\n")[0].replace("\n", " ")


# --- norms --------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_stack_of_one_kind_of_norm_is_fine(norm):
    assert findings_of(encoder([norm] * 4, final_norm=norm == "pre")) == ()


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("usual", "other"), [("pre", "post"), ("pre", "none"), ("post", "pre"), ("post", "none")]
)
def test_a_sublayer_with_another_norm_placement_is_found(usual, other):
    finding = the_finding(encoder([usual, usual, other, usual, usual, usual]))
    norm = [] if other == "none" else ["block_1.attention.norm"]
    assert finding.about == (*norm, "block_1.attention.merge")
    assert f"5 sublayers {usual}-norm" in finding.text


def test_pre_norm_with_skip_paths_that_start_after_the_norms_gets_advice():
    def model(begins_after_norm):
        x = keras.Input((LENGTH, WIDTH))
        y = x
        for number in range(3):
            normed = layers.LayerNormalization(name=f"norm_{number}")(y)
            change = feedforward(f"feedforward_{number}")(normed)
            y = layers.Add(name=f"merge_{number}")([normed if begins_after_norm else y, change])
        return keras.Model(x, y if begins_after_norm else layers.LayerNormalization()(y))

    finding = the_finding(model(begins_after_norm=True))
    assert finding.about == ("merge_2",)
    assert "If pre-norm was meant" in finding.text
    assert findings_of(model(begins_after_norm=False)) == ()


def test_a_final_norm_does_not_make_a_last_sublayer_without_a_norm_post_norm():
    finding = the_finding(encoder(["pre", "none"] * 3))
    assert finding.about == tuple(f"block_{number}.feedforward.merge" for number in range(3))
    assert "3 sublayers pre-norm" in finding.text
    assert "3 without a norm" in finding.text
    assert "post-norm" not in finding.text


def test_a_norm_on_the_branch_output_is_found_as_in_the_keras_example():
    """As in the Keras example on the classification of time series."""

    def model(norm, final_norm=True):
        x = keras.Input((LENGTH, WIDTH))
        y = sublayer("first", x, attention("first"), norm)
        y = sublayer("second", y, feedforward("second"), norm)
        y = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(y) if final_norm else y)
        return keras.Model(x, layers.Dense(CLASSES)(y))

    finding = the_finding(model("output", final_norm=False))
    (remark,) = remarks_of(model("output"))  # as in OLMo 2 and Swin Transformer V2
    assert finding.about == remark.about == ("first.norm", "second.norm")
    assert findings_of(model("output")) == findings_of(model("pre")) == ()
    assert findings_of(model("post", final_norm=False)) == remarks_of(model("pre")) == ()


def test_a_pre_norm_stream_without_a_final_norm_is_found_at_its_end():
    finding = the_finding(encoder(["pre"] * 4, final_norm=False))
    assert finding.about == ("block_1.feedforward.merge",)


def test_a_final_norm_may_come_after_pooling():
    x = keras.Input((LENGTH, WIDTH))
    pooled = layers.GlobalAveragePooling1D()(block("block_0", x))
    normed = layers.LayerNormalization()(pooled)
    assert findings_of(keras.Model(x, layers.Dense(CLASSES)(normed))) == ()
    assert the_finding(keras.Model(x, layers.Dense(CLASSES)(pooled))).about == (
        "block_0.feedforward.merge",
    )


def test_a_conformer_block_ends_with_a_norm_on_the_stream_on_purpose():
    x = keras.Input((LENGTH, WIDTH))
    y = x
    for number in range(2):
        y = block(f"block_{number}", y)
        y = layers.LayerNormalization(name=f"block_{number}.norm")(y)
    assert findings_of(keras.Model(x, y)) == ()


def test_a_deep_stack_without_norms_is_found_unless_learned_factors_replace_them():
    class ReZero(layers.Layer):
        def build(self, shape):
            self.factor = self.add_weight(shape=(), initializer="zeros")

        def call(self, x):
            return self.factor * x

    def model(end):
        x = keras.Input((LENGTH, WIDTH))
        y = x
        for name in ("a", "b"):
            y = layers.Add(name=f"{name}.merge")([y, end(attention(name)(y))])
        return keras.Model(x, y)

    assert the_finding(model(lambda y: y)).about == ("a.merge", "b.merge")
    assert findings_of(model(lambda y: ReZero()(y))) == ()


# --- skip paths ---------------------------------------------------------------------------------


def test_a_sublayer_without_a_skip_path_is_found():
    finding = the_finding(encoder(["pre", "pre", "no skip", "pre", "pre", "pre"]))
    assert finding.about == ("block_1.attention.layer",)
    assert "block_1.attention," in finding.text
    finding = the_finding(encoder(["pre", "pre", "pre", "no skip"]))
    assert finding.about == ("block_1.feedforward.up", "block_1.feedforward.down")
    assert "block_1.feedforward," in finding.text


def test_a_sublayer_without_a_skip_path_is_found_without_any_names():
    def model(feedforward_is_bypassed):
        x = keras.Input((LENGTH, WIDTH))
        y = x
        for _ in range(2):
            y = y + layers.MultiHeadAttention(HEADS, HEAD_WIDTH)(y, y)
            y = layers.LayerNormalization()(y)
            change = layers.Dense(WIDTH)(layers.Dense(INNER, activation="relu")(y))
            y = layers.LayerNormalization()(y + change if feedforward_is_bypassed else change)
        return keras.Model(x, y)

    assert the_finding(model(False)).about == ("dense#1", "dense#2")
    assert findings_of(model(True)) == ()


def test_a_stack_of_attentions_without_skip_paths_is_found():
    finding = the_finding(encoder(["no skip"] * 4))
    assert finding.about == ("block_0.attention.layer", "block_1.attention.layer")


def test_one_attention_between_other_layers_needs_no_skip_path():
    x = keras.Input((LENGTH, WIDTH))
    y = layers.LSTM(WIDTH, return_sequences=True)(x)
    assert findings_of(keras.Model(x, layers.Dense(CLASSES)(attention("a")(y)))) == ()


def test_internal_activations_as_outputs_need_no_skip_path():
    whole = encoder(["pre"] * 4)
    inside = whole.get_layer("block_1.attention.layer").output
    assert findings_of(keras.Model(whole.inputs, inside)) == ()


def without_sublayer(model, name):
    """Whether the outputs stay the same if a sublayer adds something else to the stream."""
    x = np.random.default_rng(3).normal(size=(2, LENGTH, WIDTH)).astype("float32")
    stream = keras.Model(model.inputs[0], model.get_layer("stream").output)
    before = ops.convert_to_numpy(stream(x))
    layer = model.get_layer(name)
    layer.set_weights([2 * weight + 1 for weight in layer.get_weights()])
    return np.allclose(before, ops.convert_to_numpy(stream(x)), atol=1e-6)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("is_wrong", [True, False])
def test_a_feedforward_with_a_skip_path_that_starts_before_the_attention_is_found(norm, is_wrong):
    """Where it is wrong, nothing of the attention is left if the feed-forward returns zeros."""
    x = keras.Input((LENGTH, WIDTH))
    y = x
    for number in range(2):
        attended = sublayer("a" * (number + 1), y, attention("a" * (number + 1)), norm)
        change = layers.LayerNormalization()(attended) if norm == "pre" else attended
        down = layers.Dense(WIDTH, name=f"down_{number}", kernel_initializer="zeros")
        change = down(layers.Dense(INNER, activation="relu", name=f"up_{number}")(change))
        y = layers.Add(name=f"end_{number}")([y if is_wrong else attended, change])
        if norm == "post":
            y = layers.LayerNormalization()(y)
    y = layers.LayerNormalization(name="last")(y) if norm == "pre" else y
    model = keras.Model(x, layers.Dense(CLASSES)(layers.Identity(name="stream")(y)))
    assert without_sublayer(model, "a.layer") == is_wrong
    if is_wrong:
        (finding,) = findings_of(model)
        assert finding.about == ("up_0", "down_0", "up_1", "down_1", "end_0", "end_1")
        assert "starts before a.layer and aa.layer," in finding.text
    else:
        assert findings_of(model) == ()


def test_a_skip_path_past_a_whole_stack_and_its_head_is_fine():
    x = keras.Input((LENGTH, WIDTH))
    y = block("block_1", block("block_0", x))
    head = feedforward("head")(layers.LayerNormalization()(y))
    y = layers.LayerNormalization()(layers.Add()([x, head]))
    assert findings_of(keras.Model(x, layers.Dense(CLASSES)(y))) == ()


def test_in_a_single_block_the_attention_needs_a_skip_path_if_the_feedforward_has_one():
    assert the_finding(encoder(["no skip", "pre"])).about == ("block_0.attention.layer",)
    both = findings_of(encoder(["no skip", "pre", "no skip", "pre"]))
    assert len(both) == 1
    assert "No skip path leads past any of the 2 attentions" in both[0].text


# --- descriptions and rules of other packages ---------------------------------------------------


def test_a_partly_masked_stack_is_neither_an_encoder_nor_a_decoder():
    tokens = x = keras.Input((LENGTH, WIDTH))
    for number, causal in enumerate((True, False, True)):
        name = f"block_{number}.attention"
        x = sublayer(name, x, attention(name, use_causal_mask=causal), "pre")
    model = keras.Model(tokens, layers.LayerNormalization()(x))
    text = described(model)
    assert text.startswith("Pre-norm Transformer: 3 blocks with 3 residual paths, final norm; ")
    assert "self-attention, 2 of 3 causal" in text


def test_a_folded_graph_is_not_described():
    graph = plots.read_graph(encoder(["pre"] * 4))
    with pytest.raises(ValueError, match=r"is folded.*diagnose first, then fold"):
        plots.diagnose(plots.fold(graph))
    assert plots.findings(plots.fold(plots.diagnose(graph))) == ()


def test_words_are_joined_by_commas_and_and():
    words = ["a", "b", "c", "d", "e"]
    assert [rules.listed(words[:number], most=4) for number in range(1, 6)] == [
        "a",
        "a and b",
        "a, b and c",
        "a, b, c and d",
        "a, b, c, d and 1 more",
    ]


def test_the_description_names_the_architecture():
    assert described(encoder(["pre"] * 6)).startswith(
        "Pre-norm Transformer encoder: 3 blocks with 6 residual paths, final norm; self-attention"
    )
    assert described(encoder(["post"] * 2, False)).startswith(
        "Post-norm Transformer encoder: 1 block with 2 residual paths; self-attention"
    )
    assert described(encoder(["pre", "post"])).startswith("Mixed-norm")
    assert described(encoder(["output"] * 2)).startswith("Res-post-norm")
    assert described(translator()).startswith(
        "Pre-norm Transformer encoder-decoder: 1 encoder block and 2 decoder blocks"
    )
    writer = described(language_model(CAUSAL["layer, switch"]))
    assert "causal self-attention; learned positions; " in writer
    x = keras.Input((WIDTH,))
    assert described(keras.Model(x, layers.Dense(3)(x))) == (
        "Network without skip paths: 1 layer with weights; 45 parameters."
    )


def test_the_text_has_every_finding_with_its_place_and_reference():
    graph = plots.read_graph(encoder(["output"] * 4, False))
    text = plots.diagnosis_text(graph)
    assert "1 finding:" in text
    for finding in plots.findings(graph):
        assert finding.reference.split(",")[0] in text
        assert all(place in text for place in finding.about)
    assert max(map(len, text.splitlines())) <= 88
    fine = plots.diagnosis_text(plots.read_graph(encoder(["pre"] * 2)))
    assert fine.endswith("Nothing looks wrong in what the graph shows.")


def test_remarks_are_printed_after_the_findings():
    graph = plots.read_graph(encoder(["output"] * 4))
    (remark,) = (note for note in plots.diagnose(graph).notes if note.kind == "remark")
    assert plots.findings(graph) == ()
    text = plots.diagnosis_text(graph)
    assert "No findings.\n\n1 remark that may be meant:\n\n1. A norm" in text
    assert remark.reference.split(",")[0] in text
    folded = plots.apply_plugins(graph, ["diagnose", "fold"])
    colour = renderers.noted_colour(folded, "block_0.attention.norm")
    assert colour == renderers.note_colour("remark") != renderers.note_colour("any other")


class GSA(layers.Layer):
    """Self-attention without a skip path, under a name without a meaning."""

    def __init__(self, **options):
        super().__init__(**options)
        self.attention = layers.MultiHeadAttention(HEADS, HEAD_WIDTH)

    def build(self, shape):
        self.attention.build(shape, shape)

    def call(self, x):
        return self.attention(x, x)


def test_closed_layers_are_named():
    x = keras.Input((LENGTH, WIDTH))
    model = keras.Model(x, layers.Dense(CLASSES)(GSA(name="b")(GSA(name="a")(x))))
    text = plots.diagnosis_text(plots.read_graph(model)).replace("\n", " ")
    assert "3 layers with weights, 2 of them closed (GSA)" in text
    assert (
        "Nothing looks wrong in what the graph shows.  2 layers that the graph does not open"
        in text
    )
    assert "--open-layers" in text
    opened = plots.read_graph(model, open_layers=True)
    assert len(plots.findings(opened)) == 1
    assert "--open-layers" not in plots.diagnosis_text(opened)


def test_the_plugin_adds_notes_that_survive_folding_and_json():
    graph = plots.read_graph(encoder(["output"] * 4, False))
    noted = plots.apply_plugins(graph, ["diagnose"])
    assert [note.kind for note in noted.notes] == ["description", "finding"]
    assert plots.diagnose(noted) == noted
    assert plots.Graph.from_json(noted.to_json()) == noted
    (note,) = (note for note in plots.fold(noted).notes if note.kind == "finding")
    assert note.about == ("block_0.attention.norm", "block_0.feedforward.norm")
    assert plots.findings(plots.fold(noted)) == (note,)


def test_a_finding_is_framed_and_a_deviating_block_is_not():
    graph = plots.read_graph(encoder([*["pre"] * 4, "post", "pre"]))
    folded = plots.apply_plugins(graph, ["skip_paths", "diagnose", "fold"])
    node = folded.node("block_2.attention.norm")
    assert {note.kind for note in folded.notes if node.id in note.about} == {"finding", "deviates"}
    frame = boxes.node_attributes(node, folded, boxes.NO_LABELS, on_stream=True, tag=None)["color"]
    assert frame == f'"{renderers.note_colour("finding")}"'
    about = {i for note in folded.notes if note.kind == "deviates" for i in note.about}
    found = {i for note in folded.notes if note.kind == "finding" for i in note.about}
    assert about - found
    assert not any(renderers.noted_colour(folded, node_id) for node_id in about - found)


def test_other_packages_can_add_rules_and_a_failing_rule_is_skipped(monkeypatch):
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))

    @plots.diagnosis_rule("odd_width")
    def odd_width(graph):
        yield plots.Note("finding", (graph.nodes[0].id,), "It is odd.", "Nobody, section 0")

    @plots.diagnosis_rule("broken")
    def broken(graph):
        raise KeyError("nothing")

    graph = plots.read_graph(encoder(["pre"] * 2))
    with pytest.warns(UserWarning, match=r"'broken' was skipped.*KeyError"):
        assert [finding.text for finding in plots.findings(graph)] == ["It is odd."]
    with pytest.raises(ValueError, match="'broken' is registered already"):
        plots.diagnosis_rule("broken")(broken)


def test_a_note_of_pairs_names_the_second_call_of_several_pairs_once():
    softmax = ("shares", "Softmax", ["x"])
    logs = [(name, "Log", ["shares"]) for name in ("first", "second")]
    (note,) = rules._RULES["log_of_softmax"](made(("x", "InputLayer", []), softmax, *logs))
    assert note.about == ("first", "second", "shares")
    assert ": first and second take probabilities of shares, which" in note.text


def test_all_rules_share_one_search_for_attentions(monkeypatch):
    searched = []
    search = attentions.find_attentions

    def counted(graph):
        searched.append(graph)
        return search(graph)

    monkeypatch.setattr(attentions, "find_attentions", counted)
    graph = plots.read_graph(encoder(["pre"] * 2))
    for times in (1, 2):  # another diagnosis searches again: sets of class names may have changed
        plots.findings(graph)
        assert len(searched) == times


def test_rules_take_calls_without_inputs_such_as_reshapes_of_weights():
    call = ("kernel", "Reshape", [])
    graph = made(("x", "InputLayer", []), call, ("sum", "Add", ["x", "kernel"]))
    assert plots.findings(graph) == ()  # a rule that fails is a warning, and so an error


def test_rules_take_maxima_of_integers_and_attentions_without_positions():
    ids, number = keras.Input((5, 3), dtype="int32"), keras.Input(())
    scores = layers.Attention()([number, number])
    model = keras.Model([ids, number], [ops.max(ids, axis=-1), scores])
    assert plots.findings(plots.read_graph(model)) == ()


def test_ids_that_a_deep_network_computes_take_no_longer_than_others():
    calls = [("x", "InputLayer", [])]
    for number in range(60):  # with 2 ** 60 ways through the skip paths
        last = calls[-1][0]
        calls += [(f"dense{number}", "Dense", [last], {"units": 7})]
        calls += [(f"sum{number}", "Add", [last, f"dense{number}"])]
    code = ("code", "Embedding", ["ids"], {"input_dim": 11})
    graph = made(*calls, ("ids", "Argmax", [calls[-1][0]]), code)
    assert list(rules._RULES["ids_beyond_the_table"](graph)) == []
