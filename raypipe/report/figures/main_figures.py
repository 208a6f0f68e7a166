"""The main figures of the report, drawn from the results of the other modules."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.ticker import FuncFormatter, MaxNLocator

from raypipe.report.figures.style import COLOURS, Drawing, configuration_colour, make_drawing, styled_figure
from raypipe.report.funnel import FunnelCounts
from raypipe.report.model_quality import ACCURACY
from raypipe.report.regression import FloatArray, Regression, ScatterData
from raypipe.report.training_results import Table1Row, TrainingResults, TrialCurve

_WIDE = 4.7
_BINS = 60


def draw_funnel(funnel: FunnelCounts) -> Drawing:
    """Horizontal bars, one per step. A tick marks the paper's share."""
    with styled_figure(2 * _WIDE, 0.45 * len(funnel.steps) + 0.5) as (figure, axes):
        names = [step.name for step in funnel.steps]
        axes.barh(names, [step.share for step in funnel.steps], color=COLOURS["blue"], height=0.62)
        for place, step in enumerate(funnel.steps):
            axes.text(step.share + 0.008, place, f"{step.count:,} ({100 * step.share:.1f} %)", va="center")
            if step.paper_share is not None:
                axes.plot([step.paper_share] * 2, [place - 0.4, place + 0.4], color=COLOURS["ink"], linewidth=1.6)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.18)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.set_xlabel("share of the posts collected; the tick is the paper's")
        axes.grid(axis="y", visible=False)
        return make_drawing(figure, "funnel", "Funnel from collected posts to labelled pictures")


def draw_scatter(cloud: ScatterData, formula: str) -> Drawing:
    """The paper's figure 2: density of posts (darker means more posts), and the fitted line."""
    base = to_rgb(COLOURS["blue"])
    shades = LinearSegmentedColormap.from_list("density", [(*base, 0.10), (*base, 0.45), (*base, 0.95)])
    known = np.isfinite(cloud.x) & np.isfinite(cloud.y)
    with styled_figure(_WIDE, 3.9) as (figure, axes):
        cells = axes.hexbin(
            cloud.x[known], cloud.y[known], gridsize=(34, 24), cmap=shades, mincnt=1, linewidths=0.1, bins="log"
        )
        cells.set_edgecolor("none")
        axes.plot(cloud.line_x, cloud.line_y, color=COLOURS["red"], linewidth=2.2)
        axes.set_xlabel(cloud.x_label)
        axes.set_ylabel(cloud.y_label)
        return make_drawing(figure, "regression", f"Density of posts and the fitted line of {formula}")


def draw_residuals(regression: Regression) -> Drawing:
    """Histogram of the scores. The extreme classes have their own colours, and their thresholds are lines."""
    scores = regression.scores
    edges = _score_edges(scores, regression.thresholds)
    counts, _ = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)
    low, high = regression.thresholds or (-np.inf, np.inf)
    middle = (edges[:-1] + edges[1:]) / 2
    colours = [COLOURS["red"] if at < low else COLOURS["blue"] if at > high else COLOURS["faint"] for at in middle]
    with styled_figure(_WIDE, 3.9) as (figure, axes):
        axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colours, linewidth=0)
        tall = float(counts.max()) * 1.16
        for value, word, side, shift in ((low, "bottom", "right", -4), (high, "top", "left", 4)):
            if np.isfinite(value):
                axes.plot([value, value], [0, tall], color=COLOURS["ink"], linewidth=1, dashes=(3, 2))
                axes.annotate(
                    f"{word}\n{value:+.3f}".replace("-", "−"),
                    (value, tall),
                    (shift, 0),
                    textcoords="offset points",
                    ha=side,
                    va="top",
                )
        axes.set_ylim(0, tall * 1.02)
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.set_xlabel("score: what followers and hashtags do not explain")
        return make_drawing(figure, "residuals", "Histogram of the scores with the thresholds of the extreme classes")


def _score_edges(scores: FloatArray, thresholds: tuple[float, float] | None) -> FloatArray:
    """Edges of bars of equal width. The thresholds are two of the edges, so that no bar mixes two classes."""
    lowest, highest = (float(value) for value in np.quantile(scores, [0.0005, 0.9995]))
    highest = max(highest, lowest + 1e-3)
    n_bars = int(np.clip(2 * np.sqrt(scores.size), 12, _BINS))
    width = (highest - lowest) / n_bars
    start = lowest
    if thresholds is not None:
        between = thresholds[1] - thresholds[0]
        # If the classes are the two halves, the thresholds are almost equal, and one edge is enough for both.
        width = between / round(between / width) if between >= width else width
        start = thresholds[0] - np.ceil(max(thresholds[0] - lowest, 0) / width) * width
    n_bars = max(int(np.ceil((highest - start) / width - 1e-9)), 1)
    return np.asarray(start + width * np.arange(n_bars + 1), dtype=np.float64)


def draw_validation(training: TrainingResults) -> Drawing:
    """The paper's figure 3: validation accuracy (or loss) by epoch. One line per configuration, a thin one per seed."""
    best_of = np.argmin if training.curve == "loss" else np.argmax
    with styled_figure(_WIDE, 3.9) as (figure, axes):
        for key, trials in training.trials.items():
            colour = COLOURS[configuration_colour(key)]
            if len(trials) > 1:
                for trial in trials:
                    axes.plot(*_points(trial.epochs, trial.val), color=colour, linewidth=0.8, alpha=0.4)
            x, y = _mean(trials, "val")
            axes.plot(x, y, color=colour, linewidth=2.2, marker="o", markersize=3.2, label=key)
            if x:
                best = int(best_of(y))
                axes.plot(x[best], y[best], "o", color=colour, markersize=7.5, markerfacecolor="none")
        _curve_axis(axes, training)
        return make_drawing(figure, "validation", f"Validation {training.curve} by epoch, one line per configuration")


def draw_overfitting(training: TrainingResults) -> Drawing:
    """The paper's figure 4, one panel per configuration: training accuracy (or loss) dashed, validation solid."""
    keys = list(training.trials)
    rows, columns = -(-len(keys) // 2), min(2, len(keys))
    with styled_figure(
        _WIDE, 2.0 * rows if rows > 1 else 3.2, nrows=rows, ncols=columns, sharey=True, squeeze=False
    ) as (
        figure,
        grid,
    ):
        panels: list[Axes] = list(np.asarray(grid).ravel())
        for axes, key in zip(panels, keys, strict=False):
            colour = COLOURS[configuration_colour(key)]
            axes.plot(*_mean(training.trials[key], "train"), color=colour, linewidth=1.6, dashes=(3, 1.6))
            axes.plot(*_mean(training.trials[key], "val"), color=colour, linewidth=2.2)
            axes.set_title(key, color=COLOURS["ink"])
            _curve_axis(axes, training, label=axes in panels[-columns:])
        for axes in panels[len(keys) :]:
            axes.set_visible(False)
        name = f"Training {training.curve} against validation {training.curve}, one panel per configuration"
        return make_drawing(figure, "overfitting", name)


def draw_intervals(rows: list[Table1Row]) -> Drawing:
    """The head's measure with its 95 % interval per configuration, with chance, the ceiling and the paper's best."""
    measured_rows = [row for row in rows if row.measured is not None]
    metric = next((row.measured.metric for row in measured_rows if row.measured), ACCURACY)
    word = "chance" if metric.guess == "chance" else "guessing"
    with styled_figure(_WIDE, 0.6 * len(measured_rows) + 0.8) as (figure, axes):
        chance = {row.measured.chance for row in measured_rows if row.measured}
        for value in chance:
            axes.axvline(value, color=COLOURS["muted"], linewidth=1.2, dashes=(4, 3))
            axes.annotate(word, (value, -0.62), (4, 0), textcoords="offset points", color=COLOURS["muted"])
        for place, row in enumerate(measured_rows):
            measured, colour = row.measured, COLOURS[configuration_colour(row.key)]
            if measured is None:
                continue
            axes.plot([measured.low, measured.high], [place] * 2, color=colour, linewidth=6, alpha=0.35)
            axes.plot(measured.value, place, "o", color=colour, markersize=8)
            axes.annotate(
                metric.text(measured.value), (measured.value, place), (0, 8), textcoords="offset points",
                ha="center", fontweight="bold",
            )  # fmt: skip
            if measured.ceiling is not None:
                axes.plot([measured.ceiling] * 2, [place - 0.16, place + 0.3], color=COLOURS["gold"], linewidth=3)
            if row.paper is not None:
                axes.plot(row.paper.max_val_accuracy, place, "D", color=COLOURS["faint"], markersize=4.5)
        axes.set_yticks(
            range(len(measured_rows)), [row.key for row in measured_rows], fontweight="bold", color=COLOURS["ink"]
        )
        axes.set_ylim(len(measured_rows) - 0.4, -0.85)
        if metric.percent:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.grid(axis="y", visible=False)
        name = metric.name[0].upper() + metric.name[1:]
        return make_drawing(figure, "accuracy", f"{name} with 95 % intervals beside chance, ceiling and the paper")


def _curve_axis(axes: Axes, training: TrainingResults, *, label: bool = True) -> None:
    low, high = axes.get_ylim()
    if training.guess_level is not None:
        # Limit the zoom, so that small changes around chance do not look like learning.
        axes.set_ylim(min(low, training.guess_level - 0.05), max(high, training.guess_level + 0.1))
        axes.axhline(training.guess_level, color=COLOURS["muted"], linewidth=1, dashes=(4, 3))
    if training.curve == "accuracy":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.grid(axis="x", visible=False)
    if label:
        axes.set_xlabel("epochs of training")


def _points(epochs: list[int], values: list[float | None]) -> tuple[list[int], list[float]]:
    known = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if value is not None]
    return [epoch for epoch, _ in known], [value for _, value in known]


def _mean(trials: list[TrialCurve], name: str) -> tuple[list[int], list[float]]:
    """The mean by epoch, over the seeds that have a value for that epoch."""
    by_epoch: dict[int, list[float]] = {}
    for trial in trials:
        for epoch, value in zip(*_points(trial.epochs, getattr(trial, name)), strict=True):
            by_epoch.setdefault(epoch, []).append(value)
    return sorted(by_epoch), [float(np.mean(by_epoch[epoch])) for epoch in sorted(by_epoch)]
