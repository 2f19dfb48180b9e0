"""The variant of this package. Does not import Keras, so that listing variants stays fast."""

import builders


@builders.register_variant(
    kinds=("decoder_only",),
    source="Chi et al. 2022, section 4.2, at a small size",
    summary="trained biases that fall with the logarithm of the distance",
)
def kerple_small() -> builders.TransformerSpec:
    """Return a spec of two pre-norm blocks with three heads."""
    return builders.TransformerSpec(
        vocabulary_size=31,
        num_layers=2,
        hidden_dim=15,
        num_heads=3,
        max_sequence_length=17,
        norm_placement="pre",
        positions="kerple",
    )
