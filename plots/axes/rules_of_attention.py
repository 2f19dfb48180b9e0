"""Rules for attention, whole or in steps, and for layers that are Transformer blocks.

See `plots.axes.rules` for what a rule is.
"""

from __future__ import annotations

from dataclasses import replace

from plots.axes.rules import AXIS_RULES, Rule, axis_rule, follow_declaration, unknown
from plots.axes.unions import AxisId, Call
from plots.declaration import DOT_PRODUCT_ATTENTION, Declaration

TRANSFORMER_BLOCKS: set[str] = {
    "BloomDecoder",
    "FNetEncoder",
    "Gemma3DecoderBlock",
    "GemmaDecoderBlock",
    "GPTNeoXDecoder",
    "LlamaTransformerDecoder",
    "MistralTransformerDecoder",
    "T5TransformerLayer",
    "TransformerDecoder",
    "TransformerEncoder",
    "ViTEncoder",
}
"""Whole blocks in one layer, as keras-hub has them: what goes through them is a residual stream."""


def _declared_for(declaration: Declaration) -> Rule:
    """Return the rule of a class of Keras or KerasHub by what it would declare."""

    def rule(call: Call) -> None:
        ports = {port: declaration.inputs[port] for port in call.inputs}  # or a foreign class
        follow_declaration(call, replace(declaration, inputs=ports))

    return rule


AXIS_RULES["DotProductAttention"] = _declared_for(DOT_PRODUCT_ATTENTION)
AXIS_RULES["MaskedLMHead"] = _declared_for(
    Declaration({"inputs": "btd", "mask_positions": "bm"}, ("bmv",))
)


@axis_rule("GroupedQueryAttention", "MultiHeadAttention")
def _attention_layer(call: Call) -> None:
    query, value = call.inputs["query"], call.inputs["value"]
    key = call.inputs.get("key", value)
    for other in (key, value):
        call.axes.same(query[0], other[0])
    call.axes.all_same(key[1:-1], value[1:-1])
    call.axes.all_same(query[:-1], call.output[:-1])
    call.weight_axis("output out", call.output[-1])
    if len(query) == len(key) == 3:
        lengths = (query[1], key[1])
        call.axes.attends.append(lengths)
        for scores in call.outputs[1:2]:
            if len(scores) == 4:
                call.axes.all_same((query[0], scores[1], *lengths), scores)
        _mask_of_attention(call, query[0], *lengths)


def _mask_of_attention(call: Call, b: AxisId, t: AxisId, s: AxisId) -> None:
    for port, axes in call.inputs.items():
        if port == "attention_mask" and len(axes) > 2:
            for given, axis in zip((axes[0], *axes[-2:]), (b, t, s), strict=True):
                call.axes.stretch(given, axis)
        elif port.endswith("mask") and len(axes) == 2:
            call.axes.all_same(axes, (b, t if port == "query_mask" else s))


@axis_rule("AdditiveAttention", "Attention")
def _single_head(call: Call) -> None:
    query, value = call.inputs["inputs.0"], call.inputs["inputs.1"]
    key = call.inputs.get("inputs.2", value)
    call.axes.all_same(key[:-1], value[:-1])
    call.axes.all_same((query[0], query[-1]), (key[0], key[-1]))
    call.axes.all_same(call.output, (*query[:-1], value[-1]))
    call.axes.attends.append((query[1], key[1]))
    call.axes.multiplied += [*query, *value, *key]
    for port, length in (("mask.0", query[1]), ("mask.1", key[1])):
        if port in call.inputs:
            call.axes.all_same(call.inputs[port], (query[0], length))


@axis_rule(*TRANSFORMER_BLOCKS)
def _block(call: Call) -> None:
    unknown(call)
    call.axes.roles.append(("d", call.output[-1]))
