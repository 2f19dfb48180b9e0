"""`TransformerSpec`: everything that tells one Transformer from another, as plain frozen data."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, fields
from typing import Any

from builders.registry import unknown_name
from builders.spec_checks import check_combinations, check_values, refuse

SPEC_FORMAT = 1
"""Number of the JSON format that `TransformerSpec.to_json` writes."""

DERIVED: Any = None
"""Default of the fields that are derived from others: never `None` in a finished spec."""

_DERIVED = (
    "source_vocabulary_size",
    "num_encoder_layers",
    "embedding_dim",
    "num_key_value_heads",
    "head_dim",
    "intermediate_dim",
    "feedforward_dropout",
    "final_norm",
    "norm_bias",
    "attention_output_bias",
    "rotary_dim",
    "rotary_original_length",
)


@dataclass(frozen=True, kw_only=True)
class TransformerSpec:
    """One Transformer, as data. Checked when it is made, so that no function asks again.

    A field that is `None` below is derived from the others, also again by `replace`, as long as
    nobody gives it. Every rate is a probability in [0, 1).

    Sizes:
        kind: `decoder_only` (tokens -> logits), `encoder_decoder` (source, target -> logits) or
            `encoder_only` (tokens -> vectors).
        vocabulary_size: tokens that the model reads (decoder side) and writes, `v`.
        source_vocabulary_size: tokens that the encoder of an `encoder_decoder` reads; `None`: as
            `vocabulary_size`.
        num_layers: blocks of the decoder, or of the one stack that there is.
        num_encoder_layers: blocks of the encoder of an `encoder_decoder`; `None`: as `num_layers`.
        hidden_dim: width of the residual stream, `d`.
        embedding_dim: width of the token embeddings; `None`: d. If it is another, a projection
            leads from it to d, and one from d to it before tied logits (OPT-350M; Lan et al. 2020,
            ALBERT, section 3.1).
        intermediate_dim: width inside the feed-forward, `f`; `None`: 4 d.
        num_segments: parts of a sequence that are told apart by a trained vector each: BERT's
            token types, for `encoder_only`; 0: none.
        max_sequence_length: the most tokens that a sequence may have. Position schemes refuse
            longer ones; with `none` a model would take any, and only text models refuse them.
        num_heads: attention heads, `n`.
        num_key_value_heads: heads of keys and values, `k`, each shared by n / k query heads
            (grouped-query attention, Ainslie et al. 2023; 1 is multi-query attention, Shazeer
            2019); `None`: as `num_heads`.
        head_dim: width of one head, `h`; `None`: d / n. It is free: n * h need not be d.

    Residual stream:
        norm_placement: `post`, norm(x + f(x)) (Vaswani et al. 2017); `pre`, x + f(norm(x))
            (GPT-2; Xiong et al. 2020); `sandwich`, x + norm(f(norm(x))) (Ding et al. 2021,
            CogView, section 2.4; Gemma 2); `parallel`, x + f(norm(x)) + g(norm(x)), all sublayers
            of a block at once (GPT-NeoX, section 2.1); or `none`, x + f(x).
        residual: `False` leaves out every skip path: the ablation that shows what they are for.
        norm: `layer` (Ba et al. 2016) or `rms` (Zhang and Sennrich 2019).
        norm_epsilon: added to the variance, or to the mean square, in every norm.
        norm_bias: a bias in every layer norm; `None`: exactly for `layer`. An RMS norm has none.
        norm_offset: an RMS norm multiplies by 1 + its weight, which starts at zero (Gemma).
        embedding_norm: a norm on the sum of the embeddings, before their dropout (BERT, BLOOM).
        final_norm: a norm after the last block of each stack; `None`: where the stream itself
            passes no norm, which is with `pre`, `sandwich` and `parallel`.

    Parts:
        positions: `learned`, `sinusoidal` (sine and cosine interleaved, as in the paper),
            `sinusoidal_concat` (sines, then cosines, as in tensor2tensor), `rotary` (Su et al.
            2021), `alibi` (Press et al. 2022), `relative` (T5; Raffel et al. 2020, section 2.1)
            or `none`.
        rotary_base: the wavelengths of `rotary` are 2 pi base^(2 i / r), in tokens.
        rotary_dim: how many channels of a head are turned, `r`; `None`: all h.
        rotary_scaling: for sequences longer than those of the training: `none`, `linear` (Chen et
            al. 2023), `llama3` (Llama 3.1) or `yarn` (Peng et al. 2023), by these four:
        rotary_factor: how many times longer.
        rotary_original_length: tokens before; `None`: max_sequence_length.
        rotary_low_freq_factor: pairs of channels that turn less often within the original length
            are scaled by the whole factor (`llama3`: low_freq_factor; `yarn`: beta_slow).
        rotary_high_freq_factor: those that turn more often are not scaled (`llama3`:
            high_freq_factor; `yarn`: beta_fast, 32 in the paper).
        relative_buckets: ranges of distances that `relative` tells apart.
        relative_max_distance: the distance from which on all are in the last of them.
        feedforward: `mlp`, down(activation(up(x))), or `glu`, down(activation(gate(x)) * up(x))
            (Shazeer 2020, equation 6).
        activation: of the feed-forward: `relu`, `gelu`, `gelu_tanh`, `silu`, `relu_squared`.
        feedforward_bias: biases on its projections.
        attention: `graph` wires every step as a node; `layer` is one
            `keras_hub.layers.CachedMultiHeadAttention` node with equal numbers.
        attention_window: how many tokens a decoder's self-attention sees, the query itself and
            those just before it (Mistral; Beltagy et al. 2020, section 3.1); `None`: all.
        full_attention_every: every so manieth block sees all in spite of the window: 2 is Gemma 2
            (section 2), where blocks 1, 3, ... do; `None`: no block.
        attention_bias: biases on the query, key and value projections.
        attention_output_bias: a bias on the output projection; `None`: as `attention_bias`.
        attention_scale: scores are q k^T times this; `None`: 1 / sqrt(h).
        attention_soft_cap: scores s become cap * tanh(s / cap) (Gemma 2, section 2); `None`: not.
        qk_norm: a norm over the h channels of every query and key (Henry et al. 2020; Qwen 3).
        scale_embeddings: token embeddings times sqrt(d).
        tie_embeddings: logits from the transposed target token embedding.
        share_embeddings: source and target use one token embedding.
        pooler: an `encoder_only` model gives tanh of a projection of its first token, too (Devlin
            et al. 2019, BERT, the authors' code).
        masked_lm_head: it gives logits, too, from a projection with the activation and a norm
            (the same). Without, the fields on logits are of no meaning for it.
        logit_bias: a bias on the logits.
        scale_logits: what the logits are made from is divided by sqrt(d) (T5 v1.0).
        logit_soft_cap: as `attention_soft_cap`, of the logits.
        pad_token_id: the token that fills short sequences and that no attention sees; `None`: no
            token is padding.
        mask_target_padding: `False`: the self-attention of a decoder sees padding like any other
            token before the query; T5 does, whose targets start with it.

    Regularisation and start:
        dropout: on the output of every sublayer, before it is merged.
        feedforward_dropout: on the output of the feed-forward; `None`: as `dropout`.
        attention_dropout: on the attention weights.
        embedding_dropout: on the sum of token and position embeddings.
        activation_dropout: inside the feed-forward, on what is projected back to d (T5).
        final_dropout: on the output of each stack, after its norm (T5).
        initializer: `glorot_uniform`; `normal`, standard deviation `initializer_range`;
            `depth_scaled`, the same with the projections that end a sublayer divided by
            sqrt(sublayers on their stream) (GPT-2, section 2.3); or `t5`, by the width that each
            kernel reads.
        initializer_range: standard deviation of `normal` and `depth_scaled`.

    Raises:
        ValueError: a value that is not allowed; names the field, the value and what is allowed.
    """

    kind: str = "decoder_only"
    vocabulary_size: int
    source_vocabulary_size: int = DERIVED
    num_layers: int
    num_encoder_layers: int = DERIVED
    hidden_dim: int
    embedding_dim: int = DERIVED
    intermediate_dim: int = DERIVED
    num_segments: int = 0
    max_sequence_length: int = 512
    num_heads: int
    num_key_value_heads: int = DERIVED
    head_dim: int = DERIVED

    norm_placement: str = "pre"
    residual: bool = True
    norm: str = "layer"
    norm_epsilon: float = 1e-5
    norm_bias: bool = DERIVED
    norm_offset: bool = False
    embedding_norm: bool = False
    final_norm: bool = DERIVED

    positions: str = "learned"
    rotary_base: float = 10_000.0
    rotary_dim: int = DERIVED
    rotary_scaling: str = "none"
    rotary_factor: float = 1.0
    rotary_original_length: int = DERIVED
    rotary_low_freq_factor: float = 1.0
    rotary_high_freq_factor: float = 4.0
    relative_buckets: int = 32
    relative_max_distance: int = 128
    feedforward: str = "mlp"
    activation: str = "gelu"
    feedforward_bias: bool = True
    attention: str = "graph"
    attention_window: int | None = None
    full_attention_every: int | None = None
    attention_bias: bool = True
    attention_output_bias: bool = DERIVED
    attention_scale: float | None = None
    attention_soft_cap: float | None = None
    qk_norm: bool = False
    scale_embeddings: bool = False
    tie_embeddings: bool = False
    share_embeddings: bool = False
    pooler: bool = False
    masked_lm_head: bool = False
    logit_bias: bool = False
    scale_logits: bool = False
    logit_soft_cap: float | None = None
    pad_token_id: int | None = 0
    mask_target_padding: bool = True

    dropout: float = 0.0
    feedforward_dropout: float = DERIVED
    attention_dropout: float = 0.0
    embedding_dropout: float = 0.0
    activation_dropout: float = 0.0
    final_dropout: float = 0.0
    initializer: str = "glorot_uniform"
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        derived = frozenset(name for name in _DERIVED if getattr(self, name) is None)
        self.__dict__["derived"] = derived  # beside the fields, as it is none
        check_values(self, derived)
        for name in filter(derived.__contains__, _DERIVED):  # some follow from those before them
            object.__setattr__(self, name, self._derive(name))
        check_combinations(self)

    @property
    def _derived(self) -> frozenset[str]:
        """Names of the fields that nobody gave."""
        return self.__dict__["derived"]

    def _derive(self, name: str) -> Any:
        match name:
            case "source_vocabulary_size":
                return self.vocabulary_size
            case "num_encoder_layers":
                return self.num_layers
            case "embedding_dim":
                return self.hidden_dim
            case "num_key_value_heads":
                return self.num_heads
            case "intermediate_dim":
                return 4 * self.hidden_dim
            case "feedforward_dropout":
                return self.dropout
            case "final_norm":
                return self.norm_placement in ("pre", "sandwich", "parallel")
            case "norm_bias":
                return self.norm == "layer"
            case "attention_output_bias":
                return self.attention_bias
            case "rotary_dim":
                return self.head_dim
            case "rotary_original_length":
                return self.max_sequence_length
        if self.hidden_dim % self.num_heads:  # the one left: head_dim
            refuse(
                "hidden_dim",
                self.hidden_dim,
                f"a multiple of num_heads={self.num_heads} where head_dim is not given",
                "change one of the two, or give head_dim",
            )
        return self.hidden_dim // self.num_heads

    @property
    def target_pad_token_id(self) -> int | None:
        """The token that no self-attention of a decoder sees, if there is one."""
        return self.pad_token_id if self.mask_target_padding else None

    def window_of_block(self, number: int) -> int | None:
        """Return how many tokens a decoder's block sees, the first being block 0; `None`: all."""
        every = self.full_attention_every
        sees_all = every is not None and (number + 1) % every == 0
        return None if sees_all else self.attention_window

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The windows of a decoder's blocks, one for each of them."""
        return tuple(map(self.window_of_block, range(self.num_layers)))

    def replace(self, **changes: Any) -> TransformerSpec:
        """Return a spec with `changes` made; what was derived is derived again.

        Raises:
            ValueError: a field that does not exist, or a value that is not allowed.
        """
        check_field_names(changes)
        again: dict[str, Any] = {name: None for name in self._derived if name not in changes}
        return dataclasses.replace(self, **again, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as given, JSON-ready; derived ones are `None`."""
        return {
            f.name: None if f.name in self._derived else getattr(self, f.name) for f in fields(self)
        }

    def to_json(self) -> str:
        """Return the spec as a JSON object; `from_json` reads it back."""
        return json.dumps({"format": SPEC_FORMAT, **self.to_dict()}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> TransformerSpec:
        """Read what `to_json` wrote.

        Raises:
            ValueError: no JSON object, a newer format, an unknown field, or a value that is not
                allowed.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
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
    """Make a spec from a dict of fields, with an error that a user can act on.

    Raises:
        ValueError: an unknown field, one that is missing, or a value that is not allowed.
    """
    check_field_names(values)
    needed = [f.name for f in fields(TransformerSpec) if f.default is dataclasses.MISSING]
    missing = [name for name in needed if name not in values]
    if missing:
        raise ValueError(f"a spec needs {', '.join(missing)} too; given: {', '.join(values)}")
    return TransformerSpec(**values)


def check_field_names(names: Any) -> None:
    """Raise a `ValueError` that lists the allowed fields if one of `names` is no spec field."""
    allowed = [f.name for f in fields(TransformerSpec)]
    for name in names:
        if name not in allowed:
            raise ValueError(unknown_name("spec field", name, allowed))
