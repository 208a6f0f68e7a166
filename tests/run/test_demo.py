"""What `raypipe demo` shows before training."""

from __future__ import annotations

from pathlib import Path

import pytest

from raypipe.config import Config
from raypipe.errors import InputError
from raypipe.report.summary import summary_lines
from raypipe.run import demo
from tests.training_root import change


@pytest.mark.usefixtures("ray_session")
def test_demo_shows_funnel_and_regression_before_sweep(
    config: Config, free_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The sweep fails at its start, so everything printed before its error comes before the sweep.
    broken = change(
        config,
        world={"posts": 60, "port": free_port},
        ingest={"allow_private": True, "allow_ports": [free_port]},
        label={"quantile": 0.5},
        train={"weights": str(tmp_path / "missing.pth")},
    )
    with pytest.raises(InputError, match="missing"):
        demo.run(broken)
    printed = capsys.readouterr().out
    before, begins, after = printed.partition("[4/5] sweep")
    assert begins
    label = before[before.index("[3/5] label") :]
    first = [line.rstrip() for line in label[label.index("Funnel ─") :].splitlines() if line.strip()]
    whole = [line for line in summary_lines(broken) if line.strip()]
    assert first == whole[: len(first)]
    assert any(line.startswith("With exactly one face") for line in first)
    assert any(line.startswith("Intercept") and "0.4000" in line for line in first), "the truth is in the same line"
    assert "Funnel ─" not in after
    # Labels that were already complete are not shown again.
    with pytest.raises(InputError, match="missing"):
        demo.run(broken)
    again = capsys.readouterr().out
    assert "label was already complete" in again
    assert "Funnel ─" not in again
