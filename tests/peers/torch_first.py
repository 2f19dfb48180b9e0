"""Import the compiler of PyTorch before TensorFlow; triton 3.8 crashes after TensorFlow 2.21.

Small models are fastest on one thread, above all where several processes compare models.
"""

import os
from contextlib import suppress

for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(name, "1")

with suppress(ImportError):  # only where PyTorch comes with it
    import triton  # noqa: F401
