"""Figures of numbers, for lectures and papers. Every function returns a matplotlib `Figure`.

    save_figure(loss_curves(histories), "loss.png")

They make a `Figure` directly and never touch `pyplot`, so they need no display, leave no window
open, and can be used from several threads. Arrays may be anything that NumPy can read.
"""

from __future__ import annotations

from plots.figures.attention import attention_heads
from plots.figures.learning_rates import learning_rate_curves
from plots.figures.losses import History, loss_curves
from plots.figures.masks import attention_mask, common_masks
from plots.figures.parameters import parameter_bars
from plots.figures.positions import position_encodings, sinusoids
from plots.figures.save import save_figure
from plots.figures.signals import signal_propagation
from plots.figures.variants import variants_page

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
