"""One line of the doctor's table: what was checked, how it stands, what was seen, what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from raypipe.errors import RaypipeError, one_line

_LONGEST = 400

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """`advice` says what to do where `state` is not ok; a stage can work with warnings, not with failures."""

    name: str
    state: State
    seen: str
    advice: str = ""


def attempt(name: str, look: Callable[[], str], advice: str, *, otherwise: State = "fail") -> Check:
    """A check that is ok where `look` returns what it saw, and `otherwise` with the error where it raises one."""
    try:
        return Check(name, "ok", look())
    except Exception as error:
        # Whatever goes wrong is what the table is there to show.
        kind = "" if isinstance(error, RaypipeError) else f"{type(error).__name__}: "
        return Check(name, otherwise, f"{kind}{one_line(error)}"[:_LONGEST], advice)


def worst(checks: list[Check]) -> State:
    """The state of the whole: fail before warn before ok."""
    order: list[State] = ["ok", "warn", "fail"]
    return max((check.state for check in checks), key=order.index, default="ok")


def failures(checks: list[Check]) -> Iterator[str]:
    """A phrase for each check that failed."""
    for check in checks:
        if check.state == "fail":
            yield f"{check.name} ({check.seen})"
