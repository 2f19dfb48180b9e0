"""Published architectures: families of models, with one row of data for each size.

Parameter counts equal those of the released weights exactly, unless the row says otherwise.
"""

from builders.published import (  # noqa: F401  isort: skip - in order
    gpt,
    parallel,
    llama,
    gemma,
    qwen,
    experts,
    gpt_oss,
    llama4,
    deepseek,
    phi,
    olmo,
    granite,
    encoders,
    encoder_decoders,
)
