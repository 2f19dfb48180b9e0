"""Attention weights of a model for one batch, and pictures of them."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from plots.annotations import Overlay, Quantity
from plots.attention_parts import Attention
from plots.attentions import find_attentions
from plots.graph import Graph, Node
from plots.layers import DOT_PRODUCT_ATTENTION, FUSED_ATTENTION
from plots.measuring.execution import Compute, Execution, Opened, as_array, compute_call
from plots.reading.keras_calls import (
    RecordedCall,
    all_parameter_names,
    arguments_of,
    parameter_names,
)
from plots.registry import graph_plugin
from plots.traversal import once_per_graph

if TYPE_CHECKING:
    import keras
    import numpy as np


@dataclass(frozen=True, slots=True, repr=False)
class AttentionMap:
    """The weights of one attention.

    Attributes:
        kind: "self", or "cross" if queries and keys are computed from different sequences.
        weights: (b, n, t, s), after the softmax: the sum over s is 1. If positions lie along
            several axes, as those of an image (b, H, W, d), they are flattened, t = H W; if only
            some of them are attended over, or the batch is split into windows, each head has a map
            for every place on the others.
    """

    kind: Literal["self", "cross"]
    weights: np.ndarray

    def __repr__(self) -> str:
        return f"<AttentionMap: {self.kind}, weights {self.weights.shape}>"

    @property
    def mask(self) -> np.ndarray:
        """(b, n, t, s), True where a query may attend: where its weight is not exactly zero.

        The weights of a query that may attend to nothing have no meaning.
        """
        return self.weights > 0

    @property
    def entropy(self) -> float:
        """Mean entropy of the weights in bits: 0 if all is on one key, log2(s) if all are equal."""
        import numpy as np

        weights = self.weights.astype("float64")
        logarithms = np.log2(weights, where=weights > 0, out=np.zeros_like(weights))
        return float(-(weights * logarithms).sum(-1).mean())


def attention_maps(
    model: keras.Model,
    inputs: Any = None,
    open_nested: bool = False,
    open_layers: bool = False,
    seed: int = 0,
) -> dict[str, AttentionMap]:
    """Return the attention weights of a model for one batch, by the id of the call that makes them.

    The attentions are those of `plots.attentions.find_attentions`. The weights of a layer are known
    if it takes `return_attention_scores`, as those of Keras do, or query, key and value,
    as `keras.ops.dot_product_attention` does; those of several steps are the output
    of the softmax. Attention inside of other layers, such as the blocks of KerasHub, is found with
    `open_layers`.

    Args:
        model: A Functional model, or a Sequential one that is built.
        inputs: One batch, as the model takes it; None: `plots.random_inputs(model, seed=seed)`.
        open_nested: As for `plots.read_graph`, which also explains the ids.
        open_layers: As for `plots.read_graph`.
        seed: Seed of the random inputs.

    Raises:
        TypeError: if the model has no graph.
        ValueError: as from `plots.call_values`.
    """
    weights: dict[str, Any] = {}
    opened = Opened(open_nested, open_layers)
    return maps_of(Execution.of(model, inputs, seed, opened, recording(weights)), weights)


@graph_plugin("attention")
def attention(
    graph: Graph,
    model: keras.Model | None = None,
    inputs: Any = None,
    example: int = 0,
    seed: int = 0,
) -> Graph:
    """Attention weights of one batch: a picture of all heads at every attention, and the entropy.

    Adds a picture to `Graph.pictures` for every attention that `plots.attention_maps` finds: a map
    for each head, a row for each query, dark where it attends, grey where a mask hides a key. Adds
    the overlay "attention entropy", the mean over the whole batch in bits.

    Args:
        graph: The graph.
        model: The model that it was read from.
        inputs: One batch, as the model takes it; None: `plots.random_inputs(model, seed=seed)`.
        example: Which example of the batch to draw.
        seed: Seed of the random inputs.

    Raises:
        ValueError: if there is no model, it has no weights, the inputs do not fit, or there is no
            such example.
    """
    weights: dict[str, Any] = {}
    execution = Execution.as_read(graph, model, inputs, seed, recording(weights))
    maps = {i: found for i, found in maps_of(execution, weights).items() if i in graph.index}
    sizes = {len(found.weights) for found in maps.values()}
    if sizes and not 0 <= example < min(sizes):
        raise ValueError(
            f"example is {example!r}; the batch has the examples 0 to {min(sizes) - 1}"
        )
    pictures = {
        i: base64.b64encode(heads_png(found.weights[example], found.mask[example])).decode()
        for i, found in maps.items()
    }
    values = {i: Quantity(found.entropy) for i, found in maps.items()}
    overlay = Overlay("attention entropy", "mean entropy", "bits", values, combine="last")
    return replace(
        graph,
        pictures={**graph.pictures, **pictures},
        overlays=(*graph.overlays, overlay) if maps else graph.overlays,
    )


def maps_of(execution: Execution, weights: Mapping[str, Any]) -> dict[str, AttentionMap]:
    """Return all maps in the order of the graph: recorded ones, and outputs of softmaxes."""
    batch = next((given.shape[0] for given in execution.fed.values() if len(given.shape)), 1)
    maps: dict[str, AttentionMap] = {}
    for found in _attentions(execution.graph):
        if not found.is_one_call:
            array = _softmax_by_head(as_array(execution.values[found.id, 0]), found, batch)
        elif found.id in weights:
            array = as_array(weights[found.id])
        else:
            continue
        maps[found.id] = AttentionMap("self" if found.is_self else "cross", array)
    return maps


def visible_keys(execution: Execution, attention_id: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return where the boolean masks of an attention let a query attend, (b, n, t, s).

    Unlike a weight that is not zero, this does not depend on how far a softmax is saturated. Masks
    of other forms, such as negative numbers that are added to the scores, hide nothing here.

    Args:
        execution: The computed model.
        attention_id: Id of the attention, as of `attention_maps`.
        shape: The shape of its weights, (b, n, t, s).

    Raises:
        ValueError: if a mask does not fit the weights.
    """
    import numpy as np

    found = next(found for found in _attentions(execution.graph) if found.id == attention_id)
    visible = np.ones(shape, bool)
    for edge in found.masks:
        mask = as_array(execution.values[edge.source, edge.output])
        if mask.dtype == bool:
            visible &= mask[:, None] if mask.ndim == 3 else mask  # (b, t, s) or (b, n, t, s)
    return visible


_attentions = once_per_graph(find_attentions)


def recording(weights: dict[str, Any]) -> Compute:
    """Return how to compute calls and record the weights of attentions, by id, where known."""

    def compute(graph: Graph, call: RecordedCall, args: list[Any], kwargs: dict[str, Any]) -> Any:
        node = graph.node(call.results[0][0])
        if any(found.id == node.id and found.is_one_call for found in _attentions(graph)):
            return _computed_with_weights(node, call, args, kwargs, weights)
        return compute_call(graph, call, args, kwargs)

    return compute


def _computed_with_weights(
    node: Node, call: RecordedCall, args: list[Any], kwargs: dict[str, Any], weights: dict[str, Any]
) -> Any:
    """Return the outputs of an attention, and put its weights into `weights`, if they are known."""
    import keras

    operation = call.record.operation
    # A class of another package may have the name of a known one, and other arguments.
    taken = all_parameter_names(operation.__class__)
    if "return_attention_scores" in taken:
        asked = dict(arguments_of(call.record)).get("return_attention_scores", False)
        kwargs = kwargs if asked else kwargs | {"return_attention_scores": True}
        outputs = keras.tree.flatten(operation(*args, **kwargs))
        queries = args[0] if args else kwargs.get("query", kwargs.get("inputs"))
        weights[node.id] = _by_head(outputs[1], len(keras.tree.flatten(queries)[0].shape))
        return outputs if asked else [outputs[0], *outputs[2:]]
    declaration = DOT_PRODUCT_ATTENTION if node.is_a(FUSED_ATTENTION) else node.declaration
    layout = declaration.inputs.get("value", "") if declaration is not None else ""
    if set(layout[1:3]) == {"s", "k"} and len(layout) == 4 and {"query", "key", "value"} <= taken:
        weights[node.id] = _attended_identity(operation, args, kwargs, layout)
    return operation(*args, **kwargs)


def _by_head(scores: Any, rank: int) -> Any:
    """Return scores of a layer for queries with `rank` axes as (b, n, t, s).

    Scores are (b, t, s) without heads, else (b, ..., n, *t, *s), with as many axes for t as for s,
    and before n the axes that are not attended over.
    """
    from keras import ops

    shape = tuple(scores.shape)
    if len(shape) == 3:
        return scores[:, None]
    attended = len(shape) - rank
    others, t = shape[1 : -2 * attended], shape[-2 * attended : -attended]
    lengths = math.prod(t), math.prod(shape[-attended:])
    return ops.reshape(scores, (shape[0], math.prod(others), *lengths))


def _softmax_by_head(weights: np.ndarray, found: Attention, batch: int) -> np.ndarray:
    """Return the output of a softmax as (b, n, t, s).

    Axes besides b, t and s become n. So does a part of the first axis, if a reshape has made it
    larger than the batch, as (b n, t, s) or by windows of an image.
    """
    import numpy as np

    query_axis, key_axis = found.axes or (None, -1)
    if query_axis is None:
        weights = np.moveaxis(weights, key_axis, -1)[..., None, :]
    else:
        weights = np.moveaxis(weights, (query_axis, key_axis), (-2, -1))
    return weights.reshape(
        batch if len(weights) % batch == 0 else len(weights), -1, *weights.shape[-2:]
    )


def _attended_identity(operation: Any, args: list[Any], kwargs: dict[str, Any], layout: str) -> Any:
    """Return the weights (b, n, t, s) of a fused attention: its output for an identity as values.

    So everything that it does to the scores is included. Some backends only take values that are as
    wide as the keys, so the identity comes in slices. `layout` names the axes of the values.
    """
    import numpy as np
    from keras import ops

    position = parameter_names(operation.__class__).index("value")
    value = args[position] if position < len(args) else kwargs["value"]
    s, h = value.shape[layout.index("s")], value.shape[-1]
    identity = np.eye(s, -(-s // h) * h, dtype="float32")
    mixed = []
    for start in range(0, s, h):
        columns = ops.cast(identity[:, start : start + h], value.dtype)  # (s, h)
        columns = ops.expand_dims(columns, 1) if layout[1] == "s" else columns
        columns = ops.broadcast_to(columns, value.shape)
        if position < len(args):
            output = operation(*args[:position], columns, *args[position + 1 :], **kwargs)
        else:
            output = operation(*args, **kwargs | {"value": columns})
        mixed.append(output)
    return ops.transpose(ops.concatenate(mixed, axis=-1)[..., :s], (0, 2, 1, 3))


# Pictures ---------------------------------------------------------------------------------------

LONGEST = 48
"""Most rows or columns of a map. Longer sequences are drawn with several tokens to a cell."""

_MAP_PIXELS = 96  # approximate size of a map
_GAP_PIXELS = 6
_ZERO, _ONE, _MASKED = (255, 255, 255), (8, 48, 107), (208, 208, 208)


def heads_png(weights: np.ndarray, mask: np.ndarray) -> bytes:
    """Return a PNG of the attention weights (n, t, s) of all heads, side by side and in rows.

    Rows of a map are queries, its columns keys. White is a weight of 0 and dark blue one of 1; in
    between, the colour follows the square root, so that equal weights of many keys are visible.
    Where `mask` (n, t, s) is False, cells are grey. For long sequences a cell shows the largest
    weight of its tokens.
    """
    import numpy as np
    from PIL import Image

    longest = max(weights.shape[1:])
    side = math.ceil(longest / LONGEST)
    cells = reduce_blocks(np.where(mask, weights, -1.0), (side, side), np.maximum)
    n, rows, columns = cells.shape
    size = max(1, _MAP_PIXELS // max(rows, columns))
    depth = np.sqrt(np.clip(cells, 0, 1))[..., None]
    colours = np.array(_ZERO) + depth * (np.array(_ONE) - np.array(_ZERO))
    colours[cells < 0] = _MASKED
    height, width = rows * size + _GAP_PIXELS, columns * size + _GAP_PIXELS
    across = _across(n, height, width)
    down = math.ceil(n / across)
    picture = Image.new("RGB", (across * width - _GAP_PIXELS, down * height - _GAP_PIXELS), _ZERO)
    for head, pixels in enumerate(colours.round().astype("uint8")):
        place = (head % across * width, head // across * height)
        picture.paste(Image.fromarray(pixels).resize((columns * size, rows * size), 0), place)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def _across(n: int, height: int, width: int) -> int:
    """Return how many maps to put in a row: the grid is wide, and few places are empty."""

    def distance(across: int) -> float:  # from three by two
        return abs(math.log(across * width / (-(-n // across) * height) / 1.5))

    nearest = min(distance(across) for across in range(1, n + 1))
    allowed = [a for a in range(1, n + 1) if distance(a) <= max(nearest, math.log(2.1))]
    return min(allowed, key=lambda across: (-n % across, distance(across)))


def reduce_blocks(maps: np.ndarray, block: tuple[int, int], by: np.ufunc) -> np.ndarray:
    """Return maps (n, t, s) with one number for each block, such as the maximum of its numbers.

    A block has `block` rows and columns; the last blocks may have fewer.
    """
    import numpy as np

    for axis, length in ((1, block[0]), (2, block[1])):
        maps = by.reduceat(maps, np.arange(0, maps.shape[axis], length), axis)
    return maps
