"""A single check, and the overall state of many."""

from __future__ import annotations

import pytest

from raypipe.doctor.check import Check, State, attempt, failures, worst
from raypipe.errors import StageError


def test_successful_check_shows_what_was_found() -> None:
    assert attempt("dlib", lambda: "works", "install it") == Check("dlib", "ok", "works")


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (StageError("root: cannot write"), "root: cannot write"),
        (OSError(13, "Permission denied"), "PermissionError: [Errno 13] Permission denied"),
        (ValueError("two\nlines"), "ValueError: two lines"),
        (KeyError(), "KeyError: KeyError"),
    ],
)
@pytest.mark.parametrize("state", ["warn", "fail"])
def test_failed_check_shows_error_and_advice(error: Exception, seen: str, state: State) -> None:
    def look() -> str:
        raise error

    assert attempt("root", look, "mend it", otherwise=state) == Check("root", state, seen, "mend it")


def test_keyboard_interrupt_is_not_caught() -> None:
    def look() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt("root", look, "")


@pytest.mark.parametrize(
    ("states", "expected"),
    [([], "ok"), (["ok"], "ok"), (["ok", "warn"], "warn"), (["fail", "ok", "warn"], "fail")],
)
def test_worst_state_is_overall_state(states: list[State], expected: State) -> None:
    checks = [Check(f"check {i}", state, f"seen {i}") for i, state in enumerate(states)]
    assert worst(checks) == expected
    assert len(list(failures(checks))) == states.count("fail")


def test_failed_checks_are_listed() -> None:
    assert list(failures([Check("a", "fail", "broken"), Check("b", "warn", "slow")])) == ["a (broken)"]
