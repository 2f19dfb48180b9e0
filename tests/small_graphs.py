"""Small graphs without Keras: stacks of blocks, and random graphs."""

from hypothesis import settings
from hypothesis import strategies as st

from plots.graph import Edge, Graph, Node, Tensor

WIDTH = 7

few = settings(max_examples=30)


def made(*calls, outputs=None, name="made"):
    """Return a graph of calls, given as (id, class, ids of sources, configuration)."""
    nodes, edges, width = [], [], {}
    for node_id, class_name, sources, *config in calls:
        config = config[0] if config else {}
        taken = width[sources[0]] if sources else WIDTH
        width[node_id] = config.get("units", taken)
        weights = (taken + 1) * width[node_id] if class_name == "Dense" else 0
        nodes.append(
            Node(
                id=node_id,
                name=node_id.partition("#")[0],
                kind="input" if class_name == "InputLayer" else "layer",
                class_name=class_name,
                bases=(),
                namespace=node_id.rpartition(".")[0],
                layer=node_id.partition("@")[0],
                outputs=(Tensor((None, width[node_id]), "float32"),),
                parameters=weights,
                trainable_parameters=weights,
                trainable=True,
                config=config,
            )
        )
        for number, source in enumerate(sources):
            tensor = Tensor((None, width[source]), "float32")
            edges.append(Edge(source, node_id, f"inputs.{number}", 0, tensor))
    outputs = (nodes[-1].id,) if outputs is None else outputs
    return Graph(
        name=name,
        nodes=tuple(nodes),
        edges=tuple(edges),
        inputs=tuple(node.id for node in nodes if node.kind == "input"),
        outputs=tuple((node_id, 0) for node_id in outputs),
        parameters=sum(node.parameters for node in nodes if node.layer == node.id),
        trainable_parameters=0,
    )


def feedforward(name, source, units=11, norm="pre", residual=True):
    """Return the calls of a block around a Dense of `units`; the last one is its output."""
    x = source
    calls = []
    if norm == "pre":
        calls.append((f"{name}.norm", "LayerNormalization", [x]))
        x = calls[-1][0]
    calls.append((f"{name}.up", "Dense", [x], {"units": units, "activation": "relu"}))
    calls.append((f"{name}.down", "Dense", [f"{name}.up"], {"units": WIDTH}))
    if residual:
        calls.append((f"{name}.residual", "Add", [source, calls[-1][0]]))
    if norm == "post":
        calls.append((f"{name}.norm", "LayerNormalization", [calls[-1][0]]))
    return calls


def stack(*blocks, stem="stack.block_", **options):
    """Return a graph of blocks with the given units."""
    calls = [("x", "InputLayer", [])]
    for number, units in enumerate(blocks):
        calls += feedforward(f"{stem}{number}", calls[-1][0], units, **options)
    return made(*calls, ("logits", "Dense", [calls[-1][0]], {"units": 5}))


CLASSES = ("Dense", "Add", "Relu", "LayerNormalization")


@st.composite
def graphs(draw):
    """Draw small graphs with named and auto-named calls."""
    calls = [("x", "InputLayer", [])]
    counts: dict[str, int] = {}
    for _ in range(draw(st.integers(1, 9))):
        class_name = draw(st.sampled_from(CLASSES))
        earlier = st.sampled_from([call[0] for call in calls])
        sources = draw(st.lists(earlier, min_size=1, max_size=2 if class_name == "Add" else 1))
        node_id = draw(st.sampled_from(["a", "b", "c", "d", "block.e", "block.f"]))
        if draw(st.booleans()) or any(call[0] == node_id for call in calls):
            counts[class_name] = counts.get(class_name, 0) + 1
            node_id = f"{class_name.lower()}#{counts[class_name]}"
        config = {"units": draw(st.sampled_from([7, 11]))} if class_name == "Dense" else {}
        calls.append((node_id, class_name, sources, config))
    last = draw(st.sampled_from([call[0] for call in calls[1:]]))
    return made(*calls, outputs=[last])
