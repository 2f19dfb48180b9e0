"""Latent attention of the reference Transformer, in NumPy float64; see `reference`.

DeepSeek-AI 2024, "DeepSeek-V2", section 2.1 and appendix C: the keys and values of every head are
computed for every token, also where a model moves these products elsewhere.
"""

import numpy as np
from reference_operations import normalize
from reference_positions import rotate
from reference_spec import Weights


def latent_heads(
    spec: dict,
    weights: Weights,
    name: str,
    x: np.ndarray,
    memory: np.ndarray,
    rotates: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return queries (b, t, n, h), keys (b, s, n, h) and values (b, s, n, u).

    The first channels of queries and keys are those that are rotated.
    """

    def down(role: str, inputs: np.ndarray) -> np.ndarray:
        product = np.einsum("bsd,d...->bs...", inputs, weights[f"{name}.{role}.kernel"])
        return product + weights[f"{name}.{role}.bias"] if spec["attention_bias"] else product

    def up(role: str, latent: np.ndarray) -> np.ndarray:
        return np.einsum("bsl,lnh->bsnh", latent, weights[f"{name}.{role}.kernel"])

    of_query = x
    if spec["query_latent_dim"] is not None:
        of_query = normalize(spec, weights, f"{name}.query_latent_norm", down("query_latent", x))
    latent = normalize(spec, weights, f"{name}.latent_norm", down("latent", memory))
    shared, rotary = down("shared_key", memory), up("rotary_query", of_query)
    if rotates:
        shared, rotary = rotate(spec, shared), rotate(spec, rotary)
    queries = np.concatenate([rotary, up("query", of_query)], axis=-1)
    for_each_head = np.tile(shared, (1, 1, spec["num_heads"], 1))
    keys = np.concatenate([for_each_head, up("key", latent)], axis=-1)
    return queries, keys, up("value", latent)


def latent_shapes(own: dict) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights of the projections of a block, without those of norms."""
    d, n, width = own["hidden_dim"], own["num_heads"], own["latent_dim"]
    r, queries = own["rotary_dim"], own["query_latent_dim"]
    shapes: dict[str, tuple[int, ...]] = {
        "latent.kernel": (d, width),
        "shared_key.kernel": (d, 1, r),
        "rotary_query.kernel": (queries or d, n, r),
        "query.kernel": (queries or d, n, own["head_dim"] - r),
        "key.kernel": (width, n, own["head_dim"] - r),
        "value.kernel": (width, n, own["value_dim"]),
    }
    if queries is not None:
        shapes["query_latent.kernel"] = (d, queries)
    if own["attention_bias"]:
        shapes |= {"latent.bias": (width,), "shared_key.bias": (1, r)}
        shapes |= {} if queries is None else {"query_latent.bias": (queries,)}
    return shapes


def latent_parameters(own: dict, per_channel: int) -> int:
    """Return the number of parameters of an attention without its output projection.

    `per_channel` are those of a norm.
    """
    d, n, h, r = (own[name] for name in ("hidden_dim", "num_heads", "head_dim", "rotary_dim"))
    latent, queries = own["latent_dim"], own["query_latent_dim"] or 0
    inputs = d + (1 if own["attention_bias"] else 0)
    down = inputs * (latent + r + queries)
    up = latent * n * (h - r + own["value_dim"]) + (queries or d) * n * h
    return down + up + per_channel * (latent + queries)
