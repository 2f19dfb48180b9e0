"""Small models of tokens for `plots.check`, and what it says of a property of them."""

import keras
from keras import layers, ops

import plots

TOKENS, WIDTH, HEADS = 23, 6, 2


def ids(name=None, length=None):
    return keras.Input((length,), dtype="int32", name=name)


def embedded(tokens, mask_zero=False, positions=True):
    x = layers.Embedding(TOKENS, WIDTH, mask_zero=mask_zero)(tokens)
    if positions:
        x = x + layers.Embedding(64, WIDTH)(ops.cumsum(ops.ones_like(tokens), axis=1) - 1)
    return x


def attended(x, memory=None, **options):
    memory = x if memory is None else memory
    return x + layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(x, memory, **options)


def causal(x):
    return attended(x, use_causal_mask=True)


def tagger(*sublayers, length=None, positions=True, name=None):
    """Return a model from tokens to a score for each token of the vocabulary."""
    tokens = ids(length=length)
    x = embedded(tokens, positions=positions)
    for sublayer in sublayers:
        x = sublayer(x)
    return keras.Model(tokens, layers.Dense(TOKENS)(x), name=name)


def found(model, name, kinds=("finding", "remark")):
    return [c for c in plots.check(model) if c.property == name and c.note.kind in kinds]


def verdicts(model, name):
    return [c.verdict for c in plots.check(model) if c.property == name]
