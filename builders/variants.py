"""Variants for teaching and translation, each with the paper or code that it follows.

To add a variant, add a decorated function; its name is the name of the variant. Families of
published models are rows of data in `builders.published`.
"""

from __future__ import annotations

from builders.registry import register_variant
from builders.spec import TransformerSpec

BOTH_KINDS = ("encoder_decoder", "decoder_only")
ALL_KINDS = (*BOTH_KINDS, "encoder_only")
_CORNERS = "Vaswani et al. 2017 (post-norm, sinusoids); GPT-2 (pre-norm, learned positions)"


def _corner(norm_placement: str, positions: str) -> TransformerSpec:
    """Return a spec that differs from the others only in norm placement and positions."""
    return TransformerSpec(
        kind="encoder_decoder",
        vocabulary_size=1000,
        num_layers=2,
        hidden_dim=96,
        intermediate_dim=384,
        num_heads=6,
        max_sequence_length=128,
        norm_placement=norm_placement,
        positions=positions,
        activation="relu",
        # Sinusoids have amplitude 1 and would dominate unscaled embeddings.
        scale_embeddings=positions == "sinusoidal",
        logit_bias=True,
    )


@register_variant(
    kinds=BOTH_KINDS,
    source=_CORNERS,
    summary="post-norm, sinusoidal positions, as in Vaswani et al. 2017",
)
def post_norm_sinusoidal() -> TransformerSpec:
    return _corner("post", "sinusoidal")


@register_variant(kinds=ALL_KINDS, source=_CORNERS, summary="post-norm, learned positions")
def post_norm_learned() -> TransformerSpec:
    return _corner("post", "learned")


@register_variant(kinds=BOTH_KINDS, source=_CORNERS, summary="pre-norm, sinusoidal positions")
def pre_norm_sinusoidal() -> TransformerSpec:
    return _corner("pre", "sinusoidal")


@register_variant(
    kinds=ALL_KINDS, source=_CORNERS, summary="pre-norm, learned positions, as in GPT-2"
)
def pre_norm_learned() -> TransformerSpec:
    return _corner("pre", "learned")


@register_variant(
    kinds=BOTH_KINDS,
    source='Wang et al. 2022, "DeepNet", figure 2, with the sizes of pre_norm_learned',
    summary="post-norm with a larger skip and smaller initial values by depth (DeepNorm)",
)
def deep_norm() -> TransformerSpec:
    return _corner("post", "learned").replace(
        merge="scaled", skip_scale="deep_norm", initializer="deep_norm"
    )


@register_variant(
    kinds=BOTH_KINDS,
    source='Bachlechner et al. 2020, "ReZero", section 5, with the sizes of pre_norm_learned',
    summary="no norms; each branch times one trained number, which starts at 0",
)
def rezero() -> TransformerSpec:
    return _corner("none", "learned").replace(merge="rezero")


@register_variant(
    kinds=BOTH_KINDS,
    source='Touvron et al. 2021, "Going deeper with Image Transformers", section 2, likewise',
    summary="pre-norm; each channel of a branch times a trained number, which starts at 0.0001",
)
def layer_scale() -> TransformerSpec:
    return _corner("pre", "learned").replace(merge="layer_scale")


@register_variant(
    kinds=BOTH_KINDS,
    source='Ding et al. 2021, "CogView", section 2.4, with the sizes of pre_norm_learned',
    summary="a norm before and after every sublayer",
)
def sandwich_norm() -> TransformerSpec:
    return _corner("sandwich", "learned")


@register_variant(
    kinds=BOTH_KINDS,
    source='OLMo Team 2024, "2 OLMo 2 Furious", section 3.3, with the sizes of pre_norm_learned',
    summary="a norm after every sublayer, on what it adds to the stream",
)
def output_norm() -> TransformerSpec:
    return _corner("output", "learned")


@register_variant(
    kinds=BOTH_KINDS,
    source="KellerJordan/modded-nanogpt; Ronneberger et al. 2015",
    summary="pre-norm, the second half of the blocks adds the streams of the first in reverse",
)
def unet_skips() -> TransformerSpec:
    return _corner("pre", "learned").replace(num_layers=4, block_skips="unet")


@register_variant(
    kinds=BOTH_KINDS,
    source="karpathy/nanochat, nanochat/gpt.py; KellerJordan/modded-nanogpt",
    summary="pre-norm, every block adds a share of the embeddings",
)
def embedding_skips() -> TransformerSpec:
    return _corner("pre", "learned").replace(block_skips="embedding")


@register_variant(
    kinds=BOTH_KINDS,
    source='Zhou et al. 2024, "Value Residual Learning", section 3.2',
    summary="pre-norm, values are mixed with those of the first block",
)
def value_residual() -> TransformerSpec:
    return _corner("pre", "learned").replace(value_residual=True)


@register_variant(
    kinds=BOTH_KINDS,
    source='Lan et al. 2020, "ALBERT", section 3.1, with the sizes of pre_norm_learned',
    summary="pre-norm, one block whose weights every block of its stack uses",
)
def shared_blocks() -> TransformerSpec:
    return _corner("pre", "learned").replace(distinct_blocks=1)


@register_variant(
    kinds=BOTH_KINDS,
    source='Dehghani et al. 2019, "Universal Transformers", section 2.1, without adaptive halting',
    summary="post-norm, one block in a loop, which adds sinusoids of position and pass each time",
)
def universal_transformer() -> TransformerSpec:
    return _corner("post", "coordinates").replace(
        num_layers=6, distinct_blocks=1, scale_embeddings=True
    )


@register_variant(
    kinds=("decoder_only",),
    source='Loshchilov et al. 2024, "nGPT", section 2.6; NVIDIA/ngpt, model.py',
    summary="vectors of unit length everywhere; sublayers take steps on the sphere",
)
def ngpt() -> TransformerSpec:
    return _corner("none", "rotary").replace(
        kind="decoder_only",
        merge="spherical",
        norm="unit",
        norm_epsilon=1e-12,
        qk_norm=True,
        qk_norm_heads="tied",
        qk_norm_after_rotary=True,
        attention_scale=4.0,  # sqrt(head_dim), since queries and keys have unit length
        attention_bias=False,
        feedforward="scaled_glu",
        activation="silu",
        feedforward_bias=False,
        logit_bias=False,
        logit_gain=True,
        kernel_constraint="unit_norm",
        initializer="normal",
        pad_token_id=None,
    )


@register_variant(
    kinds=("decoder_only",),
    source='Yang et al. 2024, "Gated Delta Networks", section 3; Qwen3-Next',
    summary="three of four blocks have a memory of fixed size in the place of attention",
)
def gated_delta() -> TransformerSpec:
    return _corner("pre", "rotary").replace(
        kind="decoder_only",
        num_layers=4,
        norm="rms",
        mixer="gated_delta",
        block_overrides=({}, {}, {}, {"mixer": "attention"}),
    )


@register_variant(
    kinds=("decoder_only",),
    source='Raffel et al. 2020, "T5", section 3.2.1, with the sizes of pre_norm_learned',
    summary="pre-norm, a prefix is read in both directions, what follows it is causal",
)
def prefix_lm() -> TransformerSpec:
    return _corner("pre", "learned").replace(kind="decoder_only", prefix_lm=True)


@register_variant(
    kinds=BOTH_KINDS,
    source='Zhu et al. 2024, "Hyper-Connections", algorithms 1 and 2',
    summary="pre-norm, four residual streams that each sublayer reads, mixes and writes",
)
def hyper_connections() -> TransformerSpec:
    return _corner("pre", "learned").replace(merge="hyper_connections")


@register_variant(
    kinds=("encoder_decoder",),
    source='Vaswani et al. 2017, "Attention Is All You Need", table 3, base',
    parameters="65 million (to the nearest million, vocabulary of about 37,000)",
    summary="shared and tied embeddings, scaled by sqrt(hidden_dim)",
)
def vaswani_base() -> TransformerSpec:
    return TransformerSpec(
        kind="encoder_decoder",
        vocabulary_size=37_000,
        num_layers=6,
        hidden_dim=512,
        intermediate_dim=2048,
        num_heads=8,
        max_sequence_length=1024,
        norm_placement="post",
        norm_epsilon=1e-6,
        positions="sinusoidal",
        activation="relu",
        dropout=0.1,
        embedding_dropout=0.1,
        scale_embeddings=True,
        tie_embeddings=True,
        share_embeddings=True,
    )


@register_variant(
    kinds=("encoder_decoder",),
    source='Vaswani et al. 2017, "Attention Is All You Need", table 3, big',
    parameters="213 million (to the nearest million, vocabulary of about 37,000)",
    summary="twice the width and heads of the base model, dropout 0.3",
)
def vaswani_big() -> TransformerSpec:
    return vaswani_base().replace(
        hidden_dim=1024, intermediate_dim=4096, num_heads=16, dropout=0.3, embedding_dropout=0.3
    )


@register_variant(
    kinds=("encoder_decoder",),
    source='TensorFlow text tutorial, "Neural machine translation with a Transformer and Keras"',
    parameters="10,184,162",
    summary="heads as wide as the model, dropout on attention weights but not on attention outputs",
)
def tf_tutorial() -> TransformerSpec:
    return TransformerSpec(
        kind="encoder_decoder",
        source_vocabulary_size=7765,
        vocabulary_size=7010,
        num_layers=4,
        hidden_dim=128,
        intermediate_dim=512,
        num_heads=8,
        head_dim=128,
        max_sequence_length=2048,
        norm_placement="post",
        norm_epsilon=1e-3,
        positions="sinusoidal_concat",
        activation="relu",
        dropout=0.0,
        feedforward_dropout=0.1,
        attention_dropout=0.1,
        embedding_dropout=0.1,
        scale_embeddings=True,
        logit_bias=True,
    )


@register_variant(
    kinds=("decoder_only",),
    source='Keras example "Text generation with a miniature GPT"',
    parameters="10,939,168",
    summary="a single block, heads as wide as the model, no final norm",
)
def mini_gpt() -> TransformerSpec:
    return TransformerSpec(
        vocabulary_size=20_000,
        num_layers=1,
        hidden_dim=256,
        intermediate_dim=256,
        num_heads=2,
        head_dim=256,
        max_sequence_length=80,
        norm_placement="post",
        norm_epsilon=1e-6,
        positions="learned",
        activation="relu",
        dropout=0.1,
        logit_bias=True,
        pad_token_id=None,  # the example does not mask padding
    )


@register_variant(
    kinds=("decoder_only",),
    source="the decoder of the TensorFlow text tutorial, used alone as a language model",
    summary="post-norm, heads as wide as the model, interleaved sinusoids, scaled embeddings",
)
def language_model_2023() -> TransformerSpec:
    return TransformerSpec(
        vocabulary_size=8000,
        num_layers=4,
        hidden_dim=128,
        intermediate_dim=512,
        num_heads=8,
        head_dim=128,
        max_sequence_length=256,
        norm_placement="post",
        norm_epsilon=1e-6,
        positions="sinusoidal",
        activation="relu",
        dropout=0.1,
        embedding_dropout=0.1,
        scale_embeddings=True,
        logit_bias=True,
    )
