"""A line of the table, and what many of them come to."""

from __future__ import annotations

import pytest

from raypipe.doctor.check import Check, State, attempt, failures, worst
from raypipe.errors import StageError


def test_what_was_seen() -> None:
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
def test_an_error_is_a_line_with_its_advice(error: Exception, seen: str, state: State) -> None:
    def look() -> str:
        raise error

    assert attempt("root", look, "mend it", otherwise=state) == Check("root", state, seen, "mend it")


def test_an_interruption_is_no_finding() -> None:
    def look() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt("root", look, "")


@pytest.mark.parametrize(
    ("states", "expected"),
    [([], "ok"), (["ok"], "ok"), (["ok", "warn"], "warn"), (["fail", "ok", "warn"], "fail")],
)
def test_the_worst_state_is_the_whole(states: list[State], expected: State) -> None:
    checks = [Check(f"check {i}", state, f"seen {i}") for i, state in enumerate(states)]
    assert worst(checks) == expected
    assert len(list(failures(checks))) == states.count("fail")


def test_failures_are_named() -> None:
    assert list(failures([Check("a", "fail", "broken"), Check("b", "warn", "slow")])) == ["a (broken)"]
