"""Rules on recurrent layers: reversed outputs, last steps, and states that know the future."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from plots.annotations import Note
from plots.diagnosis.closed import is_closed
from plots.diagnosis.projections import past_dropouts
from plots.diagnosis.rules import diagnosis_rule, doing, finding, finding_rule, remark_rule
from plots.graph import Edge, Graph, Node
from plots.layers import RECURRENT, is_identity_like, is_signed_merge
from plots.traversal import data_flow

_BACKWARDS = "Keras API, go_backwards of keras.layers.RNN; github.com/keras-team/keras/issues/1431"
_SCHUSTER = "Schuster and Paliwal 1997, Bidirectional Recurrent Neural Networks, section III"
_STATES = "Keras API, return_state and initial_state of keras.layers.LSTM"
_IRNN = (
    "Keras API, keras.layers.LSTM, conditions of the cuDNN kernel; Le et al. 2015, A Simple Way to "
    "Initialize Recurrent Networks of Rectified Linear Units, section 2"
)
_GATED = frozenset({"GRU", "LSTM"})
_SUTSKEVER = "Sutskever et al. 2014, Sequence to Sequence Learning with Neural Networks, section 2"


@finding_rule(
    "Steps in two orders: {places:join} the outputs of a recurrent layer that goes backwards, "
    "whose first step is the last one of the sequence, with steps in the right order. Turn them "
    "back first: ops.flip(y, axis=1), or take keras.layers.Bidirectional.",
    _BACKWARDS,
)
def steps_in_two_orders(graph: Graph) -> Iterator[str]:
    """The outputs of a layer that goes backwards are joined with others step by step."""
    is_reversed: dict[str, bool | None] = {}
    for node in graph.nodes:
        given = {is_reversed[edge.source] for edge in graph.incoming[node.id] if not edge.implicit}
        orders = given - {None}
        if len(orders) == 2 and _joins_steps(node):
            yield node.id
        own = orders.pop() if len(orders) == 1 else None
        if node.kind == "input":
            own = False
        elif node.is_a({"Lambda"}) or is_closed(node):
            own = None
        elif len(node.outputs[0].shape) < 3:
            own = False if _is_ids(node) else None
        elif own is not None and _turns_steps(node):
            own = not own
        is_reversed[node.id] = own


def _is_ids(node: Node) -> bool:
    return "float" not in node.outputs[0].dtype


def _turns_steps(node: Node) -> bool:
    """Return whether a call returns the steps of a sequence in the opposite order."""
    if node.is_a(RECURRENT):
        return bool(node.config.get("go_backwards"))
    if node.operation == "Flip":
        axis = node.config.get("axis")
        return axis in (1, [1], 1 - len(node.outputs[0].shape))
    keys = {constant.port: str(constant.value) for constant in node.constants}
    return node.operation == "GetItem" and keys.get("key.1") == "::-1"


def _joins_steps(node: Node) -> bool:
    rank = len(node.outputs[0].shape)
    is_join = node.is_a({"Concatenate"}) and node.config.get("axis", -1) in (-1, rank - 1)
    return rank > 2 and (is_join or is_signed_merge(node) or node.is_a({"Multiply", "Maximum"}))


@finding_rule(
    "The last step of two directions: {places:take} the last step of {others}, at which the "
    "backward layer has read one step only. Leave return_sequences out: Bidirectional then joins "
    "the last output of each direction.",
    _SCHUSTER,
)
def last_step_of_both_directions(graph: Graph) -> Iterator[tuple[str, str]]:
    """The last step is taken of the outputs of a bidirectional layer."""
    for node in graph.of_operation("GetItem"):
        if step_of(node) == -1 and graph.incoming[node.id]:
            edge = graph.incoming[node.id][0]
            before = past_dropouts(graph, edge)
            others = {step_of(graph.node(other.target)) for other in graph.outgoing[edge.source]}
            if before is not None and before.is_a({"Bidirectional"}) and 0 not in others:
                yield node.id, before.id


@finding_rule(
    "The first step alone: {places:take} the first step of {others}, at which the layer has read "
    "one step only, and nothing takes the others. The last one, y[:, -1], has read all: leave "
    "return_sequences out.",
    _SUTSKEVER,
)
def first_step(graph: Graph) -> Iterator[tuple[str, str]]:
    """Of the outputs of a layer that goes forwards, only the first step is taken."""
    for node in graph.of_operation("GetItem"):
        if step_of(node) == 0 and graph.incoming[node.id]:
            edge = graph.incoming[node.id][0]
            before = past_dropouts(graph, edge, only=True)
            if before is not None and before.is_a(RECURRENT) and not _turns_steps(before):
                yield node.id, before.id


@remark_rule(
    "A state without bounds: {places:multiply} what a ReLU let through by the weights of the state "
    "at every step, so that it may overflow or vanish over many steps, and no fast kernel of a GPU "
    "takes it. Leave activation at tanh, or begin with an identity, as Le et al. do.",
    _IRNN,
)
def recurrent_relu(graph: Graph) -> Iterator[str]:
    """A gated recurrent layer has a ReLU in the place of tanh."""
    for node in graph.nodes:
        inner = node.config.get("layer")
        config = inner.get("config", {}) if isinstance(inner, Mapping) else node.config
        is_gated = node.is_a(_GATED) or (
            isinstance(inner, Mapping) and inner.get("class_name") in _GATED
        )
        if is_gated and config.get("activation") in ("relu", "leaky_relu", "elu"):
            yield node.id


@diagnosis_rule("states_swapped")
def states_swapped(graph: Graph) -> Iterator[Note]:
    """An LSTM begins with the cell state of another one as its output, and the other way round."""
    places: dict[bool, list[str]] = {}
    for node in graph.nodes:
        begins = [e for e in graph.incoming[node.id] if e.port.startswith("initial_state")]
        inner = node.config.get("layer")
        is_lstm = node.is_a({"LSTM"}) or str(inner).find("'LSTM'") > 0
        if not is_lstm or len(begins) < 2:
            continue
        given = [_states_in(graph, edge) for edge in begins]
        wanted = [{"h"} if number % 2 == 0 else {"c"} for number in range(len(given))]
        if all(own and own != right for own, right in zip(given, wanted, strict=True)):
            places.setdefault(all(len(own) == 1 for own in given), []).append(node.id)
    for is_swapped, ids in places.items():
        how = "in the other order" if is_swapped else "mixed in each of the two"
        yield finding(
            ids,
            f"States in the wrong order: {doing(graph, ids, 'begin')} with outputs and cell states "
            f"of another layer {how}. An LSTM takes initial_state=[h, c]. It returns y, h, c, and "
            "Bidirectional returns y, h, c of the forward layer, h, c of the backward one: join "
            "h with h, and c with c.",
            _STATES,
        )


@remark_rule(
    "One state for both: {places:begin} with the same state of {others} as its output and as its "
    "cell state. An LSTM returns y, h, c with return_state=True: take initial_state=[h, c].",
    _STATES,
)
def one_state_for_both(graph: Graph) -> Iterator[tuple[str, str]]:
    """An LSTM begins with one of the two states of another one as both of its states."""
    for node in graph.of_class({"LSTM"}):
        begins = [e for e in graph.incoming[node.id] if e.port.startswith("initial_state")]
        values = {(edge.source, edge.output) for edge in begins}
        is_one = len(begins) == 2 and len(values) == 1
        if is_one and _states_in(graph, begins[0]) in ({"h"}, {"c"}):
            yield node.id, begins[0].source


def _states_in(graph: Graph, edge: Edge) -> set[str]:
    """Return what a state is made of without weights: "h" and "c" of LSTMs; {} if unknown."""
    node = graph.node(edge.source)
    inner = str(node.config.get("layer")) if node.is_a({"Bidirectional"}) else ""
    if (node.is_a({"LSTM"}) or "'LSTM'" in inner) and edge.output:
        return {"h" if edge.output % 2 else "c"}
    edges = graph.incoming[node.id]
    is_passed = node.is_a({"Concatenate"}) or is_signed_merge(node) or is_identity_like(node)
    if not is_passed or not edges:
        return set()
    found = [_states_in(graph, before) for before in edges]
    return set[str]().union(*found) if all(found) else set()


def step_of(node: Node) -> object:
    """Return which step of a sequence a call takes with all features; None if it takes others."""
    keys = {constant.port: constant.value for constant in node.constants}
    is_whole = keys.get("key.2", ":") in (":", "...")
    return keys.get("key.1") if node.operation == "GetItem" and is_whole else None


@finding_rule(
    "A state that knows the future: {places:begin} with a summary of the sequence that it reads, "
    "so that each of its steps depends on all later ones, which the decoder is trained to predict. "
    "Begin with the state of the encoder of the other sequence.",
    _SUTSKEVER,
)
def state_of_the_same_sequence(graph: Graph) -> Iterator[str]:
    """A recurrent decoder begins with a summary of the sequence that it reads."""
    flow = data_flow(graph)
    tables = graph.of_class({"Embedding"})
    sizes = {table.config.get("input_dim") for table in tables}
    shapes = {i: graph.node(i).outputs[output].shape for i, output in graph.outputs}
    decodes = [i for i, shape in shapes.items() if len(shape) == 3 and shape[-1] in sizes]
    for node in graph.nodes if len(graph.inputs) > 1 else ():
        read = [e.source for e in graph.incoming[node.id] if not e.port.startswith("initial_state")]
        states = [e.source for e in graph.incoming[node.id] if e.port.startswith("initial_state")]
        if not node.is_a(RECURRENT) or not states or not read:
            continue
        own = {i for i in graph.inputs if any(flow.depends(source, on=i) for source in read)}
        begins = {i for i in graph.inputs if any(flow.depends(state, on=i) for state in states)}
        if own and own == begins and any(flow.depends(end, on=node.id) for end in decodes):
            yield node.id
