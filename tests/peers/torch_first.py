"""Import the compiler of PyTorch before TensorFlow; triton 3.8 crashes after TensorFlow 2.21."""

from contextlib import suppress

with suppress(ImportError):  # only where PyTorch comes with it
    import triton  # noqa: F401
