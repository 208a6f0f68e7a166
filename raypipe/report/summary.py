"""Text that `run` and `demo` show in 80 columns. Before training: funnel and fitted formula. At the end: these again,
table 1, and the path of the report."""

from __future__ import annotations

import io
import shutil
import sys

from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from raypipe.config import Config
from raypipe.progress import console
from raypipe.report import funnel, page, regression, table1_columns
from raypipe.report.funnel import FunnelCounts
from raypipe.report.headline import percent
from raypipe.report.pipeline import INDEX
from raypipe.report.regression import Regression
from raypipe.report.training_results import Table1Row, TrainingResults
from raypipe.statistics import paper
from raypipe.storage import Storage
from raypipe.tables.root_tables import RootTables

WIDTH = 80
_BAR = 26


def print_first_result(config: Config) -> None:
    """Show the funnel and the regression of a root whose labels are complete. Results of training are not read."""
    root_tables = RootTables.open(config.open_storage())
    parts = _before_training(funnel.build(root_tables), regression.build(root_tables))
    _terminal().print(Group(*parts, ""), soft_wrap=False)
    sys.stdout.flush()


def print_summary(config: Config) -> None:
    """Show the summary of a root on the terminal, in colour if the terminal has colours."""
    _show(config, _terminal())
    sys.stdout.flush()


def _terminal() -> Console:
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    return console(width=width)


def summary_lines(config: Config) -> list[str]:
    """The summary as lines of at most 80 characters, without colours. Only the report's path may be longer."""
    sink = io.StringIO()
    _show(config, console(sink, width=WIDTH, color_system=None, force_terminal=False))
    return [line.rstrip() for line in sink.getvalue().splitlines()]


def _show(config: Config, out: Console) -> None:
    storage = config.open_storage()
    content = page.read_content(RootTables.open(storage))
    parts = _before_training(content.funnel, content.regression)
    if content.training is not None and content.training.rows:
        parts += [_title("Training"), *_training(content.training)]
    out.print(Group(*parts, _title("Report")), soft_wrap=False)
    # A path that is broken over two lines cannot be clicked or copied.
    out.print(_report_path(storage))


def _before_training(counts: FunnelCounts, fit: Regression | None) -> list[RenderableType]:
    parts: list[RenderableType] = []
    if counts.steps:
        parts += [_title("Funnel"), _funnel(counts)]
    if fit is not None:
        parts += [_title("Regression"), *_regression(fit)]
    return parts


def _title(text: str) -> RenderableType:
    return Padding(Rule(Text(text, style="bold"), align="left", style="dim"), (1, 0, 0, 0))


def _grid(*columns: str) -> Table:
    """A table without lines. A column is right-aligned if its name starts with `>`."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in columns:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left", no_wrap=True)
    return table


def _funnel(counts: FunnelCounts) -> RenderableType:
    table = _grid("", "", ">posts", ">share", ">paper")
    for step in counts.steps:
        theirs = percent(step.paper_share) if step.paper_share is not None else ""
        bar = Bar(1.0, 0.0, step.share, width=_BAR, color="blue", bgcolor="default")
        table.add_row(step.name, bar, f"{step.count:,}", percent(step.share), Text(theirs, style="dim"))
    if counts.splits:
        shares = ", ".join(f"{name} {count:,}" for name, count in counts.splits.items())
        return Group(table, Text(f"labelled posts: {shares}", style="dim"))
    return table


def _regression(fit: Regression) -> list[RenderableType]:
    with_truth = any(term.truth is not None for term in fit.coefficients)
    table = _grid("", ">estimate", ">std err", ">95 % interval", *((">truth", "") if with_truth else ()))
    for term in fit.coefficients:
        row: list[str | Text] = [
            Text(term.term), Text(f"{term.estimate:.4f}", style="bold"), f"{term.std_err:.4f}",
            f"{term.low:.4f} to {term.high:.4f}",
        ]  # fmt: skip
        if with_truth:
            inside = Text("inside", style="green") if term.covers_truth else Text("outside", style="yellow")
            row += ["–" if term.truth is None else f"{term.truth:.4f}", "" if term.truth is None else inside]
        table.add_row(*row)
    return [
        Text(fit.formula, overflow="fold"),
        table,
        Text(f"R² {fit.rsquared:.4f} on {fit.nobs:,} posts", style="dim"),
    ]


def _training(training: TrainingResults) -> list[RenderableType]:
    if names := table1_columns.headings(training, narrow=True):
        table = _grid("", *(f">{name}" for name in names), "")
        for row in training.rows:
            table.add_row(Text(row.key, style="bold"), *table1_columns.cells(training, row, narrow=True), _verdict(row))
        shown = sorted({row.measured.pictures for row in training.rows if row.measured is not None})
        return [table, Text("; ".join(shown), style="dim")]
    measured = [row.measured for row in training.rows if row.measured is not None]
    with_ceiling = any(result.ceiling is not None for result in measured)
    split = "test" if any(result.split == "test" for result in measured) else "val"
    table = _grid(
        "", ">max val", ">epochs", f">{split}", ">95 % interval", *((">ceiling",) if with_ceiling else ()), ""
    )
    for row in training.rows:
        table.add_row(*_line(row, with_ceiling))
    counts = sorted({result.n for result in measured})
    notes = [f"{split}: {' or '.join(f'{n:,}' for n in counts)} pictures"] if counts else []
    notes += ["the best epoch was chosen on them"] if split == "val" and counts else []
    notes += ["intervals are clustered by user"] if counts else []
    notes += ["ceiling: a perfect judge of the same pictures"] if with_ceiling else []
    theirs = ", ".join(f"{letter} {percent(row.max_val_accuracy)}" for letter, row in paper.TABLE_1.items())
    return [table, Text("; ".join(notes), style="dim"), Text(f"the paper's max val: {theirs}", style="dim")]


def _line(row: Table1Row, with_ceiling: bool) -> list[str | Text]:
    result = row.measured
    line: list[str | Text] = [Text(row.key, style="bold"), percent(row.max_val_accuracy), str(row.epochs)]
    if result is None:
        return [*line, "–", "", *([""] if with_ceiling else []), ""]
    line += [Text(percent(result.value), style="bold"), f"{100 * result.low:.1f} to {100 * result.high:.1f} %"]
    if with_ceiling:
        line.append(percent(result.ceiling))
    return [*line, _verdict(row)]


def _verdict(row: Table1Row) -> Text:
    return Text(row.short_claim, style="green" if row.short_claim.startswith("beats") else "yellow")


def _report_path(storage: Storage) -> str:
    if not storage.exists(f"report/{INDEX}"):
        return f"none yet: raypipe report --root {storage.root}"
    return storage.path("report", INDEX) if storage.is_local else storage.uri("report", INDEX)
