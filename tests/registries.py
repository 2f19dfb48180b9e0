"""A fixture that keeps changes of the registries within a test."""

from importlib import import_module

import pytest

import builders
from builders import components, registry


@pytest.fixture
def isolated_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace both registries by copies that a test may modify."""
    builders.list_variants()
    import_module("builders.models")  # a later import would not register its components again
    monkeypatch.setattr(registry, "_variants", dict(registry._variants))
    monkeypatch.setattr(components, "_components", dict(components._components))
    monkeypatch.setattr(components, "_loaded_groups", set(components._loaded_groups))
