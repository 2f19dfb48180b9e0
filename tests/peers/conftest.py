"""Make the tests of this folder import packages in an order that works."""

import torch_first  # noqa: F401
