"""The residual streams of the reference: merges, hyper-connections, and skips across blocks.

Part of `reference`, with its letters; `m` is the number of streams.
"""

import math

import numpy as np
from reference_operations import on_sphere, sigmoid
from reference_spec import Weights


def factor(spec: dict, field: str, side: str, index: int) -> float:
    """Return a factor of the residual stream in block `index` of the encoder or decoder."""
    encoder, decoder = spec["num_encoder_layers"], spec["num_layers"]
    if spec[field] == "inverse_sqrt_depth":
        return 1.0 / math.sqrt(index + 1)
    if spec[field] == "inverse_sqrt_layers":
        return 1.0 / math.sqrt(encoder if side == "encoder" else decoder)
    if spec[field] == "deep_norm":
        if spec["kind"] != "encoder_decoder":
            return (2.0 * decoder) ** (1 / 4)
        both = 0.81 * (encoder**4 * decoder) ** (1 / 16)
        return both if side == "encoder" else (3.0 * decoder) ** (1 / 4)
    return spec[field]


def merge(
    spec: dict, weights: Weights, at: str, index: int, x: np.ndarray, change: np.ndarray
) -> np.ndarray:
    """Return the stream x after a branch of block `index` with the output `change`."""
    side = at.split(".")[0]
    if spec["merge"] == "add":
        return x + change
    if spec["merge"] == "none":
        return change
    if spec["merge"] == "scaled":
        skip, branch = (factor(spec, f"{part}_scale", side, index) for part in ("skip", "branch"))
        return skip * x + branch * change
    if spec["merge"] in ("rezero", "layer_scale"):  # one number, or one for each channel
        return x + weights[f"{at}.branch_scale.scale"] * change
    if spec["merge"] == "spherical":
        # Trained numbers are branch_scale sqrt(d) times their weights.
        alpha = factor(spec, "branch_scale", side, index) * math.sqrt(spec["hidden_dim"])
        alpha = abs(alpha * weights[f"{at}.residual.scale"])
        return on_sphere(spec, x + alpha * (on_sphere(spec, change) - x))
    if spec["merge"] == "highway":
        scores = x @ weights[f"{at}.transform_gate.kernel"] + weights[f"{at}.transform_gate.bias"]
        gate = sigmoid(scores)
        return gate * change + (1.0 - gate) * x
    if "hyper_connections" in spec["merge"]:  # x is (b, t, m, d)
        _, mix, write = connections(spec, weights, at, x)
        return np.einsum("btid,btij->btjd", x, mix) + change[:, :, None] * write[..., None]
    raise ValueError(f"the reference has no merge {spec['merge']!r}")


def connections(spec: dict, weights: Weights, at: str, streams: np.ndarray) -> list[np.ndarray]:
    """Return the weights to read (b, t, m), mix (b, t, m, m) and write (b, t, m) the streams.

    As in algorithm 2 of Zhu et al. 2024, with OLMo's norm, which has no weights.
    """
    ones = np.ones(streams.shape[:3])
    if spec["merge"] == "static_hyper_connections":
        names = ("read_streams", "mix_streams", "write_streams")
        read, mix, write = (weights[f"{at}.{name}.kernel"] for name in names)
        return [read * ones, mix * ones[..., None], write * ones]
    centred = streams - streams.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + spec["norm_epsilon"])
    static, scales = weights[f"{at}.connections.static"], weights[f"{at}.connections.scales"]
    dynamic = np.tanh(centred / deviation @ weights[f"{at}.connections.kernel"])
    alpha = static[:, :-1] + scales[0] * dynamic[..., :-1]
    beta = static[:, -1] + scales[1] * dynamic[..., -1]
    return [alpha[..., 0], alpha[..., 1:], beta]


def read_stream(spec: dict, weights: Weights, at: str, x: np.ndarray) -> np.ndarray:
    """Return what a sublayer reads from the stream (b, t, d), or from streams (b, t, m, d)."""
    if "hyper_connections" not in spec["merge"]:
        return x
    return np.einsum("btmd,btm->btd", x, connections(spec, weights, at, x)[0])


def open_streams(spec: dict, x: np.ndarray) -> np.ndarray:
    """Return the streams of hyper-connections (b, t, m, d), all equal to x (b, t, d)."""
    if "hyper_connections" not in spec["merge"]:
        return x
    return np.stack([x] * spec["num_streams"], axis=2)


def close_streams(spec: dict, streams: np.ndarray) -> np.ndarray:
    return streams.sum(axis=2) if "hyper_connections" in spec["merge"] else streams


def owner(spec: dict, index: int) -> int:
    """Return the index of the block whose weights block `index` uses."""
    return index % (spec["distinct_blocks"] or index + 1)


def stream_into(spec: dict, weights: Weights, side: str, streams: list) -> np.ndarray:
    """Return what a block reads, given the streams after the embeddings and all blocks before."""
    x, index = streams[-1], len(streams) - 1
    at = f"{side}.block_{index}"
    if spec["block_skips"] == "embedding":
        kept = weights[f"{at}.stream_scale.scale"] * x
        return kept + weights[f"{at}.skip_scale_from_embedding.scale"] * streams[0]
    if spec["block_skips"] == "unet":  # the first half pushes its outputs, the second pops them
        blocks = spec["num_layers"] if side == "decoder" else spec["num_encoder_layers"]
        pushed = streams[1 : blocks // 2 + 1]
        for popping in range(blocks // 2, index + 1):
            skip = pushed.pop() if pushed else None
            if popping == index and skip is not None:
                return x + weights[f"{at}.skip_scale_from_mirrored.scale"] * skip
    return x
