"""In what two calls differ: class, configuration, constants, place, shapes, number of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from plots.differences.configurations import changed_entries, value_text
from plots.differences.difference import Change
from plots.graph import Constant, Node, Tensor


def call_changes(
    old: Node, new: Node, input_ranks: tuple[Mapping[str, int], Mapping[str, int]]
) -> Iterator[Change]:
    """What has changed from one call to the other, what training starts from last.

    Args:
        old: The call before.
        new: The call after.
        input_ranks: For both graphs: id of an input that is in both -> its place among those.
    """
    if old.class_name != new.class_name:
        yield Change("class", "class", old.class_name, new.class_name)
    entries = [*_config_changes(old, new)]
    yield from (change for change in entries if not _is_initial(change))
    constants = {c.port: c for c in old.constants}, {c.port: c for c in new.constants}
    for port in dict.fromkeys((*constants[0], *constants[1])):
        if old.class_name != new.class_name and not (port in constants[0] and port in constants[1]):
            continue  # the other class has no such argument
        was_it, is_it = constants[0].get(port), constants[1].get(port)
        if not _are_equal(was_it, is_it):
            said = _constant_text(was_it), _constant_text(is_it)
            if said[0] == said[1]:  # it is the values that differ
                said = _constant_text(was_it, values=True), _constant_text(is_it, values=True)
            yield Change("constant", port, *said)
    if (was_at := input_ranks[0].get(old.id)) != (is_at := input_ranks[1].get(new.id)):
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


def _are_equal(old: Constant | None, new: Constant | None) -> bool:
    """Whether two constants are the same, as far as both are known."""
    if old is None or new is None or None not in (old.digest, new.digest):
        return old == new
    return replace(old, digest=None) == replace(new, digest=None)


def _constant_text(constant: Constant | None, values: bool = False) -> str:
    """A constant in words: "float32 (3, 5) sinusoids"; of an array where asked with its digest."""
    if constant is None:
        return "nothing"
    if constant.value is not None or constant.shape is None:
        return value_text(constant.value)
    shape = ", ".join(str(size) for size in constant.shape)
    text = f"{constant.dtype} ({shape}) {constant.pattern}".strip()
    return f"{text}, values {constant.digest}" if values else text


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
