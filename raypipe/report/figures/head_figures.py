"""One more figure for heads other than the paper's: the best configuration's predictions by class, tag or score."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.patches import Rectangle

from raypipe.report.figures.style import COLOURS, Drawing, make_drawing, styled_figure
from raypipe.report.model_quality import HashtagResult
from raypipe.report.training_results import TrainingResults

_WIDE = 4.7
_MOST = 30
_MOST_IN_WORDS = 8


def draw_figures(training: TrainingResults) -> list[Drawing]:
    """The figure of the best configuration. Empty if the head has none, or if no predictions are stored."""
    best, found = training.best, training.best_predictions
    if best is None or best.measured is None or found is None:
        return []
    if training.target.kind == "classes" and len(training.classes) <= _MOST:
        return [draw_confusion(found, training.classes)]
    if training.target.kind == "tags":
        return [draw_tags(best.measured.tags)]
    return [draw_scores(found)] if training.target.kind == "score" else []


def confusion(predictions: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
    """Share of the pictures of each class (rows, `names`) by predicted class (columns). NaN for a class without any.

    The predicted class is the one with the highest probability. If several are equal, it is the first by name.
    """
    ordered = predictions.sort_values(["probability", "class"], ascending=[False, True], kind="stable")
    predicted_classes = ordered.drop_duplicates(["seed", "post_id"])
    counts = pd.crosstab(predicted_classes["label"], predicted_classes["class"]).reindex(
        index=list(names), columns=list(names), fill_value=0
    )
    return counts.div(counts.sum(axis=1).replace(0, np.nan), axis=0)


def draw_confusion(predictions: pd.DataFrame, names: tuple[str, ...]) -> Drawing:
    """True classes as rows, predicted classes as columns. A darker cell has a larger share of its row."""
    shares, n = confusion(predictions, names).to_numpy(), len(names)
    with styled_figure(_WIDE, 3.9) as (figure, axes):
        for row in range(n):
            for column in range(n):
                share = shares[row, column]
                if not np.isfinite(share):
                    continue
                colour = (*to_rgb(COLOURS["blue"]), 0.8 * share)
                axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, edgecolor="none"))
                if n <= _MOST_IN_WORDS:
                    axes.text(column, row, f"{100 * share:.0f} %", ha="center", va="center")
        axes.set_xticks(range(n), names, rotation=90 if n > _MOST_IN_WORDS else 0)
        axes.set_yticks(range(n), names)
        axes.set_xlim(-0.5, n - 0.5)
        axes.set_ylim(n - 0.5, -0.5)
        axes.grid(visible=False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("labelled")
        return make_drawing(figure, "confusion", "Share of the pictures of each class by predicted class")


def draw_tags(tags: tuple[HashtagResult, ...]) -> Drawing:
    """The area under the ROC curve with its 95 % interval for at most 30 hashtags, the best first."""
    areas = [
        (tag.roc_auc, tag.low, tag.high, tag.name)
        for tag in tags
        if tag.roc_auc is not None and tag.low is not None and tag.high is not None
    ]
    known = sorted(areas, key=lambda area: -area[0])[:_MOST]
    with styled_figure(_WIDE, 0.36 * len(known) + 0.9) as (figure, axes):
        axes.axvline(0.5, color=COLOURS["muted"], linewidth=1.2, dashes=(4, 3))
        for place, (area, low, high, _) in enumerate(known):
            axes.plot([low, high], [place] * 2, color=COLOURS["blue"], linewidth=6, alpha=0.35)
            axes.plot(area, place, "o", color=COLOURS["blue"], markersize=7)
        axes.set_yticks(range(len(known)), [f"#{name}" for *_, name in known], color=COLOURS["ink"])
        axes.set_ylim(len(known) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("area under the ROC curve; dashed: chance")
        return make_drawing(figure, "tags", "Area under the ROC curve of each hashtag with its 95 % interval")


def draw_scores(predictions: pd.DataFrame) -> Drawing:
    """Density of pictures by predicted and true score, and the line along which both are equal."""
    base = to_rgb(COLOURS["blue"])
    shades = LinearSegmentedColormap.from_list("density", [(*base, 0.15), (*base, 0.5), (*base, 0.95)])
    predicted, score = predictions["predicted"].to_numpy(), predictions["score"].to_numpy()
    with styled_figure(_WIDE, 3.9) as (figure, axes):
        cells = axes.hexbin(predicted, score, gridsize=(34, 24), cmap=shades, mincnt=1, linewidths=0.1)
        cells.set_edgecolor("none")
        ends = [float(predicted.min()), float(predicted.max())]
        axes.plot(ends, ends, color=COLOURS["red"], linewidth=2.2)
        axes.set_xlabel("predicted score")
        axes.set_ylabel("score")
        return make_drawing(figure, "scores", "Density of pictures by predicted and true score")
