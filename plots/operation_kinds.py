"""Kinds of layers and operations: merges, norms, attention, and others that residual streams need.

A call is of a kind by the role that its layer declares (see `plots.declaration`), or by its class
or a base class of it. The sets hold class names, so that no Keras has to be imported, and can be
extended: `operation_kinds.IDENTITY_LIKE.add("TheirNoise")`.
"""

from __future__ import annotations

import re

from plots.graph import Node

ADDITIVE_MERGES: set[str] = {"Add", "CustomScaleLayer"}
"""Sums of their inputs: `keras.layers.Add` and `keras.ops.add`, which `x + y` calls.

InceptionResNetV2 of `keras.applications` has `CustomScaleLayer`, x + scale * f(x).
"""

IDENTITY_LIKE: set[str] = {
    "ActivityRegularization",
    "AlphaDropout",
    "Cast",
    "DropPath",
    "Dropout",
    "GaussianDropout",
    "GaussianNoise",
    "Identity",
    "Rescaling",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "StochasticDepth",
}
"""Return their input, up to noise in training, a cast or one constant factor."""

SHAPE_ONLY: set[str] = {
    "FullLike",
    "OnesLike",
    "PositionEmbedding",
    "Shape",
    "SinePositionEncoding",
    "ZerosLike",
}
"""Take only the shape of their input and none of its values."""

NORMS: set[str] = {
    "BatchNorm",
    "BatchNormalization",
    "GroupNormalization",
    "LayerNorm",
    "LayerNormalization",
    "RMSNorm",
    "RMSNormalization",
    "UnitNormalization",
}
"""Normalise activations. `is_norm` also matches class names such as GemmaRMSNorm."""

LINEAR_PROJECTIONS: set[str] = {
    "Conv1D",
    "Conv2D",
    "Conv3D",
    "Dense",
    "EinsumDense",
    "SeparableConv1D",
    "SeparableConv2D",
}
"""Linear maps with weights, as long as their activation is linear."""

RESAMPLING: set[str] = {
    "AveragePooling1D",
    "AveragePooling2D",
    "AveragePooling3D",
    "Cropping1D",
    "Cropping2D",
    "Cropping3D",
    "MaxPooling1D",
    "MaxPooling2D",
    "MaxPooling3D",
    "UpSampling1D",
    "UpSampling2D",
    "UpSampling3D",
    "ZeroPadding1D",
    "ZeroPadding2D",
    "ZeroPadding3D",
}
"""Change only the number of positions, as the shortcuts of a ResNet may."""

ATTENTION_LAYERS: set[str] = {
    "AdditiveAttention",
    "Attention",
    "CachedMultiHeadAttention",
    "GroupQueryAttention",
    "GroupedQueryAttention",
    "MultiHeadAttention",
}
"""Layers that are one attention each, with or without projections."""

FUSED_ATTENTION: set[str] = {"DotProductAttention"}
"""`keras.ops.dot_product_attention`: (b, t, n, h), (b, s, k, h) twice -> (b, t, n, h)."""

PRODUCTS: set[str] = {"Dot", "Einsum", "Matmul", "Tensordot"}
"""Products of two tensors that sum over an axis, as scores of queries and keys do.

Other calls of two tensors are recognised as such products by the shape of their output.
"""

# `Norm` alone is the length of a vector, `Normalization` scales input data by fixed statistics, and
# `SpectralNormalization` normalises weights.
_NORM_CLASS = re.compile(r"(?!Spectral).+(Norm|Normalization)")


def is_additive_merge(node: Node) -> bool:
    """Whether the call sums its inputs."""
    return node.role == "add" or node.is_a(ADDITIVE_MERGES)


def is_norm(node: Node) -> bool:
    """Whether the call normalises activations."""
    is_known = node.role == "norm" or node.is_a(NORMS)
    return is_known or _NORM_CLASS.fullmatch(node.class_name) is not None


def is_shape_only(node: Node) -> bool:
    """Whether the call takes only the shape of its input."""
    return node.is_a(SHAPE_ONLY)


def is_identity_like(node: Node) -> bool:
    """Whether the call returns its input: dropout, cast, identity, one constant factor."""
    if node.role == "identity" or node.is_a(IDENTITY_LIKE):
        return True
    if node.class_name in ("Multiply", "Divide", "TrueDivide"):
        return any(
            constant.shape == () or isinstance(constant.value, int | float)
            for constant in node.constants
            if node.class_name == "Multiply" or constant.port == "x2"  # 2 / x does not scale x
        )
    return node.class_name == "Activation" and node.activation == "linear"


def is_attention(node: Node) -> bool:
    """Whether the call is one whole attention."""
    return node.role == "attention" or node.is_a(ATTENTION_LAYERS | FUSED_ATTENTION)


def is_softmax(node: Node) -> bool:
    """Whether the call is a softmax."""
    if node.class_name == "Activation":
        return node.activation == "softmax"
    if node.role == "attention_weights":
        return True
    return "Softmax" in node.class_name and "Log" not in node.class_name


def is_reversed_embedding(node: Node) -> bool:
    """Whether the call is an embedding used in reverse, from vectors to logits."""
    return any(constant.port == "reverse" and constant.value for constant in node.constants)


def is_linear(node: Node) -> bool:
    """Whether the call is linear in its input, with the statistics of norms held fixed."""
    if is_identity_like(node) or is_norm(node) or node.is_a(RESAMPLING):
        return True
    return is_linear_projection(node)


def is_linear_projection(node: Node) -> bool:
    """Whether the call is a projection without a nonlinear activation."""
    return node.is_a(LINEAR_PROJECTIONS) and node.activation in (None, "linear")
