"""Rules on what goes into a model: unused inputs, the layout of images, scales, single steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Real

from plots.annotations import Note, shape_text
from plots.diagnosis.projections import scalar_factor
from plots.diagnosis.rules import diagnosis_rule, doing, finding, finding_rule, named, remark
from plots.graph import Graph, Node
from plots.layers import ADDS_LOSSES, is_identity_like, is_recurrent
from plots.traversal import reachability

_FUNCTIONAL = "Keras guide, keras.io/guides/functional_api"
_LAYOUT = "Keras API, data_format of keras.layers.Conv2D"
_RESCALING = "keras.io/api/applications/efficientnet: the preprocessing is part of the model"
_STEPS = "Keras API, keras.layers.LSTM: inputs of the shape (batch, timesteps, feature)"
_EMBEDDING = "Keras API, keras.layers.Embedding: takes integers"
_CHANNELS = (1, 3)
_SMALLEST_SIDE = 8
_BYTE_SCALE, _TWICE = 1 / 100, 1 / 2_000
"""Factors below the first one turn bytes into numbers near 1; below the second, into nothing."""

_OF_IMAGES = frozenset({"Conv2D", "DepthwiseConv2D", "MaxPooling2D", "SeparableConv2D"})


@finding_rule(
    "An input without effect: no output depends on {places}, so the model computes the same "
    "without it. Connect it, such as the memory of a decoder, or leave it out.",
    _FUNCTIONAL,
)
def unused_input(graph: Graph) -> list[str]:
    """No output of the model depends on one of its inputs, nor may a loss that a layer adds."""
    if any(ADDS_LOSSES in node.traits for node in graph.nodes):
        return []
    flow = reachability(graph)
    ends = [node_id for node_id, _ in graph.outputs]
    return [i for i in graph.inputs if not any(flow.depends(end, on=i) for end in ends)]


@diagnosis_rule("channels_first_image")
def channels_first_image(graph: Graph) -> Iterator[Note]:
    """An image with its channels first goes into a layer that takes them last."""
    for node in graph.of_class(_OF_IMAGES):
        taken = _input_behind(graph, node)
        if taken is None or node.config.get("data_format") != "channels_last":
            continue
        _, channels, *sides = taken.outputs[0].shape
        if channels in _CHANNELS and _are_sides(sides):
            is_square = sides[0] == sides[1]
            yield (finding if channels == _CHANNELS[-1] and is_square else remark)(
                [taken.id, node.id],
                f"An image with channels first: {named(graph, [taken.id])} has the shape "
                f"{shape_text(taken.outputs[0].shape)}, and {named(graph, [node.id])} takes "
                f"(batch, height, width, channels), so it slides over the {channels} channels as "
                f"if they were rows, and sums over the {sides[1]} columns. Permute first: "
                "keras.layers.Permute((2, 3, 1)).",
                _LAYOUT,
            )


def _are_sides(sizes: Sequence[int | None]) -> bool:
    """Return whether two sizes look like the height and the width of an image."""
    known = sorted(size for size in sizes if size is not None)
    return len(sizes) == len(known) == 2 and known[0] >= _SMALLEST_SIDE and known[1] <= 2 * known[0]


def _input_behind(graph: Graph, node: Node) -> Node | None:
    """Return the input of the model that a call takes, up to constant factors; None if it has
    been through other calls."""
    while graph.incoming[node.id]:
        node = graph.node(graph.incoming[node.id][0].source)
        if node.kind == "input":
            return node
        if not is_identity_like(node):
            return None
    return None


@diagnosis_rule("rescaled_twice")
def rescaled_twice(graph: Graph) -> Iterator[Note]:
    """Bytes are divided by 255 or the like twice before the first weights."""
    factors: dict[str, tuple[tuple[str, float], ...]] = dict.fromkeys(graph.inputs, ())
    for node in graph.nodes:
        edges = [edge for edge in graph.incoming[node.id] if not edge.implicit]
        if len(edges) != 1 or edges[0].source not in factors or node.parameters:
            continue
        factor = _factor(node)
        own = ((node.id, factor),) if factor is not None else ()
        if own or _keeps_scale(node):
            factors[node.id] = factors[edges[0].source] + own
    for passed in factors.values():
        small = [(place, factor) for place, factor in passed if abs(factor) < _BYTE_SCALE]
        is_last = passed and passed[-1] in small
        if len(small) == 2 and is_last and abs(small[0][1] * small[1][1]) < _TWICE:
            places = [place for place, _ in small]
            yield finding(
                places,
                f"Rescaled twice: {doing(graph, places, 'multiply')} the same input by "
                f"{small[0][1]:.3g} and by {small[1][1]:.3g}, so that bytes up to 255 become "
                f"numbers up to {255 * small[0][1] * small[1][1]:.2g}, and all images are almost "
                "equal. Leave one of the two out.",
                _RESCALING,
            )


def _factor(node: Node) -> float | None:
    if node.operation == "Rescaling":
        scale = node.config.get("scale")
        return float(scale) if isinstance(scale, Real) else None
    return scalar_factor(node)


def _keeps_scale(node: Node) -> bool:
    """Return whether a call shifts its input by a constant, resizes it, or returns it."""
    is_shift = node.operation in ("Add", "Subtract") and bool(node.constants)
    is_shift = is_shift or node.operation == "Rescaling"
    is_image = node.class_name.startswith(("Random", "Resizing", "CenterCrop", "ZeroPadding"))
    return is_shift or is_image or is_identity_like(node)


@diagnosis_rule("one_step")
def one_step(graph: Graph) -> Iterator[Note]:
    """A recurrent layer takes sequences of one step, and begins each with a state of zeros."""
    places = []
    for node in graph.nodes if graph.outputs else ():
        edges = graph.incoming[node.id]
        has_state = any(edge.port.startswith("initial_state") for edge in edges)
        if is_recurrent(node) and edges and not has_state and not _is_stateful(node):
            shape = edges[0].tensor.shape
            places += [node.id] if len(shape) == 3 and shape[1] == 1 else []
    if places:
        shape = graph.incoming[places[0]][0].tensor.shape
        yield remark(
            places,
            f"A recurrent layer over one step: {doing(graph, places, 'take')} sequences of length "
            f"1, {shape_text(shape)}, each with a state of zeros, so it remembers nothing. Steps "
            "are the second axis: (batch, steps, features).",
            _STEPS,
        )


def _is_stateful(node: Node) -> bool:
    inner = node.config.get("layer")
    own = inner.get("config", {}) if isinstance(inner, dict) else {}
    return bool(node.config.get("stateful") or own.get("stateful"))


@diagnosis_rule("embedding_of_floats")
def embedding_of_floats(graph: Graph) -> Iterator[Note]:
    """A table is looked up by numbers that were normalised, so that they are no ids any more."""
    for node in graph.of_class({"Embedding"}):
        if graph.incoming[node.id]:
            before = graph.node(graph.incoming[node.id][0].source)
            scale = before.config.get("scale", 1)
            is_scaled = before.operation == "Rescaling" and not (
                isinstance(scale, Real) and float(scale).is_integer()
            )
            if before.operation == "Normalization" or is_scaled:
                yield finding(
                    [node.id, before.id],
                    f"An Embedding of normalised numbers: {named(graph, [node.id])} takes those of "
                    f"{named(graph, [before.id])}, which are cut to integers, mostly 0. Look up "
                    "the ids themselves; normalised numbers go to a Dense.",
                    _EMBEDDING,
                )


@diagnosis_rule("embedding_of_narrow_ids")
def embedding_of_narrow_ids(graph: Graph) -> Iterator[Note]:
    """Ids are cast to a type that does not hold the last rows of their table."""
    for node in graph.of_class({"Embedding"}):
        rows = node.config.get("input_dim")
        edges = graph.incoming[node.id]
        if not isinstance(rows, int) or not edges:
            continue
        before, dtype = graph.node(edges[0].source), edges[0].tensor.dtype
        largest = _largest_whole(dtype)
        if before.kind != "input" and largest is not None and largest < rows - 1:
            yield finding(
                [node.id, before.id],
                f"Ids of a type that is too narrow: {named(graph, [before.id])} makes them "
                f"{dtype}, which is exact up to {largest}, and {named(graph, [node.id])} has "
                f"{rows} rows, so that larger ids become other ones. Cast to int32.",
                _EMBEDDING,
            )


def _largest_whole(dtype: str) -> int | None:
    """Return the number up to which a type holds all whole numbers; None if that is unknown."""
    if dtype in _MANTISSAS:
        return 2 ** _MANTISSAS[dtype]
    sign, _, bits = dtype.rpartition("int")
    return 2 ** (int(bits) - (sign != "u")) - 1 if bits.isdecimal() else None


_MANTISSAS = {"float16": 11, "bfloat16": 8, "float32": 24}
"""Bits of the whole numbers that are exact."""


@diagnosis_rule("embedding_of_one_hot_vectors")
def embedding_of_one_hot_vectors(graph: Graph) -> Iterator[Note]:
    """A table is looked up by the zeros and ones of one-hot vectors."""
    for node in graph.of_class({"Embedding"}):
        if graph.incoming[node.id]:
            before = graph.node(graph.incoming[node.id][0].source)
            modes = ("one_hot", "multi_hot")
            if before.operation in ("OneHot", "MultiHot") or (
                before.is_a({"CategoryEncoding"}) and before.config.get("output_mode") in modes
            ):
                yield finding(
                    [node.id, before.id],
                    f"An Embedding of one-hot vectors: {named(graph, [node.id])} takes those of "
                    f"{named(graph, [before.id])}, and looks up its rows 0 and 1 alone. Give it "
                    "the ids themselves, or a Dense the one-hot vectors.",
                    _EMBEDDING,
                )
