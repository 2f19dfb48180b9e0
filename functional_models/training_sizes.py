"""Checks of a training by its sizes, so that one that cannot start needs no model."""

from __future__ import annotations

from collections.abc import Sequence

import builders
from builders.counting import custom_component
from builders.memory import check_memory
from builders.models import check_parameter_memory
from functional_models.batches import check_is_long
from functional_models.corpora import Corpus, TextCorpus
from functional_models.corpora.stored import count_characters
from functional_models.cross_entropy import CHUNK
from functional_models.recipe import Recipe
from functional_models.token_streams import token_stream
from functional_models.tokenizer_base import Tokenizer

_LONGEST_TOKEN = 16
"""Characters. Text with more of them for each token of a block is not encoded to be measured."""


def check_training_sizes(
    spec: builders.TransformerSpec,
    tokenizer: Tokenizer,
    corpus: Corpus,
    recipe: Recipe,
    *,
    elsewhere: bool = False,
) -> None:
    """Check that a model of a spec can be trained on a corpus, before it is built.

    Of pairs nothing is checked, since the length of a batch depends on them.

    Args:
        spec: of the model.
        tokenizer: of the corpus.
        corpus: the data.
        recipe: the recipe.
        elsewhere: whether other machines train it, whose memory is not known.

    Raises:
        ValueError: a part of the text is shorter than a block, or a step does not fit into memory.
    """
    if not isinstance(corpus, TextCorpus):
        return
    parts = {"training text": corpus.train, "validation text": corpus.validation}
    for what, documents in {**parts, "test text": corpus.test}.items():
        if documents or what == "training text":
            _check_length(spec, tokenizer, documents, what)
    if not elsewhere and not custom_component(spec):
        parameters = builders.count_parameters(spec).total
        check_parameter_memory(parameters)
        check_step_memory(spec, parameters, recipe, spec.max_sequence_length)


def _check_length(
    spec: builders.TransformerSpec, tokenizer: Tokenizer, documents: Sequence[str], what: str
) -> None:
    block = spec.max_sequence_length
    if spec.kind == "encoder_only":  # whose rows lie between start and end token
        block -= len(tokenizer.target_start) + 1
    if count_characters(documents) < _LONGEST_TOKEN * block:
        tokens = token_stream(documents, lambda: tokenizer, spec.vocabulary_size)
        check_is_long(len(tokens), block, what)


def check_step_memory(
    spec: builders.TransformerSpec, parameters: int, recipe: Recipe, longest: int
) -> None:
    """Check a lower bound of the memory of a step: features, a chunk of logits, weights.

    Args:
        spec: of the model.
        parameters: the number of its parameters.
        recipe: the recipe.
        longest: tokens of the longest row of a batch.

    Raises:
        ValueError: they do not fit into this machine.
    """
    rows = recipe.batch_size // recipe.gradient_accumulation
    tokens = rows * longest
    # A norm's output, a query, a key, a value and a hidden layer of each block, at the least.
    features = tokens * spec.num_layers * (4 * spec.hidden_dim + spec.intermediate_dim)
    logits = min(tokens, CHUNK) * spec.vocabulary_size
    # Weights and their gradients; moments; sums of gradients; averages.
    of_weights = 2 + {"adamw": 2, "muon": 1, "lion": 1, "adafactor": 0}[recipe.optimizer]
    of_weights += (recipe.gradient_accumulation > 1) + (recipe.ema_decay is not None)
    check_memory(
        4 * (features + 2 * logits + of_weights * parameters),  # logits have gradients
        f"the features of {rows:,} sequences of {longest:,} tokens, and weights,",
        f"reduce batch_size={recipe.batch_size:,}, compute it in parts with "
        "gradient_accumulation, or reduce the sizes of the model",
    )
