"""The registry: built-in variants, their published numbers, and adding variants and components."""

import json
import re
import subprocess
import sys
import warnings
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from reference import parameter_count

import builders
from builders import components, registry

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


@pytest.fixture
def isolated_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace both registries by copies that a test may modify."""
    builders.list_variants()
    import_module("builders.models")  # a later import would not register its components again
    monkeypatch.setattr(registry, "_variants", dict(registry._variants))
    monkeypatch.setattr(components, "_components", dict(components._components))
    monkeypatch.setattr(components, "_loaded_groups", set(components._loaded_groups))


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


# Adding -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("isolated_registry")
def test_a_registered_variant_is_listed_and_returned_like_the_others() -> None:
    @builders.register_variant(kinds=("decoder_only",), source="a test", summary="tiny")
    def tiny() -> builders.TransformerSpec:
        return builders.TransformerSpec(
            vocabulary_size=31, num_layers=2, hidden_dim=14, num_heads=2
        )

    assert "tiny" in builders.list_variants()
    assert builders.variant("tiny", num_layers=3).num_layers == 3
    assert tiny().num_layers == 2


@pytest.mark.usefixtures("isolated_registry")
def test_a_variant_cannot_take_a_registered_name() -> None:
    def gpt2_small() -> builders.TransformerSpec:
        raise AssertionError("never called")

    register = builders.register_variant(kinds=("decoder_only",), source="a test", summary="other")
    with pytest.raises(ValueError, match="'gpt2_small' is registered already"):
        register(gpt2_small)


def spec_of_width(hidden_dim: int) -> builders.TransformerSpec:
    return builders.TransformerSpec(
        vocabulary_size=31, num_layers=1, hidden_dim=hidden_dim, num_heads=1
    )


def register_as(name: str):
    return builders.register_variant(
        kinds=("decoder_only",), source="a test", summary="one", name=name
    )


@pytest.mark.usefixtures("isolated_registry")
def test_a_partial_cannot_take_the_name_of_a_built_in_variant() -> None:
    published = builders.variant("gpt2_small")
    with pytest.raises(ValueError, match=r"'gpt2_small' is registered already, by builders\.spec"):
        register_as("gpt2_small")(partial(spec_of_width, 7))
    assert builders.variant("gpt2_small") == published


@pytest.mark.usefixtures("isolated_registry")
def test_another_function_of_the_same_module_cannot_take_a_registered_name() -> None:
    functions = [lambda: spec_of_width(7), lambda: spec_of_width(11), partial(spec_of_width, 13)]
    functions += [lambda width=width: spec_of_width(width) for width in (17, 19)]
    register_as("own")(functions[0])
    for other in functions[1:]:
        with pytest.raises(ValueError, match="'own' is registered already, by test_variants"):
            register_as("own")(other)
    register_as("own")(functions[0])
    assert builders.variant("own").hidden_dim == 7


@pytest.mark.usefixtures("isolated_registry")
def test_rerunning_a_definition_replaces_the_variant() -> None:
    code = "def own(): return make({width})\nregister(own)"
    for width in (7, 11):  # like an edited notebook cell
        namespace = {"make": spec_of_width, "register": register_as("own"), "__name__": "notebook"}
        exec(code.format(width=width), namespace)
    assert builders.variant("own").hidden_dim == 11
    for _ in range(2):
        register_as("partial")(partial(spec_of_width, 13))
    assert builders.variant("partial").hidden_dim == 13


def test_taking_a_built_in_name_before_loading_is_rejected_and_breaks_no_variant() -> None:
    code = """
import builders
try:
    @builders.register_variant(kinds=("decoder_only",), source="mine", summary="mine")
    def gpt2_small(): ...
except ValueError as error:
    print(error)
print(builders.variant("mini_gpt").hidden_dim)
"""
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert "variant 'gpt2_small' is registered already" in printed
    assert printed.endswith("256\n")


@pytest.mark.usefixtures("isolated_registry")
def test_the_kinds_and_the_result_of_a_variant_are_checked() -> None:
    for kinds in ("decoder_only", (), ("decoder",)):
        with pytest.raises(ValueError, match=r"kinds=.*must be a tuple of some of decoder_only, "):
            builders.register_variant(kinds=kinds, source="a test", summary="one")
    register_as("own")(lambda: {"num_layers": 1})
    with pytest.raises(TypeError, match=r"'own'.*must return a TransformerSpec, not dict"):
        builders.variant("own")
    with pytest.raises(ValueError, match="unknown kind 'decoder'"):
        builders.list_variants("decoder")


def test_a_component_has_a_name_and_can_be_called() -> None:
    with pytest.raises(ValueError, match="norm=None: must be a str"):
        builders.register_component("norm", None)
    with pytest.raises(TypeError, match="norm='own' takes a function or a class, not int"):
        builders.register_component("norm", "own")(3)


@pytest.mark.usefixtures("isolated_registry")
def test_methods_of_two_objects_and_recursive_closures_are_different_definitions() -> None:
    class Maker:
        def make(self):
            return spec_of_width(7)

    def recursive():
        def make():
            return spec_of_width(7) if make else None

        return make

    for first, second in ((Maker().make, Maker().make), (recursive(), recursive())):
        register_as("own")(first)
        with pytest.raises(ValueError, match="'own' is registered already"):
            register_as("own")(second)
        del registry._variants["own"]


@pytest.mark.parametrize("name", ["build_encoder_decoder", "build_encoder_only"])
def test_a_builder_rejects_another_kind_also_for_names(name: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be built as|takes a spec of kind="):
        getattr(builders, name)("pre_norm_learned", kind="decoder_only")


@pytest.mark.usefixtures("isolated_registry")
def test_a_partial_needs_an_explicit_variant_name() -> None:
    register = builders.register_variant(kinds=("decoder_only",), source="a test", summary="one")
    with pytest.raises(ValueError, match=r"needs name= for a partial, which has no __name__"):
        register(partial(spec_of_width, 7))


@pytest.mark.usefixtures("isolated_registry")
def test_a_component_may_be_a_partial_and_a_rejected_one_is_not_registered() -> None:
    scaled = partial(lambda x, factor: x * factor, factor=3)
    assert builders.register_component("activation", "scaled")(scaled) is scaled
    assert components.component("activation", "scaled")(2) == 6
    with pytest.raises(ValueError, match="activation='scaled' is registered already"):
        builders.register_component("activation", "scaled")(partial(scaled.func, factor=5))
    assert components.component("activation", "scaled") is scaled


@pytest.mark.usefixtures("isolated_registry")
def test_a_registered_component_is_an_allowed_value_of_specs() -> None:
    with pytest.raises(ValueError, match="'cube'"):
        builders.variant("gpt2_small", activation="cube")

    @builders.register_component("activation", "cube")
    def cube(x: Any) -> Any:
        return x * x * x

    assert builders.variant("gpt2_small", activation="cube").activation == "cube"
    with pytest.raises(
        ValueError, match=r"component field 'activations'.*did you mean 'activation'"
    ):
        builders.register_component("activations", "cube")
    with pytest.raises(ValueError, match="'cube' is registered already"):
        builders.register_component("activation", "cube")(abs)


class BrokenPlugin:
    """Entry point of an installed package that cannot be imported."""

    name, value = "broken", "broken_package.variants"

    def load(self) -> None:
        raise ImportError("no such thing")


@pytest.mark.usefixtures("isolated_registry")
def test_a_broken_plugin_is_reported_and_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "entry_points", lambda group: [BrokenPlugin()])
    components._loaded_groups.clear()
    with pytest.warns(UserWarning, match="broken_package.variants.*left out.*no such thing"):
        names = builders.list_variants()
    assert set(names) >= SHIPPED
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert builders.list_variants() == names
