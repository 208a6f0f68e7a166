"""One row of the doctor's table: the check, its state, the finding, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from raypipe.errors import RaypipeError, one_line

_LONGEST = 400

CheckState = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class CheckResult:
    """One check. `advice` says what to do if `state` is not ok. Stages can run with warnings, not with failures."""

    name: str
    state: CheckState
    detail: str
    advice: str = ""


def run_check(name: str, run_probe: Callable[[], str], advice: str, *, otherwise: CheckState = "fail") -> CheckResult:
    """Call `run_probe`. The check is ok with the text that it returns, or `otherwise` with the error that it raises."""
    try:
        return CheckResult(name, "ok", run_probe())
    except Exception as error:
        # All errors are caught, because the table has to show them.
        kind = "" if isinstance(error, RaypipeError) else f"{type(error).__name__}: "
        return CheckResult(name, otherwise, f"{kind}{one_line(error)}"[:_LONGEST], advice)


def worst_state(checks: list[CheckResult]) -> CheckState:
    """The worst state of all checks: fail, else warn, else ok."""
    order: list[CheckState] = ["ok", "warn", "fail"]
    return max((check.state for check in checks), key=order.index, default="ok")


def failure_texts(checks: list[CheckResult]) -> Iterator[str]:
    """A phrase for each check that failed."""
    for check in checks:
        if check.state == "fail":
            yield f"{check.name} ({check.detail})"
