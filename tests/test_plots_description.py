"""Descriptions are true or silent: structure decides every word, and names decide nothing."""

import re
import warnings

import keras
import numpy as np
import pytest
from described_models import (
    CausalMask,
    Encoder,
    Opaque,
    PositionalAttentionEncoder,
    TransformerDecoder,
    adapted,
    added_slots,
    cait,
    captioner,
    channel_attention,
    condition_in_every_block,
    detr,
    experts,
    highway,
    highway_attention,
    hyper,
    mixer,
    mutual,
    perceiver,
    plain_u_net,
    pooled_decoder,
    recurrent,
    retention,
    reversible,
    set_transformer,
    slots,
    state_space,
    tab_transformer,
    two_towers,
    u_net,
    universal,
    variational,
    vision,
    with_inner,
)
from keras import layers, ops
from model_bricks import (
    ANGLES,
    SERIES,
    D,
    Shift,
    T,
    added_mask,
    attend,
    by_hand,
    causal,
    constant_mask,
    conv,
    embedded,
    ffn,
    ids,
    language_model,
    mask_of,
    of_image,
    of_series,
    post,
    residual_conv,
    rotated,
    rotated_by_ops,
    sines_by_ops,
    stacked,
    translator,
)

import builders
import plots
from plots.diagnosis.description import description_of
from plots.skips import mark_skip_paths

NOT_TRANSFORMER = r"^(?!.*Transformer)"
ENCODER = (
    r"^Pre-norm Transformer encoder: 2 blocks with 4 residual paths, final norm; "
    r"self-attention in both directions; "
)
DECODER = (
    r"^Pre-norm Transformer decoder: 2 blocks with 4 residual paths, final norm; causal "
    r"self-attention; "
)
NO_POSITIONS = "no positions that the graph shows; "
BOTH = "self-attention in both directions; "

DESCRIBED = {
    # kind: (builder, what the description has to match)
    "language model": (language_model, DECODER + "learned positions"),
    "language model without positions": (
        lambda: language_model(positions=None),
        DECODER + NO_POSITIONS,
    ),
    "masked language model": (lambda: language_model(attend), ENCODER + "learned positions"),
    "post-norm": (lambda: language_model(block=post), "^Post-norm Transformer decoder: 2 blocks"),
    "mixed masks": (
        lambda: keras.Model(
            x := ids(), layers.Dense(7)(stacked(embedded(x), causal, ffn, attend, ffn))
        ),
        r"^Pre-norm Transformer: 2 blocks.*; self-attention, 1 of 2 causal",
    ),
    "constant mask": (lambda: language_model(constant_mask(0)), DECODER),
    "constant mask, one off": (lambda: language_model(constant_mask(1)), r"^(?!.*causal)"),
    "constant mask, only the past": (lambda: language_model(mask_of(lambda j, i: j < i)), DECODER),
    "computed mask": (lambda: language_model(mask_of(lambda j, i: j <= i)), DECODER),
    "computed mask, inverted": (
        lambda: language_model(mask_of(lambda j, i: j >= i)),
        r"^(?!.*causal)",
    ),
    "computed mask, off by one": (
        lambda: language_model(mask_of(lambda j, i: j <= i + 1)),
        r"^(?!.*causal)",
    ),
    "sliding window": (
        lambda: language_model(mask_of(lambda j, i: ops.logical_and(j <= i, j > i - 3))),
        DECODER,
    ),
    "added mask": (lambda: language_model(added_mask(-1e9)), DECODER),
    "added mask too small": (lambda: language_model(added_mask(1e-9)), r"^(?!.*causal)"),
    "scores times a mask": (
        lambda: language_model(lambda x: by_hand(x, lambda s: s * np.tri(T, dtype="float32"))),
        r"^(?!.*causal)",
    ),
    "where": (
        lambda: language_model(lambda x: by_hand(x, lambda s: ops.where(np.tri(T) > 0, s, -1e9))),
        DECODER,
    ),
    "where, inverted": (
        lambda: language_model(
            lambda x: by_hand(x, lambda s: ops.where(ops.tril(ops.ones_like(s)) > 0, -1e9, s))
        ),
        r"^(?!.*causal)",
    ),
    "layer CausalMask of ones": (
        lambda: language_model(lambda x: attend(x, attention_mask=CausalMask(False)(x))),
        ENCODER,
    ),
    "layer CausalMask": (
        lambda: language_model(lambda x: attend(x, attention_mask=CausalMask(True)(x))),
        DECODER,
    ),
    "translator": (
        translator,
        r"^Pre-norm Transformer encoder-decoder: 1 encoder block and 2 decoder blocks "
        r"with 8 residual paths, final norm; self-attention in both directions in the "
        r"encoder, causal self-attention in the decoder, cross-attention; learned",
    ),
    "translator with a causal encoder": (
        lambda: translator(g=causal),
        r"encoder-decoder: 1 encoder block and 2 decoder blocks.*; causal self-attention "
        r"in the encoder, causal",
    ),
    "sines by operations": (
        lambda: language_model(positions=sines_by_ops),
        DECODER + "sinusoidal positions",
    ),
    "table of sines": (
        lambda: language_model(
            positions=lambda x: np.concatenate([np.sin(ANGLES), np.cos(ANGLES)], -1).astype(
                "float32"
            )
        ),
        DECODER + "sinusoidal positions",
    ),
    "rotations by constants": (
        lambda: language_model(lambda x: by_hand(x, turned=rotated), None),
        "; rotary positions",
    ),
    "rotations by operations": (
        lambda: language_model(lambda x: by_hand(x, turned=rotated_by_ops), None),
        "; rotary positions",
    ),
    "rotations by one angle": (
        lambda: language_model(
            lambda x: by_hand(x, turned=lambda y: rotated(y, ANGLES[1:2])), None
        ),
        NO_POSITIONS,
    ),
    "positions of the batch": (
        lambda: language_model(
            positions=lambda x: layers.Embedding(T, D)(ops.cumsum(ops.ones_like(x), axis=0))
        ),
        NO_POSITIONS,
    ),
    "positions constant over time": (
        lambda: language_model(positions=lambda x: layers.Embedding(T, D)(ops.ones_like(x))),
        NO_POSITIONS,
    ),
    "one vector for all positions": (lambda: of_series(attend, ffn, begin=Shift(1)), NO_POSITIONS),
    "one vector for each position": (
        lambda: of_series(attend, ffn, begin=Shift(T)),
        "learned positions",
    ),
    "layer PositionalAttentionEncoder": (
        lambda: of_series(attend, ffn, begin=lambda x: PositionalAttentionEncoder()(x)),
        r"encoder: 1 block.*" + NO_POSITIONS,
    ),
    "LSTM encoder-decoder": (
        recurrent,
        r"^Recurrent encoder-decoder: 2 recurrent layers \(LSTM\), 1 cross-attention; "
        r"(?!.*(Transformer|self-att))",
    ),
    "GRU encoder-decoder": (
        lambda: recurrent(layers.GRU, False),
        r"^Recurrent encoder-decoder: 2 recurrent layers \(GRU\); ",
    ),
    "Bidirectional decoder": (
        lambda: recurrent(reversed_=True),
        r"^Recurrent encoder-decoder: .*LSTM and Bidirectional.*1 cross-attention",
    ),
    "one LSTM": (
        lambda: keras.Model(x := keras.Input(SERIES), layers.LSTM(3)(x)),
        "^Recurrent network: 1 recurrent layer",
    ),
    "encoder known by its mean": (pooled_decoder, r"cross-attention(?!.*self-attention)"),
    "Perceiver": (
        perceiver,
        r"^Pre-norm Transformer: 2 blocks with 6 residual paths, final norm; "
        r"self-attention in both directions, cross-attention; no positions",
    ),
    "set transformer": (
        set_transformer,
        r"^Post-norm Transformer: .*; cross-attention; no positions",
    ),
    "DETR": (
        detr,
        r"^Post-norm Transformer encoder-decoder: 2 encoder blocks and 2 decoder blocks "
        r"with 10 residual paths; .*learned positions",
    ),
    "Universal Transformer": (
        universal,
        r"^Post-norm Transformer encoder: 3 blocks with 6 residual paths; .*3 calls of 1 "
        r"attention layer.*learned positions",
    ),
    "slots that are added to": (added_slots, r"^(?!.*self-attention).*cross-attention"),
    "slot attention": (slots, NOT_TRANSFORMER + r".*2 residual paths, 2 attentions"),
    "hyper-connections": (hyper, r"^(?!.*no skip paths).*causal self-attention"),
    "highway attention": (highway_attention, r"^(?!.*(residual path))"),
    "highway": (highway, "^Residual network: 3 gated skip paths"),
    "norms of operations": (
        lambda: normed_by_operations(causal, ffn, causal, ffn),
        "^Pre-norm Transformer decoder: 2 blocks with 4 residual paths, final norm; causal self",
    ),
    "U-net": (u_net, "^Residual network: 3 residual paths, 1 concatenated skip connection"),
    "U-net without sums": (
        plain_u_net,
        "^Network with 2 concatenated skip connections: ",
    ),
    "parallel convolutions": (
        lambda: of_image(lambda x: layers.Concatenate()([conv(x), conv(x)])),
        "^Network without skip paths: 4 layers",
    ),
    "U-net with attention": (lambda: u_net(True), NOT_TRANSFORMER + ".*1 attention"),
    "variational autoencoder": (lambda: of_image(variational), "^Network without skip paths"),
    "layer Encoder": (
        lambda: keras.Model(x := keras.Input(SERIES), Encoder()(x)),
        NOT_TRANSFORMER + r".*1 of them closed \(Encoder\)",
    ),
    "layer TransformerDecoder": (
        lambda: keras.Model(x := keras.Input(SERIES), TransformerDecoder()(x)),
        r"^Network without skip paths that the graph shows",
    ),
    "CaiT": (cait, r"^Pre-norm Transformer encoder: 3 blocks with 6 residual paths, final norm"),
    "retention": (
        lambda: of_series(retention, ffn),
        "^Pre-norm residual network: 2 residual paths; Layer",
    ),
    "retention, post-norm": (
        lambda: of_series(retention, ffn, block=post),
        "^Post-norm residual network: 2 residual paths; LayerNormalization on the stream",
    ),
    "state space": (
        lambda: of_series(state_space, ffn),
        "^Pre-norm residual network: 2 residual paths; Layer",
    ),
    "hybrid of convolutions and attention": (
        lambda: of_tokens(filtered, ffn, causal, ffn, filtered, ffn),
        r"^Pre-norm Transformer decoder: 3 blocks with 6 residual paths, final norm; "
        r"causal self-attention in 1 of 3 blocks; ",
    ),
    "convolution, attention and feed-forward": (
        lambda: of_tokens(filtered, causal, ffn, filtered, causal, ffn),
        r"^Pre-norm Transformer decoder: 2 blocks with 6 residual paths, final norm; "
        r"causal self-attention; ",
    ),
    "hybrid of retention and attention": (
        lambda: of_tokens(retention, ffn, causal, ffn),
        r"^Pre-norm Transformer decoder: 4 residual paths, final norm; causal self-attention; ",
    ),
    "mixture of experts": (
        lambda: (
            language_model(lambda x: causal(x))
            and keras.Model(x := ids(), layers.Dense(7)(stacked(embedded(x), causal, experts)))
        ),
        r"^Pre-norm Transformer decoder: 1 block with 2 ",
    ),
    "adapters": (
        lambda: of_series(adapted(attend), adapted(ffn), block=post),
        r"^Post-norm Transformer encoder: 1 block",
    ),
    "MLP-Mixer": (
        lambda: of_series(mixer, ffn),
        "^Pre-norm residual network: 2 residual paths; LayerNormalization first",
    ),
    "vision Transformer": (lambda: of_image(vision), ENCODER + "learned positions"),
    "convolutional network": (
        lambda: of_image(lambda x: layers.Dense(7)(layers.Flatten()(conv(conv(x))))),
        "^Network without skip paths: 5 layers",
    ),
    "residual network": (
        lambda: of_image(lambda x: residual_conv(residual_conv(conv(x)))),
        "^Residual network: 2 residual paths; BatchNormalization last",
    ),
    "projections of themselves": (
        lambda: of_image(lambda x: projected(projected(residual_conv(conv(x))))),
        "^Residual network: 3 residual paths, 2 of them past a single linear layer; Batch",
    ),
    "two towers": (
        two_towers,
        r"^Pre-norm Transformer: 2 blocks with 4 residual paths, final norm; "
        r"self-attention, 1 of 2 causal; learned",
    ),
    "two streams that attend to each other": (
        mutual,
        r"^Post-norm Transformer: 4 blocks.*self-attention in both directions, cross-attention",
    ),
    "reversible": (reversible, r"^[\w-]+ Transformer decoder: 2 blocks.*; causal self-attention; "),
    "norms at both ends of a feed-forward": (
        tab_transformer,
        "^Post-norm Transformer encoder: 3 blocks with 6",
    ),
    "attention between channels": (
        lambda: of_series(channel_attention, ffn, begin=Shift(T)),
        r"attention between channels(?!.*self-attention)",
    ),
    "image captions": (
        captioner,
        r"^Post-norm Transformer decoder: 1 block with 3 .*causal self-attention, cross-attention",
    ),
    "a condition in every block": (
        condition_in_every_block,
        "^Pre-norm Transformer encoder: 2 blocks with 4 residual paths",
    ),
    "closed layers between": (
        lambda: with_inner(Opaque),
        r"^Partly opened network: 1 closed layer \(Opaque\), 2 attentions, 5 residual paths; self",
    ),
}

MASKS = ("one off", "inverted", "too small", "times a mask", "of ones", "off by one")
RIGHT = [kind for kind in DESCRIBED if not any(word in kind for word in MASKS)]
MISTAKEN = {"mixed masks", "Bidirectional decoder", "projections of themselves"}
MISTAKEN |= {k for k in RIGHT if k.startswith("position")}


def of_tokens(*functions):
    x = ids()
    return keras.Model(x, layers.Dense(7)(stacked(embedded(x), *functions)))


def normed_by_operations(*functions):
    def norm_(x):
        return x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-6)

    x = ids()
    y = embedded(x)
    for f in functions:
        y = y + f(norm_(y))
    return keras.Model(x, layers.Dense(7)(norm_(y)))


def filtered(x):
    return layers.Conv1D(D, 3, padding="causal", activation="relu")(x)


def projected(x):
    y = layers.Conv2D(8, 3, padding="same")(layers.ReLU()(x))
    return layers.Add()([layers.Conv2D(8, 1)(y), y])


def diagnosed(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras on masks, and on layers without `build`
        notes = plots.diagnose(plots.read_graph(model, open_nested=True)).notes
    description = next(note.text for note in notes if note.kind == "description")
    return description, [note.text for note in notes if note.kind == "finding"]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("merge", ["hyper_connections", "static_hyper_connections"])
@pytest.mark.parametrize(
    ("norm_placement", "words"),
    [
        ("pre", "Pre-norm"),
        ("output", "Res-post-norm"),
        ("sandwich", "Sandwich-norm"),
        ("parallel", "Pre-norm"),
    ],
)
def test_the_norms_of_several_streams_are_described(merge, norm_placement, words):
    changes = {"kind": "decoder_only", "merge": merge, "norm_placement": norm_placement}
    graph = plots.read_graph(builders.build("hyper_connections", abstract=True, **changes))
    text = description_of(mark_skip_paths(graph))
    assert re.match(rf"{words} Transformer decoder: 2 blocks with .*, final norm; causal", text)


@pytest.mark.sampled(25)
@pytest.mark.parametrize("kind", DESCRIBED)
def test_the_description_of_a_model_is_true(kind):
    build, expected = DESCRIBED[kind]
    description, findings = diagnosed(build())
    assert re.search(expected, description), description
    if kind in RIGHT and kind not in MISTAKEN:
        assert findings == []


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["mini_gpt", "llama", "bert_encoder", "masked_lm", "decoder"])
def test_the_names_of_a_model_and_its_layers_change_nothing(name):
    plain = language_model(attend)

    def renamed(layer):
        return layer.__class__.from_config({**layer.get_config(), "name": f"{name}.{layer.name}"})

    copy = keras.models.clone_model(plain, clone_function=renamed)
    named = keras.Model(copy.inputs, copy.outputs, name=name)
    assert diagnosed(named) == diagnosed(plain)


def test_one_attention_of_a_decoder_that_is_not_causal_is_found():
    _, findings = diagnosed(DESCRIBED["mixed masks"][0]())
    assert len(findings) == 1
    assert "without a causal mask" in findings[0]
    assert diagnosed(translator())[1] == []
    assert "attends to an encoder of tokens" in diagnosed(translator(attend))[1][0]


@pytest.mark.parametrize(
    ("attention", "outputs", "number"), [(attend, 13, 1), (causal, 13, 0), (attend, 7, 0)]
)
def test_a_model_of_its_own_tokens_that_is_not_causal_gets_a_remark(attention, outputs, number):
    graph = plots.diagnose(plots.read_graph(language_model(attention, outputs=outputs)))
    remarks = [note.text for note in graph.notes if "next token" in note.text]
    assert len(remarks) == number
    assert all(note.kind == "remark" for note in graph.notes if "next token" in note.text)


@pytest.mark.parametrize("make", [keras.layers.Embedding, keras.layers.ReversibleEmbedding])
def test_a_mask_that_exists_only_when_the_model_runs_is_read(make):
    tokens = keras.Input((None,), dtype="int32")
    x = make(13, 8, mask_zero=True)(tokens)
    y = keras.layers.Add()([x, keras.layers.MultiHeadAttention(2, 4)(x, x)])
    graph = plots.read_graph(keras.Model(tokens, keras.layers.LayerNormalization()(y)))
    assert [edge.port for edge in graph.edges if edge.implicit] == ["query_mask", "value_mask"]
    assert plots.findings(graph) == ()
