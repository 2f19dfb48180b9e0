"""What the command line says of architectures: the table of variants, and what a model costs.

Only `layer_lines` takes a model; the rest is told from a spec, without Keras.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import builders
from builders.costs import STACKS, precision, reads_source, slots


def variants_json(names: Sequence[str]) -> str:
    """Return the registry rows of variants, with their whole specs, as a JSON list."""
    rows = [(builders.variant_info(name), builders.variant(name)) for name in names]
    listed = [
        {
            "name": info.name,
            "kinds": info.kinds,
            "source": info.source,
            "parameters": info.parameters,
            "summary": info.summary,
            "spec": spec.to_dict(),
        }
        for info, spec in rows
    ]
    return json.dumps(listed, indent=1)


def variants_table(names: Sequence[str]) -> list[str]:
    """Return the lines of a table of variants."""
    table = [("variant", "kind", "norm", "positions", "layers", "width", "what is special")]
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
    return _table(table, str.ljust)


def parameter_lines(spec: builders.TransformerSpec) -> list[str]:
    """Return the parameters of a spec: in all, by component, and what the blocks spend them on."""
    counts = builders.count_parameters(spec)
    blocks = counts.attention + counts["feedforward"]
    return [
        *_shares("parameters", counts),
        f"in the blocks: attention {counts.attention / blocks:.1%}, "
        f"feed-forward {counts['feedforward'] / blocks:.1%}",
        *_classic_lines(spec),
    ]


def _classic_lines(spec: builders.TransformerSpec) -> list[str]:
    """Return the rule of 12 d^2 for a block, where it holds."""
    d = spec.hidden_dim
    full_width = spec.num_key_value_heads * spec.head_dim == spec.num_heads * spec.head_dim == d
    if not full_width or spec.intermediate_dim != 4 * d or spec.feedforward != "mlp":
        return []
    crosses = reads_source(spec)
    lines = [
        f"{'an encoder' if crosses else 'a'} block, but for biases and norms: "
        f"4 d^2 + 8 d^2 = 12 d^2 = {12 * d * d:,}"
    ]
    if crosses:
        lines.append(f"a decoder block: 4 d^2 more, in cross-attention: 16 d^2 = {16 * d * d:,}")
    return lines


def layer_lines(model: Any) -> list[str]:
    """Return the parameters of a model: in all, and by layer, blocks together."""
    layers: dict[str, int] = {}
    for layer in model.layers:
        if count := layer.count_params():
            name = re.sub(r"block_\d+", "block_*", layer.name)
            layers[name] = layers.get(name, 0) + count
    return _shares("parameters by layer", layers)


def _shares(title: str, counts: Mapping[str, int]) -> list[str]:
    """Return a table of counts and their shares, without what has none."""
    total = sum(counts.values())
    rows = [(name, f"{n:,}", f"{n / total:.1%}") for name, n in counts.items() if n]
    return _table([(title, f"{total:,}", ""), *rows])


def flop_lines(spec: builders.TransformerSpec) -> list[str]:
    """Return the operations per token, forward by component, in training and in decoding."""
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
    if "decoder" in STACKS[spec.kind]:
        steps = (builders.count_decode_flops(spec, length).total for length in lengths)
        rows.append(row("decoding, that many tokens in the cache", steps))
    if reads_source(spec):
        readings = (builders.count_encode_flops(spec, length).total for length in lengths)
        rows.append(row("before it, once: reading the source", readings))
    masked = " (with the scores that are masked)" if "decoder" in STACKS[spec.kind] else ""
    of_one = counts[0]
    slope = sum(n for name, n in of_one.items() if name.endswith((".scores", ".weighted_values")))
    pooler = of_one.get("pooler", 0)  # works once in a sequence
    return [
        "floating-point operations per token, of matrix products alone; a multiply-add is two",
        *(["the source is as long as the target"] if reads_source(spec) else []),
        *_table(rows),
        f"forward, of t tokens, each: {of_one.total - slope - pooler:,} + {slope:,} t"
        + (f" + {pooler:,} / t" if pooler else "")
        + masked,
    ]


def memory_lines(parameters: int, dtype: str) -> list[str]:
    """Return the bytes of weights, gradients and optimizer state with a dtype policy."""
    memory = builders.count_memory(parameters, dtype)
    named = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "AdamW's two moments": memory.moments,
        "training, without activations": memory.training,
    }
    rows = [(name, f"{n:,} bytes", with_prefix(n, BINARY)) for name, n in named.items()]
    return [f"memory, {_in_words(dtype)}", *_table(rows)]


def _in_words(dtype: str) -> str:
    types = precision(dtype)
    return dtype if types.weights == types.computes else f"{dtype}: weights in {types.weights}"


def cache_lines(spec: builders.TransformerSpec, dtype: str) -> list[str]:
    """Return how many bytes a row of the key/value cache takes; nothing without a decoder."""
    if "decoder" not in STACKS[spec.kind]:
        return []
    longest = spec.max_sequence_length
    each, row = (builders.count_cache_bytes(spec, length, dtype) for length in (1, longest))
    lines = [
        f"key/value cache, {precision(dtype).computes}",
        f"per token  {each:>13,} bytes",
        f"per row    {row:>13,} bytes, for ",
    ]
    reach = max(slots(longest, window) for window in spec.windows)
    if reach < longest:
        lines[-1] += f"{reach} tokens or more: at its window of {reach} it stops growing"
    else:
        lines[-1] += f"{longest} tokens"
    if reads_source(spec):
        of_source = builders.count_source_cache_bytes(spec, 1, dtype)
        lines.append(f"and for each token of the source {of_source:,} bytes")
    return lines


DECIMAL = (1000, ("", "k", "M", "G", "T", "P", "E"))
BINARY = (1024, ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB"))


def with_prefix(number: int, prefixes: tuple[int, Sequence[str]] = DECIMAL) -> str:
    """Return a number in the largest unit of which it has at least one: 1234567 -> `1.23 M`."""
    base, units = prefixes
    power = 0
    while number >= base ** (power + 1) and power + 1 < len(units):
        power += 1
    scaled = f"{number / base**power:,.2f}" if power else str(number)
    return f"{scaled} {units[power]}".rstrip()


def _table(
    rows: Sequence[Sequence[str]], align: Callable[[str, int], str] = str.rjust
) -> list[str]:
    """Return the lines of a table; `align` is for all columns but the first, of names."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            (align if i else str.ljust)(cell, width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
