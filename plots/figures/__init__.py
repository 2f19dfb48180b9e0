"""Figures for lectures and papers. Every function returns a matplotlib `Figure`.

    save_figure(loss_curves(histories), "loss.png")

They create a `Figure` directly and never use `pyplot`, so they need no display, leave no window
open, and are thread-safe. Arrays may be anything that NumPy can convert.
"""

from __future__ import annotations

from plots.figures.attention import attention_heads, attention_mask, common_masks
from plots.figures.curves import History, learning_rate_curves, loss_curves, signal_propagation
from plots.figures.models import parameter_bars, variants_page
from plots.figures.positions import position_encodings, sinusoids
from plots.figures.style import save_figure

__all__ = [
    "History",
    "attention_heads",
    "attention_mask",
    "common_masks",
    "learning_rate_curves",
    "loss_curves",
    "parameter_bars",
    "position_encodings",
    "save_figure",
    "signal_propagation",
    "sinusoids",
    "variants_page",
]
