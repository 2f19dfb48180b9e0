"""What is differentiated when gradients are measured: a loss of a model's outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from plots.measuring.arrays import is_float

if TYPE_CHECKING:
    import keras


def loss_of_outputs(
    model: keras.Model, targets: Any, loss: Any, seed: int
) -> Callable[[list[Any]], Any]:
    """A function from the model's outputs, flattened, to a number; see `plots.edge_gradients`.

    Raises:
        ValueError: if there are targets, but neither a loss nor one that the model was compiled
            with; if there is neither, and the model gives out no floats.
        TypeError: if there is a loss and no targets, and it is no function.
    """
    if targets is None and loss is None:
        _check_gives_out_floats(model)
        return lambda outputs: _projection(outputs, seed)
    if targets is None:
        if not callable(loss):
            raise TypeError(
                f"the loss {loss!r} compares outputs with targets, and there are none: give "
                "targets, or as the loss a function of the model's outputs"
            )
        return lambda outputs: _mean(loss(_as_given_out(model, outputs)))
    if loss is None:
        return _compiled_loss(model, targets)
    return lambda outputs: _against_targets(loss, targets, _as_given_out(model, outputs))


def _check_gives_out_floats(model: keras.Model) -> None:
    if not any(is_float(tensor) for tensor in model.outputs):
        dtypes = ", ".join(dict.fromkeys(str(tensor.dtype) for tensor in model.outputs))
        raise ValueError(
            f"the model {model.name!r} gives out {dtypes}, but there are gradients only of floats: "
            "give a model that ends where they are still floats, such as at the logits"
        )


def _projection(outputs: list[Any], seed: int) -> Any:
    """The floats among the outputs times random numbers, summed up in float32."""
    import numpy as np
    from keras import ops

    random = np.random.default_rng(seed)
    products = [
        ops.sum(ops.multiply(ops.cast(y, "float32"), random.standard_normal(y.shape, "float32")))
        for y in outputs
        if is_float(y)
    ]
    return sum(products[1:], start=products[0])


def _against_targets(loss: Any, targets: Any, outputs: Any) -> Any:
    import keras

    return _mean(keras.losses.get(loss)(targets, outputs))


def _compiled_loss(model: keras.Model, targets: Any) -> Callable[[list[Any]], Any]:
    if not getattr(model, "compiled", False) or not model.loss:
        raise ValueError(
            f"there are targets, but the model {model.name!r} was not compiled with a loss: give "
            "`loss`, or compile the model"
        )
    return lambda outputs: model.compute_loss(
        y=targets, y_pred=_as_given_out(model, outputs), training=False
    )


def _mean(loss: Any) -> Any:
    """One number of a loss that may come for every example."""
    from keras import ops

    return ops.mean(ops.cast(loss, "float32"))


def _as_given_out(model: keras.Model, outputs: list[Any]) -> Any:
    """Flat outputs in the structure in which the model gives them out."""
    import keras

    structure = getattr(model, "_outputs_struct", model.outputs)  # a Sequential model has none
    if isinstance(structure, list | tuple) and len(structure) == 1:
        return outputs[0]
    return keras.tree.pack_sequence_as(structure, outputs)
