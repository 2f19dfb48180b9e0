"""Rules on norms: their axes, norms of norms, and norms on a part of the inputs of an attention."""

from __future__ import annotations

from collections.abc import Iterator

from plots.annotations import Note, shape_text
from plots.attentions import attentions_with_masks
from plots.diagnosis.activations import activation_of
from plots.diagnosis.axis_origins import Part, axis_origins, kinds, sources
from plots.diagnosis.projections import past_dropouts, past_layout, projection_behind
from plots.diagnosis.rules import diagnosis_rule, doing, finding, named, remark, remark_rule
from plots.graph import Edge, Graph, Node
from plots.layers import (
    CONVOLUTIONS,
    FUSED_ATTENTION,
    TRANSPOSITIONS,
    is_additive_merge,
    is_identity_like,
    is_linear_projection,
    is_norm,
)
from plots.traversal import walk_back

_QK_NORM = "Dehghani et al. 2023, Scaling Vision Transformers to 22 Billion Parameters, section 2.1"
_BA = "Ba et al. 2016, Layer Normalization, section 3"
_XIONG = "Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, figure 1"
_IOFFE = "Ioffe and Szegedy 2015, Batch Normalization, section 3.2"
_LI = (
    "Li et al. 2019, Understanding the Disharmony between Dropout and Batch Normalization by "
    "Variance Shift, section 3"
)
_MOMENTUM = 0.3
CHANNEL_NORMS = frozenset({"BatchNorm", "BatchNormalization", "GroupNormalization"})
_TOKEN_NORMS = frozenset({"LayerNorm", "LayerNormalization", "RMSNorm", "RMSNormalization"})


@diagnosis_rule("norm_axes")
def norm_axes(graph: Graph) -> Iterator[Note]:
    """A norm over positions or samples, or over a single feature."""
    attentions, _, masked = attentions_with_masks(graph)
    is_causal = any(masked[attention.id].causal for attention in attentions)
    places: dict[str, list[str]] = {}
    for node in graph.of_class({"GroupNormalization"} | _TOKEN_NORMS):
        if case := _axes_case(graph, node):
            places.setdefault(case, []).append(node.id)
    for case, ids in places.items():
        place, shape = named(graph, ids), graph.node(ids[0]).outputs[0].shape
        if case == "one feature":
            yield finding(
                ids,
                f"A norm over one number: {place} normalises an axis of size 1, "
                f"{shape_text(shape)}, so its output is the same whatever it takes. Project "
                "to more features first.",
                _BA,
            )
        elif attentions:
            what = "samples of the batch" if case == "batch" else "positions"
            text = (
                f"A norm over {what}: the axes of {place} are those of "
                f"{'positions and features' if case == 'both' else what}, not of the features "
                "alone, so each vector depends on the others"
                f"{', also on later ones' if is_causal and case != 'batch' else ''}. A norm of a "
                "Transformer is over the features: axis=-1."
            )
            yield (finding if case != "both" or is_causal else remark)(ids, text, _BA)


def _axes_case(graph: Graph, node: Node) -> str:
    axes = node.config.get("axis", -1)
    axes = [axes] if isinstance(axes, int) else axes
    shape = node.outputs[0].shape
    if node.is_a({"GroupNormalization"}) and _is_of_one_number(node):
        return "one feature"
    if not node.is_a(_TOKEN_NORMS) or len(shape) < 2 or not isinstance(axes, list):
        return ""
    if all(shape[axis] == 1 for axis in axes):
        return "one feature"
    origins = axis_origins(graph)[node.id, 0]
    found = {kind for axis in axes for kind in kinds(origins[axis])}
    if "batch" in found:
        return "batch"
    positions = [part for axis in axes for part in origins[axis] if part.kind == "position"]
    of_patches = all(_is_piece(graph, part) for part in positions)
    if "position" in found and len(shape) == 3 and not of_patches:
        return "both" if "feature" in found else "position"
    return ""


def _is_piece(graph: Graph, part: Part) -> bool:
    """Return whether a part of an axis is smaller than the axis, as the positions of a patch."""
    wholes = [graph.node(i).outputs[output].shape[axis] for i, output, axis in part.origins]
    return all(whole is not None and part.size < whole for whole in wholes)


def _is_of_one_number(node: Node) -> bool:
    """Return whether each group of a group norm has one number, as one of a 1 x 1 map."""
    shape, axis = node.outputs[0].shape, node.config.get("axis", -1)
    channels, groups = shape[axis], node.config.get("groups", 32)
    others = [size for place, size in enumerate(shape) if place not in (0, axis % len(shape))]
    return groups in (-1, channels) and all(size == 1 for size in others)


@diagnosis_rule("batch_norm_axis")
def batch_norm_axis(graph: Graph) -> Iterator[Note]:
    """A batch or group norm has the positions as its axis, and not the features."""
    places: dict[bool, list[str]] = {}
    yield from _batch_norm_of_channels_first(graph)
    is_first = any(node.config.get("data_format") == "channels_first" for node in graph.nodes)
    for node in graph.of_class(CHANNEL_NORMS) if not is_first else ():
        axis = node.config.get("axis", -1)
        if not (isinstance(axis, int) and graph.incoming[node.id]):
            continue
        origins = axis_origins(graph)[node.id, 0]
        if len(origins) > 2 and kinds(origins[axis]) == {"position"}:
            made = [graph.node(i) for other in origins[1:] for i, _, _ in sources(other)]
            has_features = any(own.parameters and own.kind == "layer" for own in made)
            places.setdefault(has_features, []).append(node.id)
    for has_features, ids in places.items():
        shape = graph.node(ids[0]).outputs[0].shape
        yield (finding if has_features else remark)(
            ids,
            f"A batch norm over the wrong axis: {doing(graph, ids, 'have')} a mean and a scale for "
            f"each position of {shape_text(shape)}, the same for all features, and not for each "
            "feature. Its axis is that of the features, which Keras has last: axis=-1.",
            _IOFFE,
        )


def _batch_norm_of_channels_first(graph: Graph) -> Iterator[Note]:
    places = []
    for node in graph.of_class({"BatchNormalization"}):
        axis, edges = node.config.get("axis", -1), graph.incoming[node.id]
        if isinstance(axis, int) and len(edges) == 1:
            maker = walk_back(graph, graph.node(edges[0].source), _acts_on_numbers)
            is_first = maker.config.get("data_format") == "channels_first"
            if maker.is_a(CONVOLUTIONS) and is_first and axis % len(edges[0].tensor.shape) != 1:
                places.append(node.id)
    if places:
        axis, shape = graph.node(places[0]).config.get("axis", -1), graph.node(places[0]).outputs[0]
        yield finding(
            places,
            f"A batch norm over the wrong axis: {doing(graph, places, 'have')} a mean and a scale "
            f"for each place along axis {axis} of {shape_text(shape.shape)}, after a convolution "
            'with data_format="channels_first", whose channels are axis 1: axis=1.',
            _IOFFE,
        )


def _acts_on_numbers(node: Node) -> bool:
    return not node.parameters and (bool(activation_of(node)) or is_identity_like(node))


@diagnosis_rule("norm_momentum")
def norm_momentum(graph: Graph) -> Iterator[Note]:
    """A batch norm forgets its averages at almost every step."""
    places = [
        node.id
        for node in graph.of_class({"BatchNormalization"})
        if (node.config.get("momentum") or 1) <= _MOMENTUM
    ]
    if places:
        momentum = graph.node(places[0]).config["momentum"]
        yield remark(
            places,
            f"A momentum of {momentum:g}: {doing(graph, places, 'keep')} {100 * momentum:.0f} % of "
            "the averages at each step, so inference uses those of the last batch. PyTorch's "
            f"momentum of {momentum:g} is {1 - momentum:g} in Keras.",
            "Keras API, momentum of keras.layers.BatchNormalization",
        )


@diagnosis_rule("norm_epsilon")
def norm_epsilon(graph: Graph) -> Iterator[Note]:
    """A norm adds so much to the variance that it does not normalise."""
    sizes = {node.id: node.config.get("epsilon") for node in graph.nodes if is_norm(node)}
    places = [i for i, size in sizes.items() if isinstance(size, int | float) and size >= 1]
    if places:
        yield finding(
            places,
            f"An epsilon of {sizes[places[0]]:g}: {doing(graph, places, 'add')} it to a variance "
            "that is about 1, so that activations become smaller with each norm, and are not "
            "normalised. It is there for variances of 0: 1e-6, not 1e6.",
            _BA,
        )


@diagnosis_rule("norm_of_a_norm")
def norm_of_a_norm(graph: Graph) -> Iterator[Note]:
    """A norm whose only input is the output of another norm of the same axes, used only there."""
    places: list[str] = []
    for node in graph.of_class(_TOKEN_NORMS):
        if graph.incoming[node.id]:
            before = past_dropouts(graph, graph.incoming[node.id][0], only=True)
            if before is not None and before.is_a(_TOKEN_NORMS):
                same = before.config.get("axis") == node.config.get("axis")
                places += [before.id, node.id] if same else []
    if places:
        yield remark(
            places,
            f"A norm of a norm: {doing(graph, places[1::2], 'normalise')} the output of "
            f"{named(graph, places[::2])}, which nothing else takes, so the first one only adds "
            "weights. DETR does it for its outputs. With post-norm, leave the final norm out.",
            _XIONG,
        )


@diagnosis_rule("norm_on_queries_alone")
def norm_on_queries_alone(graph: Graph) -> Iterator[Note]:
    """An attention takes the norm of a tensor as queries, and the tensor itself as keys or values.

    Or the other way round.
    """
    for attention in attentions_with_masks(graph)[0]:
        if attention.is_one_call and not attention.has_known_masks:
            continue  # it may normalise keys and values itself
        edges = {"queries": attention.query, "keys": attention.keys[0]}
        edges |= {"values": attention.values[0]} if attention.values else {}
        projects = graph.node(attention.id).parameters > 0
        origins = {what: _origin(graph, edge, projects) for what, edge in edges.items()}
        normed: dict[str, str] = {}
        for what, (node_id, _) in origins.items():
            node = graph.node(node_id)
            if is_norm(node) and len(graph.incoming[node_id]) == 1:
                normed[what] = node_id
        for what, norm in normed.items():
            edge = graph.incoming[norm][0]
            plain = [other for other, at in origins.items() if at == (edge.source, edge.output)]
            if plain:
                yield finding(
                    [attention.id, norm],
                    f"A norm on the {what} alone: {named(graph, [attention.id])} takes the "
                    f"{what} from {named(graph, [norm])}, and the {' and '.join(plain)} from "
                    f"{named(graph, [edge.source])} before the norm. Take all of them from the "
                    "norm: y = norm(x), then attention(y, y).",
                    _XIONG,
                )
                break


@diagnosis_rule("norm_on_values")
def norm_on_values(graph: Graph) -> Iterator[Note]:
    """The projected values are normed, and only one of queries and keys."""
    places: dict[str, str] = {}
    missing = ""
    for attention in attentions_with_masks(graph)[0]:
        if attention.is_one_call and not graph.node(attention.id).is_a(FUSED_ATTENTION):
            continue
        edges = {"queries": attention.query, "keys": attention.keys[0]}
        normed = {what: _norm_of_projection(graph, edge) for what, edge in edges.items()}
        of_values = _norm_of_projection(graph, attention.values[0]) if attention.values else ""
        if of_values and sum(map(bool, normed.values())) == 1:
            places[attention.id] = of_values
            missing = next(what for what, norm in normed.items() if not norm)
    if places:
        (other,) = {"queries", "keys"} - {missing}
        yield finding(
            [*places, *places.values()],
            f"Norms on {other} and values, and not on {missing}: {doing(graph, [*places], 'take')} "
            f"values from {named(graph, [*places.values()])}. Norms in an attention bound its "
            "scores, which are products of queries and keys: normalise these two.",
            _QK_NORM,
        )


def _norm_of_projection(graph: Graph, edge: Edge) -> str:
    """Return the norm of a projection that a tensor is, up to its layout; "" if it is none."""
    norm = past_layout(graph, edge, TRANSPOSITIONS)
    if not is_norm(norm) or len(graph.incoming[norm.id]) != 1:
        return ""
    before = past_layout(graph, graph.incoming[norm.id][0], TRANSPOSITIONS)
    return norm.id if is_linear_projection(before) else ""


def _origin(graph: Graph, edge: Edge, projects: bool) -> tuple[str, int]:
    """Return the value that queries, keys or values are projected from, in the attention or before.

    `projects` says whether the attention projects them itself.
    """
    if not projects and (behind := projection_behind(graph, edge)) is not None:
        edge = behind.source
    node = past_dropouts(graph, edge)
    return (edge.source, edge.output) if node is None or node.id == edge.source else (node.id, 0)


@remark_rule(
    "x + norm(x): {places:add} a tensor and its norm, with no sublayer between them. If a sublayer "
    "was meant, put it behind the norm: x + f(norm(x)).",
    _XIONG,
)
def norm_added_to_its_input(graph: Graph) -> Iterator[str]:
    """A merge adds a tensor and its own norm, with no sublayer between: x + norm(x)."""
    for node in graph.nodes:
        if is_additive_merge(node):
            ends = [(edge.source, edge.output) for edge in graph.incoming[node.id]]
            for edge in graph.incoming[node.id]:
                norm = graph.node(edge.source)
                given = [(e.source, e.output) for e in graph.incoming[norm.id]]
                if norm.is_a(_TOKEN_NORMS) and given and given[0] in ends:
                    yield node.id


@remark_rule(
    "Batch normalization right after dropout: {places:measure} the variance of features with "
    "dropout, which is larger than without, for inference too. Put the dropout behind the last "
    "batch normalization.",
    _LI,
)
def batch_norm_after_dropout(graph: Graph) -> list[tuple[str, str]]:
    """A batch normalization takes what a dropout returns."""
    return [
        (node.id, edge.source)
        for node in graph.of_class({"BatchNormalization"})
        for edge in graph.incoming[node.id][:1]
        if graph.node(edge.source).is_a({"Dropout"}) and graph.node(edge.source).config.get("rate")
    ]
