"""Draw the pictures that the README shows: `make figures`."""

from __future__ import annotations

from pathlib import Path

import builders
import plots

HERE = Path(__file__).parent


def main() -> None:
    """Draw the skip paths of a post-norm and a pre-norm decoder, side by side."""
    models = {
        "post-norm: x = norm(x + f(x))": builders.build_decoder_only(
            "post_norm_sinusoidal", num_layers=2
        ),
        "pre-norm: x = x + f(norm(x))": builders.build_decoder_only(
            "pre_norm_learned", num_layers=2
        ),
    }
    plots.plot_side_by_side(models, HERE / "skip_paths.png", blocks=1, dpi=80)
    print(HERE / "skip_paths.png")


if __name__ == "__main__":
    main()
