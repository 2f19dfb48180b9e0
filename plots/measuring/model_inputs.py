"""What a model is fed with when it is measured: random batches that fit, or what is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from plots.graph import Graph, Node
from plots.operation_kinds import is_identity_like, is_shape_only
from plots.reading.read import read_graph

if TYPE_CHECKING:
    import keras
    import numpy as np

# Where a configuration says how many ids a table has, and how long a sequence may be.
_TABLE_SIZES = ("input_dim", "vocabulary_size")
_LONGEST = ("max_length", "sequence_length", "max_sequence_length")


def random_inputs(
    model: keras.Model, batch: int = 2, length: int = 16, seed: int = 0
) -> dict[str, np.ndarray]:
    """A random batch that fits a model: name of the input -> array.

    Floats are of a standard normal distribution. Integers that are looked up in an embedding are
    drawn uniformly from its ids, but for the id of the padding, if the model masks one. Other
    integers and booleans are 1: as masks of what is no padding, they hide nothing.

    Args:
        model: A Functional model, or a Sequential one that is built.
        batch: Size of the first axis, where it is free.
        length: Size of every other free axis; less, if the model has a table of positions that ends
            before, which is looked for in the configurations of its layers.
        seed: The same seed gives the same batch.

    Raises:
        TypeError: if the model has no graph.
        ValueError: if the model is not built, or an input is neither of numbers nor of booleans.
    """
    import numpy as np

    graph = read_graph(model, open_nested=True)
    length = min([length, *_longest_lengths(graph)])
    random = np.random.default_rng(seed)
    arrays = {}
    for node_id, tensor in zip(graph.inputs, model.inputs, strict=True):
        free = [batch] + [length] * (len(tensor.shape) - 1)
        shape = [n if known is None else known for known, n in zip(tensor.shape, free, strict=True)]
        dtype = str(tensor.dtype)
        if ids := _ids(graph, node_id):
            values = random.choice(ids, shape)
        elif "float" in dtype:
            values = random.standard_normal(shape)
        elif "int" in dtype or dtype == "bool":
            values = np.ones(shape)
        else:
            raise ValueError(
                f"the input {tensor.name!r} holds values of type {dtype}, and no random ones are "
                "known: give the inputs"
            )
        arrays[tensor.name] = values.astype(np.float32 if "float" in dtype else dtype)
    return arrays


def standardised_inputs(model: keras.Model, inputs: Any) -> list[Any]:
    """The inputs as tensors of the backend, in the order of the model's inputs.

    Args:
        model: The model.
        inputs: By name, or in the structure that the model is called with.

    Raises:
        ValueError: if they do not fit the model.
    """
    import keras

    names = [tensor.name for tensor in model.inputs]
    if isinstance(inputs, Mapping) and set(inputs) == set(names):
        given = [inputs[name] for name in names]
    elif len(names) == 1 and not isinstance(inputs, Mapping) and not _holds_arrays(inputs):
        given = [inputs]
    else:
        given = keras.tree.flatten(inputs)
    if len(given) != len(names):
        raise ValueError(
            f"the model {model.name!r} has the inputs {', '.join(map(repr, names))}, but "
            f"{len(given)} were given; give one array for each, by name or in this order"
        )
    tensors = []
    for tensor, value in zip(model.inputs, given, strict=True):
        array = keras.ops.convert_to_tensor(value, dtype=tensor.dtype)
        sizes = zip(tensor.shape, array.shape, strict=False)
        if len(array.shape) != len(tensor.shape) or any(n not in (None, m) for n, m in sizes):
            raise ValueError(
                f"the input {tensor.name!r} has shape {tuple(tensor.shape)}, but what was given "
                f"has {tuple(array.shape)}"
            )
        tensors.append(array)
    return tensors


def _holds_arrays(inputs: Any) -> bool:
    """Whether it is a list of arrays, and not one array written as a list of numbers."""
    return isinstance(inputs, list | tuple) and any(hasattr(item, "shape") for item in inputs)


def _ids(graph: Graph, node_id: str) -> list[int]:
    """The ids that an input may hold; none if they are looked up nowhere."""
    tables = [
        size
        for node, by_shape in _followed(graph, node_id)
        for size in (() if by_shape else _numbers(node, _TABLE_SIZES))
    ]
    padding = {
        value for taker in _handed_to(graph, node_id) for value in _padding_of(graph.node(taker))
    }
    ids = range(min(tables, default=0))
    return [n for n in ids if n not in padding] or [*ids]


def _padding_of(node: Node) -> list[Any]:
    """The ids that a call masks in what it takes."""
    if node.class_name in ("Equal", "NotEqual"):
        return [constant.value for constant in node.constants]
    return [0] * bool(node.config.get("mask_zero")) + _numbers(node, ("pad_token_id",))


def _longest_lengths(graph: Graph) -> list[int]:
    """How long sequences may be: as configurations say, or what may be a table of positions."""
    said = [length for node in graph.nodes for length in _numbers(node, _LONGEST)]
    for node_id in graph.inputs:
        looked_up_directly = _handed_to(graph, node_id)
        for node, _ in _followed(graph, node_id):
            said += [] if node.id in looked_up_directly else _numbers(node, _TABLE_SIZES)
    return said


def _handed_to(graph: Graph, node_id: str) -> set[str]:
    """Ids of the calls that take an input as it is, or past a cast or the like."""
    found: set[str] = set()
    waiting = [node_id]
    while waiting:
        for edge in graph.outgoing[waiting.pop()]:
            if edge.target not in found:
                found.add(edge.target)
                if is_identity_like(graph.node(edge.target)):
                    waiting.append(edge.target)
    return found


def _followed(graph: Graph, node_id: str) -> list[tuple[Node, bool]]:
    """The calls that integers made of an input go to, and whether only of its shape."""
    found: dict[tuple[str, bool], None] = {}
    waiting = [(node_id, False)]
    while waiting:
        current, by_shape = waiting.pop()
        for edge in graph.outgoing[current]:
            step = (edge.target, by_shape)
            # Ids may be fed in as floats, but nothing that is reckoned with floats is an id.
            is_ids = current == node_id or "int" in edge.tensor.dtype
            if is_ids and step not in found:
                found[step] = None
                waiting.append((edge.target, by_shape or is_shape_only(graph.node(edge.target))))
    return [(graph.node(target), by_shape) for target, by_shape in found]


def _numbers(node: Node, keys: tuple[str, ...]) -> list[int]:
    """The integers in a configuration under some keys."""
    values = [node.config.get(key) for key in keys]
    return [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
