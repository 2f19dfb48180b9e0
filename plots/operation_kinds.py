"""What the classes of layers and operations mean for a residual stream.

Each set holds class names, so that no Keras is needed to ask. A class that derives from one of them
counts as well. A layer of yours declares its role (see `plots.declaration`), or add its class:
`operation_kinds.IDENTITY_LIKE.add("MyNoise")`.
"""

from __future__ import annotations

import re

from plots.graph import Node

ADDITIVE_MERGES: set[str] = {"Add", "CustomScaleLayer"}
"""Sums of their inputs: `keras.layers.Add`, and `keras.ops.add`, which is also what `x + y` is.

The other one is that of InceptionResNetV2 in `keras.applications`, x + scale * f(x).
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
"""Hand their input on, up to noise in training, a cast or one constant factor."""

SHAPE_ONLY: set[str] = {
    "FullLike",
    "OnesLike",
    "PositionEmbedding",
    "Shape",
    "SinePositionEncoding",
    "ZerosLike",
}
"""Take nothing but the shape of their input, so that none of its values flows through them."""

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
"""Normalise activations. `is_norm` also knows classes whose name says it, such as GemmaRMSNorm."""

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
"""Change the number of positions and nothing else, as the shortcuts of a ResNet may."""

ATTENTION_LAYERS: set[str] = {
    "AdditiveAttention",
    "Attention",
    "CachedMultiHeadAttention",
    "GroupQueryAttention",
    "GroupedQueryAttention",
    "MultiHeadAttention",
}
"""Layers that are one attention each."""

FUSED_ATTENTION: set[str] = {"DotProductAttention"}
"""`keras.ops.dot_product_attention`: (b, t, n, h), (b, s, k, h) twice -> (b, t, n, h)."""

PRODUCTS: set[str] = {"Dot", "Einsum", "Matmul", "Tensordot"}
"""Sums over one axis of two tensors, as scores are of queries and keys.

In attention by hand other calls of two tensors are told by the shape of what they give out.
"""

# `Norm` alone is the operation that measures a vector; `Normalization` scales the data once, and
# `SpectralNormalization` acts on weights.
_NORM_CLASS = re.compile(r"(?!Spectral).+(Norm|Normalization)")


def is_additive_merge(node: Node) -> bool:
    """Whether the call adds up its inputs."""
    return node.role == "add" or node.is_a(ADDITIVE_MERGES)


def is_norm(node: Node) -> bool:
    """Whether the call normalises activations."""
    is_known = node.role == "norm" or node.is_a(NORMS)
    return is_known or _NORM_CLASS.fullmatch(node.class_name) is not None


def is_shape_only(node: Node) -> bool:
    """Whether the call takes nothing but the shape of its input."""
    return node.is_a(SHAPE_ONLY)


def is_identity_like(node: Node) -> bool:
    """Whether the call hands its one input on: dropout, cast, identity, one constant factor."""
    if node.role == "identity" or node.is_a(IDENTITY_LIKE):
        return True
    if node.class_name in ("Multiply", "Divide", "TrueDivide"):
        return any(
            constant.shape == () or isinstance(constant.value, int | float)
            for constant in node.constants
            if node.class_name == "Multiply" or constant.port == "x2"  # 2 / x is no factor of x
        )
    return node.class_name == "Activation" and node.activation == "linear"


def is_attention(node: Node) -> bool:
    """Whether the call is one whole attention."""
    return node.role == "attention" or node.is_a(ATTENTION_LAYERS | FUSED_ATTENTION)


def is_softmax(node: Node) -> bool:
    """Whether the call is a softmax and nothing else."""
    if node.class_name == "Activation":
        return node.activation == "softmax"
    if node.role == "attention_weights":
        return True
    return "Softmax" in node.class_name and "Log" not in node.class_name


def is_reversed_embedding(node: Node) -> bool:
    """Whether the call is an embedding used the other way round: from vectors to logits."""
    return any(constant.port == "reverse" and constant.value for constant in node.constants)


def is_linear(node: Node) -> bool:
    """Whether the call is linear in its input, given fixed statistics of norms: no activation."""
    if is_identity_like(node) or is_norm(node) or node.is_a(RESAMPLING):
        return True
    return is_linear_projection(node)


def is_linear_projection(node: Node) -> bool:
    """Whether the call is a linear map with weights and no activation."""
    return node.is_a(LINEAR_PROJECTIONS) and node.activation in (None, "linear")
