"""Costs of a model, counted from its spec without Keras: operations, cache and memory.

Operations are those of matrix products, a multiply-add being two floating-point operations: the
projections, the scores q k^T, the weighted values, the feed-forward layers and the logits. Counted
are the products that the graphs compute: for a whole sequence all t x t scores, also the masked
ones, twice as many as a causal model needs; for a new token the scores of all slots of its cache.

This is the account of Kaplan et al. 2020 (section 2.1 and table 1) and of Hoffmann et al. 2022
(appendix F), with these differences: the first leaves out the logits, and counts half as much for
scores and weighted values; the second counts the softmax, and the embeddings as a product.

Of a mixture of experts, the products of a token with its own experts are counted. Where rows are
multiplied in blocks (`builders.grouped_products`), the last block of an expert has some more rows.

With latents, a whole sequence computes keys and values, and a decoding step does not: it moves
their products to the query and to the output (`builders.latent_attention`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from builders.counting import UP_PROJECTIONS, custom_component, number_of_writes
from builders.errors import unknown_name
from builders.registry import as_spec
from builders.spec import TransformerSpec
from builders.spec_checks import check_length

BACKWARD_PER_FORWARD = 2
"""Products of the backward pass for each product c = a b: the gradients of a and of b."""


class FlopCounts(dict[str, int]):
    """Floating-point operations of one row, by component.

    Components: for each attention, such as `decoder.self_attention`, its `.projections` (latents,
    query, key, value, gate and output), `.scores` and `.weighted_values`, and the `.memory` of a
    Gated DeltaNet; `decoder.feedforward` and `encoder.feedforward`; `logits`; and where the model
    has them `pooler`, `masked_lm_head`, `classifier`, `decoder.merges` and `encoder.merges`, the
    gates of highways and the weights of hyper-connections, and `decoder.embedding` and
    `encoder.embedding`, the projections of embeddings whose width is not d. All blocks of a stack
    are counted together.
    """

    @property
    def total(self) -> int:
        """The operations of the forward pass."""
        return sum(self.values())

    @property
    def training(self) -> int:
        """The operations of forward and backward pass, three times those of the forward pass."""
        return (1 + BACKWARD_PER_FORWARD) * self.total


@dataclass(frozen=True)
class MemoryCounts:
    """Memory of a model without its activations, in bytes.

    Attributes:
        weights: of the parameters.
        gradients: one number per parameter.
        moments: two numbers per parameter, the state of AdamW.
    """

    weights: int
    gradients: int
    moments: int

    @property
    def training(self) -> int:
        """The sum of all three."""
        return self.weights + self.gradients + self.moments


@dataclass(frozen=True)
class Precision:
    """The dtypes of a Keras dtype policy: of the weights, and of the computation."""

    weights: str
    computes: str


PRECISIONS = {
    "float32": Precision("float32", "float32"),
    "bfloat16": Precision("bfloat16", "bfloat16"),
    "float16": Precision("float16", "float16"),
    "mixed_bfloat16": Precision("float32", "bfloat16"),
    "mixed_float16": Precision("float32", "float16"),
}
"""The allowed values of `dtype`: names of Keras dtype policies."""

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int32": 4, "bool": 1}


def count_flops(
    spec: TransformerSpec | str, length: int, source_length: int | None = None
) -> FlopCounts:
    """Count the operations of the forward pass over one whole sequence, as in training.

    Per token, and without the terms in t, this is twice the number of parameters in matrix
    products: 24 d^2 for a classic block. Windows and chunks do not change it, since the whole
    matrix of scores is computed and then masked.

    Args:
        spec: of the model, or the name of a variant.
        length: tokens of the sequence, of the target in an encoder-decoder, t.
        source_length: tokens of the source of an encoder-decoder, s; `None`: `length`.

    Raises:
        ValueError: a length that the model does not take, a source for a model without one, or a
            registered component whose matrix products are not known.
    """
    spec = as_spec("count_flops", spec)
    _check_components(spec)
    check_length(spec, "length", length)
    source = _source_length(spec, length, source_length)
    counts = FlopCounts()
    for stack in spec.stacks:
        tokens = length if source is None or stack == "decoder" else source
        memory = (source, source) if source is not None and stack == "decoder" else None
        counts |= _embedding(spec, stack, tokens)
        blocks = spec.blocks(stack)
        counts |= _summed(_block(block, stack, tokens, tokens, memory) for block in blocks)
    return FlopCounts(counts | _output(spec, length))


def count_decode_flops(
    spec: TransformerSpec | str, length: int, source_length: int | None = None
) -> FlopCounts:
    """Count the operations of one decoding step: one new token, with earlier tokens in a cache.

    Blocks with a window or chunks attend to at most that many keys. An encoder-decoder has encoded
    its source before, at the cost of `count_encode_flops`.

    Args:
        spec: of the model, or the name of a variant.
        length: slots of the cache: the tokens that the new one attends to, itself included, if
            all are filled.
        source_length: as in `count_flops`.

    Raises:
        ValueError: as in `count_flops`, or a model that has no decoder.
    """
    spec = as_spec("count_decode_flops", spec)
    _check_stacks(spec, "count_decode_flops", "decoder")
    _check_components(spec)
    check_length(spec, "length", length)
    source = _source_length(spec, length, source_length)
    counts = FlopCounts(_embedding(spec, "decoder", 1))
    memory = None if source is None else (source, 0)
    counts |= _summed(
        _block(block, "decoder", 1, slots(length, block.most_keys), memory, cached=True)
        for block in spec.blocks("decoder")
    )
    return FlopCounts(counts | _output(spec, 1))


def count_encode_flops(spec: TransformerSpec | str, source_length: int) -> FlopCounts:
    """Count the operations of encoding a source once, before the first decoding step.

    They are those of the encoder, and of the keys and values of every cross-attention.

    Args:
        spec: of the model, or the name of a variant.
        source_length: tokens of the source, s.

    Raises:
        ValueError: as in `count_flops`, or a model without a source.
    """
    spec = as_spec("count_encode_flops", spec)
    _check_stacks(spec, "count_encode_flops", "encoder", "decoder")
    whole = count_flops(spec, 1, source_length)
    counts = FlopCounts({name: n for name, n in whole.items() if name.startswith("encoder.")})
    name = "decoder.cross_attention.projections"
    blocks = spec.blocks("decoder")
    counts[name] = sum(_projections(block, 0, source_length, cached=True) for block in blocks)
    return counts


def count_cache_bytes(spec: TransformerSpec | str, length: int, dtype: str = "float32") -> int:
    """Count the bytes of the cache of a decoder's own tokens, for one row.

    These are k keys and k values of width h in every block, or a latent and a shared key, in the
    compute dtype, and the position of every token. In blocks with a window or chunks the cache has
    at most that many slots.

    Args:
        spec: of the model, or the name of a variant.
        length: maximum number of cached tokens.
        dtype: a Keras dtype policy, one of `PRECISIONS`.

    Raises:
        ValueError: a length that the model does not take, an unknown dtype, or a model that has no
            decoder.
    """
    spec = as_spec("count_cache_bytes", spec)
    _check_stacks(spec, "count_cache_bytes", "decoder")
    check_length(spec, "length", length)
    blocks = spec.blocks("decoder")
    numbers = sum(_cache_bytes_of_a_block(block, length, dtype) for block in blocks)
    reaches = {(block.attention_window, block.attention_chunk, block.most_keys) for block in blocks}
    positions = sum(slots(length, most_keys) for *_, most_keys in reaches)
    return numbers + positions * _BYTES["int32"]


def count_source_cache_bytes(
    spec: TransformerSpec | str, source_length: int, dtype: str = "float32"
) -> int:
    """Count the bytes of the cache of the source in a decoder, for one row.

    Args:
        spec: of the model, or the name of a variant.
        source_length: tokens of the source, s.
        dtype: as in `count_cache_bytes`.

    Raises:
        ValueError: as in `count_cache_bytes`, or a model without a source.
    """
    spec = as_spec("count_source_cache_bytes", spec)
    _check_stacks(spec, "count_source_cache_bytes", "encoder", "decoder")
    check_length(spec, "source_length", source_length)
    mask = 0 if spec.pad_token_id is None else _BYTES["bool"]
    numbers = (_bytes_of_a_key_and_value(block, dtype) for block in spec.blocks("decoder"))
    return source_length * (sum(numbers) + mask)


def count_memory(parameters: int, dtype: str = "float32") -> MemoryCounts:
    """Count the bytes of weights, gradients and AdamW's two moments.

    All have the dtype of the weights, which is float32 with the mixed policies. (Keras keeps the
    moments in the dtype of the weights, also in half precision.)

    Args:
        parameters: their number, as in `count_parameters(spec).total`.
        dtype: a Keras dtype policy, one of `PRECISIONS`.

    Raises:
        ValueError: an unknown dtype.
    """
    if not isinstance(parameters, int):
        raise TypeError(
            f"count_memory takes a number of parameters, not {type(parameters).__name__}; "
            "give count_parameters(spec).total"
        )
    weights = parameters * _BYTES[precision(dtype).weights]
    return MemoryCounts(weights=weights, gradients=weights, moments=2 * weights)


def precision(dtype: str) -> Precision:
    """Return the dtypes of a dtype policy.

    Raises:
        ValueError: an unknown policy; the message lists the allowed ones.
    """
    if dtype not in PRECISIONS:
        raise ValueError(unknown_name("dtype", dtype, PRECISIONS))
    return PRECISIONS[dtype]


def slots(length: int, most_keys: int | None) -> int:
    """Return the number of cache slots of a block for `length` tokens."""
    return length if most_keys is None else min(length, most_keys)


# Components, each for a number of tokens ---------------------------------------------------------


def _summed(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sums of counts by component."""
    counts: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            counts[name] = counts.get(name, 0) + count
    return counts


def _block(
    spec: TransformerSpec,
    stack: str,
    tokens: int,
    keys: int,
    memory: tuple[int, int] | None,
    cached: bool = False,
) -> dict[str, int]:
    """Count a block.

    Args:
        spec: of the block.
        stack: that the block is in.
        tokens: that it reads.
        keys: that each of them has scores for.
        memory: tokens of the source, and how many of them have no keys and values yet; `None`: no
            cross-attention.
        cached: whether keys and values are in a cache.
    """
    name = f"{stack}.self_attention"
    if spec.mixer == "gated_delta":
        counts = _gated_delta(spec, name, tokens)
    else:
        counts = _attention(spec, name, tokens, tokens, tokens * keys, cached)
    if memory is not None:
        source, new = memory
        pairs = tokens * source
        counts |= _attention(spec, f"{stack}.cross_attention", tokens, new, pairs, cached)
    counts[f"{stack}.feedforward"] = _feedforward(spec, tokens)
    if per_write := _merge(spec):
        writes = number_of_writes(spec, 2 if memory is None else 3)
        counts[f"{stack}.merges"] = 2 * writes * per_write * tokens
    return counts


def _gated_delta(spec: TransformerSpec, name: str, tokens: int) -> dict[str, int]:
    """Count a Gated DeltaNet, whose tokens all see each other as in attention.

    The triangular system of its corrections is not in the count.
    """
    d, n = spec.hidden_dim, spec.delta_value_heads
    key, value = spec.delta_key_dim, spec.delta_value_dim
    columns = 2 * spec.delta_key_heads * key + 3 * n * value + 2 * n
    return {
        f"{name}.projections": 2 * d * columns * tokens,
        f"{name}.scores": 2 * 2 * n * key * tokens**2,
        f"{name}.weighted_values": 2 * n * value * tokens**2,
        f"{name}.memory": 3 * 2 * n * key * value * tokens,
    }


def _merge(spec: TransformerSpec) -> int:
    """Count the multiply-adds of one write to the stream, for a token, and of what reads it."""
    d, m = spec.hidden_dim, spec.num_streams
    of_streams = (m + m * m) * d  # to read and mix them; nothing is summed to write
    return {
        "highway": d * d,
        "static_hyper_connections": of_streams,
        "hyper_connections": of_streams + m * d * (m + 2),
    }.get(spec.merge, 0)


def _attention(
    spec: TransformerSpec, name: str, queries: int, keys: int, pairs: int, cached: bool
) -> dict[str, int]:
    """Count an attention by its numbers of queries, new keys, and query-key pairs."""
    key, value = spec.head_dim, spec.value_dim  # widths; every query head has its own scores
    if spec.latent_dim is not None and cached:
        key, value = spec.latent_dim + spec.rotary_dim, spec.latent_dim
    return {
        f"{name}.projections": _projections(spec, queries, keys, cached),
        f"{name}.scores": 2 * spec.num_heads * key * pairs,
        f"{name}.weighted_values": 2 * spec.num_heads * value * pairs,
    }


def _projections(spec: TransformerSpec, queries: int, keys: int, cached: bool) -> int:
    """Count projections to n heads (queries, outputs) and to k heads (keys, values)."""
    d, n, h = spec.hidden_dim, spec.num_heads, spec.head_dim
    gates = 2 * queries * d * n * spec.value_dim * spec.attention_gate
    if spec.latent_dim is None:
        return gates + 2 * d * h * (queries * 2 * n + keys * 2 * spec.num_key_value_heads)
    of_latent = spec.latent_dim * n * (h - spec.rotary_dim + spec.value_dim)
    width = spec.query_latent_dim or 0
    of_query = d * width + (width or d) * n * h + n * spec.value_dim * d
    of_key = d * (spec.latent_dim + spec.rotary_dim)
    of_latents = (queries if cached else keys) * of_latent
    return gates + 2 * (queries * of_query + keys * of_key + of_latents)


def _feedforward(spec: TransformerSpec, tokens: int) -> int:
    """Count a feed-forward layer, or the router and the active experts of a mixture."""
    kernels = UP_PROJECTIONS[spec.feedforward] + 1
    columns = kernels * spec.intermediate_dim
    if spec.num_experts:
        width = spec.num_active_experts * spec.expert_dim + spec.shared_expert_dim
        columns = kernels * width + spec.num_experts + spec.shared_expert_gate
    return 2 * spec.hidden_dim * columns * tokens


def _embedding(spec: TransformerSpec, stack: str, tokens: int) -> dict[str, int]:
    """Count the projection of embeddings to the width of the stream, where they differ."""
    if spec.embedding_dim == spec.hidden_dim:
        return {}
    return {f"{stack}.embedding": 2 * spec.embedding_dim * spec.hidden_dim * tokens}


def _output(spec: TransformerSpec, tokens: int) -> dict[str, int]:
    """Count the parts after the last block: logits, pooler, heads of masked tokens and classes."""
    d, e, v = spec.hidden_dim, spec.embedding_dim, spec.vocabulary_size
    counts = {}
    if spec.pooler:
        counts["pooler"] = 2 * d * d  # of the first token alone
    if spec.classes:
        counts["classifier"] = 2 * d * len(spec.classes)
    width = d
    if spec.masked_lm_head:
        width = spec.embedding_sum_dim
        counts["masked_lm_head"] = 2 * d * width * tokens
    if spec.masked_lm_head or "decoder" in spec.stacks:
        through_table = spec.tie_embeddings and e != width
        counts["logits"] = 2 * (width * e + e * v if through_table else width * v) * tokens
    return counts


def _cache_bytes_of_a_block(spec: TransformerSpec, length: int, dtype: str) -> int:
    if spec.mixer == "attention":
        return slots(length, spec.most_keys) * _bytes_of_a_key_and_value(spec, dtype)
    keys, values = spec.delta_key_heads * spec.delta_key_dim, spec.delta_value_heads
    memory = values * spec.delta_key_dim * spec.delta_value_dim * _BYTES["float32"]
    channels = 2 * keys + values * spec.delta_value_dim
    before = spec.delta_convolution - 1
    return memory + before * channels * _BYTES[precision(dtype).computes]


def _bytes_of_a_key_and_value(spec: TransformerSpec, dtype: str) -> int:
    numbers = 2 * spec.num_key_value_heads * spec.head_dim
    if spec.latent_dim is not None:
        numbers = spec.latent_dim + spec.rotary_dim
    return numbers * _BYTES[precision(dtype).computes]


# Checks -----------------------------------------------------------------------------------------


def _check_components(spec: TransformerSpec) -> None:
    if own := custom_component(spec):
        raise ValueError(
            f"{own} is a custom component, whose matrix products are not known; count those "
            "of a spec with what ships, and add yours"
        )


def _check_stacks(spec: TransformerSpec, function: str, *stacks: str) -> None:
    missing = [stack for stack in stacks if stack not in spec.stacks]
    if missing:
        raise ValueError(
            f"{function} takes a spec of a model with {' and '.join(stacks)}, given one of "
            f"kind={spec.kind!r}, which has no {missing[0]}"
        )


def _source_length(spec: TransformerSpec, length: int, source_length: int | None) -> int | None:
    """Return the tokens of the source, `None` for a model without one."""
    if spec.kind != "encoder_decoder":
        if source_length is None:
            return None
        raise ValueError(
            f"source_length={source_length!r}: must be None for a spec of kind={spec.kind!r}, "
            "which has no source"
        )
    if source_length is None:
        return length
    check_length(spec, "source_length", source_length)
    return source_length
