"""Rules on sums and residual branches: x + x, blocks without their addition, dropouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from plots.annotations import Note, SkipPath, shape_text
from plots.diagnosis.activations import CLIPPED, activation_of
from plots.diagnosis.axis_origins import axis_origins, sources
from plots.diagnosis.projections import past_dropouts
from plots.diagnosis.rules import (
    diagnosis_rule,
    doing,
    finding,
    finding_rule,
    named,
    remark,
    remark_rule,
)
from plots.graph import Edge, Graph, Node
from plots.layers import (
    CONVOLUTIONS,
    DROPOUTS,
    LINEAR_PROJECTIONS,
    RECURRENT,
    is_additive_merge,
    is_attention,
    is_crop,
    is_identity_like,
    is_norm,
    is_signed_merge,
    is_subtraction,
    merge_sign,
)
from plots.streams import residual_streams
from plots.traversal import data_flow, once_per_graph, walk_back

_RESIDUAL = "He et al. 2016, Deep Residual Learning for Image Recognition, section 3"
_IDENTITY = "He et al. 2016, Identity Mappings in Deep Residual Networks, section 4.1"
_HIGHWAY = "Srivastava et al. 2015, Highway Networks, section 2"
_GLU = "Dauphin et al. 2017, Language Modeling with Gated Convolutional Networks, section 3"
_U_NET = "Ronneberger et al. 2015, U-Net, section 2"
_DROPOUT = "Srivastava et al. 2014, Dropout, section 4; keras.io/api/layers/regularization_layers"
_DROPPED = "Vaswani et al. 2017, Attention Is All You Need, section 5.4"
_MOST_DROPPED = 0.8


@diagnosis_rule("added_twice")
def added_twice(graph: Graph) -> Iterator[Note]:
    """A sum has the same tensor twice."""
    places: dict[bool, list[str]] = {}
    for node in graph.nodes:
        if is_signed_merge(node) and merge_sign(node):
            terms = Counter(terms_of(graph, node))
            if terms and max(terms.values()) > 1:
                places.setdefault(len(terms) > 1, []).append(node.id)
    for has_others, ids in places.items():
        merges = [graph.node(node_id) for node_id in ids]
        terms = Counter(terms_of(graph, merges[0]))
        twice = [source for (source, _), times in terms.items() if times > 1]
        if has_others:
            text = (
                f"A shortcut added twice: the sum at {named(graph, ids)} has "
                f"{named(graph, twice)} {max(terms.values())} times. Add it once: x + f(x)."
            )
        else:
            verb = "subtract" if is_subtraction(merges[0]) else "add"
            text = (
                f"A tensor added to itself: {doing(graph, ids, verb)} {named(graph, twice)} "
                f"{'from' if is_subtraction(merges[0]) else 'to'} itself, so what should have been "
                "the other input is lost. Merge the input of a sublayer and its output: x + f(x)."
            )
        yield finding([*ids, *twice], text, _RESIDUAL)


@finding_rule(
    "A tensor joined with itself: {places:concatenate} {others} with the same tensor, so that what "
    "should have been the other input, such as a skip path, is lost.",
    _U_NET,
)
def joined_with_itself(graph: Graph) -> Iterator[tuple[str, str]]:
    """Features are concatenated with themselves, and a layer with weights takes them."""
    flow = data_flow(graph)
    for node in graph.of_class({"Concatenate"}):
        rank = len(node.outputs[0].shape)
        is_join = node.config.get("axis", -1) in (-1, rank - 1)
        edges = [edge for edge in graph.incoming[node.id] if not edge.implicit]
        parts = {_part_of(graph, (edge.source, edge.output)) for edge in edges}
        if not is_join or len(parts) == len(edges) or any(c.shape for c in node.constants):
            continue
        source = _repeated(graph, node)
        before = [graph.node(i) for i in (source, *flow.ancestors(source))]
        takers = _takers_past_norms(graph, node)
        is_hidden = any(n.parameters for n in before) and flow.depends_on_input(source)
        if is_hidden and takers and all(map(_has_use_for_more, takers)):
            yield node.id, source


@diagnosis_rule("joined_along_positions")
def joined_along_positions(graph: Graph) -> Iterator[Note]:
    """Feature maps of one image, or outputs of one sequence, are joined along their positions."""
    places: dict[str, bool] = {}
    for node in graph.of_class({"Concatenate"}):
        edges = [edge for edge in graph.incoming[node.id] if not edge.implicit]
        shapes, rank = [edge.tensor.shape for edge in edges], len(node.outputs[0].shape)
        axis = node.config.get("axis", -1)
        is_same = len(edges) > 1 and len({*shapes}) == 1 and rank > 2 and isinstance(axis, int)
        if not is_same or not 0 < axis % rank < rank - 1:
            continue
        joined = [axis_origins(graph)[edge.source, edge.output][axis % rank] for edge in edges]
        takers = [graph.node(edge.target) for edge in graph.outgoing[node.id]]
        is_image = rank == 4 and all(taker.is_a({"Conv2D", "Conv2DTranspose"}) for taker in takers)
        is_computed = all(graph.node(edge.source).kind != "input" for edge in edges)
        if is_image and takers and is_computed and _is_channels_last(takers):
            places[node.id] = True
        elif rank == 3 and sources(joined[0]) and len({sources(own) for own in joined}) == 1:
            places.setdefault(node.id, False)
    for is_image in {*places.values()}:
        ids = [place for place, own in places.items() if own == is_image]
        shape = shape_text(graph.node(ids[0]).outputs[0].shape)
        yield (finding if is_image else remark)(
            ids,
            f"Joined along positions: {doing(graph, ids, 'concatenate')} "
            + (
                f"feature maps along their rows or columns, to {shape}, and a convolution that "
                "takes channels last sees one larger image. Features are the last axis: axis=-1."
                if is_image
                else f"vectors of the same positions one after the other, to {shape}, so that each "
                "position comes twice. To join their features, take axis=-1."
            ),
            _U_NET,
        )


def _is_channels_last(takers: Iterable[Node]) -> bool:
    return all(taker.config.get("data_format") == "channels_last" for taker in takers)


@finding_rule(
    "One gate for both: {places:add} two products with the same gate, {others}, which is the gate "
    "times the sum of both. To choose between them, multiply one by 1 - gate.",
    _HIGHWAY,
)
def one_gate_for_both(graph: Graph) -> Iterator[tuple[str, str]]:
    """A sum of two products has the same sigmoid in both, and not 1 minus it in one."""
    for node in graph.nodes:
        terms = [graph.node(edge.source) for edge in graph.incoming[node.id]]
        if not is_additive_merge(node) or len(terms) != 2:
            continue
        if not all(term.is_a({"Multiply"}) and not term.constants for term in terms):
            continue
        first, second = ({(e.source, e.output) for e in graph.incoming[t.id]} for t in terms)
        shared = [i for i, _ in first & second if activation_of(graph.node(i)) == "sigmoid"]
        if shared and terms[0].id != terms[1].id:
            yield node.id, shared[0]


def _part_of(graph: Graph, place: tuple[str, int]) -> tuple[str, ...]:
    """Return what tells a tensor from others: its place, or which part it is of another one."""
    node = graph.node(place[0])
    if is_crop(node) and len(graph.incoming[node.id]) == 1:
        edge = graph.incoming[node.id][0]
        return (
            edge.source,
            str(edge.output),
            node.class_name,
            repr(node.config),
            repr(node.constants),
        )
    return place[0], str(place[1])


def _repeated(graph: Graph, join: Node) -> str:
    """Return the first call whose output a call joins that it has joined before."""
    seen = set[tuple[str, ...]]()
    for edge in graph.incoming[join.id]:
        part = _part_of(graph, (edge.source, edge.output))
        if part in seen and not edge.implicit:
            return edge.source
        seen.add(part)
    return join.id


def _takers_past_norms(graph: Graph, node: Node) -> list[Node]:
    """Return the calls that take the output of a call, or its norm."""
    found: list[Node] = []
    for taker in dict.fromkeys(
        edge.target for edge in graph.outgoing[node.id] if not edge.implicit
    ):
        call = graph.node(taker)
        found += _takers_past_norms(graph, call) if is_norm(call) else [call]
    return found


def _has_use_for_more(node: Node) -> bool:
    """Return whether a call combines features, so that the same ones twice add nothing."""
    return is_attention(node) or node.is_a(LINEAR_PROJECTIONS | RECURRENT)


def terms_of(graph: Graph, merge: Node) -> Iterator[tuple[str, int]]:
    """Yield the values that a merge adds up, past dropouts and sums that nothing else takes."""
    for edge in graph.incoming[merge.id]:
        if edge.implicit:
            continue
        node = past_dropouts(graph, edge)
        if node is None:
            continue
        is_sum = is_additive_merge(node) and merge_sign(node) and is_additive_merge(merge)
        if is_sum and past_dropouts(graph, edge, only=True) is not None:
            yield from terms_of(graph, node)
        else:
            yield node.id, edge.output if node.id == edge.source else 0


def sums_of_two(graph: Graph) -> Iterator[tuple[Node, list[Edge]]]:
    """Yield the calls that add two tensors and nothing else, and the edges of these tensors."""
    for node in graph.nodes:
        edges = [edge for edge in graph.incoming[node.id] if not edge.implicit]
        if is_additive_merge(node) and len(edges) == 2 and not node.constants:
            yield node, edges


def projected_tensor(graph: Graph, node: Node) -> tuple[str, int] | None:
    """Return the tensor that a projection takes, also before an activation; None if there is none.

    Its id and output.
    """
    edges = graph.incoming[node.id]
    if not node.is_a(LINEAR_PROJECTIONS | CONVOLUTIONS) and len(edges) == 1:
        node = graph.node(edges[0].source)
        edges = graph.incoming[node.id]
    is_projection = node.is_a(LINEAR_PROJECTIONS | CONVOLUTIONS)
    return (edges[0].source, edges[0].output) if is_projection and edges else None


@diagnosis_rule("relu_after_one_addition")
def relu_after_one_addition(graph: Graph) -> Iterator[Note]:
    """One block of several has a ReLU after its addition, on the skip path of the next ones."""
    merges: dict[object, dict[str, str]] = {}
    begins_with_norm = {path.target for path in graph.skip_paths if path.placement == "pre"}
    for path in graph.skip_paths:
        if is_additive_merge(graph.node(path.target)) and not path.gated:
            takers = [graph.node(edge.target) for edge in graph.outgoing[path.target]]
            is_clipped = len(takers) == 1 and activation_of(takers[0]) in CLIPPED
            is_alone = is_clipped and takers[0].operation not in LINEAR_PROJECTIONS
            shape = graph.node(path.target).outputs[0].shape
            merges.setdefault(shape, {})[path.target] = takers[0].id if is_alone else ""
    for own in merges.values():
        *before_the_last, last = sorted(own, key=graph.index.__getitem__)
        clipped = [merge for merge in before_the_last if own[merge]]
        # Blocks that begin with their activation may have one after the last addition.
        judged = own if not own[last] else before_the_last
        least = 3 if begins_with_norm.isdisjoint(own) else 2
        if len(clipped) == 1 and len(judged) >= least:
            but = ", but for the last" if own[last] else ""
            yield finding(
                [*clipped, own[clipped[0]]],
                f"A ReLU after one of {len(own)} additions{but}: "
                f"{named(graph, [own[clipped[0]]])} sets the negative "
                f"numbers of {named(graph, clipped)} to 0, also on the skip path of "
                "the next block, and the other blocks have none. Blocks that begin with their "
                "norm and activation have none after the addition.",
                _IDENTITY,
            )


@remark_rule(
    "A residual branch that ends with a ReLU: {places:return} no negative numbers, so the branch "
    "can only add to the stream, which grows with the depth. Put the ReLU before the last layer of "
    "the branch, or after the merge.",
    _IDENTITY,
)
def branch_ends_with_relu(graph: Graph) -> Iterator[str]:
    """The branches of residual blocks end with a ReLU, so that they can only add."""
    for path in graph.skip_paths:
        ends = [e for e in graph.incoming[path.target] if e.source in path.bypassed]
        for edge in ends if is_additive_merge(graph.node(path.target)) else ():
            last = past_dropouts(graph, edge)
            if last is not None and activation_of(last) in ("relu", "relu6"):
                yield last.id


# Siblings ---------------------------------------------------------------------------------------


@diagnosis_rule("block_without_its_addition")
def block_without_its_addition(graph: Graph) -> Iterator[Note]:
    """Calls in series that equal the branches of residual blocks beside them, without a merge."""
    for calls, number in blocks_without_their_addition(graph):
        yield finding(
            calls,
            f"No skip path leads past {named(graph, calls)}, although {number} equal blocks beside "
            "have one. Add the input of the block to its output.",
            _RESIDUAL,
        )


@once_per_graph
def blocks_without_their_addition(graph: Graph) -> list[tuple[list[str], int]]:
    """Return the calls of blocks without a merge, and the number of equal ones that have one."""
    bypassed = {node_id for path in graph.skip_paths for node_id in path.bypassed}
    merges = {path.target for path in graph.skip_paths}
    starts = {path.source for path in graph.skip_paths}
    branches: dict[tuple[str, ...], list[SkipPath]] = {}
    for path in graph.skip_paths:
        branches.setdefault(tuple(kind_of(graph.node(i)) for i in path.bypassed), []).append(path)
    found = []
    for kinds_, paths in branches.items():
        if len(paths) < 2 or not _is_block(graph, paths[0]):
            continue
        lacking = []
        for node in graph.nodes:
            chain = _chain(graph, node, kinds_) if node.id not in bypassed else []
            if not chain or not bypassed.isdisjoint(chain):
                continue
            before, after = graph.incoming[chain[0]][0], graph.node(chain[-1]).outputs[0]
            is_beside = _behind(graph, before, merges) or _ahead(graph, chain[-1], starts)
            takers = (graph.node(edge.target) for edge in graph.outgoing[chain[-1]])
            is_merged = any(taker.is_a({"Multiply", "Concatenate"}) for taker in takers)
            if before.tensor.shape == after.shape and is_beside and not is_merged:
                lacking.append(chain)
        if 0 < len(lacking) < len(paths):
            found.append(([node_id for chain in lacking for node_id in chain], len(paths)))
    return found


def _is_block(graph: Graph, path: SkipPath) -> bool:
    """Return whether a branch is more than a part of others: convolutions, or a norm and layers."""
    calls = [graph.node(node_id) for node_id in path.bypassed]
    convolutions = sum("Conv" in call.class_name for call in calls)
    layers = sum(call.is_a(LINEAR_PROJECTIONS) for call in calls)
    return convolutions > 1 or (layers > 1 and any(map(is_norm, calls)))


def kind_of(node: Node) -> str:
    """Return the class, activation and sizes of a call, which equal blocks have in common."""
    sizes = [node.config.get(key, "") for key in ("kernel_size", "units", "filters")]
    return f"{node.class_name} {node.activation or ''} {sizes}"


def _chain(graph: Graph, node: Node, kinds_: tuple[str, ...]) -> list[str]:
    """Return the calls in series from `node` on, if they are of these kinds; [] if not."""
    chain: list[str] = []
    for number, kind in enumerate(kinds_):
        if kind_of(node) != kind or len(graph.incoming[node.id]) != 1:
            return []
        chain.append(node.id)
        takers = {edge.target for edge in graph.outgoing[node.id]}
        if number + 1 < len(kinds_):
            if len(takers) != 1:
                return []
            node = graph.node(takers.pop())
    return chain


def _behind(graph: Graph, edge: Edge, merges: set[str]) -> bool:
    """Return whether a tensor is the sum at one of some merges, up to an activation or norm."""
    start = graph.node(edge.source)
    end = walk_back(graph, start, lambda n: n.id not in merges and _is_between_blocks(n))
    return end.id in merges


def _ahead(graph: Graph, node_id: str, starts: set[str]) -> bool:
    """Return whether the output of a call goes to the start of a skip path, up to an activation."""
    for _ in graph.nodes:
        if node_id in starts:
            return True
        takers = {edge.target for edge in graph.outgoing[node_id]}
        if len(takers) != 1 or not _is_between_blocks(graph.node(min(takers))):
            return False
        node_id = takers.pop()
    return False


def _is_between_blocks(node: Node) -> bool:
    is_activation = bool(activation_of(node)) and not node.is_a(LINEAR_PROJECTIONS)
    return is_identity_like(node) or is_norm(node) or is_activation


# Dropouts ---------------------------------------------------------------------------------------


@diagnosis_rule("dropout_rate")
def dropout_rate(graph: Graph) -> Iterator[Note]:
    """A dropout leaves out most of its input."""
    places = [
        node.id
        for node in graph.of_class(DROPOUTS)
        if (node.config.get("rate") or 0) >= _MOST_DROPPED
    ]
    if places:
        rate = max(graph.node(place).config["rate"] for place in places)
        yield (finding if rate >= 1 else remark)(
            places,
            f"A dropout of {rate:g}: {doing(graph, places, 'set')} {100 * rate:.0f} % of its input "
            f"to 0 in training. In Keras the rate is the share that is dropped, not kept: "
            f"{1 - rate:.2g} if {rate:g} was to be kept.",
            _DROPOUT,
        )


@remark_rule(
    "Called with training=True: {places}. `predict`, `evaluate` and model(x, training=False) "
    "replace it, so that dropouts drop nothing and batch norms take their averages there; in "
    "model(x) it makes the output random, or dependent on the other samples of the batch. Leave it "
    "out, or call model(x, training=True).",
    "Keras guide, https://keras.io/guides/transfer_learning, on the argument training",
)
def always_training(graph: Graph) -> list[str]:
    """A dropout or batch norm is called with training=True in a Functional model."""
    return [
        node.id
        for node in graph.of_class(DROPOUTS | {"BatchNormalization"})
        if any(c.port == "training" and c.value is True for c in node.constants)
    ]


@diagnosis_rule("dropout_on_the_stream")
def dropout_on_the_stream(graph: Graph) -> Iterator[Note]:
    """A dropout between two sublayers of a residual stream, not on a branch."""
    for stream in residual_streams(graph):
        merges = {path.target for path in stream.paths}
        places: dict[str, None] = {}
        for path in stream.paths if stream.has_token_norms(graph) else ():
            passed = [*path.through, path.source]
            while passed[-1] not in merges and len(graph.incoming[passed[-1]]) == 1:
                node = graph.node(passed[-1])
                if not (is_identity_like(node) or is_norm(node)):
                    break
                passed.append(graph.incoming[node.id][0].source)
            if passed[-1] in merges:
                places |= {
                    node_id: None
                    for node_id in passed
                    if graph.node(node_id).is_a(DROPOUTS) and graph.node(node_id).config.get("rate")
                }
        if places:
            yield remark(
                places,
                f"A dropout on the residual stream: {doing(graph, [*places], 'lie')} between two "
                "sublayers, so what it drops is lost to all later ones. Dropouts usually come "
                "last on a branch, before the merge: x + dropout(f(x)).",
                _DROPPED,
            )
