"""Operations of the reference Transformer that several sublayers share; see `reference`."""

import math

import numpy as np
from reference_spec import Weights


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1.0 + np.tanh(x / 2.0))


def activation(name: str, x: np.ndarray) -> np.ndarray:
    if name == "relu":
        return np.maximum(x, 0.0)
    if name == "relu_squared":
        return np.maximum(x, 0.0) ** 2
    if name == "silu":
        return x * sigmoid(x)
    if name == "gelu":  # x * Phi(x), Phi the standard normal CDF
        return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))
    if name == "gelu_tanh":
        return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    if name == "gelu_sigmoid":
        return x * sigmoid(1.702 * x)
    raise ValueError(f"the reference has no activation {name!r}")


def normalize(spec: dict, weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """Apply the norm of the spec over the last axis."""
    x = divide_by_spread(spec, x)
    if spec["norm"] == "unit":
        return x
    if spec["norm"] == "rms":
        gain = weights[f"{name}.scale"] if spec["norm_gain"] else 1.0
        return x * (gain + (1.0 if spec["norm_offset"] else 0.0))
    x = x * weights[f"{name}.gamma"] if spec["norm_gain"] else x
    return x + weights[f"{name}.beta"] if spec["norm_bias"] else x


def divide_by_spread(spec: dict, x: np.ndarray) -> np.ndarray:
    """Apply the norm of the spec without its weights."""
    if spec["norm"] == "rms":
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + spec["norm_epsilon"])
    if spec["norm"] == "unit":
        return on_sphere(spec, x)
    if spec["norm"] != "layer":
        raise ValueError(f"the reference has no norm {spec['norm']!r}")
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + spec["norm_epsilon"])


def on_sphere(spec: dict, x: np.ndarray) -> np.ndarray:
    """Return x / ||x|| over the last axis."""
    return x / np.sqrt((x**2).sum(axis=-1, keepdims=True) + spec["norm_epsilon"])


def soft_cap(x: np.ndarray, cap: float | None) -> np.ndarray:
    return x if cap is None else cap * np.tanh(x / cap)


def softmax(scores: np.ndarray) -> np.ndarray:
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
