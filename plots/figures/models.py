"""Compare models: parameters by component, and a page of outlines side by side."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from plots.annotations import number_text, percent_text
from plots.arguments import check_mapping
from plots.figures import COLOURS, GRID, new_figure, write_names_as_text
from plots.folding.outline import outline
from plots.graph import Graph, Node
from plots.hierarchy import enclosing_block
from plots.reading import read_graph
from plots.renderers.dot import graphs_to_dot
from plots.renderers.graphviz import render_dot

if TYPE_CHECKING:
    import keras
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure

Counts = Mapping[str, int]
"""Component -> number of parameters."""

PAGE_INCHES = (11.0, 8.27)
"""Width of US Letter and height of A4, in landscape: fits both."""

_HATCHES = (None, "////", "....", "xxxx")  # for more components than colours
_MIN_SHARE_WITH_TEXT = 5.0  # percent
_PICTURE_DPI = 200
_MAX_COMPONENTS = 7  # rows of the table; smaller components are summed as "other"
_ROW_INCHES = 0.21


def parameter_bars(counts: Counts | Mapping[str, Counts], title: str | None = None) -> Figure:
    """Draw parameters by component: a bar each for one model, a stacked bar per model for several.

    Args:
        counts: Component -> number of parameters; or, for several models, model -> such a mapping.
            Components that a model lacks may be missing or 0.
        title: Title of the figure.

    Returns:
        For one model, a figure with a bar for each component that has parameters, largest first,
        with its number and share. For several, two panels: numbers, and shares in percent.

    Raises:
        ValueError: if there is no model or component, a count is not a whole number of 0 or more,
            or a model has no parameters at all.
    """
    if isinstance(counts, Graph):
        raise TypeError(
            "parameter_bars takes a mapping component -> number of parameters; for a graph, use "
            "{node.id: node.parameters for node in graph.nodes if node.owns_weights}"
        )
    check_mapping(counts, "parameter_bars", "counts", "component -> number of parameters")
    several = [isinstance(value, Mapping) for value in counts.values()]
    if any(several) and not all(several):
        raise ValueError(
            "counts mixes numbers and mappings; it must be component -> number for one model, or "
            "model -> (component -> number) for several"
        )
    if all(several):
        models = cast("Mapping[str, Counts]", counts)
        for model, components in models.items():
            _check_counts(f"model {model!r}", components)
        return _stacked(models, title)
    _check_counts("the model", cast("Counts", counts))
    return _ranked(cast("Counts", counts), title)


def _check_counts(model: str, components: Counts) -> None:
    for component, count in components.items():
        if isinstance(count, bool) or not hasattr(count, "__index__") or count < 0:
            raise ValueError(
                f"component {component!r} of {model} has {count!r} parameters; it must be a whole "
                "number, 0 or more"
            )
    if not sum(components.values()):
        raise ValueError(f"{model} has no parameters, so there is nothing to draw")


def _ranked(components: Counts, title: str | None) -> Figure:
    total = sum(components.values())
    # Bars are numbered upwards: the largest is last, at the top.
    ranked = sorted(((c, n) for c, n in components.items() if n), key=lambda pair: pair[1])
    figure = new_figure(7.5, 0.34 * len(ranked) + 1.2, title)
    panel = figure.subplots()
    bars = panel.barh(range(len(ranked)), [count for _, count in ranked], color=COLOURS[0])
    texts = [f"{number_text(count)}  ({percent_text(count / total)})" for _, count in ranked]
    panel.bar_label(bars, texts, padding=4, fontsize=9)
    panel.margins(x=0.22)  # room for the texts
    _finish_bars(panel, f"parameters, of {number_text(total)}", [name for name, _ in ranked])
    panel.xaxis.set_major_formatter(lambda count, _: number_text(count))
    return figure


def _stacked(models: Mapping[str, Counts], title: str | None) -> Figure:
    names = list(dict.fromkeys(name for counts in models.values() for name in counts))
    names = [name for name in names if any(counts.get(name) for counts in models.values())]
    totals = [sum(counts.values()) for counts in models.values()]
    stack = {name: [counts.get(name, 0) for counts in models.values()] for name in names}
    shares = {
        name: [100 * count / total for count, total in zip(counts, totals, strict=True)]
        for name, counts in stack.items()
    }
    figure = new_figure(12, 0.42 * len(models) + 1.9, title)
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_stack(left, stack)
    for row, total in enumerate(totals):
        left.annotate(
            number_text(total), (total, row), (4, 0), textcoords="offset points", va="center"
        )
    left.margins(x=0.14)  # room for the totals
    left.invert_yaxis()  # the first model at the top; the axis is shared
    left.xaxis.set_major_formatter(lambda count, _: number_text(count))
    _finish_bars(left, "parameters", list(models))
    for bars in _draw_stack(right, shares):
        _write_shares(right, bars)
    right.set_xlim(0, 100)
    _finish_bars(right, "share (%)", list(models))
    right.tick_params(labelleft=False)
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": min(len(names), 6)}
    handles = left.get_legend_handles_labels()[0]
    write_names_as_text(figure.legend(handles=handles, frameon=False, **place))
    return figure


def _draw_stack(panel: Axes, stack: Mapping[str, Sequence[float]]) -> list[BarContainer]:
    """Draw one bar per row for each component, next to that of the previous component."""
    starts: list[float] = [0.0] * len(next(iter(stack.values())))
    drawn = []
    for number, (name, widths) in enumerate(stack.items()):
        style: dict[str, Any] = {
            "color": COLOURS[number % len(COLOURS)],
            "hatch": _HATCHES[number // len(COLOURS) % len(_HATCHES)],
            "edgecolor": "#FFFFFF",
            "linewidth": 0.8,
        }
        drawn.append(panel.barh(range(len(widths)), widths, left=starts, label=name, **style))
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    return drawn


def _write_shares(panel: Axes, bars: BarContainer) -> None:
    """Write percentages into wide bars, legible on every colour and hatch."""
    shares = [bar.get_width() for bar in bars]
    texts = [f"{share:.0f}" if share >= _MIN_SHARE_WITH_TEXT else "" for share in shares]
    background = {"facecolor": "#FFFFFF", "edgecolor": "none", "pad": 1.2, "alpha": 0.85}
    for text in panel.bar_label(bars, texts, label_type="center", fontsize=8):
        if text.get_text():
            text.set_bbox(background)


def _finish_bars(panel: Axes, across: str, rows: Sequence[str]) -> None:
    panel.set_yticks(range(len(rows)), rows, parse_math=False)  # literal names
    panel.set_xlabel(across)
    panel.grid(True, axis="x", color=GRID, linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)


def variants_page(models: Mapping[str, keras.Model | Graph], title: str | None = None) -> Figure:
    """Draw models side by side on one landscape page, with a table of their parameters.

    Each model is drawn as an outline: the streams, the norms, and one node for each sublayer and
    for the embeddings (see `plots.folding.outline`). Equal blocks are drawn once, masks are left
    out.

    Args:
        models: Title -> model or graph, from left to right. With four decoders or two
            encoder-decoders the names are 6 points high, with four encoder-decoders 4.
        title: Title of the page.

    Returns:
        A figure of 11 x 8.27 inches. For print save it with 300 dots per inch.

    Raises:
        TypeError: if a value is not a Keras model, or a subclassed one, which has no graph.
        ValueError: if there is no model, or one that is not built.
    """
    check_mapping(models, "variants_page", "models", "title -> model")
    graphs = {
        name: model if isinstance(model, Graph) else read_graph(model)
        for name, model in models.items()
    }
    picture, rows = _picture(graphs), _table_rows(graphs)
    width, height = PAGE_INCHES
    table_inches = _ROW_INCHES * (len(rows) + 1)
    free = height - 0.6 - table_inches  # the rest is for the title
    picture_inches = min(free, (width - 0.2) * picture.shape[0] / picture.shape[1])
    figure = new_figure(width, height, title)
    ratios = (picture_inches, table_inches, max(free - picture_inches, 0.01))
    above, below, margin = figure.subplots(3, 1, height_ratios=ratios)
    above.imshow(picture)
    for panel in (above, below, margin):
        panel.set_axis_off()
    _draw_table(below, list(graphs), rows)
    return figure


def _picture(graphs: Mapping[str, Graph]) -> np.ndarray:
    """Return the outlines of the graphs side by side, as pixels (rows, columns, channels)."""
    import numpy as np
    from matplotlib.image import imread

    outlines = {name: outline(graph) for name, graph in graphs.items()}
    png = render_dot(graphs_to_dot(outlines, dpi=_PICTURE_DPI), "png")
    return np.asarray(imread(io.BytesIO(png), format="png"))


def _draw_table(panel: Axes, titles: list[str], rows: Mapping[str, list[str]]) -> None:
    from matplotlib.transforms import Bbox

    table = panel.table(
        cellText=list(rows.values()),
        rowLabels=list(rows),
        colLabels=titles,
        cellLoc="right",
        colLoc="right",
        bbox=Bbox.from_bounds(0.16, 0.0, 0.84, 1.0),
        edges="horizontal",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    for (row, _), cell in table.get_celld().items():
        cell.set_edgecolor(GRID)
        cell.get_text().set_parse_math(False)
        if row in (0, len(rows)):
            cell.get_text().set_fontweight("bold")


def _table_rows(graphs: Mapping[str, Graph]) -> dict[str, list[str]]:
    """Return component -> parameters in each model as text; largest first, the total last."""
    counts = [_components(graph) for graph in graphs.values()]
    shares: dict[str, float] = {}
    for of_model, graph in zip(counts, graphs.values(), strict=True):
        for name, count in of_model.items():
            shares[name] = max(shares.get(name, 0.0), count / max(graph.parameters, 1))
    shown = sorted(shares, key=lambda name: -shares[name])[:_MAX_COMPONENTS]
    rows = {name: [of_model[name] for of_model in counts] for name in shown}
    if len(shares) > len(shown):
        rows["other"] = [of_model.total() - sum(of_model[n] for n in shown) for of_model in counts]
    rows["total"] = [graph.parameters for graph in graphs.values()]
    return {name: [number_text(n) if n else "–" for n in row] for name, row in rows.items()}


def _components(graph: Graph) -> Counter[str]:
    """Return component -> parameters, each weight once; components without any are left out."""
    counts: Counter[str] = Counter()
    for node in graph.nodes:
        if node.owns_weights:
            counts[_component(node)] += node.parameters
    return counts


def _component(node: Node) -> str:
    """Return the part of a block that contains the node, or its own name; without numbers."""
    block = enclosing_block(node.namespace)
    inside = node.namespace.removeprefix(block).lstrip(".") if block else ""
    name = inside.partition(".")[0] or node.shown_name
    return re.sub(r"[_@#]?\d+", "", name) or node.class_name
