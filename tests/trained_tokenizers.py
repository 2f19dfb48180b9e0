"""A trained tokenizer of each kind, for tests that do not modify them."""

import pytest

from functional_models.tokenizer_files import TOKENIZER_KINDS
from functional_models.tokenizer_training import train_tokenizer

TEXTS = [
    "O preço é de vinte e um reais, e não de R$ 1.234,56.",
    "The price is twenty-one reais, and not R$1,234.56.",
    "a aula começa às duas e meia da tarde; a loja fecha às 18:30",
    "the class begins at half past two; the shop closes at 6:30 PM",
] * 5


@pytest.fixture(scope="session")
def tokenizers():
    return {
        kind: train_tokenizer(kind, TEXTS, None if kind == "byte" else 400)
        for kind in TOKENIZER_KINDS
    }


@pytest.fixture(params=TOKENIZER_KINDS)
def tokenizer(request, tokenizers):
    return tokenizers[request.param]
