"""Attention to the future or to padding is found if and only if outputs depend on them."""

import keras
import numpy as np
import pytest
from hand_made_transformers import (
    CAUSAL,
    CLASSES,
    HEAD_WIDTH,
    HEADS,
    INNER,
    LEAKING,
    LENGTH,
    TOKENS,
    WIDTH,
    attention,
    block,
    by_layer,
    embedded,
    findings_of,
    fused,
    in_steps,
    language_model,
    not_padding,
    sublayer,
    the_finding,
    tokens_input,
    translator,
)
from keras import layers, ops

import plots
from plots.attentions import find_attentions, query_flow
from plots.graph import check_graph

pytestmark = pytest.mark.usefixtures("fixed_seed")


def first_logits(model, tokens):
    return ops.convert_to_numpy(model(tokens))[:, 0]


# --- the future ---------------------------------------------------------------------------------


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", [*CAUSAL, *LEAKING])
def test_a_decoder_that_sees_the_future_is_found_if_and_only_if_it_does(kind):
    model = language_model((CAUSAL | LEAKING)[kind])
    tokens = np.arange(1, LENGTH + 1, dtype="int32")[None]
    changed = np.where(np.arange(LENGTH) == LENGTH - 1, 19, tokens)
    leaks = not np.allclose(first_logits(model, tokens), first_logits(model, changed), atol=1e-6)
    assert leaks == (kind in LEAKING)
    assert findings_of(model) == ()  # an encoder of masked tokens may have the same graph
    notes = plots.diagnose(plots.read_graph(model)).notes
    assert any("causal self-attention" in note.text for note in notes) == (not leaks)
    remarks = [note for note in notes if "next token" in note.text]
    assert [note.kind for note in remarks] == ["remark"] * leaks


def test_attention_in_both_directions_is_fine_outside_of_decoders():
    assert findings_of(language_model(LEAKING["layer"], name="tagger")) == ()
    assert findings_of(language_model(LEAKING["layer"], name="masked_lm")) == ()


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


def test_queries_of_an_image_decoder_may_attend_in_both_directions():
    """As in DETR, whose decoder decodes no tokens."""
    image, queries = keras.Input((13, WIDTH), name="image"), keras.Input((LENGTH, WIDTH))
    x = sublayer("self", queries, attention("self"), "post")
    x = sublayer("cross", x, attention("cross", image), "post")
    assert findings_of(keras.Model([image, queries], x, name="decoder")) == ()


def test_masks_of_unknown_layers_are_trusted():
    class Visible(layers.Layer):
        def call(self, tokens):
            index = ops.arange(LENGTH)
            return ops.broadcast_to(index[None] <= index[:, None], (1, LENGTH, LENGTH))

    assert findings_of(language_model(lambda t: by_layer(attention_mask=Visible()(t)))) == ()


@pytest.mark.parametrize("keys_first", [True, False])
def test_queries_are_recognised_in_either_place_of_an_einsum(keys_first):
    queries, keys = keras.Input((LENGTH, WIDTH), name="q"), keras.Input((13, WIDTH), name="k")
    if keys_first:
        scores = ops.einsum("bsd,btd->bts", keys, queries)
    else:
        scores = ops.einsum("btd,bsd->bts", queries, keys)
    mixed = ops.einsum("bts,bsd->btd", ops.softmax(scores), keys)
    graph = plots.read_graph(keras.Model([queries, keys], mixed))
    (attention,) = find_attentions(graph)
    assert (attention.query.source, attention.memory, attention.is_self) == ("q", ("k",), False)
    flow = query_flow(graph, [attention])
    assert flow.depends(attention.output, on="q")
    assert not flow.depends(attention.output, on="k")


def writer_after(encoded, target):
    """A causal decoder over tokens that an encoder's output is joined to, without attending."""
    x = encoded(embedded(target, "target_embedding"))
    x = layers.LayerNormalization()(block("writer", x, use_causal_mask=True))
    return layers.Dense(TOKENS)(x)


@pytest.mark.parametrize("join", ["before the tokens", "added to every token"])
def test_an_encoder_before_or_added_to_causal_tokens_may_attend_in_both_directions(join):
    """As in a language model with a prefix, or a variational autoencoder of texts."""
    source, target = tokens_input("source"), tokens_input("target")
    memory = layers.LayerNormalization()(block("reader", embedded(source, "source_embedding")))
    if join == "before the tokens":
        logits = writer_after(lambda x: layers.Concatenate(axis=1)([memory, x]), target)
    else:
        code = layers.RepeatVector(LENGTH)(layers.GlobalAveragePooling1D()(memory))
        logits = writer_after(lambda x: layers.Add()([code, x]), target)
    assert findings_of(keras.Model([source, target], logits, name="autoencoder")) == ()


def text_and_image(name, is_mutual):
    """Text that attends to an image, and where it is mutual the image to the text."""
    tokens, image = tokens_input(), keras.Input((13, WIDTH), name="image")
    text, seen = embedded(tokens), image
    for number in range(2):
        own, cross = f"{name}.block_{number}.self", f"{name}.block_{number}.cross"
        before = text
        text = sublayer(own, text, attention(own), "post")
        text = sublayer(cross, text, attention(cross, seen), "post")
        if is_mutual:
            back = f"vision.block_{number}"
            seen = sublayer(back, seen, attention(back, before), "post")
    last = f"{name}.last"
    text = sublayer(last, text, attention(last), "post")
    outputs = [layers.Dense(TOKENS)(text), layers.Dense(CLASSES)(seen)]
    return keras.Model([tokens, image], outputs if is_mutual else outputs[0], name="pair")


def test_encoders_with_cross_attention_or_mutual_attention_are_no_decoders():
    """As in ALBEF and BLIP, or in LXMERT."""
    assert findings_of(text_and_image("text_encoder", is_mutual=False)) == ()
    assert findings_of(text_and_image("language", is_mutual=True)) == ()
    assert findings_of(text_and_image("captions", is_mutual=False)) == ()


# --- padding ------------------------------------------------------------------------------------


class AddTable(layers.Layer):
    """Adds a trained vector for each position, and passes the mask on."""

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
def test_a_lost_mask_is_found_at_its_call_if_and_only_if_outputs_depend_on_padding(
    positions, lost_at
):
    model = masking_encoder(by_layer, ADDED_POSITIONS[positions])
    assert sees_padding(model) == (lost_at is not None)
    if lost_at is None:
        assert findings_of(model) == ()
    else:
        finding = the_finding(model)
        assert finding.about == ("attention.layer", lost_at)
        assert f"mask of words: attention.layer. The mask is lost at {lost_at}:" in finding.text


def test_an_explicit_mask_replaces_a_lost_one():
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


@pytest.mark.parametrize(
    "mask",
    [
        lambda tokens: ops.cast(tokens, "bool"),
        lambda tokens: ops.minimum(tokens, 1),
        lambda tokens: ops.sign(tokens),
    ],
    ids=["cast", "minimum", "sign"],
)
def test_a_padding_mask_needs_no_comparison(mask):
    model = masking_encoder(
        lambda tokens: by_layer(attention_mask=ops.expand_dims(mask(tokens), 1)),
        ADDED_POSITIONS["operation"],
    )
    assert not sees_padding(model)
    assert findings_of(model) == ()


class Positions(layers.Layer):
    """Embedded tokens plus a table, as in TensorFlow's tutorial; `compute_mask` only if asked."""

    def __init__(self, has_mask, **options):
        super().__init__(**options)
        self.words = layers.Embedding(TOKENS, WIDTH, mask_zero=True)
        self.table = Table(name="table")
        self.supports_masking = has_mask
        self.has_mask = has_mask

    def build(self, shape):
        self.words.build(shape)
        self.table.build(shape)

    def compute_mask(self, tokens, mask=None):
        return self.words.compute_mask(tokens) if self.has_mask else None

    def call(self, tokens):
        return self.words(tokens) * WIDTH**0.5 + self.table(tokens)


class Reader(layers.Layer):
    """Self-attention and a feed-forward, without mask handling of its own."""

    def __init__(self, **options):
        super().__init__(**options)
        self.attention = layers.MultiHeadAttention(HEADS, HEAD_WIDTH)
        self.norms = [layers.LayerNormalization(), layers.LayerNormalization()]
        self.parts = [layers.Dense(INNER, activation="relu"), layers.Dense(WIDTH)]

    def build(self, shape):
        self.attention.build(shape, shape)
        for layer, width in zip([*self.norms, *self.parts], [WIDTH] * 3 + [INNER], strict=True):
            layer.build((*shape[:-1], width))

    def call(self, x):
        y = self.norms[0](x)  # Keras takes the mask off what an attention is given
        x = layers.Add()([x, self.attention(y, y)])
        return layers.Add()([x, self.parts[1](self.parts[0](self.norms[1](x)))])


@pytest.mark.sampled(2)
@pytest.mark.parametrize("has_mask", [True, False])
@pytest.mark.parametrize("readers", [1, 3])
@pytest.mark.filterwarnings("ignore:Layer '.*' .of type Reader")  # Keras warns that it loses it
def test_calls_inside_of_opened_layers_use_and_pass_on_masks_as_in_execution(has_mask, readers):
    tokens = tokens_input()
    positions = Positions(has_mask, name="embedded")
    x = positions(tokens)
    for number in range(readers):
        x = layers.Dropout(0.1)(Reader(name=f"part{number}")(x))
    logits = layers.Dense(CLASSES)(layers.LayerNormalization()(x))
    model = keras.Model(tokens, logits, name="tagger")
    padded = np.array([[3, 5, 2, 0, 0, 0, 0, 0, 0, 0, 0]], "int32")
    before = first_logits(model, padded)
    table = positions.table.get_weights()[0]
    table[5] += np.random.default_rng(7).normal(size=WIDTH)
    positions.table.set_weights([table])
    sees_it = not np.allclose(before, first_logits(model, padded), atol=1e-6)
    assert sees_it == (not has_mask)
    graph = plots.read_graph(model, open_layers=True)
    opened = [node.id for node in graph.nodes if node.class_name == "MultiHeadAttention"]
    assert len(opened) == readers
    found = plots.findings(graph)
    assert bool(found) == sees_it
    if sees_it:
        assert found[0].about == (*opened, "embedded.multiply#1")
    else:
        masks = [edge.source for edge in graph.edges if edge.port == "value_mask"]
        assert masks[0] == "not_equal#1"
        assert [mask.partition(".")[0] for mask in masks[1:]] == ["part0", "part1"][: readers - 1]
        assert sum(node.class_name == "NotEqual" for node in graph.nodes) == 1
    check_graph(graph)
