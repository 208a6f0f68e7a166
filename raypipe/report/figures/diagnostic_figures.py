"""The figures of the fit's diagnostics."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgb
from matplotlib.ticker import MaxNLocator

from raypipe.report.diagnostics import Diagnostics, GroupMeans
from raypipe.report.figures.style import COLOURS, Drawing, make_drawing, styled_figure

_WIDE = 4.7
_AXES = {
    "hour": "hour of posting (UTC)",
    "n_hashtags": "hashtags",
    "age_days": "days from posting until likes were read (tenths of the posts)",
}
NAMES = {"hour": "by_hour", "n_hashtags": "by_hashtags", "age_days": "by_age"}


def draw_figures(found: Diagnostics) -> list[Drawing]:
    """All figures of the diagnostics."""
    return [draw_fitted(found), draw_quantiles(found), *(draw_groups(groups) for groups in found.groups)]


def draw_fitted(found: Diagnostics) -> Drawing:
    """Residuals against fitted values as density on a log scale, with the mean in each twentieth of the posts."""
    base = to_rgb(COLOURS["blue"])
    shades = LinearSegmentedColormap.from_list("density", [(*base, 0.12), (*base, 0.5), (*base, 0.95)])
    order = np.argsort(found.fitted)
    parts = [part for part in np.array_split(order, 20) if len(part)]
    with styled_figure(_WIDE, 3.9) as (figure, axes):
        cells = axes.hexbin(
            found.fitted, found.scores, gridsize=(34, 24), cmap=shades, mincnt=1, norm=LogNorm(), linewidths=0.1
        )
        cells.set_edgecolor("none")
        axes.axhline(0, color=COLOURS["muted"], linewidth=1, dashes=(4, 3))
        x, y = ([float(np.mean(values[part])) for part in parts] for values in (found.fitted, found.scores))
        axes.plot(x, y, color=COLOURS["red"], linewidth=1.8, marker="o", markersize=3)
        axes.set_xlabel("fitted")
        axes.set_ylabel("residual (score)")
        return make_drawing(
            figure, "fitted", "Residuals against fitted values, with the mean in each twentieth of the posts"
        )


def draw_quantiles(found: Diagnostics) -> Drawing:
    """Standardised residuals against the quantiles of a normal distribution."""
    normal, seen = found.quantiles
    with styled_figure(_WIDE, 3.9) as (figure, axes):
        ends = [float(normal.min()), float(normal.max())]
        axes.plot(ends, ends, color=COLOURS["red"], linewidth=1.8)
        axes.plot(normal, seen, "o", color=COLOURS["blue"], markersize=3)
        axes.set_xlabel("quantile of a normal distribution")
        axes.set_ylabel("quantile of the residuals, standardised")
        return make_drawing(figure, "quantiles", "Quantiles of the residuals against those of a normal distribution")


def draw_groups(groups: GroupMeans) -> Drawing:
    """Mean residual of each group with its 95 % interval."""
    with styled_figure(_WIDE, 3.4) as (figure, axes):
        axes.axhline(0, color=COLOURS["muted"], linewidth=1, dashes=(4, 3))
        axes.vlines(
            groups.group_values,
            groups.mean - groups.half_width,
            groups.mean + groups.half_width,
            color=COLOURS["blue"],
            alpha=0.4,
            linewidth=4,
        )
        axes.plot(groups.group_values, groups.mean, "o", color=COLOURS["blue"], markersize=4)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel(_AXES.get(groups.name, groups.name))
        axes.set_ylabel("mean residual")
        return make_drawing(figure, NAMES.get(groups.name, groups.name), f"Mean residual by {groups.name}")
