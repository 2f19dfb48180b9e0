"""Layers and operations: declarations of their calls, and their kinds by role or class.

A layer or operation declares what its `call` computes in `graph_declaration`, an attribute or a
property that holds a plain dict. It imports nothing for that, and all keys are optional::

    class Scores(keras.layers.Layer):
        graph_declaration = {
            "signature": "btnh,bskh->bnts",
            "products": ["btnh,bskh->bnts"],
            "role": "attention_scores",
        }

* "signature": axes of the tensors that `call` takes, in the order of its positional parameters, and
  of those that it returns, as in an einsum equation. Letters are those of the glossary
  (`plots.axes.GLOSSARY`), or any others for axes without a meaning of their own. "1" is an axis of
  size 1, and "..." any number of axes. An axis of size 1 is broadcast to its letter. A list of
  tensors counts as its items. A scalar, or a parameter that is not a tensor, has no axes
  ("bt,->bt"); trailing parameters may be left out, and a missing optional argument is skipped.
* "products": einsum equations of the matrix products in the call, each of two operands, which may
  be weights; [] declares that there are none. A product costs 2 FLOPs x the sizes of its letters,
  without letters of one operand only, such as the heads that grouped keys share.
* "sizes": sizes of letters that no tensor in the signature has, such as {"f": 256}; or letters
  whose sizes are multiplied, such as {"m": "bt"} where `call` joins the axes b and t.
* "like": the class whose `call` has the same matrix products, such as "Dense", for a subclass that
  overrides `call`.
* "role": one of `ROLES`.

A declaration describes the `call` next to it. A subclass inherits both; one that overrides `call`
does not inherit the declaration, and declares anew (`graph_declaration = Base.graph_declaration`,
where it still holds).

Calls of layers that declare no role have a kind by their class or a base class of it. The sets hold
class names, so that no Keras has to be imported, and can be extended before a model is read:
`layers.IDENTITY_LIKE.add("TheirNoise")`. What was found out about a call is kept with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar, cast

from plots.annotations import Declaration
from plots.asked import once_per_call
from plots.graph import Node

ROLES = {
    "add": "adds up its inputs",
    "alibi_positions": "attention biases that grow with the distance",
    "attention": "attention of query, key and value",
    "attention_scores": "products of queries and keys",
    "attention_weights": "softmax of attention scores",
    "causal_mask": "mask of keys later than the query",
    "identity": "returns its input, up to noise in training, a cast or one factor",
    "learned_positions": "trained vectors of positions",
    "norm": "normalises activations",
    "padding_mask": "mask of padding",
    "position_ids": "positions of tokens as integers",
    "prefix_mask": "mask of keys later than the query, but for those of a prefix with it",
    "relative_positions": "trained attention biases by distance",
    "rotary_positions": "rotates queries and keys by their positions",
    "scale": "multiplies its input by trained numbers",
    "sinusoidal_positions": "sines and cosines of positions",
}
"""Roles that a layer may declare."""

DOT_PRODUCT_ATTENTION = Declaration(
    inputs={"query": "btnh", "key": "bskh", "value": "bskh", "bias": "bnts", "mask": "bnts"},
    outputs=("btnh",),
    products=("btnh,bskh->bnts", "bnts,bskh->btnh"),
    role="attention",
)
"""Declaration for `keras.ops.dot_product_attention`."""

AnyRule = TypeVar("AnyRule", bound=Callable[[Any], Any])
SomeRule = TypeVar("SomeRule", bound=Callable[[Any], Any])


class ClassRules(dict[str, AnyRule]):
    """Rules by class name. A subclass uses the rule of its nearest base class that has one."""

    def register(self, *class_names: str) -> Callable[[SomeRule], SomeRule]:
        """Decorator that registers a function as the rule of these classes."""

        def add(rule: SomeRule) -> SomeRule:
            self.update(dict.fromkeys(class_names, cast("AnyRule", rule)))
            return rule

        return add

    def of(self, node: Node) -> AnyRule | None:
        """Return the rule of the class of a call, if there is one."""
        return next((self[name] for name in (node.class_name, *node.bases) if name in self), None)


# Kinds ------------------------------------------------------------------------------------------

ADDITIVE_MERGES: set[str] = {"Add", "CustomScaleLayer"}
"""Sums of their inputs: `keras.layers.Add` and `keras.ops.add`, which `x + y` calls.

InceptionResNetV2 of `keras.applications` has `CustomScaleLayer`, x + scale * f(x).
"""

SHAPE_CHANGES: set[str] = {"ExpandDims", "Flatten", "Ravel", "Reshape", "Squeeze"}
"""Return the values of their input in their order, in another shape."""
TRANSPOSITIONS: set[str] = {"Moveaxis", "Permute", "Swapaxes", "Transpose"}
"""Return the values of their input with the axes in another order."""

CROPS: set[str] = {"GetItem", "Slice", "Cropping1D", "Cropping2D", "Cropping3D"}
"""Return a part of their input; `is_crop` excludes slices in reversed order."""

PARTS: set[str] = CROPS | {"Split", "Take", "Unstack"}
"""Return a part of their input as each output."""

PADDINGS: set[str] = {"Pad", "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D"}
"""Return their input with more positions around it."""

REPETITIONS: set[str] = {"BroadcastTo", "Repeat", "RepeatVector", "Tile"}
"""Return the values of their input several times."""

DROPOUTS: set[str] = {
    "AlphaDropout",
    "DropPath",
    "Dropout",
    "GaussianDropout",
    "GaussianNoise",
    *(f"SpatialDropout{rank}D" for rank in (1, 2, 3)),
    "StochasticDepth",
}
"""Return their input, up to noise in training."""

IDENTITY_LIKE: set[str] = DROPOUTS | {
    "ActivityRegularization",
    "Cast",
    "Copy",
    "Identity",
    "Negative",
    "Rescaling",
    "StopGradient",
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
"""Take only the shape of their input and none of its values.

Those of Keras and KerasHub are known by their class; what others take is found by calling them.
"""

SHAPE_TRAIT = "shape only"
"""Trait (`Node.traits`) of a layer whose outputs do not depend on the values of its inputs."""

JOINS = {"joins masks": "LogicalAnd", "adds": "Add"}
"""Traits of layers that join their inputs by one operation, in whatever layout."""

ADDS_LOSSES = "adds losses"
"""Trait of the calls inside of an opened layer whose `call` adds a loss."""

TRACED = "traced"
"""Trait of every layer whose calls inside were found by calling it on symbolic tensors."""

NORM_TRAIT, SOFTMAX_TRAIT, POSITIONS_TRAIT = "norm", "softmax", " positions"
"""Traits of layers that divide their input by a statistic of it, such as the root mean square, that
return a softmax over the last axis, and (as the end of "learned positions") that add positions."""

FACTOR_TRAIT, SCALE_TRAIT = "one factor", "scale"
"""Traits of layers that return their input times one number, and times one for each feature."""

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

CONVOLUTIONS: set[str] = {"Conv1D", "Conv2D", "Conv3D"}
"""Convolutions of all features, not of each one alone, that do not widen the positions."""

LINEAR_PROJECTIONS: set[str] = {
    *CONVOLUTIONS,
    "Dense",
    "EinsumDense",
    "SeparableConv1D",
    "SeparableConv2D",
}
"""Linear maps with weights, as long as their activation is linear."""

_RESAMPLINGS = ("AveragePooling", "Cropping", "MaxPooling", "UpSampling", "ZeroPadding")
UPSAMPLING: set[str] = {f"UpSampling{rank}D" for rank in (1, 2, 3)}
"""Repeat positions."""

RESAMPLING: set[str] = {f"{name}{rank}D" for name in _RESAMPLINGS for rank in (1, 2, 3)}
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

RECURRENT: set[str] = {
    "GRU",
    "LSTM",
    "RNN",
    "SimpleRNN",
    *(f"ConvLSTM{rank}D" for rank in (1, 2, 3)),
}
"""Read the steps of a sequence one after the other, in one direction. An `RNN` has any cell."""

PRODUCTS: set[str] = {"Dot", "Einsum", "Matmul", "Tensordot"}
"""Products of two tensors that sum over an axis, as scores of queries and keys do.

Other calls of two tensors are recognised as such products by the shape of their output.
"""

# `Norm` alone is the length of a vector; `SpectralNormalization` normalises weights.
_NORM_CLASS = re.compile(r"(?!Spectral).+(Norm|Normalization)")


@once_per_call
def is_additive_merge(node: Node) -> bool:
    """Whether the call sums its inputs."""
    return node.role == "add" or node.is_a(ADDITIVE_MERGES)


@once_per_call
def is_signed_merge(node: Node) -> bool:
    """Whether the call adds, averages or subtracts its inputs: a sum with constant factors.

    `keras.ops.average` has the same class name as the layer, but reduces an axis.
    """
    is_average = node.operation == "Average" and node.kind != "operation"
    return is_additive_merge(node) or is_average or is_subtraction(node)


@once_per_call
def is_subtraction(node: Node) -> bool:
    """Whether the call subtracts its second input from the first."""
    return node.is_a({"Subtract"})


@once_per_call
def merge_sign(node: Node) -> str:
    """Return "+", "−" or "mean" for a merge that takes only tensors; "" for other calls.

    One with a constant operand, as in x + 1, merges nothing.
    """
    if not is_signed_merge(node) or any(c.port != "training" for c in node.constants):
        return ""
    if is_subtraction(node):
        return "−"
    return "+" if is_additive_merge(node) else "mean"


@once_per_call
def is_norm(node: Node) -> bool:
    """Whether the call normalises activations."""
    if node.role == "norm" or NORM_TRAIT in node.traits or node.is_a(NORMS):
        return True
    return not node.call_class and _NORM_CLASS.fullmatch(node.class_name) is not None


@once_per_call
def is_shape_only(node: Node) -> bool:
    """Whether the call takes only the shape of its input."""
    return SHAPE_TRAIT in node.traits or (not node.call_class and node.is_a(SHAPE_ONLY))


def is_function(node: Node) -> bool:
    """Whether the call is a `Lambda`, or a layer of one's own that does not declare what it is."""
    is_own = bool(node.call_class) and node.declaration is None
    return node.kind == "layer" and (node.is_a({"Lambda"}) or is_own)


@once_per_call
def is_identity_like(node: Node) -> bool:
    """Whether the call returns its input: dropout, cast, identity, one factor, plus 0.

    The factor is a number, or a weight of one number. A `Rescaling` may add an offset.
    """
    if node.operation == "Rescaling" and node.config.get("offset"):
        return False
    if node.role == "identity" or node.returns_input or node.is_a(IDENTITY_LIKE):
        return True
    if FACTOR_TRAIT in node.traits:
        return True
    if node.operation in ("Multiply", "Divide", "TrueDivide"):
        return any(
            _is_one_number(constant.shape) or isinstance(constant.value, int | float)
            for constant in node.constants
            if node.operation == "Multiply" or constant.port == "x2"  # 2 / x does not scale x
        )
    if node.operation == "Add":  # Python's `sum` starts with 0
        return any(constant.value == 0 for constant in node.constants)
    return node.operation == "Activation" and node.activation == "linear"


def _is_one_number(shape: tuple[int | None, ...] | None) -> bool:
    return shape is not None and all(size == 1 for size in shape)


@once_per_call
def is_factor(node: Node) -> bool:
    """Whether the call returns its input up to factors: constants, weights or other tensors."""
    return is_identity_like(node) or node.is_a({"Multiply"})


@once_per_call
def is_rearrangement(node: Node) -> bool:
    """Whether the call returns values of its input in another shape: nothing new but zeros."""
    if node.is_a(SHAPE_CHANGES | TRANSPOSITIONS) or is_crop(node):
        return True
    if node.operation == "Pad":
        fill = next((c.value for c in node.constants if c.port == "constant_values"), None)
        return node.config.get("mode") == "constant" and not fill
    return node.is_a(PADDINGS)


@once_per_call
def is_crop(node: Node) -> bool:
    """Whether the call returns a part of its input, in the same order."""
    steps = [str(c.value).split(":")[2:] for c in node.constants if c.port.startswith("key")]
    return node.is_a(CROPS) and not any(step.startswith("-") for (step,) in filter(None, steps))


@once_per_call
def is_learned_scale(node: Node) -> bool:
    """Whether the call multiplies the features of its input by a vector, such as a weight."""
    if node.role == "scale" or SCALE_TRAIT in node.traits:
        return True
    shapes = (constant.shape for constant in node.constants if constant.shape is not None)
    vectors = (sum(size != 1 for size in shape) == 1 for shape in shapes)
    return node.operation == "Multiply" and any(vectors)


@once_per_call
def is_attention(node: Node) -> bool:
    """Whether the call is one whole attention."""
    known = ATTENTION_LAYERS | FUSED_ATTENTION
    is_own = node.call_class == node.class_name  # the name of a class of one's own shows nothing
    return node.role == "attention" or not known.isdisjoint(
        node.bases if is_own else (node.class_name, *node.bases)
    )


@once_per_call
def is_recurrent(node: Node) -> bool:
    """Whether the call reads the steps of a sequence one after the other, in whatever direction."""
    return node.is_a(RECURRENT | {"Bidirectional"})


@once_per_call
def is_softmax(node: Node) -> bool:
    """Whether the call is a softmax."""
    if node.operation == "Activation":
        return node.activation == "softmax"
    if node.role == "attention_weights" or SOFTMAX_TRAIT in node.traits:
        return True
    is_named = "Softmax" in node.class_name and "Log" not in node.class_name
    return is_named and not node.call_class


def is_reversed_embedding(node: Node) -> bool:
    """Whether the call is an embedding used in reverse, from vectors to logits."""
    return any(constant.port == "reverse" and constant.value for constant in node.constants)


def is_linear(node: Node) -> bool:
    """Whether the call is linear in its input, with the statistics of norms held fixed."""
    if is_identity_like(node) or is_norm(node) or node.is_a(RESAMPLING):
        return True
    return is_linear_projection(node)


@once_per_call
def is_linear_projection(node: Node) -> bool:
    """Whether the call is a projection without a nonlinear activation."""
    return node.is_a(LINEAR_PROJECTIONS) and node.activation in (None, "linear")
