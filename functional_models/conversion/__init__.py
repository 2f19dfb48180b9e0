"""Conversion of KerasHub models; one module of tables for each group of backbones."""

from functional_models.conversion.convert import from_keras_hub, to_keras_hub

__all__ = ["from_keras_hub", "to_keras_hub"]
