"""Heads of Hugging Face for sequence classification, and the names of their classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from builders import TransformerSpec
from functional_models.conversion.family import Config, Rule

CLASSIFIES = "ForSequenceClassification"
"""End of the names of the classes with such a head."""

_SINGLE = "single_label_classification"


def _classes(config: Config) -> dict[str, Any]:
    """Read the names of the classes, which a class without such a head does not have."""
    [head] = config.get("architectures") or [""]
    if not head.endswith(CLASSIFIES):
        return {}
    if config["problem_type"] not in (_SINGLE, None):
        raise ValueError(
            f"problem_type={config['problem_type']!r}: must be {_SINGLE!r}, or absent; the classes "
            "of a spec exclude each other"
        )
    number, labels = config["num_labels"], config["id2label"]
    if labels is None:  # the names that transformers gives
        labels = {i: f"LABEL_{i}" for i in range(2 if number is None else number)}
    names = {int(key): name for key, name in labels.items()}
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"id2label={labels!r:.80}: must have the numbers from 0")
    if number not in (None, len(names)):
        raise ValueError(f"id2label={labels!r:.80} and num_labels={number!r}: remove one of them")
    return {"classes": tuple(names[i] for i in range(len(names)))}


def _written_classes(spec: TransformerSpec) -> dict[str, Any]:
    if not spec.classes:
        return {}
    return {
        "id2label": {str(i): name for i, name in enumerate(spec.classes)},
        "label2id": {name: i for i, name in enumerate(spec.classes)},
    }


CLASSES = Rule((), _classes, _written_classes, optional=("id2label", "num_labels", "problem_type"))


def classifier(name: str, activation: str = "tanh") -> dict[str, Mapping[str, Any]]:
    """Return the head of a classifier: a layer with an activation reads the first token."""
    fields = {"pooler": True, "pooler_activation": activation, "class_pooling": "first"}
    return {f"{name}{CLASSIFIES}": fields}
