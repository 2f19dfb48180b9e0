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
* "sizes": sizes of letters that no tensor in the signature has, such as {"f": 256}.
* "like": the class whose `call` has the same matrix products, such as "Dense", for a subclass that
  overrides `call`.
* "role": one of `ROLES`.

A declaration describes the `call` next to it. A subclass inherits both; one that overrides `call`
does not inherit the declaration, and declares anew (`graph_declaration = Base.graph_declaration`,
where it still holds).

Calls of layers that declare no role have a kind by their class or a base class of it. The sets hold
class names, so that no Keras has to be imported, and can be extended:
`layers.IDENTITY_LIKE.add("TheirNoise")`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from plots.annotations import Declaration
from plots.graph import Node, Shape

ROLES = {
    "add": "adds up its inputs",
    "alibi_positions": "attention biases that grow with the distance",
    "attention": "attention of query, key and value",
    "attention_scores": "products of queries and keys",
    "attention_weights": "softmax of attention scores",
    "causal_mask": "mask of keys later than the query",
    "identity": "returns its input, up to noise in training, a cast or one constant factor",
    "learned_positions": "trained vectors of positions",
    "norm": "normalises activations",
    "padding_mask": "mask of padding",
    "position_ids": "positions of tokens as integers",
    "relative_positions": "trained attention biases by distance",
    "rotary_positions": "rotates queries and keys by their positions",
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

Axes = TypeVar("Axes", bound=Sequence[Any])
AnyRule = TypeVar("AnyRule", bound=Callable[[Any], Any])
SomeRule = TypeVar("SomeRule", bound=Callable[[Any], Any])

_KEYS = ("signature", "products", "sizes", "like", "role")
_AXES = re.compile(r"[A-Za-z1]*(\.\.\.)?[A-Za-z1]*")


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


# Equations --------------------------------------------------------------------------------------


def axis_labels(axes: str, rank: int | None) -> list[str]:
    """Return a label for each axis: its letter, or a number from the right for one under "...".

    Args:
        axes: Such as "b...d".
        rank: How many axes there are; without "..." it is not needed.
    """
    before, dots, after = axes.partition("...")
    covered = (rank or 0) - len(before) - len(after) if dots else 0
    return [*before, *(f"...{place}" for place in range(covered, 0, -1)), *after]


def parse_equation(equation: str, ranks: Sequence[int | None]) -> list[list[str]]:
    """Return the labels of the axes of an einsum equation's operands, and those of its result.

    Args:
        equation: As `numpy.einsum` takes it; without "->" the result has, in alphabetical order,
            the letters that occur once.
        ranks: Number of axes of every operand and the result; it may be None for one without "...".

    Raises:
        ValueError: if there are not as many operands as ranks.
    """
    left, arrow, result = equation.replace(" ", "").partition("->")
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        dots = "..." if "..." in left else ""
        result = dots + "".join(sorted(c for c in letters if letters.count(c) == 1))
    pairs = zip([*left.split(","), result], ranks, strict=True)
    return [axis_labels(axes, rank) for axes, rank in pairs]


def product_labels(declaration: Declaration, labels: Iterable[str]) -> Iterator[list[list[str]]]:
    """Yield the labels [left, right, result] of every product, given those of the signature."""
    covered = sum(label.startswith("...") for label in labels)
    for equation in declaration.products or ():
        parts = re.split(",|->", equation)
        yield [axis_labels(axes, covered + len(axes.replace("...", ""))) for axes in parts]


def declared_tensors(
    declaration: Declaration, inputs: Mapping[str, Axes], outputs: Iterable[Axes]
) -> list[tuple[str, str, Axes]]:
    """Return the tensors of a call as (port, or "" for an output; declared axes; actual axes).

    Raises:
        ValueError: if the signature has another number of outputs.
    """
    given = [
        (port, text, inputs[port]) for port, text in declaration.inputs.items() if port in inputs
    ]
    if not declaration.outputs:
        return given
    return given + [("", *pair) for pair in zip(declaration.outputs, outputs, strict=True)]


# Checks -----------------------------------------------------------------------------------------


def parse_declaration(given: Any, ports: Sequence[str]) -> Declaration:
    """Check the declaration of a layer, and match it to the arguments of one call.

    Args:
        given: The value of `graph_declaration`.
        ports: The arguments, in the order of the positional parameters of `call`.

    Raises:
        ValueError: the declaration is invalid; names the given and the allowed value.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"it is {given!r}, but must be a dict with the keys {_listed(_KEYS)}")
    for key in given:
        if key not in _KEYS:
            raise ValueError(f"it has the key {key!r}; allowed are {_listed(_KEYS)}")
    role = given.get("role", "")
    if role and (not isinstance(role, str) or role not in ROLES):
        raise ValueError(f'"role" is {role!r}; allowed are {_listed(ROLES)}')
    like = given.get("like", "")
    if not isinstance(like, str):
        raise ValueError(f'"like" is {like!r}, but must be the name of a class')
    sizes = given.get("sizes") or {}
    if not isinstance(sizes, Mapping) or not all(map(_is_size, sizes.items())):
        raise ValueError(f'"sizes" is {sizes!r}, but must map letters to ints, 1 or more')
    signature = given.get("signature")
    inputs, outputs = ({}, []) if signature is None else _signature(signature, ports)
    letters = {*"".join([*inputs.values(), *outputs])} - {"1", "."} | set(sizes)
    products = given.get("products")
    if products is not None:
        if isinstance(products, str) or not isinstance(products, Sequence):
            raise ValueError(f'"products" is {products!r}, but must be a list of equations')
        products = tuple(_product(equation, letters) for equation in products)
    return Declaration(inputs, tuple(outputs), products, dict(sizes), role, like)


def _signature(given: Any, ports: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    operands, outputs = _parsed(given)
    if not outputs:
        raise ValueError(
            f'"signature" is {given!r}, but must be like "btd,bts->btd": letters, "1" or "..." for '
            "the axes of each argument and output"
        )
    if len(operands) > len(ports):
        raise ValueError(
            f'"signature" is {given!r}, with {len(operands)} arguments, but `call` takes '
            f"{len(ports)}: {', '.join(ports) or 'none'}"
        )
    return {p: axes for p, axes in zip(ports, operands, strict=False) if axes}, outputs


def _product(given: Any, letters: set[str]) -> str:
    operands, results = _parsed(given)
    if (len(operands), len(results)) != (2, 1):
        raise ValueError(
            f'"products" has {given!r}, but must have equations of two operands, such as '
            '"btd,df->btf"'
        )
    unknown = sorted({*"".join(operands + results)} - {"."} - letters)
    if unknown:
        raise ValueError(
            f'"products" has {given!r}, but {_listed(unknown)} is in no tensor of "signature": '
            'give its size in "sizes"'
        )
    return f"{','.join(operands)}->{results[0]}"


def _parsed(equation: Any) -> tuple[list[str], list[str]]:
    """Return the axes of operands and results; none if it is not an equation."""
    left, arrow, right = (
        (equation if isinstance(equation, str) else "").replace(" ", "").partition("->")
    )
    operands, results = left.split(","), right.split(",")
    is_equation = arrow and all(map(_AXES.fullmatch, operands + results))
    return (operands, results) if is_equation else ([], [])


def _is_size(item: tuple[Any, Any]) -> bool:
    letter, size = item
    is_letter = isinstance(letter, str) and len(letter) == 1 and letter.isalpha()
    return is_letter and isinstance(size, int) and not isinstance(size, bool) and size > 0


def check_shapes(
    declaration: Declaration, inputs: Mapping[str, Shape], outputs: Sequence[Shape]
) -> None:
    """Check that a call's tensors have the declared axes.

    Args:
        declaration: The `graph_declaration` of the layer.
        inputs: Shapes by argument.
        outputs: Shapes of the outputs.

    Raises:
        ValueError: if a number of axes, or of outputs, is another one, or if axes with one letter
            have different sizes, none of them 1.
    """
    expected = len(declaration.outputs)
    if expected and len(outputs) != expected:
        raise ValueError(f'"signature" has {expected} outputs, but there are {len(outputs)}')
    sizes: dict[str, int] = {"1": 1, **declaration.sizes}
    for port, axes, shape in declared_tensors(declaration, inputs, outputs):
        labels = axis_labels(axes, len(shape))
        what = f'"signature" has {axes!r} for {port or "the output"}, whose shape is {tuple(shape)}'
        if len(labels) != len(shape):
            raise ValueError(what)
        for label, size in zip(labels, shape, strict=True):
            if size not in (None, 1) and sizes.setdefault(label, size) != size:
                raise ValueError(f"{what}, but {label!r} is {sizes[label]}")


def _listed(words: Iterable[Any]) -> str:
    return ", ".join(map(repr, words))


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

IDENTITY_LIKE: set[str] = {
    "ActivityRegularization",
    "AlphaDropout",
    "Cast",
    "Copy",
    "DropPath",
    "Dropout",
    "GaussianDropout",
    "GaussianNoise",
    "Identity",
    "Negative",
    "Rescaling",
    "StochasticDepth",
    "StopGradient",
    *(f"SpatialDropout{rank}D" for rank in (1, 2, 3)),
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

TRACED = "traced"
"""Trait of every layer whose calls inside were found by calling it on symbolic tensors."""

NORM_TRAIT, SOFTMAX_TRAIT, POSITIONS_TRAIT = "norm", "softmax", " positions"
"""Traits of layers that divide their input by a statistic of it, such as the root mean square, that
return a softmax over the last axis, and (as the end of "learned positions") that add positions."""

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

_RESAMPLINGS = ("AveragePooling", "Cropping", "MaxPooling", "UpSampling", "ZeroPadding")
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

PRODUCTS: set[str] = {"Dot", "Einsum", "Matmul", "Tensordot"}
"""Products of two tensors that sum over an axis, as scores of queries and keys do.

Other calls of two tensors are recognised as such products by the shape of their output.
"""

# `Norm` alone is the length of a vector; `SpectralNormalization` normalises weights.
_NORM_CLASS = re.compile(r"(?!Spectral).+(Norm|Normalization)")


def is_additive_merge(node: Node) -> bool:
    """Whether the call sums its inputs."""
    return node.role == "add" or node.is_a(ADDITIVE_MERGES)


def is_signed_merge(node: Node) -> bool:
    """Whether the call adds, averages or subtracts its inputs: a sum with constant factors.

    `keras.ops.average` has the same class name as the layer, but reduces an axis.
    """
    is_average = node.operation == "Average" and node.kind != "operation"
    return is_additive_merge(node) or is_average or is_subtraction(node)


def is_subtraction(node: Node) -> bool:
    """Whether the call subtracts its second input from the first."""
    return node.is_a({"Subtract"})


def merge_sign(node: Node) -> str:
    """Return "+", "−" or "mean" for a merge that takes only tensors; "" for other calls.

    One with a constant operand, as in x + 1, merges nothing.
    """
    if not is_signed_merge(node) or any(c.port != "training" for c in node.constants):
        return ""
    if is_subtraction(node):
        return "−"
    return "+" if is_additive_merge(node) else "mean"


def is_norm(node: Node) -> bool:
    """Whether the call normalises activations."""
    if node.role == "norm" or NORM_TRAIT in node.traits or node.is_a(NORMS):
        return True
    return not node.call_class and _NORM_CLASS.fullmatch(node.class_name) is not None


def is_shape_only(node: Node) -> bool:
    """Whether the call takes only the shape of its input."""
    return SHAPE_TRAIT in node.traits or (not node.call_class and node.is_a(SHAPE_ONLY))


def is_identity_like(node: Node) -> bool:
    """Whether the call returns its input: dropout, cast, identity, one constant factor, plus 0."""
    if node.role == "identity" or node.returns_input or node.is_a(IDENTITY_LIKE):
        return True
    if node.operation in ("Multiply", "Divide", "TrueDivide"):
        return any(
            constant.shape == () or isinstance(constant.value, int | float)
            for constant in node.constants
            if node.operation == "Multiply" or constant.port == "x2"  # 2 / x does not scale x
        )
    if node.operation == "Add":  # Python's `sum` starts with 0
        return any(constant.value == 0 for constant in node.constants)
    return node.operation == "Activation" and node.activation == "linear"


def is_factor(node: Node) -> bool:
    """Whether the call returns its input up to factors: constants, weights or other tensors."""
    return is_identity_like(node) or node.is_a({"Multiply"})


def is_rearrangement(node: Node) -> bool:
    """Whether the call returns values of its input in another shape: nothing new but zeros."""
    if node.is_a(SHAPE_CHANGES | TRANSPOSITIONS) or is_crop(node):
        return True
    if node.operation == "Pad":
        fill = next((c.value for c in node.constants if c.port == "constant_values"), None)
        return node.config.get("mode") == "constant" and not fill
    return node.is_a(PADDINGS)


def is_crop(node: Node) -> bool:
    """Whether the call returns a part of its input, in the same order."""
    steps = [str(c.value).split(":")[2:] for c in node.constants if c.port.startswith("key")]
    return node.is_a(CROPS) and not any(step.startswith("-") for (step,) in filter(None, steps))


def is_learned_scale(node: Node) -> bool:
    """Whether the call multiplies the features of its input by a vector, such as a weight."""
    shapes = (constant.shape for constant in node.constants if constant.shape is not None)
    vectors = (sum(size != 1 for size in shape) == 1 for shape in shapes)
    return node.operation == "Multiply" and any(vectors)


def is_attention(node: Node) -> bool:
    """Whether the call is one whole attention."""
    known = ATTENTION_LAYERS | FUSED_ATTENTION
    is_own = node.call_class == node.class_name  # the name of a class of one's own shows nothing
    return node.role == "attention" or not known.isdisjoint(
        node.bases if is_own else (node.class_name, *node.bases)
    )


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


def is_linear_projection(node: Node) -> bool:
    """Whether the call is a projection without a nonlinear activation."""
    return node.is_a(LINEAR_PROJECTIONS) and node.activation in (None, "linear")
