"""Models of keras-nlp as models of ours, and back; a module for each family of backbones."""

from functional_models.conversion.convert import from_keras_hub, to_keras_hub

__all__ = ["from_keras_hub", "to_keras_hub"]
