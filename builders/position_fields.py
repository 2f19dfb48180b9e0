"""The fields of a `TransformerSpec` on positions."""

from __future__ import annotations

from dataclasses import dataclass

from builders.fields import (
    MOST_POSITIONS,
    component_name,
    flag,
    number,
    optional_number,
    optional_numbers,
    positive_int,
)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Positions:
    """Positions."""

    positions: str = component_name(
        "`learned`; `sinusoidal`, sine and cosine interleaved as in the paper; "
        "`sinusoidal_concat`, all sines before all cosines as in tensor2tensor; `coordinates`, the "
        "sines and cosines of the position plus those of the block's number, before every block "
        "(Dehghani et al. 2019, Universal Transformer); `rotary` (Su et al. 2021); `alibi` (Press "
        "et al. 2022); `relative` (T5; Raffel et al. 2020, section 2.1); or `none`.",
        (
            *("learned", "sinusoidal", "sinusoidal_concat", "coordinates"),
            *("rotary", "alibi", "relative", "none"),
        ),
        default="learned",
        by_block=True,
    )
    rotary_base: float = number(
        "wavelengths of `rotary` are 2 pi base^(2 i / r), in tokens.",
        least=1,
        default=10_000.0,
        by_block=True,
    )
    rotary_dim: int = positive_int(
        "channels of a head that are rotated, `r`; `None`: all h.",
        derive=lambda spec: spec.head_dim,
        by_block=True,
    )
    rotary_scaling: str = component_name(
        "extension to sequences longer than those of pretraining: `none`, `linear` (Chen et al. "
        "2023), `llama3` (Llama 3.1), `yarn` (Peng et al. 2023) or `longrope` (Ding et al. 2024; "
        "Phi-3).",
        ("none", "linear", "llama3", "yarn", "longrope"),
        default="none",
        by_block=True,
    )
    rotary_factor: float = number(
        "factor by which sequences are extended.", least=1, default=1.0, by_block=True
    )
    rotary_original_length: int = positive_int(
        "maximum sequence length of pretraining; `None`: `max_sequence_length`.",
        derive=lambda spec: spec.max_sequence_length,
        most=MOST_POSITIONS,
        by_block=True,
    )
    rotary_low_freq_factor: float = number(
        "pairs of channels that rotate less often than this within the original length are scaled "
        "by the whole factor (`llama3`: low_freq_factor; `yarn`: beta_slow).",
        least=0,
        default=1.0,
        by_block=True,
    )
    rotary_high_freq_factor: float = number(
        "pairs that rotate more often are not scaled (`llama3`: high_freq_factor; `yarn`: "
        "beta_fast, 32 in the paper).",
        least=0,
        default=4.0,
        by_block=True,
    )
    rotary_whole_pairs: bool = flag(
        "`yarn` rounds the two borders between scaled and unscaled pairs outwards, to whole pairs. "
        "gpt-oss does not (there, truncate=False).",
        default=True,
        by_block=True,
    )
    rotary_short_factors: tuple[float, ...] | None = optional_numbers(
        "`longrope` divides the frequency of each of the r/2 pairs of channels by one of these, in "
        "sequences of at most `rotary_original_length` tokens. In cached decoding the number of "
        "slots of the cache counts.",
        by_block=True,
    )
    rotary_long_factors: tuple[float, ...] | None = optional_numbers(
        "the same, in longer sequences.", by_block=True
    )
    rotary_magnitude: float | None = optional_number(
        "factor of the rotated channels; `None`: that of the scaling, which is 0.1 ln(factor) + 1 "
        "with `yarn` and 1 with the others.",
        by_block=True,
    )
    relative_buckets: int = positive_int("distance buckets of `relative`.", default=32)
    relative_max_distance: int = positive_int(
        "distance from which on all keys share the last bucket.", default=128, most=MOST_POSITIONS
    )
    relative_by_block: bool = flag(
        "each block has its own biases of distance buckets (Chung et al. 2023, UniMax, umT5), and "
        "not all blocks of a stack the same.",
        default=False,
    )
