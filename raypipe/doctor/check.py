"""One row of the doctor's table: what was checked, its state, what was seen, what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from raypipe.errors import RaypipeError, one_line

_LONGEST = 400

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One check. `advice` says what to do if `state` is not ok. Stages can run with warnings, not with failures."""

    name: str
    state: State
    seen: str
    advice: str = ""


def attempt(name: str, look: Callable[[], str], advice: str, *, otherwise: State = "fail") -> Check:
    """Call `look`. The check is ok, with the text that it returns, or `otherwise`, with the error that it raises."""
    try:
        return Check(name, "ok", look())
    except Exception as error:
        # All errors are caught, because the table has to show them.
        kind = "" if isinstance(error, RaypipeError) else f"{type(error).__name__}: "
        return Check(name, otherwise, f"{kind}{one_line(error)}"[:_LONGEST], advice)


def worst(checks: list[Check]) -> State:
    """The worst state of all checks: fail, else warn, else ok."""
    order: list[State] = ["ok", "warn", "fail"]
    return max((check.state for check in checks), key=order.index, default="ok")


def failures(checks: list[Check]) -> Iterator[str]:
    """A phrase for each check that failed."""
    for check in checks:
        if check.state == "fail":
            yield f"{check.name} ({check.seen})"
