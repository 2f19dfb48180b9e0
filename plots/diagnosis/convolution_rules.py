"""Rules on convolutions: pixels that none of them reads."""

from __future__ import annotations

import math
from collections.abc import Iterator

from plots.annotations import Note
from plots.diagnosis.rules import diagnosis_rule, doing, remark
from plots.graph import Graph
from plots.layers import is_identity_like

_HE = "He et al. 2019, Bag of Tricks for Image Classification, section 4.1"


@diagnosis_rule("skipped_pixels")
def skipped_pixels(graph: Graph) -> Iterator[Note]:
    """A convolution with strides larger than its kernel is the only one that reads its input."""
    places: dict[str, float] = {}
    for node in graph.nodes:
        kernel, strides = node.config.get("kernel_size"), node.config.get("strides")
        if not node.is_a({"Conv1D", "Conv2D", "Conv3D"}) or not graph.incoming[node.id]:
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
