"""What is different between two graphs: calls, their configuration and shapes, and their wiring."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Literal

from plots.alignment import Alignment, align, is_counted, port_of
from plots.annotations import Quantity
from plots.configurations import changed_entries, value_text
from plots.graph import Constant, Edge, Graph, Node, Tensor
from plots.registry import list_plugins

Aspect = Literal["class", "config", "constant", "place", "trainable", "shape", "parameters"]
"""What of a call has changed; "place" is that of an input among the inputs."""

MODEL = ""
"""In the place of a call's id: what takes the outputs of the model."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing in which two calls differ.

    Attributes:
        aspect: What sort of thing.
        name: Which one: "units" of the configuration, "x2" of the constants, "output".
        old: What it was, in words.
        new: What it is, in words.
    """

    aspect: Aspect
    name: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class ChangedCall:
    """A call that is in both graphs and not the same.

    Attributes:
        before: Its id in the one graph.
        after: Its id in the other.
        changes: In what it differs.
    """

    before: str
    after: str
    changes: tuple[Change, ...]

    @property
    def is_reshaped(self) -> bool:
        """Whether it is set up as before, and differs only because what goes into it does."""
        return all(change.aspect in ("shape", "parameters") for change in self.changes)


@dataclass(frozen=True, slots=True)
class Move:
    """A call that is in both graphs, under another path or at another place.

    Attributes:
        before: Its id in the one graph.
        after: Its id in the other.
        renamed: Whether it has another path.
        displaced: Whether it lies elsewhere in the flow of data, as a norm that was before a
            sublayer and is behind it now.
    """

    before: str
    after: str
    renamed: bool
    displaced: bool


@dataclass(frozen=True, slots=True)
class Rewiring:
    """A call in both graphs that takes something else from what is in both graphs.

    Attributes:
        before: Id of the call in the one graph; `MODEL` for an output of the model.
        after: Its id in the other.
        old: What it took; None if nothing.
        new: What it takes instead; None if nothing.
    """

    before: str
    after: str
    old: Edge | None
    new: Edge | None


@dataclass(frozen=True, slots=True)
class TieChange:
    """Calls in both graphs that share their weights in one of the two only.

    Attributes:
        calls: Their ids in the graph in which they do.
        tied: Whether that is the second graph.
    """

    calls: tuple[str, ...]
    tied: bool


@dataclass(frozen=True)
class Difference:
    """What has become of one graph in another one.

    What follows from something else is said once: a call that takes from an added one is not
    rewired, and neither is one that a moved call no longer stands in front of.

    Attributes:
        before: The one graph.
        after: The other.
        pairs: (id before, id after) of the calls that are in both, in the order of `after`.
        added: Ids of the calls that are in `after` only.
        removed: Ids of the calls that are in `before` only.
        moved: Calls under another path or at another place.
        changed: Calls with another class, configuration, constants, shapes or number of weights.
        rewired: Calls that take something else.
        ties: Weights that are shared now, or no longer.
    """

    before: Graph
    after: Graph
    pairs: tuple[tuple[str, str], ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    moved: tuple[Move, ...]
    changed: tuple[ChangedCall, ...]
    rewired: tuple[Rewiring, ...]
    ties: tuple[TieChange, ...]

    @property
    def is_empty(self) -> bool:
        """Whether the graphs are the same, but for names that Keras counted up."""
        parts = (self.added, self.removed, self.moved, self.changed, self.rewired, self.ties)
        return not any(parts)

    @property
    def parameters(self) -> tuple[int, int]:
        """Number of weights before and after."""
        return self.before.parameters, self.after.parameters

    @cached_property
    def places(self) -> Mapping[str, tuple[int, int]]:
        """Where removed calls have been: id -> (index in `after` of the pair before it, index)."""
        back = dict(self.pairs)
        places, latest = {}, -1
        for number, node in enumerate(self.before.nodes):
            if node.id in back:
                latest = self.after.index[back[node.id]]
            else:
                places[node.id] = latest, number
        return places

    @cached_property
    def flops(self) -> tuple[Quantity, Quantity] | None:
        """Floating-point operations of both models; None without a plugin that counts them."""
        before, after = flops_of(self.before), flops_of(self.after)
        return None if before is None or after is None else (before, after)


def compare_graphs(before: Graph, after: Graph) -> Difference:
    """Find out what is different between two graphs.

    Calls are paired by `plots.alignment.align`. Weights are compared by their number, not by their
    values. Neither names that Keras counted up count, nor what a model is compiled with.

    Raises:
        ValueError: if a graph is folded, so that it does not show all of its calls.
    """
    for graph in (before, after):
        if graph.repeats or any(node.kind == "group" for node in graph.nodes):
            raise ValueError(
                f"the graph {graph.name!r} is folded: compare graphs as they were read, and fold "
                "what comes out"
            )
    alignment = align(before, after)
    partners = alignment.partners
    back = {theirs: mine for mine, theirs in partners.items()}
    pairs = tuple((back[node.id], node.id) for node in after.nodes if node.id in back)
    wiring = _Wiring(before, after, alignment)
    places = _places(before, partners), _places(after, back.keys())
    changed = (
        ChangedCall(mine, theirs, changes)
        for mine, theirs in pairs
        if (changes := (*_changes(before.node(mine), after.node(theirs), places),))
    )
    return Difference(
        before=before,
        after=after,
        pairs=pairs,
        added=tuple(node.id for node in after.nodes if node.id not in back),
        removed=tuple(node.id for node in before.nodes if node.id not in partners),
        moved=tuple(_moves(pairs, wiring.displaced)),
        changed=tuple(changed),
        rewired=tuple(wiring.rewired(pairs)),
        ties=tuple(_tie_changes(before, after, partners)),
    )


def flops_of(graph: Graph) -> Quantity | None:
    """Floating-point operations of a model, by the plugin "flops"; None if there is none."""
    plugin = list_plugins().get("flops")
    overlays = plugin(graph).overlays if plugin else ()
    return next((overlay.whole for overlay in overlays if overlay.name == "flops"), None)


def _moves(pairs: Iterable[tuple[str, str]], displaced: frozenset[str]) -> Iterator[Move]:
    for mine, theirs in pairs:
        renamed = mine != theirs and not (is_counted(mine) and is_counted(theirs))
        if renamed or mine in displaced:
            yield Move(mine, theirs, renamed, mine in displaced)


def _places(graph: Graph, paired: Iterable[str]) -> dict[str, int]:
    """Of the inputs that are in both graphs, which comes first, second, ..."""
    both = set(paired)
    return {node_id: place for place, node_id in enumerate(i for i in graph.inputs if i in both)}


def _changes(
    old: Node, new: Node, places: tuple[Mapping[str, int], Mapping[str, int]]
) -> Iterator[Change]:
    if old.class_name != new.class_name:
        yield Change("class", "class", old.class_name, new.class_name)
    entries = [*_config_changes(old, new)]
    yield from (change for change in entries if not _is_initial(change))
    constants = {c.port: c for c in old.constants}, {c.port: c for c in new.constants}
    for port in dict.fromkeys((*constants[0], *constants[1])):
        if old.class_name != new.class_name and not (port in constants[0] and port in constants[1]):
            continue  # the other class has no such argument
        if (was_it := constants[0].get(port)) != (is_it := constants[1].get(port)):
            yield Change("constant", port, _constant_text(was_it), _constant_text(is_it))
    if (was_at := places[0].get(old.id)) != (is_at := places[1].get(new.id)):
        yield Change("place", "place among the inputs", str(was_at), str(is_at))
    if old.trainable != new.trainable:
        yield Change("trainable", "trainable", str(old.trainable), str(new.trainable))
    if old.outputs != new.outputs:
        dtypes = [tensor.dtype for tensor in old.outputs] != [t.dtype for t in new.outputs]
        same = _common_start(old.outputs, new.outputs)
        texts = [_outputs_text(node.outputs, dtypes, same) for node in (old, new)]
        yield Change("shape", "output", *texts)
    if old.parameters != new.parameters and new.layer == new.id:  # once, not at every call
        yield Change("parameters", "parameters", f"{old.parameters:,}", f"{new.parameters:,}")
    yield from (change for change in entries if _is_initial(change))


def _config_changes(old: Node, new: Node) -> Iterator[Change]:
    """Changed entries of the configuration; of another class only those that both have."""
    for name, was, now in changed_entries(old.config, new.config):
        in_both = name in old.config and name in new.config
        if name != "trainable" and (old.class_name == new.class_name or in_both):
            yield Change("config", name, was, now)


def _is_initial(change: Change) -> bool:
    """Whether it changes no more than the weights that training starts from."""
    return change.name.endswith("_initializer")


def _constant_text(constant: Constant | None) -> str:
    if constant is None:
        return "nothing"
    if constant.value is not None or constant.shape is None:
        return value_text(constant.value)
    shape = ", ".join(str(size) for size in constant.shape)
    return f"{constant.dtype} ({shape}) {constant.pattern}".strip()


def _common_start(old: tuple[Tensor, ...], new: tuple[Tensor, ...]) -> int:
    """How many first axes need not be said, because they are the same before and after."""
    if len(old) != 1 or len(new) != 1 or len(old[0].shape) != len(new[0].shape):
        return 0
    pairs = zip(old[0].shape, new[0].shape, strict=True)
    same = next((axis for axis, (was, now) in enumerate(pairs) if was != now), 0)
    return same if same > 1 else 0


def _outputs_text(outputs: tuple[Tensor, ...], dtypes: bool, same: int) -> str:
    texts = []
    for tensor in outputs:
        sizes = ["..."] * bool(same) + [str(size) for size in tensor.shape[same:]]
        texts.append(f"({', '.join(sizes)})" + (f" {tensor.dtype}" if dtypes else ""))
    return ", ".join(texts)


def _tie_changes(before: Graph, after: Graph, partners: Mapping[str, str]) -> Iterator[TieChange]:
    """Calls that are in both graphs and share weights in one of them."""
    back = {theirs: mine for mine, theirs in partners.items()}
    old = {tuple(sorted(partners[i] for i in ids if i in partners)) for ids in before.ties.values()}
    new = {tuple(sorted(i for i in ids if i in back)) for ids in after.ties.values()}
    for calls in sorted(old - new):
        if len(calls) > 1:
            yield TieChange(tuple(back[i] for i in calls), tied=False)
    for calls in sorted(new - old):
        if len(calls) > 1:
            yield TieChange(calls, tied=True)


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a call takes at one port.

    `source` is the call that is in both graphs, by its id in `after`, that it comes from past calls
    that were added, removed or displaced; None if it comes from another sort of call.
    """

    edge: Edge
    source: str | None
    output: int
    directly: bool


class _Wiring:
    """Who takes what from whom, so that it can be compared."""

    def __init__(self, before: Graph, after: Graph, alignment: Alignment) -> None:
        self.graphs = before, after
        partners = alignment.partners
        self._names = partners, {theirs: theirs for theirs in partners.values()}
        self._partners = partners
        # An added or removed call on a line is no reason for others to be wired in another way.
        self._passed = tuple(
            {node.id for node in graph.nodes if node.id not in names and _on_a_line(graph, node)}
            for graph, names in zip(self.graphs, self._names, strict=True)
        )
        self.displaced = self._really_displaced(alignment.displaced)
        self._passed[0].update(self.displaced)
        self._passed[1].update(partners[mine] for mine in self.displaced)

    def rewired(self, pairs: Iterable[tuple[str, str]]) -> Iterator[Rewiring]:
        for mine, theirs in pairs:
            if mine not in self.displaced:
                old, new = self._taken(0, mine), self._taken(1, theirs)
                yield from self._differences(mine, theirs, old, new)
        old, new = self._given_out(0), self._given_out(1)
        yield from self._differences(MODEL, MODEL, old, new)

    def _really_displaced(self, candidates: frozenset[str]) -> frozenset[str]:
        """Those of the calls out of order that take from somewhere else, past each other.

        The order of two calls that do not depend on each other says nothing.
        """
        before, after = self.graphs
        moved = {
            mine
            for mine in candidates
            if _on_a_line(before, before.node(mine))
            and _on_a_line(after, after.node(self._partners[mine]))
        }
        while True:
            passed = (
                self._passed[0] | moved,
                self._passed[1] | {self._partners[mine] for mine in moved},
            )
            still = {
                mine
                for mine in moved
                if self._origin(0, mine, passed[0])
                != self._origin(1, self._partners[mine], passed[1])
            }
            if still == moved:
                return frozenset(moved)
            moved = still

    def _origin(self, side: int, node_id: str, passed: set[str]) -> tuple[str | None, int]:
        edge = _line_into(self.graphs[side], node_id)
        taken = self._follow(side, edge, passed)
        return taken.source, taken.output

    def _taken(self, side: int, node_id: str) -> dict[str, list[_Taken]]:
        """What a call takes: port -> what comes in there."""
        node = self.graphs[side].node(node_id)
        taken: dict[str, list[_Taken]] = {}
        for edge in self.graphs[side].incoming[node_id]:
            found = self._follow(side, edge, self._passed[side])
            taken.setdefault(port_of(edge, node), []).append(found)
        return taken

    def _given_out(self, side: int) -> dict[str, list[_Taken]]:
        """What the model gives out, as if it were taken by one more call."""
        graph = self.graphs[side]
        taken = {}
        for number, (node_id, output) in enumerate(graph.outputs):
            tensor = graph.node(node_id).outputs[output]
            edge = Edge(node_id, MODEL, f"output {number}", output, tensor)
            taken[edge.port] = [self._follow(side, edge, self._passed[side])]
        return taken

    def _follow(self, side: int, edge: Edge, passed: set[str]) -> _Taken:
        graph, names = self.graphs[side], self._names[side]
        start = edge
        while edge.source in passed:
            edge = _line_into(graph, edge.source)
        return _Taken(start, names.get(edge.source), edge.output, start.source in names)

    def _differences(
        self,
        mine: str,
        theirs: str,
        old: dict[str, list[_Taken]],
        new: dict[str, list[_Taken]],
    ) -> Iterator[Rewiring]:
        if mine != MODEL:
            before, after = self.graphs[0].node(mine), self.graphs[1].node(theirs)
            if before.class_name != after.class_name:  # other classes name other ports
                old, new = _in_one(old), _in_one(new)
        for port in dict.fromkeys((*old, *new)):
            was, now = _without_common(old.get(port, []), new.get(port, []))
            for left, right in zip_longest(was, now):
                if _is_of_its_own(left, right):
                    yield Rewiring(
                        mine, theirs, left.edge if left else None, right.edge if right else None
                    )


def _in_one(taken: dict[str, list[_Taken]]) -> dict[str, list[_Taken]]:
    return {"": [one for of_port in taken.values() for one in of_port]}


def _without_common(old: list[_Taken], new: list[_Taken]) -> tuple[list[_Taken], list[_Taken]]:
    """Both without what is in both."""
    left, right = [], list(new)
    for one in old:
        same = (o for o in right if o.source is not None)
        twin = next((o for o in same if (o.source, o.output) == (one.source, one.output)), None)
        if twin is None:
            left.append(one)
        else:
            right.remove(twin)
    return left, right


def _is_of_its_own(old: _Taken | None, new: _Taken | None) -> bool:
    """Whether the difference does not follow from a call that was added or removed."""
    if old is None or new is None:
        there = old or new
        return there is not None and there.directly
    return old.source is not None and new.source is not None


def _on_a_line(graph: Graph, node: Node) -> bool:
    """Whether the call has one input only, so that values flow through it as along a line."""
    return len({(e.source, e.output) for e in graph.incoming[node.id] if not e.implicit}) == 1


def _line_into(graph: Graph, node_id: str) -> Edge:
    return next(edge for edge in graph.incoming[node_id] if not edge.implicit)
