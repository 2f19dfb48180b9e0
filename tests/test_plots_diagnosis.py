"""What a diagnosis finds in models with a known mistake, and not in the same models without it."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import plots
from plots.diagnosis import rules
from plots.diagnosis.attentions import attentions_of
from plots.renderers import boxes

LENGTH, WIDTH, INNER, HEADS, HEAD_WIDTH, TOKENS, CLASSES = 11, 14, 23, 3, 5, 31, 7


@pytest.fixture(autouse=True)
def same_weights_every_time():
    keras.utils.set_random_seed(17)


def findings_of(model):
    return plots.findings(plots.read_graph(model, open_nested=True))


def the_finding(model):
    """The only finding, after a check that it has all that a reader needs."""
    (finding,) = findings_of(model)
    assert finding.about
    assert any(place.rpartition(".")[0] in finding.text for place in finding.about)
    assert len(finding.text) > 60
    assert finding.reference
    return finding


def described(model):
    return plots.diagnosis_text(plots.read_graph(model)).partition("\n\n")[0].replace("\n", " ")


# --- models -------------------------------------------------------------------------------------


def sublayer(name, x, function, norm):
    """One sublayer with its norm "pre", "post", "output" or "none", or with "no skip" path."""

    def normed(y):
        return layers.LayerNormalization(name=f"{name}.norm")(y)

    def merged(y):
        return layers.Add(name=f"{name}.merge")([x, y])

    return {
        "pre": lambda: merged(function(normed(x))),
        "post": lambda: normed(merged(function(x))),
        "output": lambda: merged(normed(function(x))),
        "none": lambda: merged(function(x)),
        "no skip": lambda: function(normed(x)),
    }[norm]()


def attention(name, memory=None, **masks):
    """Attention of y to a memory, or to itself."""
    layer = layers.MultiHeadAttention(HEADS, HEAD_WIDTH, name=f"{name}.layer")
    return lambda y: layer(y, y if memory is None else memory, **masks)


def feedforward(name, width=WIDTH):
    up = layers.Dense(INNER, activation="relu", name=f"{name}.up")
    down = layers.Dense(width, name=f"{name}.down")
    return lambda y: down(up(y))


def block(name, x, norms=("pre", "pre"), **masks):
    x = sublayer(f"{name}.attention", x, attention(f"{name}.attention", **masks), norms[0])
    return sublayer(f"{name}.feedforward", x, feedforward(f"{name}.feedforward"), norms[1])


def embedded(tokens, name="embedding", **options):
    """Token embeddings plus positions that are computed from the tokens' shape."""
    index = ops.cumsum(ops.ones_like(tokens), axis=1) - 1
    positions = layers.Embedding(LENGTH, WIDTH, name=f"{name}.positions")(index)
    x = layers.Embedding(TOKENS, WIDTH, name=f"{name}.tokens", **options)(tokens)
    return layers.Add(name=f"{name}.add")([x, positions])


def tokens_input(name="tokens"):
    return keras.Input((LENGTH,), dtype="int32", name=name)


def encoder(norms, final_norm=True, **masks):
    """An encoder with the given norm for each of its sublayers, two in a block."""
    tokens = tokens_input()
    x = embedded(tokens)
    for number in range(len(norms) // 2):
        x = block(f"block_{number}", x, norms[2 * number : 2 * number + 2], **masks)
    if final_norm:
        x = layers.LayerNormalization(name="final_norm")(x)
    return keras.Model(tokens, layers.Dense(CLASSES, name="logits")(x), name="tagger")


# --- norms --------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_stack_of_one_kind_of_norm_is_fine(norm):
    assert findings_of(encoder([norm] * 4, final_norm=norm == "pre")) == ()


@pytest.mark.parametrize(
    ("usual", "other"), [("pre", "post"), ("pre", "none"), ("post", "pre"), ("post", "none")]
)
def test_a_sublayer_that_is_normed_otherwise_is_named(usual, other):
    finding = the_finding(encoder([usual, usual, other, usual, usual, usual]))
    norm = [] if other == "none" else ["block_1.attention.norm"]
    assert finding.about == (*norm, "block_1.attention.merge")
    assert f"5 sublayers {usual}-norm" in finding.text


def test_pre_norm_whose_skip_paths_begin_after_the_norms_is_told_what_to_do():
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


def test_a_norm_on_the_branch_output_is_found_as_in_the_keras_example():
    """As in the Keras example on the classification of time series."""

    def model(norm):
        x = keras.Input((LENGTH, WIDTH))
        y = sublayer("first", x, attention("first"), norm)
        y = sublayer("second", y, feedforward("second"), norm)
        y = layers.GlobalAveragePooling1D()(y if norm == "post" else layers.LayerNormalization()(y))
        return keras.Model(x, layers.Dense(CLASSES)(y))

    finding = the_finding(model("output"))
    assert finding.about == ("first.norm", "second.norm")
    assert findings_of(model("post")) == findings_of(model("pre")) == ()


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


def test_a_deep_stack_without_norms_is_found_unless_a_learned_factor_is_in_their_place():
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


def test_a_sublayer_without_a_skip_path_is_named():
    finding = the_finding(encoder(["pre", "pre", "no skip", "pre", "pre", "pre"]))
    assert finding.about == ("block_1.attention.layer",)
    assert "block_1.attention," in finding.text
    finding = the_finding(encoder(["pre", "pre", "pre", "no skip"]))
    assert finding.about == ("block_1.feedforward.up", "block_1.feedforward.down")
    assert "block_1.feedforward," in finding.text


def test_a_sublayer_without_a_skip_path_is_found_where_nothing_has_a_name():
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


def test_attentions_one_after_the_other_without_any_skip_path_are_found():
    finding = the_finding(encoder(["no skip"] * 4))
    assert finding.about == ("block_0.attention.layer", "block_1.attention.layer")


def test_one_attention_between_other_layers_needs_no_skip_path():
    x = keras.Input((LENGTH, WIDTH))
    y = layers.LSTM(WIDTH, return_sequences=True)(x)
    assert findings_of(keras.Model(x, layers.Dense(CLASSES)(attention("a")(y)))) == ()


def test_what_a_model_gives_out_from_inside_needs_no_skip_path():
    whole = encoder(["pre"] * 4)
    inside = whole.get_layer("block_1.attention.layer").output
    assert findings_of(keras.Model(whole.inputs, inside)) == ()


# --- the future ---------------------------------------------------------------------------------


def seen_before(tokens):
    """Whether the key is not after the query, (b, t, t), computed in the graph."""
    index = ops.cumsum(ops.ones_like(tokens), axis=1)
    return ops.expand_dims(index, 2) >= ops.expand_dims(index, 1)


def not_padding(tokens):
    """Whether the key is a token, (b, 1, t)."""
    return ops.expand_dims(ops.not_equal(tokens, 0), 1)


def before_length(tokens):
    """Whether the key is before the first padding, (b, 1, t), by the length of the sequence."""
    length = ops.sum(ops.cast(ops.not_equal(tokens, 0), "int32"), axis=1, keepdims=True)
    return ops.expand_dims(ops.cumsum(ops.ones_like(tokens), axis=1) <= length, 1)


def by_layer(tokens=None, **masks):
    return attention("attention", **masks)


def by_dot_product(**masks):
    layer = layers.Attention(name="attention")
    return lambda x: layer([x / WIDTH**0.5, x], **masks)


def fused(**masks):
    def attend(x):
        heads = layers.Reshape((LENGTH, HEADS, HEAD_WIDTH))
        parts = [heads(layers.Dense(HEADS * HEAD_WIDTH)(x)) for _ in range(3)]
        mixed = ops.dot_product_attention(*parts, **masks)
        return layers.Dense(WIDTH)(layers.Reshape((LENGTH, HEADS * HEAD_WIDTH))(mixed))

    return attend


def in_steps(masked):
    """A product, what `masked` makes of the scores, a softmax, and another product."""

    def attend(x):
        query, key, value = (layers.Dense(WIDTH)(x) for _ in range(3))
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / WIDTH**0.5
        weights = layers.Dropout(0.1)(layers.Softmax()(masked(scores)))
        return ops.matmul(weights, value)

    return attend


TRIANGLE = np.tri(LENGTH) == 1
CAUSAL = {
    "layer, switch": lambda tokens: by_layer(use_causal_mask=True),
    "layer, computed mask": lambda tokens: by_layer(attention_mask=seen_before(tokens)),
    "layer, constant mask": lambda tokens: by_layer(attention_mask=TRIANGLE[None]),
    "layer, both masks": lambda tokens: by_layer(
        attention_mask=ops.logical_and(seen_before(tokens), not_padding(tokens))
    ),
    "dot product, switch": lambda tokens: by_dot_product(use_causal_mask=True),
    "fused, switch": lambda tokens: fused(is_causal=True),
    "fused, constant mask": lambda tokens: fused(mask=TRIANGLE[None, None]),
    "steps, where": lambda tokens: in_steps(lambda s: ops.where(seen_before(tokens), s, -1e9)),
    "steps, added": lambda tokens: in_steps(
        lambda s: s + ops.convert_to_tensor(np.where(TRIANGLE, 0, -1e9).astype("float32"))
    ),
    "steps, tril": lambda tokens: in_steps(
        lambda s: ops.where(ops.tril(ops.ones_like(s)) > 0, s, -1e9)
    ),
}
LEAKING = {
    "layer": lambda tokens: by_layer(),
    "layer, padding mask": lambda tokens: by_layer(attention_mask=not_padding(tokens)),
    "layer, mask by length": lambda tokens: by_layer(attention_mask=before_length(tokens)),
    "dot product": lambda tokens: by_dot_product(),
    "fused": lambda tokens: fused(),
    "fused, padding mask": lambda tokens: fused(mask=ops.expand_dims(not_padding(tokens), 1)),
    "steps": lambda tokens: in_steps(lambda s: s),
    "steps, padding mask": lambda tokens: in_steps(
        lambda s: s + (1.0 - ops.cast(not_padding(tokens), "float32")) * -1e9
    ),
}


def language_model(attend, name="tiny_gpt"):
    tokens = tokens_input()
    x = sublayer("sublayer", embedded(tokens), attend(tokens), "pre")
    x = layers.LayerNormalization(name="final_norm")(x)
    return keras.Model(tokens, layers.Dense(TOKENS, name="logits")(x), name=name)


def first_logits(model, tokens):
    return ops.convert_to_numpy(model(tokens))[:, 0]


@pytest.mark.parametrize("kind", [*CAUSAL, *LEAKING])
def test_a_decoder_that_sees_the_future_is_found_if_and_only_if_it_does(kind):
    model = language_model((CAUSAL | LEAKING)[kind])
    tokens = np.arange(1, LENGTH + 1, dtype="int32")[None]
    changed = np.where(np.arange(LENGTH) == LENGTH - 1, 19, tokens)
    leaks = not np.allclose(first_logits(model, tokens), first_logits(model, changed), atol=1e-6)
    assert leaks == (kind in LEAKING)
    assert bool(findings_of(model)) == leaks
    if leaks:
        assert "without a causal mask" in the_finding(model).text


def test_without_a_sign_of_a_decoder_attention_in_both_directions_is_fine():
    assert findings_of(language_model(LEAKING["layer"], name="tagger")) == ()
    assert findings_of(language_model(LEAKING["layer"], name="masked_lm")) == ()


def translator(causal=True, **cross_masks):
    source, target = tokens_input("source"), tokens_input("target")
    memory = layers.LayerNormalization(name="encoder_norm")(
        block("encoder_block", embedded(source, "source_embedding"))
    )
    x = embedded(target, "target_embedding")
    for name in ("first", "second"):
        own, cross = f"{name}.self", f"{name}.cross"
        x = sublayer(own, x, attention(own, use_causal_mask=causal), "pre")
        x = sublayer(cross, x, attention(cross, memory, **cross_masks), "pre")
    logits = layers.Dense(TOKENS)(layers.LayerNormalization(name="decoder_norm")(x))
    return keras.Model([source, target], logits, name="translator")


def test_self_attention_next_to_cross_attention_has_to_be_causal():
    assert the_finding(translator(causal=False)).about == ("first.self.layer", "second.self.layer")
    assert findings_of(translator(causal=True)) == ()


def test_one_block_of_a_causal_stack_that_is_not_causal_is_found():
    def model(*causal):
        tokens = tokens_input()
        x = embedded(tokens)
        for number, switch in enumerate(causal):
            x = block(f"block_{number}", x, use_causal_mask=switch)
        x = layers.LayerNormalization(name="final_norm")(x)
        return keras.Model(tokens, layers.Dense(TOKENS)(x), name="writer")

    assert the_finding(model(True, False, True)).about == ("block_1.attention.layer",)
    assert findings_of(model(True, True, True)) == ()


def test_queries_for_an_image_attend_to_each_other_in_both_directions():
    """As in DETR, whose decoder decodes no tokens."""
    image, queries = keras.Input((13, WIDTH), name="image"), keras.Input((LENGTH, WIDTH))
    x = sublayer("self", queries, attention("self"), "post")
    x = sublayer("cross", x, attention("cross", image), "post")
    assert findings_of(keras.Model([image, queries], x, name="decoder")) == ()


def test_masks_that_the_graph_does_not_explain_are_trusted():
    class Visible(layers.Layer):
        def call(self, tokens):
            index = ops.arange(LENGTH)
            return ops.broadcast_to(index[None] <= index[:, None], (1, LENGTH, LENGTH))

    assert findings_of(language_model(lambda t: by_layer(attention_mask=Visible()(t)))) == ()


@pytest.mark.parametrize("keys_first", [True, False])
def test_queries_are_told_from_keys_whichever_comes_first_in_the_einsum(keys_first):
    queries, keys = keras.Input((LENGTH, WIDTH), name="q"), keras.Input((13, WIDTH), name="k")
    if keys_first:
        scores = ops.einsum("bsd,btd->bts", keys, queries)
    else:
        scores = ops.einsum("btd,bsd->bts", queries, keys)
    mixed = ops.einsum("bts,bsd->btd", ops.softmax(scores), keys)
    graph = plots.read_graph(keras.Model([queries, keys], mixed))
    ((attention,), lineage) = attentions_of(graph)
    assert (attention.query, attention.keys, attention.is_self) == ("q", ("k",), False)
    assert [node.id for node in lineage.calls_of(attention.output) if node.kind == "input"] == ["q"]


# --- padding ------------------------------------------------------------------------------------


class AddTable(layers.Layer):
    """Adds a trained vector for each position, and hands the mask on."""

    def __init__(self, **options):
        super().__init__(**options)
        self.supports_masking = True

    def build(self, shape):
        self.table = self.add_weight(shape=(LENGTH, WIDTH), initializer="normal")

    def call(self, x):
        return x + self.table


class Table(AddTable):
    """A trained vector for each position, as a tensor of its own, without a mask."""

    def __init__(self, **options):
        super().__init__(**options)
        self.supports_masking = False

    def call(self, tokens):
        return ops.broadcast_to(self.table, (*ops.shape(tokens), WIDTH))


ADDED_POSITIONS = {
    "layer with mask": lambda x, tokens: AddTable(name="table")(x),
    "merge layer": lambda x, tokens: layers.Add(name="sum")([x, Table(name="table")(tokens)]),
    "operation": lambda x, tokens: x + Table(name="table")(tokens),
}


def masking_encoder(attend, add_positions=ADDED_POSITIONS["layer with mask"]):
    tokens = tokens_input()
    x = layers.Embedding(TOKENS, WIDTH, mask_zero=True, name="words")(tokens)
    x = layers.Dropout(0.1, name="drop")(add_positions(x, tokens))
    y = layers.Add(name="merge")([x, attend(tokens)(x)])
    y = layers.LayerNormalization(name="norm")(y)
    return keras.Model(tokens, layers.Dense(CLASSES)(y), name="tagger")


def sees_padding(model):
    """Whether the first output depends on a position that is padding."""
    tokens = np.array([[3, 5, 2, 0, 0, 0, 0, 0, 0, 0, 0]], "int32")
    before = first_logits(model, tokens)
    (table,) = model.get_layer("table").get_weights()
    table[5] += np.random.default_rng(7).normal(size=WIDTH)
    model.get_layer("table").set_weights([table])
    return not np.allclose(before, first_logits(model, tokens), atol=1e-6)


@pytest.mark.parametrize(
    ("positions", "lost_at"),
    [("layer with mask", None), ("merge layer", "sum"), ("operation", "add#1")],
)
def test_a_lost_mask_is_found_where_it_is_lost_if_and_only_if_padding_is_seen(positions, lost_at):
    model = masking_encoder(by_layer, ADDED_POSITIONS[positions])
    assert sees_padding(model) == (lost_at is not None)
    if lost_at is None:
        assert findings_of(model) == ()
    else:
        finding = the_finding(model)
        assert finding.about == ("attention.layer", lost_at)
        assert f"words gives out: attention.layer. The mask is lost at {lost_at}:" in finding.text


def test_a_mask_that_is_handed_in_replaces_the_lost_one():
    model = masking_encoder(
        lambda tokens: by_layer(attention_mask=not_padding(tokens)), ADDED_POSITIONS["operation"]
    )
    assert not sees_padding(model)
    assert findings_of(model) == ()


@pytest.mark.parametrize("attend", [fused, lambda: in_steps(lambda scores: scores)])
@pytest.mark.filterwarnings("ignore:Layer 'reshape")  # Keras warns that it loses the mask
def test_operations_take_no_implicit_mask(attend):
    model = masking_encoder(lambda tokens: attend())
    assert sees_padding(model)
    (place,) = the_finding(model).about
    assert place in ("dot_product_attention#1", "softmax#1")


def test_padding_that_follows_the_tokens_lies_in_the_future_of_a_causal_attention():
    model = masking_encoder(
        lambda tokens: by_layer(use_causal_mask=True), ADDED_POSITIONS["operation"]
    )
    assert not sees_padding(model)
    assert findings_of(model) == ()


def test_a_cross_attention_to_padding_that_the_encoder_masks_is_found():
    def model(masks_memory):
        source, target = tokens_input("source"), tokens_input("target")
        mask = not_padding(source)
        memory = block("encoder", embedded(source, "a"), ("post", "post"), attention_mask=mask)
        x = embedded(target, "b")
        own = attention("self", use_causal_mask=True)
        cross = attention("cross", memory, **({"attention_mask": mask} if masks_memory else {}))
        x = sublayer("cross", sublayer("self", x, own, "post"), cross, "post")
        return keras.Model([source, target], layers.Dense(TOKENS)(x), name="translator")

    finding = the_finding(model(masks_memory=False))
    assert finding.about == ("cross.layer",)
    assert "encoder.attention.layer masks the padding" in finding.text
    assert findings_of(model(masks_memory=True)) == ()


# --- gradients and constants --------------------------------------------------------------------


def two_stages(between):
    x = keras.Input((WIDTH,))
    chosen = between(layers.Dense(CLASSES, name="first")(x))
    return keras.Model(x, layers.Dense(CLASSES, name="second")(layers.Concatenate()([x, chosen])))


BLOCKING = {
    "arg_max": lambda y: ops.one_hot(ops.argmax(y, axis=-1), CLASSES),
    "stop_gradient": lambda y: ops.stop_gradient(y),
    "cast": lambda y: ops.cast(ops.cast(y, "int32"), "float32"),
    "greater": lambda y: ops.cast(y > 0, "float32"),
}
PASSING = {
    "softmax": lambda y: ops.softmax(y),
    "top_k": lambda y: ops.top_k(y, 3)[0],
    "where": lambda y: ops.where(y > 0, y, 0.0),
    "straight through": lambda y: y + ops.stop_gradient(ops.round(y) - y),
}


@pytest.mark.parametrize("kind", [*BLOCKING, *PASSING])
@pytest.mark.filterwarnings("ignore:Gradients do not exist", "ignore:The model does not have")
def test_weights_without_a_gradient_are_found_if_and_only_if_training_leaves_them(kind):
    model = two_stages((BLOCKING | PASSING)[kind])
    rng = np.random.default_rng(3)
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse", run_eagerly=True)
    first = model.get_layer("first")
    before = first.get_weights()[0]
    inputs, labels = rng.normal(size=(5, WIDTH)), rng.normal(size=(5, CLASSES))
    model.train_on_batch(inputs.astype("float32"), labels.astype("float32"))
    is_left = np.array_equal(before, first.get_weights()[0])
    assert is_left == (kind in BLOCKING)
    assert bool(findings_of(model)) == is_left
    if is_left:
        assert the_finding(model).about[0] == "first"


def test_frozen_weights_and_graphs_that_only_decide_are_not_expected_to_train():
    frozen = two_stages(BLOCKING["arg_max"])
    frozen.get_layer("first").trainable = False
    assert findings_of(frozen) == ()
    x = keras.Input((WIDTH,))
    assert findings_of(keras.Model(x, ops.argmax(layers.Dense(CLASSES)(x), axis=-1))) == ()


def test_positions_that_are_baked_in_are_found():
    def model(positions):
        tokens = tokens_input()
        x = layers.Embedding(TOKENS, WIDTH, name="tokens_embedding")(tokens)
        x = layers.Add(name="add_positions")([x, positions(tokens)])
        x = layers.LayerNormalization(name="norm")(block("block", x))
        return keras.Model(tokens, layers.Dense(CLASSES)(x))

    table = layers.Embedding(LENGTH, WIDTH, name="positions")
    angles = np.arange(LENGTH)[:, None] / 10_000 ** (2 * np.arange(WIDTH // 2) / WIDTH)
    sinusoids = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype("float32")
    baked = model(lambda tokens: ops.expand_dims(table(ops.arange(LENGTH)), 0))
    assert "positions" not in [layer.name for layer in baked.layers]
    finding = the_finding(baked)
    assert finding.about == ("add_positions",)
    assert "never trained" in finding.text
    assert findings_of(model(lambda t: table(ops.cumsum(ops.ones_like(t), axis=1) - 1))) == ()
    assert findings_of(model(lambda t: ops.convert_to_tensor(sinusoids[None]))) == ()


def test_a_constant_bias_on_attention_scores_is_no_table_of_positions():
    bias = np.random.default_rng(5).normal(size=(LENGTH, LENGTH)).astype("float32")
    attend = in_steps(lambda scores: scores + ops.convert_to_tensor(bias))
    assert findings_of(language_model(lambda tokens: attend, name="tagger")) == ()


# --- losses -------------------------------------------------------------------------------------


def compiled(activation, loss):
    x = keras.Input((WIDTH,))
    model = keras.Model(x, layers.Dense(CLASSES, activation=activation, name="last")(x))
    model.compile(loss=loss)
    return model


def test_a_softmax_before_a_loss_on_logits_is_found():
    on_logits = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    finding = the_finding(compiled("softmax", on_logits))
    assert finding.about == ("last",)
    assert "softmax of a softmax" in finding.text
    assert findings_of(compiled(None, on_logits)) == ()
    sigmoid = compiled("sigmoid", keras.losses.BinaryCrossentropy(from_logits=True))
    assert "sigmoid of a sigmoid" in the_finding(sigmoid).text


@pytest.mark.parametrize(
    "loss", ["sparse_categorical_crossentropy", keras.losses.CategoricalCrossentropy()]
)
def test_logits_for_a_loss_on_probabilities_are_found(loss):
    finding = the_finding(compiled(None, loss))
    assert finding.about == ("last",)
    assert "from_logits=True" in finding.text
    assert findings_of(compiled("softmax", loss)) == ()


def test_other_losses_have_no_say_in_the_activation():
    assert findings_of(compiled(None, "mse")) == findings_of(compiled("softmax", "mse")) == ()


def test_a_softmax_is_seen_through_what_only_changes_the_form():
    x = keras.Input((LENGTH, WIDTH))
    y = layers.Softmax(name="last.softmax")(layers.Dense(CLASSES)(x))
    model = keras.Model(x, layers.Reshape((LENGTH * CLASSES,))(layers.Activation("linear")(y)))
    model.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    assert the_finding(model).about == ("last.softmax",)


# --- what it says, and who may add to it --------------------------------------------------------


def test_the_description_says_what_the_model_is():
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
    assert fine.endswith("Nothing looks wrong.")


def test_the_plugin_adds_notes_that_survive_folding_and_json():
    graph = plots.read_graph(encoder(["output"] * 4, False))
    noted = plots.apply_plugins(graph, ["diagnose"])
    assert [note.kind for note in noted.notes] == ["description", "finding"]
    assert plots.diagnose(noted) == noted
    assert plots.Graph.from_json(noted.to_json()) == noted
    (note,) = (note for note in plots.fold(noted).notes if note.kind == "finding")
    assert note.about == ("block_0.attention.norm", "block_0.feedforward.norm")
    assert plots.findings(plots.fold(noted)) == (note,)


def test_the_frame_of_a_finding_is_not_hidden_by_that_of_a_block_that_deviates():
    graph = plots.read_graph(encoder([*["pre"] * 4, "post", "pre"]))
    folded = plots.apply_plugins(graph, ["skip_paths", "diagnose", "fold"])
    node = folded.node("block_2.attention.norm")
    assert {note.kind for note in folded.notes if node.id in note.about} == {"finding", "deviates"}
    frame = boxes.box_attributes(node, folded, boxes.Labels(), on_stream=True, tag=None)["color"]
    assert frame == f'"{boxes.note_colour("finding")}"'


def test_others_can_add_rules_and_one_that_fails_leaves_the_others_alone(monkeypatch):
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))

    @plots.diagnosis_rule("odd_width")
    def odd_width(graph):
        yield plots.Note("finding", (graph.nodes[0].id,), "It is odd.", "Nobody, section 0")

    @plots.diagnosis_rule("broken")
    def broken(graph):
        raise KeyError("nothing")

    graph = plots.read_graph(encoder(["pre"] * 2))
    with pytest.warns(UserWarning, match=r"'broken' was left out.*KeyError"):
        assert [finding.text for finding in plots.findings(graph)] == ["It is odd."]
    with pytest.raises(ValueError, match="'broken' is there already"):
        plots.diagnosis_rule("broken")(broken)
