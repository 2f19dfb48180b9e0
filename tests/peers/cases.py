"""Tiny models of every family that is read from folders of Hugging Face.

Each case: the class in transformers, and the settings of its configuration. Sizes are distinct
primes where the class allows that, and the texts of the tests are longer than the windows.
"""

import cases_encoder_decoders
import cases_encoders
import cases_experts
import cases_gpt
import cases_llama
from case_types import Cases

CASES: Cases = {
    **cases_gpt.CASES,
    **cases_llama.CASES,
    **cases_experts.CASES,
    **cases_encoders.CASES,
    **cases_encoder_decoders.CASES,
}
