"""Positions of the reference Transformer, in NumPy float64; see `reference`."""

import math

import numpy as np
from reference_spec import Weights
from reference_streams import owner


def sinusoidal_positions(length: int, d: int) -> np.ndarray:
    """PE(p, 2i) = sin(p / 10000^(2i/d)), PE(p, 2i+1) = cos of the same angle; shape (length, d)."""
    table = np.zeros((length, d))
    for position in range(length):
        for channel in range(d):
            angle = position / 10000.0 ** (2 * (channel // 2) / d)
            table[position, channel] = math.sin(angle) if channel % 2 == 0 else math.cos(angle)
    return table


def sinusoidal_concat_positions(length: int, d: int) -> np.ndarray:
    """All sines, then all cosines, as in the TensorFlow text tutorial; shape (length, d)."""
    half = d // 2
    table = np.zeros((length, d))
    for position in range(length):
        for channel in range(half):
            angle = position * (1.0 / 10000.0 ** (channel / half))
            table[position, channel] = math.sin(angle)
            table[position, half + channel] = math.cos(angle)
    return table


def add_coordinates(spec: dict, index: int, x: np.ndarray) -> np.ndarray:
    """Return x (b, t, d) plus P^t of block `index` (Dehghani et al. 2019, equations 5 and 6)."""
    if spec["positions"] != "coordinates":
        return x
    length, d = x.shape[1:]
    sines = sinusoidal_positions(max(length, index + 2), d)
    return x + sines[:length] + sines[index + 1]


def rotary_frequencies(spec: dict, length: int) -> tuple[list[float], float]:
    """Return the radians per position of every pair of channels, and the factor of the rotation."""
    r, factor, scaling = spec["rotary_dim"], spec["rotary_factor"], spec["rotary_scaling"]
    original = spec["rotary_original_length"]
    slow, fast = spec["rotary_low_freq_factor"], spec["rotary_high_freq_factor"]
    found = []
    for pair in range(r // 2):
        frequency = spec["rotary_base"] ** (-2.0 * pair / r)
        wavelength = 2.0 * math.pi / frequency
        if scaling == "linear":
            frequency /= factor
        elif scaling == "llama3":
            if wavelength > original / slow:
                frequency /= factor
            elif wavelength > original / fast:
                smooth = (original / wavelength - slow) / (fast - slow)
                frequency = (1.0 - smooth) * frequency / factor + smooth * frequency
        elif scaling == "yarn":

            def dimension(rotations: float) -> float:
                return (
                    r
                    * math.log(original / (rotations * 2.0 * math.pi))
                    / (2.0 * math.log(spec["rotary_base"]))
                )

            low, high = dimension(fast), dimension(slow)
            if spec["rotary_whole_pairs"]:
                low, high = math.floor(low), math.ceil(high)
            low, high = max(low, 0), min(high, r - 1)
            if low == high:
                high += 0.001
            ramp = min(max((pair - low) / (high - low), 0.0), 1.0)
            frequency = frequency / factor * ramp + frequency * (1.0 - ramp)
        elif scaling == "longrope":
            name = "rotary_long_factors" if length > original else "rotary_short_factors"
            frequency /= spec[name][pair]
        elif scaling != "none":
            raise ValueError(f"the reference has no rotary scaling {scaling!r}")
        found.append(frequency)
    magnitude = {
        "yarn": 0.1 * math.log(factor) + 1.0,
        "longrope": math.sqrt(1.0 + math.log(factor) / math.log(original)),
    }.get(scaling, 1.0)
    return found, spec["rotary_magnitude"] or magnitude


def rotate(spec: dict, x: np.ndarray) -> np.ndarray:
    """Rotate channels i and i + r/2 of heads (b, t, n, h) as points in the plane."""
    frequencies, magnitude = rotary_frequencies(spec, x.shape[1])
    half = spec["rotary_dim"] // 2
    output = x.copy()
    for position in range(x.shape[1]):
        for pair, frequency in enumerate(frequencies):
            angle = position * frequency
            rotation = magnitude * np.exp(1j * angle)
            points = (x[:, position, :, pair] + 1j * x[:, position, :, pair + half]) * rotation
            output[:, position, :, pair] = points.real
            output[:, position, :, pair + half] = points.imag
    return output


def alibi_slopes(heads: int) -> list[float]:
    if math.log2(heads).is_integer():
        return [2.0 ** (-8.0 * (head + 1) / heads) for head in range(heads)]
    power = 2 ** math.floor(math.log2(heads))
    return alibi_slopes(power) + alibi_slopes(2 * power)[0::2][: heads - power]


def t5_bucket(spec: dict, ahead: int, causal: bool) -> int:
    """Return the bucket of a key that is `ahead` tokens after the query."""
    number, first = spec["relative_buckets"], 0
    distance = max(-ahead, 0)
    if not causal:
        number //= 2
        distance, first = abs(ahead), number if ahead > 0 else 0
    exact = number // 2
    if distance < exact:
        return first + distance
    share = math.log(distance / exact) / math.log(spec["relative_max_distance"] / exact)
    return first + min(exact + int(share * (number - exact)), number - 1)


def score_bias(
    spec: dict, weights: Weights, side: str, length: int, causal: bool, block: int = 0
) -> np.ndarray | float:
    """Return the position bias of the self-attention scores of a block, (n, t, t)."""
    if spec["relative_by_block"]:
        side = f"{side}.block_{owner(spec, block)}.self_attention"
    bias = np.zeros((spec["num_heads"], length, length))
    for query in range(length):
        for key in range(length):
            if spec["positions"] == "alibi":
                bias[:, query, key] = -abs(query - key) * np.array(alibi_slopes(len(bias)))
            elif spec["positions"] == "relative":
                row = t5_bucket(spec, key - query, causal)
                bias[:, query, key] = weights[f"{side}.relative_position_bias.embeddings"][row]
    return bias
