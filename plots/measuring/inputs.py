"""Inputs to measure a model with: random batches that fit, or given ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from plots.arguments import model_of
from plots.attentions import lengths_of_samples
from plots.graph import Edge, Graph, Node
from plots.layers import is_identity_like, is_shape_only
from plots.reading import read_graph
from plots.traversal import reachability

if TYPE_CHECKING:
    import keras
    import numpy as np

# Keys of configurations: how many ids a table has, and how long a sequence may be.
_TABLE_SIZES = ("input_dim", "vocabulary_size", "num_tokens")
_LONGEST = ("max_length", "sequence_length", "max_sequence_length")


def random_inputs(
    model: keras.Model, batch: int = 2, length: int = 16, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return a random batch that fits a model: name of the input -> array.

    Floats have a standard normal distribution. Integers that are looked up in an embedding are
    drawn uniformly from its ids, without the id of the padding, if the model masks one. Lengths of
    prefixes, by the role of what takes them, and integers that positions are compared with are half
    of the length. Other integers and booleans
    are 1: as masks they hide nothing.

    Args:
        model: A Functional model, or a Sequential one that is built.
        batch: Size of the first axis, where it is free.
        length: Size of every other free axis; less, if the model has a shorter table of positions,
            according to the configurations of its layers.
        seed: Seed of the random values.

    Raises:
        TypeError: if the model has no graph.
        ValueError: if the model is not built, or an input holds neither numbers nor booleans.
    """
    import numpy as np

    model = model_of(model)
    graph = read_graph(model, open_nested=True)
    looked_up, longest = ids_and_lengths(graph)
    length = min([length, *longest])
    lengths = lengths_of_samples(graph)
    random = np.random.default_rng(seed)
    arrays = {}
    for node_id, tensor in zip(graph.inputs, model.inputs, strict=True):
        free = (batch, *[length] * len(tensor.shape))
        shape = [
            n if known is None else known for known, n in zip(tensor.shape, free, strict=False)
        ]
        dtype = str(tensor.dtype)
        largest = _largest_id(dtype)
        if largest is None:
            raise ValueError(
                f"the input {tensor.name!r} has the dtype {dtype}, for which there are no random "
                "values: give the inputs"
            )
        if looked_up[node_id]:
            values = random.choice([n for n in looked_up[node_id] if n <= largest], shape)
        elif "float" in dtype:
            values = random.standard_normal(shape)
        else:
            values = np.full(shape, max(length // 2, 1) if node_id in lengths else 1)
        arrays[tensor.name] = values.astype(np.float32 if "float" in dtype else dtype)
    return arrays


def _largest_id(dtype: str) -> int | None:
    """Return the largest id that an array of a dtype holds; None for neither numbers nor bools."""
    import numpy as np

    if dtype == "bool":
        return 1
    if "int" in dtype:
        return int(np.iinfo(dtype).max)
    return 2**53 if "float" in dtype else None


def standardise_inputs(model: keras.Model, inputs: Any) -> list[Any]:
    """Return the inputs as tensors of the backend, in the order of the model's inputs.

    They are given by name, or in the structure that the model is called with.

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
                f"the input {tensor.name!r} has the shape {tuple(tensor.shape)}, but the given one "
                f"has {tuple(array.shape)}"
            )
        tensors.append(array)
    return tensors


def _holds_arrays(inputs: Any) -> bool:
    """Return whether `inputs` is a list of arrays, not one array written as a list of numbers."""
    return isinstance(inputs, list | tuple) and any(hasattr(item, "shape") for item in inputs)


def ids_and_lengths(graph: Graph) -> tuple[dict[str, list[int]], list[int]]:
    """Return the ids that each input may hold, and the lengths that sequences may have.

    An input that is not looked up holds no ids. The lengths are those that configurations allow,
    and the sizes of possible tables of positions.
    """

    def carries_ids(edge: Edge) -> bool:
        # Ids may be given as floats, but what is computed with floats is no id.
        return graph.node(edge.source).kind == "input" or "int" in edge.tensor.dtype

    everywhere = reachability(graph, carries_ids)
    by_value = reachability(graph, carries_ids, stop=is_shape_only)
    unchanged = reachability(graph, stop=lambda node: not is_identity_like(node))
    ids: dict[str, list[int]] = {}
    lengths = [length for node in graph.nodes for length in _numbers(node, _LONGEST)]
    for input_id in graph.inputs:
        takers = unchanged.descendants(input_id)
        # Floats are ids where they are looked up, but not where integers are made from them.
        has_floats = "float" in graph.node(input_id).outputs[0].dtype
        nodes = map(graph.node, takers if has_floats else by_value.descendants(input_id))
        table = range(min((n for node in nodes for n in _numbers(node, _TABLE_SIZES)), default=0))
        padding = {value for taker in takers for value in padding_of(graph.node(taker))}
        ids[input_id] = [n for n in table if n not in padding] or [*table]
        for node_id in everywhere.descendants(input_id):
            if node_id not in takers:
                lengths += _numbers(graph.node(node_id), _TABLE_SIZES)
    return ids, lengths


def padding_of(node: Node) -> list[Any]:
    """Return the ids that a call masks in its input."""
    if node.class_name in ("Equal", "NotEqual"):
        return [constant.value for constant in node.constants]
    return [0] * bool(node.config.get("mask_zero")) + _numbers(node, ("pad_token_id",))


def _numbers(node: Node, keys: tuple[str, ...]) -> list[int]:
    """Return the integers of a configuration under some keys."""
    values = [node.config.get(key) for key in keys]
    return [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
