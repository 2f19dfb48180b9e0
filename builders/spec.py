"""`TransformerSpec`: everything that distinguishes one Transformer from another, as frozen data."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from builders.components import SHIPPED
from builders.errors import invalid_value, names_similar_fields
from builders.fields import check_value, rule_of
from builders.spec_checks import check_combinations
from builders.spec_fields import GROUPS, KINDS, SpecFields

__all__ = ["KINDS", "SPEC_FORMAT", "TransformerSpec", "fields_by_group", "make_spec"]

SPEC_FORMAT = 1
"""Version of the JSON format that `TransformerSpec.to_json` writes."""


@names_similar_fields("spec field", listed_by="`functional-models fields`")
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TransformerSpec(SpecFields):
    """The specification of one Transformer. It is checked when it is made.

    A field documented with a value for `None` is derived from other fields unless it is given, and
    `replace` derives it again. Two specs are equal if the same fields are given with the same
    values, so that equal specs stay equal under `replace`.
    """

    def __post_init__(self) -> None:
        derived = frozenset(
            f.name for f in fields(self) if rule_of(f).derive and getattr(self, f.name) is None
        )
        self.__dict__["_derived"] = derived  # no field
        for field in fields(self):
            value = getattr(self, field.name)
            check_value(field, value)
            object.__setattr__(self, field.name, rule_of(field).convert(value))
        for field in fields(self):
            derive = rule_of(field).derive
            if derive and field.name in derived:
                object.__setattr__(self, field.name, derive(self))
        check_combinations(self)
        self.__dict__["_block_specs"] = tuple(self._with_overrides())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TransformerSpec):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(tuple(self.to_dict().items()))

    def __repr__(self) -> str:
        given = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in self._derived and getattr(self, f.name) != f.default
        }
        return f"TransformerSpec({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    @property
    def stacks(self) -> tuple[str, ...]:
        """The stacks of blocks that the model has: `encoder`, `decoder` or both, in this order."""
        return tuple(self.kind.removesuffix("_only").split("_"))

    @property
    def target_pad_token_id(self) -> int | None:
        """The token that is masked in the self-attention of a decoder, if any."""
        return self.pad_token_id if self.mask_target_padding else None

    @cached_property
    def windows(self) -> tuple[int | None, ...]:
        """The attention windows of the blocks of the decoder, or of the only stack."""
        return tuple(block.attention_window for block in self.blocks(self.stacks[-1]))

    @property
    def most_keys(self) -> int | None:
        """The most keys that self-attention attends to, its window or its chunk; `None`: all."""
        return self.attention_window or self.attention_chunk

    @cached_property
    def length_borders(self) -> frozenset[int]:
        """The lengths above which rotary positions have other frequencies (`longrope`)."""
        blocks = (block for stack in self.stacks for block in self.blocks(stack))
        return frozenset(
            block.rotary_original_length
            for block in blocks
            if block.positions == "rotary" and block.rotary_scaling == "longrope"
        )

    def of_block(self, index: int) -> TransformerSpec:
        """Return the spec of one block of a stack, in which every field holds for that block."""
        specs: tuple[TransformerSpec, ...] = self.__dict__["_block_specs"]
        return specs[index % len(specs)] if specs else self

    def _with_overrides(self) -> Iterator[TransformerSpec]:
        """Yield the spec of each block of the pattern of `block_overrides`.

        Raises:
            ValueError: a block has a value that is not allowed.
        """
        known: dict[str, TransformerSpec] = {}  # checked once, however long the pattern is
        for overrides in self.block_overrides:
            key = repr(overrides)
            if key not in known:
                try:
                    known[key] = self.replace(block_overrides=(), **overrides)
                except ValueError as error:
                    allowed = f"changes that a block allows, unlike {overrides!r} ({error})"
                    raise invalid_value("block_overrides", self.block_overrides, allowed) from None
            yield known[key]

    def owner_of_block(self, index: int) -> int:
        """Return the index of the first block of a stack that has the weights of block `index`."""
        return index if self.distinct_blocks is None else index % self.distinct_blocks

    def blocks(self, stack: str) -> tuple[TransformerSpec, ...]:
        """Return the spec of every block of a stack.

        Args:
            stack: `encoder` or `decoder`.
        """
        return tuple(map(self.of_block, range(self.num_blocks(stack))))

    def crosses(self, stack: str) -> bool:
        """Return whether the blocks of a stack have cross-attention.

        Args:
            stack: `encoder` or `decoder`.
        """
        return self.kind == "encoder_decoder" and stack == "decoder"

    def num_blocks(self, stack: str) -> int:
        """Return the number of blocks of a stack.

        Args:
            stack: `encoder` or `decoder`.
        """
        return self.num_encoder_layers if stack == "encoder" else self.num_layers

    @property
    def embedding_sum_dim(self) -> int:
        """The width of the sum of all embeddings, which `embedding_norm` is over."""
        return self.embedding_dim if self.embedding_projection == "sum" else self.hidden_dim

    @cached_property
    def of_expert(self) -> TransformerSpec:
        """The spec of one of the experts of a mixture, whose width is `intermediate_dim`."""
        return self.replace(intermediate_dim=self.expert_dim)

    @cached_property
    def of_shared_expert(self) -> TransformerSpec:
        """The spec of the shared expert of a mixture, whose width is `intermediate_dim`."""
        return self.replace(intermediate_dim=self.shared_expert_dim)

    def num_sublayers(self, stack: str) -> int:
        """Return the number of sublayers on the residual stream of a stack.

        Args:
            stack: `encoder` or `decoder`.
        """
        return (3 if self.crosses(stack) else 2) * self.num_blocks(stack)

    def replace(self, **changes: Any) -> TransformerSpec:
        """Return a spec with some fields changed; derived fields are derived again.

        Raises:
            ValueError: an unknown field, or a value that is not allowed.
        """
        return make_spec(self.to_dict() | changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as given, JSON-ready; derived fields are `None`."""
        return {
            f.name: None if f.name in self._derived else getattr(self, f.name) for f in fields(self)
        }

    @property
    def _derived(self) -> frozenset[str]:
        """Names of the fields that were not given."""
        derived: frozenset[str] = self.__dict__["_derived"]
        return derived

    def to_json(self) -> str:
        """Return the spec as a JSON object; `from_json` reads it."""
        return json.dumps({"format": SPEC_FORMAT, **self.to_dict()}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> TransformerSpec:
        """Read the output of `to_json`.

        Raises:
            ValueError: no JSON object, a newer format, an unknown field, or a value that is not
                allowed.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:  # too many digits, or nested too deeply
            raise ValueError(
                f"a spec must be a JSON object, as to_json writes it; {error}"
            ) from None
        if not isinstance(values, dict):
            raise ValueError(f"a spec must be a JSON object, not {type(values).__name__}")
        version = values.pop("format", SPEC_FORMAT)
        if version != SPEC_FORMAT:
            raise ValueError(
                f"spec has format {version!r}, this version reads format {SPEC_FORMAT}; "
                "upgrade functional-models"
            )
        return make_spec(values)


def make_spec(values: dict[str, Any]) -> TransformerSpec:
    """Make a spec from a dict of fields.

    Raises:
        ValueError: an unknown or a missing field, or a value that is not allowed.
    """
    required = [f.name for f in fields(TransformerSpec) if f.default is dataclasses.MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        given = f"too; given: {', '.join(values)}" if values else "and has no fields"
        raise ValueError(f"a spec needs {', '.join(missing)} {given}")
    return TransformerSpec(**values)


def fields_by_group() -> dict[str, list[dataclasses.Field[Any]]]:
    """Return the fields by part of the model: the title of each group, and its fields in order."""
    by_name = {field.name: field for field in fields(TransformerSpec)}
    return {
        str(group.__doc__).rstrip("."): [by_name[name] for name in group.__annotations__]
        for group in GROUPS
    }


def _document() -> str:
    """Return the documentation of all fields by group, as part of a docstring."""
    lines = []
    for title, group in fields_by_group().items():
        lines.append(f"\n    {title}:")
        for field in group:
            text = f"{field.name}: {rule_of(field).doc}"
            lines.append(
                textwrap.fill(text, 100, initial_indent=8 * " ", subsequent_indent=12 * " ")
            )
    raises = "a value is invalid; names the field, the value and the allowed values."
    return "\n".join([*lines, "\n    Raises:", f"        ValueError: {raises}\n    "])


TransformerSpec.__doc__ = str(TransformerSpec.__doc__).rstrip() + "\n" + _document()
SHIPPED.update(
    {f.name: rule_of(f).names for f in fields(TransformerSpec) if rule_of(f).is_component}
)
