"""Shapes and numbers of the weights of a spec, from the formulas of the papers.

Like `reference`, it imports neither Keras nor this project.
"""

from reference_latents import latent_parameters, latent_shapes
from reference_spec import Spec, fill_derived_fields, of_block
from reference_streams import owner


def weight_shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight of the spec by name.

    All are trainable but the corrections of routers.
    """
    full = fill_derived_fields(spec)
    d, n, h = full["hidden_dim"], full["num_heads"], full["head_dim"]
    v = full["vocabulary_size"]
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, size: int = d) -> None:
        if full["norm_gain"]:  # False where there is the norm to unit length
            shapes[f"{name}.scale" if full["norm"] == "rms" else f"{name}.gamma"] = (size,)
        if full["norm_bias"]:
            shapes[f"{name}.beta"] = (size,)

    def norms(name: str, first: bool = True) -> None:
        if first and full["norm_placement"] in ("post", "pre", "sandwich", "parallel"):
            norm(f"{name}.norm")
        if full["norm_placement"] in ("output", "sandwich"):
            norm(f"{name}.output_norm")
        if not full["norm_placement"].startswith("parallel"):
            merge(name)

    def merge(name: str) -> None:
        sizes = {"rezero": 1, "layer_scale": d}
        if full["merge"] in sizes:
            shapes[f"{name}.branch_scale.scale"] = (sizes[full["merge"]],)
        if full["merge"] == "spherical":
            shapes[f"{name}.residual.scale"] = (d,)
        if full["merge"] == "highway":
            shapes[f"{name}.transform_gate.kernel"] = (d, d)
            shapes[f"{name}.transform_gate.bias"] = (d,)
        m = full["num_streams"]
        if full["merge"] == "static_hyper_connections":
            for role, shape in {"read": (m,), "mix": (m, m), "write": (m,)}.items():
                shapes[f"{name}.{role}_streams.kernel"] = shape
        if full["merge"] == "hyper_connections":
            for role, shape in {"kernel": (d, m + 2), "static": (m, m + 2), "scales": (2,)}.items():
                shapes[f"{name}.connections.{role}"] = shape

    def attention_shapes(name: str, own: dict) -> None:
        k = own["num_key_value_heads"]
        if own["mixer"] == "gated_delta":
            gated_delta_shapes(name)
            norms(name, own["attention_norm"])
            return
        roles = (("query", n), ("key", k), ("value", k))
        if full["latent_dim"] is not None:
            shapes.update({f"{name}.{k}": v for k, v in latent_shapes(own).items()})
            norm(f"{name}.latent_norm", full["latent_dim"])
            if full["query_latent_dim"] is not None:
                norm(f"{name}.query_latent_norm", full["query_latent_dim"])
            roles = ()
        for role, heads in roles:
            shapes[f"{name}.{role}.kernel"] = (d, heads, h)
            if full["attention_bias"]:
                shapes[f"{name}.{role}.bias"] = (heads, h)
            if own["qk_norm"] and own["qk_norm_gain"] and role != "value":
                if own["qk_norm_heads"] == "tied":
                    shapes[f"{name}.query_key_gain.scale"] = (heads, h)
                elif own["qk_norm_heads"] == "separate":
                    shapes[f"{name}.{role}_norm.scale"] = (heads, h)
                else:
                    norm(f"{name}.{role}_norm", heads * h if own["qk_norm_heads"] == "joint" else h)
        if own["attention_sinks"]:
            shapes[f"{name}.sinks.logits"] = (n,)
        if own["attention_gate"]:
            shapes[f"{name}.output_gate.kernel"] = (d, n, own["value_dim"])
            if full["attention_bias"]:
                shapes[f"{name}.output_gate.bias"] = (n, own["value_dim"])
        shapes[f"{name}.output.kernel"] = (n, own["value_dim"], d)
        if full["attention_output_bias"]:
            shapes[f"{name}.output.bias"] = (d,)
        norms(name, own["attention_norm"] or not name.endswith("self_attention"))

    def gated_delta_shapes(name: str) -> None:
        keys = full["delta_key_heads"], full["delta_key_dim"]
        values = heads, width = full["delta_value_heads"], full["delta_value_dim"]
        for role, shape in {"query": keys, "key": keys, "value": values}.items():
            shapes[f"{name}.{role}.kernel"] = (d, *shape)
            shapes[f"{name}.{role}_convolution.kernel"] = (full["delta_convolution"], *shape)
        shapes[f"{name}.decay.kernel"] = shapes[f"{name}.beta.kernel"] = (d, heads)
        shapes[f"{name}.decay_rate.rate"] = shapes[f"{name}.decay_rate.bias"] = (heads,)
        shapes[f"{name}.gate.kernel"] = (d, *values)
        shapes[f"{name}.read_norm.scale"] = (width,)
        shapes[f"{name}.output.kernel"] = (*values, d)

    def projections(name: str, own: dict, width: int, *experts: int) -> None:
        gate = {"gate": (d, width)} if own["feedforward"].endswith("glu") else {}
        if own["feedforward"] == "scaled_glu":
            shapes[f"{name}.gate_gain.scale"] = shapes[f"{name}.up_gain.scale"] = (width,)
        for role, shape in {**gate, "up": (d, width), "down": (width, d)}.items():
            shapes[f"{name}.{role}.kernel"] = (*experts, *shape)
            if own["feedforward_bias"]:
                shapes[f"{name}.{role}.bias"] = (*experts, *shape[1:])

    def feedforward_shapes(name: str, own: dict) -> None:
        norms(name)
        if not own["num_experts"]:
            projections(name, own, own["intermediate_dim"])
            return
        experts = own["num_experts"]
        shapes[f"{name}.router.kernel"] = (d, experts)
        if own["router_bias"]:
            shapes[f"{name}.router.bias"] = (experts,)
        if own["router_correction_rate"] is not None:
            shapes[f"{name}.top_experts.correction"] = (experts,)
        width = own["expert_dim"]
        projections(f"{name}.experts", own, width, experts)
        if own["shared_expert_dim"]:
            projections(f"{name}.shared_expert", own, own["shared_expert_dim"])
        if own["shared_expert_gate"]:
            shapes[f"{name}.shared_expert.share.kernel"] = (d, 1)

    def block_skips(name: str, index: int, layers: int) -> None:
        factors = {"embedding": ("stream_scale", "skip_scale_from_embedding")}
        if layers // 2 <= index < 2 * (layers // 2):
            factors["unet"] = ("skip_scale_from_mirrored",)
        for factor in factors.get(full["block_skips"], ()):
            shapes[f"{name}.{factor}.scale"] = (1,)

    e = full["embedding_dim"]
    projects_sum = full["embedding_projection"] == "sum"
    width = e if projects_sum else d  # of the sum of the embeddings
    stacks = [("decoder", full["num_layers"], v)]
    if full["kind"] == "encoder_only":
        stacks = [("encoder", full["num_layers"], v)]
    if full["kind"] == "encoder_decoder":
        stacks.append(("encoder", full["num_encoder_layers"], full["source_vocabulary_size"]))
    for side, layers, vocabulary in stacks:
        table = "token_embedding" if full["share_embeddings"] else f"{side}.token_embedding"
        shapes[f"{table}.embeddings"] = (vocabulary, e)
        if e != d:
            shapes[f"{side}.embedding_projection.kernel"] = (e, d)
        if projects_sum:
            shapes[f"{side}.embedding_projection.bias"] = (d,)
        if full["num_segments"]:
            shapes[f"{side}.segment_embedding.embeddings"] = (full["num_segments"], width)
        if full["positions"] == "learned":
            shapes[f"{side}.position_embedding.embeddings"] = (full["max_sequence_length"], width)
        blocks = [of_block(full, index) for index in range(layers)]
        for index, own in enumerate(blocks):
            if own["positions"] == "relative" and own["mixer"] == "attention":
                at = f".block_{owner(full, index)}.self_attention" * full["relative_by_block"]
                table = f"{side}{at}.relative_position_bias.embeddings"
                shapes[table] = (full["relative_buckets"], n)
        if full["embedding_norm"]:
            norm(f"{side}.embedding_norm", width)
        for place in range(layers):  # blocks that share weights have the same names
            block_skips(f"{side}.block_{place}", place, layers)
            index, own = owner(full, place), of_block(full, place)
            attention_shapes(f"{side}.block_{index}.self_attention", own)
            if full["value_residual"] and place > 0:
                shapes[f"{side}.block_{index}.self_attention.mixed_value.share"] = ()
            if side == "decoder" and len(stacks) == 2:
                attention_shapes(f"{side}.block_{index}.cross_attention", own)
            feedforward_shapes(f"{side}.block_{index}.feedforward", own)
            if full["norm_placement"] == "parallel_shared_norm":
                norm(f"{side}.block_{index}.norm")
            if full["norm_placement"].startswith("parallel"):
                merge(f"{side}.block_{index}")
        if full["final_norm"]:
            norm(f"{side}.final_norm")
    for head, out in (("pooler", d), ("masked_lm_head", width)):
        if full[head]:
            shapes[f"{head}.dense.kernel"] = (d, out)
            shapes[f"{head}.dense.bias"] = (out,)
    if full["masked_lm_head"]:
        norm("masked_lm_head.norm", width)
    if full["classes"]:
        shapes["classifier.logits.kernel"] = (d, len(full["classes"]))
        shapes["classifier.logits.bias"] = (len(full["classes"]),)
    if full["kind"] == "encoder_only" and not full["masked_lm_head"]:
        return shapes
    before = width if full["masked_lm_head"] else d
    if full["tie_embeddings"] and e != before:
        shapes["logit_projection.kernel"] = (before, e)
    if not full["tie_embeddings"]:
        shapes["logits.kernel"] = (before, v)
    if full["logit_bias"]:
        shapes["logits.bias"] = (v,)
    if full["logit_gain"]:
        shapes["logit_gain.scale"] = (v,)
    return shapes


def parameter_count(spec: Spec) -> int:
    """Return the number of parameters by a closed formula, independent of `weight_shapes`."""
    full = fill_derived_fields(spec)
    d, v, e = full["hidden_dim"], full["vocabulary_size"], full["embedding_dim"]
    of_sum = full["embedding_projection"] == "sum"
    width = e if of_sum else d
    per_channel = full["norm_gain"] + full["norm_bias"]
    head = width if full["masked_lm_head"] else d
    logits = (0 if full["tie_embeddings"] else head * v) + v * (
        full["logit_bias"] + full["logit_gain"]
    )
    # The embedding norm and the final norm of a stack.
    final = per_channel * (d * full["final_norm"] + width * full["embedding_norm"])
    projection = (0 if e == d else e * d) + d * of_sum
    logits += e * head if full["tie_embeddings"] and e != head else 0

    def stack(layers: int, attentions: int) -> int:
        blocks = [of_block(full, index) for index in range(layers)]
        positions = full["max_sequence_length"] * width if full["positions"] == "learned" else 0
        owners = blocks[: full["distinct_blocks"] or layers]
        biased = [b["positions"] == "relative" and b["mixer"] == "attention" for b in owners]
        tables = sum(biased) if full["relative_by_block"] else any(biased)
        positions += tables * full["relative_buckets"] * full["num_heads"]
        within = sum(block_parameters(own, attentions) for own in owners)
        mixed = min(len(owners), layers - 1) if full["value_residual"] else 0
        skips = {"unet": layers // 2, "embedding": 2 * layers}.get(full["block_skips"], 0)
        return projection + positions + within + mixed + skips + final

    if full["kind"] == "encoder_only":
        outs = d * full["pooler"] + width * full["masked_lm_head"] + len(full["classes"])
        heads = (d + 1) * outs
        heads += (per_channel * width + logits) * full["masked_lm_head"]
        return v * e + full["num_segments"] * width + stack(full["num_layers"], 1) + heads
    if full["kind"] == "decoder_only":
        return v * e + stack(full["num_layers"], 1) + logits
    tables = v if full["share_embeddings"] else v + full["source_vocabulary_size"]
    both = stack(full["num_encoder_layers"], 1) + stack(full["num_layers"], 2)
    return tables * e + both + logits


def block_parameters(own: dict, attentions: int) -> int:
    """Return the number of parameters of a block with so many attentions."""
    d, inner = own["hidden_dim"], own["num_heads"] * own["head_dim"]
    per_channel = own["norm_gain"] + own["norm_bias"]  # of a norm
    norm = per_channel * d
    # Norms and merge weights of a sublayer, and those of a block whose sublayers share them.
    streams = own["num_streams"]
    static = streams * (streams + 2)  # Zhu et al. 2024, equations 21 and 25
    merges = {
        "rezero": 1,
        "layer_scale": d,
        "spherical": d,
        "highway": d * d + d,
        "static_hyper_connections": static,
        "hyper_connections": d * (streams + 2) + static + 2,
    }.get(own["merge"], 0)
    each, shared = {
        "none": (merges, 0),
        "sandwich": (2 * norm + merges, 0),
        "parallel": (norm, merges),
        "parallel_shared_norm": (0, norm + merges),
    }.get(own["norm_placement"], (norm + merges, 0))
    outer = own["num_key_value_heads"] * own["head_dim"]
    biases = inner + 2 * outer if own["attention_bias"] else 0
    biases += d if own["attention_output_bias"] else 0
    head_norms = {
        "shared": 2 * per_channel * own["head_dim"],
        "separate": inner + outer,
        "tied": inner,
        "joint": per_channel * (inner + outer),
    }[own["qk_norm_heads"]]
    head_norms = head_norms if own["qk_norm"] and own["qk_norm_gain"] else 0
    sinks = own["num_heads"] if own["attention_sinks"] else 0
    left_out = 0 if own["attention_norm"] else norm
    attn = 2 * d * inner + 2 * d * outer + biases + head_norms
    if own["latent_dim"] is not None:
        attn = latent_parameters(own, per_channel) + own["num_heads"] * own["value_dim"] * d
        attn += d if own["attention_output_bias"] else 0
    gate = own["num_heads"] * own["value_dim"] * (d + own["attention_bias"])
    attn += sinks + gate * own["attention_gate"]
    if own["mixer"] == "gated_delta":
        keys = own["delta_key_heads"] * own["delta_key_dim"]
        values = own["delta_value_heads"] * own["delta_value_dim"]
        attn = d * (2 * keys + 3 * values) + own["delta_convolution"] * (2 * keys + values)
        attn += own["delta_value_heads"] * (2 * d + 2) + own["delta_value_dim"]
    sublayers = attentions * attn + feedforward_parameters(own) + (attentions + 1) * each
    return sublayers - left_out + shared


def feedforward_parameters(own: dict) -> int:
    """Return the number of parameters of a feed-forward layer, or of a mixture of experts."""
    d, experts = own["hidden_dim"], own["num_experts"]
    wide = 2 if own["feedforward"].endswith("glu") else 1

    def layer(width: int) -> int:
        biases = wide * width + d if own["feedforward_bias"] else 0
        biases += 2 * width if own["feedforward"] == "scaled_glu" else 0
        return (wide + 1) * d * width + biases

    if not experts:
        return layer(own["intermediate_dim"])
    router = (d + own["router_bias"] + (own["router_correction_rate"] is not None)) * experts
    count = experts * layer(own["expert_dim"]) + router
    if own["shared_expert_dim"]:
        count += layer(own["shared_expert_dim"]) + d * own["shared_expert_gate"]
    return count
