"""Published architectures: families of models, with one row of data for each size.

Parameter counts equal those of the released weights exactly, unless the row says otherwise.
"""

from builders.published import gpt, llama, encoders, encoder_decoders, experts  # noqa: F401  isort: skip - in order
