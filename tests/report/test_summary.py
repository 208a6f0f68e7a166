"""The final summary shows the same numbers in 80 columns."""

from __future__ import annotations

import pytest

from raypipe.config import Config
from raypipe.report import pipeline
from raypipe.report.summary import print_summary, summary_lines
from tests.report.root import TRUTH, Built


def test_lines_hold_funnel_formula_and_table_1(shared: Built) -> None:
    lines = summary_lines(shared.config)
    assert max(map(len, lines[:-1])) <= 80
    text = "\n".join(lines)
    assert "1,205" in text
    assert shared.model["formula"] in text
    for (term, estimate), truth in zip(shared.model["params"].items(), TRUTH, strict=True):
        line = next(line for line in lines if line.startswith(term + " "))
        assert f"{estimate:.4f}" in line
        assert f"{truth:.4f}" in line
    for row in shared.table1:
        line = next(line for line in lines if line.startswith(f"{row['configuration']}  "))
        assert f"{100 * row['max_val_accuracy']:.1f} %" in line
        assert f"{100 * row['test_accuracy']:.1f} %" in line


def test_summary_ends_with_report_path(built: Built) -> None:
    assert summary_lines(built.config)[-1].startswith("none yet: raypipe report")
    pipeline.run(built.config)
    assert summary_lines(built.config)[-1] == f"{built.config.root}/report/index.html"


def test_an_empty_root_has_a_summary(config: Config) -> None:
    assert summary_lines(config)[-1].startswith("none yet")


def test_print_summary_writes_to_the_terminal(shared: Built, capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(shared.config)
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert printed == summary_lines(shared.config)
