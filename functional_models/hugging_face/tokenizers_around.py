"""What tokenizers of Hugging Face put around texts, as the properties of a `Tokenizer`."""

from __future__ import annotations


class Around:
    """The ids around texts, and those that are never generated.

    Attributes:
        before: ids before every prompt and source.
        after: ids after every prompt and source.
        decoder_start: ids before the first token of a target.
        suppressed: ids that are never generated.
        forces_end: whether the last token of a text that reaches its limit is `end_id`.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    decoder_start: tuple[int, ...]
    suppressed: tuple[int, ...]
    forces_end: bool

    @property
    def target_start(self) -> list[int]:
        return list(self.decoder_start)

    @property
    def suppressed_ids(self) -> tuple[int, ...]:
        return self.suppressed

    @property
    def ends_at_limit(self) -> bool:
        return self.forces_end

    @property
    def input_start(self) -> list[int]:
        return list(self.before)

    @property
    def source_end(self) -> list[int]:
        return list(self.after)
