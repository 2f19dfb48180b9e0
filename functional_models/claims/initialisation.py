"""Claims on models at initialisation. They are deterministic: the weights depend on seeds alone."""

from __future__ import annotations

from typing import Any

import numpy as np

import builders
import plots
from functional_models.claims.bands import (
    geometric_mean,
    log_slope,
    rank_correlation,
    verdict_of,
)
from functional_models.claims.claim import Figure, Measured, claim
from functional_models.claims.models import (
    analysed_spec,
    draw_weights,
    gradients_by_block,
    last_gradient,
    norm_jacobian_sizes,
    sequences,
    stream_sizes,
)

ANALYSED = (
    "An encoder in the setting of the paper's analysis: Xavier normal, one head, query and key "
    "kernels zero, d_ff = d, ReLU, unit normal inputs. The output projection, which the analysis "
    "of one head leaves out, is Xavier normal too."
)


@claim(
    statement="In a post-norm model, E|x|^2 of what enters the norm after a feed-forward layer is "
    "3/2 d in every block.",
    source="Xiong et al. 2020 (arXiv 2002.04745), lemma 2",
    band="every block within 5 % of 3/2",
    setting=f"{ANALYSED} Mean over 4 sequences of 16 tokens and over the seeds.",
)
def post_norm_stream(
    norm_placement: str = "post", width: int = 256, num_layers: int = 6, seeds: int = 12
) -> Measured:
    """Measure E|x|^2 / d of the sum after the feed-forward layer, before its norm."""
    spec = analysed_spec(norm_placement, num_layers, width)
    sizes = stream_sizes(spec, seeds).mean(axis=0)
    band = 1.5 * np.full(num_layers, 0.95), 1.5 * np.full(num_layers, 1.05)
    return Measured(
        _inside(sizes, *band),
        f"E|x|^2 / d is {sizes.min():.3f} to {sizes.max():.3f} in {num_layers} blocks.",
        {"by block": [*sizes]},
        _by_block("E|x|^2 / d before the norm", sizes, *band),
    )


@claim(
    statement="In a pre-norm model, E|x|^2 of the stream after l blocks is between (1 + l/2) d and "
    "(1 + 3 l/2) d.",
    source="Xiong et al. 2020 (arXiv 2002.04745), lemma 2",
    band="every block within both bounds",
    setting=f"{ANALYSED} Mean over 4 sequences of 16 tokens and over the seeds.",
)
def pre_norm_stream(
    norm_placement: str = "pre", width: int = 256, num_layers: int = 12, seeds: int = 8
) -> Measured:
    """Measure E|x|^2 / d of the stream after every block."""
    sizes = stream_sizes(analysed_spec(norm_placement, num_layers, width), seeds).mean(axis=0)
    blocks = np.array(_blocks(num_layers))
    low, high = 1 + blocks / 2, 1 + 1.5 * blocks
    return Measured(
        _inside(sizes, low, high),
        f"E|x|^2 / d grows from {sizes[0]:.2f} after block 1 ({low[0]:.2f} to {high[0]:.2f}) to "
        f"{sizes[-1]:.2f} after block {num_layers} ({low[-1]:.2f} to {high[-1]:.2f}).",
        {"by block": [*sizes]},
        _by_block("E|x|^2 / d of the stream", sizes, low, high),
    )


@claim(
    statement="The gradient of the last feed-forward kernel does not depend on the number of "
    "blocks L with post-norm, and falls as 1 / sqrt(L) with pre-norm.",
    source="Xiong et al. 2020 (arXiv 2002.04745), theorem 1: O(d sqrt(ln d)) and "
    "O(d sqrt(ln d / L))",
    band="log-log slope over L = 4 to 32: 0 +- 0.1 with post-norm, -0.5 +- 0.15 with pre-norm",
    setting=f"{ANALYSED} The loss is the cross-entropy of one position, as in the theorem; "
    "geometric mean over the seeds.",
)
def last_gradient_by_depth(
    post: str = "post",
    pre: str = "pre",
    width: int = 256,
    depths: tuple[int, ...] = (4, 8, 16, 32),
    seeds: int = 4,
) -> Measured:
    """Measure the gradient of the last kernel of models of several depths."""
    curves: dict[str, list[float]] = {}
    for label, placement in (("post-norm", post), ("pre-norm", pre)):
        rows = []
        for depth in depths:
            spec = analysed_spec(placement, depth, width)
            model = builders.build(spec)
            norms = []
            for seed in range(seeds):
                draw_weights(model, spec, seed)
                norms.append(last_gradient(model, seed))
            rows.append(norms)
        curves[label] = geometric_mean(np.transpose(rows).tolist())
    slopes = {label: log_slope(depths, norms) for label, norms in curves.items()}
    post_slope, pre_slope = slopes.values()
    return Measured(
        verdict_of(abs(post_slope) < 0.1 and abs(pre_slope + 0.5) < 0.15),
        f"The slope is {post_slope:+.3f} with post-norm and {pre_slope:+.3f} with pre-norm.",
        {"slopes": slopes, "depths": depths, "norms": curves},
        Figure(
            "number of blocks L",
            "gradient of the last kernel",
            {label: [depths, norms] for label, norms in curves.items()},
            log="xy",
        ),
    )


FIGURE_3 = (
    "8 heads, d_ff = 4 d, ReLU, sinusoidal positions, Xavier uniform; "
    "d = 128 instead of 512, random tokens instead of IWSLT14, geometric mean over the seeds."
)


@claim(
    statement="In the decoder of a 6-6 Transformer, the gradient of the feed-forward kernels grows "
    "with the block with post-norm, and is about equal with pre-norm.",
    source="Xiong et al. 2020 (arXiv 2002.04745), figure 3",
    band="Spearman correlation with the block above 0.8 with post-norm; largest / smallest below 3 "
    "with pre-norm",
    setting=f"An encoder-decoder of 6 and 6 blocks, {FIGURE_3}",
)
def gradient_by_block(
    post: str = "post", pre: str = "pre", width: int = 128, seeds: int = 3
) -> Measured:
    """Measure the gradient of the last feed-forward kernel of every decoder block."""
    return _gradient_by_block("encoder_decoder", post, pre, width, seeds)


@claim(
    statement="Also in a decoder without cross-attention, the gradient of the feed-forward kernels "
    "grows with the block with post-norm, and is about equal with pre-norm.",
    source="gradient_by_block carried over to another architecture; Xiong et al. 2020, figure 3, "
    "measure an encoder-decoder",
    band="as for gradient_by_block",
    setting=f"A decoder of 6 blocks, {FIGURE_3}",
)
def gradient_by_block_decoder_only(
    post: str = "post", pre: str = "pre", width: int = 128, seeds: int = 3
) -> Measured:
    """Measure the gradient of the last feed-forward kernel of every block."""
    return _gradient_by_block("decoder_only", post, pre, width, seeds)


def _gradient_by_block(kind: str, post: str, pre: str, width: int, seeds: int) -> Measured:
    norms = {}
    for label, placement in (("post-norm", post), ("pre-norm", pre)):
        spec = builders.TransformerSpec(
            kind=kind,
            vocabulary_size=1000,
            num_layers=6,
            hidden_dim=width,
            num_heads=8,
            positions="sinusoidal",
            norm_placement=placement,
            activation="relu",
            scale_embeddings=True,
            pad_token_id=None,
        )
        norms[label] = geometric_mean([gradients_by_block(spec, seed) for seed in range(seeds)])
    of_post, of_pre = norms.values()
    correlation, ratio = rank_correlation(of_post), max(of_pre) / min(of_pre)
    return Measured(
        verdict_of(correlation > 0.8 and ratio < 3),
        f"Post-norm: correlation {correlation:+.2f}, from {of_post[0]:.3f} in the first block to "
        f"{of_post[-1]:.3f} in the last. Pre-norm: largest / smallest {ratio:.2f}.",
        {"correlation": correlation, "ratio": ratio, "norms": norms},
        Figure(
            "block",
            "gradient of the kernel",
            {label: [_blocks(6), values] for label, values in norms.items()},
            log="y",
        ),
    )


@claim(
    statement="The Jacobian of a layer norm is of the size sqrt(d) / |x|.",
    source="Xiong et al. 2020 (arXiv 2002.04745), lemma 3",
    band="log-log slope of its spectral norm over the scale of x: -1 +- 0.02; the norm times "
    "|x| / sqrt(d) within 0.8 to 1.25 at every scale",
    setting="Unit normal x, d = 256, scaled by 1 to 64. The norm has gain 1, bias 0 and epsilon "
    "1e-5.",
)
def norm_jacobian(norm: str = "layer", width: int = 256, seed: int = 0) -> Measured:
    """Measure the spectral norm of the Jacobian of a norm, of inputs of several scales."""
    scales = [2.0**power for power in range(7)]
    point = np.random.default_rng(seed).standard_normal(width, "float32")
    sizes = norm_jacobian_sizes(norm, point, scales)
    length = float(np.linalg.norm(point))
    relative = [float(x) for x in np.multiply(sizes, scales) * length / width**0.5]
    slope = log_slope(scales, sizes)
    return Measured(
        verdict_of(abs(slope + 1) < 0.02 and all(0.8 < value < 1.25 for value in relative)),
        f"The slope is {slope:+.4f}, and the norm times |x| / sqrt(d) is {min(relative):.3f} to "
        f"{max(relative):.3f}.",
        {"slope": slope, "relative": relative},
        Figure("scale of x", "spectral norm of the Jacobian", {"measured": [scales, sizes]}, "xy"),
    )


@claim(
    statement="With a norm on the output of every branch, as in sandwich norm, the stream after l "
    "blocks has variance 1 + 2 l.",
    source="derived here, since each of the 2 l branches adds variance 1; agrees with Peri-LN (Kim "
    "et al. 2025, arXiv 2502.02732)",
    band="every block within 15 % of 1 + 2 l",
    setting=f"{ANALYSED} Mean over 4 sequences of 16 tokens and over the seeds.",
)
def sandwich_norm_stream(
    norm_placement: str = "sandwich", width: int = 256, num_layers: int = 12, seeds: int = 4
) -> Measured:
    """Measure E|x|^2 / d of the stream after every block."""
    sizes = stream_sizes(analysed_spec(norm_placement, num_layers, width), seeds).mean(axis=0)
    expected = 1 + 2 * np.array(_blocks(num_layers))
    error = 100 * (sizes / expected - 1)
    return Measured(
        _inside(sizes, 0.85 * expected, 1.15 * expected),
        f"The variance is {error.min():+.1f} to {error.max():+.1f} % from 1 + 2 l, "
        f"{sizes[-1]:.2f} after block {num_layers}.",
        {"by block": [*sizes]},
        _by_block("variance of the stream", sizes, 0.85 * expected, 1.15 * expected),
    )


@claim(
    statement="Without skip paths and norms, the gradient vanishes exponentially with depth.",
    source="standard (Glorot and Bengio 2010, section 4.2); derived here for Xavier and ReLU, "
    "where each feed-forward layer halves the square of the gradient: a factor of 0.71",
    band="log gradient over the block is a line with R^2 > 0.95, with a factor of 0.6 to 0.82 per "
    "block on the way to the input",
    setting=f"{ANALYSED} Without norms and skip paths; the gradient that leaves each block towards "
    "the input, geometric mean over the seeds. The last block is left out of the fit: attention "
    "first averages the gradients of the positions.",
)
def vanishing_gradient(
    merge: str = "none", width: int = 128, num_layers: int = 12, seeds: int = 4
) -> Measured:
    """Measure the gradient of the input of every block, and fit an exponential."""
    spec = analysed_spec("none", num_layers, width, merge=merge)
    model = builders.build(spec)
    rows = []
    for seed in range(seeds):
        draw_weights(model, spec, seed)
        profile: Any = plots.depth_profile(model, sequences(), seed=seed)
        # With skip paths too, where both are nearly orthogonal.
        norms = np.hypot(profile.skip_gradient, profile.branch_gradient)
        rows.append([*norms[::2]])  # attention begins a block
    norms = np.array(geometric_mean(rows))
    blocks = _blocks(num_layers)
    fitted = slice(None, -1)
    rate = np.polyfit(blocks[fitted], np.log(norms[fitted]), 1)
    line = np.polyval(rate, blocks)
    factor = float(np.exp(-rate[0]))
    r_squared = float(np.corrcoef(blocks[fitted], np.log(norms[fitted]))[0, 1] ** 2)
    return Measured(
        verdict_of(r_squared > 0.95 and 0.6 < factor < 0.82),
        f"The gradient falls by a factor of {factor:.3f} per block, with R^2 = {r_squared:.4f}; "
        f"{norms[0]:.2g} reaches the first of {num_layers} blocks, {norms[-1]:.2g} the last.",
        {"factor": factor, "r_squared": r_squared, "by block": [*norms]},
        Figure(
            "block",
            "gradient of the block's input",
            {"measured": [blocks, [*norms]], "band: the fit": [blocks, [*np.exp(line)]]},
            log="y",
        ),
    )


def _inside(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """Return the verdict on values that must all be within bounds."""
    return verdict_of(bool(np.all((low <= values) & (values <= high))))


def _by_block(upwards: str, values: np.ndarray, low: np.ndarray, high: np.ndarray) -> Figure:
    """Return the figure of a value of every block, with its bounds."""
    blocks = _blocks(len(values))
    curves = {"measured": values, "band, lower": low, "band, upper": high}
    return Figure("block", upwards, {label: [blocks, [*y]] for label, y in curves.items()})


def _blocks(number: int) -> list[int]:
    """Return the numbers of blocks, from 1."""
    return [*range(1, number + 1)]
