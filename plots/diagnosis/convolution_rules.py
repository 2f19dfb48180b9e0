"""Rules on networks of convolutions: pixels that none reads, and skips between equal sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from plots.annotations import Note
from plots.diagnosis.axis_origins import axis_origins, kinds
from plots.diagnosis.rules import diagnosis_rule, doing, finding_rule, remark, remark_rule
from plots.graph import Graph, Node
from plots.layers import UPSAMPLING, is_identity_like
from plots.softmaxes import float_inputs
from plots.traversal import data_flow, walk_back

_POOLINGS = {f"{kind}Pooling{rank}D" for kind in ("Average", "Max") for rank in (1, 2, 3)}
_WINDOWS_OF_ONE_AXIS = frozenset(
    {"AveragePooling1D", "Conv1D", "DepthwiseConv1D", "MaxPooling1D", "SeparableConv1D"}
)
_ENLARGING = UPSAMPLING | {f"Conv{rank}DTranspose" for rank in (1, 2, 3)} | {"Resize"}

_UNET = "Ronneberger et al. 2015, U-Net, section 2"
_VIM = "Zhu et al. 2024, Vision Mamba, section 3.3, does it on purpose, in both directions"
_HE = "He et al. 2019, Bag of Tricks for Image Classification, section 4.1"


@diagnosis_rule("skipped_pixels")
def skipped_pixels(graph: Graph) -> Iterator[Note]:
    """A convolution with strides larger than its kernel is the only one that reads its input."""
    places: dict[str, float] = {}
    for node in graph.of_class({"Conv1D", "Conv2D", "Conv3D"}):
        kernel, strides = node.config.get("kernel_size"), node.config.get("strides")
        if not graph.incoming[node.id]:
            continue
        if not isinstance(kernel, list | tuple) or not isinstance(strides, list | tuple):
            continue
        source = graph.incoming[node.id][0].source
        while is_identity_like(graph.node(source)) and len(graph.outgoing[source]) == 1:
            if not graph.incoming[source]:
                break
            source = graph.incoming[source][0].source
        is_alone = len({edge.target for edge in graph.outgoing[source]}) == 1
        share = math.prod(min(size / step, 1) for size, step in zip(kernel, strides, strict=False))
        if share < 1 and is_alone and graph.node(source).kind != "input":
            places[node.id] = share
    if places:
        shares = " and ".join(sorted({f"{share:.0%}" for share in places.values()}))
        yield remark(
            [*places],
            f"Features that nothing reads: {doing(graph, [*places], 'read')} {shares} of the "
            "positions of the input, since the strides are larger than the kernel, and nothing "
            "else takes it. Use a larger kernel, or pool before.",
            _HE,
        )


@finding_rule(
    "A decoder joined with a pooled map: {places:take} {others}, what the convolutions of that "
    "size start from, while other levels are joined with maps that convolutions return. A U-Net "
    "joins the last map of each size, before it is pooled.",
    _UNET,
)
def joined_with_a_pooled_map(graph: Graph) -> Iterator[tuple[str, str]]:
    """One level of a U-net is joined with a pooled map, and others with maps of convolutions."""
    flow = data_flow(graph)
    skips: dict[str, Node] = {}
    for node in graph.of_class({"Concatenate"}):
        ends = [edge.source for edge in graph.incoming[node.id]]
        if len(ends) != 2:
            continue
        for skip, end in (ends, ends[::-1]):
            way = flow.between(skip, [end]) if skip != end and flow.depends(end, on=skip) else []
            if any(graph.node(call).is_a(_ENLARGING) for call in way):
                skips[node.id] = walk_back(graph, graph.node(skip), is_identity_like)
    pooled = {join: skip.id for join, skip in skips.items() if skip.is_a(_POOLINGS)}
    if len(pooled) < len(skips):
        yield from pooled.items()


@remark_rule(
    "Windows along a flattened map: {places:take} neighbours along one axis that holds the rows "
    "and the columns of a map, from {others}, so that its windows are parts of one row, or the end "
    "of one and the beginning of the next. For neighbours in both directions, reshape it to "
    "(rows, columns) before, and take the layer in 2D.",
    _VIM,
)
def windows_along_a_flattened_map(graph: Graph) -> Iterator[tuple[str, str]]:
    """A convolution or pooling in 1D takes neighbours of positions that were two axes before."""
    for node in graph.of_class(_WINDOWS_OF_ONE_AXIS):
        config = node.config
        sizes = config.get("kernel_size") or config.get("pool_size") or [1]
        is_window = max(sizes if isinstance(sizes, list | tuple) else [sizes]) > 1
        edges = float_inputs(graph, node)
        if not is_window or len(edges) != 1 or config.get("data_format") == "channels_first":
            continue
        axes = axis_origins(graph)[edges[0].source, edges[0].output]
        parts = [part for part in (axes[1] if len(axes) == 3 else ()) if part.size != 1]
        if len(parts) > 1 and kinds(parts) == {"position"}:
            made_by = {origin[0] for part in parts for origin in part.origins}
            places = {origin[2] for part in parts for origin in part.origins}
            if len(made_by) == 1 and len(places) == len(parts):
                yield node.id, made_by.pop()
