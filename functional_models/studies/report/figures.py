"""Figures of a study for papers, as PNG and SVG: loss against tokens, and profiles by depth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from functional_models.studies.report.inside_charts import BY_DEPTH, Quantity
from functional_models.studies.report.profiles import END, INITIALISATION, STACKS, profile
from functional_models.studies.report.series import along, loss_curve
from functional_models.studies.results import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from plots import DepthPanel

FIGURES = "figures"
_FORMATS = ("png", "svg")


def write_figures(study: Study) -> list[Path]:
    """Write the figures of a study to its folder, and return their paths.

    Lines are means over seeds; bands reach from the smallest to the largest.
    """
    import plots

    paths = []
    for name, figure in figures(study):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # it is laid out, and not again for every format
        for suffix in _FORMATS:
            path = study.folder / FIGURES / f"{name}.{suffix}"
            paths.append(plots.save_figure(figure, path))
    return paths


def figures(study: Study) -> Iterator[tuple[str, Figure]]:
    """Yield the names and the figures of a study, of those that it has numbers for."""
    if (losses := _losses(study)) is not None:
        yield "loss_tokens", losses
    for time, short in ((INITIALISATION, "initialisation"), (END, "trained")):
        for stack in STACKS:
            if (by_depth := _by_depth(study, stack, time)) is not None:
                yield f"depth_{stack}_{short}", by_depth


def _losses(study: Study) -> Figure | None:
    """Draw the validation loss against tokens, with a band over seeds."""
    import plots

    histories: dict[str, Mapping[str, tuple[float, ...]]] = {}
    for setting in study.compared:
        curve = loss_curve(study, setting)
        places = None if curve is None else along(study, setting, curve, "tokens")
        if curve is None or places is None:
            continue
        has_band = curve.smallest != curve.largest
        band = {"low": curve.smallest, "high": curve.largest} if has_band else {}
        histories[setting.name] = {"step": places, "loss": curve.mean, **band}
    return plots.loss_curves(histories, across="target tokens") if histories else None


def _by_depth(study: Study, stack: str, time: str) -> Figure | None:
    import plots

    panels = [
        panel
        for quantity in BY_DEPTH
        if (panel := _panel(study, quantity, stack, time)) is not None
    ]
    if not panels:
        return None
    return plots.depth_profiles(panels, f"sublayer of the {stack}", time, first=1)


def _panel(study: Study, quantity: Quantity, stack: str, time: str) -> DepthPanel | None:
    """Return the panel of a quantity, with gaps for sublayers that do not have it."""
    import plots

    curves: dict[str, dict[str, plots.Band]] = {}
    for setting in study.compared:
        for way, measurement in quantity.curves.items():
            found = profile(study, setting.name, measurement, time, stack)
            if found is None:
                continue
            by_depth = {depth: number for number, depth in enumerate(found.depths)}
            numbers = [by_depth.get(depth) for depth in range(1, max(found.depths) + 1)]
            ends = (
                [None if number is None else values[number] for number in numbers]
                for values in (found.mean, found.low, found.high)
            )
            curves.setdefault(setting.name, {})[way] = plots.Band(*ends)
    return plots.DepthPanel(quantity.upwards, curves, quantity.scale) if curves else None
