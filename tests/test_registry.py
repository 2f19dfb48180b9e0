"""Variants and components that users register."""

import warnings
from functools import partial
from typing import Any

import pytest
from python_process import run_python

import builders
from builders import components, registry

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
        with pytest.raises(ValueError, match="'own' is registered already, by test_registry"):
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
    printed = run_python(code)
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
    shipped = set(builders.list_variants())
    monkeypatch.setattr(components, "entry_points", lambda group: [BrokenPlugin()])
    components._loaded_groups.clear()
    with pytest.warns(UserWarning, match="broken_package.variants.*left out.*no such thing"):
        names = builders.list_variants()
    assert set(names) >= shipped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert builders.list_variants() == names
