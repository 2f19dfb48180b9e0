"""What a call takes, in words: names as short as they can be, seen from the box of the call."""

from __future__ import annotations

from plots.graph import Constant, Edge, Graph, Node
from plots.hierarchy import boxes


class References:
    """Names of calls as seen from the boxes of a graph, as names are looked up in programs.

    From within `decoder.block_0.feedforward`, its own norm is "norm", that of the attention next to
    it "self_attention.norm", and the final one of the stack "final_norm".
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.boxes = boxes(graph)
        ids = set(graph.index)
        # A group has the name of its box, unless a call is named like that.
        self._shown = {
            node.id: node.name if node.kind == "group" and node.name not in ids else node.id
            for node in graph.nodes
        }
        self._names = set(self._shown.values())

    def in_its_box(self, node: Node) -> str:
        """The name of a call within the box that it lies in."""
        box = self.boxes[node.id]
        return self._shown[node.id].removeprefix(f"{box}." if box else "")

    def seen_from(self, box: str, node_id: str) -> str:
        """The shortest name that means this call if looked up in `box` and outwards from there."""
        full = self._shown.get(node_id, node_id)
        parts = full.split(".")
        for start in range(len(parts) - 1, 0, -1):
            name = ".".join(parts[start:])
            if self._looked_up(box, name) == full:
                return name
        return full

    def output(self, node_id: str, output: int, box: str = "") -> str:
        """One output of a call: its name, with a number if the call has several."""
        name = self.seen_from(box, node_id)
        return name if len(self.graph.node(node_id).outputs) == 1 else f"{name}[{output}]"

    def takes(self, node: Node) -> list[str]:
        """The arguments of a call: "norm", "mask=causal_mask", "x2=0.5"."""
        edges = self.graph.incoming[node.id]
        alone = len(edges) == 1 and not edges[0].implicit
        given = [self._argument(edge, named=not alone) for edge in edges]
        given += [f"{c.port}={constant_text(c)}" for c in node.constants if c.port != "training"]
        if node.layer != node.id and node.parameters:
            given.append(f"the weights of {self.seen_from(self.boxes[node.id], node.layer)}")
        return given

    def _argument(self, edge: Edge, named: bool) -> str:
        said = self.output(edge.source, edge.output, self.boxes[edge.target])
        for overlay in self.graph.overlays:
            if edge.id in overlay.values:
                said += f" ({overlay.title} {overlay.text(edge.id)})"
        if edge.implicit:
            return f"{edge.port}={said} (implicit)"
        # The arguments of a group are those of many calls; a list's have numbers, not names.
        is_group = self.graph.node(edge.target).kind == "group"
        numbered = edge.port.rpartition(".")[2].isdigit()
        tells = named and not is_group and not numbered and edge.port != said.rpartition(".")[2]
        return f"{edge.port}={said}" if tells else said

    def _looked_up(self, box: str, name: str) -> str | None:
        while True:
            candidate = f"{box}.{name}" if box else name
            if candidate in self._names:
                return candidate
            if not box:
                return None
            box = box.rpartition(".")[0]


def constant_text(constant: Constant) -> str:
    """An argument that is not computed: "2.0", or of an array "float32 (5, 3), zeros"."""
    if constant.shape is None or constant.value is not None:
        return repr(constant.value)
    return f"{constant.dtype} {constant.shape}" + (f", {constant.pattern}" * bool(constant.pattern))
