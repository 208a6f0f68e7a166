"""Builds the page: one HTML file that needs no other file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

import jinja2
from markupsafe import Markup

from raypipe.errors import printable
from raypipe.report import (
    ceiling,
    diagnostics,
    example_pictures,
    funnel,
    headline,
    judge_results,
    participants,
    provenance,
    regression,
    table1_columns,
    training_results,
)
from raypipe.report.diagnostics import Diagnostics
from raypipe.report.example_pictures import ExamplePictures
from raypipe.report.figures import diagnostic_figures, head_figures, main_figures
from raypipe.report.figures.style import Drawing, configuration_colour
from raypipe.report.funnel import FunnelCounts
from raypipe.report.judge_results import JudgeResults
from raypipe.report.participants import Participant
from raypipe.report.provenance import Provenance
from raypipe.report.regression import Regression
from raypipe.report.training_results import TrainingResults
from raypipe.statistics import paper
from raypipe.tables.record import versions
from raypipe.tables.root_tables import RootTables
from raypipe.train.networks.configurations import CONFIGURATIONS

_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class PageContent:
    """All data of the page, before it is drawn. A value is None or an empty list if the root has no data for it."""

    root_tables: RootTables
    funnel: FunnelCounts
    regression: Regression | None
    diagnostics: Diagnostics | None
    verdict: JudgeResults | None
    training: TrainingResults | None
    people: list[Participant]
    people_ceiling: float | None
    stages: list[Provenance]
    classes: list[str]


def read_content(root_tables: RootTables) -> PageContent:
    """Read the tables of a root and compute all data of the page."""
    labels = root_tables.labels
    named = [] if labels is None else [name for name in labels["label"] if isinstance(name, str)]
    perfect_classifier = ceiling.PerfectClassifier.from_root(root_tables)
    held_out = [] if labels is None else list(labels.loc[labels["split"] == "val", "post_id"])
    return PageContent(
        root_tables=root_tables,
        funnel=funnel.build(root_tables),
        regression=regression.build(root_tables),
        diagnostics=diagnostics.build(root_tables),
        verdict=judge_results.build(root_tables),
        training=training_results.build(root_tables),
        people=participants.build(root_tables),
        people_ceiling=perfect_classifier.accuracy(held_out) if perfect_classifier else None,
        stages=provenance.build(root_tables),
        classes=sorted(set(named)),
    )


def draw_figures(content: PageContent) -> dict[str, Drawing]:
    """The figures by name. A figure is left out if the content has no data for it."""
    found: list[Drawing] = []
    if content.funnel.steps:
        found.append(main_figures.draw_funnel(content.funnel))
    if content.regression is not None:
        if content.regression.cloud is not None:
            found.append(main_figures.draw_scatter(content.regression.cloud, content.regression.formula))
        if content.regression.scores.size:
            found.append(main_figures.draw_residuals(content.regression))
    if content.diagnostics is not None:
        found += diagnostic_figures.draw_figures(content.diagnostics)
    if content.training is not None and any(content.training.trials.values()):
        found += [main_figures.draw_validation(content.training), main_figures.draw_overfitting(content.training)]
    if content.training is not None and any(row.measured for row in content.training.rows):
        found.append(main_figures.draw_intervals(content.training.rows))
        found += head_figures.draw_figures(content.training)
    return {drawing.name: drawing for drawing in found}


def render(content: PageContent, drawings: dict[str, Drawing], *, title: str, n_examples: int) -> str:
    """The whole page as HTML."""
    shown: ExamplePictures | None = example_pictures.build(content.root_tables, content.training, n_examples)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("raypipe", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
    )
    environment.filters.update(
        n=_count,
        pct=headline.percent,
        num=_number,
        p=_p_value,
        size=_size,
        duration=_duration,
        role=configuration_colour,
    )
    return environment.get_template("page.html").render(
        title=title,
        css=Markup((jinja2.PackageLoader("raypipe", "report").get_source(environment, "page.css"))[0]),
        headline=headline.build(content.funnel, content.regression, content.training, content.classes),
        content=content,
        drawings={name: Markup(drawing.inline) for name, drawing in drawings.items()},
        examples=shown,
        n_examples=n_examples,
        paper=paper,
        configurations=CONFIGURATIONS.values(),
        columns=table1_columns,
        versions=provenance.shared_versions(content.stages) or versions(),
        root=content.root_tables.storage.root,
        made_at=datetime.now(UTC),
    )


def _finalize(value: object) -> object:
    """Text with unprintable characters replaced (`errors.printable`). Markup stays Markup, so it is not escaped."""
    return type(value)(printable(value)) if isinstance(value, str) else value


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _number(value: float | None, digits: int = 4) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:,.{digits}f}" if abs(value) < 1e5 else f"{value:,.0f}"
    return text.replace("-", "−")


def _p_value(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _size(n_bytes: int | None) -> str:
    if n_bytes is None:
        return "–"
    power = min(int(math.log(max(n_bytes, 1), 1000)), len(_UNITS) - 1)
    return f"{n_bytes / 1000**power:,.{1 if power else 0}f} {_UNITS[power]}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
