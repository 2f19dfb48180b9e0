"""The registry: built-in variants, their published numbers, and adding variants and components."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from reference_weights import parameter_count

import builders

ROOT = Path(__file__).parent.parent
CORNERS = ("post_norm_sinusoidal", "post_norm_learned", "pre_norm_sinusoidal", "pre_norm_learned")
SHIPPED = {
    *CORNERS,
    "vaswani_base",
    "vaswani_big",
    "gpt2_small",
    "tf_tutorial",
    "mini_gpt",
    "language_model_2023",
}


def parameters_of(name: str, **changes: Any) -> int:
    return parameter_count(json.loads(builders.variant(name, **changes).to_json()))


# Built-in variants ------------------------------------------------------------------------------


def test_all_built_in_variants_are_listed_once() -> None:
    names = builders.list_variants()
    assert set(names) >= SHIPPED
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", builders.list_variants())
def test_every_variant_names_its_source_and_survives_a_json_round_trip(name: str) -> None:
    info = builders.variant_info(name)
    assert info.name == name
    assert info.source
    assert info.summary
    assert "\n" not in info.summary
    for kind in info.kinds:
        spec = builders.variant(name, kind=kind)
        assert spec.kind == kind
        assert builders.TransformerSpec.from_json(spec.to_json()) == spec
    assert builders.variant(name).kind == info.kinds[0]


def test_listing_by_kind_returns_the_variants_of_that_kind() -> None:
    decoders = builders.list_variants("decoder_only")
    translators = builders.list_variants("encoder_decoder")
    assert {"gpt2_small", "mini_gpt", "language_model_2023", *CORNERS} <= set(decoders)
    assert {"vaswani_base", "vaswani_big", "tf_tutorial", *CORNERS} <= set(translators)
    assert "gpt2_small" not in translators
    assert "tf_tutorial" not in decoders


WITH_PUBLISHED_COUNT = [
    name for name in builders.list_variants() if builders.variant_info(name).parameters
]


@pytest.mark.parametrize("name", WITH_PUBLISHED_COUNT)
def test_parameter_counts_equal_the_published_ones(name: str) -> None:
    """Exactly if the source gives all digits, otherwise within its rounding."""
    published = builders.variant_info(name).parameters
    number = re.match(r"[\d.,]+", published)
    assert number
    value = float(number[0].replace(",", ""))
    if published[number.end() :].startswith(" million"):
        assert parameters_of(name) == pytest.approx(value * 1e6, rel=0.04)
    elif published[number.end() :].startswith(" billion"):
        assert parameters_of(name) == pytest.approx(value * 1e9, rel=0.04)
    else:
        assert "," in number[0]
        assert parameters_of(name) == value


@pytest.mark.parametrize("name", builders.list_variants())
def test_parameters_counted_by_component_equal_the_formula(name: str) -> None:
    counts = builders.count_parameters(builders.variant(name))
    assert counts.total == sum(counts.values()) == parameters_of(name)
    assert all(count >= 0 for count in counts.values())


def test_a_block_has_four_square_matrices_in_attention_and_eight_in_the_feedforward() -> None:
    spec = builders.variant("gpt2_xl", attention_bias=False, feedforward_bias=False)
    counts = builders.count_parameters(spec)
    square = spec.num_layers * spec.hidden_dim**2
    assert counts.attention == 4 * square
    assert counts["feedforward"] == 8 * square


@pytest.mark.usefixtures("isolated_registry")
@pytest.mark.parametrize("hook", ["rotate", "bias"])
def test_the_keras_attention_layer_rejects_positions_inside_attention(hook) -> None:
    from builders.positions import PositionScheme

    hooks = {
        "rotate": lambda self, scope, x, positions, name: x,
        "bias": lambda self, scope, queries, keys, causal: queries,
    }
    own = type("Own", (PositionScheme,), {hook: hooks[hook]})
    builders.register_component("positions", "own")(own)
    spec = builders.variant("mini_gpt", positions="own", attention="layer")
    with pytest.raises(ValueError, match=r"positions='own'.*attention='layer'.*use attention='gr"):
        builders.build_decoder_only(spec, abstract=True)


@pytest.mark.usefixtures("isolated_registry")
def test_counting_parameters_of_a_custom_component_raises_an_error() -> None:
    builders.register_component("norm_placement", "twice")(lambda *_: None)
    with pytest.raises(ValueError, match=r"norm_placement='twice'.*abstract=True.*count_params"):
        builders.count_parameters(builders.variant("gpt2_small", norm_placement="twice"))


@pytest.mark.parametrize(
    ("name", "published", "ours"), [("vaswani_base", 65e6, 63.1e6), ("vaswani_big", 213e6, 214.2e6)]
)
def test_parameter_counts_equal_those_of_attention_is_all_you_need_within_rounding(
    name: str, published: float, ours: float
) -> None:
    """The paper gives "about 37,000" tokens and rounds counts to the million."""
    assert parameters_of(name) == pytest.approx(ours, rel=1e-3)
    assert parameters_of(name) == pytest.approx(published, rel=0.04)


def test_the_four_corners_differ_only_in_norm_placement_and_positions() -> None:
    for kind in ("decoder_only", "encoder_decoder"):
        specs = {name: builders.variant(name, kind=kind) for name in CORNERS}
        for name, spec in specs.items():
            placement, positions = name.split("_norm_")
            assert (spec.norm_placement, spec.positions) == (placement, positions)
            assert spec.final_norm is (placement == "pre")
        common = [
            {
                key: value
                for key, value in spec.to_dict().items()
                if key not in ("norm_placement", "positions", "scale_embeddings")
            }
            for spec in specs.values()
        ]
        assert all(fields == common[0] for fields in common)


EXPECTED: dict[str, dict[str, Any]] = {
    "vaswani_base": {
        "num_layers": 6,
        "num_encoder_layers": 6,
        "hidden_dim": 512,
        "intermediate_dim": 2048,
        "num_heads": 8,
        "head_dim": 64,
        "dropout": 0.1,
        "embedding_dropout": 0.1,
        "attention_dropout": 0.0,
        "norm_placement": "post",
        "positions": "sinusoidal",
        "activation": "relu",
        "scale_embeddings": True,
        "tie_embeddings": True,
        "share_embeddings": True,
        "logit_bias": False,
        "final_norm": False,
    },
    "vaswani_big": {
        "num_layers": 6,
        "hidden_dim": 1024,
        "intermediate_dim": 4096,
        "num_heads": 16,
        "head_dim": 64,
        "dropout": 0.3,
        "embedding_dropout": 0.3,
        "positions": "sinusoidal",
    },
    "gpt2_small": {
        "kind": "decoder_only",
        "vocabulary_size": 50_257,
        "num_layers": 12,
        "hidden_dim": 768,
        "intermediate_dim": 3072,
        "num_heads": 12,
        "max_sequence_length": 1024,
        "norm_placement": "pre",
        "final_norm": True,
        "norm_epsilon": 1e-5,
        "positions": "learned",
        "activation": "gelu_tanh",
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "embedding_dropout": 0.1,
        "tie_embeddings": True,
        "logit_bias": False,
        "scale_embeddings": False,
        "pad_token_id": None,
        "initializer": "depth_scaled",
        "initializer_range": 0.02,
    },
    "tf_tutorial": {
        "kind": "encoder_decoder",
        "vocabulary_size": 7010,
        "source_vocabulary_size": 7765,
        "num_layers": 4,
        "num_encoder_layers": 4,
        "hidden_dim": 128,
        "intermediate_dim": 512,
        "num_heads": 8,
        "head_dim": 128,
        "activation": "relu",
        "norm_placement": "post",
        "final_norm": False,
        "norm_epsilon": 1e-3,
        "positions": "sinusoidal_concat",
        "scale_embeddings": True,
        "dropout": 0.0,
        "embedding_dropout": 0.1,
        "attention_dropout": 0.1,
        "feedforward_dropout": 0.1,
        "tie_embeddings": False,
        "share_embeddings": False,
        "logit_bias": True,
        "pad_token_id": 0,
    },
    "mini_gpt": {
        "kind": "decoder_only",
        "vocabulary_size": 20_000,
        "max_sequence_length": 80,
        "num_layers": 1,
        "hidden_dim": 256,
        "num_heads": 2,
        "head_dim": 256,
        "intermediate_dim": 256,
        "activation": "relu",
        "norm_placement": "post",
        "final_norm": False,
        "norm_epsilon": 1e-6,
        "dropout": 0.1,
        "feedforward_dropout": 0.1,
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "positions": "learned",
        "scale_embeddings": False,
        "tie_embeddings": False,
        "logit_bias": True,
    },
    "language_model_2023": {
        "kind": "decoder_only",
        "positions": "sinusoidal",
        "scale_embeddings": True,
        "norm_placement": "post",
        "norm_epsilon": 1e-6,
        "activation": "relu",
        "dropout": 0.1,
        "feedforward_dropout": 0.1,
        "embedding_dropout": 0.1,
        "attention_dropout": 0.0,
        "logit_bias": True,
        "tie_embeddings": False,
    },
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_variant_has_the_fields_of_its_source(name: str) -> None:
    spec = builders.variant(name)
    assert {field: getattr(spec, field) for field in EXPECTED[name]} == EXPECTED[name]


def test_heads_of_language_model_2023_are_as_wide_as_the_model() -> None:
    spec = builders.variant("language_model_2023")
    assert spec.head_dim == spec.hidden_dim
    assert spec.num_heads > 1


# Changes and errors -----------------------------------------------------------------------------


def test_changes_apply_before_fields_are_derived() -> None:
    spec = builders.variant("gpt2_small", hidden_dim=96, num_layers=2)
    assert (spec.head_dim, spec.intermediate_dim, spec.num_layers) == (8, 384, 2)


@pytest.mark.parametrize(
    ("given", "close"),
    [("gpt2_smal", "gpt2_small"), ("vaswani", "vaswani_b"), ("minigpt", "mini_gpt")],
)
def test_the_error_for_an_unknown_variant_suggests_the_closest_and_how_to_list_all(
    given: str, close: str
) -> None:
    with pytest.raises(ValueError, match=f"{given!r}.*did you mean '{close}") as error:
        builders.variant(given)
    number = len(builders.list_variants())
    assert str(error.value).endswith(f"builders.list_variants() lists all {number}")


def test_unknown_fields_and_bad_values_and_kinds_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"'layers'.*num_layers"):
        builders.variant("gpt2_small", layers=2)
    with pytest.raises(ValueError, match=r"num_layers=0.*positive"):
        builders.variant("gpt2_small", num_layers=0)
    with pytest.raises(
        ValueError,
        match=r"'gpt2_small' cannot be built as 'encoder_decoder'; allowed",
    ):
        builders.variant("gpt2_small", kind="encoder_decoder")


@pytest.mark.parametrize("name", ["build_encoder_decoder", "build_encoder_only"])
def test_a_builder_rejects_another_kind_also_for_names(name: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be built as|takes a spec of kind="):
        getattr(builders, name)("pre_norm_learned", kind="decoder_only")
