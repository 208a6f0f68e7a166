"""A single check, and the overall state of many."""

from __future__ import annotations

import pytest

from raypipe.doctor.check_result import CheckResult, CheckState, failure_texts, run_check, worst_state
from raypipe.errors import StageError


def test_successful_check_shows_what_was_found() -> None:
    assert run_check("dlib", lambda: "works", "install it") == CheckResult("dlib", "ok", "works")


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
def test_failed_check_shows_error_and_advice(error: Exception, seen: str, state: CheckState) -> None:
    def run_probe() -> str:
        raise error

    assert run_check("root", run_probe, "mend it", otherwise=state) == CheckResult("root", state, seen, "mend it")


def test_keyboard_interrupt_is_not_caught() -> None:
    def run_probe() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_check("root", run_probe, "")


@pytest.mark.parametrize(
    ("states", "expected"),
    [([], "ok"), (["ok"], "ok"), (["ok", "warn"], "warn"), (["fail", "ok", "warn"], "fail")],
)
def test_worst_state_is_overall_state(states: list[CheckState], expected: CheckState) -> None:
    checks = [CheckResult(f"check {i}", state, f"seen {i}") for i, state in enumerate(states)]
    assert worst_state(checks) == expected
    assert len(list(failure_texts(checks))) == states.count("fail")


def test_failed_checks_are_listed() -> None:
    assert list(failure_texts([CheckResult("a", "fail", "broken"), CheckResult("b", "warn", "slow")])) == ["a (broken)"]
