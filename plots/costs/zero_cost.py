"""Classes whose calls have no matrix products, by name.

The sets can be extended: `zero_cost.LAYERS.add("TheirLayer")`. A call of any other class needs a
rule or a declaration, or its FLOPs are "at least".
"""

from __future__ import annotations

from plots.graph import Node
from plots.layers import is_additive_merge, is_identity_like, is_norm, is_shape_only

_RANKS = ("1D", "2D", "3D")
_BY_RANK = """
    AdaptiveAveragePooling AdaptiveMaxPooling AveragePooling Cropping GlobalAveragePooling
    GlobalMaxPooling MaxPooling ZeroPadding
    """.split()  # noqa: SIM905

LAYERS: set[str] = {
    *(f"{name}{rank}" for name in _BY_RANK for rank in _RANKS),
    *"""
        Activation AutoContrast Average CategoryEncoding Concatenate Discretization ELU
        Flatten HashedCrossing Hashing IntegerLookup LayerScale LeakyReLU Masking
        MaxNumBoundingBoxes Maximum Merge Minimum Multiply Normalization PReLU Permute
        PositionEmbedding RandomBrightness RandomContrast RandomErasing RandomFlip
        RandomGrayscale RandomInvert RandomPosterization ReLU RepeatVector Rescaling
        Reshape RotaryEmbedding Softmax Solarization StringLookup Subtract
        TextVectorization TokenAndPositionEmbedding UpSampling1D UpSampling3D
    """.split(),  # noqa: SIM905
}
"""Layers without matrix products.

Norms, sums, identities and layers that take only a shape (`plots.layers`) have none either.
"""

OPERATIONS: set[str] = set(
    """
    Abs Absolute Add All AllClose Amax Amin Angle Any Append Arange Arccos Arccosh Arcsin Arcsinh
    Arctan Arctan2 Arctanh Argmax Argmin Array ArraySplit Average Bincount BitwiseAnd BitwiseInvert
    BitwiseLeftShift BitwiseNot BitwiseOr BitwiseRightShift BitwiseXor BroadcastTo Cbrt Ceil Clip
    Concatenate Conj Conjugate Copy Cos Cosh CountNonzero Cross Cumprod Cumsum Deg2rad Diag Diagflat
    Diagonal Diff Digitize Divide DivideNoNan Dsplit Dstack EmptyLike Equal Exp Exp2 ExpandDims
    Expm1 Fabs Flip Fliplr Flipud Floor FloorDivide Fmax Fmin Fmod Full FullLike Gcd Geomspace
    GetItem Greater GreaterEqual Heaviside Hsplit Hstack Hypot I0 Imag IsIn Isclose Isfinite Isinf
    Isnan Isneginf Isposinf Isreal Kron Lcm Ldexp LeftShift Less LessEqual Linspace Log Log10 Log1p
    Log2 Logaddexp Logaddexp2 LogicalAnd LogicalNot LogicalOr LogicalXor Logspace Max Maximum Mean
    Meshgrid Min Minimum Mod Moveaxis Multiply NanToNum Nanargmax Nanargmin Nancumprod Nancumsum
    Nanmax Nanmean Nanmin Nanprod Nanstd Nansum Nanvar Ndim Negative Nextafter Nonzero NotEqual
    OnesLike Outer Pad Power Prod Ptp Rad2deg Ravel Real Reciprocal Repeat Reshape RightShift Roll
    Rot90 Round Select Sign Signbit Sin Sinc Sinh Size Split Sqrt Square Squeeze Stack Std
    Subtract Sum Swapaxes Take TakeAlongAxis Tan Tanh Tile Trace Transpose Trapezoid Tril Triu
    TrueDivide Trunc UnravelIndex Vander Var View Vsplit Vstack Where ZerosLike

    Cast ConvertToTensor Rearrange SaturateCast Scatter ScatterUpdate Shape Slice SliceUpdate
    StopGradient Unstack

    AdaptiveAveragePool AdaptiveMaxPool AveragePool BatchNorm BinaryCrossentropy
    CategoricalCrossentropy Celu DepthToSpace Elu Gelu Glu HardShrink HardSigmoid HardSilu
    HardTanh LayerNorm LeakyRelu LogSigmoid LogSoftmax MaxPool Moments MultiHot Normalize OneHot
    PSNR Polar RMSNorm Relu Relu6 Selu Sigmoid Silu SoftShrink Softmax Softplus Softsign
    SpaceToDepth SparseCategoricalCrossentropy SparsePlus SparseSigmoid Squareplus TanhShrink
    Threshold

    CropImages Erf Erfc Erfinv ExtractSequences HSVToRGB Logsumexp PadImages RGBToGrayscale
    RGBToHSV Rsqrt SegmentMax SegmentMin SegmentProd SegmentReduction SegmentSum ViewAsComplex
    ViewAsReal
    """.split()  # noqa: SIM905
)
"""Operations of `keras.ops` that are elementwise, reduce, or move numbers.

All others are unknown work: products without a rule, factorisations, transforms, sorting,
resampling of images, and operations that call a function, such as `ops.map`.
"""

_VECTORS = 4  # gain, bias, mean and variance


def is_zero_cost(node: Node, has_floats: bool) -> bool:
    """Return whether the call of a layer or operation has no matrix products.

    Args:
        node: The call.
        has_floats: Whether an input or output is of floating-point numbers.
    """
    if node.kind == "model":
        return False
    if node.class_name == "Norm":
        return node.kind == "operation" and node.config.get("ord") in (None, "fro")
    if node.kind == "operation":
        return node.is_a(OPERATIONS)
    has_weights = node.parameters + node.shared_parameters > 0
    if not has_floats and not has_weights:
        return True  # such as a layer that makes a mask from tokens
    if node.is_a({"UpSampling2D"}):
        return node.config.get("interpolation") == "nearest"
    if node.is_a({"Activation"}):
        return "activation" in node.config  # else it is a function that cannot be saved
    if node.is_a(LAYERS):
        return True
    if is_identity_like(node) or is_additive_merge(node) or is_shape_only(node):
        return not has_weights
    return is_norm(node) and _has_vectors_only(node)


def _has_vectors_only(node: Node) -> bool:
    """Return whether a norm of your own has no more weights than gains, biases and statistics."""
    known = (n for tensor in node.outputs for n in tensor.shape[1:] if n is not None)
    weights = node.parameters + node.shared_parameters
    return not node.call_class or weights <= _VECTORS * max(known, default=0)
