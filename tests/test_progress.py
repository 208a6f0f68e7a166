"""Progress output: lines without a terminal, a bar on a terminal."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import subprocess
import sys

import pytest
from rich.table import Table
from rich.text import Text

from raypipe import progress
from raypipe.errors import printable
from raypipe.progress import Progress, console, print_line
from tests.hostile import TEXTS


def test_print_line_keeps_brackets_and_long_lines(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[1/4] ingest: [bold]not markup[/] https://127.0.0.1:8471/" + "x" * 300
    print_line(text)
    assert capsys.readouterr().out == f"{text}\n"


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_shown_without_markup_or_controls(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_line(text)
    assert capsys.readouterr().out == f"{printable(text)}\n".replace("\t", " " * (8 if text.startswith("\t") else 1))
    out = io.StringIO()
    table = Table(box=None, pad_edge=False)
    table.add_row(text, Text(text))
    console(out, width=1000, force_terminal=True, color_system="truecolor").print(table, soft_wrap=False)
    assert not {"\x1b]", "\x9b", "\x07", "\u202e", "\x1b[31m"} & {
        found for found in ("\x1b]", "\x9b", "\x07", "\u202e", "\x1b[31m") if found in out.getvalue()
    }
    if text.isprintable() and text.strip():
        assert out.getvalue().count(text.rstrip()) >= 2 * (text.rstrip() == text)


def test_a_step_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("Fetching", 4000, "pictures") as step:
        step.advance(1000)
        step.advance(3000, note="12 failed")
    out = capsys.readouterr().out
    assert re.fullmatch(r"  Fetching 4,000/4,000 pictures · [\d,.]+/s · 0 s · 12 failed\n", out)


def test_unknown_total_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("Reading", None) as step:
        step.set(17)
    assert re.match(r"  Reading 17 · ", capsys.readouterr().out)


def test_lines_appear_at_most_every_few_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Progress("Drawing", 100, "pictures") as step:
        for _ in range(100):
            now += 0.13
            step.advance()
    lines = capsys.readouterr().out.splitlines()
    assert [re.search(r"Drawing (\d+)/", line).group(1) for line in lines] == ["39", "78", "100"]
    assert lines[0].endswith("7.7/s · 5 s · 8 s left")
    assert "left" not in lines[-1]


def test_earlier_work_counts_but_not_for_rate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with contextlib.suppress(KeyboardInterrupt), Progress("Fetching", 40_000, "pictures") as step:
        step.resume_from(30_000)
        now += 10
        step.set(30_100)
        step.note("2 hosts waiting")
        now += 10
        step.set(30_200)
        raise KeyboardInterrupt
    first, second = capsys.readouterr().out.splitlines()
    assert first == "  Fetching 30,100/40,000 pictures · 10.0/s · 10 s · 16 min left"
    assert second == "  Fetching 30,200/40,000 pictures · 10.0/s · 20 s · 16 min left · 2 hosts waiting"


def test_time_left_uses_work_share_if_given(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with contextlib.suppress(KeyboardInterrupt), Progress("Training", 60, "epochs") as step:
        step.set(0, "starts", 0.0)
        now += 10
        step.set(40, "A", 0.05)
        now += 10
        step.set(45, "B", 0.4)
        raise KeyboardInterrupt
    first, second = capsys.readouterr().out.splitlines()
    assert first == "  Training 40/60 epochs · 4.0/s · 10 s · 3 min left · A"
    assert second == "  Training 45/60 epochs · 2.2/s · 20 s · 30 s left · B"


def test_failed_step_prints_no_final_line(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(ValueError), Progress("Fetching", 10) as step:
        step.advance(3)
        raise ValueError
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_bar() -> None:
    program = (
        "from raypipe.progress import Progress\n"
        "with Progress('Fetching [/]', 40, 'pictures') as step:\n"
        "    step.advance(40, note='2 failed [/] :fire: \\x1b]0;x')\n"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=theirs, env=environment)
    os.close(theirs)
    shown = b""
    # On Linux, reading a pseudo-terminal whose other end is closed gives an error.
    while chunk := _read(ours):
        shown += chunk
    os.close(ours)
    assert process.wait(timeout=60) == 0
    assert b"40/40" in shown
    assert b"/s" in shown
    assert b"Fetching [/]" in shown
    assert rb"2 failed [/] :fire: \x1b]0;x" in shown
    assert b"\x1b]0;" not in shown
    assert "━".encode() in shown


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""
