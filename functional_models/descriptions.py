"""Descriptions for the command line: the table of variants, and the costs of a model.

Only `layer_lines` needs a model; everything else is computed from a spec, without Keras.
"""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import builders
from builders.costs import precision, slots
from builders.fields import rule_of
from builders.spec import fields_by_group
from functional_models.tables import format_table


def variants_json(names: Sequence[str]) -> str:
    """Return variants with their specs as a JSON list."""
    shown = ("name", "kinds", "source", "parameters", "summary")
    listed = []
    for name in names:
        info = builders.variant_info(name)
        spec = builders.variant(name).to_dict()
        listed.append({**{field: getattr(info, field) for field in shown}, "spec": spec})
    return json.dumps(listed, indent=1)


def variants_table(names: Sequence[str]) -> str:
    """Return a table of variants."""
    table = [("variant", "kind", "norm", "positions", "layers", "width", "summary")]
    for name in names:
        info, spec = builders.variant_info(name), builders.variant(name)
        kinds = " / ".join(kind.replace("_", "-") for kind in info.kinds)
        table.append(
            (
                info.name,
                kinds,
                spec.norm_placement,
                spec.positions,
                str(spec.num_layers),
                str(spec.hidden_dim),
                info.summary,
            )
        )
    return format_table(table, align="left")


def variant_of(spec: builders.TransformerSpec) -> str | None:
    """Return the first variant that a spec equals but for its vocabularies; `None` without one."""

    def others(one: builders.TransformerSpec) -> dict[str, Any]:
        depends = ("vocabulary_size", "source_vocabulary_size", "pad_token_id")
        return {name: value for name, value in one.to_dict().items() if name not in depends}

    for name in builders.list_variants(spec.kind):
        if others(builders.variant(name, kind=spec.kind)) == others(spec):
            return name
    return None


def spec_line(spec: builders.TransformerSpec) -> str:
    """Return a spec in words: its variant, or its norms and positions, and its size."""
    name = variant_of(spec) or f"{spec.norm_placement} norm, {spec.positions} positions"
    blocks = f"{spec.num_layers} block{'s' * (spec.num_layers != 1)}"
    if spec.kind == "encoder_decoder":
        blocks = f"{spec.num_encoder_layers} + {spec.num_layers} blocks"
    return f"{name}, {blocks} of width {spec.hidden_dim}"


def fields_table() -> str:
    """Return the fields of a spec with defaults and documentation, by part of the model."""
    return "\n\n".join(
        "\n".join([f"{title}:", *map(_field_entry, group)])
        for title, group in fields_by_group().items()
    )


def _field_entry(field: dataclasses.Field[Any]) -> str:
    rule = rule_of(field)
    default = "required" if field.default is dataclasses.MISSING else f"default: {field.default}"
    text = textwrap.indent(textwrap.fill(rule.doc, 94, break_on_hyphens=False), " " * 6)
    return f"  {field.name}, {'derived by default' if rule.derive else default}\n{text}"


def parameter_lines(spec: builders.TransformerSpec) -> list[str]:
    """Return the parameters of a spec: in total, by component, and their shares in the blocks."""
    counts = builders.count_parameters(spec)
    blocks = counts.attention + counts["feedforward"]
    active = builders.count_parameters(spec, active=True).total
    of_a_token = f"active for a token: {active:,} ({active / counts.total:.1%})"
    return [
        *_shares("parameters", counts),
        *([of_a_token] if active < counts.total else []),
        f"in the blocks: attention {counts.attention / blocks:.1%}, "
        f"feed-forward {counts['feedforward'] / blocks:.1%}",
        *_block_rule(spec),
    ]


def _block_rule(spec: builders.TransformerSpec) -> list[str]:
    """Return the rule of 12 d^2 parameters per block, if it holds for the spec."""
    d = spec.hidden_dim
    full_width = spec.num_key_value_heads * spec.head_dim == spec.num_heads * spec.head_dim == d
    is_classic = spec.feedforward == "mlp" and not spec.num_experts and spec.latent_dim is None
    if not full_width or spec.intermediate_dim != 4 * d or not is_classic:
        return []
    crosses = spec.kind == "encoder_decoder"
    lines = [
        f"{'an encoder' if crosses else 'a'} block, without biases and norms: "
        f"4 d^2 + 8 d^2 = 12 d^2 = {12 * d * d:,}"
    ]
    if crosses:
        lines.append(
            f"a decoder block, with 4 d^2 more for cross-attention: 16 d^2 = {16 * d * d:,}"
        )
    return lines


def layer_lines(model: Any) -> list[str]:
    """Return the parameters of a model: in total, and by layer, summed over the blocks."""
    layers: dict[str, int] = {}
    for layer in model.layers:
        if count := layer.count_params():
            name = re.sub(r"block_\d+", "block_*", layer.name)
            layers[name] = layers.get(name, 0) + count
    return _shares("parameters by layer", layers)


def _shares(title: str, counts: Mapping[str, int]) -> list[str]:
    """Return a table of nonzero counts and their shares."""
    total = sum(counts.values())
    rows = [(name, f"{n:,}", f"{n / total:.1%}") for name, n in counts.items() if n]
    return _lines([(title, f"{total:,}", ""), *rows])


def flop_lines(spec: builders.TransformerSpec) -> list[str]:
    """Return the FLOPs per token: forward by component, training and decoding."""
    longest = spec.max_sequence_length
    lengths = sorted({1, longest // 4, longest // 2, longest} - {0})
    counts = [builders.count_flops(spec, length) for length in lengths]

    def row(name: str, values: Iterable[int]) -> tuple[str, ...]:
        return (name, *map(with_prefix, values))

    def per_token(name: str, totals: Iterable[int]) -> tuple[str, ...]:
        return row(name, (n // length for n, length in zip(totals, lengths, strict=True)))

    rows = [("tokens", *(f"{length:,}" for length in lengths))]
    rows += [per_token(name, (count[name] for count in counts)) for name in counts[0]]
    rows.append(per_token("forward", (count.total for count in counts)))
    rows.append(per_token("training, 3 x forward", (count.training for count in counts)))
    if "decoder" in spec.stacks:
        steps = (builders.count_decode_flops(spec, length).total for length in lengths)
        rows.append(row("decoding, with as many tokens in the cache", steps))
    if spec.kind == "encoder_decoder":
        readings = (builders.count_encode_flops(spec, length).total for length in lengths)
        rows.append(row("encoding the source, once", readings))
    masked = " (including masked scores)" if "decoder" in spec.stacks else ""
    of_one = counts[0]
    slope = sum(n for name, n in of_one.items() if name.endswith((".scores", ".weighted_values")))
    pooler = of_one.get("pooler", 0)  # runs once per sequence
    return [
        "floating-point operations per token in matrix products; a multiply-add counts as two",
        *(["the source is as long as the target"] if spec.kind == "encoder_decoder" else []),
        *_lines(rows),
        f"forward per token, for t tokens: {of_one.total - slope - pooler:,} + {slope:,} t"
        + (f" + {pooler:,} / t" if pooler else "")
        + masked,
    ]


def memory_lines(parameters: int, dtype: str) -> list[str]:
    """Return the bytes of weights, gradients and optimizer state with a dtype policy."""
    memory = builders.count_memory(parameters, dtype)
    named = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "AdamW moments": memory.moments,
        "training, without activations": memory.training,
    }
    rows = [(name, f"{n:,} bytes", with_prefix(n, BINARY)) for name, n in named.items()]
    types = precision(dtype)
    mixed = "" if types.weights == types.computes else f": weights in {types.weights}"
    return [f"memory, {dtype}{mixed}", *_lines(rows)]


def cache_lines(spec: builders.TransformerSpec, dtype: str) -> list[str]:
    """Return the bytes of the key/value cache; nothing without a decoder."""
    if "decoder" not in spec.stacks:
        return []
    longest = spec.max_sequence_length
    each, row = (builders.count_cache_bytes(spec, length, dtype) for length in (1, longest))
    sizes = _lines([("per token", f"{each:,} bytes"), ("per sequence", f"{row:,} bytes")])
    lines = [f"key/value cache, {precision(dtype).computes}", *sizes]
    reach = max(slots(longest, block.most_keys) for block in spec.blocks("decoder"))
    if reach < longest:
        lines[-1] += f", for {reach} or more tokens, since no block attends to more"
    else:
        lines[-1] += f", for {longest} tokens"
    if spec.kind == "encoder_decoder":
        of_source = builders.count_source_cache_bytes(spec, 1, dtype)
        lines.append(f"per source token {of_source:,} bytes")
    return lines


DECIMAL = (1000, ("", "k", "M", "G", "T", "P", "E"))
BINARY = (1024, ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB"))


def with_prefix(number: int, prefixes: tuple[int, Sequence[str]] = DECIMAL) -> str:
    """Return a number in the largest unit that is not above it: 1234567 -> `1.23 M`."""
    base, units = prefixes
    power = 0
    while number >= base ** (power + 1) and power + 1 < len(units):
        power += 1
    scaled = f"{number / base**power:,.2f}" if power else str(number)
    return f"{scaled} {units[power]}".rstrip()


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    return format_table(rows).split("\n")
